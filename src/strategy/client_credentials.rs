use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::{
        request::TokenRequest,
        secret_source::{Expected, SecretSource},
        token_endpoint::TokenEndpoint,
    },
};

use super::{
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder, need_confidential_client},
    placement::Placement,
    rejection::Rejection,
    strategy::Strategy,
};

/// Sends the application's own token, which is the same for all users (RFC 6749 §4.4).
///
/// Needs the feature `token-exchange`.
///
/// The strategy does not read the identity. A request without an identity gets the token, and so does a health check.
/// The strategy replaces an existing `Authorization` header. Clones are cheap and share their state.
///
/// ```
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let token_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// use tower_identity::{ClientAuth, ClientCredentials, Secret, TokenEndpoint};
///
/// // `token_client` is a Tower HTTP client, for example `https_client()?`.
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let endpoint =
///     TokenEndpoint::builder("https://idp.example.com/token", token_client)
///         .client_auth(ClientAuth::basic("gateway", secret))
///         .build()?;
/// let strategy = ClientCredentials::builder(endpoint)
///     .scopes(["tools:list"])
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The kind of error that a [refusal of the token endpoint](TokenEndpoint#refusals) maps to.
#[derive(Clone)]
pub struct ClientCredentials {
    tokens: Arc<IssuedTokens>,
    workload_token: Option<SecretSource>,
    clock: Arc<dyn Clock>,
}

impl ClientCredentials {
    /// Creates a builder for a strategy that gets its token at `endpoint`, as the client that is configured there.
    pub fn builder(endpoint: TokenEndpoint) -> ClientCredentialsBuilder {
        ClientCredentialsBuilder::new(Ok(endpoint))
    }
}

impl<B: Send + 'static> Strategy<B> for ClientCredentials {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let tokens = &self.tokens;
        tokens.authenticate(request, |party| {
            let workload_token = self.workload_token.clone();
            let clock = Arc::clone(&self.clock);
            let request = tokens.request_for(party);
            let endpoint = tokens.endpoint.clone();
            async move {
                let request = match workload_token {
                    Some(source) => {
                        let token = source.get(Expected::Jwt, &*clock).await?;
                        request.assertion(token.expose())
                    }
                    None => request,
                };
                endpoint.request_token(request).await
            }
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.tokens.rejected(sent, response)
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        self.tokens.held_scopes(sent)
    }

    fn can_widen_scope(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "client_credentials"
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("endpoint", &self.tokens.endpoint)
            .field("request", &self.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds [`ClientCredentials`].
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct ClientCredentialsBuilder {
    endpoint: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    workload_token: Option<SecretSource>,
}

impl ClientCredentialsBuilder {
    /// Creates the builder. An endpoint that could not be built is reported by `build`.
    pub(crate) fn new(endpoint: Result<TokenEndpoint, BuildError>) -> Self {
        Self {
            endpoint,
            tokens: IssuedTokensBuilder::new(),
            workload_token: None,
        }
    }

    /// Presents a JWT of the workload as the grant itself (RFC 7523 §2.1), in place of the client-credentials grant.
    ///
    /// The issuer then trusts the platform that issued the JWT, and the application needs no registered client
    /// (workload identity federation, as MCP has it):
    ///
    /// ```no_run
    /// # fn strategy(
    /// #     endpoint: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::{ClientCredentials, oauth::SecretSource};
    ///
    /// let token = SecretSource::file("/var/run/secrets/tokens/gateway");
    /// let strategy = ClientCredentials::builder(endpoint)
    ///     .workload_token(token)
    ///     .resource("https://mcp.example.com")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workload_token(mut self, token: impl Into<SecretSource>) -> Self {
        self.workload_token = Some(token.into());
        self
    }

    /// Adds an audience: the name of a service that the token is for. RFC 6749 does not define this parameter, but many
    /// issuers support it.
    pub fn audience(mut self, audience: &str) -> Self {
        self.tokens.target.audience(audience);
        self
    }

    /// Adds a resource: the address of a service that the token is for (RFC 8707 §2). It is an absolute URI without a
    /// fragment.
    pub fn resource(mut self, resource: &str) -> Self {
        self.tokens.target.resource(resource);
        self
    }

    /// Sets the scopes of the token (RFC 6749 §3.3). By default no scope is sent, and the issuer decides.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.target.scopes(scopes);
        self
    }

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`, and `Authorization: DPoP …` for a
    /// token that is [bound to a key](crate::AuthLayer#tokens-bound-to-a-key), which has no other.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.tokens.placement = placement;
        self
    }

    /// Sets the cache for the token, which several strategies can share. By default the strategy has its own cache.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock of the strategy's own cache, and the one that the end of a [workload's
    /// token](Self::workload_token) is compared with. A cache set with [`cache`](Self::cache) keeps its own clock. The
    /// default is the [default clock](crate::DefaultClock) of the thread.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.tokens.clock = clock;
        self
    }

    /// Builds the strategy.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `endpoint.client_auth` has neither a secret nor a key (RFC 6749 §4.4), and there is no `workload_token`.
    /// - `workload_token` has an empty path or a time limit of zero.
    /// - `audience` is blank.
    /// - `resource` is not an absolute URI, or has a fragment.
    /// - `scopes` has a scope that is not one word, or was set twice.
    /// - `placement` is another than `Authorization: Bearer`, and the endpoint binds its tokens to a key (`dpop`).
    pub fn build(self) -> Result<ClientCredentials, BuildError> {
        let mut faults = Faults::new("ClientCredentials");
        self.tokens.target.check(&mut faults);
        let endpoint = faults.take_built("endpoint", self.endpoint);
        self.tokens.check_placement(endpoint.as_ref(), &mut faults);
        match &self.workload_token {
            Some(token) => token.check("workload_token", Expected::Jwt, &mut faults),
            None => need_confidential_client(endpoint.as_ref(), "the grant", &mut faults),
        }
        let endpoint = faults.or(endpoint)?;
        Ok(ClientCredentials::make(
            endpoint,
            self.tokens,
            self.workload_token,
        ))
    }
}

impl ClientCredentials {
    /// Builds the strategy from settings that were checked before.
    pub(super) fn make(
        endpoint: TokenEndpoint,
        tokens: IssuedTokensBuilder,
        workload_token: Option<SecretSource>,
    ) -> Self {
        let clock = Arc::clone(&tokens.clock);
        let scope = CacheScope::new("client credentials");
        let (request, scope) = match &workload_token {
            Some(token) => (
                TokenRequest::jwt_bearer().of_client(),
                token.describe(scope, "workload token"),
            ),
            None => (TokenRequest::client_credentials(), scope),
        };
        let tokens = tokens.make(endpoint, request, Holder::Client, scope);
        Self {
            tokens: Arc::new(tokens),
            workload_token,
            clock,
        }
    }
}

impl fmt::Debug for ClientCredentialsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentialsBuilder")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

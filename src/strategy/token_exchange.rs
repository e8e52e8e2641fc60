use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::{
        request::TokenRequest, syntax::fault_of_grant_type, token_endpoint::TokenEndpoint,
        token_type::TokenType,
    },
    outgoing::identity::HealthCheck,
};

use super::{
    authenticating::Authenticating,
    client_credentials::ClientCredentials,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    parameters::Parameters,
    placement::Placement,
    rejection::Rejection,
    strategy::Strategy,
    subject::{Actor, Subject},
};

/// Exchanges the user's token for a token issued for the backend, and sends the issued token (RFC 8693).
///
/// Needs the feature `token-exchange`.
///
/// The issuer is asked once per user and token lifetime, as [`CredentialCache`] describes. The strategy replaces an
/// existing `Authorization` header. Clones are cheap and share their state.
///
/// ```
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let token_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// use tower_identity::{
///     ClientAuth, Secret, Subject, TokenEndpoint, TokenExchange,
/// };
///
/// // `token_client` is a Tower HTTP client, for example `https_client()?`.
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let endpoint =
///     TokenEndpoint::builder("https://idp.example.com/token", token_client)
///         .client_auth(ClientAuth::basic("gateway", secret))
///         .build()?;
/// let strategy = TokenExchange::builder(endpoint)
///     .audience("mcp-backend")
///     .resource("https://mcp.example.com")
///     .scopes(["tools:read"])
///     .subject(Subject::upstream("github")) // default: the identity's own token
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Health checks
///
/// A [`HealthCheck`] has no user. If the endpoint's client authenticates, for example with a secret, a key or a
/// certificate, the health check gets a token issued to that client, for the same audience, resource and scopes (RFC 6749
/// §4.4). Otherwise it passes without a credential.
///
/// # While a token is obtained
///
/// The call waits and holds the readiness of the inner service (see [readiness](crate::AuthLayer#readiness-is-held)).
/// The exchange runs in a separate task, which continues if the call is cancelled. The token client must also be
/// separate from the inner service.
///
/// # Errors
///
/// - [`MissingIdentity`](crate::AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](crate::AuthErrorKind::MissingToken): the identity lacks the token to exchange.
/// - [`Expired`](crate::AuthErrorKind::Expired): that token is known to have expired. The issuer is not asked, and no
///   cached token that was exchanged for it is sent.
/// - [`InsufficientScope`](crate::AuthErrorKind::InsufficientScope): the identity lacks a claim that is a
///   [parameter](TokenExchangeBuilder::parameter_of_claim).
/// - Any other kind that a [refusal of the token endpoint](TokenEndpoint#refusals) maps to.
#[derive(Clone)]
pub struct TokenExchange {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: IssuedTokens,
    subject_type: TokenType,
    actor_type: Option<TokenType>,
    probes: Option<ClientCredentials>,
}

impl TokenExchange {
    /// Creates a builder for a strategy that exchanges tokens at `endpoint`.
    pub fn builder(endpoint: TokenEndpoint) -> TokenExchangeBuilder {
        TokenExchangeBuilder::new(Ok(endpoint))
    }
}

impl<B: Send + 'static> Strategy<B> for TokenExchange {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let Inner {
            tokens,
            subject_type,
            actor_type,
            probes,
        } = &*self.inner;
        if let Some(probes) = probes
            && request.extensions().get::<HealthCheck>().is_some()
        {
            return probes.authenticate(request);
        }
        tokens.authenticate(request, |party| {
            let mut exchange = tokens.request_for(party);
            if let Some(subject) = &party.subject {
                exchange = exchange.subject_token(subject.expose(), subject_type.clone());
            }
            if let (Some(actor), Some(actor_type)) = (&party.actor, actor_type) {
                exchange = exchange.actor_token(actor.expose(), actor_type.clone());
            }
            tokens.endpoint.request_token(exchange)
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        match &self.inner.probes {
            Some(probes) if sent.extensions.get::<HealthCheck>().is_some() => {
                Strategy::<B>::rejected(probes, sent, response)
            }
            _ => self.inner.tokens.rejected(sent, response),
        }
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        self.inner.tokens.held_scopes(sent)
    }

    fn can_widen_scope(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "token_exchange"
    }
}

impl fmt::Debug for TokenExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchange")
            .field("endpoint", &self.inner.tokens.endpoint)
            .field("request", &self.inner.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds a [`TokenExchange`].
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct TokenExchangeBuilder {
    endpoint: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    requested_token_type: Option<TokenType>,
    grant_type: Option<String>,
    subject: Subject,
    actor: Option<Actor>,
    parameters: Parameters,
}

impl TokenExchangeBuilder {
    /// Creates the builder. An endpoint that could not be built is reported by `build`.
    pub(crate) fn new(endpoint: Result<TokenEndpoint, BuildError>) -> Self {
        Self {
            endpoint,
            tokens: IssuedTokensBuilder::new(),
            requested_token_type: Some(TokenType::AccessToken),
            grant_type: None,
            subject: Subject::own_token(),
            actor: None,
            parameters: Parameters::default(),
        }
    }

    /// Adds an audience: the name of a service that the token is for (RFC 8693 §2.1).
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

    /// Sets the requested type of token (RFC 8693 §2.1): an access token, a JWT, or a type of the issuer's own by its URI.
    /// The default is an access token.
    ///
    /// Some issuers require the parameter, for example Google. For an issuer that does not allow it, `None` leaves it
    /// out:
    ///
    /// ```
    /// # fn strategy(
    /// #     endpoint: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::TokenExchange;
    ///
    /// let strategy = TokenExchange::builder(endpoint)
    ///     .requested_token_type(None)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn requested_token_type(mut self, token_type: impl Into<Option<TokenType>>) -> Self {
        self.requested_token_type = token_type.into();
        self
    }

    /// Sets which of the user's tokens is exchanged. The default is the identity's own token.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets the party that acts for the user (delegation, RFC 8693 §1.1). By default there is none.
    pub fn actor(mut self, actor: Actor) -> Self {
        self.actor = Some(actor);
        self
    }

    /// Sends this `grant_type` with the same parameters, for an issuer with a proprietary grant for exchanges. It is an
    /// absolute URI or a name (RFC 6749 §4.5). Its answer may leave `issued_token_type` out.
    ///
    /// For example, Auth0 exchanges the user's token for one of a provider that they have linked (Token Vault):
    ///
    /// ```no_run
    /// # fn strategy(
    /// #     endpoint: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::{TokenExchange, oauth::TokenType};
    ///
    /// let token_type = TokenType::of_urn(
    ///     "http://auth0.com/oauth/token-type/federated-connection-access-token",
    /// );
    /// let strategy = TokenExchange::builder(endpoint)
    ///     .grant_type(concat!(
    ///         "urn:auth0:params:oauth:grant-type:token-exchange:",
    ///         "federated-connection-access-token",
    ///     ))
    ///     .requested_token_type(token_type)
    ///     .parameter("connection", "google-oauth2")
    ///     .parameter_of_claim("login_hint", "google_id")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn grant_type(mut self, grant_type: impl Into<String>) -> Self {
        self.grant_type = Some(grant_type.into());
        self
    }

    /// Adds a parameter to the request, with the same value for all users. A parameter of a grant or of client
    /// authentication, such as `scope` or `client_id`, is refused. A [health check](TokenExchange#health-checks) does not
    /// send it.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.constant(name, value);
        self
    }

    /// Adds a parameter to the request whose value is a claim of the user's identity: a text of at most 4 KiB, a number,
    /// `true` or `false`. A user without such a claim gets
    /// [`InsufficientScope`](crate::AuthErrorKind::InsufficientScope).
    ///
    /// Issued tokens are kept apart by these values.
    ///
    /// # Security
    ///
    /// The value is form-urlencoded, so a claim changes no other parameter, whatever is in it. The issuer must not take the
    /// parameter for more than it is: it is as trustworthy as the issuer of the user's token.
    pub fn parameter_of_claim(mut self, name: &str, claim: &str) -> Self {
        self.parameters.claim(name, claim);
        self
    }

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`, and `Authorization: DPoP …` for a
    /// token that is [bound to a key](crate::AuthLayer#tokens-bound-to-a-key), which has no other.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.tokens.placement = placement;
        self
    }

    /// Sets the cache for the tokens, which several strategies can share. By default the strategy has its own cache.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock of the strategy's own cache. A cache set with [`cache`](Self::cache) keeps its own clock. The
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
    /// - `audience` is blank.
    /// - `resource` is not an absolute URI, or has a fragment.
    /// - `scopes` has a scope that is not one word, or was set twice.
    /// - `requested_token_type` cannot be sent as a bearer token, for example an ID token, or is not an absolute URI.
    /// - `grant_type` is neither an absolute URI nor a name, or is one of another grant.
    /// - `parameter[0].name` cannot be the name of a parameter, is reserved, or is there twice. `parameter[0].value` or
    ///   `parameter[0].claim` is empty. The number counts the calls of both setters from 0.
    /// - `subject` or `actor` has a type that is not an absolute URI.
    /// - `subject.provider` or `actor.provider`, the name of an upstream provider, is blank.
    /// - `placement` is another than `Authorization: Bearer`, and the endpoint binds its tokens to a key (`dpop`).
    pub fn build(self) -> Result<TokenExchange, BuildError> {
        let mut faults = Faults::new("TokenExchange");
        self.check(&mut faults);
        let endpoint = faults.take_built("endpoint", self.endpoint);
        self.tokens.check_placement(endpoint.as_ref(), &mut faults);
        let endpoint = faults.or(endpoint)?;

        let probes = endpoint
            .has_confidential_client()
            .then(|| ClientCredentials::make(endpoint.clone(), self.tokens.clone(), None));
        let mut request = TokenRequest::token_exchange();
        if let Some(token_type) = self.requested_token_type {
            request = request.requested_token_type(token_type);
        }
        if let Some(grant_type) = &self.grant_type {
            request = request.with_grant_type(grant_type);
        }
        Ok(TokenExchange {
            inner: Arc::new(Inner {
                subject_type: self.subject.token_type().clone(),
                actor_type: self.actor.as_ref().map(|actor| actor.token_type().clone()),
                tokens: self.tokens.make(
                    endpoint,
                    request,
                    Holder::User {
                        subject: self.subject,
                        actor: self.actor,
                        parameters: self.parameters,
                    },
                    CacheScope::new("token exchange"),
                ),
                probes,
            }),
        })
    }

    fn check(&self, faults: &mut Faults) {
        self.tokens.target.check(faults);
        match &self.requested_token_type {
            Some(requested) if !requested.can_be_bearer() => faults.add(
                "requested_token_type",
                "cannot be sent as a bearer token, ask for an access token or a JWT",
            ),
            Some(requested) => requested.check("requested_token_type", faults),
            None => {}
        }
        let grant_type = self.grant_type.as_deref();
        if let Some(fault) = grant_type.and_then(fault_of_grant_type) {
            faults.add("grant_type", fault);
        }
        self.parameters.check(faults);
        self.subject.check("subject", faults);
        if let Some(actor) = &self.actor {
            actor.check(faults);
        }
    }
}

impl fmt::Debug for TokenExchangeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenExchangeBuilder")
            .field("endpoint", &self.endpoint)
            .field("subject", &self.subject)
            .field("actor", &self.actor)
            .finish_non_exhaustive()
    }
}

use std::{fmt, sync::Arc, time::SystemTime};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    oauth::{
        request::{TokenRequest, TokenType},
        response::TokenResponse,
        token_endpoint::TokenEndpoint,
    },
};

use super::{
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    rejection::Rejection,
    strategy::Strategy,
    subject::Subject,
    target::Scopes,
};
use crate::oauth::unverified_jwt::UnverifiedJwt;

/// Gets a token from the backend's own authorization server in exchange for an assertion from the user's identity
/// provider: cross-app access with an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant).
///
/// The strategy takes two steps, and caches the second token:
///
/// 1. The user's ID token is exchanged at the identity provider for an assertion, an ID-JAG (RFC 8693).
/// 2. The assertion is exchanged at the authorization server for an access token (RFC 7523 §2.1).
///
/// A health check passes without a credential. Clones are cheap and share their state.
///
/// ```no_run
/// # fn strategy(
/// #     identity_provider: tower_identity::TokenEndpoint,
/// #     authorization_server: tower_identity::TokenEndpoint,
/// # ) -> Result<(), tower_identity::BuildError> {
/// use tower_identity::CrossAppAccess;
///
/// let builder =
///     CrossAppAccess::builder("okta", identity_provider, authorization_server);
/// let strategy = builder
///     // the authorization server's issuer identifier
///     .audience("https://auth.chat.example")
///     .resource("https://mcp.chat.example")
///     .scopes(["chat.read"])
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// The strategy checks an assertion before it sends it, so that an assertion for another party never goes to this
/// authorization server. The assertion must have the type `oauth-id-jag+jwt`, must not have expired, and must have the
/// expected `iss`, `aud` and, if a resource was requested, `resource`. The **signature is not verified**: the assertion
/// comes directly from the identity provider, and the authorization server verifies it.
///
/// # Errors
///
/// The same as [`TokenExchange`](crate::TokenExchange#errors), for either endpoint. If the assertion fails a check, the
/// error is [`Unavailable`](AuthErrorKind::Unavailable), because the identity provider is at fault.
#[derive(Clone)]
pub struct CrossAppAccess {
    inner: Arc<Inner>,
}

struct Inner {
    /// The tokens, whose endpoint is the identity provider's.
    tokens: IssuedTokens,
    authorization_server: TokenEndpoint,
    /// The request to the authorization server without the assertion.
    access_request: TokenRequest,
    expected: Arc<ExpectedAssertion>,
}

impl CrossAppAccess {
    /// Creates a builder for a strategy that exchanges the users' ID tokens of the upstream provider `provider`.
    ///
    /// `identity_provider` is the token endpoint of that provider. The tokens for the backend come from
    /// `authorization_server`.
    pub fn builder(
        provider: impl Into<String>,
        identity_provider: TokenEndpoint,
        authorization_server: TokenEndpoint,
    ) -> CrossAppAccessBuilder {
        CrossAppAccessBuilder::new(provider, Ok(identity_provider), Ok(authorization_server))
    }
}

impl<B: Send + 'static> Strategy<B> for CrossAppAccess {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let tokens = &self.inner.tokens;
        tokens.authenticate(request, |party| {
            let mut exchange = tokens.request.clone();
            let mut issuer = None;
            if let Some(subject) = &party.subject {
                exchange = exchange.subject_token(subject.expose(), TokenType::IdToken);
                issuer = UnverifiedJwt::decode(subject.expose())
                    .and_then(|id_token| id_token.issuer().map(str::to_owned));
            }
            let asserting = tokens.endpoint.request_assertion(exchange);
            let authorization_server = self.inner.authorization_server.clone();
            let access_request = self.inner.access_request.clone();
            let expected = Arc::clone(&self.inner.expected);
            async move {
                let assertion = asserting.await?.into_token();
                expected.check(assertion.expose(), issuer.as_deref())?;
                let request = access_request.assertion(assertion.expose());
                let issued: TokenResponse = authorization_server.request_token(request).await?;
                Ok(issued)
            }
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.inner.tokens.rejected(sent, response)
    }

    fn name(&self) -> &'static str {
        "cross_app_access"
    }
}

impl fmt::Debug for CrossAppAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossAppAccess")
            .field("identity_provider", &self.inner.tokens.endpoint)
            .field("authorization_server", &self.inner.authorization_server)
            .field("request", &self.inner.tokens.request)
            .finish_non_exhaustive()
    }
}

/// Builds [`CrossAppAccess`].
#[must_use = "nothing is checked before `build`"]
pub struct CrossAppAccessBuilder {
    provider: String,
    identity_provider: Result<TokenEndpoint, BuildError>,
    authorization_server: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    authorization_server_scopes: Scopes,
    issuer: Option<String>,
    audience: Option<String>,
}

impl CrossAppAccessBuilder {
    /// Creates the builder. An endpoint that could not be built is reported by `build`.
    pub(crate) fn new(
        provider: impl Into<String>,
        identity_provider: Result<TokenEndpoint, BuildError>,
        authorization_server: Result<TokenEndpoint, BuildError>,
    ) -> Self {
        Self {
            provider: provider.into(),
            identity_provider,
            authorization_server,
            tokens: IssuedTokensBuilder::new(),
            authorization_server_scopes: Scopes::default(),
            issuer: None,
            audience: None,
        }
    }

    /// Sets the audience of the assertion: the authorization server's issuer identifier (RFC 8414 §2), which is
    /// compared exactly. It is required.
    pub fn audience(mut self, issuer: &str) -> Self {
        self.audience = Some(issuer.to_owned());
        self
    }

    /// Sets the expected issuer of the assertion: the identity provider's issuer identifier. The default is the `iss`
    /// of the user's ID token.
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.to_owned());
        self
    }

    /// Adds a resource: the address of a service that the token is for (RFC 8707 §2). It is an absolute URI without a
    /// fragment.
    pub fn resource(mut self, resource: &str) -> Self {
        self.tokens.target.resource(resource);
        self
    }

    /// Sets the scopes of the assertion, which are sent to the identity provider (RFC 8693 §2.1). The authorization
    /// server finds those that were granted in the assertion's claim `scope`. By default no scope is sent, and the
    /// issuers decide.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.target.scopes(scopes);
        self
    }

    /// Sets scopes that are sent to the authorization server with the assertion (RFC 7521 §4.1). Some servers require
    /// them. Others issue a token with fewer scopes than the assertion allows. By default no scope is sent, and the
    /// assertion decides.
    ///
    /// ```no_run
    /// # fn strategy(
    /// #     identity_provider: tower_identity::TokenEndpoint,
    /// #     authorization_server: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::CrossAppAccess;
    ///
    /// let builder =
    ///     CrossAppAccess::builder("okta", identity_provider, authorization_server);
    /// let read_only = builder
    ///     .audience("https://auth.chat.example")
    ///     .scopes(["chat.read", "chat.write"])
    ///     .authorization_server_scopes(["chat.read"])
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn authorization_server_scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.authorization_server_scopes.set(scopes);
        self
    }

    /// Sets the cache for the tokens, which several strategies can share. By default the strategy has its own cache.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock for checking assertions and for the strategy's own cache. A cache set with [`cache`](Self::cache)
    /// keeps its own clock. The default is the [default clock](crate::DefaultClock) of the thread.
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
    /// - `provider`, the name of the upstream provider, is blank.
    /// - `audience` is missing or blank.
    /// - `issuer` is blank.
    /// - `resource` is not an absolute URI, or has a fragment.
    /// - `scopes` or `authorization_server_scopes` has a scope that is not one word, or was set twice.
    pub fn build(mut self) -> Result<CrossAppAccess, BuildError> {
        let mut faults = Faults::new("CrossAppAccess");
        self.check(&mut faults);
        let identity_provider = faults.take_built("identity_provider", self.identity_provider);
        let authorization_server =
            faults.take_built("authorization_server", self.authorization_server);
        let ((identity_provider, authorization_server), audience) = faults.or(identity_provider
            .zip(authorization_server)
            .zip(self.audience))?;

        let access_request = (self.authorization_server_scopes).add_to(TokenRequest::jwt_bearer());
        let authorization_server = authorization_server.of_issuer(&audience);
        let identity_provider = match &self.issuer {
            Some(issuer) => identity_provider.of_issuer(issuer),
            None => identity_provider,
        };
        let scope = authorization_server.describe(CacheScope::new("cross-app access"));
        let scope = access_request.describe(scope);
        let scope = match &self.issuer {
            Some(issuer) => scope.field("issuer", issuer),
            None => scope,
        };
        let expected = ExpectedAssertion {
            issuer: self.issuer,
            audience: audience.clone(),
            resources: self.tokens.target.resources().to_vec(),
            clock: self.tokens.clock.clone(),
        };
        self.tokens.target.audience(&audience);
        let tokens = self.tokens.make(
            identity_provider,
            TokenRequest::token_exchange().requested_token_type(TokenType::IdJag),
            Holder::user(Subject::upstream_id_token(self.provider)),
            scope,
        );
        Ok(CrossAppAccess {
            inner: Arc::new(Inner {
                tokens,
                authorization_server,
                access_request,
                expected: Arc::new(expected),
            }),
        })
    }

    fn check(&self, faults: &mut Faults) {
        faults.need_text("provider", &self.provider);
        match &self.audience {
            Some(audience) => faults.need_text("audience", audience),
            None => faults.add(
                "audience",
                "is missing, give the issuer identifier of the backend's authorization server",
            ),
        }
        faults.need_text_if_set("issuer", self.issuer.as_deref());
        self.tokens.target.check(faults);
        (self.authorization_server_scopes).check("authorization_server_scopes", faults);
    }
}

impl fmt::Debug for CrossAppAccessBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossAppAccessBuilder")
            .field("provider", &self.provider)
            .field("identity_provider", &self.identity_provider)
            .field("authorization_server", &self.authorization_server)
            .finish_non_exhaustive()
    }
}

struct ExpectedAssertion {
    issuer: Option<String>,
    audience: String,
    resources: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl ExpectedAssertion {
    fn check(&self, assertion: &str, id_token_issuer: Option<&str>) -> Result<(), AuthError> {
        let now = self.clock.now();
        self.find_fault(assertion, id_token_issuer, now)
            .map_or(Ok(()), |fault| {
                Err(AuthError::new(
                    AuthErrorKind::Unavailable,
                    format!(
                        "the identity provider issued an assertion {fault}; it was not passed on"
                    ),
                ))
            })
    }

    fn find_fault(
        &self,
        assertion: &str,
        id_token_issuer: Option<&str>,
        now: SystemTime,
    ) -> Option<&'static str> {
        let Some(jwt) = UnverifiedJwt::decode(assertion) else {
            return Some("that is no JWT");
        };
        let is_id_jag = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.strip_prefix("application/").unwrap_or(&name) == "oauth-id-jag+jwt"
        };
        if !jwt.header_type().is_some_and(is_id_jag) {
            return Some("whose `typ` is not `oauth-id-jag+jwt`");
        }
        if jwt.expires_at().is_none_or(|end| end <= now) {
            return Some("that has expired, or does not say when it will");
        }
        let issuer = self.issuer.as_deref().or(id_token_issuer);
        if issuer.is_none() || jwt.issuer() != issuer {
            return Some("with another `iss` than expected (the ID token's, unless one is set)");
        }
        if jwt.texts("aud") != Some(vec![self.audience.as_str()]) {
            return Some("with another `aud` than the authorization server that was asked for");
        }
        let is_asked_for = |resource: &&str| self.resources.iter().any(|asked| asked == resource);
        let is_for_resources = jwt
            .texts("resource")
            .is_some_and(|named| !named.is_empty() && named.iter().all(is_asked_for));
        if !self.resources.is_empty() && !is_for_resources {
            return Some("whose `resource` is not what was asked for");
        }
        None
    }
}

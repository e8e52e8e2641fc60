use std::{fmt, sync::Arc, time::SystemTime};

use http::{Request, request, response};

use crate::{
    clock::Clock,
    credential::cache::{
        CredentialCache,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    oauth::{
        request::{TokenRequest, TokenType},
        response::{Lifetime, TokenResponse},
        token_endpoint::TokenEndpoint,
        unverified_jwt::UnverifiedJwt,
    },
    secret::Secret,
};
#[cfg(feature = "incoming")]
use crate::{
    oauth::token_endpoint::RefusedRefresh,
    upstream::{owner::TokenOwner, refresh::Presented, upstream_tokens::UpstreamTokens},
};

use super::{
    assertions::Assertions,
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder, no_identity, with_scopes},
    placement::Placement,
    rejection::Rejection,
    strategy::Strategy,
    subject::{Subject, UserToken},
    target::Scopes,
    wider_scope::WiderScope,
};

/// Gets a token from the backend's own authorization server in exchange for an assertion from the user's identity
/// provider: cross-app access with an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant).
///
/// Needs the feature `token-exchange`.
///
/// The strategy takes two steps:
///
/// 1. A token of the user, by default their ID token, is exchanged at the identity provider for an assertion, an ID-JAG
///    (RFC 8693). See [`subject`](CrossAppAccessBuilder::subject) for other tokens.
/// 2. The assertion is exchanged at the authorization server for an access token (RFC 7523 §2.1).
///
/// The access token is cached. The assertion is kept until its own end: when the access token is renewed before, the
/// identity provider is not asked again. If the authorization server refuses a kept assertion, a new one is requested once.
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
/// authorization server. The assertion must have the type `oauth-id-jag+jwt` (unless another
/// [type](CrossAppAccessBuilder::assertion_type) was set), must not have expired, and must have the expected `iss` and
/// `aud`. Its `client_id` and `resource`, if present, must be those that were requested. The **signature is not verified**: the assertion
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
    authorization_server_scopes: Vec<String>,
    subject_type: TokenType,
    #[cfg(feature = "incoming")]
    refresh_tokens: Option<RefreshTokens>,
    expected: ExpectedAssertion,
    assertions: Assertions,
}

/// The upstream tokens that the user's refresh token is among, and the name of its provider.
#[cfg(feature = "incoming")]
struct RefreshTokens {
    upstream: UpstreamTokens,
    provider: String,
}

/// All that a call needs of the user, and the scopes that the backend asked for.
struct Asking {
    key: CacheKey,
    wider: Option<WiderScope>,
    /// The issuer that the user's token names.
    issuer: Option<String>,
    subject: Presenting,
}

enum Presenting {
    /// The request to the identity provider with the user's token.
    Token(TokenRequest),
    #[cfg(feature = "incoming")]
    RefreshTokenOf(TokenOwner),
}

impl Asking {
    fn of(
        subject: &UserToken<'_>,
        wider: Option<&WiderScope>,
        inner: &Inner,
    ) -> Result<Self, AuthError> {
        let scopes = wider.map_or(&[][..], WiderScope::scopes);
        let scope = CacheScope::new("assertion");
        let scope = scopes
            .iter()
            .fold(scope, |scope, more| scope.field("wider scope", more));
        let key = scope.key(subject.fingerprint());
        let wider = wider.cloned();
        #[cfg(feature = "incoming")]
        if let Some(user) = subject.user() {
            let owner = TokenOwner::of(user).map_err(|error| {
                AuthError::new(
                    AuthErrorKind::MissingToken,
                    "the identity has no issuer, so the user's refresh token cannot be found",
                )
                .with_source(error)
            })?;
            return Ok(Self {
                key,
                wider,
                issuer: None,
                subject: Presenting::RefreshTokenOf(owner),
            });
        }
        let jwt = UnverifiedJwt::decode(subject.expose());
        let exchange = with_scopes(inner.tokens.request.clone(), wider.as_ref());
        let exchange = exchange.subject_token(subject.expose(), inner.subject_type.clone());
        Ok(Self {
            key,
            wider,
            issuer: jwt.and_then(|jwt| jwt.issuer().map(str::to_owned)),
            subject: Presenting::Token(exchange),
        })
    }
}

impl Inner {
    /// Gets a token for the user's assertion: the one that is kept, or a new one.
    async fn token(&self, asking: Asking) -> Result<TokenResponse, AuthError> {
        if let Some(assertion) = self.assertions.find(&asking.key) {
            match self.access(&assertion, asking.wider.as_ref()).await {
                // It may have been revoked, or may be used only once.
                Err(error) if error.kind() == AuthErrorKind::Rejected => {
                    self.assertions.forget(&asking.key);
                }
                answer => return answer,
            }
        }
        let wider = asking.wider.clone();
        let assertion = self.new_assertion(asking).await?;
        self.access(&assertion, wider.as_ref()).await
    }

    async fn access(
        &self,
        assertion: &Secret,
        wider: Option<&WiderScope>,
    ) -> Result<TokenResponse, AuthError> {
        let request = self.access_request.clone().assertion(assertion.expose());
        // Without a scope the assertion decides.
        let wider = wider.filter(|_| !self.authorization_server_scopes.is_empty());
        let request = with_scopes(request, wider);
        self.authorization_server.request_token(request).await
    }

    async fn new_assertion(&self, asking: Asking) -> Result<Secret, AuthError> {
        let answer = match asking.subject {
            Presenting::Token(exchange) => self.tokens.endpoint.request_assertion(exchange).await?,
            #[cfg(feature = "incoming")]
            Presenting::RefreshTokenOf(owner) => {
                let wider = asking.wider.as_ref();
                self.present_refresh_token(&owner, wider).await?
            }
        };
        let lifetime = answer.lifetime();
        let assertion = answer.into_token();
        let issuer = asking.issuer.as_deref();
        let mut expires_at = self.expected.check(assertion.expose(), issuer)?;
        match lifetime {
            Lifetime::Spent => return Ok(assertion),
            Lifetime::Unknown => {}
            Lifetime::For(lifetime) => {
                let end = self.expected.clock.now().checked_add(lifetime);
                expires_at = end.map_or(expires_at, |end| expires_at.min(end));
            }
        }
        self.assertions
            .keep(asking.key, assertion.clone(), expires_at);
        Ok(assertion)
    }

    /// Presents the user's refresh token to the identity provider. Its successor is stored before the assertion is used.
    #[cfg(feature = "incoming")]
    async fn present_refresh_token(
        &self,
        owner: &TokenOwner,
        wider: Option<&WiderScope>,
    ) -> Result<TokenResponse<Secret>, AuthError> {
        let RefreshTokens { upstream, provider } =
            self.refresh_tokens.as_ref().ok_or_else(no_identity)?;
        let present = |refresh_token: Secret| async move {
            let exchange = with_scopes(self.tokens.request.clone(), wider);
            let exchange = exchange.subject_token(refresh_token.expose(), TokenType::RefreshToken);
            match self.tokens.endpoint.refresh_assertion(exchange).await {
                Ok(answer) => Presented {
                    successor: answer.refresh_token().cloned(),
                    outcome: Ok(answer),
                },
                Err(RefusedRefresh { error, successor }) => Presented {
                    outcome: Err(error),
                    successor,
                },
            }
        };
        upstream.present(owner, provider, present).await
    }
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
        let inner = &self.inner;
        inner.tokens.authenticate(request, |party| {
            let subject = party.subject.as_ref();
            let asking = subject.map(|subject| Asking::of(subject, party.wider, inner));
            let inner = Arc::clone(inner);
            async move {
                let asking = asking.ok_or_else(no_identity)??;
                inner.token(asking).await
            }
        })
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.inner.tokens.rejected(sent, response)
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        match &*self.inner.authorization_server_scopes {
            [] => self.inner.tokens.held_scopes(sent),
            scopes => Some(scopes.to_vec()),
        }
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
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct CrossAppAccessBuilder {
    provider: String,
    identity_provider: Result<TokenEndpoint, BuildError>,
    authorization_server: Result<TokenEndpoint, BuildError>,
    tokens: IssuedTokensBuilder,
    authorization_server_scopes: Scopes,
    issuer: Option<String>,
    audience: Option<String>,
    subject: Option<Subject>,
    #[cfg(feature = "incoming")]
    refresh_tokens: Option<UpstreamTokens>,
    assertion_type: TokenType,
    requires_resource: bool,
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
            subject: None,
            #[cfg(feature = "incoming")]
            refresh_tokens: None,
            assertion_type: TokenType::IdJag,
            requires_resource: false,
        }
    }

    /// Sets which of the user's tokens is exchanged for the assertion. The default is the ID token of the provider.
    ///
    /// With any other token the [`issuer`](Self::issuer) must be set. For example, a provider's access token, or its SAML
    /// assertion:
    ///
    /// ```no_run
    /// # fn strategy(
    /// #     identity_provider: tower_identity::TokenEndpoint,
    /// #     authorization_server: tower_identity::TokenEndpoint,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::{CrossAppAccess, Subject, oauth::TokenType};
    ///
    /// let builder =
    ///     CrossAppAccess::builder("adfs", identity_provider, authorization_server);
    /// let strategy = builder
    ///     .subject(Subject::upstream("adfs").as_type(TokenType::Saml2))
    ///     .issuer("https://idp.example.com")
    ///     .audience("https://auth.chat.example")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Exchanges the user's refresh token of the provider, which is among these upstream tokens. Unlike an ID token, it
    /// can be exchanged until the user logs out.
    ///
    /// Needs the feature `incoming`.
    ///
    /// No other party uses the refresh token meanwhile, in this process or in another. If the answer has a new refresh
    /// token, it is stored before the assertion is used. If the identity provider refuses, the tokens stay stored, because
    /// the refusal may be about this access alone. The identity needs an issuer and a token of the provider, which a
    /// [`TokenValidator`](crate::TokenValidator) with these upstream tokens adds. The [`issuer`](Self::issuer) must be set.
    ///
    /// The tokens must be those of the user, without a [session](UpstreamTokens::session_claim). Issued tokens are cached
    /// for the user, and not for the token that they came with.
    ///
    /// ```no_run
    /// # fn strategy(
    /// #     identity_provider: tower_identity::TokenEndpoint,
    /// #     authorization_server: tower_identity::TokenEndpoint,
    /// #     upstream: tower_identity::UpstreamTokens,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::CrossAppAccess;
    ///
    /// let builder =
    ///     CrossAppAccess::builder("okta", identity_provider, authorization_server);
    /// let strategy = builder
    ///     .refresh_token_of(upstream)
    ///     .issuer("https://example.okta.com")
    ///     .audience("https://auth.chat.example")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "incoming")]
    pub fn refresh_token_of(mut self, upstream: UpstreamTokens) -> Self {
        self.refresh_tokens = Some(upstream);
        self
    }

    /// Sets the type of the assertion. The default is [`IdJag`](TokenType::IdJag).
    ///
    /// An identity provider that knows no ID-JAG may issue another JWT for the authorization server, for example
    /// [`Jwt`](TokenType::Jwt) (draft-ietf-oauth-identity-chaining). Its `typ` is not checked, and all else is.
    pub fn assertion_type(mut self, assertion_type: TokenType) -> Self {
        self.assertion_type = assertion_type;
        self
    }

    /// Refuses an assertion without a `resource` where one was asked for. By default `resource` is optional, as in the
    /// draft, because some identity providers leave it out. Another `resource` is always refused.
    pub fn require_resource(mut self) -> Self {
        self.requires_resource = true;
        self
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

    /// Sets the header that the token is sent in. The default is `Authorization: Bearer …`.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.tokens.placement = placement;
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
    /// - `issuer` is blank, or missing where the subject is no ID token.
    /// - `subject` has a type that is not an absolute URI, or `subject.provider` is blank.
    /// - `refresh_token_of` has tokens of sessions, or is set beside `subject`.
    /// - `assertion_type` is not an absolute URI, or the type of an access token or a refresh token.
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
            is_id_jag: self.assertion_type == TokenType::IdJag,
            issuer: self.issuer,
            audience: audience.clone(),
            client_id: authorization_server.client_id().map(str::to_owned),
            requires_resource: self.requires_resource,
            resources: self.tokens.target.resources().to_vec(),
            clock: self.tokens.clock.clone(),
        };
        let scope = match self.requires_resource {
            true => scope.field("require_resource", []),
            false => scope,
        };
        self.tokens.target.audience(&audience);
        let subject = self
            .subject
            .unwrap_or_else(|| Subject::upstream_id_token(&*self.provider));
        #[cfg(feature = "incoming")]
        let (subject, refresh_tokens) = match self.refresh_tokens {
            Some(upstream) => (
                Subject::upstream_refresh_token(&*self.provider),
                Some(RefreshTokens {
                    upstream,
                    provider: self.provider,
                }),
            ),
            None => (subject, None),
        };
        let subject_type = subject.token_type().clone();
        let assertions = Assertions::new(self.tokens.clock.clone());
        let tokens = self.tokens.make(
            identity_provider,
            TokenRequest::token_exchange().requested_token_type(self.assertion_type),
            Holder::user(subject),
            scope,
        );
        Ok(CrossAppAccess {
            inner: Arc::new(Inner {
                tokens,
                authorization_server,
                access_request,
                authorization_server_scopes: self.authorization_server_scopes.as_slice().to_vec(),
                subject_type,
                #[cfg(feature = "incoming")]
                refresh_tokens,
                expected,
                assertions,
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
        self.check_subject(faults);
        self.assertion_type.check("assertion_type", faults);
        if matches!(
            self.assertion_type,
            TokenType::AccessToken | TokenType::RefreshToken
        ) {
            faults.add("assertion_type", "is no assertion, take `IdJag` or `Jwt`");
        }
        self.tokens.target.check(faults);
        (self.authorization_server_scopes).check("authorization_server_scopes", faults);
    }

    fn check_subject(&self, faults: &mut Faults) {
        let mut says_issuer = true;
        if let Some(subject) = &self.subject {
            subject.check("subject", faults);
            says_issuer = subject.is_id_token();
        }
        #[cfg(feature = "incoming")]
        if let Some(upstream) = &self.refresh_tokens {
            says_issuer = false;
            if self.subject.is_some() {
                faults.add("refresh_token_of", "is set beside `subject`, leave one out");
            }
            if upstream.claim_of_session().is_some() {
                faults.add(
                    "refresh_token_of",
                    "has tokens of sessions, which an identity does not name, give tokens of users",
                );
            }
        }
        if !says_issuer && self.issuer.is_none() {
            faults.add(
                "issuer",
                "is missing, and only an ID token says who issued it, give the identity provider's issuer identifier",
            );
        }
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
    is_id_jag: bool,
    issuer: Option<String>,
    audience: String,
    client_id: Option<String>,
    resources: Vec<String>,
    requires_resource: bool,
    clock: Arc<dyn Clock>,
}

impl ExpectedAssertion {
    /// Checks the assertion, and returns its end.
    fn check(&self, assertion: &str, users_issuer: Option<&str>) -> Result<SystemTime, AuthError> {
        self.read(assertion, users_issuer).map_err(|fault| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                format!("the identity provider issued an assertion {fault}; it was not passed on"),
            )
        })
    }

    fn read(
        &self,
        assertion: &str,
        users_issuer: Option<&str>,
    ) -> Result<SystemTime, &'static str> {
        let jwt = UnverifiedJwt::decode(assertion).ok_or("that is no JWT")?;
        let is_id_jag = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.strip_prefix("application/").unwrap_or(&name) == "oauth-id-jag+jwt"
        };
        if self.is_id_jag && !jwt.header_type().is_some_and(is_id_jag) {
            return Err("whose `typ` is not `oauth-id-jag+jwt`");
        }
        let now = self.clock.now();
        let end = jwt.expires_at().filter(|end| *end > now);
        let end = end.ok_or("that has expired, or does not say when it will")?;
        let issuer = self.issuer.as_deref().or(users_issuer);
        if issuer.is_none() || jwt.issuer() != issuer {
            return Err("with another `iss` than expected (the ID token's, unless one is set)");
        }
        if jwt.texts("aud") != Some(vec![self.audience.as_str()]) {
            return Err("with another `aud` than the authorization server that was asked for");
        }
        if let (Some(client_id), true) = (&self.client_id, jwt.has("client_id"))
            && jwt.texts("client_id") != Some(vec![client_id.as_str()])
        {
            return Err("for another `client_id` than this client has at the authorization server");
        }
        self.check_resource(&jwt).map(|()| end)
    }

    fn check_resource(&self, jwt: &UnverifiedJwt) -> Result<(), &'static str> {
        if self.resources.is_empty() {
            return Ok(());
        }
        // The draft has it as optional, and Okta leaves it out.
        if !jwt.has("resource") {
            return match self.requires_resource {
                true => Err("without a `resource`, which `require_resource` demands"),
                false => Ok(()),
            };
        }
        let is_asked_for = |resource: &&str| self.resources.iter().any(|asked| asked == resource);
        let named = jwt.texts("resource").filter(|named| !named.is_empty());
        match named.is_some_and(|named| named.iter().all(is_asked_for)) {
            true => Ok(()),
            false => Err("whose `resource` is not what was asked for"),
        }
    }
}

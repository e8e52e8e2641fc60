use std::{fmt, sync::Arc};

#[cfg(feature = "incoming")]
use crate::upstream::upstream_tokens::UpstreamTokens;
use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::{request::TokenRequest, token_endpoint::TokenEndpoint, token_type::TokenType},
    strategy::{
        assertions::Assertions,
        issued::{Holder, IssuedToken, IssuedTokensBuilder},
        placement::Placement,
        subject::Subject,
        target::Scopes,
    },
};

#[cfg(feature = "incoming")]
use super::RefreshTokens;
use super::{CrossAppAccess, Inner, expected_assertion::ExpectedAssertion};

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
    /// The upstream tokens may be those of the user or of a [session](UpstreamTokens::session_claim) of theirs. A token
    /// that was issued is cached for this user or session and their access token of the provider, so that nothing of one
    /// login is used after another. The assertion outlives refreshes: it is kept for the account, which the provider's ID
    /// token names. Without an ID token it is kept for the access token, too.
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
    /// - `placement` is another than `Authorization: Bearer`, and the authorization server binds its tokens to a key
    ///   (`dpop`).
    pub fn build(mut self) -> Result<CrossAppAccess, BuildError> {
        let mut faults = Faults::new("CrossAppAccess");
        self.check(&mut faults);
        let identity_provider = faults.take_built("identity_provider", self.identity_provider);
        let authorization_server =
            faults.take_built("authorization_server", self.authorization_server);
        self.tokens
            .check_placement(authorization_server.as_ref(), &mut faults);
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
        // Only once: the tokens are not bound to it, so they outlive it.
        let scope = identity_provider.describe_certificate(scope);
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
                Subject::upstream_refresh_token(&self.provider, &upstream),
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
                tokens: tokens.issued_by(authorization_server),
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
        if self.refresh_tokens.is_some() {
            says_issuer = false;
            if self.subject.is_some() {
                faults.add("refresh_token_of", "is set beside `subject`, leave one out");
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

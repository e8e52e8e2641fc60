use std::{fmt, sync::Arc, time::SystemTime};

use http::Request;

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    error::{AuthError, AuthErrorKind},
    oauth::{
        request::{TokenRequest, TokenType},
        response::TokenResponse,
        token_endpoint::TokenEndpoint,
    },
};

use super::{
    attempt::Attempt,
    authenticating::Authenticating,
    issued::{Holder, IssuedToken, IssuedTokens, IssuedTokensBuilder},
    strategy::Strategy,
    subject::Subject,
};
use crate::oauth::unverified_jwt::UnverifiedJwt;

/// Gets a token of the backend's own authorization server, for an assertion by the user's identity provider: cross-app
/// access with an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant).
///
/// Two steps, and the second token is kept:
///
/// 1. The user's ID token is exchanged at the identity provider for an assertion, an ID-JAG (RFC 8693).
/// 2. The assertion is exchanged at the authorization server for an access token (RFC 7523 §2.1).
///
/// A health check passes without a credential. A clone is cheap, and is the same strategy.
///
/// ```no_run
/// # fn strategy(
/// #     identity_provider: tower_identity::TokenEndpoint,
/// #     authorization_server: tower_identity::TokenEndpoint,
/// # ) -> Result<(), tower_identity::AuthError> {
/// use tower_identity::CrossAppAccess;
///
/// let strategy = CrossAppAccess::builder("okta", identity_provider, authorization_server)
///     .audience("https://auth.chat.example") // the authorization server's issuer identifier
///     .resource("https://mcp.chat.example")
///     .scopes(["chat.read"])
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Security
///
/// An assertion is looked at before it is passed on, so that one for another party never goes to this authorization
/// server. It is of the type `oauth-id-jag+jwt`, has not expired, and has the right `iss`, `aud` and, where a resource
/// was asked for, `resource`. Its **signature is not verified**: it came from the identity provider itself, and the
/// authorization server verifies it.
///
/// # Errors
///
/// As [`TokenExchange`](super::TokenExchange#errors), of either endpoint. An assertion that fails the checks is
/// [`Unavailable`](AuthErrorKind::Unavailable): the identity provider is at fault.
#[derive(Clone)]
pub struct CrossAppAccess {
    inner: Arc<Inner>,
}

struct Inner {
    /// Its endpoint is the identity provider's.
    tokens: IssuedTokens,
    authorization_server: TokenEndpoint,
    expected: Arc<ExpectedAssertion>,
}

impl CrossAppAccess {
    /// Starts a strategy for the users' ID tokens of the upstream provider with this name, whose token endpoint is
    /// `identity_provider`. The tokens for the backend come from `authorization_server`.
    pub fn builder(
        provider: impl Into<String>,
        identity_provider: TokenEndpoint,
        authorization_server: TokenEndpoint,
    ) -> CrossAppAccessBuilder {
        let request = TokenRequest::token_exchange().requested_token_type(TokenType::IdJag);
        CrossAppAccessBuilder {
            tokens: IssuedTokensBuilder::new(identity_provider, request),
            subject: Subject::upstream_id_token(provider),
            authorization_server,
            issuer: None,
            audience: None,
            resources: Vec::new(),
        }
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
            let expected = Arc::clone(&self.inner.expected);
            async move {
                let assertion = asserting.await?.into_token();
                expected.check(assertion.expose(), issuer.as_deref())?;
                let request = TokenRequest::jwt_bearer().assertion(assertion.expose());
                let issued: TokenResponse = authorization_server.request_token(request).await?;
                Ok(issued)
            }
        })
    }

    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        self.inner.tokens.reject(request, sent)
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
    /// Its endpoint is the identity provider's.
    tokens: IssuedTokensBuilder,
    subject: Subject,
    authorization_server: TokenEndpoint,
    issuer: Option<String>,
    audience: Option<String>,
    resources: Vec<String>,
}

impl CrossAppAccessBuilder {
    /// Sets for which authorization server the assertion is: its issuer identifier (RFC 8414 §2), to the letter. It is
    /// needed.
    pub fn audience(mut self, issuer: &str) -> Self {
        self.audience = Some(issuer.to_owned());
        self
    }

    /// Sets who issues the assertion: the identity provider's issuer identifier. By default the `iss` of the user's ID
    /// token.
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.to_owned());
        self
    }

    /// Adds the address of a service that the token is for, an absolute URI without a fragment (RFC 8707 §2).
    pub fn resource(mut self, resource: &str) -> Self {
        self.tokens.request = self.tokens.request.resource(resource);
        self.resources.push(resource.to_owned());
        self
    }

    /// Sets what the token should allow (RFC 6749 §3.3). None at all leaves it to the issuers.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.tokens.request = self.tokens.request.scopes(scopes);
        self
    }

    /// Keeps the tokens in this cache, together with those of other strategies. By default there is one of its own.
    pub fn cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens.cache = Some(cache);
        self
    }

    /// Sets the clock that assertions are checked with, and that of the strategy's own cache; a shared one has its own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.tokens.clock = clock;
        self
    }

    /// Makes the strategy.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when there is no audience, it or the issuer is empty, a resource
    /// is not absolute or has a fragment, a scope is not one word, scopes were set twice, or the name of the upstream
    /// provider is blank.
    pub fn build(mut self) -> Result<CrossAppAccess, AuthError> {
        let audience = self.audience.ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "cross-app access needs the issuer identifier of the backend's authorization server as its audience",
            )
        })?;
        if self.issuer.as_deref().is_some_and(str::is_empty) {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the issuer of the assertions is empty; leave it out for the one of the ID token",
            ));
        }
        self.tokens.request = self.tokens.request.audience(&audience);
        self.tokens.request.check()?;
        let scope = self.tokens.scope("cross-app access");
        let scope = self.authorization_server.describe(scope);
        let scope = match &self.issuer {
            Some(issuer) => scope.field("issuer", issuer),
            None => scope,
        };
        let expected = ExpectedAssertion {
            issuer: self.issuer,
            audience,
            resources: self.resources,
            clock: self.tokens.clock.clone(),
        };
        Ok(CrossAppAccess {
            inner: Arc::new(Inner {
                tokens: self.tokens.build(scope, Holder::user(self.subject))?,
                authorization_server: self.authorization_server,
                expected: Arc::new(expected),
            }),
        })
    }
}

impl fmt::Debug for CrossAppAccessBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossAppAccessBuilder")
            .field("identity_provider", &self.tokens.endpoint)
            .field("authorization_server", &self.authorization_server)
            .field("request", &self.tokens.request)
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

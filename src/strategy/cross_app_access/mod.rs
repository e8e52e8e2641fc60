pub(crate) mod builder;
mod expected_assertion;

use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::{
    credential::cache::key::{CacheKey, CacheScope},
    dpop::BoundKey,
    error::{AuthError, AuthErrorKind},
    oauth::{
        request::TokenRequest,
        response::{Lifetime, TokenResponse},
        token_endpoint::TokenEndpoint,
        token_type::TokenType,
        unverified_jwt::UnverifiedJwt,
    },
    secret::Secret,
};
#[cfg(feature = "incoming")]
use crate::{
    oauth::token_endpoint::RefusedRefresh,
    upstream::{
        account::Account, bound_key, owner::TokenOwner, refresh::Presented, store::ProviderTokens,
        upstream_tokens::UpstreamTokens,
    },
};

use super::{
    assertions::Assertions,
    authenticating::Authenticating,
    issued::{IssuedTokens, Party, no_identity, with_scopes},
    rejection::Rejection,
    strategy::Strategy,
    token_keys::{describe_user, key_for},
    wider_scope::WiderScope,
};

use builder::CrossAppAccessBuilder;
use expected_assertion::ExpectedAssertion;

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
/// // Two `TokenEndpoint`s: that of Okta, where the user logged in, and that
/// // of the authorization server of the backend.
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
/// `aud`. Its `client_id` and `resource`, if present, must be those that were requested. The **signature is not
/// verified**: the assertion comes directly from the identity provider, and the authorization server verifies it.
///
/// # Tokens bound to a key
///
/// With `dpop` at the authorization server's endpoint, the access token is [bound to a
/// key](crate::AuthLayer#tokens-bound-to-a-key). With `dpop` at the identity provider's, so is the assertion. Give both
/// endpoints the same keys, because an assertion must be presented with the key that it is bound to.
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
    /// The tokens. Their endpoint is the identity provider's, and their issuer the authorization server.
    tokens: IssuedTokens,
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
    /// The key that the token shall be bound to.
    bound_to: Option<BoundKey>,
    wider: Option<WiderScope>,
    /// The issuer that the user's token names.
    issuer: Option<String>,
    subject: Presenting,
}

enum Presenting {
    /// The request to the identity provider with the user's token.
    Token(TokenRequest),
    /// The owner of a refresh token, which is presented with the key that it is bound to, and the account that it is of, if
    /// that is known.
    #[cfg(feature = "incoming")]
    RefreshTokenOf(TokenOwner, Option<Account>),
}

impl Asking {
    fn of(party: &Party<'_>, inner: &Inner) -> Result<Self, AuthError> {
        let subject = party.subject.as_ref().ok_or_else(no_identity)?;
        let scopes = party.wider.map_or(&[][..], WiderScope::scopes);
        let scope = CacheScope::new("assertion");
        let scope = scopes
            .iter()
            .fold(scope, |scope, more| scope.field("wider scope", more));
        let scope = describe_user(&inner.tokens.endpoint, scope, party.user);
        let asking = |of, issuer, presenting| Self {
            key: scope.key(of),
            bound_to: party.bound_to.clone(),
            wider: party.wider.cloned(),
            issuer,
            subject: presenting,
        };
        #[cfg(feature = "incoming")]
        if let Some(holder) = subject.holder() {
            let presenting = Presenting::RefreshTokenOf(holder.owner.clone(), holder.account());
            return Ok(asking(holder.account_fingerprint(), None, presenting));
        }
        let assertion_key = key_for(&inner.tokens.endpoint, party.user)?;
        let jwt = UnverifiedJwt::decode(subject.expose());
        let exchange = inner.assertion_request(party.wider, assertion_key.as_ref());
        let exchange = exchange.subject_token(subject.expose(), inner.subject_type.clone());
        let issuer = jwt.and_then(|jwt| jwt.issuer().map(str::to_owned));
        let presenting = Presenting::Token(exchange);
        Ok(asking(subject.fingerprint(), issuer, presenting))
    }
}

impl Inner {
    /// Gets a token for the user's assertion: the one that is kept, or a new one.
    async fn token(&self, asking: Asking) -> Result<TokenResponse, AuthError> {
        if let Some(assertion) = self.assertions.find(&asking.key) {
            let wider = asking.wider.as_ref();
            match self
                .access(&assertion, wider, asking.bound_to.as_ref())
                .await
            {
                // It may have been revoked, or may be used only once.
                Err(error) if error.kind() == AuthErrorKind::Rejected => {
                    self.assertions.forget(&asking.key);
                }
                answer => return answer,
            }
        }
        let (wider, key) = (asking.wider.clone(), asking.bound_to.clone());
        let assertion = self.new_assertion(asking).await?;
        self.access(&assertion, wider.as_ref(), key.as_ref()).await
    }

    /// The request to the identity provider. Scopes that only the second endpoint knows are not for it.
    fn assertion_request(
        &self,
        wider: Option<&WiderScope>,
        key: Option<&BoundKey>,
    ) -> TokenRequest {
        let more = match &*self.authorization_server_scopes {
            [] => wider.map(WiderScope::scopes),
            _ => wider.map(WiderScope::asked),
        };
        let request = self.tokens.request.clone().bound_to(key);
        request.with_more_scopes(more.unwrap_or_default())
    }

    async fn access(
        &self,
        assertion: &Secret,
        wider: Option<&WiderScope>,
        key: Option<&BoundKey>,
    ) -> Result<TokenResponse, AuthError> {
        let request = self.access_request.clone().assertion(assertion.expose());
        let request = request.bound_to(key);
        // Without a scope the assertion decides.
        let wider = wider.filter(|_| !self.authorization_server_scopes.is_empty());
        let request = with_scopes(request, wider);
        self.tokens.issuer.request_token(request).await
    }

    async fn new_assertion(&self, asking: Asking) -> Result<Secret, AuthError> {
        let answer = match asking.subject {
            Presenting::Token(exchange) => self.tokens.endpoint.request_assertion(exchange).await?,
            #[cfg(feature = "incoming")]
            Presenting::RefreshTokenOf(owner, account) => {
                let wider = asking.wider.as_ref();
                self.present_refresh_token(&owner, account, wider).await?
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
        account: Option<Account>,
        wider: Option<&WiderScope>,
    ) -> Result<TokenResponse<Secret>, AuthError> {
        let RefreshTokens { upstream, provider } =
            self.refresh_tokens.as_ref().ok_or_else(no_identity)?;
        let endpoint = &self.tokens.endpoint;
        let present = |tokens: ProviderTokens| async move {
            // A refresh keeps the ID token, so a login without one is another login.
            if account.is_some() && account != Account::of(tokens.token()) {
                return Presented::refused(another_account());
            }
            let keys = bound_key::keys_of(endpoint);
            let key = match bound_key::of_tokens(keys, Some(owner), &tokens) {
                Ok(key) => key,
                Err(error) => return Presented::refused(error),
            };
            let thumbprint = bound_key::of_refresh_token(endpoint, key.as_ref());
            let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
            let exchange = self.assertion_request(wider, key.as_ref());
            let exchange = exchange.subject_token(refresh_token, TokenType::RefreshToken);
            let (successor, outcome) = match endpoint.refresh_assertion(exchange).await {
                Ok(answer) => (answer.refresh_token().cloned(), Ok(answer)),
                Err(RefusedRefresh { error, successor }) => (successor, Err(error)),
            };
            Presented {
                outcome,
                successor,
                thumbprint,
            }
        };
        upstream.present(owner, provider, present).await
    }
}

#[cfg(feature = "incoming")]
#[cold]
fn another_account() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the user has linked another account of the provider since the request arrived; send the request again",
    )
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
            let asking = Asking::of(party, inner);
            let inner = Arc::clone(inner);
            async move { inner.token(asking?).await }
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

    fn can_widen_scope(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "cross_app_access"
    }
}

impl fmt::Debug for CrossAppAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossAppAccess")
            .field("identity_provider", &self.inner.tokens.endpoint)
            .field("authorization_server", &self.inner.tokens.issuer)
            .field("request", &self.inner.tokens.request)
            .finish_non_exhaustive()
    }
}

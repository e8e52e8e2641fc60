use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    error::AuthError,
    identity::UpstreamToken,
    oauth::{
        request::TokenRequest,
        response::{Lifetime, TokenResponse},
        token_endpoint::{RefusedRefresh, TokenEndpoint},
    },
    secret::Secret,
    upstream::{UpstreamFuture, store::ProviderTokens},
};

use super::{
    bound_key::{self, Key, Keys},
    owner::TokenOwner,
    upstream_tokens::UNKNOWN_LIFETIME,
};

/// Refreshes a provider's tokens.
///
/// Needs the feature `incoming`.
///
/// [`RefreshTokenGrant`] does so at an OAuth token endpoint. Implement this trait for a provider with another protocol:
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_identity::{
///     AccessToken, AuthError, AuthErrorKind, Secret, UpstreamToken,
///     upstream::{ProviderTokens, Refreshed, Refresher, UpstreamFuture},
/// };
///
/// /// Sends the refresh token to the provider. Returns its answer.
/// async fn call_provider(
///     _refresh_token: Option<Secret>,
/// ) -> Result<String, AuthError> {
///     Ok("2YotnFZFEjr1zCsicMWpAA".to_owned())
/// }
///
/// #[derive(Debug)]
/// struct MyProvider;
///
/// impl Refresher for MyProvider {
///     fn refresh(
///         &self,
///         tokens: &ProviderTokens,
///         now: SystemTime,
///     ) -> UpstreamFuture<'static, Refreshed> {
///         let refresh_token = tokens.refresh_token().cloned();
///         Box::pin(async move {
///             let answer = call_provider(refresh_token).await?;
///             let token = AccessToken::new(answer).map_err(|error| {
///                 AuthError::new(AuthErrorKind::Unavailable, "an invalid token")
///                     .with_source(error)
///             })?;
///             let token = UpstreamToken::new(token)
///                 .with_expires_at(now + Duration::from_secs(3600));
///             Ok(ProviderTokens::new(token, now).into())
///         })
///     }
/// }
/// ```
pub trait Refresher: fmt::Debug + Send + Sync {
    /// Uses the refresh token of `tokens`. The new tokens are issued at `now`.
    ///
    /// If the new tokens lack a refresh token or an ID token, the old one stays. A new ID token must have the issuer and
    /// the subject of the old one (OIDC Core §12.2). If it does not, the new tokens are dropped, and the user must log in
    /// again.
    ///
    /// # Errors
    ///
    /// - [`Rejected`](crate::AuthErrorKind::Rejected), if the refresh token is void. The user must log in again.
    /// - Any other kind, if the refresh token was not used. It is sent again later.
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed>;

    /// As [`refresh`](Self::refresh), for the tokens of `owner`. [`UpstreamTokens`](crate::UpstreamTokens) calls it. By
    /// default it calls `refresh`.
    ///
    /// Implement it where the refresh depends on the user, for example by a key of each user (DPoP).
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh).
    fn refresh_for(
        &self,
        owner: &TokenOwner,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let _ = owner;
        self.refresh(tokens, now)
    }

    /// Returns `false` if these tokens, or [the refresh token alone](ProviderTokens::refresh_thumbprint), are
    /// [bound to a key](crate::UpstreamToken::dpop_thumbprint) that is not here. They are then not refreshed. An access token
    /// that is bound is not used either, and the user must log in again. A bearer token is used until it expires. The tokens
    /// stay stored, because another replica may have the key. By default it returns `true`.
    fn can_use(&self, owner: &TokenOwner, tokens: &ProviderTokens) -> bool {
        let _ = (owner, tokens);
        true
    }
}

/// The outcome of a [refresh](Refresher::refresh).
///
/// Needs the feature `incoming`.
///
/// [`Refresher`](crate::upstream::Refresher) has an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Refreshed {
    /// The provider issued new tokens.
    Tokens(ProviderTokens),
    /// The provider issued a new refresh token, but no access token that can be used.
    ///
    /// The new refresh token is stored, because the old one may be void. The request fails with `error`, unless the old
    /// access token is still valid.
    OnlyRefreshToken {
        /// The new refresh token.
        refresh_token: Secret,
        /// The thumbprint of the key that the new refresh token [is bound to](ProviderTokens::refresh_thumbprint), if it is.
        refresh_thumbprint: Option<Arc<str>>,
        /// The reason why the access token cannot be used.
        error: AuthError,
    },
}

impl From<ProviderTokens> for Refreshed {
    fn from(tokens: ProviderTokens) -> Self {
        Self::Tokens(tokens)
    }
}

/// Refreshes tokens at an OAuth token endpoint (RFC 6749 §6).
///
/// Needs the feature `incoming`.
///
/// A new access token without `expires_in` counts as valid for 5 minutes.
///
/// Some providers answer a refresh with a new refresh token and an access token that is
/// refused here, for example because `token_type` is missing. The new refresh token is
/// kept in this case.
///
/// At an endpoint with [keys](crate::oauth::TokenEndpointBuilder::dpop), tokens are refreshed with the key that they are
/// bound to (DPoP), and tokens without a key with that of their user. Tokens whose key is not there
/// [cannot be used](Refresher::can_use).
///
/// [`UpstreamTokens`](crate::UpstreamTokens) has an example.
#[derive(Clone, Debug)]
pub struct RefreshTokenGrant {
    endpoint: TokenEndpoint,
    scopes: Vec<String>,
}

impl RefreshTokenGrant {
    /// Refreshes at `endpoint`, for the scopes of the login.
    pub fn new(endpoint: TokenEndpoint) -> Self {
        Self {
            endpoint,
            scopes: Vec::new(),
        }
    }

    /// Sets the scopes to ask for at each refresh. They must be among those of the login. By default the new token has all
    /// of these, because none are asked for (RFC 6749 §6).
    #[must_use]
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }
}

impl RefreshTokenGrant {
    fn keys(&self) -> Option<&Keys> {
        bound_key::keys_of(&self.endpoint)
    }

    fn refresh_with(
        &self,
        owner: Option<&TokenOwner>,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let key = bound_key::of_tokens(self.keys(), owner, tokens);
        let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
        let request = TokenRequest::refresh_token(refresh_token).scopes(&self.scopes);
        let endpoint = self.endpoint.clone();
        Box::pin(async move { refresh_at(&endpoint, request, key?, now).await })
    }
}

impl Refresher for RefreshTokenGrant {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        self.refresh_with(None, tokens, now)
    }

    fn refresh_for(
        &self,
        owner: &TokenOwner,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        self.refresh_with(Some(owner), tokens, now)
    }

    fn can_use(&self, owner: &TokenOwner, tokens: &ProviderTokens) -> bool {
        bound_key::is_here(self.keys(), owner, tokens)
    }
}

pub(super) async fn refresh_at(
    endpoint: &TokenEndpoint,
    request: TokenRequest,
    key: Option<Key>,
    now: SystemTime,
) -> Result<Refreshed, AuthError> {
    let request = request.bound_to(key.as_ref());
    match endpoint.refresh(request).await {
        Ok(response) => {
            let tokens = tokens_of(
                endpoint,
                &response,
                key.as_ref(),
                now,
                Some(UNKNOWN_LIFETIME),
            );
            Ok(Refreshed::Tokens(tokens))
        }
        Err(RefusedRefresh {
            error,
            successor: Some(refresh_token),
        }) => Ok(Refreshed::OnlyRefreshToken {
            refresh_token,
            refresh_thumbprint: bound_key::of_refresh_token(endpoint, key.as_ref()),
            error,
        }),
        Err(RefusedRefresh { error, .. }) => Err(error),
    }
}

/// The tokens of a response of this endpoint to a request with this key. An access token whose lifetime is not given lasts for `unknown`,
/// or until it is refused.
pub(super) fn tokens_of(
    endpoint: &TokenEndpoint,
    response: &TokenResponse,
    key: Option<&Key>,
    now: SystemTime,
    unknown: Option<Duration>,
) -> ProviderTokens {
    let mut token = UpstreamToken::new(response.token().clone());
    let lifetime = match response.lifetime() {
        Lifetime::Unknown => unknown,
        Lifetime::Spent => Some(Duration::ZERO),
        Lifetime::For(lifetime) => Some(lifetime),
    };
    if let Some(expires_at) = lifetime.and_then(|lifetime| now.checked_add(lifetime)) {
        token = token.with_expires_at(expires_at);
    }
    if let Some(key) = key.filter(|_| response.is_dpop_bound()) {
        token = token.with_dpop_thumbprint(bound_key::thumbprint(key));
    }
    if let Some(id_token) = response.id_token() {
        token = token.with_id_token(id_token.clone());
    }
    let tokens = ProviderTokens::new(token, now);
    let Some(refresh_token) = response.refresh_token() else {
        return tokens;
    };
    let tokens = tokens.with_refresh_token(refresh_token.clone());
    let thumbprint = bound_key::of_refresh_token(endpoint, key);
    tokens.with_refresh_token_bound_to(thumbprint)
}

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    identity::UpstreamToken,
    oauth::{request::TokenRequest, response::Lifetime, token_endpoint::TokenEndpoint},
    secret::Secret,
    upstream::{UpstreamFuture, store::ProviderTokens},
};

use super::upstream_tokens::UNKNOWN_LIFETIME;

/// Gets new tokens for the ones that are about to expire: [`RefreshTokenGrant`], or your own for a provider that speaks
/// something else than OAuth.
pub trait Refresher: fmt::Debug + Send + Sync {
    /// Spends the refresh token of `tokens`. What is issued is dated `now`.
    ///
    /// What is not renewed is left out of the answer, and kept: the refresh token and the ID token.
    ///
    /// # Errors
    ///
    /// - [`Rejected`](crate::AuthErrorKind::Rejected): the refresh token is void, and a log-in is needed.
    /// - All others: it was not spent. It is presented again later.
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, ProviderTokens>;
}

/// Refreshes at an OAuth token endpoint (RFC 6749 §6).
#[derive(Clone, Debug)]
pub struct RefreshTokenGrant {
    endpoint: TokenEndpoint,
    scopes: Vec<String>,
}

impl RefreshTokenGrant {
    /// Refreshes at `endpoint`, with the scopes of the log-in.
    pub fn new(endpoint: TokenEndpoint) -> Self {
        Self {
            endpoint,
            scopes: Vec::new(),
        }
    }

    /// Asks for these scopes at each refresh: none that the log-in did not grant.
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

impl Refresher for RefreshTokenGrant {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, ProviderTokens> {
        let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
        let request = TokenRequest::refresh_token(refresh_token).scopes(&self.scopes);
        let response = self.endpoint.request_token(request);
        Box::pin(async move {
            let response = response.await?;
            let mut token = UpstreamToken::new(response.token().clone());
            let lifetime = match response.lifetime() {
                Lifetime::Unknown => UNKNOWN_LIFETIME,
                Lifetime::Spent => Duration::ZERO,
                Lifetime::For(lifetime) => lifetime,
            };
            if let Some(expires_at) = now.checked_add(lifetime) {
                token = token.with_expires_at(expires_at);
            }
            if let Some(id_token) = response.id_token() {
                token = token.with_id_token(id_token.clone());
            }
            let tokens = ProviderTokens::new(token, now);
            Ok(match response.refresh_token() {
                Some(refresh_token) => tokens.with_refresh_token(refresh_token.clone()),
                None => tokens,
            })
        })
    }
}

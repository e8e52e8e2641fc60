use http::HeaderValue;

use crate::{
    credential::cache::key::CacheScope, dpop::BoundKey, error::AuthError, identity::Identity,
    oauth::token_endpoint::TokenEndpoint,
};

/// The keys that a strategy has its tokens bound to: those of the endpoint that issues them.
pub(super) struct TokenKeys {
    #[cfg(feature = "dpop")]
    keys: Option<crate::oauth::DpopKeys>,
}

/// Returns the key of this token, with the hash of the token.
#[cfg(feature = "dpop")]
pub(super) fn beside_token(key: BoundKey, authorization: &HeaderValue) -> BoundKey {
    key.beside_token(authorization)
}

#[cfg(not(feature = "dpop"))]
pub(super) fn beside_token(key: BoundKey, _: &HeaderValue) -> BoundKey {
    key
}

#[cfg(feature = "dpop")]
impl TokenKeys {
    pub(super) fn of(issuer: &TokenEndpoint) -> Self {
        Self {
            keys: issuer.dpop_keys().cloned(),
        }
    }

    /// Whether this endpoint has its tokens bound to keys.
    pub(super) fn are_of(issuer: &TokenEndpoint) -> bool {
        issuer.dpop_keys().is_some()
    }

    /// Returns the key of this user, or of the client.
    pub(super) fn key_for(&self, user: Option<&Identity>) -> Result<Option<BoundKey>, AuthError> {
        self.keys.as_ref().map(|keys| keys.key(user)).transpose()
    }

    /// Keeps the tokens of users apart if each has another key, even if they have the same subject token.
    #[inline]
    pub(super) fn describe_user(&self, scope: CacheScope, user: Option<&Identity>) -> CacheScope {
        match (&self.keys, user) {
            (Some(keys), Some(user)) if keys.are_per_user() => scope
                .field("key of issuer", user.issuer().unwrap_or_default())
                .field("key of subject", user.subject()),
            _ => scope,
        }
    }
}

#[cfg(not(feature = "dpop"))]
impl TokenKeys {
    pub(super) fn of(_: &TokenEndpoint) -> Self {
        Self {}
    }

    pub(super) fn are_of(_: &TokenEndpoint) -> bool {
        false
    }

    pub(super) fn key_for(&self, _: Option<&Identity>) -> Result<Option<BoundKey>, AuthError> {
        Ok(None)
    }

    #[inline]
    pub(super) fn describe_user(&self, scope: CacheScope, _: Option<&Identity>) -> CacheScope {
        scope
    }
}

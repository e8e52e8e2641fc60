//! The keys that a strategy has its tokens bound to: those of the endpoint that issues them.

use http::HeaderValue;

use crate::{
    credential::cache::key::CacheScope, dpop::BoundKey, error::AuthError, identity::Identity,
    oauth::token_endpoint::TokenEndpoint,
};

#[cfg(feature = "dpop")]
pub(super) use bound::{are_bound, beside_token, describe_user, key_for};
#[cfg(not(feature = "dpop"))]
pub(super) use unbound::{are_bound, beside_token, describe_user, key_for};

#[cfg(feature = "dpop")]
mod bound {
    use super::*;

    /// Whether this endpoint has its tokens bound to keys.
    pub(in super::super) fn are_bound(issuer: &TokenEndpoint) -> bool {
        issuer.dpop_keys().is_some()
    }

    /// Returns the key of this user, or of the client.
    pub(in super::super) fn key_for(
        issuer: &TokenEndpoint,
        user: Option<&Identity>,
    ) -> Result<Option<BoundKey>, AuthError> {
        issuer.dpop_keys().map(|keys| keys.key(user)).transpose()
    }

    /// Keeps the tokens of users apart if each has another key, even if they have the same subject token.
    #[inline]
    pub(in super::super) fn describe_user(
        issuer: &TokenEndpoint,
        scope: CacheScope,
        user: Option<&Identity>,
    ) -> CacheScope {
        match (issuer.dpop_keys(), user) {
            (Some(keys), Some(user)) if keys.are_per_user() => scope
                .field("key of issuer", user.issuer().unwrap_or_default())
                .field("key of subject", user.subject()),
            _ => scope,
        }
    }

    /// Returns the key of this token, with the hash of the token.
    pub(in super::super) fn beside_token(key: BoundKey, authorization: &HeaderValue) -> BoundKey {
        key.beside_token(authorization)
    }
}

#[cfg(not(feature = "dpop"))]
mod unbound {
    use super::*;

    pub(in super::super) fn are_bound(_: &TokenEndpoint) -> bool {
        false
    }

    pub(in super::super) fn key_for(
        _: &TokenEndpoint,
        _: Option<&Identity>,
    ) -> Result<Option<BoundKey>, AuthError> {
        Ok(None)
    }

    #[inline]
    pub(in super::super) fn describe_user(
        _: &TokenEndpoint,
        scope: CacheScope,
        _: Option<&Identity>,
    ) -> CacheScope {
        scope
    }

    pub(in super::super) fn beside_token(key: BoundKey, _: &HeaderValue) -> BoundKey {
        key
    }
}

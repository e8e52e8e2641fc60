//! The key that a user's tokens are bound to (DPoP, RFC 9449).

pub(crate) use crate::dpop::BoundKey as Key;
#[cfg(feature = "dpop")]
pub(crate) use crate::oauth::DpopKeys as Keys;
#[cfg(not(feature = "dpop"))]
pub(crate) use std::convert::Infallible as Keys;

use std::sync::Arc;

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::token_endpoint::TokenEndpoint,
};

use super::{owner::TokenOwner, store::ProviderTokens};

/// The key for a new login of `owner`, or for a login that will say who the user is.
#[cfg(feature = "dpop")]
pub(crate) fn for_login(
    keys: Option<&Keys>,
    owner: Option<&TokenOwner>,
) -> Result<Option<Key>, AuthError> {
    let Some(keys) = keys else {
        return Ok(None);
    };
    let key = match owner {
        Some(owner) => keys.key_of_user(Some(owner.issuer()), owner.subject()),
        None => keys.key(None),
    };
    key.map(Some)
}

/// The key that these tokens are bound to. For tokens without a key it is the one for a new login.
#[cfg(feature = "dpop")]
pub(crate) fn of_tokens(
    keys: Option<&Keys>,
    owner: Option<&TokenOwner>,
    tokens: &ProviderTokens,
) -> Result<Option<Key>, AuthError> {
    let Some(thumbprint) = tokens.thumbprint() else {
        return for_login(keys, owner);
    };
    let key = match (keys, owner) {
        (Some(keys), Some(owner)) => {
            keys.find(Some(owner.issuer()), owner.subject(), thumbprint)?
        }
        (Some(keys), None) => Some(keys.key(None)?).filter(|key| key.thumbprint() == thumbprint),
        (None, _) => None,
    };
    key.map(Some).ok_or_else(key_is_gone)
}

#[cfg(not(feature = "dpop"))]
#[cfg(feature = "linking")]
pub(crate) fn for_login(
    _: Option<&Keys>,
    _: Option<&TokenOwner>,
) -> Result<Option<Key>, AuthError> {
    Ok(None)
}

#[cfg(not(feature = "dpop"))]
pub(crate) fn of_tokens(
    _: Option<&Keys>,
    _: Option<&TokenOwner>,
    tokens: &ProviderTokens,
) -> Result<Option<Key>, AuthError> {
    match tokens.thumbprint() {
        Some(_) => Err(key_is_gone()),
        None => Ok(None),
    }
}

/// Whether these tokens can be used here: they are bound to no key, or to one that is here.
pub(crate) fn is_here(keys: Option<&Keys>, owner: &TokenOwner, tokens: &ProviderTokens) -> bool {
    tokens.thumbprint().is_none() || of_tokens(keys, Some(owner), tokens).is_ok()
}

/// The keys of the endpoint where the tokens are refreshed.
pub(crate) fn keys_of(endpoint: &TokenEndpoint) -> Option<&Keys> {
    #[cfg(feature = "dpop")]
    return endpoint.dpop_keys();
    #[cfg(not(feature = "dpop"))]
    {
        let _ = endpoint;
        None
    }
}

/// The thumbprint of the key that a refresh token is bound to that this endpoint issues for a proof with `key`. That of a
/// confidential client is bound to the client (RFC 9449 §5).
pub(crate) fn of_refresh_token(endpoint: &TokenEndpoint, key: Option<&Key>) -> Option<Arc<str>> {
    let key = key.filter(|_| !endpoint.has_confidential_client())?;
    Some(thumbprint(key).into())
}

pub(crate) fn thumbprint(key: &Key) -> &str {
    #[cfg(feature = "dpop")]
    return key.thumbprint();
    #[cfg(not(feature = "dpop"))]
    match *key {}
}

/// It is not the user's login that failed here, so the tokens stay for the replica that has the key.
#[cold]
fn key_is_gone() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the user's tokens are bound to a key that is not here (DPoP), so they were not presented; give all replicas the \
         same keys",
    )
}

//! The names of DPoP (RFC 9449) that all features know: its headers, its scheme, and the key of a token.

use http::HeaderName;
#[cfg(feature = "token-exchange")]
use http::HeaderValue;

/// The header with the proof (RFC 9449 §4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The header with the nonce for the next proof (RFC 9449 §8.1).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The scheme of a token that is bound to a key, with its space (RFC 9449 §7.1).
#[cfg(feature = "token-exchange")]
pub(crate) const DPOP_SCHEME: &str = "DPoP ";

/// The key that a token is bound to. Without the feature `dpop` no token is bound to one.
#[cfg(feature = "dpop")]
pub(crate) type BoundKey = crate::oauth::DpopKey;
#[cfg(not(feature = "dpop"))]
#[derive(Clone, Debug)]
pub(crate) enum BoundKey {}

/// The token of `Authorization: DPoP …`.
#[cfg(feature = "token-exchange")]
pub(crate) fn bound_token(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization
        .as_bytes()
        .split_at_checked(DPOP_SCHEME.len())?;
    let is_dpop = scheme.eq_ignore_ascii_case(DPOP_SCHEME.as_bytes());
    is_dpop.then_some(token)
}

//! Reads a JWT without verifying it. The party that the token is sent to verifies the signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub(crate) struct UnverifiedJwt {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl UnverifiedJwt {
    /// Decodes the text, or returns `None` if it does not have the form of a signed JWT (RFC 7515 §7.1).
    pub(crate) fn decode(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(())?;
        Some(Self {
            header: decode_object(header)?,
            claims: decode_object(claims)?,
        })
    }

    /// Returns the `typ` of the header.
    pub(crate) fn header_type(&self) -> Option<&str> {
        self.header.get("typ").and_then(Value::as_str)
    }

    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    #[cfg(feature = "incoming")]
    pub(crate) fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        expiration(&self.claims)
    }

    /// Returns `true` if the claim is there and not `null`.
    pub(crate) fn has(&self, claim: &str) -> bool {
        self.claims.get(claim).is_some_and(|claim| !claim.is_null())
    }

    /// Returns the values of a claim that is a string or a list of strings, or `None` if it is neither or absent.
    pub(crate) fn texts(&self, claim: &str) -> Option<Vec<&str>> {
        match self.claims.get(claim)? {
            Value::String(text) => Some(vec![text]),
            Value::Array(values) => values.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }
}

/// Returns the `exp` claim (RFC 7519 §4.1.4). A value that is not a time, or that no clock can express, counts as
/// absent.
pub(crate) fn expiration(claims: &Map<String, Value>) -> Option<SystemTime> {
    numeric_date(claims.get("exp")?).ok()?
}

/// A value is not a `NumericDate`.
pub(crate) struct NotATime;

/// Reads a `NumericDate` (RFC 7519 §2): seconds since 1970, with or without a fraction. A time before 1970 counts as
/// 1970. Returns `None` if no clock can express the time.
pub(crate) fn numeric_date(value: &Value) -> Result<Option<SystemTime>, NotATime> {
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite());
    let seconds = seconds.ok_or(NotATime)?.max(0.0);
    let since_1970 = Duration::try_from_secs_f64(seconds).ok();
    Ok(since_1970.and_then(|since_1970| UNIX_EPOCH.checked_add(since_1970)))
}

/// Decodes the header or the claims of a JWT.
pub(crate) fn decode_object(part: &str) -> Option<Map<String, Value>> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(part).ok()?);
    serde_json::from_slice(&bytes).ok()
}

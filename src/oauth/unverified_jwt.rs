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
    /// `None`, if the text does not have the form of a signed JWT (RFC 7515 §7.1).
    pub(crate) fn decode(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(())?;
        Some(Self {
            header: decode_object(header)?,
            claims: decode_object(claims)?,
        })
    }

    /// The `typ` of its header.
    pub(crate) fn header_type(&self) -> Option<&str> {
        self.header.get("typ").and_then(Value::as_str)
    }

    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        expiration(&self.claims)
    }

    /// The values of a claim that is a string or a list of strings. `None`, if it is neither or absent.
    pub(crate) fn texts(&self, claim: &str) -> Option<Vec<&str>> {
        match self.claims.get(claim)? {
            Value::String(text) => Some(vec![text]),
            Value::Array(values) => values.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }
}

/// The `exp` claim (RFC 7519 §4.1.4). A time before 1970 counts as 1970. A time that no clock can tell counts as absent.
pub(crate) fn expiration(claims: &Map<String, Value>) -> Option<SystemTime> {
    let seconds = claims.get("exp")?.as_f64()?.max(0.0);
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(part).ok()?);
    serde_json::from_slice(&bytes).ok()
}

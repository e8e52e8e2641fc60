use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    incoming::{delegation, validator::validated_tokens::Validated},
    secret::AccessToken,
};

use super::rejected;

const SESSION_CLAIM: &str = "tsid";

/// The issuer and audiences of accepted tokens, and by how much clocks may differ.
pub(super) struct ExpectedClaims {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) leeway: Duration,
}

/// A valid token, and its expiry.
pub(super) struct Accepted {
    pub(super) validated: Validated,
    pub(super) expires_at: Option<SystemTime>,
}

impl ExpectedClaims {
    /// Checks the claims of a token that its issuer vouches for.
    pub(super) fn accept(
        &self,
        mut claims: Map<String, Value>,
        token: &str,
        now: SystemTime,
    ) -> Result<Accepted, AuthError> {
        let issuer = text(&claims, "iss")?;
        if issuer.is_some_and(|issuer| issuer != self.issuer) {
            return Err(rejected("the token is of another issuer"));
        }
        if !self.is_for_us(claims.get("aud")) {
            return Err(rejected("the token is for another audience"));
        }
        let expires_at = self.check_times(&claims, now)?;
        delegation::actors(&claims).map_err(rejected)?;
        let session = match claims.remove(SESSION_CLAIM) {
            None => None,
            Some(Value::String(session)) if !session.is_empty() => Some(session.into()),
            Some(_) => return Err(rejected("the token is malformed")),
        };
        Ok(Accepted {
            validated: Validated {
                identity: self.identity(claims, token)?,
                session,
            },
            expires_at,
        })
    }

    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        let is_ours = |audience: &Value| {
            let audience = audience.as_str();
            audience.is_some_and(|audience| self.audiences.iter().any(|ours| ours == audience))
        };
        match audience {
            Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
            Some(audience) => is_ours(audience),
            None => false,
        }
    }

    /// When the token ends, if it says so and a clock can tell.
    fn check_times(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, AuthError> {
        let now = seconds(now);
        let leeway = self.leeway.as_secs_f64();
        let expires = time(claims, "exp")?;
        if expires.is_some_and(|expires| expires + leeway <= now) {
            let error = AuthError::new(AuthErrorKind::Expired, "the caller's token has expired");
            return Err(error.with_description("the token has expired"));
        }
        for name in ["nbf", "iat"] {
            if time(claims, name)?.is_some_and(|time| time - leeway > now) {
                return Err(rejected("the token is not valid yet"));
            }
        }
        Ok(expires
            .and_then(|expires| Duration::try_from_secs_f64(expires).ok())
            .and_then(|expires| UNIX_EPOCH.checked_add(expires)))
    }

    fn identity(&self, claims: Map<String, Value>, token: &str) -> Result<Identity, AuthError> {
        let subject = text(&claims, "sub")?.unwrap_or_default();
        let mut identity = Identity::builder(subject).issuer(&self.issuer);
        if let Some(name) = claims.get("name").and_then(Value::as_str) {
            identity = identity.name(name);
        }
        if let Some(email) = claims.get("email").and_then(Value::as_str) {
            identity = identity.email(email);
        }
        let token = AccessToken::new(token).map_err(|_| rejected("the token is malformed"))?;
        identity
            .claims(claims)
            .token(token)
            .build()
            .map_err(|_| rejected("the token has no subject"))
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(rejected("the token is malformed")),
    }
}

/// A `NumericDate` (RFC 7519 §2), in seconds.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(time) => match time.as_f64().filter(|time| time.is_finite()) {
            Some(time) => Ok(Some(time)),
            None => Err(rejected("the token is malformed")),
        },
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

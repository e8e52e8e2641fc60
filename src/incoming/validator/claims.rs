use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::{Identity, Reading},
    incoming::{delegation, issuer::TrustedIssuer},
    oauth::unverified_jwt::numeric_date,
    secret::AccessToken,
};

use super::{
    bindings::Bindings,
    rejected,
    token_kind::{self, Wanted},
};

/// The requirements for every token, whoever issued it.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    /// By how much clocks may differ.
    pub(super) leeway: Duration,
    /// Whether tokens pass that are bound to something else than what is checked here.
    pub(super) bound_tokens: bool,
    pub(super) wanted: Wanted,
}

/// The way in which an issuer vouches for claims.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    Signature,
    Introspection,
}

/// Claims that an issuer vouches for, and the token that they are of.
pub(super) struct Vouched<'a> {
    pub(super) issuer: &'a TrustedIssuer,
    pub(super) source: Source,
    pub(super) claims: Map<String, Value>,
    pub(super) token: &'a str,
    /// When the token came.
    pub(super) reading: Reading,
}

/// An accepted token, what it is bound to, and its end.
pub(super) struct Accepted {
    pub(super) identity: Identity,
    pub(super) bindings: Option<Arc<Bindings>>,
    pub(super) expires_at: Option<SystemTime>,
}

impl Admission {
    pub(super) fn accept(
        &self,
        vouched: Vouched<'_>,
        now: SystemTime,
    ) -> Result<Accepted, AuthError> {
        let Vouched {
            issuer: trusted,
            source,
            claims,
            token,
            reading,
        } = vouched;
        let issuer = match text(&claims, "iss")? {
            Some(issuer) if trusted.id.is_of(issuer, &claims) => issuer.to_owned(),
            Some(_) => return Err(rejected("the token is of another issuer (`iss`)")),
            None if source == Source::Introspection && !trusted.id.is_template() => {
                trusted.id.as_str().to_owned()
            }
            None => return Err(rejected("the token does not say who issued it (`iss`)")),
        };
        check_audience(&claims, trusted)?;
        let expires_at = self.check_times(&claims, source, now)?;
        token_kind::check(&claims, source, self.wanted)?;
        let bindings = Bindings::read(&claims, self.bound_tokens)?;
        delegation::actors(&claims).map_err(rejected)?;
        Ok(Accepted {
            identity: identity(issuer, claims, token, reading)?,
            bindings,
            expires_at,
        })
    }

    /// When the token ends, if it says so and a clock can tell.
    fn check_times(
        &self,
        claims: &Map<String, Value>,
        source: Source,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, AuthError> {
        let expires = time(claims, "exp")?;
        if expires.is_none() && source == Source::Signature {
            return Err(rejected("the token has no `exp`, so it would never expire"));
        }
        let expires_at = expires.flatten();
        let overdue = expires_at.and_then(|expires_at| now.duration_since(expires_at).ok());
        if overdue.is_some_and(|overdue| overdue >= self.leeway) {
            let error = AuthError::new(AuthErrorKind::Expired, "the caller's token has expired");
            return Err(error.with_description("the token has expired"));
        }
        for name in ["nbf", "iat"] {
            // A time that no clock can tell is to come.
            let is_past = |time: Option<SystemTime>| {
                let until = |time: SystemTime| time.duration_since(now).unwrap_or_default();
                time.is_some_and(|time| until(time) <= self.leeway)
            };
            if time(claims, name)?.is_some_and(|time| !is_past(time)) {
                return Err(rejected("the token is not valid yet"));
            }
        }
        Ok(expires_at)
    }
}

fn check_audience(claims: &Map<String, Value>, trusted: &TrustedIssuer) -> Result<(), AuthError> {
    let is_ours = |audience: &Value| {
        let audience = audience.as_str();
        audience.is_some_and(|audience| trusted.audiences.iter().any(|ours| ours == audience))
    };
    let is_for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
        Some(audience @ Value::String(_)) => is_ours(audience),
        Some(_) => return Err(odd("aud")),
        None if trusted.clients.is_empty() => false,
        None => {
            let client = text(claims, "client_id")?;
            client.is_some_and(|client| trusted.clients.iter().any(|known| known == client))
        }
    };
    if is_for_us {
        Ok(())
    } else {
        Err(rejected(
            "the token is for another audience, or for none (`aud`)",
        ))
    }
}

fn identity(
    issuer: String,
    claims: Map<String, Value>,
    token: &str,
    reading: Reading,
) -> Result<Identity, AuthError> {
    let subject = text(&claims, "sub")?.unwrap_or_default();
    let mut identity = Identity::builder(subject).issuer(issuer).of(reading);
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

/// When a token says that it was issued, whether or not that is true.
pub(super) fn issued_at(claims: &Map<String, Value>) -> Option<SystemTime> {
    numeric_date(claims.get("iat")?).ok()?
}

pub(super) fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(odd(name)),
    }
}

/// `Some(None)`, when no clock can tell the time.
fn time(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<Option<SystemTime>>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(time) => numeric_date(time).map(Some).map_err(|_| odd(name)),
    }
}

/// A claim that is `null`, or of another type than it has.
#[cold]
fn odd(name: &'static str) -> AuthError {
    rejected(match name {
        "iss" => "the claim `iss` of the token is not a string",
        "sub" => "the claim `sub` of the token is not a string",
        "aud" => "the claim `aud` of the token is neither a string nor a list",
        "client_id" => "the claim `client_id` of the token is not a string",
        "exp" => "the claim `exp` of the token is not a time",
        "nbf" => "the claim `nbf` of the token is not a time",
        "iat" => "the claim `iat` of the token is not a time",
        _ => "the token is malformed",
    })
}

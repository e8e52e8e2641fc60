use std::{fmt, time::Duration};

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::secret::{AccessToken, Secret};

use super::request::{TokenRequest, TokenType};

/// The longest lifetime that is believed.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a token endpoint issued (RFC 6749 §5.1, RFC 8693 §2.2.1).
#[derive(Clone)]
pub struct TokenResponse<T = AccessToken> {
    token: T,
    lifetime: Lifetime,
    scope: Option<String>,
    refresh_token: Option<Secret>,
    id_token: Option<Secret>,
}

impl<T> TokenResponse<T> {
    /// The token.
    pub fn token(&self) -> &T {
        &self.token
    }

    /// The token, and nothing else.
    pub fn into_token(self) -> T {
        self.token
    }

    /// For how long the token is good, counted from when the request was sent.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// What the token allows, if the issuer says so; it may be less than was asked for (RFC 6749 §5.1).
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// The refresh token, if one was issued. The one that was used for this request may then be void (RFC 6749 §6).
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }

    /// The ID token, if one was issued (OIDC Core §3.1.3.3).
    pub fn id_token(&self) -> Option<&Secret> {
        self.id_token.as_ref()
    }
}

impl<T> fmt::Debug for TokenResponse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("lifetime", &self.lifetime)
            .field("refresh_token", &self.refresh_token)
            .field("id_token", &self.id_token)
            .finish_non_exhaustive()
    }
}

/// For how long a token is good: its `expires_in`.
///
/// | `expires_in` | lifetime |
/// | --- | --- |
/// | absent | `Unknown` |
/// | 1 and above, as an integer, a float or a text (`3600`, `3600.0`, `"3600"`) | `For`, in whole seconds, at most a day |
/// | below 1, `null`, or anything else | `Spent` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The issuer does not say. It does not mean for ever: keep the token for a short while at most.
    Unknown,
    /// The token is at its end, or how long it is good cannot be told. It may be used once, now, and is not to be kept.
    Spent,
    /// So long, and at most 24 hours, whatever the issuer says.
    For(Duration),
}

impl Lifetime {
    fn of(expires_in: Option<&Value>) -> Self {
        let seconds = match expires_in {
            None => return Self::Unknown,
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match seconds.filter(|seconds: &f64| seconds.is_finite()) {
            Some(seconds) if seconds >= LONGEST.as_secs_f64() => Self::For(LONGEST),
            Some(seconds) if seconds >= 1.0 => Self::For(Duration::from_secs(seconds as u64)),
            _ => Self::Spent,
        }
    }
}

/// The members of the JSON object in an answer. What is not taken out is wiped.
pub(super) struct Members {
    map: Map<String, Value>,
}

impl Members {
    /// `None` for what is not a JSON object. `serde_json` quotes the text in its errors, so they go no further.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok().map(|map| Self { map })
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.text("error")
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.map
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        match self.map.get_mut(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(std::mem::take(text)),
            _ => None,
        }
    }

    fn take_secret(&mut self, name: &str) -> Option<Secret> {
        self.take(name).and_then(|text| Secret::new(text).ok())
    }

    fn into_response<T>(mut self, token: T) -> TokenResponse<T> {
        TokenResponse {
            token,
            lifetime: Lifetime::of(self.map.get("expires_in")),
            scope: self.take("scope"),
            refresh_token: self.take_secret("refresh_token"),
            id_token: self.take_secret("id_token"),
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for value in self.map.values_mut() {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

pub(super) fn bearer(
    request: &TokenRequest,
    mut members: Members,
) -> Result<TokenResponse<AccessToken>, &'static str> {
    match members.text("token_type") {
        Some(token_type) if token_type.eq_ignore_ascii_case("bearer") => {}
        Some(_) => return Err("issued a token that is no bearer token"),
        None => return Err("issued a token without its `token_type`"),
    }
    match members.text("issued_token_type") {
        Some(issued) if issued == TokenType::AccessToken.urn() => {}
        Some(issued) if issued == TokenType::Jwt.urn() => {}
        Some(_) => return Err("issued a token of a type that cannot be a bearer token"),
        None if request.is_token_exchange() => {
            return Err("issued a token without its `issued_token_type` (RFC 8693 §2.2.1)");
        }
        None => {}
    }
    let token = members
        .take("access_token")
        .ok_or("issued no access token")?;
    let token =
        AccessToken::new(token).map_err(|_| "issued an access token that cannot be sent")?;
    Ok(members.into_response(token))
}

pub(super) fn assertion(
    request: &TokenRequest,
    mut members: Members,
) -> Result<TokenResponse<Secret>, &'static str> {
    match members.text("token_type") {
        Some(token_type) if token_type.eq_ignore_ascii_case("N_A") => {}
        _ => return Err("issued something else than an assertion (`token_type` is not `N_A`)"),
    }
    if members.text("issued_token_type") != request.requested().map(TokenType::urn) {
        return Err("issued an assertion of another type than was asked for");
    }
    let token = members
        .take_secret("access_token")
        .ok_or("issued no assertion")?;
    Ok(members.into_response(token))
}

use std::{fmt, time::Duration};

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::{
    error::AuthErrorKind,
    secret::{AccessToken, Secret},
};

use super::{request::TokenRequest, token_type::TokenType};

/// The longest lifetime that is accepted.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A token that a token endpoint issued, with the rest of its response (RFC 6749 §5.1, RFC 8693 §2.2.1).
///
/// Needs the feature `token-exchange`.
///
/// [`TokenEndpoint`](crate::TokenEndpoint) has an example.
#[derive(Clone)]
pub struct TokenResponse<T = AccessToken> {
    token: T,
    is_dpop_bound: bool,
    lifetime: Lifetime,
    scope: Option<String>,
    refresh_token: Option<Secret>,
    id_token: Option<Secret>,
}

impl<T> TokenResponse<T> {
    /// Returns the token.
    pub fn token(&self) -> &T {
        &self.token
    }

    /// Returns `true` if the token is bound to a key (`token_type: DPoP`). It is then sent as `Authorization: DPoP …` with a
    /// proof (RFC 9449 §7.1), and not as a bearer token.
    pub fn is_dpop_bound(&self) -> bool {
        self.is_dpop_bound
    }

    /// Returns the token, and drops the rest of the response.
    pub fn into_token(self) -> T {
        self.token
    }

    /// Returns how long the token is valid, counted from when the request was sent.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Returns the scopes of the token, if the issuer names them. They may be fewer than requested (RFC 6749 §5.1).
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Returns the refresh token, if one was issued. The refresh token that was used for this request may then be
    /// invalid (RFC 6749 §6).
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }

    /// Returns the ID token, if one was issued (OIDC Core §3.1.3.3).
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

/// The time for which a token is valid, as read from `expires_in`.
///
/// Needs the feature `token-exchange`.
///
/// | `expires_in` | lifetime |
/// | --- | --- |
/// | absent | `Unknown` |
/// | 1 and above, as an integer, a float or a text (`3600`, `3600.0`, `"3600"`) | `For`, in whole seconds, at most a day |
/// | below 1, `null`, or anything else | `Spent` |
///
/// [`TokenEndpoint`](crate::TokenEndpoint) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The issuer gives no lifetime. This does not mean forever. Keep the token only for a short time.
    Unknown,
    /// The token expires now, or its lifetime cannot be read. It is sent with the requests that wait for it, and is not
    /// cached.
    Spent,
    /// The token is valid for this time. A longer lifetime than 24 hours is read as 24 hours.
    For(Duration),
}

impl Lifetime {
    fn of(expires_in: Option<&Value>, longest: Duration) -> Self {
        let seconds = match expires_in {
            None => return Self::Unknown,
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match seconds.filter(|seconds: &f64| seconds.is_finite()) {
            Some(seconds) if seconds >= longest.as_secs_f64() => Self::For(longest),
            Some(seconds) if seconds >= 1.0 => Self::For(Duration::from_secs(seconds as u64)),
            _ => Self::Spent,
        }
    }
}

/// How the answers of an issuer differ from RFC 6749 §5.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    /// Values of `token_type` that mean a bearer token, besides `Bearer`.
    pub(crate) bearer_types: &'static [&'static str],
    /// Whether a token without a `token_type` is a bearer token.
    pub(crate) type_is_optional: bool,
    /// Whether a success may be a form instead of JSON.
    pub(crate) answers_as_form: bool,
    /// The member with the user's own token, if that is not at the top.
    pub(crate) user_member: Option<&'static str>,
    /// The longest lifetime that is accepted.
    pub(crate) longest: Duration,
    /// The tokens that are accepted.
    #[cfg(feature = "dpop")]
    pub(crate) binding: Binding,
}

/// Whether an access token is bound to a key.
#[cfg(feature = "dpop")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Binding {
    Bearer,
    Dpop,
    Either,
}

/// A success without a usable token.
pub(super) struct Unusable {
    pub(super) kind: AuthErrorKind,
    pub(super) fault: &'static str,
}

impl From<&'static str> for Unusable {
    fn from(fault: &'static str) -> Self {
        Self {
            kind: AuthErrorKind::Unavailable,
            fault,
        }
    }
}

impl Dialect {
    pub(crate) const STANDARD: Self = Self {
        bearer_types: &[],
        type_is_optional: false,
        answers_as_form: false,
        user_member: None,
        longest: LONGEST,
        #[cfg(feature = "dpop")]
        binding: Binding::Bearer,
    };

    /// Whether a token of this type is bound to a key, or why it is not accepted.
    fn is_dpop_bound(&self, token_type: Option<&str>) -> Result<bool, Unusable> {
        let is_dpop = |token_type: &str| token_type.eq_ignore_ascii_case("DPoP");
        match token_type {
            #[cfg(feature = "dpop")]
            Some(token_type) if is_dpop(token_type) && self.binding != Binding::Bearer => Ok(true),
            Some(token_type) if is_dpop(token_type) => Err(Unusable {
                kind: AuthErrorKind::Configuration,
                fault: "issued a token that is bound to a key, but was given none (DPoP); bind the client's tokens to \
                        no key there, or set `dpop` here",
            }),
            Some(token_type) if !self.is_bearer(token_type) => {
                Err("issued a token that is no bearer token".into())
            }
            None if !self.type_is_optional => Err("issued a token without its `token_type`".into()),
            #[cfg(feature = "dpop")]
            _ if self.binding == Binding::Dpop => Err(Unusable {
                kind: AuthErrorKind::Configuration,
                fault: "issued a bearer token although the request has a DPoP proof, so the token is bound to no key; \
                        enable DPoP there, or accept such tokens with `allow_bearer_tokens`",
            }),
            _ => Ok(false),
        }
    }

    fn is_bearer(&self, token_type: &str) -> bool {
        let mut others = self.bearer_types.iter();
        token_type.eq_ignore_ascii_case("bearer")
            || others.any(|other| token_type.eq_ignore_ascii_case(other))
    }
}

const MAX_FORM_MEMBERS: usize = 64;

/// No server takes a header that is longer, and a cache keeps the tokens of many users.
const MAX_TOKEN: usize = 64 << 10;

/// Returns `true` if `text` contains a secret, or is a part of one. A part shorter than eight bytes does not count.
pub(super) fn repeats(text: &str, secret: &str) -> bool {
    const SHORTEST: usize = 8;

    let is_part = |part: &str, whole: &str| part.len() >= SHORTEST && whole.contains(part);
    !secret.is_empty() && (text == secret || is_part(secret, text) || is_part(text, secret))
}

/// The members of the JSON object in a response. The members that are not taken out are wiped.
pub(super) struct Members {
    map: Map<String, Value>,
}

impl Members {
    /// Reads a JSON object, or returns `None`. The errors of `serde_json` are dropped, because they quote the text.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        // A parser may ignore a byte order mark (RFC 8259 §8.1), and some frameworks write one.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        serde_json::from_slice(body).ok().map(|map| Self { map })
    }

    /// Reads a form, which GitHub sends if the request does not ask for JSON. Only refusals are read from a form.
    pub(super) fn parse_form(body: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(body).take(MAX_FORM_MEMBERS);
        let map = pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())));
        Self { map: map.collect() }
    }

    /// Returns `true` if the response reports an error, whatever its status.
    pub(super) fn is_refusal(&self) -> bool {
        let has_error = !matches!(
            self.map.get("error"),
            None | Some(Value::Null | Value::Bool(false))
        ) && self.map.get("error") != Some(&Value::String(String::new()));
        let is_not_ok = self.map.get("ok") == Some(&Value::Bool(false));
        let has_error_code =
            self.text("errorCode").is_some() && self.text("access_token").is_none();
        has_error || is_not_ok || has_error_code
    }

    /// Returns the error code for programs: `error` (RFC 6749 §5.2), or Okta's `errorCode`.
    pub(super) fn error_code(&self) -> Option<&str> {
        self.text("error").or_else(|| self.text("errorCode"))
    }

    /// Returns the code to look up in the table of refusals. Issuers that leave out `error` put it elsewhere: in
    /// `status` (HubSpot), in `code` (Notion), or in an object (Google, and with `code` others).
    pub(super) fn refusal_code(&self) -> Option<&str> {
        let in_object = || {
            let error = self.map.get("error")?.as_object()?;
            let mut names = ["status", "code", "type"].into_iter();
            names.find_map(|name| error.get(name)?.as_str())
        };
        self.error_code()
            .or_else(in_object)
            .or_else(|| self.text("status"))
            .or_else(|| self.text("code"))
    }

    /// Returns a number of whole seconds, which may be a number or a text of digits.
    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        match self.map.get(name)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok()
            }
            _ => None,
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        self.map.get(name)?.as_array().map(Vec::as_slice)
    }

    /// Returns `true` if `text` repeats a token or a secret of the response.
    pub(super) fn repeats_secret(&self, text: &str) -> bool {
        let is_secret = |name: &str| name.ends_with("token") || name.ends_with("secret");
        let mut members = self.map.iter();
        members.any(|(name, value)| {
            let value = value.as_str().filter(|_| is_secret(name));
            value.is_some_and(|value| repeats(text, value))
        })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
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

    /// Returns the members of the user's own token, where the issuer nests them.
    pub(super) fn of_user(mut self, dialect: &Dialect) -> Self {
        let nested = dialect
            .user_member
            .and_then(|name| self.map.get_mut(name)?.as_object_mut())
            .filter(|nested| nested.contains_key("access_token"))
            .map(std::mem::take);
        match nested {
            Some(map) => Self { map },
            None => self,
        }
    }

    fn check_length(&self) -> Result<(), &'static str> {
        let token = self.text("access_token").unwrap_or_default();
        match token.len() <= MAX_TOKEN {
            true => Ok(()),
            false => Err("issued a token of more than 64 KiB, which fits into no header"),
        }
    }

    pub(super) fn take_refresh_token(&mut self) -> Option<Secret> {
        self.take_secret("refresh_token")
    }

    fn take_secret(&mut self, name: &str) -> Option<Secret> {
        self.take(name).and_then(|text| Secret::new(text).ok())
    }

    /// Returns the lifetime, or the shorter one if there are two. Zoho sends two: its `expires_in` may be in
    /// milliseconds, and its `expires_in_sec` is in seconds.
    fn lifetime(&self, longest: Duration) -> Lifetime {
        let lifetime = Lifetime::of(self.map.get("expires_in"), longest);
        match Lifetime::of(self.map.get("expires_in_sec"), longest) {
            Lifetime::For(in_seconds) => match lifetime {
                Lifetime::For(lifetime) => Lifetime::For(lifetime.min(in_seconds)),
                other => other,
            },
            _ => lifetime,
        }
    }

    fn into_response<T>(mut self, token: T, longest: Duration) -> TokenResponse<T> {
        TokenResponse {
            token,
            is_dpop_bound: false,
            lifetime: self.lifetime(longest),
            scope: self.take("scope"),
            refresh_token: self.take_refresh_token(),
            id_token: self.take_secret("id_token"),
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        wipe(&mut self.map);
    }
}

fn wipe(members: &mut Map<String, Value>) {
    for value in members.values_mut() {
        match value {
            Value::String(text) => text.zeroize(),
            Value::Object(members) => wipe(members),
            _ => {}
        }
    }
}

pub(super) fn bearer(
    request: &TokenRequest,
    mut members: Members,
    dialect: &Dialect,
) -> Result<TokenResponse<AccessToken>, Unusable> {
    let is_dpop_bound = dialect.is_dpop_bound(members.text("token_type"))?;
    match members.text("issued_token_type") {
        Some(issued) if issued == TokenType::AccessToken.urn() => {}
        Some(issued) if issued == TokenType::Jwt.urn() => {}
        Some(issued)
            if request
                .requested()
                .is_some_and(|asked| asked.urn() == issued) => {}
        Some(_) => return Err("issued a token of a type that cannot be a bearer token".into()),
        None if request.is_token_exchange() => {
            return Err("issued a token without its `issued_token_type` (RFC 8693 §2.2.1)".into());
        }
        None => {}
    }
    members.check_length()?;
    let token = members
        .take("access_token")
        .ok_or("issued no access token")?;
    let token =
        AccessToken::new(token).map_err(|_| "issued an access token that cannot be sent")?;
    let mut response = members.into_response(token, dialect.longest);
    response.is_dpop_bound = is_dpop_bound;
    Ok(response)
}

pub(super) fn assertion(
    request: &TokenRequest,
    mut members: Members,
    dialect: &Dialect,
) -> Result<TokenResponse<Secret>, Unusable> {
    match members.text("token_type") {
        Some(token_type) if token_type.eq_ignore_ascii_case("N_A") => {}
        _ => {
            return Err(
                "issued something else than an assertion (`token_type` is not `N_A`)".into(),
            );
        }
    }
    if members.text("issued_token_type") != request.requested().map(TokenType::urn) {
        return Err("issued an assertion of another type than was asked for".into());
    }
    members.check_length()?;
    let token = members
        .take_secret("access_token")
        .ok_or("issued no assertion")?;
    Ok(members.into_response(token, dialect.longest))
}

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::error::{AuthErrorKind, Faults};

use super::{
    refusal_codes::{self, Meaning},
    request::TokenRequest,
    response::Members,
};

/// The longest `Retry-After` that is believed.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Entra answers `invalid_grant` with this number to a client that asks in a loop.
const ENTRA_REQUEST_LOOP: u64 = 50196;

/// An answer that is no success, and what it means for the caller.
pub(super) struct Refusal {
    pub(super) kind: AuthErrorKind,
    status: StatusCode,
    /// As the table has it: the issuer's own text is never shown.
    code: Option<&'static str>,
    advice: &'static str,
}

/// The rows that an operator added for an issuer.
#[derive(Clone, Default)]
pub(super) struct OwnRows {
    rows: Vec<(String, AuthErrorKind)>,
}

impl OwnRows {
    /// The last row of a code counts.
    pub(super) fn add(&mut self, code: String, kind: AuthErrorKind) {
        self.rows.retain(|(known, _)| *known != code);
        self.rows.push((code, kind));
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        for (code, kind) in &self.rows {
            // RFC 6749 §5.2.
            let is_code = (1..=128).contains(&code.len())
                && code
                    .bytes()
                    .all(|byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
            if !is_code {
                faults.add(
                    "refusal",
                    "has an error code that is not 1 to 128 ASCII characters without quotes, backslashes and control \
                     characters (RFC 6749 §5.2)",
                );
            }
            if !matches!(
                kind,
                AuthErrorKind::Rejected
                    | AuthErrorKind::InsufficientScope
                    | AuthErrorKind::Configuration
                    | AuthErrorKind::Unavailable
            ) {
                faults.add(
                    "refusal",
                    "has a kind that is none of a token endpoint: take `Rejected`, `InsufficientScope`, \
                     `Configuration` or `Unavailable`",
                );
            }
        }
    }

    fn find(&self, code: &str) -> Option<AuthErrorKind> {
        let mut rows = self.rows.iter();
        rows.find(|(known, _)| known == code).map(|(_, kind)| *kind)
    }
}

/// The answer that is no success, and the request that it answers.
pub(super) struct Refused<'a> {
    pub(super) request: &'a TokenRequest,
    pub(super) status: StatusCode,
    pub(super) members: Option<&'a Members>,
    /// The request has a DPoP proof.
    pub(super) has_proof: bool,
}

impl Refused<'_> {
    pub(super) fn classify(&self, own_rows: &OwnRows) -> Refusal {
        let written = self.members.and_then(Members::refusal_code);
        let row = written.and_then(refusal_codes::find);
        let code = row.map(|(code, _)| code);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return self.refusal(AuthErrorKind::Unavailable, code, ASK_LESS);
        }
        if let Some(kind) = written.and_then(|written| own_rows.find(written)) {
            return self.refusal(kind, code, advice_of(kind));
        }
        match self.status.as_u16() {
            408 | 425 | 500.. => {
                return self.refusal(AuthErrorKind::Unavailable, code, LATER);
            }
            300..400 => {
                return self.refusal(AuthErrorKind::Configuration, code, REDIRECT);
            }
            _ => {}
        }
        if let Some(meaning) = self.meaning(written, row) {
            let (kind, advice) = self.explain(meaning);
            return self.refusal(kind, code, advice);
        }
        let is_of_user = match self.status.as_u16() {
            400..=403 | 409 | 422 => true,
            status => (200..300).contains(&status),
        };
        if is_of_user && self.request.presents_token_of_user() {
            self.refusal(AuthErrorKind::Rejected, code, UNKNOWN_WITH_TOKEN)
        } else {
            self.refusal(AuthErrorKind::Configuration, code, UNKNOWN)
        }
    }

    fn meaning(
        &self,
        written: Option<&str>,
        row: Option<(&'static str, Meaning)>,
    ) -> Option<Meaning> {
        let Some((code, meaning)) = row else {
            return written
                .filter(|written| {
                    self.is_limit_of_zoho(written) || refusal_codes::is_rate_limit(written)
                })
                .map(|_| Meaning::RateLimit);
        };
        let description = self
            .members
            .and_then(|members| members.text("error_description"));
        if let Some(meaning) =
            description.and_then(|text| refusal_codes::find_by_description(code, text))
        {
            return Some(meaning);
        }
        Some(match code {
            "invalid_grant" if self.has_entra_number(ENTRA_REQUEST_LOOP) => Meaning::RateLimit,
            "access_denied" if self.status == StatusCode::UNAUTHORIZED => Meaning::Client,
            "access_denied" if self.is_failure_of_zoho() => Meaning::RateLimit,
            "unauthorized_client" if self.means_refresh_token(description) => Meaning::Token,
            _ => meaning,
        })
    }

    /// The kind for the caller of this grant, and the remedy.
    fn explain(&self, meaning: Meaning) -> (AuthErrorKind, &'static str) {
        use AuthErrorKind::{Configuration, InsufficientScope, Rejected, Unavailable};

        let has_user = self.request.presents_token_of_user();
        match meaning {
            Meaning::Passing => (Unavailable, LATER),
            Meaning::RateLimit => (Unavailable, ASK_LESS),
            Meaning::Client => (Configuration, CLIENT),
            Meaning::Target => (Configuration, REQUEST),
            Meaning::Nonce if self.has_proof => (Unavailable, NONCE),
            Meaning::Proof if self.has_proof => (Configuration, PROOF),
            Meaning::Nonce | Meaning::Proof => (Configuration, NO_PROOF),
            Meaning::Token if has_user => (Rejected, LOG_IN),
            Meaning::Step if has_user => (Rejected, STEP),
            Meaning::Form if has_user => (Rejected, UNKNOWN_WITH_TOKEN),
            Meaning::Scope if has_user => (InsufficientScope, SCOPE),
            Meaning::Form => (Configuration, REQUEST),
            Meaning::Token | Meaning::Step | Meaning::Scope => (Configuration, NO_USER),
        }
    }

    /// Whether `unauthorized_client` speaks of the refresh token, as with Atlassian (403) and GitHub (200).
    fn means_refresh_token(&self, description: Option<&str>) -> bool {
        let is_status = self.status == StatusCode::FORBIDDEN || self.status.is_success();
        let is_about_token = description.is_none_or(|description| {
            let description = refusal_codes::lower(description);
            let is_refused = ["invalid", "expired", "revoked", "unknown"]
                .iter()
                .any(|word| description.contains(word));
            is_refused && description.replace('_', " ").contains("refresh token")
        });
        self.request.is_refresh() && is_status && is_about_token
    }

    /// Zoho's limit is in words that are no code: `Access Denied`.
    fn is_limit_of_zoho(&self, written: &str) -> bool {
        let is_status = self.status == StatusCode::BAD_REQUEST || self.status.is_success();
        is_status && written.eq_ignore_ascii_case("access denied")
    }

    /// Zoho adds `status` to a limit that it calls `access_denied`.
    fn is_failure_of_zoho(&self) -> bool {
        let status = self.members.and_then(|members| members.text("status"));
        status == Some("failure")
    }

    fn has_entra_number(&self, number: u64) -> bool {
        let numbers = self.members.and_then(|members| members.list("error_codes"));
        numbers.is_some_and(|numbers| {
            let mut numbers = numbers.iter();
            numbers.any(|value| value.as_u64() == Some(number))
        })
    }

    fn refusal(
        &self,
        kind: AuthErrorKind,
        code: Option<&'static str>,
        advice: &'static str,
    ) -> Refusal {
        Refusal {
            kind,
            status: self.status,
            code,
            advice,
        }
    }
}

const LOG_IN: &str = "the user has to log in again";
const STEP: &str = "the user has to log in again, or to agree";
const SCOPE: &str = "the user may not have what was asked for; check the scopes and the audience";
const CLIENT: &str = "check the client's id, its secret or key, and what it is allowed to do";
const REQUEST: &str =
    "check the parameters, the audience and the resource against what the issuer supports";
const PROOF: &str = "the DPoP proof is not accepted; most often the clock of this machine is wrong, else check the URL \
     of the token endpoint and the key's algorithm";
const NO_PROOF: &str =
    "the client's tokens are bound to a key there (DPoP), but the request has no proof; set `dpop`";
const NONCE: &str =
    "the server does not accept the nonce that it gave, or gave none; try again later";
const NO_USER: &str = "no user takes part in this grant, so check the client, its scopes and its rights at the issuer";
const LATER: &str = "try again later";
const ASK_LESS: &str = "ask less often, and try again later";
const REDIRECT: &str = "redirects are not followed; configure the URL of the token endpoint itself";
const UNKNOWN: &str = "there is no error code that is known; check the URL and the parameters, and the issuer's own log";
const UNKNOWN_WITH_TOKEN: &str = "the user's token is not accepted, so they have to log in again; if it happens to all users, check the parameters \
     and the client";

/// The remedy where an operator's own row decided.
fn advice_of(kind: AuthErrorKind) -> &'static str {
    match kind {
        AuthErrorKind::Rejected => LOG_IN,
        AuthErrorKind::InsufficientScope => SCOPE,
        AuthErrorKind::Unavailable => LATER,
        _ => UNKNOWN,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status.as_u16())?;
        if let Some(code) = self.code {
            write!(f, " `{code}`")?;
        }
        write!(f, ": {}", self.advice)
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // What does not fit is long.
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST))
}

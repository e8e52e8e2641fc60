use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::error::AuthErrorKind;

use super::request::TokenRequest;

/// The longest `Retry-After` that is believed.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// That the endpoint said no, and what it means.
pub(super) struct Refusal {
    pub(super) kind: AuthErrorKind,
    status: StatusCode,
    code: Option<&'static str>,
    advice: &'static str,
}

/// The codes of RFC 6749 §5.2, of its extensions, and of issuers that are widely used.
const CODES: &[(&str, AuthErrorKind, &str)] = {
    use AuthErrorKind::{Configuration, InsufficientScope, Rejected, Unavailable};

    const LOG_IN: &str = "the user has to log in again";
    const ASK_USER: &str = "the user has to log in again and agree";
    const SCOPE: &str =
        "the user may not have what was asked for; check the scopes and the audience";
    const CLIENT: &str = "check the client's id, its secret or key, and what it is allowed to do";
    const REQUEST: &str =
        "check the parameters, the audience and the resource against what the issuer supports";
    const LATER: &str = "try again later";

    &[
        ("invalid_grant", Rejected, LOG_IN),
        ("invalid_token", Rejected, LOG_IN),
        ("expired_token", Rejected, LOG_IN),
        ("login_required", Rejected, LOG_IN),
        ("interaction_required", Rejected, ASK_USER),
        ("consent_required", Rejected, ASK_USER),
        ("invalid_scope", InsufficientScope, SCOPE),
        ("insufficient_scope", InsufficientScope, SCOPE),
        ("access_denied", InsufficientScope, SCOPE),
        ("invalid_client", Configuration, CLIENT),
        ("unauthorized_client", Configuration, CLIENT),
        ("invalid_request", Configuration, REQUEST),
        ("unsupported_grant_type", Configuration, REQUEST),
        ("invalid_target", Configuration, REQUEST),
        ("invalid_resource", Configuration, REQUEST),
        ("invalid_dpop_proof", Configuration, REQUEST),
        ("use_dpop_nonce", Configuration, REQUEST),
        ("server_error", Unavailable, LATER),
        ("temporarily_unavailable", Unavailable, LATER),
        ("slow_down", Unavailable, LATER),
    ]
};

pub(super) fn classify(request: &TokenRequest, status: StatusCode, code: Option<&str>) -> Refusal {
    let refusal = |kind, code, advice| Refusal {
        kind,
        status,
        code,
        advice,
    };
    let known = code.and_then(|code| CODES.iter().find(|(known, ..)| *known == code));
    match (status.as_u16(), known) {
        (429, known) => refusal(
            AuthErrorKind::Unavailable,
            known.map(|(code, ..)| *code),
            "ask less often, and try again later",
        ),
        (_, Some((code @ "invalid_request", ..))) if request.is_token_exchange() => refusal(
            AuthErrorKind::Rejected,
            Some(code),
            "the user's token is not accepted, so they have to log in again; if it happens to all users, check the \
             parameters",
        ),
        (_, Some((code, kind, advice))) => refusal(*kind, Some(code), advice),
        (408 | 425 | 500.., None) => refusal(AuthErrorKind::Unavailable, None, "try again later"),
        (300..400, None) => refusal(
            AuthErrorKind::Configuration,
            None,
            "redirects are not followed; configure the URL of the token endpoint itself",
        ),
        (_, None) => refusal(
            AuthErrorKind::Configuration,
            None,
            "there is no error code that is known; check the URL and the parameters, and the issuer's own log",
        ),
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

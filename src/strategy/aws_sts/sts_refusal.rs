//! The meaning of errors of AWS STS.

use std::time::{Duration, SystemTime};

use aws_sdk_sts::{
    error::{ProvideErrorMetadata, SdkError},
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::refusal::retry_after,
};

use super::arn::RoleArn;

/// The kind of an error, and advice.
type Meaning = (AuthErrorKind, &'static str);

#[cold]
pub(super) fn refusal(
    role: &RoleArn,
    error: SdkError<AssumeRoleWithWebIdentityError, HttpResponse>,
    now: SystemTime,
) -> AuthError {
    // What our own connector said.
    if let Some(error) = AuthError::find_in(&error) {
        return error.clone();
    }
    let Some(response) = error.raw_response() else {
        return AuthError::new(
            AuthErrorKind::Configuration,
            "AWS STS was not asked, because no request for it could be made; check the region and the endpoint",
        );
    };
    let status = response.status().as_u16();
    let answer = error.as_service_error();
    let code = answer.and_then(|error| error.code());
    let known = code.and_then(|code| {
        let message = answer.and_then(|error| error.message()).unwrap_or_default();
        meaning_of(code, message)
    });
    let (kind, advice) = match (status, known) {
        (429, _) => THROTTLED,
        (_, Some((_, meaning))) => meaning,
        (200..300, None) => (
            AuthErrorKind::Unavailable,
            "and what it answered is not what AWS STS answers; check its endpoint",
        ),
        (300..400, None) => (
            AuthErrorKind::Configuration,
            "redirects are not followed; configure the endpoint itself",
        ),
        (408 | 500.., None) => TRY_LATER,
        (_, None) => (
            AuthErrorKind::Configuration,
            "there is no error code that is known; check the endpoint, the session duration and the role",
        ),
    };
    let code = known.map_or(String::new(), |(code, _)| format!(" `{code}`"));
    tracing::debug!(role = role.as_str(), status, code, "AWS STS refused");
    // Not with the cause: AWS STS repeats what it was sent, the token too.
    let refusal = AuthError::new(
        kind,
        format!(
            "AWS STS answered {status}{code} for the role `{}`: {advice}",
            role.as_str()
        ),
    );
    match retry_after_of(response, now) {
        Some(retry_after) if kind == AuthErrorKind::Unavailable => {
            refusal.with_retry_after(retry_after)
        }
        _ => refusal,
    }
}

fn meaning_of(code: &str, message: &str) -> Option<(&'static str, Meaning)> {
    let (code, meaning) = *CODES.iter().find(|(known, _)| *known == code)?;
    let by_message = || {
        let code = code.strip_suffix("Exception").unwrap_or(code);
        let mut messages = MESSAGES.iter();
        let (.., meaning) = messages.find(|(of, beginning, _)| {
            *of == code && message.trim_start().starts_with(beginning)
        })?;
        Some(*meaning)
    };
    Some((code, by_message().unwrap_or(meaning)))
}

const THROTTLED: Meaning = (
    AuthErrorKind::Unavailable,
    "it is asked too often; try again later",
);
const LOG_IN_AGAIN: Meaning = (
    AuthErrorKind::Rejected,
    "the user's token is expired or not accepted, so they have to log in again; if it happens to all users, check the \
     identity provider in IAM and its audience",
);
const NOT_FOR_THIS_USER: Meaning = (
    AuthErrorKind::InsufficientScope,
    "the trust policy of the role does not let this user assume it",
);
const TRY_LATER: Meaning = (AuthErrorKind::Unavailable, "try again later");
const CONFIGURATION: Meaning = (
    AuthErrorKind::Configuration,
    "check the role, its maximum session duration, the session name and the session policies",
);

/// API Reference of AWS STS, "AssumeRoleWithWebIdentity" and "Common Error Types", and the throttling and transient errors
/// that the AWS SDKs share ("Retry behavior" in their reference guide).
const CODES: [(&str, Meaning); 34] = [
    ("AccessDenied", NOT_FOR_THIS_USER),
    ("AccessDeniedException", NOT_FOR_THIS_USER),
    ("BandwidthLimitExceeded", THROTTLED),
    ("EC2ThrottledException", THROTTLED),
    ("ExpiredToken", LOG_IN_AGAIN),
    ("ExpiredTokenException", LOG_IN_AGAIN),
    ("IDPCommunicationError", IDP_UNREACHABLE),
    ("IDPRejectedClaim", LOG_IN_AGAIN),
    ("InternalError", TRY_LATER),
    ("InternalFailure", TRY_LATER),
    ("InvalidAction", CONFIGURATION),
    ("InvalidIdentityToken", LOG_IN_AGAIN),
    ("InvalidIdentityTokenException", LOG_IN_AGAIN),
    ("InvalidParameterValue", CONFIGURATION),
    ("LimitExceededException", THROTTLED),
    ("MalformedPolicyDocument", CONFIGURATION),
    ("PackedPolicyTooLarge", TOO_LARGE),
    ("PriorRequestNotComplete", THROTTLED),
    ("ProvisionedThroughputExceededException", THROTTLED),
    ("RegionDisabledException", REGION_DISABLED),
    ("RequestLimitExceeded", THROTTLED),
    ("RequestThrottled", THROTTLED),
    ("RequestThrottledException", THROTTLED),
    ("RequestTimeout", TRY_LATER),
    ("RequestTimeoutException", TRY_LATER),
    ("ServiceUnavailable", TRY_LATER),
    ("ServiceUnavailableException", TRY_LATER),
    ("SlowDown", THROTTLED),
    ("ThrottledException", THROTTLED),
    ("Throttling", THROTTLED),
    ("ThrottlingException", THROTTLED),
    ("TooManyRequestsException", THROTTLED),
    ("TransactionInProgressException", THROTTLED),
    ("ValidationError", CONFIGURATION),
];

const IDP_UNREACHABLE: Meaning = (
    AuthErrorKind::Unavailable,
    "AWS could not reach the identity provider; try again later",
);
const TOO_LARGE: Meaning = (
    AuthErrorKind::Configuration,
    "the session policies, and the session tags in the user's token, are together too large; make them shorter",
);
const REGION_DISABLED: Meaning = (
    AuthErrorKind::Configuration,
    "STS is not active in this region for the account of the role",
);

const NOT_THE_RIGHT_TOKEN: Meaning = (
    AuthErrorKind::Configuration,
    "the user's token is no ID token that AWS can read; send the provider's ID token, signed with RS256, with the claims \
     `iss`, `sub`, `aud`, `iat` and `exp`",
);

/// One code has several meanings. The beginning of the message tells them apart.
const MESSAGES: [(&str, &str, Meaning); 6] = [
    (
        "InvalidIdentityToken",
        "The ID Token provided is not a valid JWT",
        NOT_THE_RIGHT_TOKEN,
    ),
    (
        "InvalidIdentityToken",
        "Missing a required claim",
        NOT_THE_RIGHT_TOKEN,
    ),
    (
        "InvalidIdentityToken",
        "No OpenIDConnect provider found",
        (
            AuthErrorKind::Configuration,
            "the account of the role has no identity provider in IAM for the issuer of the user's token; create it",
        ),
    ),
    (
        "InvalidIdentityToken",
        "Incorrect token audience",
        (
            AuthErrorKind::Configuration,
            "the identity provider in IAM does not list the audience of the user's token; add it",
        ),
    ),
    (
        "InvalidIdentityToken",
        "OpenIDConnect provider's HTTPS certificate doesn't match",
        (
            AuthErrorKind::Configuration,
            "the identity provider in IAM has another thumbprint than the issuer's certificate; correct it",
        ),
    ),
    (
        "InvalidIdentityToken",
        "Couldn't retrieve verification key",
        (
            AuthErrorKind::Unavailable,
            "AWS could not get the keys of the identity provider; try again later, and if it lasts, check that they can \
             be reached from the Internet",
        ),
    ),
];

fn retry_after_of(response: &HttpResponse, now: SystemTime) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    let value = response.headers().get(RETRY_AFTER.as_str())?;
    headers.insert(RETRY_AFTER, HeaderValue::from_str(value).ok()?);
    retry_after(&headers, now)
}

//! What an error tells a program, a person and a gateway's caller.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;
use tower::BoxError;
use tower_identity::{AuthError, AuthErrorKind, Origin};

const KINDS: [(AuthErrorKind, u16, Option<&str>); 9] = [
    (AuthErrorKind::MissingIdentity, 401, Some("Bearer")),
    (
        AuthErrorKind::MissingToken,
        401,
        Some(r#"Bearer error="invalid_token", error_description="log in again""#),
    ),
    (
        AuthErrorKind::Expired,
        401,
        Some(r#"Bearer error="invalid_token", error_description="log in again""#),
    ),
    (
        AuthErrorKind::Rejected,
        401,
        Some(r#"Bearer error="invalid_token", error_description="log in again""#),
    ),
    (
        AuthErrorKind::InsufficientScope,
        403,
        Some(r#"Bearer error="insufficient_scope""#),
    ),
    (AuthErrorKind::Unavailable, 503, None),
    (AuthErrorKind::Configuration, 500, None),
    (AuthErrorKind::WrongOrigin, 502, None),
    (AuthErrorKind::PayloadTooLarge, 413, None),
];

fn detailed(kind: AuthErrorKind) -> AuthError {
    AuthError::new(kind, "internal: the issuer at 10.0.0.7 said no")
        .with_backend(Origin::try_from("https://mcp.internal.example").unwrap())
        .with_provider("github")
        .with_source(io::Error::other("connection reset by 10.0.0.7"))
}

#[test]
fn f29_each_kind_has_its_answer() {
    for (kind, status, challenge) in KINDS {
        let response = AuthError::new(kind, "").to_response::<Bytes>();
        assert_eq!(response.status(), status, "{kind:?}");
        let sent = response
            .headers()
            .get("www-authenticate")
            .map(|value| value.to_str().unwrap());
        assert_eq!(sent, challenge, "{kind:?}");
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 503,
            "{kind:?}"
        );
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert!(body["error"].is_string() && body["error_description"].is_string());
    }
}

#[test]
fn an_answer_says_nothing_of_what_is_inside() {
    for (kind, ..) in KINDS {
        let answer = format!("{:?}", detailed(kind).to_response::<Bytes>());
        for inside in ["10.0.0.7", "internal", "github", "mcp."] {
            assert!(!answer.contains(inside), "{answer}");
        }
    }
}

#[test]
fn a_carried_challenge_is_handed_on() {
    let challenge = HeaderValue::from_static(
        r#"Bearer resource_metadata="https://gateway.example.com/.well-known""#,
    );
    for kind in [AuthErrorKind::Rejected, AuthErrorKind::InsufficientScope] {
        let response = AuthError::new(kind, "")
            .with_challenge(challenge.clone())
            .to_response::<Full<Bytes>>();
        assert_eq!(response.headers()["www-authenticate"], challenge);
    }
}

#[test]
fn retry_after_is_whole_seconds_rounded_up() {
    for (wait, header) in [
        (Duration::from_millis(1), "1"),
        (Duration::from_millis(1500), "2"),
        (Duration::from_secs(60), "60"),
        (Duration::ZERO, "1"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let error = AuthError::new(AuthErrorKind::Unavailable, "").with_retry_after(wait);
        assert_eq!(
            error.to_response::<Bytes>().headers()["retry-after"],
            header,
            "{wait:?}"
        );
    }
}

#[test]
fn a_person_reads_what_failed_and_for_whom_and_the_cause_is_not_repeated() {
    let error = detailed(AuthErrorKind::Unavailable);
    let shown = error.to_string();
    assert!(shown.contains("said no"), "{shown}");
    assert!(shown.contains("https://mcp.internal.example"), "{shown}");
    assert!(shown.contains("github"), "{shown}");
    assert!(!shown.contains("connection reset"), "{shown}");
    assert_eq!(
        error.source().unwrap().to_string(),
        "connection reset by 10.0.0.7"
    );
}

#[test]
fn an_error_that_is_shared_is_the_same_for_all() {
    let error = detailed(AuthErrorKind::Unavailable);
    let shared = error.clone().with_retry_after(Duration::from_secs(5));
    assert_eq!(shared.to_string(), error.to_string());
    assert_eq!(error.retry_after(), None, "a clone is changed on its own");
    assert!(shared.source().is_some());
}

#[test]
fn f58_an_auth_error_is_found_in_what_hides_it_from_the_chain_of_sources() {
    let error = || AuthError::new(AuthErrorKind::Expired, "the token has expired");
    let shared: Arc<dyn Error + Send + Sync> = Arc::new(error());
    let wrapped: [BoxError; 9] = [
        error().into(),
        io::Error::other(error()).into(),
        io::Error::other(io::Error::other(error())).into(),
        io::Error::other(BoxError::from(error())).into(),
        Box::new(Box::new(error())),
        Box::new(Arc::new(error())),
        Box::new(shared),
        Box::new(Arc::new(io::Error::other(error()))),
        Box::new(Box::new(io::Error::other(error()))),
    ];
    for error in wrapped {
        let found = AuthError::find_in(error.as_ref());
        let kind = found.map(AuthError::kind);
        assert_eq!(kind, Some(AuthErrorKind::Expired), "{error:?}");
    }
}

#[test]
fn another_error_holds_no_auth_error() {
    let error: BoxError = io::Error::other("connection reset").into();
    assert!(AuthError::find_in(error.as_ref()).is_none());
}

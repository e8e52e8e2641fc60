//! Claims as headers: which values can be one, and what becomes of the others.

use http::{HeaderMap, Request};
use serde_json::{Value, json};
use tower_identity::{AuthError, AuthErrorKind, ClaimInjection, HealthCheck, Identity, Strategy};

fn alice(claims: &Value) -> Identity {
    let identity = Identity::builder("alice").claims(claims.as_object().unwrap().clone());
    identity.build().unwrap()
}

fn sent(strategy: &ClaimInjection, request: Request<()>) -> Result<HeaderMap, AuthError> {
    let mut request = request;
    let authenticating = strategy.authenticate(&mut request);
    let done = futures_util::FutureExt::now_or_never(authenticating.complete(request));
    done.unwrap().map(|request| request.headers().clone())
}

fn request(claims: &Value) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(alice(claims));
    request
}

#[test]
fn the_listed_claims_arrive_in_place_of_what_the_caller_sent() {
    let strategy = ClaimInjection::builder()
        .claim("sub")
        .claim("given_name")
        .claim_as("email", "x-user-mail")
        .build()
        .unwrap();
    let claims = json!({ "email": "alice@example.com", "given_name": "Alice", "age": 41 });
    let mut request = request(&claims);
    for forged in [
        "x-claim-sub",
        "x_claim_sub",
        "x-claim_given-name",
        "x-user-mail",
    ] {
        request
            .headers_mut()
            .append(forged, "mallory".parse().unwrap());
    }
    let headers = sent(&strategy, request).unwrap();
    assert_eq!(headers.len(), 3, "{headers:?}");
    assert_eq!(headers["x-claim-sub"], "alice");
    assert_eq!(headers["x-claim-given-name"], "Alice");
    assert_eq!(headers["x-user-mail"], "alice@example.com");
    assert!(headers.values().all(|value| value.is_sensitive()));
}

#[test]
fn a_health_check_brings_no_claims_and_no_forged_ones_and_nobody_is_nobody() {
    let strategy = ClaimInjection::builder().claim("sub").build().unwrap();
    let mut probe = Request::new(());
    probe.extensions_mut().insert(HealthCheck);
    for forged in ["x-claim-sub", "x_claim_sub"] {
        probe
            .headers_mut()
            .append(forged, "mallory".parse().unwrap());
    }
    assert!(sent(&strategy, probe).unwrap().is_empty());
    let refused = sent(&strategy, Request::new(())).unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::MissingIdentity);
}

#[test]
fn a_value_that_cannot_be_a_header_is_escaped_or_refused_and_never_shown() {
    let strategy = ClaimInjection::builder().claim("c").build().unwrap();
    let long = "x".repeat(10 * 1024);
    for (claim, value) in [
        (json!("plain text"), Some("plain text")),
        (json!(""), Some("")),
        (json!("50 %"), Some("50 %25")),
        (json!(" padded "), Some("%20padded%20")),
        (json!("a\r\nx-admin: 1"), Some("a%0D%0Ax-admin: 1")),
        (json!("Zoë"), Some("Zo%C3%AB")),
        (json!(41), Some("41")),
        (json!(-1.5), Some("-1.5")),
        (json!(true), Some("true")),
        (json!(["a", "b,c", 7, false]), Some("a,b%2Cc,7,false")),
        (json!([]), Some("")),
        (json!(null), None),
        (json!({ "a": 1 }), None),
        (json!(["secret-value", ["b"]]), None),
        (json!([null]), None),
        (json!(long), None),
        (json!(vec!["0123456789abcdef"; 1000]), None),
    ] {
        let headers = sent(&strategy, request(&json!({ "c": claim })));
        match value {
            Some(value) => assert_eq!(headers.unwrap()["x-claim-c"], value),
            None => {
                let error = headers.unwrap_err();
                assert_eq!(error.kind(), AuthErrorKind::InsufficientScope, "{claim}");
                assert!(error.to_string().contains("`c`"), "{error}");
                assert!(!format!("{error:?}").contains("secret-value"), "{error:?}");
            }
        }
    }
    let missing = sent(&strategy, request(&json!({}))).unwrap_err();
    assert_eq!(missing.kind(), AuthErrorKind::InsufficientScope);
}

#[test]
fn claims_that_cannot_be_sent_are_refused_when_the_strategy_is_built() {
    let builder = ClaimInjection::builder;
    for (builder, setting) in [
        (builder(), "claims"),
        (builder().claim(""), "claims[0]"),
        (builder().claim("https://example.com/roles"), "claims[0]"),
        (
            builder().claim("sub").claim_as("email", "authorization"),
            "claims[1]",
        ),
        (
            builder().claim("sub").claim_as("email", "x-claim_sub"),
            "claims[1]",
        ),
        (builder().claim("sub").claim("sub"), "claims[1]"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), setting, "{error}");
    }
    let namespaced = builder().claim_as("https://example.com/roles", "x-roles");
    assert!(namespaced.build().is_ok());
}

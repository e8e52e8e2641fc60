//! Tokens that are bound to a client certificate (RFC 8705 §3) are accepted over connections with this certificate alone.
#![cfg(feature = "incoming")]

mod support;

use std::{convert::Infallible, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{FutureExt, future::join};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use serde_json::{Value, json};
use support::identity_provider::{AUDIENCE, INTROSPECT, IdentityProvider, P256, client, some_day};
use tower::{Layer, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, Identity, IntrospectionEndpoint, KeySet, ManualClock, TokenValidator,
    TokenValidatorLayer,
    incoming::{ClientCertificate, TokenValidatorBuilder},
};

const ISSUER: &str = "https://issuer.example.com";
/// RFC 8705, appendix A: a certificate, and its thumbprint.
const CERTIFICATE: &str = include_str!("data/rfc8705_appendix_a.pem");
const THUMBPRINT: &str = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0";

fn of_the_rfc() -> ClientCertificate {
    let body = CERTIFICATE.lines().filter(|line| !line.starts_with('-'));
    let der = STANDARD.decode(body.collect::<String>()).unwrap();
    ClientCertificate::from_der(&der)
}

fn another() -> ClientCertificate {
    ClientCertificate::from_der(b"another certificate")
}

fn builder() -> TokenValidatorBuilder {
    let keys = json!({ "keys": [P256.public()] }).to_string();
    TokenValidator::builder_with_keys(ISSUER, KeySet::from_json(keys).unwrap())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
}

fn claims() -> Value {
    let now = some_day().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_secs();
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600 })
}

fn bound_by(confirmation: Value) -> String {
    let mut claims = claims();
    claims["cnf"] = confirmation;
    P256.sign(&P256.header(), &claims)
}

fn bound() -> String {
    bound_by(json!({ "x5t#S256": THUMBPRINT }))
}

fn over(certificate: Option<ClientCertificate>, token: &str) -> Request<()> {
    let mut request = Request::new(());
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    if let Some(certificate) = certificate {
        request.extensions_mut().insert(certificate);
    }
    request
}

fn validate(
    validator: &TokenValidator,
    certificate: Option<ClientCertificate>,
    token: &str,
) -> Result<Identity, AuthError> {
    let outcome = validator.validate_request(&over(certificate, token));
    outcome.now_or_never().unwrap()
}

fn assert_refused(outcome: Result<Identity, AuthError>, word: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected, "{error}");
    assert!(error.to_string().contains("`cnf`"), "{error}");
    assert!(error.to_string().contains(word), "{error}");
    let response = error.to_response::<Bytes>();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(
        challenge.contains(r#"error="invalid_token""#),
        "{challenge}"
    );
}

#[test]
fn the_thumbprint_of_a_certificate_is_that_of_the_rfcs_example() {
    assert_eq!(of_the_rfc().thumbprint(), THUMBPRINT);
    assert_eq!(
        format!("{:?}", of_the_rfc()),
        format!("ClientCertificate({THUMBPRINT})")
    );
}

#[test]
fn a_bound_token_is_accepted_over_a_connection_with_its_certificate() {
    let validator = builder().build().unwrap();
    let identity = validate(&validator, Some(of_the_rfc()), &bound()).unwrap();
    assert_eq!(identity.subject(), "alice");
    assert_eq!(identity.claims()["cnf"]["x5t#S256"], THUMBPRINT);
}

#[test]
fn f71_a_bound_token_without_its_certificate_is_refused_in_every_configuration() {
    for builder in [
        builder(),
        builder().admit_bound_tokens(),
        builder().cache_tokens(10),
        builder().admit_bound_tokens().cache_tokens(10),
    ] {
        let validator = builder.build().unwrap();
        for _ in 0..2 {
            assert_refused(validate(&validator, None, &bound()), "without one");
            assert_refused(validate(&validator, Some(another()), &bound()), "another");
            let outcome = validator.validate(&bound()).now_or_never().unwrap();
            assert_refused(outcome, "without one");
        }
    }
}

#[test]
fn a_token_that_was_remembered_over_one_connection_is_refused_over_another() {
    let validator = builder().cache_tokens(10).build().unwrap();
    let token = bound();
    for _ in 0..2 {
        validate(&validator, Some(of_the_rfc()), &token).unwrap();
        assert_refused(validate(&validator, Some(another()), &token), "another");
        assert_refused(validate(&validator, None, &token), "without one");
    }
}

#[test]
fn a_token_that_is_not_bound_is_accepted_over_any_connection() {
    let validator = builder().build().unwrap();
    let token = P256.sign(&P256.header(), &claims());
    for certificate in [None, Some(of_the_rfc()), Some(another())] {
        validate(&validator, certificate, &token).unwrap();
    }
}

#[test]
fn a_token_that_is_also_bound_to_something_else_is_refused_unless_that_is_admitted_by_name() {
    let bearer = builder().build().unwrap();
    let aware = builder().admit_bound_tokens().build().unwrap();
    let token = bound_by(json!({ "x5t#S256": THUMBPRINT, "kid": "key-1" }));
    assert_refused(validate(&bearer, Some(of_the_rfc()), &token), "not checked");
    validate(&aware, Some(of_the_rfc()), &token).unwrap();
    assert_refused(validate(&aware, Some(another()), &token), "another");
    assert_refused(validate(&aware, None, &token), "without one");
}

#[test]
fn a_thumbprint_that_cannot_be_one_fits_no_certificate() {
    let hexadecimal = "03".repeat(32);
    let padded = format!("{THUMBPRINT}=");
    let standard = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v+".to_owned();
    let long = "A".repeat(64 * 64);
    for thumbprint in [
        json!(null),
        json!(""),
        json!(7),
        json!([THUMBPRINT]),
        json!({ "sha256": THUMBPRINT }),
        json!(hexadecimal),
        json!(padded),
        json!(standard),
        json!(long),
        json!(&THUMBPRINT[1..]),
        json!(format!(" {THUMBPRINT}")),
    ] {
        for builder in [builder(), builder().admit_bound_tokens()] {
            let validator = builder.build().unwrap();
            let token = bound_by(json!({ "x5t#S256": thumbprint }));
            for certificate in [None, Some(of_the_rfc())] {
                let outcome = validate(&validator, certificate, &token);
                assert_refused(outcome, "something else than its thumbprint");
            }
        }
    }
}

#[test]
fn a_confirmation_that_is_no_object_is_refused_over_any_connection() {
    let validator = builder().build().unwrap();
    for confirmation in [
        json!(null),
        json!({}),
        json!(THUMBPRINT),
        json!([{ "x5t#S256": THUMBPRINT }]),
        json!({ "x5t": THUMBPRINT }),
        json!({ "X5T#S256": THUMBPRINT }),
    ] {
        let token = bound_by(confirmation);
        let outcome = validate(&validator, Some(of_the_rfc()), &token);
        assert_refused(outcome, "not checked here");
    }
}

#[tokio::test]
async fn the_layer_takes_the_certificate_from_the_requests_extensions() {
    let validator = builder().build().unwrap();
    let gateway = TokenValidatorLayer::new(validator).layer(tower::service_fn(
        async |request: Request<()>| {
            let identity = request.extensions().get::<Identity>().unwrap();
            let subject = Bytes::from(identity.subject().to_owned());
            Ok::<_, Infallible>(Response::new(Full::new(subject)))
        },
    ));
    for (certificate, status) in [
        (Some(of_the_rfc()), StatusCode::OK),
        (Some(another()), StatusCode::UNAUTHORIZED),
        (None, StatusCode::UNAUTHORIZED),
    ] {
        let request = over(certificate, &bound());
        let response = gateway.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn a_bound_token_is_compared_also_when_the_keys_are_fetched_first() {
    for (certificate, is_accepted) in [(Some(of_the_rfc()), true), (Some(another()), false)] {
        let provider = IdentityProvider::start(P256).await;
        let validator = TokenValidator::builder(provider.issuer(), client())
            .audience(AUDIENCE)
            .clock(Arc::new(ManualClock::new(some_day())))
            .build()
            .unwrap();
        let mut claims = provider.claims("alice", some_day());
        claims["cnf"] = json!({ "x5t#S256": THUMBPRINT });
        let token = P256.sign(&P256.header(), &claims);
        let outcome = validator.validate_request(&over(certificate, &token)).await;
        assert_eq!(outcome.is_ok(), is_accepted);
        assert_eq!(provider.key_fetches(), 1);
    }
}

/// A validator that asks about opaque tokens, and `bound`, one that is bound to the certificate of the RFC.
async fn introspecting(cached_tokens: usize) -> (IdentityProvider, TokenValidator) {
    let provider = IdentityProvider::start(P256).await;
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client());
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .introspection(endpoint.build().unwrap())
        .cache_tokens(cached_tokens)
        .build()
        .unwrap();
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    said["cnf"] = json!({ "x5t#S256": THUMBPRINT });
    provider.introspects("bound", said);
    (provider, validator)
}

#[tokio::test]
async fn an_opaque_token_is_bound_by_what_introspection_says() {
    for cached_tokens in [0, 10] {
        let (_provider, validator) = introspecting(cached_tokens).await;
        for _ in 0..2 {
            let over = |certificate| validator.validate_request(&over(certificate, "bound"));
            assert_refused(over(Some(another())).await, "another");
            assert_refused(over(None).await, "without one");
            over(Some(of_the_rfc())).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_thief_who_asks_at_the_same_time_gets_nothing_of_the_owners_answer_and_spoils_nothing() {
    let (provider, validator) = introspecting(0).await;
    let gate = provider.hold();
    let thief = validator.validate_request(&over(Some(another()), "bound"));
    let owner = validator.validate_request(&over(Some(of_the_rfc()), "bound"));
    let release = async {
        tokio::task::yield_now().await;
        gate.add_permits(10);
    };
    let ((thief, owner), ()) = join(join(thief, owner), release).await;
    assert_refused(thief, "another");
    assert_eq!(owner.unwrap().subject(), "alice");
}

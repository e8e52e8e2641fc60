//! The way in: which requests pass, with which identity, and what the others are answered.
#![cfg(feature = "incoming")]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{
    identity_provider::{
        AUDIENCE, ED25519, INTROSPECT, IdentityProvider, KEYS, KeyPair, P256, RSA, client, some_day,
    },
    issuer::Issuer,
    recording::{RecordingService, request},
    token_stack::endpoint,
};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, BindSubject, ClientAuth, Clock, Identity,
    IntrospectionEndpoint, KeySet, ManualClock, Origin, Secret, TokenExchange, TokenValidator,
    TokenValidatorLayer, delegation_chain, incoming::TokenValidatorBuilder,
};

const ISSUER: &str = "https://issuer.example.com";
const RESOURCE: &str = "https://gateway.example.com/mcp";
const METADATA: &str = "https://gateway.example.com/.well-known/oauth-protected-resource/mcp";

type Body = Full<Bytes>;

/// What reached the service behind the layer.
#[derive(Clone, Default)]
struct Gateway {
    arrived: Arc<Mutex<Vec<Arrival>>>,
}

type Arrival = (HeaderMap, Option<Identity>);

impl Gateway {
    fn behind(
        &self,
        layer: TokenValidatorLayer,
    ) -> impl Service<Request<()>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + use<> {
        let arrived = self.arrived.clone();
        layer.layer(tower::service_fn(move |request: Request<()>| {
            let identity = request.extensions().get().cloned();
            let headers = request.headers().clone();
            arrived.lock().unwrap().push((headers, identity));
            async { Ok(Response::new(Full::from("served"))) }
        }))
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.arrived.lock().unwrap().clone()
    }
}

fn keys() -> KeySet {
    KeySet::from_json(json!({ "keys": [P256.public(), RSA.public()] }).to_string()).unwrap()
}

fn builder() -> TokenValidatorBuilder {
    TokenValidator::builder_with_keys(ISSUER, keys())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
}

fn claims() -> Value {
    let now = seconds(some_day());
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600 })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn signed(claims: &Value) -> String {
    P256.sign(&P256.header(), claims)
}

fn bearing(authorization: &str) -> Request<()> {
    let mut request = Request::new(());
    let value = HeaderValue::from_str(authorization).unwrap();
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}

/// Why a token is not accepted, if it is not.
fn refused(validator: &TokenValidator, token: &str) -> Option<AuthErrorKind> {
    let outcome = validator.validate(token).now_or_never().unwrap();
    outcome.err().map(|error| error.kind())
}

async fn answer(layer: TokenValidatorLayer, request: Request<()>) -> Response<Value> {
    let gateway = Gateway::default();
    let response = gateway.behind(layer).oneshot(request).await.unwrap();
    assert!(gateway.arrivals().is_empty(), "nothing may pass");
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, serde_json::from_slice(&body).unwrap())
}

// What passes.

#[tokio::test]
async fn a_valid_token_becomes_the_identity_of_the_request() {
    let mut claims = claims();
    claims["name"] = json!("Alice");
    claims["email"] = json!("alice@example.com");
    claims["groups"] = json!(["admins"]);
    claims["tsid"] = json!("session-1");
    let token = signed(&claims);
    let gateway = Gateway::default();
    let mut service = gateway.behind(TokenValidatorLayer::new(builder().build().unwrap()));

    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let request = bearing(&format!("{scheme} {token}"));
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }

    for (headers, identity) in gateway.arrivals() {
        assert!(!headers.contains_key(AUTHORIZATION));
        let identity = identity.unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(identity.issuer(), Some(ISSUER));
        assert_eq!(identity.name(), Some("Alice"));
        assert_eq!(identity.email(), Some("alice@example.com"));
        assert_eq!(identity.token().unwrap().expose(), token);
        assert_eq!(identity.claims()["groups"], json!(["admins"]));
        assert_eq!(json!(identity.claims()), claims);
    }
    assert_eq!(gateway.arrivals().len(), 4);
}

#[tokio::test]
async fn the_authorization_header_stays_only_where_it_is_kept_by_name() {
    let token = signed(&claims());
    let gateway = Gateway::default();
    let layer = TokenValidatorLayer::new(builder().build().unwrap()).keep_authorization();
    let request = bearing(&format!("Bearer {token}"));
    gateway.behind(layer).oneshot(request).await.unwrap();
    let (headers, _) = &gateway.arrivals()[0];
    assert_eq!(headers[AUTHORIZATION], format!("Bearer {token}"));
}

#[tokio::test]
async fn the_token_decides_who_it_is_whatever_a_layer_above_said() {
    let mut request = bearing(&format!("Bearer {}", signed(&claims())));
    let other = Identity::builder("mallory").build().unwrap();
    request.extensions_mut().insert(other);
    let gateway = Gateway::default();
    let layer = TokenValidatorLayer::new(builder().build().unwrap());
    gateway.behind(layer).oneshot(request).await.unwrap();
    let (_, identity) = gateway.arrivals().remove(0);
    assert_eq!(identity.unwrap().subject(), "alice");
}

#[test]
fn good_claims_of_every_shape_are_accepted() {
    let validator = builder()
        .audience("https://second.example.com")
        .build()
        .unwrap();
    let now = seconds(some_day());
    let good = [
        claims(),
        with("aud", json!(["https://other.example.com", AUDIENCE])),
        with("aud", "https://second.example.com"),
        with("exp", now as f64 + 0.5),
        with("exp", now - 59),
        with("exp", 1e300),
        with("nbf", now + 59),
        with("iat", now + 59),
        with("nbf", 0),
        without("iat"),
        with("act", json!({ "sub": "agent" })),
        with("name", 1),
        with("email", ""),
    ];
    for claims in good {
        assert_eq!(refused(&validator, &signed(&claims)), None, "{claims}");
    }
}

#[test]
fn the_delegation_chain_is_read_from_the_claims() {
    let act =
        json!({ "sub": "agent", "iss": "https://agents.example.com", "act": { "sub": "gateway" } });
    let validator = builder().build().unwrap();
    let token = signed(&with("act", act));
    let identity = validator.validate(&token).now_or_never().unwrap().unwrap();
    let actors = delegation_chain(&identity).unwrap();
    assert_eq!(actors.len(), 2);
    assert_eq!(actors[0].subject(), Some("agent"));
    assert_eq!(actors[0].issuer(), Some("https://agents.example.com"));
    assert_eq!(actors[1].subject(), Some("gateway"));
    assert_eq!(actors[1].issuer(), None);
    assert_eq!(actors[0].claims()["act"], json!({ "sub": "gateway" }));
}

// What does not.

#[test]
fn bad_claims_are_refused() {
    let validator = builder().build().unwrap();
    let now = seconds(some_day());
    let nested = |depth| {
        (0..depth).fold(
            json!({ "sub": "actor" }),
            |act, _| json!({ "sub": "actor", "act": act }),
        )
    };
    let bad = [
        without("iss"),
        with("iss", "https://evil.example.com"),
        with("iss", "https://issuer.example.com/"),
        with("iss", Value::Null),
        with("iss", json!([ISSUER])),
        without("aud"),
        with("aud", "https://gateway.example.com/"),
        with("aud", Value::Null),
        with("aud", json!([])),
        with("aud", json!([[AUDIENCE]])),
        with("aud", json!({ "any": AUDIENCE })),
        without("exp"),
        with("exp", Value::Null),
        with("exp", (now + 600).to_string()),
        with("nbf", now + 61),
        with("nbf", "tomorrow"),
        with("iat", now + 61),
        with("iat", json!([])),
        without("sub"),
        with("sub", ""),
        with("sub", "  "),
        with("sub", 7),
        with("act", "agent"),
        with("act", json!({ "sub": 1 })),
        with("act", json!({ "sub": "agent", "act": [] })),
        with("act", nested(8)),
        json!([]),
        json!("claims"),
    ];
    for claims in bad {
        let kind = refused(&validator, &signed(&claims));
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{claims}");
    }
    assert_eq!(refused(&validator, &signed(&with("act", nested(7)))), None);
    // Nobody reads it here.
    for session in [json!(1), json!(""), Value::Null] {
        assert_eq!(refused(&validator, &signed(&with("tsid", session))), None);
    }
    for expired in [now - 60, now - 3600, 0] {
        let kind = refused(&validator, &signed(&with("exp", expired)));
        assert_eq!(kind, Some(AuthErrorKind::Expired));
    }
}

#[test]
fn f71_a_crit_is_refused_whatever_is_in_it() {
    let validator = builder().build().unwrap();
    for crit in [Value::Null, json!([]), json!(["b64"]), json!(false)] {
        let mut header = P256.header();
        header["crit"] = crit;
        let kind = refused(&validator, &P256.sign(&header, &claims()));
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{header}");
    }
}

#[test]
fn f71_a_header_that_is_an_array_is_no_header() {
    let validator = builder().build().unwrap();
    for header in [
        json!(["ES256", null, "p256"]),
        json!(["ES256", "JWT", "p256"]),
        json!(["ES256", "JWT", "p256", null]),
        json!(["ES256", "JWT", "p256", []]),
    ] {
        let token = P256.sign(&header, &claims());
        let kind = refused(&validator, &token);
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{header}");
    }
}

#[test]
fn f71_a_token_that_is_bound_to_a_key_is_refused_unless_it_is_admitted_by_name() {
    let bearer = builder().build().unwrap();
    let aware = builder().admit_bound_tokens().build().unwrap();
    for confirmation in [
        json!({ "jwk": P256.public() }),
        json!({ "kid": "dfd1aa97-6d8d-4575-a0fe-34b96de2bfad" }),
        json!({}),
        Value::Null,
    ] {
        let token = signed(&with("cnf", confirmation.clone()));
        let error = wait_for(bearer.validate(&token)).unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected, "{confirmation}");
        assert!(error.to_string().contains("`cnf`"), "{error}");
        let identity = wait_for(aware.validate(&token)).unwrap();
        assert_eq!(identity.claims()["cnf"], confirmation);
    }
}

#[test]
fn f71_a_signed_token_that_says_that_it_is_no_access_token_is_refused() {
    let validator = builder().build().unwrap();
    for (name, kind) in [
        ("token_use", "id"),
        ("token_use", "refresh"),
        ("typ", "Refresh"),
        ("typ", "Offline"),
        ("typ", "ID"),
        ("typ", "Logout"),
        ("token_type", "refresh"),
        ("token_type", "refresh_token"),
        ("token_type", "DPoP"),
    ] {
        let error = wait_for(validator.validate(&signed(&with(name, kind)))).unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected, "{name} {kind}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for (name, kind) in [
        ("token_use", "access"),
        ("typ", "Bearer"),
        ("token_type", "access"),
        ("typ", "what the issuer likes"),
    ] {
        assert_eq!(
            refused(&validator, &signed(&with(name, kind))),
            None,
            "{kind}"
        );
    }
}

#[test]
fn f72_a_claim_of_another_type_than_it_has_is_named() {
    let validator = builder().build().unwrap();
    for (name, values) in [
        ("iss", [Value::Null, json!([ISSUER])]),
        ("sub", [Value::Null, json!(7)]),
        ("aud", [Value::Null, json!({ "any": AUDIENCE })]),
        ("exp", [Value::Null, json!("2033-05-18")]),
        ("nbf", [Value::Null, json!(true)]),
        ("iat", [Value::Null, json!([])]),
    ] {
        for value in values {
            let token = signed(&with(name, value.clone()));
            let error = wait_for(validator.validate(&token)).unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::Rejected, "{name} {value}");
            let named = format!("`{name}`");
            assert!(error.to_string().contains(&named), "{value}: {error}");
        }
    }
}

#[test]
fn a_token_without_an_audience_passes_only_if_it_was_issued_to_an_admitted_client() {
    let cognito = |change: &dyn Fn(&mut Value)| {
        let mut claims = without("aud");
        claims["client_id"] = json!("1example23456789");
        claims["token_use"] = json!("access");
        claims["username"] = json!("alice");
        change(&mut claims);
        signed(&claims)
    };
    let token = cognito(&|_| {});
    let default = builder().build().unwrap();
    assert_eq!(refused(&default, &token), Some(AuthErrorKind::Rejected));
    let validator = builder()
        .admit_client("another")
        .admit_client("1example23456789")
        .build()
        .unwrap();
    assert_eq!(refused(&validator, &token), None);
    assert_eq!(refused(&validator, &signed(&claims())), None);
    for (why, change) in [
        ("another client", json!({ "client_id": "1example" })),
        ("no client", json!({ "client_id": null })),
        ("a list", json!({ "client_id": ["1example23456789"] })),
        (
            "another audience",
            json!({ "aud": "https://other.example.com" }),
        ),
        (
            "the client as audience",
            json!({ "aud": "1example23456789" }),
        ),
        ("no audience", json!({ "aud": null })),
        ("no audiences", json!({ "aud": [] })),
        ("an ID token", json!({ "token_use": "id" })),
        (
            "another issuer",
            json!({ "iss": "https://other.example.com" }),
        ),
    ] {
        let token = cognito(&|claims| {
            for (name, value) in change.as_object().unwrap() {
                claims[name] = value.clone();
            }
        });
        let kind = refused(&validator, &token);
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{why}");
    }
    assert_eq!(
        refused(&validator, &signed(&without("aud"))),
        Some(AuthErrorKind::Rejected)
    );
}

#[test]
fn a_token_expires_by_the_injected_clock() {
    let clock = Arc::new(ManualClock::new(some_day()));
    let validator = builder()
        .clock(clock.clone())
        .leeway(Duration::ZERO)
        .build()
        .unwrap();
    let token = signed(&claims());
    assert_eq!(refused(&validator, &token), None);
    clock.advance(Duration::from_secs(599));
    assert_eq!(refused(&validator, &token), None);
    clock.advance(Duration::from_secs(1));
    assert_eq!(refused(&validator, &token), Some(AuthErrorKind::Expired));
}

#[test]
fn a_leeway_that_no_clock_can_express_admits_tokens_of_any_time() {
    let validator = builder().leeway(Duration::MAX).build().unwrap();
    for (name, time) in [("exp", 0_u64), ("nbf", 1 << 40), ("iat", 1 << 40)] {
        let token = signed(&with(name, json!(time)));
        assert_eq!(refused(&validator, &token), None, "{name}");
    }
}

#[test]
fn confused_algorithms_and_headers_are_refused() {
    let validator = builder().build().unwrap();
    let header = |name: &str, value: Value| {
        let mut header = P256.header();
        header[name] = value;
        header
    };
    let bad = [
        header("alg", json!("none")),
        header("alg", json!("None")),
        header("alg", json!("HS256")),
        header("alg", json!("RS256")),
        header("alg", json!("ES384")),
        header("alg", json!("es256")),
        header("alg", json!("")),
        header("alg", Value::Null),
        header("alg", json!(["ES256"])),
        header("kid", json!("rsa")),
        header("kid", json!("unknown")),
        header("kid", json!("../../etc/passwd")),
        header("kid", json!(1)),
        header("crit", json!(["exp"])),
        header("crit", json!([])),
        header("crit", Value::Null),
        header("crit", json!(false)),
        header("typ", json!("dpop+jwt")),
        header("typ", json!("logout+jwt")),
        header("typ", json!("")),
        json!({}),
        json!([]),
        json!(["ES256", null, "p256"]),
        json!(["ES256", "JWT", "p256", null]),
    ];
    for header in bad {
        let token = P256.sign(&header, &claims());
        let outcome = wait_for(validator.validate(&token));
        let kind = outcome.err().map(|error| error.kind());
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{header}");
    }
}

/// Waits for what does not wait for anything outside.
fn wait_for<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let validator = builder().build().unwrap();
    let public = RSA.public();
    let n = public["n"].as_str().unwrap().as_bytes();
    let secrets: [&[u8]; 3] = [
        n,
        include_bytes!("support/keys/rsa.pub.pem"),
        include_bytes!("support/keys/p256.pub.pem"),
    ];
    for secret in secrets {
        for kid in ["rsa", "p256"] {
            let header = jsonwebtoken::Header {
                kid: Some(kid.to_owned()),
                ..jsonwebtoken::Header::new(Algorithm::HS256)
            };
            let key = EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
            assert_eq!(refused(&validator, &token), Some(AuthErrorKind::Rejected));
        }
    }
}

#[tokio::test]
async fn nothing_that_a_token_names_is_fetched_or_believed() {
    let provider = IdentityProvider::start(P256).await;
    let stranger = IdentityProvider::start(ED25519).await;
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .build()
        .unwrap();
    let mut header = ED25519.header();
    header["jku"] = json!(stranger.uri(KEYS));
    header["x5u"] = json!(stranger.uri("/x5u"));
    header["jwk"] = ED25519.public();
    header["x5c"] = json!(["AAAA"]);
    for kid in ["ed25519", "p256"] {
        header["kid"] = json!(kid);
        let token = ED25519.sign(&header, &provider.claims("alice", some_day()));
        let error = validator.validate(&token).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
    }
    assert!(stranger.requests().is_empty());

    // They do not harm a token that is good without them.
    let mut header = P256.header();
    header["jku"] = json!(stranger.uri(KEYS));
    header["jwk"] = json!("not even a key");
    let token = P256.sign(&header, &provider.claims("alice", some_day()));
    validator.validate(&token).await.unwrap();
    assert!(stranger.requests().is_empty());
}

#[test]
fn typ_can_be_required_to_be_at_jwt() {
    let strict = builder().require_at_jwt().build().unwrap();
    let lax = builder().build().unwrap();
    let typed = |typ: Value| {
        let mut header = P256.header();
        header["typ"] = typ;
        P256.sign(&header, &claims())
    };
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        assert_eq!(refused(&strict, &typed(json!(typ))), None);
        assert_eq!(refused(&lax, &typed(json!(typ))), None);
    }
    for typ in [json!("JWT"), json!("jwt"), Value::Null] {
        assert_eq!(refused(&lax, &typed(typ.clone())), None);
        let kind = refused(&strict, &typed(typ));
        assert_eq!(kind, Some(AuthErrorKind::Rejected));
    }
}

#[test]
fn malformed_tokens_are_refused() {
    let validator = builder().build().unwrap();
    let good = signed(&claims());
    let parts: Vec<_> = good.split('.').collect();
    let nested = format!("{}1{}", "[".repeat(4000), "]".repeat(4000));
    let bad = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "opaque".into(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!("{good}="),
        format!("{good}\u{e9}"),
        format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1].to_lowercase(), parts[2]),
        signed(&json!({ "iss": nested })),
        "a".repeat(16 * 1024 + 1),
        signed(&with("padding", "x".repeat(16 * 1024))),
        signed(&with("padding", "x".repeat(1 << 20))),
    ];
    for token in bad {
        let kind = refused(&validator, &token);
        assert_eq!(kind, Some(AuthErrorKind::Rejected), "{token:.80}");
    }
}

#[test]
fn a_token_of_16_kib_is_not_too_large() {
    let validator = builder().build().unwrap();
    let token = (12_000..)
        .map(|length| signed(&with("padding", "x".repeat(length))))
        .find(|token| token.len() >= 16 * 1024)
        .unwrap();
    assert_eq!(token.len(), 16 * 1024);
    assert_eq!(refused(&validator, &token), None);
}

// What is answered.

#[tokio::test]
async fn without_credentials_the_challenge_has_no_error() {
    let validator = builder()
        .resource(RESOURCE)
        .scopes(["tools:read", "tools:write"])
        .build()
        .unwrap();
    let layer = TokenValidatorLayer::new(validator);
    for request in [
        Request::new(()),
        bearing("Basic YWxpY2U6c2VjcmV0"),
        bearing("BearerX token"),
        bearing(""),
    ] {
        let response = answer(layer.clone(), request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            response.headers()[WWW_AUTHENTICATE],
            format!(
                r#"Bearer realm="{AUDIENCE}", resource_metadata="{METADATA}", scope="tools:read tools:write""#
            )
        );
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.body()["error"], "unauthorized");
    }
}

#[tokio::test]
async fn a_bad_token_is_told_what_is_wrong() {
    let validator = builder()
        .realm(r#"the "gate" \ way"#)
        .resource(RESOURCE)
        .build()
        .unwrap();
    let layer = TokenValidatorLayer::new(validator);
    let token = signed(&with("exp", 1));
    let response = answer(layer.clone(), bearing(&format!("Bearer {token}"))).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        response.headers()[WWW_AUTHENTICATE],
        format!(
            r#"Bearer realm="the \"gate\" \\ way", resource_metadata="{METADATA}", error="invalid_token", error_description="the token has expired""#
        )
    );
    let expected =
        json!({ "error": "invalid_token", "error_description": "the token has expired" });
    assert_eq!(*response.body(), expected);

    for value in [
        "Bearer",
        "Bearer ",
        "Bearer a b",
        "Bearer  ",
        "bearer a,Bearer b",
    ] {
        let response = answer(layer.clone(), bearing(value)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
        assert_eq!(response.body()["error"], "invalid_token", "{value}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_claim_for_which_a_token_is_refused() {
    let layer = TokenValidatorLayer::new(builder().build().unwrap());
    let mut of_another_type = P256.header();
    of_another_type["typ"] = json!("logout+jwt");
    for (token, claim) in [
        (signed(&with("aud", "https://other.example.com")), "(`aud`)"),
        (signed(&without("aud")), "(`aud`)"),
        (signed(&without("exp")), "no `exp`"),
        (P256.sign(&of_another_type, &claims()), "(`typ`)"),
        (signed(&with("iss", "https://other.example.com")), "(`iss`)"),
        (signed(&without("iss")), "(`iss`)"),
        ("ya29.an-opaque-token".to_owned(), "not a JWT"),
    ] {
        let response = answer(layer.clone(), bearing(&format!("Bearer {token}"))).await;
        let description = response.body()["error_description"].to_string();
        assert!(description.contains(claim), "{claim}: {description}");
    }
}

#[tokio::test]
async fn f38_a_second_authorization_header_is_refused_even_beside_a_good_one() {
    let layer = TokenValidatorLayer::new(builder().build().unwrap());
    let good = format!("Bearer {}", signed(&claims()));
    for other in [&good, "Bearer other", "Basic YWxpY2U6c2VjcmV0", ""] {
        for [first, second] in [[&good, other], [other, &good]] {
            let mut request = bearing(first);
            let second = HeaderValue::from_str(second).unwrap();
            request.headers_mut().append(AUTHORIZATION, second);
            let response = answer(layer.clone(), request).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(response.body()["error"], "invalid_token");
        }
    }
    for binary in [&b"Bearer \xff\xfe"[..], b"Bearer \xc3\xa9"] {
        let mut request = Request::new(());
        let binary = HeaderValue::from_bytes(binary).unwrap();
        request.headers_mut().insert(AUTHORIZATION, binary);
        let response = answer(layer.clone(), request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.body()["error"], "invalid_token");
    }
}

#[tokio::test]
async fn f29_an_issuer_that_is_down_is_503_and_a_bad_token_still_401() {
    let provider = IdentityProvider::start(P256).await;
    provider.is_down(true);
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .build()
        .unwrap();
    let layer = TokenValidatorLayer::new(validator);
    let token = provider.token(P256, "alice", some_day());
    let response = answer(layer.clone(), bearing(&format!("Bearer {token}"))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(RETRY_AFTER));
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
    assert_eq!(response.body()["error"], "temporarily_unavailable");
    let response = answer(layer.clone(), bearing("Bearer malformed")).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = answer(layer, Request::new(())).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn f31_the_service_that_was_polled_ready_is_the_one_that_is_called() {
    let provider = IdentityProvider::start(P256).await;
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .build()
        .unwrap();
    // A concurrency limit gives its permit to the instance that was polled ready, and panics in any other.
    let limited = ConcurrencyLimitLayer::new(1).layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::from("served")))
    }));
    let mut service = TokenValidatorLayer::new(validator).layer(limited);
    for _ in 0..3 {
        let token = provider.token(P256, "alice", some_day());
        let request = bearing(&format!("Bearer {token}"));
        let response: Response<Body> = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_refusal_gives_the_readiness_back() {
    let limited = ConcurrencyLimitLayer::new(1).layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let layer = TokenValidatorLayer::new(builder().build().unwrap());
    let mut refusing = layer.layer(limited.clone());
    let mut bound =
        BindSubject::to(Identity::builder("alice").build().unwrap()).layer(limited.clone());
    let refused = refusing.ready().await.unwrap().call(Request::new(()));
    assert_eq!(refused.await.unwrap().status(), StatusCode::UNAUTHORIZED);
    bound
        .ready()
        .await
        .unwrap()
        .call(Request::new(()))
        .await
        .unwrap_err();
    // Both are still there, and neither holds the one permit.
    let mut other = limited;
    assert!(other.ready().now_or_never().is_some());
    drop((refusing, bound));
}

/// What the layer makes of a response of the service beneath it.
async fn completed(validator: &TokenValidator, response: Response<Body>) -> Response<Body> {
    let service = tower::service_fn(move |_: Request<()>| {
        let response = response.clone();
        async { Ok::<_, Infallible>(response) }
    });
    let layer = TokenValidatorLayer::new(validator.clone());
    let request = bearing(&format!("Bearer {}", signed(&claims())));
    layer.layer(service).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn f82_a_refusal_of_an_outgoing_request_tells_the_caller_where_to_log_in() {
    let validator = builder()
        .resource(RESOURCE)
        .scopes(["tools:read"])
        .build()
        .unwrap();
    let bare = format!(r#"realm="{AUDIENCE}", resource_metadata="{METADATA}", scope="tools:read""#);
    for (kind, expected) in [
        (AuthErrorKind::MissingIdentity, format!("Bearer {bare}")),
        (
            AuthErrorKind::MissingToken,
            format!(r#"Bearer {bare}, error="invalid_token", error_description="log in again""#),
        ),
        (
            AuthErrorKind::InsufficientScope,
            format!(
                r#"Bearer {bare}, error="insufficient_scope", error_description="the credential does not allow this""#
            ),
        ),
    ] {
        let error = AuthError::new(kind, "the outgoing request was refused");
        let response = completed(&validator, error.to_response()).await;
        assert_eq!(response.headers()[WWW_AUTHENTICATE], expected);
        assert_eq!(
            response.headers().get_all(WWW_AUTHENTICATE).iter().count(),
            1
        );
        // The same where the response is made outside of the layer.
        let response = validator.challenge(error).to_response::<Body>();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], expected);
    }
}

#[tokio::test]
async fn f82_what_is_no_refusal_for_the_want_of_a_login_stays_as_it_is() {
    let validator = builder().resource(RESOURCE).build().unwrap();
    for kind in [
        AuthErrorKind::Unavailable,
        AuthErrorKind::Configuration,
        AuthErrorKind::WrongOrigin,
    ] {
        let error = AuthError::new(kind, "it failed");
        let response = completed(&validator, error.to_response()).await;
        assert!(
            !response.headers().contains_key(WWW_AUTHENTICATE),
            "{kind:?}"
        );
    }
    let challenge = HeaderValue::from_static(r#"Bearer realm="another""#);
    let error = AuthError::new(AuthErrorKind::Rejected, "it failed").with_challenge(challenge);
    let response = completed(&validator, error.to_response()).await;
    assert_eq!(
        response.headers()[WWW_AUTHENTICATE],
        r#"Bearer realm="another""#
    );

    let mut of_backend = Response::new(Body::default());
    *of_backend.status_mut() = StatusCode::UNAUTHORIZED;
    let response = completed(&validator, of_backend).await;
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));

    let mut replaced: Response<Body> =
        AuthError::new(AuthErrorKind::Rejected, "it failed").to_response();
    *replaced.status_mut() = StatusCode::NOT_FOUND;
    replaced.headers_mut().remove(WWW_AUTHENTICATE);
    let response = completed(&validator, replaced).await;
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
}

#[tokio::test]
async fn f82_of_two_validators_the_inner_one_is_named_in_the_challenge() {
    let inner = builder().realm("inner").build().unwrap();
    let outer = builder().realm("outer").build().unwrap();
    let error = AuthError::new(AuthErrorKind::MissingToken, "it failed");
    let response = completed(&inner, error.to_response()).await;
    let response = completed(&outer, response).await;
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(
        challenge.starts_with(r#"Bearer realm="inner""#),
        "{challenge}"
    );
}

#[tokio::test]
async fn metadata_is_served_at_the_well_known_path_with_the_resources_path_inserted() {
    let validator = builder()
        .resource(RESOURCE)
        .scopes(["tools:read"])
        .build()
        .unwrap();
    let metadata = validator.resource_metadata().unwrap();
    assert_eq!(metadata.url(), METADATA);
    let ask = async |method: &str, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        metadata.clone().oneshot(request).await.unwrap()
    };
    let response = ask("GET", metadata.path()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected = json!({
        "resource": RESOURCE,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["tools:read"],
    });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    assert_eq!(ask("OPTIONS", metadata.path()).await.status(), 204);
    assert_eq!(ask("POST", metadata.path()).await.status(), 405);
    for elsewhere in [
        "/",
        "/mcp",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/",
        "/.well-known/oauth-protected-resource/mcp/",
        "/.well-known/oauth-protected-resource/mcpx",
        "/.well-known/oauth-protected-resourcex/mcp",
    ] {
        assert_eq!(ask("GET", elsewhere).await.status(), 404, "{elsewhere}");
    }

    for (resource, path) in [
        (
            "https://gateway.example.com",
            "/.well-known/oauth-protected-resource",
        ),
        (
            "https://gateway.example.com/",
            "/.well-known/oauth-protected-resource",
        ),
        (
            "http://localhost:8080/a/b",
            "/.well-known/oauth-protected-resource/a/b",
        ),
    ] {
        let validator = builder().resource(resource).build().unwrap();
        assert_eq!(validator.resource_metadata().unwrap().path(), path);
    }
    assert!(builder().build().unwrap().resource_metadata().is_none());
}

#[test]
fn what_cannot_work_is_refused_at_construction() {
    let with_keys = |issuer: &str| TokenValidator::builder_with_keys(issuer, keys());
    let with_issuer = |issuer: &str| TokenValidator::builder(issuer, client()).audience(AUDIENCE);
    let bad = [
        ("no audience", with_keys(ISSUER)),
        ("a blank audience", with_keys(ISSUER).audience(" ")),
        ("one blank audience", builder().audience("")),
        ("a blank issuer", with_keys("").audience(AUDIENCE)),
        ("plain http", with_issuer("http://issuer.example.com")),
        ("a fragment", with_issuer("https://issuer.example.com/#a")),
        ("a query", with_issuer("https://issuer.example.com/?a=b")),
        ("user info", with_issuer("https://a:b@issuer.example.com")),
        ("a relative issuer", with_issuer("issuer.example.com")),
        (
            "an insecure resource",
            builder().resource("http://gateway.example.com"),
        ),
        ("a relative resource", builder().resource("/mcp")),
        ("a scope with a space", builder().scopes(["a b"])),
        ("a scope with a quote", builder().scopes(["a\""])),
        ("an empty scope", builder().scopes([""])),
        (
            "a realm with a line break",
            builder().realm("a\r\nX-Injected: b"),
        ),
    ];
    for (fault, builder) in bad {
        let error = builder.build().unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1, "{fault}: {error}");
    }
    with_issuer("http://issuer.example.com")
        .insecure()
        .build()
        .unwrap();
}

// Introspection.

async fn introspecting() -> (IdentityProvider, TokenValidator) {
    let provider = IdentityProvider::start(P256).await;
    let secret = Secret::new("introspection-secret").unwrap();
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client())
        .client_auth(ClientAuth::basic("gateway", secret))
        .build()
        .unwrap();
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .introspection(endpoint)
        .build()
        .unwrap();
    (provider, validator)
}

#[tokio::test]
async fn an_opaque_token_is_introspected_and_keeps_all_claims() {
    let (provider, validator) = introspecting().await;
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    said["scope"] = json!("tools:read");
    said["tsid"] = json!("session-1");
    provider.introspects("opaque-token", said.clone());
    let identity = validator.validate("opaque-token").await.unwrap();
    assert_eq!(identity.subject(), "alice");
    assert_eq!(identity.issuer(), Some(&*provider.issuer()));
    assert_eq!(identity.token().unwrap().expose(), "opaque-token");
    assert_eq!(json!(identity.claims()), said);
    let sent = &provider.requests()[0];
    assert_eq!(sent.uri, INTROSPECT);
    assert_eq!(sent.all("authorization").len(), 1);

    // `iss` and `exp` are optional here (RFC 7662 §2.2).
    let least = json!({ "active": true, "sub": "bob", "aud": AUDIENCE });
    provider.introspects("least", least);
    let identity = validator.validate("least").await.unwrap();
    assert_eq!(identity.issuer(), Some(&*provider.issuer()));
}

#[tokio::test]
async fn an_opaque_token_that_is_not_good_is_refused() {
    let (provider, validator) = introspecting().await;
    let good = || {
        let mut said = provider.claims("alice", some_day());
        said["active"] = json!(true);
        said
    };
    let changed = |name: &str, value: Value| {
        let mut said = good();
        said[name] = value;
        said
    };
    let now = seconds(some_day());
    let bad = [
        (changed("active", json!(false)), AuthErrorKind::Rejected),
        (
            changed("iss", json!("https://evil.example.com")),
            AuthErrorKind::Rejected,
        ),
        (changed("aud", json!("other")), AuthErrorKind::Rejected),
        (changed("aud", Value::Null), AuthErrorKind::Rejected),
        (changed("sub", json!("")), AuthErrorKind::Rejected),
        (changed("nbf", json!(now + 3600)), AuthErrorKind::Rejected),
        (changed("exp", json!(now - 3600)), AuthErrorKind::Expired),
        (changed("active", json!("true")), AuthErrorKind::Unavailable),
        (changed("active", Value::Null), AuthErrorKind::Unavailable),
        (json!([]), AuthErrorKind::Unavailable),
        (json!("x".repeat(2 << 20)), AuthErrorKind::Unavailable),
    ];
    for (index, (said, kind)) in bad.into_iter().enumerate() {
        let token = format!("opaque-{index}");
        provider.introspects(&token, said.clone());
        let error = validator.validate(&token).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{said:.100}");
    }
    for status in [302, 400, 404, 500, 503] {
        provider.script(INTROSPECT, status, "{\"active\":true}");
        let token = format!("opaque-at-{status}");
        let error = validator.validate(&token).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{status}");
    }
    assert_eq!(provider.fetches("/elsewhere"), 0);
}

#[tokio::test]
async fn a_jwt_and_what_cannot_be_a_token_are_not_introspected() {
    let (provider, validator) = introspecting().await;
    let token = provider.token(P256, "alice", some_day());
    validator.validate(&token).await.unwrap();
    let forged = ED25519.sign(&P256.header(), &provider.claims("alice", some_day()));
    validator.validate(&forged).await.unwrap_err();
    for bad in ["", "two words", "\u{e9}", &"a".repeat(16 * 1024 + 1)] {
        let error = validator.validate(bad).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
    }
    assert_eq!(provider.fetches(INTROSPECT), 0);
}

#[tokio::test]
async fn f09_a_revoked_token_gets_nothing_although_what_was_obtained_for_it_is_at_hand() {
    let (provider, validator) = introspecting().await;
    let issuer = Issuer::start().await;
    issuer.know("opaque", "alice");
    let backend = RecordingService::new();
    let outgoing = AuthLayer::new(
        Origin::try_from("https://mcp.example.com").unwrap(),
        TokenExchange::builder(endpoint(&issuer)).build().unwrap(),
    )
    .layer(backend.clone());
    let gateway = tower::service_fn(move |incoming: Request<()>| {
        let mut request = request(Method::POST, None);
        *request.extensions_mut() = incoming.extensions().clone();
        let sending = outgoing.clone().oneshot(request);
        async move { sending.await.map(|_| Response::new(Full::from("served"))) }
    });
    let gateway = TokenValidatorLayer::new(validator).layer(gateway);
    let call = async || {
        let request = bearing("Bearer opaque");
        let response: Response<Body> = gateway.clone().oneshot(request).await.unwrap();
        response.status()
    };

    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    provider.introspects("opaque", said);
    for _ in 0..2 {
        assert_eq!(call().await, StatusCode::OK);
    }
    assert_eq!((backend.arrivals().len(), issuer.requests().len()), (2, 1));

    provider.introspects("opaque", json!({ "active": false }));
    assert_eq!(call().await, StatusCode::UNAUTHORIZED);
    assert_eq!((backend.arrivals().len(), issuer.requests().len()), (2, 1));
}

#[tokio::test]
async fn f71_what_introspection_does_not_call_an_access_token_is_refused() {
    let (provider, validator) = introspecting().await;
    let said = |name: &str, value: &str| {
        let mut said = provider.claims("alice", some_day());
        said["active"] = json!(true);
        said[name] = json!(value);
        said
    };
    for (index, (name, kind)) in [
        ("token_type", "refresh_token"),
        ("token_type", "N_A"),
        ("token_type", "DPoP"),
        ("token_type", "made-up"),
        ("token_use", "refresh_token"),
        ("token_use", "id"),
        ("typ", "Refresh"),
        ("typ", "ID"),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("opaque-{index}");
        provider.introspects(&token, said(name, kind));
        let error = validator.validate(&token).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected, "{name} {kind}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for (name, kind) in [
        ("token_type", "Bearer"),
        ("token_type", "bearer"),
        ("token_type", "access_token"),
        ("token_use", "access_token"),
        ("typ", "Bearer"),
    ] {
        let token = format!("good-{name}-{kind}");
        provider.introspects(&token, said(name, kind));
        validator.validate(&token).await.unwrap();
    }
    let mut bound = said("token_type", "Bearer");
    bound["cnf"] = json!({ "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" });
    provider.introspects("bound", bound);
    let error = validator.validate("bound").await.unwrap_err();
    assert!(error.to_string().contains("`cnf`"), "{error}");
}

#[tokio::test]
async fn f72_a_member_that_is_null_is_absent_in_an_answer_to_introspection() {
    let (provider, validator) = introspecting().await;
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    for name in [
        "scope",
        "client_id",
        "username",
        "token_type",
        "nbf",
        "jti",
        "acr_values",
        "cnf",
        "tsid",
    ] {
        said[name] = Value::Null;
    }
    said["act"] = json!({ "sub": "agent", "iss": null, "act": null });
    provider.introspects("opaque", said);
    let identity = validator.validate("opaque").await.unwrap();
    assert!(identity.claims().values().all(|claim| !claim.is_null()));
    assert_eq!(delegation_chain(&identity).unwrap().len(), 1);

    let mut without = provider.claims("alice", some_day());
    without["active"] = json!(true);
    without["iss"] = Value::Null;
    without["exp"] = Value::Null;
    provider.introspects("least", without.clone());
    validator.validate("least").await.unwrap();
    for required in ["sub", "aud"] {
        let mut said = without.clone();
        said[required] = Value::Null;
        provider.introspects(required, said);
        let error = validator.validate(required).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
    }
}

#[tokio::test]
async fn f78_an_endpoint_that_refuses_this_client_is_the_operators_to_mend() {
    let (provider, validator) = introspecting().await;
    for (status, code) in [
        (401, "{}"),
        (401, "not json"),
        (403, "{}"),
        (400, r#"{"error":"invalid_client"}"#),
        (400, r#"{"error":"unauthorized_client"}"#),
    ] {
        provider.script(INTROSPECT, status, code);
        let token = format!("opaque-{status}-{}", code.len());
        let error = validator.validate(&token).await.unwrap_err();
        assert_eq!(
            error.kind(),
            AuthErrorKind::Configuration,
            "{status} {code}"
        );
        assert!(error.to_string().contains("secret"), "{error}");
        assert_eq!(error.to_response::<Bytes>().status(), 500);
    }
}

#[tokio::test]
async fn f79_a_token_is_introspected_once_for_all_who_bring_it_at_the_same_time() {
    let (provider, validator) = introspecting().await;
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    provider.introspects("good", said);
    for (token, is_good) in [("good", true), ("bad", false)] {
        let before = provider.fetches(INTROSPECT);
        let outcomes = join_all((0..100).map(|_| validator.validate(token))).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok() == is_good));
        assert_eq!(provider.fetches(INTROSPECT) - before, 1, "{token}");
    }
}

#[tokio::test]
async fn f79_a_token_that_is_not_active_is_asked_about_once_in_10_seconds_and_a_good_one_each_time()
{
    let (provider, _) = introspecting().await;
    let clock = Arc::new(ManualClock::new(some_day()));
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client());
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(clock.clone())
        .introspection(endpoint.build().unwrap())
        .build()
        .unwrap();
    for second in 0..20 {
        let error = validator.validate("opaque").await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
        assert_eq!(provider.fetches(INTROSPECT), 1 + second / 10);
        clock.advance(Duration::from_secs(1));
    }
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    provider.introspects("opaque", said);
    clock.advance(Duration::from_secs(1));
    for asked in 1..=3 {
        validator.validate("opaque").await.unwrap();
        assert_eq!(provider.fetches(INTROSPECT), 2 + asked, "it may be revoked");
    }
}

// Remembered tokens.

#[tokio::test]
async fn f09_a_remembered_token_is_good_until_it_expires_and_no_longer() {
    let (provider, _) = introspecting().await;
    let clock = Arc::new(ManualClock::new(some_day()));
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client())
        .build()
        .unwrap();
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(clock.clone())
        .introspection(endpoint)
        .cache_tokens(100)
        .build()
        .unwrap();
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    provider.introspects("opaque", said);
    for _ in 0..10 {
        validator.validate("opaque").await.unwrap();
    }
    assert_eq!(provider.fetches(INTROSPECT), 1);
    // The trade-off: a token that was revoked is good until its end.
    provider.introspects("opaque", json!({ "active": false }));
    clock.advance(Duration::from_secs(599));
    validator.validate("opaque").await.unwrap();
    // Neither time may say that it has expired.
    clock.set(some_day());
    validator.validate("opaque").await.unwrap();
    clock.advance(Duration::from_secs(1));
    let error = validator.validate("opaque").await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
    assert_eq!(provider.fetches(INTROSPECT), 2);
}

#[test]
fn f9_a_remembered_token_expires_by_the_time_of_day_alone_too() {
    let clock = Arc::new(ManualClock::new(some_day()));
    let validator = builder()
        .clock(clock.clone())
        .leeway(Duration::ZERO)
        .cache_tokens(100)
        .build()
        .unwrap();
    let mut claims = with("exp", seconds(some_day()) + 600);
    claims["nbf"] = json!(seconds(some_day()));
    let token = signed(&claims);
    assert_eq!(refused(&validator, &token), None);
    // While it is remembered nobody looks at `nbf`.
    clock.set(some_day() - Duration::from_secs(3600));
    assert_eq!(refused(&validator, &token), None);
    let end = some_day() + Duration::from_secs(600);
    clock.set(end - Duration::from_nanos(1));
    assert_eq!(refused(&validator, &token), None);
    clock.set(end);
    assert_eq!(refused(&validator, &token), Some(AuthErrorKind::Expired));
}

#[tokio::test]
async fn a_refused_token_and_one_without_an_end_are_not_remembered() {
    let (provider, _) = introspecting().await;
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client())
        .build()
        .unwrap();
    let clock = Arc::new(ManualClock::new(some_day()));
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .introspection(endpoint)
        .cache_tokens(100)
        .clock(clock.clone())
        .build()
        .unwrap();
    validator.validate("opaque").await.unwrap_err();
    clock.advance(Duration::from_secs(10));
    let endless = json!({ "active": true, "sub": "alice", "aud": AUDIENCE });
    provider.introspects("opaque", endless);
    validator.validate("opaque").await.unwrap();
    validator.validate("opaque").await.unwrap();
    assert_eq!(provider.fetches(INTROSPECT), 3);
}

#[test]
fn no_more_tokens_are_remembered_than_was_said() {
    // What is remembered is found even when the clock is set back before `nbf`; what is not, is checked again.
    let clock = Arc::new(ManualClock::new(some_day()));
    let validator = builder()
        .clock(clock.clone())
        .cache_tokens(10)
        .build()
        .unwrap();
    let tokens: Vec<_> = (0..100)
        .map(|user| {
            let mut claims = with("sub", format!("user-{user}"));
            claims["nbf"] = claims["iat"].clone();
            signed(&claims)
        })
        .collect();
    for token in &tokens {
        assert_eq!(refused(&validator, token), None);
    }
    clock.set(some_day() - Duration::from_secs(3600));
    let kept = tokens
        .iter()
        .filter(|token| refused(&validator, token).is_none());
    let kept = kept.count();
    assert!((1..=10).contains(&kept), "{kept}");
}

#[test]
fn a_remembered_token_is_one_users_alone() {
    let validator = builder().cache_tokens(1000).build().unwrap();
    let tokens: Vec<_> = (0..100)
        .map(|user| {
            (
                format!("user-{user}"),
                signed(&with("sub", format!("user-{user}"))),
            )
        })
        .collect();
    for _ in 0..2 {
        for (user, token) in &tokens {
            let identity = validator.validate(token).now_or_never().unwrap().unwrap();
            assert_eq!(identity.subject(), user);
            assert_eq!(identity.token().unwrap().expose(), token);
        }
    }
}

// Hostile input.

fn shared() -> &'static TokenValidator {
    static VALIDATOR: OnceLock<TokenValidator> = OnceLock::new();
    VALIDATOR.get_or_init(|| builder().build().unwrap())
}

fn is_refused(token: &str) -> bool {
    let outcome = wait_for(shared().validate(token));
    outcome.is_err_and(|error| {
        matches!(
            error.kind(),
            AuthErrorKind::Rejected | AuthErrorKind::Expired
        )
    })
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!(AUDIENCE)),
        Just(json!(ISSUER)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_is_accepted_as_a_token(token in prop_oneof![
        ".{0,200}",
        "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}",
    ]) {
        prop_assert!(is_refused(&token));
    }

    #[test]
    fn no_change_of_one_character_is_accepted(at in 0_usize..200, to in "[A-Za-z0-9_.=-]") {
        let good = signed(&claims());
        let at = at % good.len();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &to);
        prop_assume!(bad != good);
        prop_assert!(is_refused(&bad));
    }

    #[test]
    fn no_header_makes_another_key_good(
        name in "alg|kid|typ|crit|jwk|jku|x5u|x5c|b64|cty",
        value in json_value(),
    ) {
        let mut header = P256.header();
        header[name] = value;
        // Signed by a stranger.
        prop_assert!(is_refused(&ED25519.sign(&header, &claims())));
    }

    #[test]
    fn odd_claims_are_refused_or_leave_the_identity_whole(
        name in "iss|sub|aud|exp|nbf|iat|act|tsid|name|email",
        value in json_value(),
    ) {
        let outcome = wait_for(shared().validate(&signed(&with(&name, value))));
        if let Ok(identity) = outcome {
            prop_assert!(!identity.subject().trim().is_empty());
            prop_assert_eq!(identity.issuer(), Some(ISSUER));
            prop_assert!(delegation_chain(&identity).is_ok());
        }
    }

    #[test]
    fn no_key_set_panics_or_verifies_what_is_not_signed(set in json_value(), keys in prop::collection::vec(json_value(), 0..4)) {
        for json in [set.to_string(), json!({ "keys": keys }).to_string()] {
            prop_assert!(KeySet::from_json(json).is_err());
        }
    }

    #[test]
    fn no_odd_member_of_a_key_panics_or_lets_a_stranger_in(
        name in "kty|crv|x|y|n|e|use|alg|kid|key_ops|k",
        value in json_value(),
        key in prop::sample::select(vec![P256, RSA]),
    ) {
        let mut odd = key.public();
        odd[name] = value;
        if let Ok(keys) = KeySet::from_json(json!({ "keys": [odd] }).to_string()) {
            let validator = TokenValidator::builder_with_keys(ISSUER, keys)
                .audience(AUDIENCE)
                .clock(Arc::new(ManualClock::new(some_day())))
                .build()
                .unwrap();
            let strangers: KeyPair = if key == P256 { RSA } else { P256 };
            for header in [strangers.header(), key.header()] {
                let token = strangers.sign(&header, &claims());
                prop_assert!(wait_for(validator.validate(&token)).is_err());
            }
        }
    }
}

#[test]
fn a_clock_before_1970_or_far_ahead_refuses_and_does_not_panic() {
    for now in [
        SystemTime::UNIX_EPOCH - Duration::from_secs(1000),
        some_day() + Duration::from_secs(1 << 40),
    ] {
        let clock = Arc::new(ManualClock::new(now));
        assert!(clock.now() == now);
        let validator = builder().clock(clock).cache_tokens(1).build().unwrap();
        assert!(refused(&validator, &signed(&claims())).is_some());
    }
}

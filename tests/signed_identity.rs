//! A signed statement of who the user is: what it says, who can verify it, and how long it is used.

mod support;

use std::{process::Command, sync::Arc, time::Duration};

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::{
    key_pair::KeyPair,
    key_pair::{ED25519, P256, P384, RSA},
    peers,
};
use tower::ServiceExt;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, HealthCheck, Identity, KeySet, ManualClock, Placement,
    Secret, SignedIdentity, Strategy, TokenValidator,
    oauth::{SigningAlgorithm, SigningKeys},
    strategy::SignedIdentityBuilder,
};

const GATEWAY: &str = "https://gateway.example.com";
const BACKEND: &str = "https://mcp.example.com";

const PEMS: [(KeyPair, SigningAlgorithm, &str); 4] = [
    (
        RSA,
        SigningAlgorithm::Rs256,
        include_str!("support/keys/rsa.pem"),
    ),
    (
        P256,
        SigningAlgorithm::Es256,
        include_str!("support/keys/p256.pem"),
    ),
    (
        P384,
        SigningAlgorithm::Es384,
        include_str!("support/keys/p384.pem"),
    ),
    (
        ED25519,
        SigningAlgorithm::EdDsa,
        include_str!("support/keys/ed25519.pem"),
    ),
];

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn keys(at: usize) -> SigningKeys {
    let (key, algorithm, pem) = PEMS[at];
    SigningKeys::new(key.id, algorithm, &secret(pem)).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(std::time::SystemTime::now()))
}

fn strategy(keys: &SigningKeys, clock: &Arc<ManualClock>) -> SignedIdentityBuilder {
    SignedIdentity::builder(GATEWAY, BACKEND, keys.clone()).clock(clock.clone())
}

fn user(subject: &str, token: &str, claims: &Value) -> Identity {
    Identity::builder(subject)
        .issuer("https://idp.example.com")
        .token(AccessToken::new(token).unwrap())
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap()
}

/// The statement that is sent for this user.
async fn sent(strategy: &SignedIdentity, user: Identity) -> Result<String, AuthError> {
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(user);
    let request = strategy
        .authenticate(&mut request)
        .complete(request)
        .await?;
    let value = &request.headers()["authorization"];
    assert!(value.is_sensitive());
    Ok(value
        .to_str()
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap()
        .to_owned())
}

async fn published(keys: &SigningKeys) -> Value {
    let request = Request::get("/jwks").body(()).unwrap();
    let response = keys.jwks().oneshot(request).await.unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "application/jwk-set+json"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

/// A backend that trusts these keys of the gateway.
async fn backend(keys: &SigningKeys, clock: &Arc<ManualClock>) -> TokenValidator {
    let keys = KeySet::from_json(published(keys).await.to_string()).unwrap();
    TokenValidator::builder_with_keys(GATEWAY, keys)
        .audience(BACKEND)
        .clock(clock.clone())
        .build()
        .unwrap()
}

/// The answer of npm's jose.
fn jose(asked: &Value) -> Option<Value> {
    let provider = peers::required(peers::OIDC_PROVIDER)?;
    let mut command = Command::new(provider.get_program());
    command
        .current_dir(provider.get_current_dir().unwrap())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/peers/oidc-provider/jwt.mjs"
        ))
        .arg(asked.to_string());
    let said = command.output().unwrap();
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

#[tokio::test]
async fn a_statement_is_verified_by_our_validator_and_by_another_library() {
    for (at, (key, ..)) in PEMS.iter().enumerate() {
        let (clock, keys) = (clock(), keys(at));
        let strategy = strategy(&keys, &clock).claims(["email", "groups", "age"]);
        let strategy = strategy.build().unwrap();
        let claims =
            json!({ "email": "alice@example.com", "groups": ["a", "b"], "age": 41, "x": 1 });
        let statement = sent(&strategy, user("alice", "token-1", &claims))
            .await
            .unwrap();

        let identity = backend(&keys, &clock)
            .await
            .validate(&statement)
            .await
            .unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(identity.issuer(), Some(GATEWAY));
        let said = identity.claims();
        for (claim, value) in [
            ("idp", json!("https://idp.example.com")),
            ("email", json!("alice@example.com")),
            ("groups", json!(["a", "b"])),
            ("age", json!(41)),
        ] {
            assert_eq!(said[claim], value);
        }
        assert!(!said.contains_key("x"), "only what is listed is said");
        let lifetime = said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap();
        assert_eq!(lifetime, 60);

        let jwks = published(&keys).await;
        let asked =
            json!({ "verify": statement, "jwks": jwks, "issuer": GATEWAY, "audience": BACKEND });
        let Some(answer) = jose(&asked) else {
            return;
        };
        assert_eq!(answer["claims"]["sub"], "alice", "{answer}");
        assert_eq!(answer["header"]["kid"], key.id);
        assert_eq!(jwks["keys"][0].get("d"), None, "a private key is published");
    }
}

#[tokio::test]
async fn what_another_library_signed_is_not_taken_for_a_statement_unless_it_has_the_key() {
    let (clock, keys) = (clock(), keys(1));
    let backend = backend(&keys, &clock).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let claims =
        json!({ "iss": GATEWAY, "aud": BACKEND, "sub": "mallory", "iat": now, "exp": now + 60 });
    let public = published(&keys).await["keys"][0].clone();
    let octets = json!({ "kty": "oct", "k": public["x"] });
    let anothers = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    });
    for (jwk, header) in [
        (anothers, json!({ "alg": "ES256", "kid": P256.id })),
        (octets, json!({ "alg": "HS256", "kid": P256.id })),
    ] {
        let Some(answer) = jose(&json!({ "sign": claims, "header": header, "jwk": jwk })) else {
            return;
        };
        let refused = backend.validate(answer["jwt"].as_str().unwrap()).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            AuthErrorKind::Rejected,
            "{header}"
        );
    }
    let own = P256.sign(&json!({ "alg": "ES256", "kid": P256.id }), &claims);
    backend.validate(&own).await.unwrap();
}

#[tokio::test]
async fn a_statement_is_cached_for_its_user_and_says_what_the_request_s_identity_says() {
    let (clock, keys) = (clock(), keys(3));
    let strategy = strategy(&keys, &clock).claims(["role"]).build().unwrap();
    let role = |role: &str| json!({ "role": role });
    let alice = async |token: &str, claims: &Value| {
        sent(&strategy, user("alice", token, claims)).await.unwrap()
    };
    let first = alice("token-1", &role("reader")).await;
    assert_eq!(alice("token-1", &role("reader")).await, first);
    let bob = sent(&strategy, user("bob", "token-2", &role("reader")))
        .await
        .unwrap();
    assert_ne!(bob, first);
    // The application changed the claims without a new token.
    let (_, claims) =
        support::verified::signed_by(ED25519, &alice("token-1", &role("admin")).await);
    assert_eq!(claims["role"], "admin");
    assert_eq!(alice("token-1", &role("reader")).await, first);
    clock.advance(Duration::from_secs(60));
    assert_ne!(alice("token-1", &role("reader")).await, first);
}

#[tokio::test]
async fn a_statement_ends_with_the_users_token() {
    let (clock, keys) = (clock(), keys(3));
    let strategy = strategy(&keys, &clock).build().unwrap();
    let now = tower_identity::Clock::now(&*clock);
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let user = |exp: u64| user("alice", "token-1", &json!({ "exp": exp }));
    let statement = sent(&strategy, user(now + 10)).await.unwrap();
    let (_, claims) = support::verified::signed_by(ED25519, &statement);
    assert_eq!(claims["exp"], now + 10);
    let refused = sent(&strategy, user(now)).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Expired);
}

#[tokio::test]
async fn claims_that_are_missing_or_too_large_are_told_and_nothing_is_sent() {
    let (clock, keys) = (clock(), keys(3));
    let strategy = strategy(&keys, &clock).claims(["c"]).build().unwrap();
    let long = "x".repeat(10 * 1024);
    for (claims, kind) in [
        (json!({}), AuthErrorKind::InsufficientScope),
        (json!({ "c": null }), AuthErrorKind::InsufficientScope),
        (json!({ "c": long }), AuthErrorKind::Configuration),
    ] {
        let error = sent(&strategy, user("alice", "token-1", &claims))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().len() < 300);
        clock.advance(Duration::from_secs(10));
    }
    let refused = strategy.authenticate(&mut Request::new(String::new()));
    let refused = refused
        .complete(Request::new(String::new()))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::MissingIdentity);
    let mut probe = Request::new(String::new());
    probe.extensions_mut().insert(HealthCheck);
    let probe = strategy
        .authenticate(&mut probe)
        .complete(probe)
        .await
        .unwrap();
    assert!(probe.headers().is_empty());
}

#[tokio::test]
async fn keys_rotate_without_a_statement_that_nobody_can_verify() {
    let (clock, keys) = (clock(), keys(0));
    let strategy = strategy(&keys, &clock).build().unwrap();
    let statement = async |token: &str| {
        sent(&strategy, user("alice", token, &json!({})))
            .await
            .unwrap()
    };
    let old = statement("token-1").await;
    let (p256, algorithm, pem) = PEMS[1];
    keys.add(p256.id, algorithm, &secret(pem)).unwrap();
    let between = backend(&keys, &clock).await;
    let still_old = statement("token-2").await;
    between.validate(&old).await.unwrap();
    between.validate(&still_old).await.unwrap();
    keys.sign_with(p256.id).unwrap();
    let new = statement("token-3").await;
    for statement in [&old, &new] {
        between.validate(statement).await.unwrap();
    }
    keys.remove(RSA.id).unwrap();
    let after = backend(&keys, &clock).await;
    after.validate(&new).await.unwrap();
    let refused = after.validate(&old).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Rejected);

    let twice = keys.add(p256.id, algorithm, &secret(pem)).unwrap_err();
    let unknown = keys.sign_with("unknown").unwrap_err();
    let signing = keys.remove(p256.id).unwrap_err();
    for error in [twice, unknown, signing] {
        assert_eq!(error.invalid_settings()[0].setting(), "key_id");
    }
    let garbage = SigningKeys::new(" ", algorithm, &secret("garbage")).unwrap_err();
    assert_eq!(garbage.invalid_settings().len(), 2);
}

#[tokio::test]
async fn the_keys_are_only_read() {
    let keys = keys(3);
    for (method, status) in [(Method::GET, 200), (Method::HEAD, 200), (Method::POST, 405)] {
        let request = Request::builder().method(method).body(()).unwrap();
        let response = keys.jwks().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[test]
fn a_statement_that_would_say_nothing_or_too_much_is_refused() {
    let keys = keys(3);
    let builder =
        |issuer: &str, audience: &str| SignedIdentity::builder(issuer, audience, keys.clone());
    for (builder, setting) in [
        (builder(" ", BACKEND), "issuer"),
        (builder(GATEWAY, ""), "audience"),
        (builder(GATEWAY, BACKEND).claims(["", "a"]), "claims[0]"),
        (builder(GATEWAY, BACKEND).claims(["exp"]), "claims[0]"),
        (builder(GATEWAY, BACKEND).claims(["a", "a"]), "claims[1]"),
        (
            builder(GATEWAY, BACKEND).lifetime(Duration::ZERO),
            "lifetime",
        ),
        (
            builder(GATEWAY, BACKEND).lifetime(Duration::from_secs(3601)),
            "lifetime",
        ),
    ] {
        let builder = builder.placement(Placement::header("x-identity").unwrap());
        let error = builder.build().unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), setting);
    }
}

#[test]
fn a_cached_statement_costs_no_allocation() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let strategy = strategy(&keys(3), &clock()).claims(["groups"]);
    let strategy = strategy.build().unwrap();
    let claims = json!({ "groups": ["a", "b"], "exp": 4_102_444_800_u64 });
    let alice = user("alice", "token-1", &claims);
    let without_token = Identity::builder("alice")
        .issuer("https://idp.example.com")
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap();
    for user in [alice, without_token] {
        runtime.block_on(sent(&strategy, user.clone())).unwrap();
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(user);
        let before = "Bearer before".parse().unwrap();
        request.headers_mut().insert("authorization", before);
        let counted = allocation_counter::measure(|| {
            let _ = strategy.authenticate(&mut request);
        });
        assert_ne!(request.headers()["authorization"], "Bearer before");
        assert_eq!(counted.count_total, 0);
    }
}

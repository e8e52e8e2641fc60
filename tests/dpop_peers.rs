//! Bound tokens and proofs (DPoP, RFC 9449) that nobody here made: oidc-provider issues, oauth4webapi and PyJWT prove, Redis
//! remembers.
#![cfg(all(
    feature = "incoming",
    feature = "dpop",
    feature = "redis",
    feature = "hyper"
))]

mod support;

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    http_server::{HttpServer, server_body},
    identity_provider::{AUDIENCE, INTROSPECT, IdentityProvider, P256, RSA, client, some_day},
    log::Log,
    oidc_provider::{CALLBACK, OidcProvider, VERIFIER},
    peers,
    redis::{Proxy, RedisServer},
};
use tokio::process::Command;
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AuthError, ClientAuth, Identity, IntrospectionEndpoint, KeySet, ManualClock, RedisStore,
    Secret, TokenValidator, TokenValidatorLayer,
    client::hyper::https_client,
    incoming::{DpopPolicy, TokenValidatorBuilder},
    oauth::SigningAlgorithm,
    upstream::SealingKey,
};

const TARGET: &str = "https://gateway.example.com/";
const OPAQUE: &str = "https://opaque.example.com/";

async fn provider() -> Option<OidcProvider> {
    OidcProvider::start(json!({
        "dpop": { "nonce": true },
        "clients": [{
            "client_id": "agent",
            "client_secret": "secret",
            "token_endpoint_auth_method": "client_secret_post",
        }],
        "resources": { TARGET: {}, OPAQUE: { "format": "opaque" } },
    }))
    .await
}

fn sealing() -> SealingKey {
    SealingKey::new([7; 32])
}

/// A gateway on a socket, whose validator is made for its own URL.
async fn gateway(
    validator: impl FnOnce(DpopPolicy) -> TokenValidatorBuilder,
) -> (HttpServer, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let validator = validator(DpopPolicy::new().url(&url)).build().unwrap();
    let service = service_fn(async |request: Request<hyper::body::Incoming>| {
        assert!(!request.headers().contains_key("dpop"));
        let identity = request.extensions().get::<Identity>().unwrap();
        let subject = identity.subject().to_owned();
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(subject)))
    });
    let layered = TokenValidatorLayer::new(validator).layer(service);
    let server = HttpServer::start_on(listener, move |request| {
        let layered = layered.clone();
        async move {
            let response = layered.oneshot(request).await.unwrap();
            response.map(server_body)
        }
    });
    (server, url)
}

/// What npm's oauth4webapi is answered, with a key for this algorithm.
async fn oauth4webapi(
    provider: &OidcProvider,
    target: &str,
    url: &str,
    algorithm: &str,
    codes: &[String],
) -> Option<Value> {
    let node = peers::required(peers::OAUTH4WEBAPI)?;
    let code = |code| json!({ "code": code, "verifier": VERIFIER, "redirect_uri": CALLBACK });
    let asked = json!({
        "issuer": provider.issuer(),
        "client": "agent",
        "secret": "secret",
        "target": target,
        "url": url,
        "algorithm": algorithm,
        "codes": codes.iter().map(code).collect::<Vec<_>>(),
    });
    let mut node = Command::from(node);
    let said = node
        .arg(asked.to_string())
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(said.status.success());
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

fn assert_answers(said: &Value, subject: &str, algorithm: &str, calls: u64) {
    assert_eq!(said["token_type"], "dpop");
    // A nonce is learnt once.
    for (name, calls) in [("good", calls), ("posted", 1), ("unbound", 1)] {
        let answer = &said[name];
        assert_eq!(answer["status"], 200, "{name} {said}");
        assert_eq!(answer["said"], subject);
        assert_eq!(answer["calls"], calls, "{name} {said}");
    }
    let challenge = |name: &str, index: usize| said[name]["challenges"][index].clone();
    for (name, description) in [
        ("stolen", "another key"),
        ("unbound_with_proof", "not bound to a key"),
    ] {
        assert_eq!(said[name]["status"], 401, "{name} {said}");
        let challenge = challenge(name, 0);
        assert_eq!(challenge["scheme"], "dpop");
        let parameters = &challenge["parameters"];
        assert_eq!(parameters["error"], "invalid_token", "{name} {said}");
        assert!(
            parameters["error_description"]
                .as_str()
                .unwrap()
                .contains(description)
        );
        assert!(parameters["algs"].as_str().unwrap().contains(algorithm));
    }
    let [bearer, dpop] = [challenge("bearer", 0), challenge("bearer", 1)];
    assert_eq!(
        (&bearer["scheme"], &dpop["scheme"]),
        (&json!("bearer"), &json!("dpop"))
    );
    assert_eq!(bearer["parameters"]["error"], "invalid_token");
    assert_eq!(dpop["parameters"]["error"], Value::Null);
    assert_eq!(said["replayed"]["status"], 401);
    let replayed = said["replayed"]["challenge"].as_str().unwrap();
    assert!(
        replayed.contains(r#"error="invalid_dpop_proof""#),
        "{replayed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_token_of_oidc_provider_is_accepted_from_its_client_and_from_no_thief() {
    let Some(provider) = provider().await else {
        return;
    };
    let jwts = |policy: DpopPolicy| {
        TokenValidator::builder(provider.issuer(), https_client::<Full<Bytes>>().unwrap())
            .audience(TARGET)
            .cache_tokens(100)
            .dpop(policy)
    };
    for algorithm in ["ES256", "Ed25519"] {
        let (_server, url) = gateway(jwts).await;
        let url = format!("{url}/mcp?query=1#fragment");
        let Some(said) = oauth4webapi(&provider, TARGET, &url, algorithm, &[]).await else {
            return;
        };
        let name = if algorithm == "Ed25519" {
            "EdDSA"
        } else {
            algorithm
        };
        assert_answers(&said, "agent", name, 1);
    }
    // With nonces, which the client learns with the first answer.
    let (_server, url) = gateway(|policy| jwts(policy.nonces(sealing()))).await;
    let said = oauth4webapi(&provider, TARGET, &url, "ES256", &[])
        .await
        .unwrap();
    assert_answers(&said, "agent", "ES256", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_opaque_bound_token_of_oidc_provider_is_bound_by_its_introspection() {
    let Some(provider) = provider().await else {
        return;
    };
    let (_server, url) = gateway(|policy| {
        let client = https_client::<Full<Bytes>>().unwrap();
        let auth = ClientAuth::post("agent", Secret::new("secret").unwrap());
        let endpoint =
            IntrospectionEndpoint::builder(provider.introspection_endpoint(), client.clone())
                .client_auth(auth)
                .build()
                .unwrap();
        TokenValidator::builder(provider.issuer(), client)
            .audience(OPAQUE)
            .introspection(endpoint)
            .dpop(policy)
    })
    .await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let asked = [
            ("client_id", "agent"),
            ("scope", "openid read"),
            ("resource", OPAQUE),
            ("login_hint", "alice"),
        ];
        codes.push(provider.code(&asked).await);
    }
    if let Some(said) = oauth4webapi(&provider, OPAQUE, &url, "ES256", &codes).await {
        assert_answers(&said, "alice", "ES256", 1);
    }
}

// A token of our own, and a proof of PyJWT for it.

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs()
}

fn token(thumbprint: &Value) -> String {
    let claims = json!({
        "iss": "https://issuer.example.com",
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": seconds() + 86_400,
        "cnf": { "jkt": thumbprint },
    });
    RSA.sign(&RSA.header(), &claims)
}

fn builder() -> TokenValidatorBuilder {
    let keys = json!({ "keys": [RSA.public()] }).to_string();
    TokenValidator::builder_with_keys(
        "https://issuer.example.com",
        KeySet::from_json(keys).unwrap(),
    )
    .audience(AUDIENCE)
}

fn request(token: &str, proof: &str) -> Request<()> {
    Request::get("/mcp")
        .header("authorization", format!("DPoP {token}"))
        .header("dpop", proof)
        .body(())
        .unwrap()
}

/// What PyJWT makes for a token, by algorithm: `thumbprint` and `proof`.
fn pyjwt(token: &str) -> Option<Value> {
    let asked = json!({
        "htu": "https://gateway.example.com/mcp",
        "iat": some_day().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        "token": token,
    });
    let mut python = peers::required(peers::PYJWT)?;
    let said = python.arg(asked.to_string()).output().unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

#[tokio::test]
async fn the_thumbprint_and_the_proof_of_pyjwt_are_the_ones_that_are_expected_here() {
    // An opaque token, because the proof is of the token, and the token of the key.
    let Some(said) = pyjwt("opaque") else {
        return;
    };
    let provider = IdentityProvider::start(RSA).await;
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client());
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .introspection(endpoint.build().unwrap())
        .clock(Arc::new(ManualClock::new(some_day())))
        .dpop(DpopPolicy::new().url(AUDIENCE).algorithms([
            SigningAlgorithm::Es256,
            SigningAlgorithm::Es384,
            SigningAlgorithm::EdDsa,
            SigningAlgorithm::Rs256,
            SigningAlgorithm::Ps256,
        ]))
        .build()
        .unwrap();
    for algorithm in ["ES256", "ES384", "EdDSA", "RS256", "PS256"] {
        let made = &said[algorithm];
        let mut active = provider.claims("alice", some_day());
        active["active"] = json!(true);
        active["token_type"] = json!("DPoP");
        active["cnf"] = json!({ "jkt": made["thumbprint"] });
        provider.introspects("opaque", active);
        let proven = request("opaque", made["proof"].as_str().unwrap());
        let identity = validator.validate_request(&proven).await;
        assert_eq!(identity.unwrap().subject(), "alice", "{algorithm}");
    }
}

// Redis.

/// A replica of the gateway.
fn replica(url: &str) -> TokenValidator {
    replica_with(url, |validator| validator)
}

fn replica_with(
    url: &str,
    set: impl FnOnce(TokenValidatorBuilder) -> TokenValidatorBuilder,
) -> TokenValidator {
    let store = RedisStore::builder(url, sealing())
        .response_limit(Duration::from_secs(20))
        .build()
        .unwrap();
    let policy = DpopPolicy::new().url(AUDIENCE).proof_store(store);
    set(builder().dpop(policy)).build().unwrap()
}

/// A request whose proof is fresh.
fn proven() -> Request<()> {
    proven_at(seconds())
}

fn proven_at(issued_at: u64) -> Request<()> {
    let jwk: Jwk = serde_json::from_value(P256.public()).unwrap();
    let token = token(&json!(jwk.thumbprint(ThumbprintHash::SHA256).unwrap()));
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": P256.public() });
    let claims = json!({
        "jti": format!("{:016x}", fastrand::u64(..)),
        "htm": "GET",
        "htu": format!("{AUDIENCE}/mcp"),
        "iat": issued_at,
        "ath": URL_SAFE_NO_PAD.encode(Sha256::digest(&token)),
    });
    request(&token, &P256.sign(&header, &claims))
}

fn told(outcome: Result<Identity, AuthError>) -> (StatusCode, String) {
    let response = outcome.unwrap_err().to_response::<Bytes>();
    let said: Value = serde_json::from_slice(response.body()).unwrap();
    (
        response.status(),
        said["error"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_uses_of_a_proof_at_replicas_that_share_redis_one_is_accepted() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let replicas: Vec<_> = (0..4).map(|_| replica(&redis.url())).collect();
    for _ in 0..10 {
        let request = proven();
        let uses = (0..16).map(|index| replicas[index % 4].validate_request(&request));
        let outcomes = join_all(uses).await;
        let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(accepted, 1);
        for outcome in outcomes.into_iter().filter(Result::is_err) {
            let refused = (StatusCode::UNAUTHORIZED, "invalid_dpop_proof".to_owned());
            assert_eq!(told(outcome), refused);
        }
    }
    // Redis learns nothing of the proof, and forgets it.
    let keys = redis.keys();
    assert_eq!(keys.len(), 10);
    for key in keys {
        assert!(key.starts_with("tower-identity:used:"), "{key}");
        let left: i64 = redis.ask(&format!("PTTL {key}"));
        assert!((1..=180_000).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_replica_whose_clock_is_wrong_makes_no_replay_a_first_use() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let log = Log::default();
    let _guard = log.capture("tower_identity=warn");
    let at = |now: u64| {
        let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(now));
        replica_with(&redis.url(), |validator| validator.clock(Arc::new(clock)))
    };
    // A clock that is an hour ahead is set right, and another hour later the proof is seen again.
    let ahead = seconds() + 3600;
    let proof = proven_at(ahead);
    at(ahead).validate_request(&proof).await.unwrap();
    let outcome = at(ahead).validate_request(&proof).await;
    assert_eq!(told(outcome).1, "invalid_dpop_proof");
    let keys = redis.keys();
    let left: i64 = redis.ask(&format!("PTTL {}", keys[0]));
    assert!((3_700_000..=3_780_000).contains(&left), "{left}");
    // What Redis had of another hour is gone.
    let behind = seconds() - 3600;
    assert_eq!(log.text(), "");
    let outcome = at(behind).validate_request(&proven_at(behind)).await;
    let refused = (
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable".to_owned(),
    );
    assert_eq!(told(outcome), refused);
    let text = log.text();
    assert!(text.contains("WARN") && text.contains("clock"), "{text}");
    assert_eq!(redis.keys(), keys);
    // One that is off by a minute is no hindrance.
    for off in [seconds() - 60, seconds() + 60] {
        let outcome = at(off).validate_request(&proven_at(off)).await;
        outcome.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_not_accepted_while_redis_is_gone() {
    let Some(mut redis) = RedisServer::start() else {
        return;
    };
    let validator = replica(&redis.url());
    validator.validate_request(&proven()).await.unwrap();
    redis.kill();
    let request = proven();
    let refused = (
        StatusCode::SERVICE_UNAVAILABLE,
        "temporarily_unavailable".to_owned(),
    );
    assert_eq!(told(validator.validate_request(&request).await), refused);
    redis.restart();
    validator.validate_request(&request).await.unwrap();
    let outcome = validator.validate_request(&request).await;
    assert_eq!(told(outcome).1, "invalid_dpop_proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_to_redis_does_not_make_a_replay_of_a_first_use() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&redis).await;
    let validator = replica(&proxy.url());
    for _ in 0..20 {
        let request = proven();
        validator.validate_request(&request).await.unwrap();
        proxy.drop_connections();
        let outcome = validator.validate_request(&request).await;
        assert_eq!(told(outcome).1, "invalid_dpop_proof");
        proxy.drop_connections();
    }
}

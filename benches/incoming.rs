//! What a validated request costs, beside the bare verification of its token by `jsonwebtoken`.
//!
//! Ratios of medians from one run are what counts. RS256 is the fastest to verify, so the rest weighs most beside it.
//!
//! ```text
//! taskset -c 1 cargo bench --bench incoming --features incoming,dpop
//! ```
//!
//! The group `dpop` is a token that is bound to a key of the caller (RFC 9449): `jsonwebtoken` verifies the token and the
//! proof, and the validator also compares both with the request and notes the proof.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, jwk::Jwk};
use serde_json::{Map, Value, json};
use tower::{Layer, Service};
use tower_identity::{KeySet, TokenValidator, TokenValidatorLayer};

const ISSUER: &str = "https://issuer.example.com";
const AUDIENCE: &str = "https://gateway.example.com";

/// Stands for the gateway: takes the request and answers at once.
#[derive(Clone)]
struct Bare;

impl Service<Request<()>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::default()))
    }
}

fn request(token: &str) -> Request<()> {
    let mut request = Request::new(());
    let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    request
}

fn incoming(criterion: &mut Criterion) {
    let key = include_bytes!("../tests/support/keys/rsa.pem");
    let key = EncodingKey::from_rsa_pem(key).unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap());
    let jwk = jwk.as_mut().unwrap();
    jwk["kid"] = json!("key-1");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "5be86359-073c-434b-ad2d-a3932222dabe",
        "iat": now.as_secs(),
        "exp": now.as_secs() + 24 * 3600,
        "client_id": "mcp-client",
        "scope": "openid profile tools:read tools:write",
        "name": "Alice Example",
        "email": "alice@example.com",
        "groups": ["engineering", "on-call"],
    });
    let header = Header {
        kid: Some("key-1".to_owned()),
        ..Header::new(Algorithm::RS256)
    };
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let public = serde_json::from_value::<Jwk>(jwk.clone()).unwrap();
    let public = DecodingKey::from_jwk(&public).unwrap();
    let keys = KeySet::from_json(json!({ "keys": [jwk] }).to_string()).unwrap();
    let validator = || TokenValidator::builder_with_keys(ISSUER, keys.clone()).audience(AUDIENCE);

    let mut group = criterion.benchmark_group("incoming");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.validate_nbf = true;
    group.bench_function("jsonwebtoken", |bencher| {
        bencher.iter(|| {
            jsonwebtoken::decode::<Map<String, Value>>(black_box(&token), &public, &validation)
                .unwrap()
        });
    });
    for (id, validator) in [
        ("validated", validator()),
        ("remembered", validator().cache_tokens(1000)),
    ] {
        let layer = TokenValidatorLayer::new(validator.build().unwrap());
        let mut service = layer.layer(Bare);
        group.bench_function(id, |bencher| {
            bencher.iter_batched(
                || request(&token),
                |request| {
                    let answer = service.call(request).now_or_never().unwrap().unwrap();
                    assert!(answer.status().is_success());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

#[cfg(feature = "dpop")]
fn dpop(criterion: &mut Criterion) {
    use std::sync::atomic::{AtomicU64, Ordering};

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::jwk::ThumbprintHash;
    use sha2::{Digest, Sha256};
    use tower_identity::incoming::DpopPolicy;

    let issuer = include_bytes!("../tests/support/keys/rsa.pem");
    let issuer = EncodingKey::from_rsa_pem(issuer).unwrap();
    let holder = include_bytes!("../tests/support/keys/p256.pem");
    let holder = EncodingKey::from_ec_pem(holder).unwrap();
    let mut jwk = Jwk::from_encoding_key(&holder, Algorithm::ES256).unwrap();
    jwk.common = Default::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "5be86359-073c-434b-ad2d-a3932222dabe",
        "exp": now.as_secs() + 24 * 3600,
        "cnf": { "jkt": jwk.thumbprint(ThumbprintHash::SHA256).unwrap() },
    });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &issuer).unwrap();
    let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(&token));
    let public = Jwk::from_encoding_key(&issuer, Algorithm::RS256).unwrap();
    let keys = KeySet::from_json(json!({ "keys": [&public] }).to_string()).unwrap();
    let public = DecodingKey::from_jwk(&public).unwrap();
    let of_holder = DecodingKey::from_jwk(&jwk).unwrap();
    let header = Header {
        typ: Some("dpop+jwt".to_owned()),
        jwk: Some(jwk),
        ..Header::new(Algorithm::ES256)
    };
    let next = AtomicU64::new(0);
    let prove = || {
        let claims = json!({
            "jti": format!("{:032x}", next.fetch_add(1, Ordering::Relaxed)),
            "htm": "GET",
            "htu": format!("{AUDIENCE}/mcp"),
            "iat": SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
            "ath": ath,
        });
        jsonwebtoken::encode(&header, &claims, &holder).unwrap()
    };
    let proven = || {
        let proof = prove();
        let mut request = Request::get("/mcp").body(()).unwrap();
        let authorization = HeaderValue::try_from(format!("DPoP {token}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        let proof = HeaderValue::try_from(proof).unwrap();
        request.headers_mut().insert("dpop", proof);
        request
    };

    let mut group = criterion.benchmark_group("dpop");
    let mut of_token = Validation::new(Algorithm::RS256);
    of_token.set_audience(&[AUDIENCE]);
    of_token.set_issuer(&[ISSUER]);
    let mut of_proof = Validation::new(Algorithm::ES256);
    of_proof.required_spec_claims.clear();
    of_proof.validate_exp = false;
    let proof = prove();
    let decode = |proof: &str| {
        jsonwebtoken::decode::<Map<String, Value>>(proof, &of_holder, &of_proof).unwrap()
    };
    group.bench_function("jsonwebtoken_proof", |bencher| {
        bencher.iter(|| decode(black_box(&proof)));
    });
    group.bench_function("jsonwebtoken_both", |bencher| {
        bencher.iter(|| {
            let token =
                jsonwebtoken::decode::<Map<String, Value>>(black_box(&token), &public, &of_token);
            (token.unwrap(), decode(black_box(&proof)))
        });
    });
    for (id, capacity) in [("validated", 0), ("remembered", 1000)] {
        let policy = DpopPolicy::new().url(AUDIENCE).proof_memory(10_000_000);
        let validator = TokenValidator::builder_with_keys(ISSUER, keys.clone())
            .audience(AUDIENCE)
            .cache_tokens(capacity)
            .dpop(policy);
        let layer = TokenValidatorLayer::new(validator.build().unwrap());
        let mut service = layer.layer(Bare);
        group.bench_function(id, |bencher| {
            bencher.iter_batched(
                proven,
                |request| {
                    let answer = service.call(request).now_or_never().unwrap().unwrap();
                    assert!(answer.status().is_success());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

#[cfg(not(feature = "dpop"))]
fn dpop(_: &mut Criterion) {}

criterion_group!(benches, incoming, dpop);
criterion_main!(benches);

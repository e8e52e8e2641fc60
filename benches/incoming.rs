//! What a validated request costs, beside the bare verification of its token by `jsonwebtoken`.
//!
//! Ratios of medians from one run are what counts. RS256 is the fastest to verify, so the rest weighs most beside it.
//!
//! ```text
//! taskset -c 1 cargo bench --bench incoming --features incoming
//! ```

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

criterion_group!(benches, incoming);
criterion_main!(benches);

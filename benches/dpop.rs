//! What a proof of possession costs (DPoP, RFC 9449), beside the bare signature by the same library.
//!
//! `bound` less `plain` is the proof: both send a cached token through the layers, and only the one of `bound` is bound to a
//! key. Ratios of medians from one run are what counts. Building the request is not timed; dropping it is, in every row.
//!
//! ```text
//! taskset -c 1 cargo bench --features dpop --bench dpop
//! ```

mod support;

use std::{convert::Infallible, future::ready, hint::black_box};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tower::{Service, ServiceBuilder, service_fn};
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, Origin, TokenEndpoint, TokenExchange,
    oauth::{DpopKey, DpopKeys},
};

use support::Bare;

type Body = Full<Bytes>;

/// The length of a token, as JWTs have it.
const TOKEN: usize = 1024;

fn identity() -> Identity {
    Identity::builder("alice@example.com")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("t".repeat(TOKEN)).unwrap())
        .build()
        .unwrap()
}

fn request(identity: &Identity) -> Request<Body> {
    let mut request = Request::post("https://mcp.example.com/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::default())
        .unwrap();
    request.headers_mut().reserve(8);
    request.extensions_mut().insert(identity.clone());
    request
}

/// The stack, with a token of this user in the cache.
fn layers(
    identity: &Identity,
    keys: Option<DpopKeys>,
) -> impl Service<Request<Body>, Response = Response<()>> {
    let token_type = if keys.is_some() { "DPoP" } else { "Bearer" };
    let answer = format!(
        r#"{{"access_token":"{}","token_type":"{token_type}","expires_in":3600,
        "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#,
        "b".repeat(TOKEN)
    );
    let issuer = service_fn(move |_: Request<Body>| {
        ready(Ok::<_, Infallible>(Response::new(Body::from(
            answer.clone(),
        ))))
    });
    let mut endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer);
    if let Some(keys) = keys {
        endpoint = endpoint.dpop(keys);
    }
    let strategy = TokenExchange::builder(endpoint.build().unwrap());
    let strategy = strategy.audience("mcp-backend").build().unwrap();
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let mut layers = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(origin, strategy))
        .service(Bare);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { layers.call(request(identity)).await })
        .unwrap();
    layers
}

fn row<S>(group: &mut BenchmarkGroup<'_, WallTime>, id: &str, identity: &Identity, mut layers: S)
where
    S: Service<Request<Body>, Response = Response<()>>,
{
    let mut send = |request| {
        layers
            .call(request)
            .now_or_never()
            .is_some_and(|answer| answer.is_ok())
    };
    let once = request(identity);
    let allocations = allocation_counter::measure(|| assert!(send(once))).count_total;
    println!("{id}: {allocations} allocations");
    group.bench_function(id, |bencher| {
        bencher.iter_batched(
            || request(identity),
            &mut send,
            BatchSize::NumIterations(16),
        );
    });
}

fn dpop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dpop");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    // As long as the signed part of a proof.
    let message = vec![b'a'; 480];
    let random = SystemRandom::new();
    group.bench_function("signature", |bencher| {
        bencher.iter(|| pair.sign(&random, black_box(&message)).unwrap());
    });
    let identity = identity();
    row(&mut group, "plain", &identity, layers(&identity, None));
    let one = DpopKeys::from(DpopKey::generate().unwrap());
    row(&mut group, "bound", &identity, layers(&identity, Some(one)));
    let secret = tower_identity::Secret::new("0123456789abcdef0123456789abcdef").unwrap();
    let each = DpopKeys::per_user(&secret).unwrap();
    row(
        &mut group,
        "bound_per_user",
        &identity,
        layers(&identity, Some(each)),
    );

    // Parts of it.
    let token = vec![b'b'; TOKEN];
    group.bench_function("hash_of_token", |bencher| {
        bencher.iter(|| Sha256::digest(black_box(&token)));
    });
    group.bench_function("random_of_system", |bencher| {
        bencher.iter(|| {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).unwrap();
            bytes
        });
    });
    group.bench_function("random_of_library", |bencher| {
        bencher.iter(|| {
            let mut bytes = [0; 16];
            aws_lc_rs::rand::fill(&mut bytes).unwrap();
            bytes
        });
    });
    group.finish();
}

criterion_group!(benches, dpop);
criterion_main!(benches);

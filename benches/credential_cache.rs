//! What a hit costs: 10,000 users with tokens of 1 KiB; on one thread and on as many as there are cores.
//!
//! `layers_hit` is a request through `IdentityLayer`, `AuthLayer` and `TokenExchange`; `minimum` is what somebody would
//! write by hand: a look-up in a bare `quick_cache`, one clock read, and the header inserted. `cache_hit`, `quick_cache`
//! and `moka` are the look-up alone, and `clock_reads` the two clock reads of a hit. `quick_cache_and_clock_reads` does
//! both, as a hit must. It takes longer than the two added up, because a clock read waits for the memory of the look-up
//! before it. The rows `hot_user` and `hot_key` have one user, whose token all threads send.
//! `statement_hit` (feature `private-key-jwt`) is `layers_hit` with `SignedIdentity`. Ratios of medians from one run are what counts. `rejected_1k`
//! is 1,000 calls in a row that the backend rejects, and asserts that they cost the issuer at most one request in 10 s.
//! It also prints how long 10,000 callers wait for one exchange. What an entry takes in memory is a test (`tests/allocation.rs`).
//!
//! ```text
//! GLIBC_TUNABLES=glibc.malloc.tcache_count=4096 cargo bench --bench credential_cache --features token-exchange
//! ```

mod support;

use std::{
    convert::Infallible,
    future::Ready,
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use futures_util::{FutureExt, future::join_all};
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::{Service, ServiceBuilder, service_fn};
use tower_identity::{
    AccessToken, AuthLayer, Clock, CredentialCache, DefaultClock, Identity, IdentityLayer,
    ManualClock, Origin, Strategy, SystemClock, TokenEndpoint, TokenExchange,
    credential::{CacheKey, CacheScope, Fingerprint, Obtained},
};

use support::Bare;

const USERS: usize = 10_000;
const STRIDE: usize = 7_919;
const TOKEN_LENGTH: usize = 1024;
const ISSUER_DELAY: Duration = Duration::from_millis(200);
/// More at once would overflow the allocator's thread cache, and the noise would hide the difference.
const BATCH: usize = 16;

type Body = Full<Bytes>;

fn token(user: usize) -> AccessToken {
    AccessToken::new(format!("{user:x<TOKEN_LENGTH$}")).unwrap()
}

fn identities() -> Vec<Identity> {
    let identity = |user| {
        Identity::builder("user")
            .token(token(user))
            .build()
            .unwrap()
    };
    (0..USERS).map(identity).collect()
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

/// A request as an MCP client sends it.
fn request(identity: &Identity) -> Request<Body> {
    let mut request = Request::post("https://mcp.example.com/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::from(Bytes::from_static(b"{}")))
        .unwrap();
    request.extensions_mut().insert(identity.clone());
    request
}

/// What somebody would write by hand, without any check of the origin.
#[derive(Clone)]
struct Minimum {
    inner: Bare,
    tokens: Arc<quick_cache::sync::Cache<Fingerprint, (HeaderValue, Instant)>>,
}

impl Minimum {
    fn new(identities: &[Identity]) -> Self {
        let tokens = quick_cache::sync::Cache::new(16_384);
        let end = Instant::now() + Duration::from_secs(12 * 3600);
        for (user, identity) in identities.iter().enumerate() {
            let subject = identity.token().unwrap().fingerprint();
            tokens.insert(subject, (token(user).authorization().clone(), end));
        }
        Self {
            inner: Bare,
            tokens: Arc::new(tokens),
        }
    }
}

impl Service<Request<Body>> for Minimum {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let identity = request.extensions().get::<Identity>();
        let subject = identity
            .and_then(Identity::token)
            .map(AccessToken::fingerprint);
        if let Some((authorization, end)) = subject.and_then(|subject| self.tokens.get(&subject))
            && Instant::now() < end
        {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        self.inner.call(request)
    }
}

/// An issuer in this process, which counts what it is asked, and answers after `delay`.
fn exchange(delay: Duration, asked: &Arc<AtomicUsize>) -> TokenExchange {
    let asked = asked.clone();
    let issuer = service_fn(move |_: Request<Body>| {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let answer = format!(
                r#"{{"access_token":"{number:x<TOKEN_LENGTH$}","token_type":"Bearer","expires_in":43200,
                "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
            );
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(answer)))
        }
    });
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer);
    TokenExchange::builder(endpoint.build().unwrap())
        .audience("mcp-backend")
        .build()
        .unwrap()
}

async fn fill(strategy: &impl Strategy<Body>, identities: &[Identity]) {
    for identity in identities {
        let mut request = request(identity);
        let authenticating = strategy.authenticate(&mut request);
        drop(authenticating.complete(request).await.unwrap());
    }
}

/// A gateway that signs who the user is, for as long as the bench runs.
#[cfg(feature = "private-key-jwt")]
fn signed() -> tower_identity::SignedIdentity {
    use tower_identity::{
        Secret, SignedIdentity,
        oauth::{SigningAlgorithm, SigningKeys},
    };

    let pem = Secret::new(include_str!("../tests/support/keys/ed25519.pem")).unwrap();
    let keys = SigningKeys::new("key", SigningAlgorithm::EdDsa, &pem).unwrap();
    SignedIdentity::builder(
        "https://gateway.example.com",
        "https://mcp.example.com",
        keys,
    )
    .lifetime(Duration::from_secs(3600))
    .build()
    .unwrap()
}

fn layers<A>(strategy: A) -> impl Service<Request<Body>, Response = Response<()>> + Clone + Send
where
    A: Strategy<Body> + Clone + Send + Sync + 'static,
{
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(origin, strategy))
        .service(Bare)
}

fn call<S>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<()>>,
{
    let answered = service.call(request).now_or_never();
    assert!(answered.is_some_and(|answer| answer.is_ok()));
}

/// Steps through all users in an order that no prefetcher guesses.
fn step(next: &mut usize) -> usize {
    *next = (*next + STRIDE) % USERS;
    *next
}

/// The time of one call; making the request is not timed, dropping it is.
fn calls_on_one_thread<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    identities: &[Identity],
    mut service: S,
) where
    S: Service<Request<Body>, Response = Response<()>>,
{
    let mut next = 0;
    group.bench_function(id, |bencher| {
        bencher.iter_batched(
            || request(&identities[step(&mut next)]),
            |request| call(&mut service, request),
            BatchSize::NumIterations(BATCH as u64),
        );
    });
}

/// The time of one call on each of all threads at once.
fn calls_on_all_threads<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    identities: &[Identity],
    service: &S,
) where
    S: Service<Request<Body>, Response = Response<()>> + Clone + Send,
{
    on_all_threads(group, id, |thread, start, iterations| {
        let mut service = service.clone();
        move || {
            let mut next = thread * USERS / 7;
            let mut elapsed = Duration::ZERO;
            start.wait();
            for _ in 0..iterations.div_ceil(BATCH as u64) {
                let requests: [_; BATCH] =
                    std::array::from_fn(|_| request(&identities[step(&mut next)]));
                let started = Instant::now();
                for request in requests {
                    call(&mut service, request);
                }
                elapsed += started.elapsed();
            }
            elapsed
        }
    });
}

/// Measures `look_up` of all keys in turn.
fn look_ups_on_one_thread<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    keys: &[CacheKey],
    look_up: impl Fn(&CacheKey) -> T,
) {
    let mut next = 0;
    group.bench_function(id, |bencher| {
        bencher.iter(|| black_box(look_up(&keys[step(&mut next)])));
    });
}

/// The time of one look-up on each of all threads at once.
fn look_ups_on_all_threads<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    keys: &[CacheKey],
    look_up: impl Fn(&CacheKey) -> T + Sync,
) {
    let look_up = &look_up;
    on_all_threads(group, id, |thread, start, iterations| {
        move || {
            let mut next = thread * USERS / 7;
            start.wait();
            let started = Instant::now();
            for _ in 0..iterations {
                black_box(look_up(&keys[step(&mut next)]));
            }
            started.elapsed()
        }
    });
}

/// Runs what `prepare` makes on every thread. Each says how long it took, and the longest counts.
fn on_all_threads<'a, W>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    prepare: impl Fn(usize, Arc<Barrier>, u64) -> W + 'a,
) where
    W: FnOnce() -> Duration + Send,
{
    let threads = thread::available_parallelism().unwrap().get();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Arc::new(Barrier::new(threads));
            thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|thread| scope.spawn(prepare(thread, start.clone(), iterations)))
                    .collect();
                let elapsed = running.into_iter().map(|thread| thread.join().unwrap());
                elapsed.max().unwrap()
            })
        });
    });
}

fn hits_through_the_stack(group: &mut BenchmarkGroup<'_, WallTime>, identities: &[Identity]) {
    let strategy = exchange(Duration::ZERO, &Arc::default());
    runtime().block_on(fill(&strategy, identities));
    calls_on_one_thread(
        group,
        "minimum_1_thread",
        identities,
        Minimum::new(identities),
    );
    let layers = layers(strategy);
    calls_on_one_thread(group, "layers_hit_1_thread", identities, layers.clone());
    calls_on_all_threads(group, "layers_hit_all_threads", identities, &layers);
    let one_user = vec![identities[0].clone(); USERS];
    calls_on_one_thread(group, "layers_hot_user_1_thread", &one_user, layers.clone());
    calls_on_all_threads(group, "layers_hot_user_all_threads", &one_user, &layers);
    #[cfg(feature = "private-key-jwt")]
    {
        let strategy = signed();
        runtime().block_on(fill(&strategy, identities));
        let layers = self::layers(strategy);
        calls_on_one_thread(group, "statement_hit_1_thread", identities, layers);
    }
}

fn look_ups(group: &mut BenchmarkGroup<'_, WallTime>, identities: &[Identity]) {
    let scope = CacheScope::new("bench");
    let key = |identity: &Identity| scope.key(identity.token().unwrap().fingerprint());
    let keys: Vec<_> = identities.iter().map(key).collect();
    let cache = CredentialCache::builder().build().unwrap();
    let quick_cache = quick_cache::sync::Cache::new(16_384);
    let moka = moka::sync::Cache::new(16_384);
    runtime().block_on(async {
        for (user, &key) in keys.iter().enumerate() {
            quick_cache.insert(key, token(user));
            moka.insert(key, token(user));
            let obtained = cache.obtain(key, None, || async move {
                Ok(Obtained::new(token(user)).expires_in(Duration::from_secs(12 * 3600)))
            });
            obtained.await.unwrap();
        }
    });
    moka.run_pending_tasks();

    let hit = |key: &CacheKey| cache.lookup(key, None).unwrap().unwrap();
    look_ups_on_one_thread(group, "cache_hit_1_thread", &keys, hit);
    look_ups_on_all_threads(group, "cache_hit_all_threads", &keys, hit);
    let hot = keys[0];
    look_ups_on_one_thread(group, "hot_key_1_thread", &keys, |_| hit(&hot));
    look_ups_on_all_threads(group, "hot_key_all_threads", &keys, |_| hit(&hot));
    look_ups_on_one_thread(group, "quick_cache_1_thread", &keys, |key| {
        quick_cache.get(key).unwrap()
    });
    let clock = SystemClock;
    look_ups_on_one_thread(group, "clock_reads_1_thread", &keys, |_| {
        (clock.now(), clock.monotonic())
    });
    look_ups_on_one_thread(
        group,
        "quick_cache_and_clock_reads_1_thread",
        &keys,
        |key| {
            let now = (clock.now(), clock.monotonic());
            (now, quick_cache.get(key).unwrap())
        },
    );
    look_ups_on_one_thread(group, "moka_1_thread", &keys, |key| moka.get(key).unwrap());
}

/// A backend that rejects every call costs the issuer one request in 10 s.
fn rejected_calls(group: &mut BenchmarkGroup<'_, WallTime>, identities: &[Identity]) {
    const CALLS: usize = 1_000;
    let asked = Arc::new(AtomicUsize::new(0));
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _clock = DefaultClock::set(clock.clone());
    let strategy = exchange(Duration::ZERO, &asked);
    let runtime = runtime();
    runtime.block_on(fill(&strategy, &identities[..1]));
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let mut service = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(origin, strategy).retry_rejected())
        .service(service_fn(async |_: Request<Body>| {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok::<_, Infallible>(response)
        }));
    group.bench_function("rejected_1k", |bencher| {
        bencher.iter(|| {
            clock.advance(Duration::from_secs(10));
            let before = asked.load(Ordering::Relaxed);
            runtime.block_on(async {
                for _ in 0..CALLS {
                    let response = service.call(request(&identities[0])).await.unwrap();
                    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                }
            });
            let asked = asked.load(Ordering::Relaxed) - before;
            assert!(asked <= 1, "{CALLS} rejected calls cost {asked} requests");
        });
    });
}

fn cold_starts(group: &mut BenchmarkGroup<'_, WallTime>, identities: &[Identity]) {
    let runtime = runtime();
    group.sample_size(10);
    group.bench_function("cold_10k", |bencher| {
        bencher.iter_batched(
            || exchange(Duration::ZERO, &Arc::default()),
            |strategy| {
                runtime.block_on(fill(&strategy, identities));
                strategy
            },
            BatchSize::PerIteration,
        );
    });

    let asked = Arc::new(AtomicUsize::new(0));
    let strategy = exchange(ISSUER_DELAY, &asked);
    let started = Instant::now();
    runtime.block_on(async {
        let callers = (0..USERS).map(|_| {
            let mut request = request(&identities[0]);
            strategy.authenticate(&mut request).complete(request)
        });
        assert!(join_all(callers).await.iter().all(Result::is_ok));
    });
    println!(
        "{USERS} callers of one cold key: {} request, the last answered after {:.2} of the issuer's delay",
        asked.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64() / ISSUER_DELAY.as_secs_f64()
    );
}

fn credential_cache(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("credential_cache");
    let identities = identities();
    hits_through_the_stack(&mut group, &identities);
    look_ups(&mut group, &identities);
    rejected_calls(&mut group, &identities);
    cold_starts(&mut group, &identities);
    group.finish();
}

criterion_group!(benches, credential_cache);
criterion_main!(benches);

//! Costs that may grow with the number of backends, of users and of replicas.
//!
//! ```text
//! cargo bench --all-features --bench growth
//! ```
//!
//! Users hold a token of 1 KiB each, and the time is that of one look-up in random order. Replicas are stores with a
//! connection each in this process; every load asks Redis, whose own count of calls and of processor time is shown.

mod support;

use std::{
    convert::Infallible,
    fs,
    future::ready,
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{Request, Response};
use http_body_util::Full;
use redis_server::RedisServer;
use tower::{BoxError, Layer, Service};
use tower_identity::{
    AccessToken, CredentialCache, Identity, OutgoingAuthConfig, RedisStore, Secret, UpstreamToken,
    UpstreamTokenStore, UpstreamTokens,
    config::Resources,
    credential::{CacheKey, CacheScope, Obtained},
    upstream::{
        Provider, ProviderTokens, Refreshed, Refresher, SealingKey, TokenOwner, UpstreamFuture,
    },
};

use support::Bare;

#[path = "../tests/support/peers.rs"]
#[allow(dead_code, reason = "the bench needs one peer")]
mod peers;
#[path = "../tests/support/redis.rs"]
#[allow(dead_code, reason = "the bench needs no faults")]
mod redis_server;

const BACKENDS: [usize; 3] = [1, 10, 100];
const USERS: [usize; 2] = [10_000, 1_000_000];
const REPLICAS: [usize; 3] = [2, 8, 32];
const CALLS: usize = 200_000;
const LOADS: usize = 20_000;
/// Larger than any number of users, and prime to it, so that each is met in an order that no cache foresees.
const STRIDE: usize = 7_368_787;

type Body = Full<Bytes>;

/// Nothing expires here.
#[derive(Debug)]
struct Never;

impl Refresher for Never {
    fn refresh(&self, _: &ProviderTokens, _: SystemTime) -> UpstreamFuture<'static, Refreshed> {
        unreachable!("a good token was refreshed")
    }
}

fn main() -> Result<(), BoxError> {
    // `cargo test` runs the benches once; there is nothing to learn from this one then.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    backends()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for users in USERS {
        runtime.block_on(users_in_cache(users))?;
    }
    for replicas in REPLICAS {
        runtime.block_on(replicas_on_redis(replicas))?;
    }
    Ok(())
}

/// Requests to the backends of one configuration, in turn.
fn backends() -> Result<(), BoxError> {
    let token = UpstreamToken::new(AccessToken::new(
        "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    )?)
    .with_expires_at(SystemTime::now() + Duration::from_secs(3600));
    let identity = Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .upstream("github", token)
        .build()?;
    for count in BACKENDS {
        let mut yaml = "backends:\n".to_owned();
        for number in 0..count {
            yaml += &format!(
                "  backend-{number}: {{ type: upstream_inject, upstreamInject: {{ providerName: github }} }}\n"
            );
        }
        let config: OutgoingAuthConfig = serde_saphyr::from_str(&yaml)?;
        let resources = Resources::<Body>::builder(tower::service_fn(|_: Request<Body>| {
            ready(Ok::<_, Infallible>(Response::new(Body::default())))
        }))
        .build()?;
        let mut stacks = Vec::new();
        for number in 0..count {
            let host = format!("backend-{number}.example.com");
            let origin = format!("https://{host}").parse()?;
            let layer = config.layer_for(&format!("backend-{number}"), origin, &resources)?;
            stacks.push((format!("https://{host}/mcp"), layer.layer(Bare)));
        }
        let mut spent = Duration::ZERO;
        for call in 0..CALLS {
            let (url, stack) = &mut stacks[call % count];
            let mut request = Request::post(url.as_str()).body(Body::default())?;
            request.extensions_mut().insert(identity.clone());
            let started = Instant::now();
            let answered = stack.call(request).now_or_never();
            spent += started.elapsed();
            assert!(answered.is_some_and(|answer| answer.is_ok()));
        }
        println!(
            "{count:>9} backends: {:>6.0} ns a request",
            spent.as_secs_f64() * 1e9 / CALLS as f64
        );
    }
    Ok(())
}

async fn users_in_cache(users: usize) -> Result<(), BoxError> {
    let scope = CacheScope::new("bench");
    let keys = (0..users).map(|user| {
        let token = AccessToken::new(format!("subject-{user}"))?;
        Ok(scope.key(token.fingerprint()))
    });
    let keys = keys.collect::<Result<Vec<CacheKey>, BoxError>>()?;
    let before = resident_memory();
    let cache = CredentialCache::builder().capacity(2 * users).build()?;
    for (user, &key) in keys.iter().enumerate() {
        let token = AccessToken::new(format!("{user:x<1024}"))?;
        let obtained =
            || async move { Ok(Obtained::new(token).expires_in(Duration::from_secs(43_200))) };
        cache.obtain(key, None, obtained).await?;
    }
    let memory = resident_memory() - before;
    let mut next = 0;
    let started = Instant::now();
    for _ in 0..CALLS {
        next = (next + STRIDE) % users;
        black_box(cache.lookup(&keys[next], None)?);
    }
    let time = started.elapsed().as_secs_f64() * 1e9 / CALLS as f64;
    println!(
        "{users:>9} users: {:>6.0} bytes a user, {time:>6.0} ns a look-up",
        memory / users as f64
    );
    Ok(())
}

async fn replicas_on_redis(replicas: usize) -> Result<(), BoxError> {
    let Some(server) = RedisServer::start_with(&[]) else {
        return Ok(());
    };
    let alice = TokenOwner::new("https://issuer.example.com", "alice")?;
    let mut stores = Vec::new();
    for _ in 0..replicas {
        let store = RedisStore::builder(server.url(), SealingKey::new([7; 32])).build()?;
        let now = SystemTime::now();
        let token = UpstreamToken::new(AccessToken::new("a".repeat(1024))?)
            .with_expires_at(now + Duration::from_secs(24 * 3600));
        let tokens =
            ProviderTokens::new(token, now).with_refresh_token(Secret::new("r".repeat(1024))?);
        store.put(&alice, "github", &tokens).await?;
        let github = Provider::builder("github", Never).build()?;
        stores.push(UpstreamTokens::new(store, [github]));
    }
    let (calls, cpu) = (calls(&server), cpu_time(&server));
    let started = Instant::now();
    let loading = stores.iter().map(async |store| {
        for _ in 0..LOADS / replicas {
            store.load(&alice).await?;
        }
        Ok::<_, BoxError>(())
    });
    for loaded in join_all(loading).await {
        loaded?;
    }
    let (loads, spent) = (LOADS / replicas * replicas, started.elapsed().as_secs_f64());
    println!(
        "{replicas:>9} replicas: {:>6.2} calls to Redis and {:>4.1} µs of its processor a request, {:>7.0} requests/s",
        (self::calls(&server) - calls) / loads as f64,
        (cpu_time(&server) - cpu) * 1e6 / loads as f64,
        loads as f64 / spent,
    );
    Ok(())
}

/// The bytes of this process that are in memory, where the system says so.
fn resident_memory() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0)
}

/// How many commands Redis has run, less those that ask this.
fn calls(server: &RedisServer) -> f64 {
    let stats = info(server, "stats");
    number(&stats, "total_commands_processed:")
}

/// The seconds for which Redis was on a processor.
fn cpu_time(server: &RedisServer) -> f64 {
    let cpu = info(server, "cpu");
    number(&cpu, "used_cpu_user:") + number(&cpu, "used_cpu_sys:")
}

fn info(server: &RedisServer, section: &str) -> String {
    server.ask(&format!("INFO {section}"))
}

fn number(info: &str, name: &str) -> f64 {
    let value = info.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(f64::NAN)
}

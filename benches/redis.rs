//! What loading a session from Redis costs, against one bare `GET` of as many bytes on a connection of the same kind.
//!
//! The session has two providers, each with an access token and a refresh token of 1 KiB. A load is the whole of what a
//! request waits for: the round trip, opening the seals, and looking at what has to be refreshed.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use criterion::{Criterion, criterion_group, criterion_main};
use redis::AsyncConnectionConfig;
use redis_server::RedisServer;
use tower_identity::{
    AccessToken, RedisStore, Secret, UpstreamToken, UpstreamTokenStore, UpstreamTokens,
    upstream::{
        Provider, ProviderTokens, Refreshed, Refresher, SealingKey, TokenOwner, UpstreamFuture,
    },
};

#[path = "../tests/support/peers.rs"]
#[allow(dead_code, reason = "the bench needs one peer")]
mod peers;
#[path = "../tests/support/redis.rs"]
#[allow(dead_code, reason = "the bench needs no faults")]
mod redis_server;

const PROVIDERS: [&str; 2] = ["github", "google"];

/// Nothing expires here.
#[derive(Debug)]
struct Never;

impl Refresher for Never {
    fn refresh(&self, _: &ProviderTokens, _: SystemTime) -> UpstreamFuture<'static, Refreshed> {
        unreachable!("a good token was refreshed")
    }
}

fn tokens() -> ProviderTokens {
    let now = SystemTime::now();
    let token = UpstreamToken::new(AccessToken::new("a".repeat(1024)).unwrap())
        .with_expires_at(now + Duration::from_secs(24 * 3600));
    ProviderTokens::new(token, now).with_refresh_token(Secret::new("r".repeat(1024)).unwrap())
}

fn redis(criterion: &mut Criterion) {
    let Some(server) = RedisServer::start_with(&[]) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let alice = TokenOwner::new("https://issuer.example.com", "alice").unwrap();
    let (connection, upstream) = runtime.block_on(async {
        let store = RedisStore::builder(server.url(), SealingKey::new([7; 32]))
            .build()
            .unwrap();
        for provider in PROVIDERS {
            store.put(&alice, provider, &tokens()).await.unwrap();
        }
        let providers =
            PROVIDERS.map(|provider| Provider::builder(provider, Never).build().unwrap());
        let client = redis::Client::open(server.url()).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap();
        let stored: Vec<Vec<u8>> = server.ask(&format!("HGETALL {}", server.keys()[0]));
        let () = redis::cmd("SET")
            .arg("bare")
            .arg(stored.concat())
            .query_async(&mut connection)
            .await
            .unwrap();
        (connection, UpstreamTokens::new(store, providers))
    });

    let mut group = criterion.benchmark_group("incoming");
    group.bench_function("redis_get", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut get = redis::cmd("GET");
                get.arg("bare");
                let value: Vec<u8> = get.query_async(&mut connection.clone()).await.unwrap();
                black_box(value)
            })
        });
    });
    group.bench_function("redis_load", |bencher| {
        bencher.iter(|| {
            let loaded = runtime.block_on(upstream.load(&alice)).unwrap();
            assert_eq!(loaded.tokens().len(), PROVIDERS.len());
            black_box(loaded)
        });
    });
    group.finish();
}

criterion_group!(benches, redis);
criterion_main!(benches);

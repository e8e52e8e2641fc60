//! What a hit costs: 10,000 users, tokens of 1 KiB; on one thread and on as many as there are cores.

use std::{
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use tower_identity::{
    AccessToken, CredentialCache,
    credential::cache::{CacheKey, CacheScope, Obtained},
};

const USERS: usize = 10_000;
const STRIDE: usize = 7_919;

fn token(user: usize) -> AccessToken {
    AccessToken::new(format!("{user:x<1024}")).unwrap()
}

fn keys() -> Vec<CacheKey> {
    let scope = CacheScope::new("bench");
    (0..USERS)
        .map(|user| scope.key(token(user).fingerprint()))
        .collect()
}

fn cache(keys: &[CacheKey]) -> CredentialCache<AccessToken> {
    let cache = CredentialCache::builder().build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for (user, &key) in keys.iter().enumerate() {
            let obtained = cache.obtain(key, None, || async move {
                Ok(Obtained::new(token(user)).expires_in(Duration::from_secs(12 * 3600)))
            });
            obtained.await.unwrap();
        }
    });
    cache
}

/// Measures `look_up` with the keys in an order that no prefetcher guesses.
fn one_thread<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    keys: &[CacheKey],
    look_up: impl Fn(&CacheKey) -> T,
) {
    let mut next = 0;
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            next = (next + STRIDE) % USERS;
            black_box(look_up(&keys[next]))
        });
    });
}

/// The time of one look-up on each of all threads at once.
fn all_threads<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    keys: &[CacheKey],
    look_up: impl Fn(&CacheKey) -> T + Sync,
) {
    let threads = thread::available_parallelism().unwrap().get();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Barrier::new(threads);
            thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|thread| {
                        let (start, look_up) = (&start, &look_up);
                        scope.spawn(move || {
                            let mut next = thread * USERS / threads;
                            start.wait();
                            let started = Instant::now();
                            for _ in 0..iterations {
                                next = (next + STRIDE) % USERS;
                                black_box(look_up(&keys[next]));
                            }
                            started.elapsed()
                        })
                    })
                    .collect();
                let elapsed = running.into_iter().map(|thread| thread.join().unwrap());
                elapsed.max().unwrap()
            })
        });
    });
}

fn credential_cache(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("credential_cache");
    let keys = keys();

    let cache = cache(&keys);
    let hit = |key: &CacheKey| cache.lookup(key, None).unwrap().unwrap();
    one_thread(&mut group, "cache_hit_1_thread", &keys, hit);
    all_threads(&mut group, "cache_hit_all_threads", &keys, hit);

    let quick_cache = quick_cache::sync::Cache::new(16_384);
    let moka = moka::sync::Cache::new(16_384);
    for (user, &key) in keys.iter().enumerate() {
        quick_cache.insert(key, token(user));
        moka.insert(key, token(user));
    }
    moka.run_pending_tasks();
    one_thread(&mut group, "quick_cache_1_thread", &keys, |key| {
        quick_cache.get(key).unwrap()
    });
    one_thread(&mut group, "moka_1_thread", &keys, |key| {
        moka.get(key).unwrap()
    });
    group.finish();
}

criterion_group!(benches, credential_cache);
criterion_main!(benches);

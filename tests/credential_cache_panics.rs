//! What is foreign to `CredentialCache` may panic, and a runtime may stand still: the key stays usable.
#![cfg(all(feature = "token-exchange", feature = "metrics"))]

use std::{
    cell::Cell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use ::metrics::{Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata};
use ::metrics::{Recorder, SharedString, Unit};
use futures_util::FutureExt;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, Clock, CredentialCache, ManualClock,
    credential::{CacheKey, CacheScope, Obtained, Obtaining},
};
use tracing_core::{Event, Metadata as SpanMetadata, Subscriber, span};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// How many foreign calls pass until one panics.
    static PASS: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Each call of something foreign goes through here.
fn foreign() {
    let pass = PASS.get();
    PASS.set(pass.and_then(|pass| pass.checked_sub(1)));
    assert!(pass != Some(0) || thread::panicking(), "on purpose");
}

#[derive(Debug)]
struct Fragile<T>(T);

impl Clone for Fragile<u64> {
    fn clone(&self) -> Self {
        foreign();
        Self(self.0)
    }
}

impl<T> Drop for Fragile<T> {
    fn drop(&mut self) {
        foreign();
    }
}

#[derive(Debug)]
struct FragileClock(ManualClock);

impl Clock for FragileClock {
    fn now(&self) -> SystemTime {
        foreign();
        self.0.now()
    }

    fn monotonic(&self) -> Instant {
        foreign();
        self.0.monotonic()
    }
}

struct FragileRecorder;

impl Recorder for FragileRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        foreign();
        Counter::from_arc(Arc::new(FragileMetric))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        foreign();
        Histogram::from_arc(Arc::new(FragileMetric))
    }
}

struct FragileMetric;

impl CounterFn for FragileMetric {
    fn increment(&self, _: u64) {
        foreign();
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for FragileMetric {
    fn record(&self, _: f64) {
        foreign();
    }
}

struct FragileSubscriber;

impl Subscriber for FragileSubscriber {
    fn enabled(&self, metadata: &SpanMetadata<'_>) -> bool {
        metadata.target().starts_with("tower_identity")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        foreign();
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn key() -> CacheKey {
    CacheScope::new("test").key(AccessToken::new("user").unwrap().fingerprint())
}

fn unavailable() -> AuthError {
    AuthError::new(AuthErrorKind::Unavailable, "the issuer is down")
}

type Credential = Fragile<u64>;

#[derive(Clone)]
struct Bench {
    cache: CredentialCache<Credential>,
    clock: Arc<FragileClock>,
    fetches: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        let clock = Arc::new(FragileClock(ManualClock::new(start)));
        let cache = CredentialCache::builder().clock(clock.clone());
        Self {
            // So few that a second one is dropped.
            cache: cache.capacity(1).build().unwrap(),
            clock,
            fetches: Arc::default(),
        }
    }

    fn obtain(&self, key: CacheKey, fails: bool) -> Obtaining<Credential> {
        self.replace(key, 0, fails)
    }

    fn replace(&self, key: CacheKey, rejected: u64, fails: bool) -> Obtaining<Credential> {
        let fetches = self.fetches.clone();
        let is_rejected = |kept: &Credential| kept.0 == rejected;
        self.cache.replace(key, None, is_rejected, || async move {
            tokio::task::yield_now().await;
            let number = fetches.fetch_add(1, SeqCst) + 1;
            match fails {
                true => Err(unavailable()),
                false => Ok(Obtained::new(Fragile(number)).expires_in(HOUR)),
            }
        })
    }

    fn after(&self, time: Duration) {
        self.clock.0.advance(time);
    }
}

/// Runs as a task, so that a panic ends it alone.
async fn attempt(call: impl Future<Output = ()> + Send + 'static) {
    let _ = tokio::spawn(call).await;
}

/// Two callers who share a fetch. Neither may wait without end.
async fn two_callers(call: impl Fn() -> Obtaining<Credential> + Clone + Send + 'static) {
    let callers = [(), ()].map(|()| {
        let call = call.clone();
        tokio::spawn(async move { drop(call().await) })
    });
    for caller in callers {
        let _ = caller.await;
    }
}

/// All that a cache does, with what is foreign to each of it.
async fn live(bench: Bench) {
    let obtain = |fails: bool| {
        let bench = bench.clone();
        move || bench.obtain(key(), fails)
    };
    two_callers(obtain(false)).await;
    let caller = bench.clone();
    attempt(async move { drop(caller.cache.lookup(&key(), None)) }).await;

    // Refreshed early, then in vain while callers wait, and then because it was rejected.
    bench.after(HOUR - 100 * SECOND);
    two_callers(obtain(false)).await;
    bench.after(HOUR - 10 * SECOND);
    two_callers(obtain(true)).await;
    bench.after(5 * SECOND);
    two_callers(obtain(false)).await;
    let number = bench.fetches.load(SeqCst);
    let caller = bench.clone();
    attempt(async move {
        caller.cache.reject(&key(), |kept| kept.0 == number);
    })
    .await;
    let caller = bench.clone();
    two_callers(move || caller.replace(key(), number, false)).await;

    // Dropped, because there is no room.
    let another = CacheScope::new("another").key_for_client();
    let caller = bench.clone();
    attempt(async move { drop(caller.obtain(another, false).await) }).await;
}

#[test]
fn f45_a_panic_of_anything_foreign_leaves_the_key_usable_and_nobody_waiting() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<&str>();
        if message != Some(&"on purpose") {
            hook(panic);
        }
    }));
    let recorder = FragileRecorder;
    let mut panics = 0;
    ::metrics::with_local_recorder(&recorder, || {
        tracing_core::dispatcher::with_default(&FragileSubscriber.into(), || {
            for pass in 0.. {
                if !survives(pass) {
                    panics = pass;
                    break;
                }
            }
        });
    });
    println!("{panics} foreign calls");
    assert!(panics > 60, "{panics}");
}

/// Whether a panic of the foreign call after `pass` others came up, and was survived.
fn survives(pass: usize) -> bool {
    let runtime = runtime();
    let bench = Bench::new();
    PASS.set(Some(pass));
    runtime.block_on(async {
        let living = tokio::time::timeout(30 * SECOND, live(bench.clone()));
        let ended = living.await.is_ok();
        assert!(ended, "somebody waits since foreign call {pass} panicked");
        let came_up = PASS.take().is_none();
        // The longest pause after failures in a row that this test makes.
        bench.after(10 * SECOND);
        let usable = bench.obtain(key(), false).await;
        assert!(usable.is_ok(), "dead since foreign call {pass}: {usable:?}");
        came_up
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

type Fetch = Pin<Box<dyn Future<Output = Result<Obtained<Credential>, AuthError>> + Send>>;

fn fetch_through(bench: &Bench, gate: &Arc<Semaphore>) -> impl FnOnce() -> Fetch + use<> {
    let (fetches, gate) = (bench.fetches.clone(), gate.clone());
    move || {
        Box::pin(async move {
            let number = fetches.fetch_add(1, SeqCst) + 1;
            gate.acquire().await.unwrap().forget();
            Ok(Obtained::new(Fragile(number)).expires_in(HOUR))
        })
    }
}

#[test]
fn f46_a_follower_takes_over_from_a_leader_whose_runtime_is_no_longer_driven() {
    for begins in [false, true] {
        let bench = Bench::new();
        let (first, second) = (runtime(), runtime());
        let gate = Arc::new(Semaphore::new(0));
        // Its `block_on` is given up, before or after the fetch began.
        first.block_on(async {
            drop(
                bench
                    .cache
                    .obtain(key(), None, fetch_through(&bench, &gate)),
            );
            if begins {
                settle().await;
            }
        });
        let begun = u64::from(begins);
        assert_eq!(bench.fetches.load(SeqCst), begun);

        let followers = (0..3).map(|_| {
            let bench = bench.clone();
            async move { bench.obtain(key(), false).await.unwrap().0 }
        });
        let numbers = second.block_on(async {
            let followers = futures_util::future::join_all(followers);
            let numbers = tokio::time::timeout(100 * SECOND, followers).await;
            numbers.expect("they wait without end")
        });
        assert_eq!(numbers, [begun + 1; 3]);

        // The leader comes back: it neither begins a fetch nor replaces the credential.
        gate.add_permits(1);
        first.block_on(settle());
        assert_eq!(bench.fetches.load(SeqCst), begun + 1);
        let kept = bench.cache.lookup(&key(), None).unwrap();
        assert_eq!(kept.unwrap().0, begun + 1);
    }
}

#[test]
fn f46_a_call_after_65_seconds_waits_for_no_leader_whose_runtime_is_no_longer_driven() {
    let bench = Bench::new();
    let (first, second) = (runtime(), runtime());
    let gate = Arc::new(Semaphore::new(0));
    first.block_on(async {
        drop(
            bench
                .cache
                .obtain(key(), None, fetch_through(&bench, &gate)),
        );
        settle().await;
    });
    second.block_on(async {
        // Each follower gives up long before it would take over.
        for _ in 0..3 {
            let waiting = tokio::time::timeout(30 * SECOND, bench.obtain(key(), false));
            if let Ok(answer) = waiting.await {
                assert_eq!(answer.unwrap().0, 2);
            }
        }
        let kept = bench.cache.lookup(&key(), None).unwrap();
        assert_eq!(kept.expect("the key is dead").0, 2);
    });
}

#[test]
fn f46_the_leaders_own_caller_does_not_wait_without_end_on_another_runtime() {
    let bench = Bench::new();
    let (first, second) = (runtime(), runtime());
    let gate = Arc::new(Semaphore::new(0));
    let entered = first.enter();
    let waiting = bench
        .cache
        .obtain(key(), None, fetch_through(&bench, &gate));
    drop(entered);
    second.block_on(async {
        let ended = tokio::time::timeout(100 * SECOND, waiting).await;
        let error = ended.expect("it waits without end").unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert_eq!(bench.obtain(key(), false).await.unwrap().0, 1);
    });
    gate.add_permits(1);
    first.block_on(settle());
    assert_eq!(bench.fetches.load(SeqCst), 1);
}

#[test]
fn f46_without_a_runtime_a_follower_waits_for_its_leader() {
    let bench = Bench::new();
    let first = runtime();
    let gate = Arc::new(Semaphore::new(0));
    first.block_on(async {
        drop(
            bench
                .cache
                .obtain(key(), None, fetch_through(&bench, &gate)),
        );
        settle().await;
    });
    let mut follower = bench.obtain(key(), false);
    assert!((&mut follower).now_or_never().is_none());
    gate.add_permits(1);
    first.block_on(settle());
    assert_eq!(follower.now_or_never().unwrap().unwrap().0, 1);
}

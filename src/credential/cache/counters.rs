use std::{
    array,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

const STRIPES: usize = 16;

/// What a [`CredentialCache`](super::CredentialCache) has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Answers at once, with a kept credential.
    pub hits: u64,
    /// Credentials asked for because none was at hand.
    pub misses: u64,
    /// Callers that waited for what another had asked for.
    pub coalesced: u64,
    /// Credentials asked for because the one at hand was about to expire.
    pub refreshes: u64,
    /// Credentials asked for and not obtained.
    pub failures: u64,
    /// Credentials dropped because the cache was full.
    pub evictions: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    hits: Striped,
    pub(super) misses: Counter,
    pub(super) coalesced: Counter,
    pub(super) refreshes: Counter,
    pub(super) failures: Counter,
    pub(super) evictions: Counter,
}

impl Counters {
    pub(super) fn hit(&self) {
        self.hits.increment();
    }

    pub(super) fn read(&self) -> CacheCounters {
        CacheCounters {
            hits: self.hits.read(),
            misses: self.misses.read(),
            coalesced: self.coalesced.read(),
            refreshes: self.refreshes.read(),
            failures: self.failures.read(),
            evictions: self.evictions.read(),
        }
    }
}

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter in several cache lines, so that threads which count at once do not wait for each other.
struct Striped([Stripe; STRIPES]);

#[derive(Default)]
#[repr(align(128))]
struct Stripe(Counter);

impl Default for Striped {
    fn default() -> Self {
        Self(array::from_fn(|_| Stripe::default()))
    }
}

impl Striped {
    fn increment(&self) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // A thread that is being torn down has no stripe of its own any more.
        let stripe = STRIPE.try_with(|&stripe| stripe).unwrap_or_default();
        if let Some(Stripe(counter)) = self.0.get(stripe) {
            counter.add(1);
        }
    }

    fn read(&self) -> u64 {
        self.0.iter().map(|Stripe(counter)| counter.read()).sum()
    }
}

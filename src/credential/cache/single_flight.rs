use std::{
    collections::HashMap,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    error::AuthError,
    runtime::{Mutex, MutexGuard, Runtime, within},
};

use super::{
    entries::Kept,
    entry::{Entry, Obtained},
    failure::Failure,
    key::CacheKey,
    store::Leftovers,
};

/// How long callers wait for a fetch. It is longer than the fetch may take, so it passes only if the leader's runtime
/// is no longer driven.
const WAIT_LIMIT: Duration = Duration::from_secs(65);

/// How long callers wait at least.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

const SHARDS: usize = if cfg!(all(test, shuttle)) { 2 } else { 16 };

/// The fetches that are running, at most one for each key.
///
/// The caller that starts a fetch is its leader. Callers that come while it is running are followers: they start
/// nothing, and get the leader's outcome.
///
/// Foreign code does not run under one of these locks: no clock, recorder, subscriber or callback, and no `Clone` or
/// `Drop` of a credential.
pub(super) struct SingleFlight<C> {
    shards: [Mutex<RunningFetches<C>>; SHARDS],
}

pub(super) type RunningFetches<C> = HashMap<CacheKey, Arc<RunningFetch<C>>>;

impl<C> SingleFlight<C> {
    pub(super) fn lock(&self, key: &CacheKey) -> MutexGuard<'_, RunningFetches<C>> {
        let [first, ..] = &self.shards;
        let shard = self.shards.get(key.index(SHARDS)).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(all(test, shuttle))]
    pub(super) fn is_idle(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.lock().unwrap().is_empty())
    }
}

impl<C> Default for SingleFlight<C> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }
}

/// One fetch, from when its leader starts it until its outcome is stored.
pub(super) struct RunningFetch<C> {
    outcome: watch::Receiver<Option<Outcome<C>>>,
    started: Instant,
    /// Another fetch has taken its place, because it took too long.
    is_superseded: AtomicBool,
    spare: Spare<C>,
}

/// The fetch of the first follower. It is polled only if the leader's is not.
struct Spare<C> {
    is_offered: AtomicBool,
    fetch: Mutex<Option<BoxFetch<C>>>,
}

type BoxFetch<C> = Pin<Box<dyn Future<Output = Result<Obtained<C>, AuthError>> + Send>>;

impl<C> RunningFetch<C> {
    pub(super) fn start(outcome: watch::Receiver<Option<Outcome<C>>>) -> Self {
        Self {
            outcome,
            started: Instant::now(),
            is_superseded: AtomicBool::new(false),
            spare: Spare {
                is_offered: AtomicBool::new(false),
                fetch: Mutex::new(None),
            },
        }
    }

    fn time_left(&self) -> Duration {
        WAIT_LIMIT.saturating_sub(self.started.elapsed())
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.time_left().is_zero()
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.is_superseded.load(Ordering::Acquire)
    }

    pub(super) fn supersede(&self) {
        self.is_superseded.store(true, Ordering::Release);
    }

    pub(super) fn offer_spare<F, R>(&self, fetch: F)
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Obtained<C>, AuthError>> + Send + 'static,
    {
        if !self.spare.is_offered.swap(true, Ordering::AcqRel) {
            let fetch: BoxFetch<C> = Box::pin(fetch());
            *self.lock_spare() = Some(fetch);
        }
    }

    pub(super) fn take_spare(&self) -> Option<BoxFetch<C>> {
        self.lock_spare().take()
    }

    pub(super) fn lock_spare(&self) -> MutexGuard<'_, Option<BoxFetch<C>>> {
        let spare = self.spare.fetch.lock();
        spare.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the outcome. `None`, if there is none in time.
    pub(super) async fn wait(&self) -> Option<Outcome<C>> {
        let mut outcome = self.outcome.clone();
        let result = async {
            let outcome = outcome.wait_for(Option::is_some).await.ok()?;
            Option::clone(&outcome)
        };
        if Runtime::current().is_none() {
            return result.await;
        }
        within(self.time_left().max(SHORTEST_WAIT), result)
            .await
            .flatten()
    }

    /// Runs `fetch` as long as no other takes its place.
    pub(super) async fn unless_superseded<R: Future>(&self, fetch: R) -> Option<R::Output> {
        let mut fetch = pin!(fetch);
        poll_fn(|cx| {
            if self.is_superseded() {
                return Poll::Ready(None);
            }
            fetch.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// The result of a fetch.
pub(super) struct Outcome<C> {
    pub(super) fetched: Result<Arc<Entry<C>>, AuthError>,
    /// The credential that was to be replaced, if it can still be used.
    pub(super) kept: Option<Arc<Entry<C>>>,
}

impl<C> Clone for Outcome<C> {
    fn clone(&self) -> Self {
        Self {
            fetched: self.fetched.clone(),
            kept: self.kept.clone(),
        }
    }
}

impl<C: Clone> Outcome<C> {
    /// The answer for a caller that cannot use `rejected`.
    pub(super) fn answer(&self, rejected: Option<&Arc<Entry<C>>>) -> Result<C, AuthError> {
        match (&self.fetched, &self.kept) {
            (Ok(entry), _) => Ok(entry.credential.clone()),
            (Err(_), Some(kept)) if !is_same(Some(kept), rejected) => Ok(kept.credential.clone()),
            (Err(error), _) => Err(error.clone()),
        }
    }
}

/// Values that must not be dropped under a lock.
pub(super) struct Dropped<C> {
    pub(super) entries: Leftovers<Kept<C>>,
    pub(super) seen: Vec<Arc<Entry<C>>>,
    pub(super) failures: Leftovers<Failure>,
    pub(super) fetches: Vec<Arc<RunningFetch<C>>>,
}

impl<C> Default for Dropped<C> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            seen: Vec::new(),
            failures: Vec::new(),
            fetches: Vec::new(),
        }
    }
}

pub(super) fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
}

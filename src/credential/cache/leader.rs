use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::watch;

use crate::{
    error::{AuthError, AuthErrorKind},
    runtime::{random, within},
    telemetry,
};

use super::{
    Inner,
    entry::{Entry, Now, Obtained, Terms},
    failure::REFUSED_FOR,
    key::CacheKey,
    single_flight::{Dropped, Outcome, RunningFetch, is_same},
};

/// How long a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Runs one fetch. However it ends, even by a panic, the callers get an answer and the key is free again.
pub(super) struct Leader<C: Clone + Send + Sync + 'static> {
    cache: Arc<Inner<C>>,
    key: CacheKey,
    terms: Terms,
    running: Arc<RunningFetch<C>>,
    /// Until the callers have their answer.
    sender: Option<watch::Sender<Option<Outcome<C>>>>,
}

impl<C: Clone + Send + Sync + 'static> Leader<C> {
    pub(super) fn new(
        cache: &Arc<Inner<C>>,
        key: CacheKey,
        terms: Terms,
        running: Arc<RunningFetch<C>>,
        sender: watch::Sender<Option<Outcome<C>>>,
    ) -> Self {
        Self {
            cache: Arc::clone(cache),
            key,
            terms,
            running,
            sender: Some(sender),
        }
    }

    pub(super) fn running(&self) -> Arc<RunningFetch<C>> {
        Arc::clone(&self.running)
    }

    pub(super) async fn run(mut self, fetch: impl Future<Output = Result<Obtained<C>, AuthError>>) {
        let running = self.running();
        let fetched = AssertUnwindSafe(running.unless_superseded(fetch)).catch_unwind();
        let fetched = match within(FETCH_LIMIT, fetched).await {
            Some(Ok(Some(fetched))) => fetched,
            Some(Ok(None)) => return,
            Some(Err(_)) => Err(crashed()),
            None => Err(too_late()),
        };
        self.finish(fetched);
    }

    /// Calls what is foreign before the key's lock is taken, and after it was released.
    fn finish(&mut self, fetched: Result<Obtained<C>, AuthError>) {
        let now = self.cache.now();
        let took = now.monotonic.duration_since(self.terms.asked_at.monotonic);
        let random = random();
        let (result, outcome) = match fetched {
            Ok(obtained) => {
                let entry = Entry::new(obtained, &self.terms, random);
                (ToStore::Credential(Arc::new(entry)), Ok(()))
            }
            Err(error) => (ToStore::Failure(error.clone()), Err(error)),
        };
        let Some(report) = self.conclude(result, &now, random) else {
            return;
        };
        telemetry::refreshed(self.terms.reason, &outcome, took);
        if report.evicted > 0 {
            telemetry::evicted(report.evicted);
            tracing::debug!("the credential cache is full: one was dropped");
        }
        if let (Err(error), Some(delay)) = (outcome, report.next_try_in) {
            tracing::debug!(kind = ?error.kind(), ?delay, "a credential could not be obtained");
        }
    }

    /// Stores the result, frees the key, and answers. It does none of this if another fetch has taken this one's
    /// place, or if it was done before.
    fn conclude(&mut self, result: ToStore<C>, now: &Now, random: f64) -> Option<Report> {
        let sender = self.sender.take()?;
        let mut dropped = Dropped::default();
        let mut fetches = self.cache.single_flight.lock(&self.key);
        if !is_same(fetches.get(&self.key), Some(&self.running)) {
            return None;
        }
        // Under one lock: a caller whose credential was rejected must not follow the fetch that brought it.
        let (outcome, report) = self
            .cache
            .settle(self.key, result, now, random, &mut dropped);
        dropped.fetches.extend(fetches.remove(&self.key));
        drop(fetches);
        sender.send_replace(Some(outcome));
        Some(report)
    }
}

impl<C: Clone + Send + Sync + 'static> Drop for Leader<C> {
    /// Calls nothing foreign, because a panic may be on its way.
    fn drop(&mut self) {
        if self.sender.is_some() {
            let asked_at = self.terms.asked_at;
            self.conclude(ToStore::Failure(crashed()), &asked_at, 1.0);
        }
    }
}

/// The result of a fetch, as it is stored.
enum ToStore<C> {
    Credential(Arc<Entry<C>>),
    Failure(AuthError),
}

/// Numbers that are reported after a fetch, when no lock is held.
#[derive(Default)]
struct Report {
    evicted: usize,
    next_try_in: Option<Duration>,
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    /// Caches the credential, or records the failure. It runs under the lock of the key.
    fn settle(
        &self,
        key: CacheKey,
        result: ToStore<C>,
        now: &Now,
        random: f64,
        dropped: &mut Dropped<C>,
    ) -> (Outcome<C>, Report) {
        let mut report = Report::default();
        let outcome = match result {
            ToStore::Credential(entry) => {
                self.failures.forget(&key, &mut dropped.failures);
                if entry.remaining(now).is_zero() {
                    let kept = self.entries.find(&key);
                    if let Some(kept) = &kept {
                        kept.refresh_failed(now, REFUSED_FOR);
                        self.entries.changed(&key, kept);
                    }
                    dropped.seen.extend(kept);
                } else {
                    let entry = Arc::clone(&entry);
                    self.entries.insert(key, entry, &mut dropped.entries);
                    // The entry that this one replaces was not evicted.
                    let evicted = dropped.entries.iter().filter(|(other, _)| *other != key);
                    report.evicted = evicted.count();
                }
                Outcome {
                    fetched: Ok(entry),
                    kept: None,
                }
            }
            ToStore::Failure(error) => {
                let failures = &mut dropped.failures;
                let (error, delay) = self.failures.record(key, error, now, random, failures);
                report.next_try_in = Some(delay);
                let kept = self.entries.find(&key);
                dropped.seen.extend(kept.clone());
                if let Some(kept) = &kept {
                    kept.refresh_failed(now, delay);
                    self.entries.changed(&key, kept);
                }
                Outcome {
                    fetched: Err(error),
                    kept: kept.filter(|kept| !kept.remaining(now).is_zero()),
                }
            }
        };
        (outcome, report)
    }
}

#[cold]
fn too_late() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "obtaining a credential took longer than 60 s and was given up; check the issuer, and set a shorter time limit for its answers",
    )
}

#[cold]
fn crashed() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the task that obtained a credential panicked, or its runtime was shut down; look for a panic in the log",
    )
}

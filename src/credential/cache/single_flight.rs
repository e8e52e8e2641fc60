use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};

use crate::{
    error::{AuthError, AuthErrorKind},
    runtime::{Mutex, Runtime, random, within},
    telemetry::{self, Lookup},
};

use super::{
    Inner, check_subject,
    entry::{Entry, Now, Obtained, Terms},
    failure::{Failure, REFUSED_FOR},
    key::CacheKey,
    store::Leftovers,
};

/// How long a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// How long callers wait for a fetch. It is longer than the fetch may take, so it passes only if the leader's runtime
/// is no longer driven.
const FLIGHT_LIMIT: Duration = Duration::from_secs(65);

const SHARDS: usize = 16;

/// The fetches that are running, at most one for each key.
///
/// The caller that starts a fetch is its leader. Callers that come while it is running are followers: they start
/// nothing, and get the leader's outcome.
///
/// Nothing foreign runs under a lock of these: no clock, recorder, subscriber or callback, and no `Clone` or `Drop` of a
/// credential.
pub(super) struct SingleFlight<C> {
    shards: [Mutex<Flights<C>>; SHARDS],
}

type Flights<C> = HashMap<CacheKey, Arc<Flight<C>>>;

impl<C> SingleFlight<C> {
    pub(super) fn lock(&self, key: &CacheKey) -> MutexGuard<'_, Flights<C>> {
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
pub(super) struct Flight<C> {
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

impl<C> Flight<C> {
    fn start(outcome: watch::Receiver<Option<Outcome<C>>>) -> Self {
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
        FLIGHT_LIMIT.saturating_sub(self.started.elapsed())
    }

    fn is_stalled(&self) -> bool {
        self.time_left().is_zero()
    }

    fn is_superseded(&self) -> bool {
        self.is_superseded.load(Ordering::Acquire)
    }

    fn supersede(&self) {
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

    fn take_spare(&self) -> Option<BoxFetch<C>> {
        self.lock_spare().take()
    }

    fn lock_spare(&self) -> MutexGuard<'_, Option<BoxFetch<C>>> {
        let spare = self.spare.fetch.lock();
        spare.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the outcome. `None`, if there is none in time.
    async fn wait(&self) -> Option<Outcome<C>> {
        let mut outcome = self.outcome.clone();
        let landed = async {
            let outcome = outcome.wait_for(Option::is_some).await.ok()?;
            Option::clone(&outcome)
        };
        if Runtime::current().is_none() {
            return landed.await;
        }
        within(self.time_left(), landed).await.flatten()
    }

    /// Runs `fetch` as long as no other takes its place.
    async fn unless_superseded<R: Future>(&self, fetch: R) -> Option<R::Output> {
        let mut fetch = pin!(fetch);
        std::future::poll_fn(|cx| {
            if self.is_superseded() {
                return std::task::Poll::Ready(None);
            }
            fetch.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// What a fetch brought.
pub(super) struct Outcome<C> {
    fetched: Result<Arc<Entry<C>>, AuthError>,
    /// The credential that was to be replaced, if it can still be used.
    kept: Option<Arc<Entry<C>>>,
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

/// The part of a caller for whom the cache had no credential outside of its refresh windows.
pub(super) enum Role<C: Clone + Send + Sync + 'static> {
    /// The cached credential is good enough, and somebody else takes care of its refresh.
    Served(Arc<Entry<C>>),
    /// The last fetch failed, and it is too early for another.
    Refused(AuthError),
    Follower(Arc<Flight<C>>),
    Leader(Box<Departure<C>>),
}

/// A fetch that its leader is about to run.
pub(super) struct Departure<C: Clone + Send + Sync + 'static> {
    pub(super) leader: Leader<C>,
    pub(super) runtime: Runtime,
    pub(super) reason: Lookup,
    /// What the leader's caller gets at once. Without it, the caller waits.
    pub(super) served: Option<Arc<Entry<C>>>,
}

/// What must not be dropped under a lock.
struct Dropped<C> {
    entries: Leftovers<Arc<Entry<C>>>,
    seen: Vec<Arc<Entry<C>>>,
    failures: Leftovers<Failure>,
    flights: Vec<Arc<Flight<C>>>,
}

impl<C> Default for Dropped<C> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            seen: Vec::new(),
            failures: Vec::new(),
            flights: Vec::new(),
        }
    }
}

/// A caller that needs a credential, and of which kind.
pub(super) struct Call<C> {
    pub(super) key: CacheKey,
    pub(super) subject_expires_at: Option<SystemTime>,
    pub(super) now: Now,
    /// The cached credential, if a backend rejected it when this caller sent it.
    pub(super) rejected: Option<Arc<Entry<C>>>,
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    pub(super) fn join(self: &Arc<Self>, call: &Call<C>) -> Role<C> {
        let runtime = Runtime::current();
        let mut dropped = Dropped::default();
        let mut flights = self.single_flight.lock(&call.key);
        self.join_locked(&mut flights, call, runtime, &mut dropped)
    }

    /// Looks again under the lock. A fetch that ended since has stored its credential before it left `flights`.
    fn join_locked(
        self: &Arc<Self>,
        flights: &mut Flights<C>,
        call: &Call<C>,
        runtime: Option<Runtime>,
        dropped: &mut Dropped<C>,
    ) -> Role<C> {
        let Call { key, now, .. } = call;
        let entry = self.entries.get(key);
        dropped.seen.extend(entry.clone());
        let remaining = |entry: &Arc<Entry<C>>| entry.remaining(now);
        let entry = entry.filter(|entry| !remaining(entry).is_zero());
        let is_due = entry.as_ref().is_some_and(|entry| entry.is_due());
        let is_refused = is_same(entry.as_ref(), call.rejected.as_ref())
            && entry.as_ref().is_some_and(|entry| entry.is_rejected());
        let must_wait = |entry: &Arc<Entry<C>>| entry.is_in_mandatory_window(remaining(entry));
        let flight = flights.get(key).filter(|flight| !flight.is_stalled());
        let usable = entry.filter(|_| !is_refused);
        if let Some(entry) = &usable
            && (entry.is_settled(remaining(entry)) || (flight.is_some() && !must_wait(entry)))
        {
            return Role::Served(Arc::clone(entry));
        }
        if let Some(flight) = flight {
            return Role::Follower(Arc::clone(flight));
        }
        if usable.is_none()
            && !is_due
            && let Some(error) = self.failures.find(key, now)
        {
            return Role::Refused(error);
        }
        if is_refused && !is_due {
            return Role::Refused(rejected_again());
        }
        let Some(runtime) = runtime else {
            return match usable {
                Some(entry) => Role::Served(entry),
                None => Role::Refused(no_runtime()),
            };
        };
        let reason = match dropped.seen.iter().any(|entry| !remaining(entry).is_zero()) {
            true => Lookup::Refresh,
            false => Lookup::Miss,
        };
        let served = usable.filter(|entry| !is_due && !must_wait(entry));
        let leader = self.depart(flights, call, reason, dropped);
        Role::Leader(Box::new(Departure {
            leader,
            runtime,
            reason,
            served,
        }))
    }

    /// Makes the caller the leader of a new flight, in place of one that is stalled.
    fn depart(
        self: &Arc<Self>,
        flights: &mut Flights<C>,
        call: &Call<C>,
        reason: Lookup,
        dropped: &mut Dropped<C>,
    ) -> Leader<C> {
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight::start(outcome));
        if let Some(stalled) = flights.insert(call.key, Arc::clone(&flight)) {
            stalled.supersede();
            dropped.flights.push(stalled);
        }
        for entry in &dropped.seen {
            entry.refresh_started();
        }
        Leader {
            cache: Arc::clone(self),
            key: call.key,
            terms: Terms {
                reason,
                asked_at: call.now,
                subject_expires_at: call.subject_expires_at,
                default_lifetime: self.default_lifetime,
            },
            flight,
            sender: Some(sender),
        }
    }

    /// Waits for the outcome of `flight`. If its leader's runtime is no longer driven, this caller takes over.
    pub(super) async fn wait(
        self: Arc<Self>,
        mut call: Call<C>,
        mut flight: Arc<Flight<C>>,
    ) -> Result<C, AuthError> {
        loop {
            if let Some(outcome) = flight.wait().await {
                return outcome.answer(call.rejected.as_ref());
            }
            call.now = self.now();
            check_subject(call.subject_expires_at, &call.now)?;
            flight = match self.take_over(&call, &flight) {
                Role::Served(entry) => return Ok(entry.credential.clone()),
                Role::Refused(error) => return Err(error),
                Role::Follower(next) => next,
                Role::Leader(departure) => {
                    let Departure {
                        leader, runtime, ..
                    } = *departure;
                    tracing::debug!("a fetch stands still: another takes its place");
                    let next = leader.flight();
                    if let Some(fetch) = flight.take_spare() {
                        runtime.spawn(leader.run(fetch));
                    }
                    next
                }
            };
        }
    }

    /// Takes a flight's place if it has ended without an outcome for its callers.
    pub(super) fn take_over(self: &Arc<Self>, call: &Call<C>, ended: &Arc<Flight<C>>) -> Role<C> {
        let runtime = Runtime::current();
        let has_spare = ended.lock_spare().is_some();
        let mut dropped = Dropped::default();
        let mut flights = self.single_flight.lock(&call.key);
        let is_running = |flight: &Arc<Flight<C>>| Arc::ptr_eq(flight, ended);
        match (flights.get(&call.key), runtime) {
            (Some(flight), _) if !is_running(flight) => Role::Follower(Arc::clone(flight)),
            (Some(_), Some(runtime)) if has_spare => Role::Leader(Box::new(Departure {
                leader: self.depart(&mut flights, call, Lookup::Miss, &mut dropped),
                runtime,
                reason: Lookup::Miss,
                served: None,
            })),
            (Some(_), _) => {
                ended.supersede();
                dropped.flights.extend(flights.remove(&call.key));
                Role::Refused(stalled())
            }
            (None, _) => {
                let entry = self.entries.get(&call.key);
                dropped.seen.extend(entry.clone());
                let is_usable = |entry: &Arc<Entry<C>>| {
                    !entry.remaining(&call.now).is_zero()
                        && !is_same(Some(entry), call.rejected.as_ref())
                };
                match entry.filter(is_usable) {
                    Some(entry) => Role::Served(entry),
                    None => {
                        let failure = self.failures.find(&call.key, &call.now);
                        Role::Refused(failure.unwrap_or_else(stalled))
                    }
                }
            }
        }
    }
}

/// What came of a fetch, as it is stored.
enum Landed<C> {
    Credential(Arc<Entry<C>>),
    Failure(AuthError),
}

/// What is reported after a fetch, when no lock is held.
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
        landed: Landed<C>,
        now: &Now,
        random: f64,
        dropped: &mut Dropped<C>,
    ) -> (Outcome<C>, Report) {
        let mut report = Report::default();
        let outcome = match landed {
            Landed::Credential(entry) => {
                self.failures.forget(&key, &mut dropped.failures);
                if entry.remaining(now).is_zero() {
                    let kept = self.entries.peek(&key);
                    if let Some(kept) = &kept {
                        kept.refresh_failed(now, REFUSED_FOR);
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
            Landed::Failure(error) => {
                let failures = &mut dropped.failures;
                let (error, delay) = self.failures.record(key, error, now, random, failures);
                report.next_try_in = Some(delay);
                let kept = self.entries.peek(&key);
                dropped.seen.extend(kept.clone());
                if let Some(kept) = &kept {
                    kept.refresh_failed(now, delay);
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

/// Runs one fetch. However it ends, even by a panic, the callers get an answer and the key is free again.
pub(super) struct Leader<C: Clone + Send + Sync + 'static> {
    cache: Arc<Inner<C>>,
    key: CacheKey,
    terms: Terms,
    flight: Arc<Flight<C>>,
    /// Until the callers have their answer.
    sender: Option<watch::Sender<Option<Outcome<C>>>>,
}

impl<C: Clone + Send + Sync + 'static> Leader<C> {
    pub(super) fn flight(&self) -> Arc<Flight<C>> {
        Arc::clone(&self.flight)
    }

    pub(super) async fn run(mut self, fetch: impl Future<Output = Result<Obtained<C>, AuthError>>) {
        let flight = self.flight();
        let fetched = AssertUnwindSafe(flight.unless_superseded(fetch)).catch_unwind();
        let fetched = match within(FETCH_LIMIT, fetched).await {
            Some(Ok(Some(fetched))) => fetched,
            Some(Ok(None)) => return,
            Some(Err(_)) => Err(crashed()),
            None => Err(too_late()),
        };
        self.land(fetched);
    }

    /// Calls what is foreign before the key's lock is taken, and after it was released.
    fn land(&mut self, fetched: Result<Obtained<C>, AuthError>) {
        let now = self.cache.now();
        let took = now.monotonic.duration_since(self.terms.asked_at.monotonic);
        let random = random();
        let (landed, outcome) = match fetched {
            Ok(obtained) => {
                let entry = Entry::new(obtained, &self.terms, random);
                (Landed::Credential(Arc::new(entry)), Ok(()))
            }
            Err(error) => (Landed::Failure(error.clone()), Err(error)),
        };
        let Some(report) = self.conclude(landed, &now, random) else {
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

    /// Stores what landed, frees the key, and answers. It does none of this if another fetch has taken this one's
    /// place, or if it was done before.
    fn conclude(&mut self, landed: Landed<C>, now: &Now, random: f64) -> Option<Report> {
        let sender = self.sender.take()?;
        let mut dropped = Dropped::default();
        let mut flights = self.cache.single_flight.lock(&self.key);
        if !is_same(flights.get(&self.key), Some(&self.flight)) {
            return None;
        }
        // Under one lock: a caller whose credential was rejected must not follow the fetch that brought it.
        let (outcome, report) = self
            .cache
            .settle(self.key, landed, now, random, &mut dropped);
        dropped.flights.extend(flights.remove(&self.key));
        drop(flights);
        sender.send_replace(Some(outcome));
        Some(report)
    }
}

impl<C: Clone + Send + Sync + 'static> Drop for Leader<C> {
    /// Calls nothing foreign, because a panic may be on its way.
    fn drop(&mut self) {
        if self.sender.is_some() {
            let asked_at = self.terms.asked_at;
            self.conclude(Landed::Failure(crashed()), &asked_at, 1.0);
        }
    }
}

pub(super) fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
}

#[cold]
fn no_runtime() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "a credential is obtained in a separate task, which needs a Tokio runtime; call this from within one",
    )
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

#[cold]
fn stalled() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the task that obtains a credential stands still, because its runtime is no longer driven; the next call          obtains one on its own runtime",
    )
}

#[cold]
fn rejected_again() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the backend rejected the cached credential, and another was asked for less than 10 s ago; check whether the          backend accepts what the issuer issues",
    )
}

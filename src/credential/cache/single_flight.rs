use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, PoisonError, TryLockError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::Shared};
use tokio::sync::oneshot;

use crate::{
    error::{AuthError, AuthErrorKind},
    ready_or_pending::ReadyOrPending,
    runtime::{Mutex, Runtime, within},
    telemetry::Lookup,
};

use super::{
    Inner,
    entry::{Entry, Now, Obtained, Terms},
    key::CacheKey,
};

const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// The fetches that are running, at most one for each key.
///
/// The caller that starts a fetch is its leader. Callers that come while it is running are followers: they start
/// nothing, and get the leader's answer.
pub(super) struct SingleFlight<C> {
    pub(super) running: Mutex<HashMap<CacheKey, Answer<C>>>,
}

/// The outcome that the leader shares with its followers.
#[derive(Clone)]
pub(super) struct Answer<C>(Shared<oneshot::Receiver<Result<C, AuthError>>>);

impl<C: Clone> Future for Answer<C> {
    type Output = Result<C, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.0.poll_unpin(cx);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(crashed())))
    }
}

impl<C> Default for SingleFlight<C> {
    fn default() -> Self {
        Self {
            running: Mutex::new(HashMap::new()),
        }
    }
}

/// The part of a caller for whom the cache had no credential outside of its refresh windows.
pub(super) enum Role<C: Clone + Send + Sync + 'static> {
    /// The cached credential is good enough, and somebody else takes care of its refresh.
    Served(C),
    /// The last fetch failed, and it is too early for another.
    Refused(AuthError),
    Follower(Obtaining<C>),
    Leader {
        leader: Box<Leader<C>>,
        runtime: Runtime,
        answer: Obtaining<C>,
    },
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    pub(super) fn join(
        self: &Arc<Self>,
        key: CacheKey,
        subject_expires_at: Option<SystemTime>,
        now: Now,
    ) -> Role<C> {
        let running = &self.single_flight.running;
        let mut running = match self.held(&key, &now) {
            // Nobody waits for the lock to start an early refresh: whoever holds it may start it.
            Some(held) if !held.must_wait() => match running.try_lock() {
                Ok(running) => running,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Role::Served(held.entry.credential),
            },
            _ => running.lock().unwrap_or_else(PoisonError::into_inner),
        };
        // Look again under the lock. A fetch that ended since has stored its credential before it left `running`.
        let held = self.held(&key, &now);
        let fetch = running.get(&key);
        let held = match held {
            Some(held) if held.is_settled() || (fetch.is_some() && !held.must_wait()) => {
                return Role::Served(held.entry.credential);
            }
            held => held,
        };
        if let Some(answer) = fetch {
            return Role::Follower(Obtaining::pending(answer.clone()));
        }
        if held.is_none()
            && let Some(error) = self.failures.find(&key, &now)
        {
            return Role::Refused(error);
        }
        let Some(runtime) = Runtime::current() else {
            return match held {
                Some(held) => Role::Served(held.entry.credential),
                None => Role::Refused(no_runtime()),
            };
        };
        let reason = match held {
            Some(_) => Lookup::Refresh,
            None => Lookup::Miss,
        };
        let (sender, receiver) = oneshot::channel();
        let answer = Answer(receiver.shared());
        running.insert(key, answer.clone());
        let leader = Box::new(Leader {
            cache: Arc::clone(self),
            key,
            terms: Terms {
                reason,
                asked_at: now,
                subject_expires_at,
                default_lifetime: self.default_lifetime,
            },
            sender: Some(sender),
        });
        self.with_stored(&key, Entry::refresh_started);
        drop(running);
        tracing::debug!(early = held.is_some(), "obtaining a credential");
        let answer = match held {
            Some(held) if !held.must_wait() => {
                self.count_hit();
                Obtaining::ready(Ok(held.entry.credential))
            }
            _ => {
                self.lookups.count(reason);
                Obtaining::pending(answer)
            }
        };
        Role::Leader {
            leader,
            runtime,
            answer,
        }
    }
}

/// Runs one fetch. However it ends, even by a panic, the followers get an answer and the key is free again.
pub(super) struct Leader<C: Clone + Send + Sync + 'static> {
    cache: Arc<Inner<C>>,
    key: CacheKey,
    terms: Terms,
    sender: Option<oneshot::Sender<Result<C, AuthError>>>,
}

impl<C: Clone + Send + Sync + 'static> Leader<C> {
    pub(super) async fn run(
        mut self,
        fetching: impl Future<Output = Result<Obtained<C>, AuthError>>,
    ) {
        let outcome = within(FETCH_LIMIT, fetching).await;
        self.finish(outcome.unwrap_or_else(|| Err(too_late())));
    }

    fn finish(&mut self, outcome: Result<Obtained<C>, AuthError>) {
        let Some(sender) = self.sender.take() else {
            return;
        };
        let running = &self.cache.single_flight.running;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        // Under one lock: a caller whose credential was rejected and dropped must not follow the fetch that brought it.
        let outcome = self.cache.settle(self.key, &self.terms, outcome);
        let answer = running.remove(&self.key);
        drop(running);
        // All callers may have given up.
        let _ = sender.send(outcome);
        drop(answer);
    }
}

impl<C: Clone + Send + Sync + 'static> Drop for Leader<C> {
    fn drop(&mut self) {
        self.finish(Err(crashed()));
    }
}

/// The future of [`CredentialCache::obtain`](super::CredentialCache::obtain).
///
/// Dropping it does not cancel the fetch: the credential is still obtained and cached.
#[must_use = "futures do nothing unless polled"]
pub struct Obtaining<C: Clone> {
    outcome: ReadyOrPending<Answer<C>>,
}

impl<C: Clone> Obtaining<C> {
    pub(super) fn ready(outcome: Result<C, AuthError>) -> Self {
        Self {
            outcome: ReadyOrPending::ready(outcome),
        }
    }

    fn pending(answer: Answer<C>) -> Self {
        Self {
            outcome: ReadyOrPending::Pending(answer),
        }
    }
}

impl<C: Clone> Future for Obtaining<C> {
    type Output = Result<C, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx)
    }
}

impl<C: Clone> fmt::Debug for Obtaining<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Obtaining({:?})", self.outcome)
    }
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

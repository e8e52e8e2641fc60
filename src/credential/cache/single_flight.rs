use std::{
    collections::HashMap,
    fmt, future,
    pin::Pin,
    sync::{Arc, PoisonError, TryLockError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::Shared};
use tokio::sync::oneshot;

use crate::{
    error::{AuthError, AuthErrorKind},
    runtime::{Mutex, Runtime, within},
    telemetry::Lookup,
};

use super::{
    Inner,
    entry::{Entry, Now, Obtained, Terms},
    key::CacheKey,
};

const MAX_FLIGHT: Duration = Duration::from_secs(60);

/// The credentials that are being obtained, one for each key at the most.
pub(super) struct Flights<C> {
    pub(super) in_the_air: Mutex<HashMap<CacheKey, Landing<C>>>,
}

type Landing<C> = Shared<oneshot::Receiver<Result<C, AuthError>>>;

impl<C> Default for Flights<C> {
    fn default() -> Self {
        Self {
            in_the_air: Mutex::new(HashMap::new()),
        }
    }
}

/// What a caller finds who came without a credential that is simply good.
pub(super) enum Boarding<C: Clone + Send + Sync + 'static> {
    AtHand(C),
    Refused(AuthError),
    Passenger(Obtaining<C>),
    Pilot {
        flight: Box<Flight<C>>,
        runtime: Runtime,
        answer: Obtaining<C>,
    },
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    pub(super) fn board(
        self: &Arc<Self>,
        key: CacheKey,
        subject_expires_at: Option<SystemTime>,
        now: Now,
    ) -> Boarding<C> {
        let flights = &self.flights.in_the_air;
        let mut flights = match self.held(&key, &now) {
            // An early refresh is for whoever gets here first: nobody waits in line to start it.
            Some(held) if !held.must_wait() => match flights.try_lock() {
                Ok(flights) => flights,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Boarding::AtHand(held.entry.credential),
            },
            _ => flights.lock().unwrap_or_else(PoisonError::into_inner),
        };
        // Again, now that no flight can start: one may have landed since. What lands is stored before its flight goes.
        let held = self.held(&key, &now);
        let flight = flights.get(&key);
        let held = match held {
            Some(held) if held.is_settled() || (flight.is_some() && !held.must_wait()) => {
                return Boarding::AtHand(held.entry.credential);
            }
            held => held,
        };
        if let Some(landing) = flight {
            return Boarding::Passenger(Obtaining::waiting(landing.clone()));
        }
        if held.is_none()
            && let Some(error) = self.failures.find(&key, &now)
        {
            return Boarding::Refused(error);
        }
        let Some(runtime) = Runtime::current() else {
            return match held {
                Some(held) => Boarding::AtHand(held.entry.credential),
                None => Boarding::Refused(no_runtime()),
            };
        };
        let reason = match held {
            Some(_) => Lookup::Refresh,
            None => Lookup::Miss,
        };
        let (sender, receiver) = oneshot::channel();
        let landing = receiver.shared();
        flights.insert(key, landing.clone());
        let flight = Box::new(Flight {
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
        drop(flights);
        self.count_flight(held.is_some());
        let answer = match held {
            Some(held) if !held.must_wait() => {
                self.count_hit();
                Obtaining::ready(Ok(held.entry.credential))
            }
            _ => {
                self.lookups.count(reason);
                Obtaining::waiting(landing)
            }
        };
        Boarding::Pilot {
            flight,
            runtime,
            answer,
        }
    }

    fn count_flight(&self, early: bool) {
        let counter = if early {
            &self.counters.refreshes
        } else {
            &self.counters.misses
        };
        counter.add(1);
        tracing::debug!(early, "obtaining a credential");
    }
}

/// A credential on its way. However it ends, even by a panic, those who wait are told and the way is free again.
pub(super) struct Flight<C: Clone + Send + Sync + 'static> {
    cache: Arc<Inner<C>>,
    key: CacheKey,
    terms: Terms,
    sender: Option<oneshot::Sender<Result<C, AuthError>>>,
}

impl<C: Clone + Send + Sync + 'static> Flight<C> {
    pub(super) async fn fly(
        mut self,
        fetching: impl Future<Output = Result<Obtained<C>, AuthError>>,
    ) {
        let outcome = within(MAX_FLIGHT, fetching).await;
        self.land(outcome.unwrap_or_else(|| Err(too_late())));
    }

    fn land(&mut self, outcome: Result<Obtained<C>, AuthError>) {
        let Some(sender) = self.sender.take() else {
            return;
        };
        let flights = &self.cache.flights.in_the_air;
        let mut flights = flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Under one lock: whose credential was rejected and dropped must not board the flight that brought it.
        let outcome = self.cache.settle(self.key, &self.terms, outcome);
        let landing = flights.remove(&self.key);
        drop(flights);
        // Nobody may be waiting any more.
        let _ = sender.send(outcome);
        drop(landing);
    }
}

impl<C: Clone + Send + Sync + 'static> Drop for Flight<C> {
    fn drop(&mut self) {
        self.land(Err(crashed()));
    }
}

/// The future of [`CredentialCache::obtain`](super::CredentialCache::obtain).
///
/// What it waits for goes on without it: dropping it harms nobody.
#[must_use = "futures do nothing unless polled"]
pub struct Obtaining<C> {
    state: State<C>,
}

enum State<C> {
    Ready(future::Ready<Result<C, AuthError>>),
    Waiting(Landing<C>),
}

impl<C> Obtaining<C> {
    pub(super) fn ready(answer: Result<C, AuthError>) -> Self {
        Self {
            state: State::Ready(future::ready(answer)),
        }
    }

    fn waiting(landing: Landing<C>) -> Self {
        Self {
            state: State::Waiting(landing),
        }
    }
}

impl<C: Clone> Future for Obtaining<C> {
    type Output = Result<C, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(answer) => Pin::new(answer).poll(cx),
            State::Waiting(landing) => landing
                .poll_unpin(cx)
                .map(|landed| landed.unwrap_or_else(|_| Err(crashed()))),
        }
    }
}

impl<C> fmt::Debug for Obtaining<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Ready(_) => "ready",
            State::Waiting(_) => "waiting",
        };
        write!(f, "Obtaining({state})")
    }
}

#[cold]
fn no_runtime() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "a credential is obtained in a task of its own, and there is no Tokio runtime here; call from within one",
    )
}

#[cold]
fn too_late() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "obtaining a credential was given up after 60 s; check the issuer, and give the strategy a time limit of its own",
    )
}

#[cold]
fn crashed() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the task that was obtaining a credential panicked, or its runtime was shut down; look for a panic in the log",
    )
}

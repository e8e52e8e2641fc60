use std::{ops::ControlFlow, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use crate::{
    error::{AuthError, AuthErrorKind},
    runtime::Runtime,
    telemetry::Lookup,
};

use super::{
    Inner, check_subject,
    entry::{Entry, Now, Terms},
    key::CacheKey,
    leader::Leader,
    single_flight::{Dropped, RunningFetch, RunningFetches, is_same},
};

/// A caller that needs a credential, and of which kind.
pub(super) struct Call<C> {
    pub(super) key: CacheKey,
    pub(super) subject_expires_at: Option<SystemTime>,
    pub(super) now: Now,
    /// The cached credential, if a backend rejected it when this caller sent it.
    pub(super) rejected: Option<Arc<Entry<C>>>,
}

/// The part of a caller for whom the cache had no credential outside of its refresh windows.
pub(super) enum Role<C: Clone + Send + Sync + 'static> {
    /// The cached credential is good enough, and somebody else takes care of its refresh.
    Served(Arc<Entry<C>>),
    /// The last fetch failed, and it is too early for another.
    Refused(AuthError),
    Follower(Arc<RunningFetch<C>>),
    Leader(Box<NewFetch<C>>),
}

/// A fetch that its leader is about to run.
pub(super) struct NewFetch<C: Clone + Send + Sync + 'static> {
    pub(super) leader: Leader<C>,
    pub(super) runtime: Runtime,
    pub(super) reason: Lookup,
    /// The credential that the leader's caller gets at once. Without it, the caller waits.
    pub(super) served: Option<Arc<Entry<C>>>,
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    pub(super) fn join(self: &Arc<Self>, call: &Call<C>) -> Role<C> {
        let runtime = Runtime::current();
        let mut dropped = Dropped::default();
        let mut fetches = self.single_flight.lock(&call.key);
        self.join_locked(&mut fetches, call, runtime, &mut dropped)
    }

    /// Looks again under the lock. A fetch that ended since has stored its credential before it left `fetches`.
    fn join_locked(
        self: &Arc<Self>,
        fetches: &mut RunningFetches<C>,
        call: &Call<C>,
        runtime: Option<Runtime>,
        dropped: &mut Dropped<C>,
    ) -> Role<C> {
        let Call { key, now, .. } = call;
        let entry = self.entries.find(key);
        dropped.seen.extend(entry.clone());
        let remaining = |entry: &Arc<Entry<C>>| entry.remaining(now);
        let entry = entry.filter(|entry| !remaining(entry).is_zero());
        let is_due = entry.as_ref().is_some_and(|entry| entry.is_due());
        let is_refused = is_same(entry.as_ref(), call.rejected.as_ref())
            && entry.as_ref().is_some_and(|entry| entry.is_rejected());
        let must_wait = |entry: &Arc<Entry<C>>| entry.is_in_mandatory_window(now);
        let running = fetches.get(key).filter(|running| !running.is_stalled());
        let usable = entry.filter(|_| !is_refused);
        if let Some(entry) = &usable
            && (entry.is_settled(now) || (running.is_some() && !must_wait(entry)))
        {
            return Role::Served(Arc::clone(entry));
        }
        if let Some(running) = running {
            return Role::Follower(Arc::clone(running));
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
        let leader = self.start_fetch(fetches, call, reason, dropped);
        Role::Leader(Box::new(NewFetch {
            leader,
            runtime,
            reason,
            served,
        }))
    }

    /// Makes the caller the leader of a new running, in place of one that is stalled.
    fn start_fetch(
        self: &Arc<Self>,
        fetches: &mut RunningFetches<C>,
        call: &Call<C>,
        reason: Lookup,
        dropped: &mut Dropped<C>,
    ) -> Leader<C> {
        let (sender, outcome) = watch::channel(None);
        let running = Arc::new(RunningFetch::start(outcome));
        if let Some(stalled) = fetches.insert(call.key, Arc::clone(&running)) {
            stalled.supersede();
            dropped.fetches.push(stalled);
        }
        for entry in &dropped.seen {
            entry.refresh_started();
            self.entries.changed(&call.key, entry);
        }
        let terms = Terms {
            reason,
            asked_at: call.now,
            subject_expires_at: call.subject_expires_at,
            default_lifetime: self.default_lifetime,
        };
        Leader::new(self, call.key, terms, running, sender)
    }

    /// Waits for the outcome of `running`. If its leader's runtime is no longer driven, this caller takes over.
    pub(super) async fn wait(
        self: Arc<Self>,
        mut call: Call<C>,
        mut running: Arc<RunningFetch<C>>,
    ) -> Result<C, AuthError> {
        loop {
            if let Some(outcome) = running.wait().await {
                return outcome.answer(call.rejected.as_ref());
            }
            match self.give_up_on(&mut call, &running)? {
                ControlFlow::Break(credential) => return Ok(credential),
                ControlFlow::Continue(next) => running = next,
            }
        }
    }

    /// Finds what to use, or to wait for, instead of a running that brought nothing in time. It may be a new one of this
    /// caller.
    pub(super) fn give_up_on(
        self: &Arc<Self>,
        call: &mut Call<C>,
        running: &Arc<RunningFetch<C>>,
    ) -> Result<ControlFlow<C, Arc<RunningFetch<C>>>, AuthError> {
        call.now = self.now();
        check_subject(call.subject_expires_at, &call.now)?;
        match self.take_over(call, running) {
            Role::Served(entry) => Ok(ControlFlow::Break(entry.credential.clone())),
            Role::Refused(error) => Err(error),
            Role::Follower(next) => Ok(ControlFlow::Continue(next)),
            Role::Leader(new_fetch) => {
                tracing::debug!("a fetch stands still: another takes its place");
                let next = new_fetch.leader.running();
                if let Some(fetch) = running.take_spare() {
                    new_fetch.runtime.spawn(new_fetch.leader.run(fetch));
                }
                Ok(ControlFlow::Continue(next))
            }
        }
    }

    fn take_over(self: &Arc<Self>, call: &Call<C>, ended: &Arc<RunningFetch<C>>) -> Role<C> {
        let runtime = Runtime::current();
        let has_spare = ended.lock_spare().is_some();
        let mut dropped = Dropped::default();
        let mut fetches = self.single_flight.lock(&call.key);
        let is_running = |running: &Arc<RunningFetch<C>>| Arc::ptr_eq(running, ended);
        match (fetches.get(&call.key), runtime) {
            (Some(running), _) if !is_running(running) => Role::Follower(Arc::clone(running)),
            (Some(_), Some(runtime)) if has_spare => Role::Leader(Box::new(NewFetch {
                leader: self.start_fetch(&mut fetches, call, Lookup::Miss, &mut dropped),
                runtime,
                reason: Lookup::Miss,
                served: None,
            })),
            (Some(_), _) => {
                ended.supersede();
                dropped.fetches.extend(fetches.remove(&call.key));
                Role::Refused(stalled())
            }
            // It has just ended, and its outcome is on the way.
            (None, _) if !ended.is_superseded() => Role::Follower(Arc::clone(ended)),
            (None, _) => {
                let entry = self.entries.find(&call.key);
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

#[cold]
fn no_runtime() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "a credential is obtained in a separate task, which needs a Tokio runtime; call this from within one",
    )
}

#[cold]
fn stalled() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the task that obtains a credential stands still, because its runtime is no longer driven; the next call \
         obtains one on its own runtime",
    )
}

#[cold]
fn rejected_again() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the backend rejected the cached credential, and another was asked for less than 10 s ago; check whether the \
         backend accepts what the issuer issues",
    )
}

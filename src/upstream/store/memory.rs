use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use crate::{
    clock::{AGES, Clock, DefaultClock},
    error::{AuthError, AuthErrorKind, BuildError},
    runtime::Mutex,
    upstream::{OwnerKey, TokenOwner},
};

use super::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, UpstreamFuture,
    UpstreamTokenStore,
};

#[cfg(feature = "linking")]
use super::sealing_key::SealingKey;

const DEFAULT_CAPACITY: usize = 16_384;
const MOST_USED: usize = 65_536;

/// Stores upstream tokens in this process: for one replica, and for tests.
///
/// Needs the feature `incoming`.
///
/// The number of owners is bounded: of users, or of sessions where there are any. If the store is full, it drops the
/// tokens of an owner that was not used for long, and that user must log in again. When the process ends, all users
/// must. A clone is the same store.
///
/// For an example see [`UpstreamTokens`](crate::UpstreamTokens).
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    sessions: Cache<OwnerKey, Arc<Session>>,
    fences: AtomicU64,
    used: Mutex<HashMap<[u8; 32], Use>>,
    #[cfg(feature = "linking")]
    sealing_key: Vec<SealingKey>,
    clock: Arc<dyn Clock>,
}

struct Use {
    attempt: u128,
    until: Instant,
}

/// The tokens of a user and session, by provider.
struct Session {
    user: OwnerKey,
    rows: Mutex<BTreeMap<String, Row>>,
}

struct Row {
    stored: StoredTokens,
    claimed: Option<Hold>,
}

struct Hold {
    holder: u128,
    fence: u64,
    since: Instant,
    until: Instant,
}

impl MemoryStore {
    /// Creates a store for 16,384 owners.
    pub fn new() -> Self {
        Self::with(DEFAULT_CAPACITY, DefaultClock::get())
    }

    /// Starts a store with other settings.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            capacity: DEFAULT_CAPACITY,
            clock: DefaultClock::get(),
        }
    }

    fn with(capacity: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                sessions: Cache::new(capacity),
                fences: AtomicU64::new(0),
                used: Mutex::default(),
                #[cfg(feature = "linking")]
                sealing_key: SealingKey::random().into_iter().collect(),
                clock,
            }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("owners", &self.inner.sessions.len())
            .finish_non_exhaustive()
    }
}

impl UpstreamTokenStore for MemoryStore {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        let mut tokens = BTreeMap::new();
        self.inner.with_session(owner, |rows| {
            for (provider, row) in rows {
                tokens.insert(provider.clone(), row.stored.clone());
            }
        });
        ready(tokens)
    }

    fn put<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        let row = Row {
            stored: StoredTokens::new(owner, tokens.clone()),
            claimed: None,
        };
        let session = self.inner.sessions.get_or_insert_with(&owner.key(), || {
            Ok::<_, std::convert::Infallible>(Arc::new(Session {
                user: owner.user_key(),
                rows: Mutex::default(),
            }))
        });
        let Ok(session) = session;
        session.with_rows(|rows| rows.insert(provider.to_owned(), row));
        ready(())
    }

    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        self.inner.sessions.remove(&owner.key());
        ready(())
    }

    fn remove_provider<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
    ) -> UpstreamFuture<'a, ()> {
        self.inner
            .with_session(owner, |rows| drop(rows.remove(provider)));
        ready(())
    }

    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        let user = user.user_key();
        self.inner
            .sessions
            .retain(|_, session| session.user != user);
        ready(())
    }

    fn providers<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>> {
        let mut providers = BTreeSet::new();
        for (_, session) in self.inner.sessions.iter() {
            if session.user == user.user_key() {
                session.with_rows(|rows| providers.extend(rows.keys().cloned()));
            }
        }
        ready(providers)
    }

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        let now = self.inner.clock.monotonic();
        let claimed = self
            .inner
            .with_session(owner, |rows| self.inner.claim(rows, provider, claim, now));
        ready(claimed.unwrap_or(Claimed::Gone))
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        let until = later(self.inner.clock.monotonic(), time);
        let renewed = self.inner.with_session(owner, |rows| {
            let hold = rows.get_mut(provider).and_then(|row| row.held_by(lease));
            hold.map(|hold| hold.until = until).is_some()
        });
        ready(renewed.unwrap_or(false))
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        let settled = self.inner.with_session(owner, |rows| {
            let Some(row) = rows.get_mut(provider) else {
                return false;
            };
            if let Settlement::Replace(stored) = settlement
                && row.stored.version() == stored.version()
            {
                return true;
            }
            if row.held_by(lease).is_none() {
                return false;
            }
            match settlement {
                Settlement::Replace(stored) => {
                    row.stored = stored.clone();
                    row.claimed = None;
                }
                Settlement::Remove => drop(rows.remove(provider)),
                Settlement::Release => row.claimed = None,
            }
            true
        });
        ready(settled.unwrap_or(false))
    }

    fn use_once<'a>(
        &'a self,
        id: [u8; 32],
        attempt: u128,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        let now = self.inner.clock.monotonic();
        let until = later(now, time);
        Box::pin(std::future::ready(self.inner.use_once(
            id,
            Use { attempt, until },
            now,
        )))
    }

    #[cfg(feature = "linking")]
    fn sealing_keys(&self) -> &[SealingKey] {
        &self.inner.sealing_key
    }
}

impl Inner {
    fn with_session<T>(
        &self,
        owner: &TokenOwner,
        change: impl FnOnce(&mut BTreeMap<String, Row>) -> T,
    ) -> Option<T> {
        Some(self.sessions.get(&owner.key())?.with_rows(change))
    }

    fn use_once(&self, id: [u8; 32], new: Use, now: Instant) -> Result<bool, AuthError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MOST_USED {
            used.retain(|_, earlier| now < earlier.until);
        }
        if let Some(earlier) = used.get(&id).filter(|earlier| now < earlier.until) {
            return Ok(earlier.attempt == new.attempt);
        }
        if used.len() >= MOST_USED {
            return Err(AuthError::new(
                AuthErrorKind::Unavailable,
                "the store has noted too many uses recently; try again later",
            ));
        }
        used.insert(id, new);
        Ok(true)
    }

    fn claim(
        &self,
        rows: &mut BTreeMap<String, Row>,
        provider: &str,
        claim: &Claim,
        now: Instant,
    ) -> Claimed {
        let Some(row) = rows.get_mut(provider) else {
            return Claimed::Gone;
        };
        if row.stored.version() != claim.version() {
            return Claimed::Superseded(row.stored.clone());
        }
        let mut since = now;
        if let Some(hold) = &mut row.claimed {
            if hold.holder == claim.holder() {
                hold.until = later(now, claim.lease_time());
                return Claimed::Granted(Lease::new(claim.version(), hold.fence));
            }
            if now < hold.until {
                return Claimed::Held(hold.until.saturating_duration_since(now));
            }
            let claimed_for = now.saturating_duration_since(hold.since);
            if claimed_for >= claim.grace() {
                let left = claim.in_doubt_for().saturating_sub(claimed_for);
                if !left.is_zero() {
                    return Claimed::InDoubt(left);
                }
                rows.remove(provider);
                return Claimed::Gone;
            }
            since = hold.since;
        }
        let fence = self.fences.fetch_add(1, Ordering::Relaxed);
        row.claimed = Some(Hold {
            holder: claim.holder(),
            fence,
            since,
            until: later(now, claim.lease_time()),
        });
        Claimed::Granted(Lease::new(claim.version(), fence))
    }
}

impl Session {
    fn with_rows<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Row>) -> T) -> T {
        change(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Row {
    fn held_by(&mut self, lease: &Lease) -> Option<&mut Hold> {
        let is_same_version = self.stored.version() == lease.version();
        self.claimed
            .as_mut()
            .filter(|hold| is_same_version && hold.fence == lease.fence())
    }
}

/// Builds a [`MemoryStore`].
///
/// Needs the feature `incoming`.
///
/// [`UpstreamTokens`](crate::UpstreamTokens) has an example.
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before `build`"]
pub struct MemoryStoreBuilder {
    capacity: usize,
    clock: Arc<dyn Clock>,
}

impl MemoryStoreBuilder {
    /// Sets the highest number of owners. By default 16,384.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock) that leases run by.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the store.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `capacity` is zero.
    pub fn build(self) -> Result<MemoryStore, BuildError> {
        if self.capacity == 0 {
            let fault = "is zero, so no tokens could be kept";
            return Err(BuildError::of("MemoryStore", "capacity", fault));
        }
        Ok(MemoryStore::with(self.capacity, self.clock))
    }
}

fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time.min(AGES)).unwrap_or(now)
}

fn ready<'a, T: Send + 'a>(value: T) -> UpstreamFuture<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

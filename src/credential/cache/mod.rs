pub(crate) mod entry;
mod failure;
pub(crate) mod key;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod single_flight;

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter, sync::Cache};

use crate::{
    clock::{Clock, DefaultClock},
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    runtime::random,
    telemetry::{self, Lookup, Lookups},
};

use entry::{Entry, Now, Obtained, Terms};
use failure::{Failures, REFUSED_FOR};
use key::CacheKey;
use single_flight::{Obtaining, Role, SingleFlight};

const DEFAULT_CAPACITY: usize = 16_384;
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// Obtains a credential once per key, keeps it, and renews it before it expires.
///
/// The strategies that have tokens issued each have a cache. Use one yourself for a
/// strategy that obtains credentials in another way.
///
/// ```
/// use std::time::Duration;
/// use tower_identity::{
///     AccessToken, AuthError, AuthErrorKind, CredentialCache,
///     credential::{CacheScope, Obtained},
/// };
///
/// async fn exchange(
///     _subject: AccessToken,
/// ) -> Result<Obtained<AccessToken>, AuthError> {
///     // Call the issuer here.
///     let exchanged = AccessToken::new("2YotnFZFEjr1zCsicMWpAA").map_err(|error| {
///         let message = "the issued token has an invalid character";
///         AuthError::new(AuthErrorKind::Unavailable, message).with_source(error)
///     })?;
///     Ok(Obtained::new(exchanged).expires_in(Duration::from_secs(3600)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = CredentialCache::builder().build()?;
/// let scope = CacheScope::new("exchange").field("audience", "mcp-backend");
///
/// let users_token = AccessToken::new("eyJhbGciOiJFUzI1NiJ9")?;
/// let key = scope.key(users_token.fingerprint());
/// let credential = match cache.lookup(&key, None)? {
///     Some(credential) => credential,
///     None => cache.obtain(key, None, || exchange(users_token)).await?,
/// };
/// assert_eq!(credential.expose(), "2YotnFZFEjr1zCsicMWpAA");
/// # Ok(())
/// # }
/// ```
///
/// The number of entries is bounded. An entry takes at most 512 bytes, not counting
/// what the credential points to (for an [`AccessToken`](crate::AccessToken), its
/// text). A clone shares the entries.
///
/// # When a credential is renewed
///
/// | remaining lifetime | a caller gets |
/// | --- | --- |
/// | more than the advisory window: the last quarter, at most 5 minutes, made up to a fifth shorter by random jitter | the cached credential |
/// | less than the advisory window | the cached credential, and one caller starts a refresh in the background |
/// | less than the mandatory window: the last tenth, at most 30 s | the refreshed credential, after waiting for it. If the refresh fails, the cached credential |
/// | none | a new credential, after waiting for it, or the error |
///
/// A credential is not renewed early because the user's token ends: a new credential
/// would end at the same time.
///
/// # When it cannot be obtained
///
/// All callers that wait for a key get the error. The cache keeps it: until the time
/// of the next try, callers without a cached credential get the same error at once,
/// and the issuer is not asked. A valid credential stays until it expires.
///
/// | kind of the error | next try |
/// | --- | --- |
/// | [`Unavailable`](AuthErrorKind::Unavailable) | after 1 to 2 s. Each further failure doubles this, up to 30 to 60 s. Not before the error's [`retry_after`](AuthError::retry_after), of which at most 5 minutes count |
/// | any other | after 10 s, because the issuer may have been corrected. For example, a client id that was unknown has been registered |
///
/// # Security
///
/// - **One user's credential never reaches another.** A [`CacheKey`] contains the
///   strategy's whole configuration and the user's token, as hashes.
/// - **An expired subject token gets nothing.** This is checked before the cache is
///   read. No credential is kept longer than the token that it was obtained for.
/// - **Setting the clock back revives nothing.** A credential is valid only if both
///   the time of day and the monotonic time say so.
/// - **A caller that gives up does not affect others.** A credential is obtained in a
///   separate task, with a limit of 60 s.
pub struct CredentialCache<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    store: Store<C>,
    single_flight: SingleFlight<C>,
    failures: Failures,
    lookups: Lookups,
    default_lifetime: Duration,
    clock: Arc<dyn Clock>,
}

type Store<C> = Cache<CacheKey, Entry<C>, UnitWeighter, DefaultHashBuilder, Removed>;

impl<C: Clone + Send + Sync + 'static> CredentialCache<C> {
    /// Starts a cache. By default it holds 16,384 credentials, and keeps a credential whose expiry is unknown for 5
    /// minutes.
    pub fn builder() -> CredentialCacheBuilder<C> {
        CredentialCacheBuilder {
            capacity: DEFAULT_CAPACITY,
            default_lifetime: DEFAULT_LIFETIME,
            clock: DefaultClock::get(),
            credential: PhantomData,
        }
    }

    /// Returns the cached credential, if it needs no refresh.
    ///
    /// `subject_expires_at` is the expiry of the token that the key was made of, if it is known. This neither allocates
    /// nor waits. If it returns `None`, call [`obtain`](Self::obtain).
    ///
    /// # Errors
    ///
    /// [`Expired`](AuthErrorKind::Expired), if `subject_expires_at` has passed.
    pub fn lookup(
        &self,
        key: &CacheKey,
        subject_expires_at: Option<SystemTime>,
    ) -> Result<Option<C>, AuthError> {
        let now = self.inner.now();
        check_subject(subject_expires_at, &now)?;
        Ok(self.inner.settled(key, &now))
    }

    /// Returns the cached credential, or obtains one with `fetch`.
    ///
    /// One caller per key is the leader: the cache calls its `fetch` before this method returns, and spawns the future
    /// onto the current Tokio runtime, whose timer must be enabled. Callers that come meanwhile are followers. Their
    /// `fetch` is not called, and they get the leader's outcome.
    ///
    /// # Errors
    ///
    /// - [`Expired`](AuthErrorKind::Expired), as in [`lookup`](Self::lookup).
    /// - The error of `fetch`, from this call or from [a recent one](Self#when-it-cannot-be-obtained).
    /// - [`Unavailable`](AuthErrorKind::Unavailable), if `fetch` panicked or took longer than 60 s.
    /// - [`Configuration`](AuthErrorKind::Configuration), if there is no Tokio runtime.
    pub fn obtain<F, R>(
        &self,
        key: CacheKey,
        subject_expires_at: Option<SystemTime>,
        fetch: F,
    ) -> Obtaining<C>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Obtained<C>, AuthError>> + Send + 'static,
    {
        let now = self.inner.now();
        if let Err(error) = check_subject(subject_expires_at, &now) {
            return Obtaining::ready(Err(error));
        }
        if let Some(credential) = self.inner.settled(&key, &now) {
            return Obtaining::ready(Ok(credential));
        }
        match self.inner.join(key, subject_expires_at, now) {
            Role::Served(credential) => {
                self.inner.count_hit();
                Obtaining::ready(Ok(credential))
            }
            Role::Refused(error) => {
                self.inner.lookups.count(Lookup::Refused);
                tracing::trace!(kind = ?error.kind(), "it is too early to ask for a credential again");
                Obtaining::ready(Err(error))
            }
            Role::Follower(answer) => {
                self.inner.count_coalesced();
                answer
            }
            Role::Leader {
                leader,
                runtime,
                answer,
            } => {
                runtime.spawn(leader.run(fetch()));
                answer
            }
        }
    }

    /// Drops the cached credential.
    #[cfg(feature = "incoming")]
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.inner.store.remove(key);
    }

    /// Drops the cached credential if it is the one that a backend rejected. Returns whether it was dropped.
    ///
    /// If many calls were rejected with the same credential, the first one drops it. The others find that it is gone or
    /// replaced, and use the replacement.
    pub fn invalidate(&self, key: &CacheKey, is_rejected: impl FnOnce(&C) -> bool) -> bool {
        let removed = self
            .inner
            .store
            .remove_if(key, |entry| is_rejected(&entry.credential));
        if removed.is_some() {
            tracing::debug!("a credential was rejected and dropped");
        }
        removed.is_some()
    }
}

impl<C> Clone for CredentialCache<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C> fmt::Debug for CredentialCache<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCache")
            .field("default_lifetime", &self.inner.default_lifetime)
            .finish_non_exhaustive()
    }
}

/// Builds a [`CredentialCache`].
pub struct CredentialCacheBuilder<C> {
    capacity: usize,
    default_lifetime: Duration,
    clock: Arc<dyn Clock>,
    credential: PhantomData<fn() -> C>,
}

impl<C: Clone + Send + Sync + 'static> CredentialCacheBuilder<C> {
    /// Sets how many credentials are kept. By default 16,384.
    ///
    /// The number is rounded up a little, to divide evenly among locks. The cache keeps as many errors, separately.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets how long a credential whose expiry is unknown is kept. By default 5 minutes.
    #[must_use]
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = lifetime;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `capacity` or `default_lifetime` is zero.
    pub fn build(self) -> Result<CredentialCache<C>, BuildError> {
        let mut faults = Faults::new("CredentialCache");
        if self.capacity == 0 {
            faults.add("capacity", "is zero, so nothing could be kept");
        }
        if self.default_lifetime.is_zero() {
            faults.add(
                "default_lifetime",
                "is zero, so nothing could be kept; 5 minutes is the default",
            );
        }
        faults.check()?;
        Ok(self.make())
    }

    /// Builds it from settings that are known to be valid.
    pub(crate) fn make(self) -> CredentialCache<C> {
        CredentialCache {
            inner: Arc::new(Inner {
                store: Cache::with(
                    self.capacity,
                    self.capacity as u64,
                    UnitWeighter,
                    DefaultHashBuilder::default(),
                    Removed,
                ),
                single_flight: SingleFlight::default(),
                failures: Failures::new(self.capacity),
                lookups: Lookups::default(),
                default_lifetime: self.default_lifetime,
                clock: self.clock,
            }),
        }
    }
}

impl<C> fmt::Debug for CredentialCacheBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCacheBuilder")
            .field("capacity", &self.capacity)
            .field("default_lifetime", &self.default_lifetime)
            .finish_non_exhaustive()
    }
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    fn now(&self) -> Now {
        Now::read(&*self.clock)
    }

    fn settled(&self, key: &CacheKey, now: &Now) -> Option<C> {
        let held = self.held(key, now).filter(Held::is_settled)?;
        self.count_hit();
        Some(held.entry.credential)
    }

    fn held(&self, key: &CacheKey, now: &Now) -> Option<Held<C>> {
        let entry = self.store.get(key)?;
        let remaining = entry.remaining(now);
        (!remaining.is_zero()).then_some(Held { entry, remaining })
    }

    /// Changes the stored entry in place. [`held`](Self::held) returns a copy.
    fn with_stored(&self, key: &CacheKey, change: impl FnOnce(&Entry<C>)) {
        self.store.remove_if(key, |entry| {
            change(entry);
            false
        });
    }

    /// Caches what was obtained, or records the failure. Returns the answer for the callers that wait.
    fn settle(
        &self,
        key: CacheKey,
        terms: &Terms,
        outcome: Result<Obtained<C>, AuthError>,
    ) -> Result<C, AuthError> {
        let now = self.now();
        let took = now.monotonic.duration_since(terms.asked_at.monotonic);
        telemetry::refreshed(terms.reason, &outcome, took);
        match outcome {
            Ok(obtained) => {
                self.failures.forget(&key);
                let credential = obtained.credential.clone();
                let entry = Entry::new(obtained, terms, random());
                match entry.filter(|entry| !entry.remaining(&now).is_zero()) {
                    Some(entry) => self.keep(key, entry),
                    None => self.with_stored(&key, |entry| entry.refresh_failed(&now, REFUSED_FOR)),
                }
                Ok(credential)
            }
            Err(error) => {
                let (error, delay) = self.failures.record(key, error, &now, random());
                tracing::debug!(kind = ?error.kind(), ?delay, "a credential could not be obtained");
                self.with_stored(&key, |entry| entry.refresh_failed(&now, delay));
                match self.held(&key, &now) {
                    Some(held) => Ok(held.entry.credential),
                    None => Err(error),
                }
            }
        }
    }

    fn keep(&self, key: CacheKey, entry: Entry<C>) {
        let mut removed = Vec::new();
        self.store.insert_with_lifecycle(key, entry, &mut removed);
        // The entry that this one replaces was not evicted.
        let evicted = removed.iter().filter(|(other, _)| *other != key).count();
        if evicted > 0 {
            telemetry::evicted(evicted);
            tracing::debug!("the credential cache is full: one was dropped");
        }
    }

    fn count_hit(&self) {
        self.lookups.count(Lookup::Hit);
        tracing::trace!("a credential was at hand");
    }

    fn count_coalesced(&self) {
        self.lookups.count(Lookup::Coalesced);
        tracing::trace!("waiting for a credential that is being obtained");
    }
}

/// An entry that has not expired.
struct Held<C> {
    entry: Entry<C>,
    remaining: Duration,
}

impl<C> Held<C> {
    fn is_settled(&self) -> bool {
        self.entry.is_settled(self.remaining)
    }

    fn must_wait(&self) -> bool {
        self.entry.is_in_mandatory_window(self.remaining)
    }
}

/// Gathers removed entries, so that they are counted and dropped after the store is unlocked.
#[derive(Clone)]
struct Removed;

impl<C> Lifecycle<CacheKey, Entry<C>> for Removed {
    type RequestState = Vec<(CacheKey, Entry<C>)>;

    fn on_evict(&self, removed: &mut Self::RequestState, key: CacheKey, entry: Entry<C>) {
        removed.push((key, entry));
    }
}

fn check_subject(expires_at: Option<SystemTime>, now: &Now) -> Result<(), AuthError> {
    if expires_at.is_some_and(|expires_at| now.is_past(expires_at)) {
        return Err(subject_expired());
    }
    Ok(())
}

#[cold]
fn subject_expired() -> AuthError {
    AuthError::new(
        AuthErrorKind::Expired,
        "the user's token has expired, and no credential is obtained or used on behalf of it; have the user log in again",
    )
}

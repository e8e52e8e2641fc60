mod builder;
mod entries;
pub(crate) mod entry;
mod failure;
mod forced_refresh;
mod join;
pub(crate) mod key;
mod leader;
pub(crate) mod obtaining;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod single_flight;
pub(crate) mod store;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    clock::Clock,
    error::{AuthError, AuthErrorKind},
    telemetry::{Lookup, Lookups},
};

pub use builder::CredentialCacheBuilder;

use entries::Entries;
use entry::{Entry, Now, Obtained};
use failure::Failures;
use join::{Call, NewFetch, Role};
use key::CacheKey;
use obtaining::Obtaining;
use single_flight::SingleFlight;
use store::Store;

/// Obtains a credential once per key, keeps it, and renews it before it expires.
///
/// Needs the feature `token-exchange`.
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
/// # When a backend rejects a credential
///
/// A backend may reject a credential before its end, for example because it was revoked. The strategy tells the cache
/// with [`reject`](Self::reject), and asks for another with [`replace`](Self::replace):
///
/// - The refresh of a key is forced at most once in 10 s, and not while the issuer's last error is kept.
/// - Until the new credential is there, all callers that did not see the rejection get the old one. If the issuer is
///   down, they get it until it expires.
/// - Credentials are compared by value: rejecting a credential that was replaced forces nothing.
///
/// # When a runtime stands still
///
/// A fetch runs on the runtime of its leader. If that runtime is no longer driven, for example because its `block_on`
/// has returned, the fetch does not go on. 65 s after its start, another caller takes its place, with a fetch on its own
/// runtime. The first fetch is abandoned, even if its runtime is driven again.
///
/// # Security
///
/// - **One user's credential never reaches another.** A [`CacheKey`] is made of
///   the hashes of the strategy's whole configuration and of the user's token.
/// - **An expired subject token gets nothing.** This is checked before the cache is
///   read. No credential is kept longer than the token that it was obtained for.
/// - **Setting the clock back revives nothing.** A credential is valid only if both
///   the time of day and the monotonic time say so.
/// - **A caller that gives up does not affect others.** A credential is obtained in a
///   separate task, with a limit of 60 s.
/// - **One rejected caller does not affect others.** Calls that are rejected again and again cannot use up the issuer's
///   limit of requests, and cannot take a credential away from other callers.
/// - **Foreign code runs under no lock.** The clock, the metrics recorder, the `tracing` subscriber, `fetch`, and the
///   credential's `Clone` and `Drop` are called while no lock is held. If one of them panics, the key stays usable.
pub struct CredentialCache<C> {
    inner: Arc<Inner<C>>,
}

struct Inner<C> {
    entries: Entries<C>,
    single_flight: SingleFlight<C>,
    failures: Failures,
    /// When the refresh of a key was forced last.
    forced: Store<Instant>,
    lookups: Lookups,
    default_lifetime: Duration,
    clock: Arc<dyn Clock>,
}

impl<C: Clone + Send + Sync + 'static> CredentialCache<C> {
    /// Starts a cache. By default it holds 16,384 credentials, and keeps a credential whose expiry is unknown for 5
    /// minutes.
    pub fn builder() -> CredentialCacheBuilder<C> {
        CredentialCacheBuilder::new()
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
        let settled = self.inner.entries.settled(key, &now);
        if settled.is_some() {
            self.inner.count_hit();
        }
        Ok(settled)
    }

    /// Returns the cached credential, or obtains one with `fetch`.
    ///
    /// One caller per key is the leader: the cache calls its `fetch` before this method returns, and spawns the future
    /// onto the current Tokio runtime, whose timer must be enabled. Callers that come meanwhile are followers, and get
    /// the leader's outcome. The cache calls the `fetch` of the first follower too, and keeps the future in reserve. It
    /// is polled only if the leader's runtime [stands still](Self#when-a-runtime-stands-still).
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
        let is_rejected = None::<fn(&C) -> bool>;
        self.inner
            .obtain(key, subject_expires_at, is_rejected, fetch)
    }

    /// Returns the cached credential, whether it is due for a refresh or not.
    pub(crate) fn peek(&self, key: &CacheKey) -> Option<C> {
        let entry = self.inner.entries.find(key)?;
        Some(entry.credential.clone())
    }

    /// Drops the cached credential.
    #[cfg(feature = "incoming")]
    pub(crate) fn forget(&self, key: &CacheKey) {
        self.inner.entries.remove(key, &mut Vec::new());
    }

    /// Like [`obtain`](Self::obtain), for a caller whose request may have been rejected.
    ///
    /// `is_rejected` says whether a credential is the one that this caller sent. If a backend
    /// [rejected](Self::reject) the cached credential, and `is_rejected` returns `true` for it, the caller waits for the
    /// credential that replaces it. All other callers get the cached credential until then.
    ///
    /// # Errors
    ///
    /// As [`obtain`](Self::obtain). [`Unavailable`](AuthErrorKind::Unavailable) also if the rejected credential was not
    /// replaced, and it is too early for [another refresh](Self#when-a-backend-rejects-a-credential).
    pub fn replace<F, R>(
        &self,
        key: CacheKey,
        subject_expires_at: Option<SystemTime>,
        is_rejected: impl FnOnce(&C) -> bool,
        fetch: F,
    ) -> Obtaining<C>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Obtained<C>, AuthError>> + Send + 'static,
    {
        self.inner
            .obtain(key, subject_expires_at, Some(is_rejected), fetch)
    }

    /// Tells the cache that a backend rejected a credential. Returns whether [`replace`](Self::replace) can bring
    /// another.
    ///
    /// `is_rejected` says whether a credential is the rejected one. If it is not the cached credential, it was replaced
    /// already: the method returns `true` and changes nothing. See
    /// [when a backend rejects a credential](Self#when-a-backend-rejects-a-credential).
    pub fn reject(&self, key: &CacheKey, is_rejected: impl FnOnce(&C) -> bool) -> bool {
        self.inner.reject(key, is_rejected, || true)
    }

    /// Like [`reject`](Self::reject), and forces a refresh only if `may_force` returns `true`. It is not asked if the
    /// credential was replaced already, or if a refresh is running.
    ///
    /// A lock is held while `may_force` runs, so it must not call foreign code.
    #[cfg(feature = "aws-sts")]
    pub(crate) fn reject_if(
        &self,
        key: &CacheKey,
        is_rejected: impl FnOnce(&C) -> bool,
        may_force: impl FnOnce() -> bool,
    ) -> bool {
        self.inner.reject(key, is_rejected, may_force)
    }

    /// Drops the cached credential if `is_forgotten` returns `true` for it. It does not limit how often that happens.
    ///
    /// A lock is held while `is_forgotten` runs, so it must not call foreign code.
    #[cfg(feature = "incoming")]
    pub(crate) fn forget_if(&self, key: &CacheKey, is_forgotten: impl FnOnce(&C) -> bool) {
        self.inner.entries.remove_if(key, is_forgotten);
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

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    fn obtain<F, R>(
        self: &Arc<Self>,
        key: CacheKey,
        subject_expires_at: Option<SystemTime>,
        is_rejected: Option<impl FnOnce(&C) -> bool>,
        fetch: F,
    ) -> Obtaining<C>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Obtained<C>, AuthError>> + Send + 'static,
    {
        let now = self.now();
        if let Err(error) = check_subject(subject_expires_at, &now) {
            return Obtaining::ready(Err(error));
        }
        let rejected = match is_rejected {
            Some(is_rejected) => self
                .held(&key, &now)
                .filter(|entry| is_rejected(&entry.credential)),
            None => None,
        };
        if rejected.is_none()
            && let Some(credential) = self.entries.settled(&key, &now)
        {
            self.count_hit();
            return Obtaining::ready(Ok(credential));
        }
        let call = Call {
            key,
            subject_expires_at,
            now,
            rejected,
        };
        match self.join(&call) {
            Role::Served(entry) => {
                self.count_hit();
                Obtaining::ready(Ok(entry.credential.clone()))
            }
            Role::Refused(error) => {
                self.lookups.count(Lookup::Refused);
                tracing::trace!(kind = ?error.kind(), "it is too early to ask for a credential again");
                Obtaining::ready(Err(error))
            }
            Role::Follower(running) => {
                self.count_coalesced();
                running.offer_spare(fetch);
                Obtaining::pending(Arc::clone(self).wait(call, running))
            }
            Role::Leader(new_fetch) => self.lead(call, *new_fetch, fetch),
        }
    }

    /// Starts the fetch. If anything in here panics, the leader is dropped and frees the key.
    fn lead<F, R>(self: &Arc<Self>, call: Call<C>, new_fetch: NewFetch<C>, fetch: F) -> Obtaining<C>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<Obtained<C>, AuthError>> + Send + 'static,
    {
        let NewFetch {
            leader,
            runtime,
            reason,
            served,
        } = new_fetch;
        let leader = Box::new(leader);
        tracing::debug!(
            early = matches!(reason, Lookup::Refresh),
            "obtaining a credential"
        );
        let answer = match served {
            Some(entry) => {
                self.count_hit();
                Obtaining::ready(Ok(entry.credential.clone()))
            }
            None => {
                self.lookups.count(reason);
                Obtaining::pending(Arc::clone(self).wait(call, leader.running()))
            }
        };
        runtime.spawn(leader.run(fetch()));
        answer
    }

    fn now(&self) -> Now {
        Now::read(&*self.clock)
    }

    /// The cached credential, if it has not expired.
    fn held(&self, key: &CacheKey, now: &Now) -> Option<Arc<Entry<C>>> {
        let entry = self.entries.find(key)?;
        (!entry.remaining(now).is_zero()).then_some(entry)
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

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;

use crate::{
    clock::Clock,
    credential::cache::{
        CredentialCache,
        entry::Obtained,
        key::{CacheKey, CacheScope},
    },
    error::{AuthError, AuthErrorKind},
    runtime::Mutex,
};

use super::{discovery::Discovery, key_set::KeySet};

/// How many fetches unknown keys may cause at once.
const SEARCHES_AT_ONCE: u32 = 6;
/// After how long they may cause one more.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long a key that the issuer did not have counts as one that it does not have.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// A token that is older than the fetched keys by this was signed before they were fetched, whatever the clocks say.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// The keys of one issuer, kept up to date, or given once.
pub(super) enum Keys {
    Given(KeySet),
    Fetched(IssuerKeys),
}

/// Keys, and which fetch brought them, if one did.
#[derive(Clone)]
pub(super) struct KnownKeys {
    pub(super) keys: KeySet,
    fetch: Option<Fetch>,
}

#[derive(Clone, Copy)]
struct Fetch {
    number: u64,
    asked_at: SystemTime,
    asked: Instant,
}

impl Keys {
    /// The keys that are known, without waiting. It sees to it that they are renewed.
    pub(super) fn known(&self) -> Option<KnownKeys> {
        match self {
            Self::Given(keys) => Some(KnownKeys::given(keys)),
            Self::Fetched(keys) => keys.known(),
        }
    }

    /// The keys, fetched if none is known.
    pub(super) async fn first(&self) -> Result<KnownKeys, AuthError> {
        match self {
            Self::Given(keys) => Ok(KnownKeys::given(keys)),
            Self::Fetched(keys) => keys.fetch().await,
        }
    }

    /// Newer keys than `seen`, which lack the key of a token. `None`, where no newer keys can have it.
    pub(super) async fn newer_than(
        &self,
        seen: &KnownKeys,
        issued_at: Option<SystemTime>,
    ) -> Result<Option<KnownKeys>, AuthError> {
        match (self, seen.fetch) {
            (Self::Fetched(keys), Some(seen)) => keys.newer_than(seen, issued_at).await,
            _ => Ok(None),
        }
    }
}

impl KnownKeys {
    fn given(keys: &KeySet) -> Self {
        Self {
            keys: keys.clone(),
            fetch: None,
        }
    }

    fn is_of(&self, fetch: Fetch) -> bool {
        self.fetch.is_some_and(|this| this.number == fetch.number)
    }
}

pub(super) struct IssuerKeys {
    source: Arc<KeySource>,
    /// Fetches once at a time, early, and with back-off. Its keys age out.
    cache: CredentialCache<KnownKeys>,
    key: CacheKey,
    searches: Mutex<Searches>,
    clock: Arc<dyn Clock>,
}

struct KeySource {
    discovery: Discovery,
    fetches: AtomicU64,
    /// The keys of the last fetch. They do not age out.
    latest: ArcSwapOption<KnownKeys>,
    clock: Arc<dyn Clock>,
}

/// The fetches for keys that tokens name and that are not known.
#[derive(Default)]
struct Searches {
    /// The last fetch whose keys were given up.
    given_up: Option<u64>,
    /// When all searches so far are paid for.
    paid_at: Option<Instant>,
}

impl IssuerKeys {
    pub(super) fn new(discovery: Discovery, clock: Arc<dyn Clock>) -> Self {
        Self {
            source: Arc::new(KeySource {
                discovery,
                fetches: AtomicU64::new(0),
                latest: ArcSwapOption::empty(),
                clock: Arc::clone(&clock),
            }),
            cache: CredentialCache::builder()
                .capacity(16)
                .clock(Arc::clone(&clock))
                .make(),
            key: CacheScope::new("jwks").key_for_client(),
            searches: Mutex::new(Searches::default()),
            clock,
        }
    }

    fn known(&self) -> Option<KnownKeys> {
        if let Ok(Some(keys)) = self.cache.lookup(&self.key, None) {
            return Some(keys);
        }
        let latest = self.source.latest.load_full()?;
        // Not awaited: the fetch goes on by itself, and the latest keys serve until it is done.
        drop(self.fetch());
        Some(KnownKeys::clone(&latest))
    }

    async fn newer_than(
        &self,
        seen: Fetch,
        issued_at: Option<SystemTime>,
    ) -> Result<Option<KnownKeys>, AuthError> {
        if !self.search(seen, issued_at)? {
            return Ok(None);
        }
        let keys = self.fetch().await?;
        if keys.is_of(seen) {
            return Err(not_checked(Duration::from_secs(1)));
        }
        Ok(Some(keys))
    }

    /// Gives up the keys that were seen. `false`, where that would be in vain.
    ///
    /// The lock is held until they are gone: a caller that comes meanwhile would take them for the newest.
    fn search(&self, seen: Fetch, issued_at: Option<SystemTime>) -> Result<bool, AuthError> {
        let now = self.clock.monotonic();
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        if searches.given_up.is_some_and(|last| last >= seen.number) {
            return Ok(true);
        }
        if seen.has_just_missed(issued_at, now) {
            return Ok(false);
        }
        searches.pay(now).map_err(not_checked)?;
        searches.given_up = Some(seen.number);
        self.cache.forget_if(&self.key, |keys| keys.is_of(seen));
        Ok(true)
    }

    /// The cached keys, unless they are about to age out or were given up: then those of the one fetch.
    fn fetch(&self) -> impl Future<Output = Result<KnownKeys, AuthError>> + use<> {
        let source = Arc::clone(&self.source);
        self.cache.obtain(self.key, None, move || async move {
            let fetched = source.fetch().await;
            if let Err(error) = &fetched {
                tracing::warn!(
                    error = error.in_event(),
                    "the issuer's keys could not be fetched"
                );
            }
            fetched
        })
    }
}

impl Fetch {
    /// Whether the issuer was asked a moment ago, and had no such key although the token was there by then.
    fn has_just_missed(&self, issued_at: Option<SystemTime>, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) < MISSING_FOR
            && issued_at
                .and_then(|issued_at| issued_at.checked_add(CLOCK_DIFFERENCE))
                .is_some_and(|issued_at| issued_at < self.asked_at)
    }
}

impl Searches {
    /// Pays for one search, or says how long until it can be paid for.
    fn pay(&mut self, now: Instant) -> Result<(), Duration> {
        let paid_at = self.paid_at.unwrap_or(now).max(now);
        let debt = paid_at.saturating_duration_since(now);
        let credit = SEARCH_INTERVAL * (SEARCHES_AT_ONCE - 1);
        if debt > credit {
            return Err(debt - credit);
        }
        self.paid_at = paid_at.checked_add(SEARCH_INTERVAL);
        Ok(())
    }
}

impl KeySource {
    async fn fetch(&self) -> Result<Obtained<KnownKeys>, AuthError> {
        let fetch = Fetch {
            number: self.fetches.fetch_add(1, Ordering::Relaxed),
            asked_at: self.clock.now(),
            asked: self.clock.monotonic(),
        };
        let (keys, max_age) = self.discovery.fetch_keys().await?;
        let keys = KnownKeys {
            keys,
            fetch: Some(fetch),
        };
        self.latest.store(Some(Arc::new(keys.clone())));
        Ok(Obtained::new(keys).expires_in(max_age))
    }
}

#[cold]
fn not_checked(wait: Duration) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the token names a key that is not known, and the issuer was asked for its keys too often to be asked again now",
    )
    .with_retry_after(wait)
}

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use crate::{
    clock::{Clock, DefaultClock},
    error::{BuildError, Faults},
    telemetry::Lookups,
};

use super::{
    CredentialCache, Inner, entries::Entries, failure::Failures, single_flight::SingleFlight,
    store::Store,
};

const DEFAULT_CAPACITY: usize = 16_384;
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// Builds a [`CredentialCache`].
///
/// Needs the feature `token-exchange`.
///
/// ```
/// use tower_identity::{AccessToken, CredentialCache};
///
/// let cache = CredentialCache::<AccessToken>::builder().capacity(1_000).build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
pub struct CredentialCacheBuilder<C> {
    capacity: usize,
    default_lifetime: Duration,
    clock: Arc<dyn Clock>,
    credential: PhantomData<fn() -> C>,
}

impl<C: Clone + Send + Sync + 'static> CredentialCacheBuilder<C> {
    pub(super) fn new() -> Self {
        Self {
            capacity: DEFAULT_CAPACITY,
            default_lifetime: DEFAULT_LIFETIME,
            clock: DefaultClock::get(),
            credential: PhantomData,
        }
    }

    /// Sets how many credentials are kept. By default 16,384.
    ///
    /// The number is rounded up a little, to divide evenly among locks. The cache keeps as many errors, and as many
    /// times of forced refreshes, separately.
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
                entries: Entries::new(self.capacity),
                single_flight: SingleFlight::default(),
                failures: Failures::new(self.capacity),
                forced: Store::new(self.capacity),
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

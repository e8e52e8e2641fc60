use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The longest time that is added to that of a clock: some thousand years, with which no platform's clock overflows.
#[cfg(feature = "incoming")]
pub(crate) const AGES: Duration = Duration::from_millis(1 << 45);

/// Tells the time.
///
/// Tokens, credentials, keys and leases expire by a clock, so a test can move the clock instead of waiting.
///
/// # Setting the clock
///
/// A part takes its clock when it is made:
///
/// 1. The clock that was set with `clock(…)`.
/// 2. Otherwise the [`DefaultClock`] of the thread that made its builder (or the part itself, if it has no builder).
/// 3. Otherwise the [`SystemClock`].
///
/// A test therefore sets the clock once for all parts:
///
/// ```
/// use std::{sync::Arc, time::{Duration, SystemTime}};
/// use tower_identity::{DefaultClock, ManualClock, UpstreamInject};
///
/// let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
/// let _default = DefaultClock::set(clock.clone());
///
/// // All of these now tell the time by `clock`.
/// let github = UpstreamInject::new("github")?;
/// let slack = UpstreamInject::new("slack")?;
///
/// clock.advance(Duration::from_secs(3600));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Parts are never asked for the clock of the parts that they are made of. For example, a `TokenValidator` and its
/// `UpstreamTokens` have the same clock if both were made under one default, or if both were given it.
///
/// # Security
///
/// A clock tells the time twice. The time of day can be set back, and then an expired credential looks fresh. The
/// monotonic time cannot be set back, but on some systems it stands still while the machine sleeps. A cached credential
/// is therefore used only if it is fresh by both times.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time of day.
    fn now(&self) -> SystemTime;

    /// Returns the monotonic time, which does not change when the time of day is set.
    fn monotonic(&self) -> Instant;
}

/// The clock of the operating system, which is the default.
///
/// [`ManualClock`](crate::ManualClock) shows how another clock takes its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

thread_local! {
    static DEFAULT: RefCell<Option<Arc<dyn Clock>>> = const { RefCell::new(None) };
}

/// Sets the default clock of this thread until the value is dropped, which restores the previous default.
///
/// It is meant for tests. See [`Clock`](trait@Clock#setting-the-clock) for the parts that use it. Only parts that are
/// made on this thread use it, so make them in the test itself, not in a task that another thread may run.
///
/// ```
/// use std::{sync::Arc, time::{Duration, SystemTime}};
/// use tower_identity::{DefaultClock, ManualClock, MemoryStore};
///
/// let clock = Arc::new(ManualClock::new(SystemTime::now()));
/// let _default = DefaultClock::set(clock.clone());
/// // The store uses this clock.
/// let store = MemoryStore::new();
/// clock.advance(Duration::from_secs(3600));
/// ```
#[derive(Debug)]
#[must_use = "the clock is the default only until this value is dropped"]
pub struct DefaultClock {
    previous: Option<Arc<dyn Clock>>,
    /// Keeps the value on its thread.
    not_send: PhantomData<*const ()>,
}

impl DefaultClock {
    /// Makes `clock` the default of this thread.
    pub fn set(clock: Arc<dyn Clock>) -> Self {
        Self {
            previous: DEFAULT.replace(Some(clock)),
            not_send: PhantomData,
        }
    }

    /// Returns the default of this thread, or the system's clock.
    pub(crate) fn get() -> Arc<dyn Clock> {
        let default = DEFAULT.try_with(|default| default.borrow().clone());
        default
            .ok()
            .flatten()
            .unwrap_or_else(|| Arc::new(SystemClock))
    }
}

impl Drop for DefaultClock {
    fn drop(&mut self) {
        let previous = self.previous.take();
        let _ = DEFAULT.try_with(|default| default.replace(previous));
    }
}

/// A clock for tests, which stands still until it is moved.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_identity::{Clock, ManualClock};
///
/// let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(3600));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    now: SystemTime,
    monotonic: Instant,
}

impl ManualClock {
    /// Creates a clock that returns `now` until it is moved.
    pub fn new(now: SystemTime) -> Self {
        Self {
            times: Mutex::new(Times {
                now,
                monotonic: Instant::now(),
            }),
        }
    }

    /// Moves both times forward. A time is left unchanged if the platform cannot express the result.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.now = times.now.checked_add(by).unwrap_or(times.now);
        times.monotonic = times.monotonic.checked_add(by).unwrap_or(times.monotonic);
    }

    /// Sets only the time of day, forward or back. For example, an administrator or a machine that was suspended does
    /// this.
    pub fn set(&self, now: SystemTime) {
        self.times
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .now = now;
    }

    fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.times().now
    }

    fn monotonic(&self) -> Instant {
        self.times().monotonic
    }
}

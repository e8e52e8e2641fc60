//! Time, injected: what expires is compared with a [`Clock`], so that a test never waits for an expiry.
//!
//! # Security
//!
//! A clock tells the time twice. The time of day can be set back, and then what has expired looks fresh; the monotonic
//! time cannot, but on some systems it stands still while the machine sleeps. What is kept here for later is fresh only
//! if both say so.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day now.
    fn now(&self) -> SystemTime;

    /// The time now that never goes back, whatever is done to the time of day.
    fn monotonic(&self) -> Instant;
}

/// The machine's clock.
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

/// A clock that stands still until it is moved: for tests, yours as well as ours.
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
    /// A clock that says `now` until it is moved.
    pub fn new(now: SystemTime) -> Self {
        Self {
            times: Mutex::new(Times {
                now,
                monotonic: Instant::now(),
            }),
        }
    }

    /// Moves the clock forward. It stops at the last time that the platform can express.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.now = times.now.checked_add(by).unwrap_or(times.now);
        times.monotonic = times.monotonic.checked_add(by).unwrap_or(times.monotonic);
    }

    /// Sets the time of day alone, forward or back: what an administrator does to it, and a machine that slept.
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

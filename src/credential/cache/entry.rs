use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use crate::{clock::Clock, telemetry::Lookup};

const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const MAX_ADVISORY_WINDOW: Duration = Duration::from_secs(300);
const MAX_MANDATORY_WINDOW: Duration = Duration::from_secs(30);
const ADVISORY_JITTER: f64 = 0.2;

/// A new credential with its lifetime: the result of a fetch for a [`CredentialCache`](super::CredentialCache), which has
/// an example.
///
/// Needs the feature `token-exchange`.
#[derive(Clone, Debug)]
pub struct Obtained<C> {
    pub(super) credential: C,
    lifetime: Lifetime,
    is_cloned_under_lock: bool,
}

#[derive(Clone, Copy, Debug)]
enum Lifetime {
    Unknown,
    For(Duration),
    Until(SystemTime),
}

impl<C> Obtained<C> {
    /// A credential whose lifetime is unknown. The cache keeps it for its
    /// [default lifetime](super::CredentialCacheBuilder::default_lifetime).
    pub fn new(credential: C) -> Self {
        Self {
            credential,
            lifetime: Lifetime::Unknown,
            is_cloned_under_lock: false,
        }
    }

    #[cfg(feature = "private-key-jwt")]
    pub(crate) fn into_credential(self) -> C {
        self.credential
    }

    /// Makes cache hits faster for a type of this crate whose `Clone` only counts references.
    pub(crate) fn cloned_under_lock(mut self) -> Self {
        self.is_cloned_under_lock = true;
        self
    }

    /// Sets the lifetime (`expires_in`, RFC 6749 §5.1), counted from the start of the fetch.
    ///
    /// With a lifetime of zero the credential is used once and not kept. Pass zero for a negative lifetime too. A
    /// lifetime of more than 24 hours counts as 24 hours.
    #[must_use]
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.lifetime = Lifetime::For(lifetime);
        self
    }

    /// Sets the time of expiry. If it has passed, the credential is used once and not kept.
    #[must_use]
    pub fn expires_at(mut self, expires_at: SystemTime) -> Self {
        self.lifetime = Lifetime::Until(expires_at);
        self
    }
}

/// Both of a clock's times, read together.
#[derive(Clone, Copy)]
pub(super) struct Now {
    wall: SystemTime,
    pub(super) monotonic: Instant,
}

impl Now {
    #[inline]
    pub(super) fn read(clock: &dyn Clock) -> Self {
        Self {
            wall: clock.now(),
            monotonic: clock.monotonic(),
        }
    }

    pub(super) fn is_past(&self, time: SystemTime) -> bool {
        time <= self.wall
    }
}

/// Why and when a credential was asked for, and what its lifetime follows from.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) reason: Lookup,
    pub(super) asked_at: Now,
    pub(super) subject_expires_at: Option<SystemTime>,
    pub(super) default_lifetime: Duration,
}

/// How long before its end a credential is renewed: in the background, and while its users wait.
pub(crate) struct Windows {
    pub(crate) advisory: Duration,
    pub(crate) mandatory: Duration,
}

impl Windows {
    /// The windows of a credential that was issued for `lifetime`.
    pub(crate) fn of(lifetime: Duration, random: f64) -> Self {
        Self {
            advisory: (lifetime / 4)
                .min(MAX_ADVISORY_WINDOW)
                .mul_f64(1.0 - ADVISORY_JITTER * random),
            mandatory: (lifetime / 10).min(MAX_MANDATORY_WINDOW),
        }
    }
}

/// A time by both of a clock's times. It has come when the first of both says so.
#[derive(Clone, Copy)]
pub(super) struct End {
    wall: SystemTime,
    monotonic: Instant,
}

impl End {
    fn after(now: &Now, time: Duration) -> Self {
        Self {
            wall: now.wall.checked_add(time).unwrap_or(now.wall),
            monotonic: now.monotonic.checked_add(time).unwrap_or(now.monotonic),
        }
    }

    fn earlier_by(self, time: Duration) -> Option<Self> {
        Some(Self {
            wall: self.wall.checked_sub(time)?,
            monotonic: self.monotonic.checked_sub(time)?,
        })
    }

    /// To compare is cheaper than to subtract, and each cache hit does it.
    #[inline]
    pub(super) fn is_ahead_of(&self, now: &Now) -> bool {
        now.wall < self.wall && now.monotonic < self.monotonic
    }

    fn remaining(&self, now: &Now) -> Duration {
        let by_monotonic = self.monotonic.saturating_duration_since(now.monotonic);
        until(self.wall, now.wall).min(by_monotonic)
    }
}

/// At any remaining lifetime a refresh is due.
const DUE: u64 = u64::MAX;

/// A credential with its lifetime.
pub(super) struct Entry<C> {
    end: End,
    /// In nanoseconds of remaining lifetime. At or below it, a caller must look for a refresh.
    refresh_below: AtomicU64,
    pub(super) is_cloned_under_lock: bool,
    pub(super) credential: C,
    is_rejected: AtomicBool,
    advisory_window: Duration,
    mandatory_window: Duration,
}

impl<C> Entry<C> {
    pub(super) fn new(obtained: Obtained<C>, terms: &Terms, random: f64) -> Self {
        let asked_at = terms.asked_at;
        let lifetime = match obtained.lifetime {
            Lifetime::Unknown => terms.default_lifetime,
            Lifetime::For(lifetime) => lifetime,
            Lifetime::Until(expires_at) => until(expires_at, asked_at.wall),
        }
        .min(MAX_LIFETIME);
        let kept_for = match terms.subject_expires_at {
            Some(end) => lifetime.min(until(end, asked_at.wall)),
            None => lifetime,
        };
        // Where the subject's end comes first, a refresh would gain nothing: the windows lie before the credential's.
        let cut = lifetime.saturating_sub(kept_for);
        let windows = Windows::of(lifetime, random);
        let advisory_window = windows.advisory.saturating_sub(cut);
        let mandatory_window = windows.mandatory.saturating_sub(cut);
        Self {
            end: End::after(&asked_at, kept_for),
            refresh_below: AtomicU64::new(nanoseconds(advisory_window)),
            is_cloned_under_lock: obtained.is_cloned_under_lock,
            credential: obtained.credential,
            is_rejected: AtomicBool::new(false),
            advisory_window,
            mandatory_window,
        }
    }

    /// How long the credential is still good.
    pub(super) fn remaining(&self, now: &Now) -> Duration {
        self.end.remaining(now)
    }

    /// Whether the credential is good and needs no refresh, so that it can simply be used.
    pub(super) fn is_settled(&self, now: &Now) -> bool {
        nanoseconds(self.remaining(now)) > self.refresh_below()
    }

    /// Until when it [is settled](Self::is_settled), as long as nothing changes that.
    pub(super) fn settled_until(&self) -> Option<End> {
        self.end
            .earlier_by(Duration::from_nanos(self.refresh_below()))
    }

    fn refresh_below(&self) -> u64 {
        self.refresh_below.load(Ordering::Relaxed)
    }

    pub(super) fn is_in_mandatory_window(&self, now: &Now) -> bool {
        self.remaining(now) <= self.mandatory_window
    }

    /// A refresh is running: callers need not look for one until the mandatory window.
    pub(super) fn refresh_started(&self) {
        self.set_refresh_below(self.mandatory_window);
    }

    /// The refresh brought nothing: the next one is due after `delay`, and not before the advisory window.
    pub(super) fn refresh_failed(&self, now: &Now, delay: Duration) {
        let after_delay = self.remaining(now).saturating_sub(delay);
        self.set_refresh_below(self.advisory_window.min(after_delay));
    }

    /// A backend rejected the credential, and a running refresh will replace it.
    pub(super) fn reject(&self) {
        self.is_rejected.store(true, Ordering::Relaxed);
    }

    /// A backend rejected the credential: the next caller must refresh it.
    pub(super) fn force_refresh(&self) {
        self.reject();
        self.refresh_below.store(DUE, Ordering::Relaxed);
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.is_rejected.load(Ordering::Relaxed)
    }

    /// Whether a refresh was [forced](Self::force_refresh) that nobody has started yet.
    pub(super) fn is_due(&self) -> bool {
        self.refresh_below() == DUE
    }

    fn set_refresh_below(&self, remaining: Duration) {
        self.refresh_below
            .store(nanoseconds(remaining), Ordering::Relaxed);
    }
}

fn until(end: SystemTime, now: SystemTime) -> Duration {
    end.duration_since(now).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_makes_the_advisory_window_up_to_a_fifth_shorter() {
        for (lifetime, windows) in [(400, [100, 90, 80]), (3600, [300, 270, 240])] {
            for (random, window) in [0.0, 0.5, 1.0].into_iter().zip(windows) {
                let windows = Windows::of(Duration::from_secs(lifetime), random);
                assert_eq!(windows.advisory.as_secs(), window);
            }
        }
    }
}

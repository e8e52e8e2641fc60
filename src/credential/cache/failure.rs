use std::time::{Duration, Instant};

use crate::error::{AuthError, AuthErrorKind};

use super::{
    entry::Now,
    key::CacheKey,
    store::{Leftovers, Store},
};

pub(super) const REFUSED_FOR: Duration = Duration::from_secs(10);
const MAX_BACK_OFF: Duration = Duration::from_secs(60);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The failures of each key since its last success. They are kept apart from the credentials, so that they evict none.
pub(super) struct Failures {
    by_key: Store<Failure>,
}

#[derive(Clone)]
pub(super) struct Failure {
    error: AuthError,
    until: Instant,
    in_a_row: u32,
}

impl Failures {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            by_key: Store::new(capacity),
        }
    }

    /// The error of the last fetch, while it is too early for the next one.
    pub(super) fn find(&self, key: &CacheKey, now: &Now) -> Option<AuthError> {
        let failure = self.by_key.get(key)?;
        let wait = failure.until.checked_duration_since(now.monotonic)?;
        (!wait.is_zero()).then(|| told_to_wait(failure.error, wait))
    }

    /// Records that a fetch failed. Returns the error for its callers, and how long until the next fetch.
    pub(super) fn record(
        &self,
        key: CacheKey,
        error: AuthError,
        now: &Now,
        random: f64,
        leftovers: &mut Leftovers<Failure>,
    ) -> (AuthError, Duration) {
        let (delay, in_a_row) = if error.kind() == AuthErrorKind::Unavailable {
            let in_a_row = self
                .by_key
                .get(&key)
                .map_or(0, |last| last.in_a_row)
                .saturating_add(1);
            (back_off(in_a_row, error.retry_after(), random), in_a_row)
        } else {
            (REFUSED_FOR, 0)
        };
        let error = told_to_wait(error, delay);
        let failure = Failure {
            error: error.clone(),
            until: now.monotonic.checked_add(delay).unwrap_or(now.monotonic),
            in_a_row,
        };
        self.by_key.insert(key, failure, leftovers);
        (error, delay)
    }

    pub(super) fn forget(&self, key: &CacheKey, leftovers: &mut Leftovers<Failure>) {
        self.by_key.remove(key, leftovers);
    }
}

/// Between half and all of 2 s, 4 s, 8 s and so on up to 60 s, and longer only if the issuer asked for it.
fn back_off(in_a_row: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let longest = Duration::from_secs(2_u64.saturating_pow(in_a_row)).min(MAX_BACK_OFF);
    let delay = longest.mul_f64(0.5 + 0.5 * random);
    delay.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
}

fn told_to_wait(error: AuthError, wait: Duration) -> AuthError {
    if error.kind() == AuthErrorKind::Unavailable {
        error.with_retry_after(wait)
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_jitter_makes_a_pause_up_to_a_half_shorter() {
        for (random, seconds) in [
            (0.0, [1, 2, 4, 8, 16, 30, 30]),
            (0.5, [1, 3, 6, 12, 24, 45, 45]),
            (1.0, [2, 4, 8, 16, 32, 60, 60]),
        ] {
            let pauses = (1..=7).map(|in_a_row| back_off(in_a_row, None, random).as_secs());
            assert_eq!(pauses.collect::<Vec<_>>(), seconds);
        }
    }
}

use std::{sync::Arc, time::Duration};

use crate::error::AuthError;

use super::{Inner, entry::Entry, key::CacheKey, single_flight::is_same};

/// How long it takes until the refresh of a key can be forced again.
const PAUSE: Duration = Duration::from_secs(10);

/// What becomes of a rejected credential.
pub(crate) enum Verdict {
    /// It was replaced, a refresh is running, or the next caller refreshes it.
    Replaced,
    /// A refresh was forced a short while ago.
    TooEarly,
    /// The last refresh failed with this error, and it is too early for another.
    Failed(AuthError),
}

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    pub(super) fn reject(&self, key: &CacheKey, is_rejected: impl FnOnce(&C) -> bool) -> Verdict {
        let now = self.now();
        let rejected = self.held(key, &now);
        if let Some(entry) = &rejected
            && !is_rejected(&entry.credential)
        {
            return Verdict::Replaced;
        }
        let mut leftovers = Vec::new();
        let stored;
        let flights = self.single_flight.lock(key);
        stored = self.entries.peek(key);
        let is_good = |entry: &&Arc<Entry<C>>| !entry.remaining(&now).is_zero();
        let current = stored.as_ref().filter(is_good);
        if current.is_some() && !is_same(current, rejected.as_ref()) {
            return Verdict::Replaced;
        }
        let is_due = current.is_some_and(|entry| entry.is_due());
        let is_running = flights.contains_key(key);
        let was_forced = self.forced.peek(key).is_some_and(|last| {
            let passed = now.monotonic.saturating_duration_since(last);
            passed < PAUSE
        });
        let verdict = if is_due {
            Verdict::Replaced
        } else if is_running {
            if let Some(entry) = current {
                entry.reject();
            }
            Verdict::Replaced
        } else if let Some(error) = self.failures.find(key, &now) {
            Verdict::Failed(error)
        } else if was_forced {
            Verdict::TooEarly
        } else {
            self.forced.insert(*key, now.monotonic, &mut leftovers);
            if let Some(entry) = current {
                entry.force_refresh();
            }
            drop(flights);
            tracing::debug!("a credential was rejected: the next caller refreshes it");
            return Verdict::Replaced;
        };
        verdict
    }
}

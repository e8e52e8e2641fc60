use std::{sync::Arc, time::Duration};

use super::{Inner, entry::Entry, key::CacheKey, single_flight::is_same};

/// How long it takes until the refresh of a key can be forced again.
const PAUSE: Duration = Duration::from_secs(10);

impl<C: Clone + Send + Sync + 'static> Inner<C> {
    /// Whether another credential was, is being, or can be obtained. `may_force` runs under a lock.
    pub(super) fn reject(
        &self,
        key: &CacheKey,
        is_rejected: impl FnOnce(&C) -> bool,
        may_force: impl FnOnce() -> bool,
    ) -> bool {
        let now = self.now();
        let rejected = self.held(key, &now);
        if let Some(entry) = &rejected
            && !is_rejected(&entry.credential)
        {
            return true;
        }
        let mut leftovers = Vec::new();
        let stored;
        let fetches = self.single_flight.lock(key);
        stored = self.entries.find(key);
        let is_good = |entry: &&Arc<Entry<C>>| !entry.remaining(&now).is_zero();
        let current = stored.as_ref().filter(is_good);
        let is_replaced = current.is_some() && !is_same(current, rejected.as_ref());
        if is_replaced || current.is_some_and(|entry| entry.is_due()) {
            return true;
        }
        if fetches.contains_key(key) {
            if let Some(entry) = current {
                entry.reject();
            }
            return true;
        }
        let was_forced = self.forced.peek(key).is_some_and(|last| {
            let passed = now.monotonic.saturating_duration_since(last);
            passed < PAUSE
        });
        if was_forced || self.failures.find(key, &now).is_some() || !may_force() {
            return false;
        }
        self.forced.insert(*key, now.monotonic, &mut leftovers);
        if let Some(entry) = current {
            entry.force_refresh();
            self.entries.changed(key, entry);
        }
        drop(fetches);
        tracing::debug!("a credential was rejected: the next caller refreshes it");
        true
    }
}

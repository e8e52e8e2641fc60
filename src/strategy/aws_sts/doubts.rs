use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use quick_cache::unsync;

use crate::{credential::cache::key::CacheKey, runtime::Mutex};

const INTERVAL: Duration = Duration::from_secs(60);
const CAPACITY: usize = 4_096;

/// When sessions were last replaced because of an answer that does not say whether it is the session.
pub(super) struct Doubts {
    last: Mutex<unsync::Cache<CacheKey, Instant>>,
}

impl Doubts {
    /// Whether the session may be replaced now. If so, it may not be again for a minute.
    pub(super) fn may_replace(&self, key: CacheKey, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = last
            .get(&key)
            .is_some_and(|last| now.saturating_duration_since(*last) < INTERVAL);
        if !waits {
            last.insert(key, now);
        }
        !waits
    }
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            last: Mutex::new(unsync::Cache::new(CAPACITY)),
        }
    }
}

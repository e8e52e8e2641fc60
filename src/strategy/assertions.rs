use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    clock::Clock,
    credential::cache::{key::CacheKey, store::Store},
    secret::Secret,
};

const CAPACITY: usize = 16_384;

/// The assertions of users, each kept until its own end. An assertion is not renewed before, because it is only needed
/// again when the token that it was exchanged for ends.
pub(super) struct Assertions {
    kept: Store<Arc<Kept>>,
    clock: Arc<dyn Clock>,
}

struct Kept {
    assertion: Secret,
    expires_at: SystemTime,
    deadline: Instant,
}

impl Assertions {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            kept: Store::new(CAPACITY),
            clock,
        }
    }

    /// Returns the assertion, unless it has expired.
    pub(super) fn find(&self, key: &CacheKey) -> Option<Secret> {
        let kept = self.kept.get(key)?;
        let is_good = self.clock.now() < kept.expires_at && self.clock.monotonic() < kept.deadline;
        is_good.then(|| kept.assertion.clone())
    }

    pub(super) fn keep(&self, key: CacheKey, assertion: Secret, expires_at: SystemTime) {
        let lifetime = expires_at.duration_since(self.clock.now());
        let monotonic = self.clock.monotonic();
        let Some(deadline) = monotonic.checked_add(lifetime.unwrap_or_default()) else {
            return;
        };
        let kept = Kept {
            assertion,
            expires_at,
            deadline,
        };
        self.kept.insert(key, Arc::new(kept), &mut Vec::new());
    }

    pub(super) fn forget(&self, key: &CacheKey) {
        self.kept.remove(key, &mut Vec::new());
    }
}

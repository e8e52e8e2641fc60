use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use quick_cache::sync::Cache;

use crate::{
    clock::Clock,
    identity::Identity,
    secret::{AccessToken, Fingerprint},
};

/// What became of a token that is good.
#[derive(Clone)]
pub(super) struct Validated {
    pub(super) identity: Identity,
    /// The token session whose upstream tokens are the user's: the `tsid` claim.
    pub(super) session: Option<Arc<str>>,
}

/// The tokens that were good, until they expire. It holds no token as a key, but its fingerprint.
pub(super) struct Remembered {
    tokens: Cache<Fingerprint, Entry>,
}

#[derive(Clone)]
struct Entry {
    validated: Validated,
    expires_at: SystemTime,
    deadline: Instant,
}

impl Remembered {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            tokens: Cache::new(capacity),
        }
    }

    pub(super) fn find(&self, token: &str, clock: &dyn Clock) -> Option<Validated> {
        let fingerprint = Fingerprint::of_access_token(token);
        let entry = self.tokens.get(&fingerprint)?;
        if clock.now() < entry.expires_at && clock.monotonic() < entry.deadline {
            return Some(entry.validated);
        }
        self.tokens.remove(&fingerprint);
        None
    }

    pub(super) fn keep(&self, validated: &Validated, expires_at: SystemTime, clock: &dyn Clock) {
        let Some(fingerprint) = validated.identity.token().map(AccessToken::fingerprint) else {
            return;
        };
        if let Ok(remaining) = expires_at.duration_since(clock.now())
            && let Some(deadline) = clock.monotonic().checked_add(remaining)
        {
            let entry = Entry {
                validated: validated.clone(),
                expires_at,
                deadline,
            };
            self.tokens.insert(fingerprint, entry);
        }
    }
}

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Instant, SystemTime},
};

use quick_cache::sync::Cache;

use crate::{clock::Clock, identity::Identity, secret::AccessToken, upstream::TokenOwner};

use super::bindings::Bindings;

/// The outcome for a valid token, whoever presents it.
#[derive(Clone)]
pub(super) struct Validated {
    pub(super) identity: Identity,
    /// The proofs that the caller must give.
    pub(super) bindings: Option<Arc<Bindings>>,
    /// The owner of the upstream tokens that the request gets, if any.
    pub(super) owner: Option<TokenOwner>,
}

/// Valid tokens, until they expire.
pub(super) struct ValidatedTokens {
    tokens: Cache<Token, Entry>,
}

/// It is found by a hash whose key is random, so that nobody can choose which tokens are compared.
struct Token(AccessToken);

impl Borrow<[u8]> for Token {
    fn borrow(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.bytes().hash(state);
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes() == other.0.bytes()
    }
}

impl Eq for Token {}

#[derive(Clone)]
struct Entry {
    validated: Validated,
    expires_at: SystemTime,
    deadline: Instant,
}

impl ValidatedTokens {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            tokens: Cache::new(capacity),
        }
    }

    pub(super) fn find(&self, token: &[u8], clock: &dyn Clock) -> Option<Validated> {
        let entry = self.tokens.get(token)?;
        if clock.now() < entry.expires_at && clock.monotonic() < entry.deadline {
            return Some(entry.validated);
        }
        self.tokens.remove(token);
        None
    }

    pub(super) fn keep(&self, validated: &Validated, expires_at: SystemTime, clock: &dyn Clock) {
        let Some(token) = validated.identity.token().cloned() else {
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
            self.tokens.insert(Token(token), entry);
        }
    }
}

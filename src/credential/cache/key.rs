use std::fmt;

use sha2::{Digest, Sha256};

use crate::secret::Fingerprint;

/// Whose configuration obtained a credential: the SHA-256 of a strategy's name and of each of its settings.
///
/// Make it once, when the strategy is built, of **everything** that is configured: two strategies that share a cache
/// and differ in one field (F7) must differ here. Each name and value is hashed with its length, so that no two lists
/// of fields run into each other. A list is one field for each element, an absent option is no field.
///
/// ```
/// use tower_identity::credential::cache::CacheScope;
///
/// let scope = CacheScope::new("token-exchange")
///     .field("endpoint", "https://idp.example.com/token")
///     .field("audience", "mcp-backend")
///     .field("scope", "tools:read");
/// assert_ne!(scope, scope.field("resource", "https://mcp.example.com"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheScope([u8; 32]);

impl CacheScope {
    /// The scope of a strategy with this name and no settings yet.
    pub fn new(strategy: &str) -> Self {
        Self([0; 32]).field("strategy", strategy)
    }

    /// The scope with one more setting, which may be a secret: what is kept is a hash. The order counts.
    #[must_use]
    pub fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        for part in [name.as_bytes(), value.as_ref()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The key of what is obtained on behalf of the user whose token this is.
    pub fn key(self, subject: Fingerprint) -> CacheKey {
        CacheKey {
            scope: self,
            party: Party::Subject(subject),
        }
    }

    /// The key of what is obtained on behalf of a user by an actor (RFC 8693 §1.1, delegation).
    pub fn key_with_actor(self, subject: Fingerprint, actor: Fingerprint) -> CacheKey {
        CacheKey {
            scope: self,
            party: Party::SubjectAndActor(subject, actor),
        }
    }

    /// The key of what a client obtains for itself (RFC 6749 §4.4), on behalf of no user.
    ///
    /// # Security
    ///
    /// All users share what is kept under it. It is not for a user whose token is missing.
    pub fn key_for_client(self) -> CacheKey {
        CacheKey {
            scope: self,
            party: Party::Client,
        }
    }
}

impl fmt::Debug for CacheScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheScope([redacted])")
    }
}

/// Under what a credential is kept: the strategy's [`CacheScope`], the user's token and the actor's.
///
/// It is made by the scope, of fingerprints that were made with the tokens: a look-up hashes no token and allocates
/// nothing. Without a subject token there is no key for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    scope: CacheScope,
    party: Party,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Party {
    Client,
    Subject(Fingerprint),
    SubjectAndActor(Fingerprint, Fingerprint),
}

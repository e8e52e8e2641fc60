use std::hash::{Hash, Hasher};

use crate::secret::Fingerprint;

/// The part of a cache key that stands for a strategy's configuration: a SHA-256 over
/// its name and all its settings.
///
/// Needs the feature `token-exchange`.
///
/// Create it once, when the strategy is built, from **every** setting. Two strategies
/// that share a cache and differ in one setting must have different scopes. Names and
/// values are hashed with their lengths, so that adjacent settings cannot run into
/// each other. Add one field for each element of a list, and none for an option that
/// is not set.
///
/// ```
/// use tower_identity::credential::CacheScope;
///
/// let scope = CacheScope::new("token-exchange")
///     .field("endpoint", "https://idp.example.com/token")
///     .field("audience", "mcp-backend")
///     .field("scope", "tools:read");
/// assert_ne!(scope, scope.field("resource", "https://mcp.example.com"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheScope(Fingerprint);

impl CacheScope {
    /// The scope of the strategy `strategy`, without settings.
    pub fn new(strategy: &str) -> Self {
        Self(Fingerprint::of([
            b"strategy".as_slice(),
            strategy.as_bytes(),
        ]))
    }

    /// Adds a setting. The value may be a secret, because only its hash is kept. The order of settings matters.
    #[must_use]
    pub fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let Self(Fingerprint(so_far)) = self;
        Self(Fingerprint::of([
            so_far.as_slice(),
            name.as_bytes(),
            value.as_ref(),
        ]))
    }

    /// The key for a credential that is obtained for the user with the token `subject`.
    pub fn key(self, subject: Fingerprint) -> CacheKey {
        CacheKey::new(self, subject)
    }

    /// The key for a credential that is obtained for the user with the token `subject`, on whose behalf the party with
    /// the token `actor` acts (delegation, RFC 8693 §1.1).
    pub fn key_with_actor(self, subject: Fingerprint, actor: Fingerprint) -> CacheKey {
        CacheKey::new(
            self,
            Fingerprint::of([b"subject and actor".as_slice(), &subject.0, &actor.0]),
        )
    }

    /// The key for a credential that a client obtains for itself (RFC 6749 §4.4).
    ///
    /// # Security
    ///
    /// All users share this credential. Do not use the key for a user whose token is missing.
    pub fn key_for_client(self) -> CacheKey {
        CacheKey::new(self, Fingerprint::of([b"client".as_slice()]))
    }
}

/// The cache key for a credential: a [`CacheScope`], and the tokens of the user and of
/// the actor.
///
/// Needs the feature `token-exchange`.
///
/// The tokens are in it as fingerprints, which were computed with the tokens: looking
/// up a key neither hashes a token nor allocates. There is no key for a user without
/// the user's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKey(Fingerprint);

impl CacheKey {
    /// Both are SHA-256 hashes of different kinds of text. That two different pairs have one sum is as improbable as that
    /// two texts have one hash.
    fn new(CacheScope(scope): CacheScope, party: Fingerprint) -> Self {
        let mut sum = scope.0;
        for (sum, party) in sum.iter_mut().zip(party.0) {
            *sum ^= party;
        }
        Self(Fingerprint(sum))
    }

    /// A number below `bound`, the same each time.
    pub(super) fn index(&self, bound: usize) -> usize {
        let Self(Fingerprint([first, ..])) = self;
        usize::from(*first) % bound
    }
}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self(Fingerprint([a, b, c, d, e, f, g, h, ..])) = *self;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

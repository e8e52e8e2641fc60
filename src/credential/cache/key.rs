use crate::secret::Fingerprint;

/// Whose configuration obtained a credential: the SHA-256 of a strategy's name and of each of its settings.
///
/// Make it once, when the strategy is built, of **everything** that is configured: two strategies that share a cache
/// and differ in one field must differ here. Each name and value is hashed with its length, so that no two lists
/// of fields run into each other. A list is one field for each element, an absent option is no field.
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
    /// The scope of a strategy with this name and no settings yet.
    pub fn new(strategy: &str) -> Self {
        Self(Fingerprint::of([
            b"strategy".as_slice(),
            strategy.as_bytes(),
        ]))
    }

    /// The scope with one more setting, which may be a secret: what is kept is a hash. The order counts.
    #[must_use]
    pub fn field(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let Self(Fingerprint(so_far)) = self;
        Self(Fingerprint::of([
            so_far.as_slice(),
            name.as_bytes(),
            value.as_ref(),
        ]))
    }

    /// The key of what is obtained on behalf of the user whose token this is.
    pub fn key(self, subject: Fingerprint) -> CacheKey {
        CacheKey {
            scope: self,
            party: subject,
        }
    }

    /// The key of what is obtained on behalf of a user by an actor (RFC 8693 §1.1, delegation).
    pub fn key_with_actor(self, subject: Fingerprint, actor: Fingerprint) -> CacheKey {
        CacheKey {
            scope: self,
            party: Fingerprint::of([b"subject and actor".as_slice(), &subject.0, &actor.0]),
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
            party: Fingerprint::of([b"client".as_slice()]),
        }
    }
}

/// Under what a credential is kept: the strategy's [`CacheScope`], the user's token and the actor's.
///
/// It is made by the scope, of fingerprints that were made with the tokens: a look-up hashes no token and allocates
/// nothing. Without a subject token there is no key for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    scope: CacheScope,
    party: Fingerprint,
}

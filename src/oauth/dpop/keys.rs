use std::{fmt, sync::Arc};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    encoding::{AsBigEndian, EcPrivateKeyBin},
    hkdf,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use quick_cache::sync::Cache;
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    identity::Identity,
    secret::{Fingerprint, Secret},
};

use super::{key::DpopKey, key_pair::KeyPair};

const SHORTEST_SECRET: usize = 32;
/// So many derived keys are kept. Deriving another one again takes less than a millisecond.
const KEPT: usize = 10_000;

/// The keys that tokens are bound to: one [`DpopKey`] for all users, or a key for each user.
///
/// Needs the feature `dpop`.
///
/// [`TokenEndpointBuilder::dpop`](crate::oauth::TokenEndpointBuilder::dpop) takes it, or one key.
///
/// ```
/// use tower_identity::{
///     Secret,
///     oauth::{DpopKey, DpopKeys},
/// };
///
/// // One key for all users of this process:
/// let keys = DpopKeys::from(DpopKey::generate()?);
///
/// // A key for each user, the same on each replica that has the secret:
/// # let secret = Secret::new("q3t6w9z$C&F)J@NcRfUjXn2r5u7x!A%D").unwrap();
/// let keys = DpopKeys::per_user(&secret)?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # One key or many
///
/// | | one key | a key for each user |
/// | --- | --- | --- |
/// | a token of one user is sent with the proof of another | the server cannot tell | the server refuses it |
/// | servers that compare their logs | know the gateway | know the user, by the thumbprint |
/// | several replicas that share tokens | share the PEM or the signer | share the secret |
/// | the key is replaced | with the PEM | with the secret, for all users |
///
/// Either way, whoever controls the process can use all keys. When a key is replaced, the tokens that are bound to it are
/// of no use any more, and the users of bound refresh tokens must log in again.
#[derive(Clone)]
pub struct DpopKeys {
    source: Source,
}

#[derive(Clone)]
enum Source {
    One(DpopKey),
    PerUser {
        secret: Secret,
        settings: Settings,
        kept: Arc<Cache<Fingerprint, DpopKey>>,
    },
}

/// Applied to each key that is derived.
type Settings = Arc<dyn Fn(DpopKey) -> DpopKey + Send + Sync>;

impl DpopKeys {
    /// Derives a key for ES256 for each user, from `secret` and the user's issuer and subject (HKDF with SHA-256, RFC
    /// 5869). Each replica with the secret has the same keys, also after a restart. They are not stored.
    ///
    /// Tokens that belong to no user, for example those of [`ClientCredentials`](crate::ClientCredentials), have a separate
    /// key.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `secret` has fewer than 32 characters. It must be random, for example from
    /// `openssl rand -base64 32`.
    pub fn per_user(secret: &Secret) -> Result<Self, BuildError> {
        let mut faults = Faults::new("DpopKeys");
        if secret.expose().len() < SHORTEST_SECRET {
            faults.add(
                "secret",
                "has fewer than 32 characters, make one with `openssl rand -base64 32`",
            );
        }
        faults.check()?;
        Ok(Self {
            source: Source::PerUser {
                secret: secret.clone(),
                settings: Arc::new(|key| key),
                kept: Arc::new(Cache::new(KEPT)),
            },
        })
    }

    /// Sets the clock that proofs are dated with, see [`DpopKey::clock`].
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        self.each(move |key| key.clock(Arc::clone(&clock)))
    }

    /// Sets the source of the `jti` of each proof, see [`DpopKey::random`].
    #[must_use]
    pub fn random<F>(self, random: F) -> Self
    where
        F: Fn() -> Result<[u8; 16], BoxError> + Send + Sync + 'static,
    {
        let random = Arc::new(random);
        self.each(move |key| {
            let random = Arc::clone(&random);
            key.random(move || random())
        })
    }

    /// Returns the key of the user with the issuer and the subject of `identity`. `None` asks for the key of tokens that
    /// belong to no user.
    ///
    /// # Errors
    ///
    /// Returns [`Configuration`](AuthErrorKind::Configuration) if the key cannot be derived. The cryptographic library is
    /// not known to fail here.
    pub fn key(&self, identity: Option<&Identity>) -> Result<DpopKey, AuthError> {
        match identity {
            Some(identity) => self.key_of_user(identity.issuer(), identity.subject()),
            None => self.derived([b"client", b"", b""]),
        }
    }

    pub(crate) fn key_of_user(
        &self,
        issuer: Option<&str>,
        subject: &str,
    ) -> Result<DpopKey, AuthError> {
        let issuer = issuer.unwrap_or_default();
        self.derived([b"user", issuer.as_bytes(), subject.as_bytes()])
    }

    /// Finds the key with this thumbprint: that of the user, or of a login that began before it was known who the user is.
    pub(crate) fn find(
        &self,
        issuer: Option<&str>,
        subject: &str,
        thumbprint: &str,
    ) -> Result<Option<DpopKey>, AuthError> {
        let key = self.key_of_user(issuer, subject)?;
        if key.thumbprint() == thumbprint {
            return Ok(Some(key));
        }
        let key = self.key(None)?;
        Ok((key.thumbprint() == thumbprint).then_some(key))
    }

    #[cfg(feature = "linking")]
    pub(crate) fn algorithm(&self) -> crate::oauth::signing::SigningAlgorithm {
        match &self.source {
            Source::One(key) => key.algorithm(),
            Source::PerUser { .. } => crate::oauth::signing::SigningAlgorithm::Es256,
        }
    }

    /// Whether each user has another key, so that it belongs to the cache key of their tokens.
    pub(crate) fn are_per_user(&self) -> bool {
        matches!(self.source, Source::PerUser { .. })
    }

    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        match &self.source {
            Source::One(key) => key.describe(scope),
            Source::PerUser { secret, .. } => scope.field("dpop secret", secret.expose()),
        }
    }

    fn each(self, set: impl Fn(DpopKey) -> DpopKey + Send + Sync + 'static) -> Self {
        let source = match self.source {
            Source::One(key) => Source::One(set(key)),
            Source::PerUser {
                secret, settings, ..
            } => Source::PerUser {
                secret,
                settings: Arc::new(move |key| set(settings(key))),
                kept: Arc::new(Cache::new(KEPT)),
            },
        };
        Self { source }
    }

    fn derived(&self, holder: [&[u8]; 3]) -> Result<DpopKey, AuthError> {
        let (secret, settings, kept) = match &self.source {
            Source::One(key) => return Ok(key.clone()),
            Source::PerUser {
                secret,
                settings,
                kept,
            } => (secret, settings, kept),
        };
        let holder = Fingerprint::of(holder);
        if let Some(key) = kept.get(&holder) {
            return Ok(key);
        }
        let pair = derive(secret, &holder).ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "the DPoP key of a user could not be derived from the secret",
            )
        })?;
        let key = settings(DpopKey::of_pair(pair));
        kept.insert(holder, key.clone());
        Ok(key)
    }
}

impl From<DpopKey> for DpopKeys {
    fn from(key: DpopKey) -> Self {
        Self {
            source: Source::One(key),
        }
    }
}

impl fmt::Debug for DpopKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::One(key) => f.debug_tuple("DpopKeys").field(key).finish(),
            Source::PerUser { .. } => f.write_str("DpopKeys(per user)"),
        }
    }
}

/// Derives the key pair of one holder.
fn derive(secret: &Secret, Fingerprint(holder): &Fingerprint) -> Option<KeyPair> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tower-identity DPoP key");
    let pseudorandom_key = salt.extract(secret.expose().as_bytes());
    // One in 2^32 numbers of 256 bits is not a private key on P-256: then the next one is taken.
    (0..=u8::MAX).find_map(|attempt| {
        let mut scalar = Zeroizing::new([0; 32]);
        let info = [&holder[..], &[attempt]];
        let expanded = pseudorandom_key.expand(&info, hkdf::HKDF_SHA256).ok()?;
        expanded.fill(&mut *scalar).ok()?;
        let key = PrivateKey::from_private_key(&ECDH_P256, &*scalar).ok()?;
        let scalar: EcPrivateKeyBin<'_> = key.as_be_bytes().ok()?;
        let public = key.compute_public_key().ok()?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar.as_ref(),
            public.as_ref(),
        );
        KeyPair::p256(pair.ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_many_users_do_not_fill_the_memory() {
        let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
        let keys = DpopKeys::per_user(&secret).unwrap();
        let Source::PerUser { kept, .. } = &keys.source else {
            panic!("there is one key for all");
        };
        let alice = keys.key_of_user(None, "alice").unwrap();
        let weight = kept.capacity();
        // Any key will do to fill it.
        for user in 0..2 * KEPT {
            let user = Fingerprint::of([&user.to_be_bytes()[..]]);
            kept.insert(user, alice.clone());
        }
        assert_eq!(weight, KEPT as u64);
        assert!(kept.len() <= KEPT);
        let again = keys.key_of_user(None, "alice").unwrap();
        assert_eq!(again.thumbprint(), alice.thumbprint());
    }
}

use std::{fmt, sync::Arc};

use http::HeaderValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tower::BoxError;

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::key::CacheScope,
    dpop::bound_token,
    error::{BuildError, Faults},
    oauth::{
        private_key_jwt::{Random, operating_system},
        signing::{JwtSigner, Signer, SigningAlgorithm, SigningKey},
    },
    secret::Secret,
};

use super::{
    key_pair::{KeyPair, generated},
    proof_key::{ProofKey, Unfit},
};

/// A key that tokens are bound to (DPoP, RFC 9449). A stolen token is of no use without the key.
///
/// Needs the feature `dpop`.
///
/// Give it to a [`TokenEndpoint`](crate::TokenEndpoint). The tokens of its strategies are then bound to the key, and
/// [`AuthLayer`](crate::AuthLayer) sends each request with a fresh proof that it has the key. For a key for each user see
/// [`DpopKeys`](crate::oauth::DpopKeys). A clone shares the key.
///
/// ```
/// use tower_identity::oauth::DpopKey;
///
/// let key = DpopKey::generate()?;
/// // This names the key to others, for example in the claim `cnf.jkt` of a token.
/// assert_eq!(key.thumbprint().len(), 43);
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # Security
///
/// The private key is never shown and never stored. The cryptographic library (aws-lc) keeps it, and wipes its memory
/// when the last clone is dropped. A [generated](Self::generate) key ends with the process, and tokens
/// that are bound to it, refresh tokens included, are of no use afterwards. Replicas that share tokens must therefore
/// share the key, [read from a PEM](Self::from_pem) or [signed elsewhere](Self::with_signer). A shared key is the better
/// target: whoever gets it can use stolen tokens of all replicas.
#[derive(Clone)]
pub struct DpopKey {
    inner: Arc<Inner>,
}

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) pair: Arc<KeyPair>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<Random>,
    hashed: Option<Hashed>,
}

/// A token whose hash is known: the value of `Authorization`, and the SHA-256 of what stands after its scheme.
#[derive(Clone)]
struct Hashed {
    authorization: HeaderValue,
    hash: [u8; 32],
}

impl DpopKey {
    /// Generates a key for ES256. It ends with the process.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if the operating system has no random numbers.
    pub fn generate() -> Result<Self, BuildError> {
        let pair = generated().ok_or_else(|| {
            fault(
                "random",
                "has no random numbers to make a key of, the operating system has none",
            )
        })?;
        Ok(Self::of_pair(pair))
    }

    /// Reads the private key in `pem` (PKCS#8, or PKCS#1 for RSA with 2,048 to 4,096 bits).
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `pem` has no private key that can sign with the algorithm.
    pub fn from_pem(algorithm: SigningAlgorithm, pem: &Secret) -> Result<Self, BuildError> {
        let mut faults = Faults::new("DpopKey");
        let key = faults.take("pem", SigningKey::read(algorithm, pem));
        let pair = key.as_ref().map(KeyPair::local);
        let pair = pair.and_then(|pair| faults.take("pem", pair.ok_or(UNUSABLE)));
        Ok(Self::of_pair(faults.or(pair)?))
    }

    /// Uses a private key that is not in this process. `public_jwk` is its public part (a JWK, RFC 7517), for example
    /// `{"kty":"EC","crv":"P-256","x":"…","y":"…"}`. An RSA key has 2,048 to 4,096 bits. `alg` and `use` must fit if
    /// they are there, and other members are ignored.
    ///
    /// Each proof then waits for the signer, see [`JwtSigner`]. A signature that does not fit the public key is
    /// [`Configuration`](crate::AuthErrorKind::Configuration): the signer has another key.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `public_jwk` is not a JWK for the algorithm, or has a private part.
    pub fn with_signer<S>(
        algorithm: SigningAlgorithm,
        signer: S,
        public_jwk: &str,
    ) -> Result<Self, BuildError>
    where
        S: JwtSigner + 'static,
    {
        let public =
            public_key(algorithm, public_jwk).map_err(|message| fault("public_jwk", message))?;
        let key = SigningKey::elsewhere(algorithm, Signer::new(Arc::new(signer)));
        Ok(Self::of_pair(KeyPair::elsewhere(key, public)))
    }

    /// Returns the thumbprint of the public key (`jkt`, RFC 7638 with SHA-256, in base64url): 43 characters.
    pub fn thumbprint(&self) -> &str {
        self.inner.pair.thumbprint()
    }

    /// Sets the clock that proofs are dated with. The default is the [default clock](crate::DefaultClock) of the thread.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        Arc::make_mut(&mut self.inner).clock = clock;
        self
    }

    /// Sets the source of the `jti` of each proof. The default is the operating system's random source.
    ///
    /// # Security
    ///
    /// No two calls may return the same bytes, in this process or another. Otherwise the server treats a proof as a
    /// replay.
    #[must_use]
    pub fn random<F>(mut self, random: F) -> Self
    where
        F: Fn() -> Result<[u8; 16], BoxError> + Send + Sync + 'static,
    {
        Arc::make_mut(&mut self.inner).random = Arc::new(random);
        self
    }

    pub(super) fn of_pair(pair: KeyPair) -> Self {
        Self {
            inner: Arc::new(Inner {
                pair: Arc::new(pair),
                clock: DefaultClock::get(),
                random: Arc::new(operating_system),
                hashed: None,
            }),
        }
    }

    /// Returns the same key, which knows the hash of this token (`DPoP …`), so that no proof computes it again.
    pub(crate) fn beside_token(&self, authorization: &HeaderValue) -> Self {
        let mut inner = Inner::clone(&self.inner);
        inner.hashed = bound_token(authorization).map(|token| Hashed {
            authorization: authorization.clone(),
            hash: Sha256::digest(token).into(),
        });
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    #[cfg(feature = "linking")]
    pub(super) fn algorithm(&self) -> SigningAlgorithm {
        self.inner.pair.algorithm()
    }

    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        scope.field("dpop key", self.thumbprint())
    }
}

impl Inner {
    /// Returns the SHA-256 of the token.
    pub(super) fn hash_of(&self, token: &[u8]) -> [u8; 32] {
        match &self.hashed {
            Some(hashed) if bound_token(&hashed.authorization) == Some(token) => hashed.hash,
            _ => Sha256::digest(token).into(),
        }
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopKey")
            .field("algorithm", &self.inner.pair.algorithm())
            .field("thumbprint", &self.thumbprint())
            .finish_non_exhaustive()
    }
}

fn public_key(algorithm: SigningAlgorithm, jwk: &str) -> Result<ProofKey, &'static str> {
    let jwk: Map<String, Value> =
        serde_json::from_str(jwk).map_err(|_| "is not a JWK, give its members as a JSON object")?;
    ProofKey::read(algorithm, &jwk).map_err(|unfit| match unfit {
        Unfit::HasPrivatePart => "has a private part, give the public one alone",
        Unfit::Other => {
            "is not a public key of the algorithm, check `kty`, `crv`, `alg`, `use` and the coordinates"
        }
    })
}

const UNUSABLE: &str =
    "has a key that servers refuse in proofs: one for RSA has 2,048 to 4,096 bits";

#[cold]
fn fault(setting: &'static str, message: &'static str) -> BuildError {
    BuildError::of("DpopKey", setting, message)
}

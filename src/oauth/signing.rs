use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::aws_lc};
use serde_json::{Map, Value};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind},
    runtime::{Unfinished, bounded},
    secret::Secret,
};

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// A private key that is not in this process, for example in a KMS or an HSM.
///
/// Needs the feature `private-key-jwt`.
///
/// ```
/// use tower_identity::oauth::{
///     JwtSigner, PrivateKeyJwt, SigningAlgorithm, SigningFuture,
/// };
///
/// # struct KmsClient;
/// # impl KmsClient {
/// #     async fn sign(&self, _: &str, _: &[u8]) -> std::io::Result<Vec<u8>> {
/// #         Ok(vec![0; 256])
/// #     }
/// # }
/// struct Kms {
///     client: KmsClient,
///     key: String,
/// }
///
/// impl JwtSigner for Kms {
///     fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
///         Box::pin(async move { Ok(self.client.sign(&self.key, message).await?) })
///     }
/// }
///
/// # let client = KmsClient;
/// let kms = Kms { client, key: "alias/gateway".to_owned() };
/// let key = PrivateKeyJwt::with_signer(SigningAlgorithm::Ps256, kms)
///     .key_id("2026-01")
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// A call runs in a separate task and has at most 10 s. An error, a panic or a late answer is
/// [`Unavailable`](AuthErrorKind::Unavailable). A signature with the wrong length is
/// [`Configuration`](AuthErrorKind::Configuration), because the signer then uses another algorithm.
pub trait JwtSigner: Send + Sync {
    /// Signs `message` with the algorithm that was set, and returns the signature as JWS has it (RFC 7518 §3).
    ///
    /// With ECDSA this is `R || S`, for example 64 bytes for ES256. Many services return the DER form instead, which must
    /// be converted.
    ///
    /// # Errors
    ///
    /// Any error becomes the source of the [`AuthError`].
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a>;
}

/// The future of [`JwtSigner::sign`].
///
/// Needs the feature `private-key-jwt`.
///
/// [`JwtSigner`](crate::oauth::JwtSigner) has an example.
pub type SigningFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, BoxError>> + Send + 'a>>;

/// The algorithm that a JWT is signed with (RFC 7518 §3.1, RFC 8037 §3.1).
///
/// Needs the feature `private-key-jwt`.
///
/// [`PrivateKeyJwt`](crate::oauth::PrivateKeyJwt) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl SigningAlgorithm {
    #[cfg(any(feature = "config", all(feature = "dpop", feature = "testing")))]
    pub(crate) const ALL: [Self; 5] = [
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
        Self::Rs256,
        Self::Ps256,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn of_jsonwebtoken(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Ps256 => Algorithm::PS256,
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }

    /// Returns `true` if a signature can have this length.
    fn can_have_length(self, length: usize) -> bool {
        match self {
            // Of keys with 2048 to 8192 bits.
            Self::Rs256 | Self::Ps256 => (256..=1024).contains(&length),
            Self::Es256 | Self::EdDsa => length == 64,
            Self::Es384 => length == 96,
        }
    }
}

/// A private key with its algorithm, here or elsewhere.
#[derive(Clone)]
pub(crate) struct SigningKey {
    algorithm: SigningAlgorithm,
    key: Key,
}

#[derive(Clone)]
enum Key {
    Local(EncodingKey),
    Elsewhere(Signer),
}

/// A signer with a number that no other has.
#[derive(Clone)]
pub(crate) struct Signer {
    id: u64,
    signer: Arc<dyn JwtSigner>,
}

impl Signer {
    pub(crate) fn new(signer: Arc<dyn JwtSigner>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            signer,
        }
    }
}

impl SigningKey {
    /// Reads the key, and signs once with it to check that it can. The error is a sentence whose subject is the PEM.
    pub(crate) fn read(algorithm: SigningAlgorithm, pem: &Secret) -> Result<Self, String> {
        let pem = pem.expose().as_bytes();
        let key = match algorithm {
            SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => EncodingKey::from_rsa_pem(pem),
            SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => EncodingKey::from_ec_pem(pem),
            SigningAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem),
        };
        let key = key
            .ok()
            .filter(|key| sign(algorithm, key, b"").is_some())
            .ok_or_else(|| unusable(algorithm))?;
        Ok(Self {
            algorithm,
            key: Key::Local(key),
        })
    }

    pub(crate) fn elsewhere(algorithm: SigningAlgorithm, signer: Signer) -> Self {
        Self {
            algorithm,
            key: Key::Elsewhere(signer),
        }
    }

    pub(crate) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The key, if it is in this process.
    pub(crate) fn local(&self) -> Option<&EncodingKey> {
        match &self.key {
            Key::Local(key) => Some(key),
            Key::Elsewhere(_) => None,
        }
    }

    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        let scope = scope.field("algorithm", self.algorithm.name());
        match &self.key {
            Key::Local(key) => scope.field("key", key.as_bytes()),
            Key::Elsewhere(signer) => scope.field("signer", signer.id.to_be_bytes()),
        }
    }

    /// Signs a JWT with these claims. `alg` is added to the header.
    pub(crate) async fn sign_jwt(
        &self,
        mut header: Map<String, Value>,
        claims: Map<String, Value>,
    ) -> Result<Zeroizing<String>, AuthError> {
        header.insert("alg".to_owned(), self.algorithm.name().into());
        let encode =
            |part: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(&message).await?;
        Ok(Zeroizing::new(format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        )))
    }

    /// Signs a message, as JWS has it.
    pub(crate) async fn sign(&self, message: &str) -> Result<Vec<u8>, AuthError> {
        match &self.key {
            Key::Local(key) => sign(self.algorithm, key, message.as_bytes()).ok_or_else(|| {
                AuthError::new(
                    AuthErrorKind::Configuration,
                    "a JWT could not be signed with the private key",
                )
            }),
            Key::Elsewhere(signer) => self.sign_elsewhere(signer, message).await,
        }
    }

    async fn sign_elsewhere(
        &self,
        Signer { signer, .. }: &Signer,
        message: &str,
    ) -> Result<Vec<u8>, AuthError> {
        let unavailable = |fault: String| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                format!("the signer of a JWT {fault}"),
            )
        };
        let signer = Arc::clone(signer);
        let message = message.to_owned();
        let signature = bounded(
            TIME_LIMIT,
            async move { signer.sign(message.as_bytes()).await },
        );
        let signature = match signature.await {
            Ok(Ok(signature)) => signature,
            Ok(Err(error)) => return Err(unavailable("failed".to_owned()).with_source(error)),
            Err(Unfinished::Panicked) => return Err(unavailable("panicked".to_owned())),
            Err(Unfinished::Late) => {
                return Err(unavailable(format!("did not answer within {TIME_LIMIT:?}")));
            }
        };
        if self.algorithm.can_have_length(signature.len()) {
            return Ok(signature);
        }
        let is_der = signature.first() == Some(&0x30);
        let advice = match self.algorithm {
            SigningAlgorithm::Es256 | SigningAlgorithm::Es384 if is_der => {
                "it looks like DER, and must be converted to R || S (RFC 7518 §3.4)"
            }
            _ => "check that it uses this algorithm",
        };
        Err(AuthError::new(
            AuthErrorKind::Configuration,
            format!(
                "the signer of a JWT returned {} bytes, which are no signature of {}; {advice}",
                signature.len(),
                self.algorithm.name()
            ),
        ))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Signs with aws-lc directly, because `jsonwebtoken::encode` would use, and fix, the provider of the whole process.
fn sign(algorithm: SigningAlgorithm, key: &EncodingKey, message: &[u8]) -> Option<Vec<u8>> {
    let algorithm = algorithm.of_jsonwebtoken();
    let signer = (aws_lc::DEFAULT_PROVIDER.signer_factory)(&algorithm, key).ok()?;
    signer.try_sign(message).ok()
}

#[cold]
fn unusable(algorithm: SigningAlgorithm) -> String {
    format!(
        "has no private key that can sign with {}, give the PEM of one (PKCS#8, or PKCS#1 for RSA)",
        algorithm.name()
    )
}

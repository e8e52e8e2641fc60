use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use jsonwebtoken::{Algorithm, EncodingKey, crypto::aws_lc};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind},
    secret::Secret,
};

/// For how long an assertion is good. It is used at once, and never again.
const LIFETIME: Duration = Duration::from_secs(60);

/// The key of [`ClientAuth::private_key_jwt`](super::ClientAuth::private_key_jwt), and what its assertions say.
///
/// An assertion has the client's id as `iss` and `sub`, an `aud`, `iat`, an `exp` 60 s later and a random `jti`
/// (RFC 7523 §3, OIDC Core §9).
#[derive(Clone)]
pub struct PrivateKeyJwt {
    algorithm: SigningAlgorithm,
    key: EncodingKey,
    key_id: Option<String>,
    audience: Option<String>,
    random: Arc<dyn Fn() -> Result<[u8; 16], BoxError> + Send + Sync>,
}

impl PrivateKeyJwt {
    /// Signs with the private key in `pem`: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when there is no private key for `algorithm` in `pem`.
    pub fn from_pem(algorithm: SigningAlgorithm, pem: &Secret) -> Result<Self, AuthError> {
        let pem = pem.expose().as_bytes();
        let key = match algorithm {
            SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => EncodingKey::from_rsa_pem(pem),
            SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => EncodingKey::from_ec_pem(pem),
            SigningAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem),
        }
        .map_err(|_| unusable(algorithm))?;
        sign(algorithm, &key, b"")?;
        Ok(Self {
            algorithm,
            key,
            key_id: None,
            audience: None,
            random: Arc::new(|| {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok(bytes)
            }),
        })
    }

    /// Sets the `kid` by which the endpoint finds the public key.
    #[must_use]
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = Some(key_id.into());
        self
    }

    /// Sets the `aud`: by default the URL of the token endpoint; some want the issuer's identifier.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Sets where the `jti` comes from: by default the operating system's random source.
    ///
    /// # Security
    ///
    /// No two calls may give the same, in this process or another, or the endpoint takes an assertion for a replay.
    #[must_use]
    pub fn random<F>(mut self, random: F) -> Self
    where
        F: Fn() -> Result<[u8; 16], BoxError> + Send + Sync + 'static,
    {
        self.random = Arc::new(random);
        self
    }

    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        let mut scope = scope
            .field("algorithm", self.algorithm.name())
            .field("key", self.key.as_bytes());
        for (name, value) in [
            ("key_id", &self.key_id),
            ("assertion_audience", &self.audience),
        ] {
            if let Some(value) = value {
                scope = scope.field(name, value);
            }
        }
        scope
    }

    pub(super) fn check(&self) -> Result<(), AuthError> {
        let is_blank =
            |text: &Option<String>| text.as_deref().is_some_and(|text| text.trim().is_empty());
        if is_blank(&self.key_id) || is_blank(&self.audience) {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the key id or the audience of a client assertion is empty; leave it out for the default",
            ));
        }
        Ok(())
    }

    pub(super) fn assertion(
        &self,
        client_id: &str,
        endpoint: &Uri,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, AuthError> {
        let random = (self.random)().map_err(|error| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                "a client assertion could not be made, because the random source failed",
            )
            .with_source(error)
        })?;
        let issued_at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut header = serde_json::json!({ "alg": self.algorithm.name(), "typ": "JWT" });
        if let (Some(key_id), Some(header)) = (&self.key_id, header.as_object_mut()) {
            header.insert("kid".to_owned(), key_id.as_str().into());
        }
        let endpoint = endpoint.to_string();
        let claims = serde_json::json!({
            "iss": client_id,
            "sub": client_id,
            "aud": self.audience.as_deref().unwrap_or(&endpoint),
            "jti": URL_SAFE_NO_PAD.encode(random),
            "iat": issued_at.as_secs(),
            "exp": issued_at.saturating_add(LIFETIME).as_secs(),
        });
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = sign(self.algorithm, &self.key, message.as_bytes())?;
        Ok(Zeroizing::new(format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        )))
    }
}

impl fmt::Debug for PrivateKeyJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKeyJwt")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// With which algorithm an assertion is signed (RFC 7518 §3.1, RFC 8037 §3.1).
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
    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Signs with aws-lc by name: `jsonwebtoken::encode` would use, and fix, the provider of the whole process.
fn sign(
    algorithm: SigningAlgorithm,
    key: &EncodingKey,
    message: &[u8],
) -> Result<Vec<u8>, AuthError> {
    let jwt_algorithm = match algorithm {
        SigningAlgorithm::Rs256 => Algorithm::RS256,
        SigningAlgorithm::Ps256 => Algorithm::PS256,
        SigningAlgorithm::Es256 => Algorithm::ES256,
        SigningAlgorithm::Es384 => Algorithm::ES384,
        SigningAlgorithm::EdDsa => Algorithm::EdDSA,
    };
    (aws_lc::DEFAULT_PROVIDER.signer_factory)(&jwt_algorithm, key)
        .ok()
        .and_then(|signer| signer.try_sign(message).ok())
        .ok_or_else(|| unusable(algorithm))
}

#[cold]
fn unusable(algorithm: SigningAlgorithm) -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        format!(
            "the private key for client assertions is no PEM of a key that can sign with {}",
            algorithm.name()
        ),
    )
}

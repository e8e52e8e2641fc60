use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::aws_lc};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    secret::Secret,
};

use super::client_auth::Recipient;

/// The time for which an assertion is valid. An assertion is used at once, and only once.
const LIFETIME: Duration = Duration::from_secs(60);

/// The private key of [`ClientAuth::private_key_jwt`](crate::ClientAuth::private_key_jwt), and the settings of its
/// assertions.
///
/// An assertion has the client's ID as `iss` and `sub`, an `aud`, an `iat`, an `exp` 60 seconds later and a random
/// `jti` (RFC 7523 §3, OIDC Core §9).
///
/// The `aud` is the first of these that is known:
///
/// 1. The [audience](PrivateKeyJwtBuilder::audience) that was set.
/// 2. The issuer identifier of the authorization server (draft-ietf-oauth-rfc7523bis): the one that was
///    [set at the endpoint](crate::oauth::TokenEndpointBuilder::issuer), or that its user knows. `CrossAppAccess` knows it
///    as its audience, and a `TokenValidator` as the issuer whose tokens it has introspected.
/// 3. The URL of the endpoint. Microsoft Entra requires it.
///
/// ```no_run
/// # fn example(
/// #     pem: tower_identity::Secret,
/// # ) -> Result<(), tower_identity::BuildError> {
/// use tower_identity::{
///     ClientAuth,
///     oauth::{PrivateKeyJwt, SigningAlgorithm},
/// };
///
/// let key = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &pem)
///     .key_id("2026-01")
///     .build()?;
/// let client_auth = ClientAuth::private_key_jwt("gateway", key);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PrivateKeyJwt {
    algorithm: SigningAlgorithm,
    key: EncodingKey,
    key_id: Option<String>,
    audience: Option<String>,
    random: Arc<Random>,
}

type Random = dyn Fn() -> Result<[u8; 16], BoxError> + Send + Sync;

impl PrivateKeyJwt {
    /// Creates a builder for a key from the private key in `pem`, in PKCS#8, or PKCS#1 for RSA.
    pub fn builder(algorithm: SigningAlgorithm, pem: &Secret) -> PrivateKeyJwtBuilder {
        PrivateKeyJwtBuilder {
            algorithm,
            pem: pem.clone(),
            key_id: None,
            audience: None,
            random: Arc::new(|| {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok(bytes)
            }),
        }
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

    pub(super) fn assertion(
        &self,
        client_id: &str,
        recipient: &Recipient<'_>,
    ) -> Result<Zeroizing<String>, AuthError> {
        let random = (self.random)().map_err(|error| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                "a client assertion could not be made, because the random source failed",
            )
            .with_source(error)
        })?;
        let now = recipient.clock.now();
        let issued_at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut header = serde_json::json!({ "alg": self.algorithm.name(), "typ": "JWT" });
        if let (Some(key_id), Some(header)) = (&self.key_id, header.as_object_mut()) {
            header.insert("kid".to_owned(), key_id.as_str().into());
        }
        let endpoint = recipient.endpoint.to_string();
        let audience = self.audience.as_deref().or(recipient.issuer);
        let claims = serde_json::json!({
            "iss": client_id,
            "sub": client_id,
            "aud": audience.unwrap_or(&endpoint),
            "jti": URL_SAFE_NO_PAD.encode(random),
            "iat": issued_at.as_secs(),
            "exp": issued_at.saturating_add(LIFETIME).as_secs(),
        });
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = sign(self.algorithm, &self.key, message.as_bytes()).ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "a client assertion could not be signed with the private key",
            )
        })?;
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

/// Builds a [`PrivateKeyJwt`].
#[derive(Clone)]
#[must_use = "nothing is checked before `build`"]
pub struct PrivateKeyJwtBuilder {
    algorithm: SigningAlgorithm,
    pem: Secret,
    key_id: Option<String>,
    audience: Option<String>,
    random: Arc<Random>,
}

impl PrivateKeyJwtBuilder {
    /// Sets the `kid`, by which the endpoint finds the public key. By default there is none.
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = Some(key_id.into());
        self
    }

    /// Sets the `aud`. The default is the issuer identifier where it is known, otherwise the URL of the endpoint (see
    /// [`PrivateKeyJwt`]).
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Sets the source of the `jti`. The default is the operating system's random source.
    ///
    /// # Security
    ///
    /// No two calls may return the same bytes, in this process or another. Otherwise the endpoint treats an assertion
    /// as a replay.
    pub fn random<F>(mut self, random: F) -> Self
    where
        F: Fn() -> Result<[u8; 16], BoxError> + Send + Sync + 'static,
    {
        self.random = Arc::new(random);
        self
    }

    /// Builds the key.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `pem` has no private key that can sign with the algorithm.
    /// - `key_id` or `audience` is blank.
    pub fn build(self) -> Result<PrivateKeyJwt, BuildError> {
        let mut faults = Faults::new("PrivateKeyJwt");
        let key = read_key(self.algorithm, &self.pem);
        if key.is_none() {
            faults.add("pem", unusable(self.algorithm));
        }
        faults.need_text_if_set("key_id", self.key_id.as_deref());
        faults.need_text_if_set("audience", self.audience.as_deref());
        Ok(PrivateKeyJwt {
            key: faults.or(key)?,
            algorithm: self.algorithm,
            key_id: self.key_id,
            audience: self.audience,
            random: self.random,
        })
    }
}

impl fmt::Debug for PrivateKeyJwtBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKeyJwtBuilder")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// The algorithm that an assertion is signed with (RFC 7518 §3.1, RFC 8037 §3.1).
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

/// Reads the key, and signs once with it to check that it can.
fn read_key(algorithm: SigningAlgorithm, pem: &Secret) -> Option<EncodingKey> {
    let pem = pem.expose().as_bytes();
    let key = match algorithm {
        SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => EncodingKey::from_rsa_pem(pem),
        SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => EncodingKey::from_ec_pem(pem),
        SigningAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem),
    };
    key.ok().filter(|key| sign(algorithm, key, b"").is_some())
}

/// Signs with aws-lc directly, because `jsonwebtoken::encode` would use, and fix, the provider of the whole process.
fn sign(algorithm: SigningAlgorithm, key: &EncodingKey, message: &[u8]) -> Option<Vec<u8>> {
    let jwt_algorithm = match algorithm {
        SigningAlgorithm::Rs256 => Algorithm::RS256,
        SigningAlgorithm::Ps256 => Algorithm::PS256,
        SigningAlgorithm::Es256 => Algorithm::ES256,
        SigningAlgorithm::Es384 => Algorithm::ES384,
        SigningAlgorithm::EdDsa => Algorithm::EdDSA,
    };
    let signer = (aws_lc::DEFAULT_PROVIDER.signer_factory)(&jwt_algorithm, key).ok()?;
    signer.try_sign(message).ok()
}

#[cold]
fn unusable(algorithm: SigningAlgorithm) -> String {
    format!(
        "has no private key that can sign with {}, give the PEM of one (PKCS#8, or PKCS#1 for RSA)",
        algorithm.name()
    )
}

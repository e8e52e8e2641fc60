use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    secret::Secret,
};

use super::{
    client_auth::Recipient,
    public_key::PublicKey,
    signing::{JwtSigner, Signer, SigningAlgorithm, SigningKey},
};

/// The time for which an assertion is valid. An assertion is used at once, and only once.
const LIFETIME: Duration = Duration::from_secs(60);

/// The private key of [`ClientAuth::private_key_jwt`](crate::ClientAuth::private_key_jwt), and the settings of its
/// assertions.
///
/// Needs the feature `private-key-jwt`.
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
    key: SigningKey,
    key_id: Option<String>,
    /// The members of the header that name a certificate.
    certificate_header: Map<String, Value>,
    audience: Option<String>,
    random: Arc<Random>,
}

pub(crate) type Random = dyn Fn() -> Result<[u8; 16], BoxError> + Send + Sync;

impl PrivateKeyJwt {
    /// Creates a builder for a key from the private key in `pem`, in PKCS#8, or PKCS#1 for RSA.
    pub fn builder(algorithm: SigningAlgorithm, pem: &Secret) -> PrivateKeyJwtBuilder {
        PrivateKeyJwtBuilder::new(algorithm, SigningKey::read(algorithm, pem))
    }

    /// Creates a builder for a key that is not in this process, for example in a KMS or an HSM. For an example see
    /// [`JwtSigner`].
    pub fn with_signer<S>(algorithm: SigningAlgorithm, signer: S) -> PrivateKeyJwtBuilder
    where
        S: JwtSigner + 'static,
    {
        Self::of_signer(algorithm, Signer::new(Arc::new(signer)))
    }

    pub(crate) fn of_signer(algorithm: SigningAlgorithm, signer: Signer) -> PrivateKeyJwtBuilder {
        let key = SigningKey::elsewhere(algorithm, signer);
        PrivateKeyJwtBuilder::new(algorithm, Ok(key))
    }

    /// The name of the algorithm.
    #[cfg(feature = "linking")]
    pub(super) fn algorithm(&self) -> &'static str {
        self.key.algorithm().name()
    }

    /// The key with which others check the assertions (RFC 7517). `None` if the private key is elsewhere.
    #[cfg(feature = "linking")]
    pub(super) fn public_jwk(&self) -> Option<Value> {
        let mut jwk = PublicKey::of(&self.key)?.jwk();
        jwk.insert("use".to_owned(), "sig".into());
        jwk.insert("alg".to_owned(), self.algorithm().into());
        if let Some(key_id) = &self.key_id {
            jwk.insert("kid".to_owned(), key_id.as_str().into());
        }
        Some(Value::Object(jwk))
    }

    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        let mut scope = self.key.describe(scope);
        for (name, value) in [
            ("key_id", &self.key_id),
            ("assertion_audience", &self.audience),
        ] {
            if let Some(value) = value {
                scope = scope.field(name, value);
            }
        }
        match self.certificate_header.is_empty() {
            true => scope,
            false => {
                let header = Value::Object(self.certificate_header.clone());
                scope.field("certificate", header.to_string())
            }
        }
    }

    /// Returns `None` if the private key is elsewhere.
    #[cfg(feature = "testing")]
    pub(super) fn public_key(&self) -> Option<Map<String, Value>> {
        let mut jwk = PublicKey::of(&self.key)?.jwk();
        if let Some(key_id) = &self.key_id {
            jwk.insert("kid".to_owned(), key_id.as_str().into());
        }
        Some(jwk)
    }

    pub(super) async fn assertion(
        &self,
        client_id: &str,
        recipient: &Recipient<'_>,
    ) -> Result<Zeroizing<String>, AuthError> {
        let now = recipient.clock.now();
        let issued_at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut header = self.certificate_header.clone();
        header.insert("typ".to_owned(), "JWT".into());
        if let Some(key_id) = &self.key_id {
            header.insert("kid".to_owned(), key_id.as_str().into());
        }
        let endpoint = recipient.endpoint.to_string();
        let audience = self.audience.as_deref().or(recipient.issuer);
        let claims = [
            ("iss", client_id.into()),
            ("sub", client_id.into()),
            ("aud", audience.unwrap_or(&endpoint).into()),
            ("jti", unique(&*self.random)?.into()),
            ("iat", issued_at.as_secs().into()),
            ("exp", issued_at.saturating_add(LIFETIME).as_secs().into()),
        ];
        let claims = claims.map(|(name, value): (&str, Value)| (name.to_owned(), value));
        self.key
            .sign_jwt(header, claims.into_iter().collect())
            .await
    }
}

impl fmt::Debug for PrivateKeyJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKeyJwt")
            .field("algorithm", &self.key.algorithm())
            .field("key_id", &self.key_id)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// Builds a [`PrivateKeyJwt`].
///
/// Needs the feature `private-key-jwt`.
#[derive(Clone)]
#[must_use = "nothing is checked before `build`"]
pub struct PrivateKeyJwtBuilder {
    algorithm: SigningAlgorithm,
    key: Result<SigningKey, String>,
    key_id: Option<String>,
    certificates: Option<String>,
    sends_certificates: bool,
    audience: Option<String>,
    random: Arc<Random>,
}

impl PrivateKeyJwtBuilder {
    fn new(algorithm: SigningAlgorithm, key: Result<SigningKey, String>) -> Self {
        Self {
            algorithm,
            key,
            key_id: None,
            certificates: None,
            sends_certificates: false,
            audience: None,
            random: Arc::new(operating_system),
        }
    }

    /// Sets the `kid`, by which the endpoint finds the public key. By default there is none.
    pub fn key_id(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = Some(key_id.into());
        self
    }

    /// Names the key by its certificate: the header gets the SHA-256 thumbprint of the first certificate in `pem`
    /// (`x5t#S256`, RFC 7515 §4.1.8). Certificates of its issuers may follow.
    ///
    /// Microsoft Entra finds a certificate that was uploaded for the application by its thumbprint, and accepts
    /// [`Ps256`](SigningAlgorithm::Ps256):
    ///
    /// ```no_run
    /// # fn example(
    /// #     key: tower_identity::Secret,
    /// #     certificate: &str,
    /// # ) -> Result<(), tower_identity::BuildError> {
    /// use tower_identity::oauth::{PrivateKeyJwt, SigningAlgorithm};
    ///
    /// let key = PrivateKeyJwt::builder(SigningAlgorithm::Ps256, &key)
    ///     .certificates(certificate)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn certificates(mut self, pem: impl Into<String>) -> Self {
        self.certificates = Some(pem.into());
        self
    }

    /// Also sends the [certificates](Self::certificates) themselves (`x5c`, RFC 7515 §4.1.6), for an endpoint that trusts
    /// their issuer. Microsoft calls this subject name and issuer authentication.
    pub fn send_certificates(mut self) -> Self {
        self.sends_certificates = true;
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
    /// - `certificates` has no certificate in PEM, or the first one is of another key. The key of a
    ///   [signer](PrivateKeyJwt::with_signer) is not known, so it is not compared.
    /// - `send_certificates` is set without `certificates`.
    pub fn build(self) -> Result<PrivateKeyJwt, BuildError> {
        let mut faults = Faults::new("PrivateKeyJwt");
        let key = faults.take("pem", self.key);
        faults.need_text_if_set("key_id", self.key_id.as_deref());
        faults.need_text_if_set("audience", self.audience.as_deref());
        let mut certificate_header = Map::new();
        match &self.certificates {
            Some(pem) => {
                let header = certificate_header_of(pem, self.sends_certificates, key.as_ref());
                certificate_header = faults.take("certificates", header).unwrap_or_default();
            }
            None if self.sends_certificates => faults.add(
                "send_certificates",
                "is set without `certificates`, give them",
            ),
            None => {}
        }
        Ok(PrivateKeyJwt {
            key: faults.or(key)?,
            key_id: self.key_id,
            certificate_header,
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

pub(crate) fn operating_system() -> Result<[u8; 16], BoxError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A `jti` that no other JWT has.
pub(crate) fn unique(random: &Random) -> Result<String, AuthError> {
    let bytes = random().map_err(|error| {
        AuthError::new(
            AuthErrorKind::Unavailable,
            "a JWT could not be made, because the random source failed",
        )
        .with_source(error)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The header that names the certificates of the key, or what is wrong with them.
fn certificate_header_of(
    pem: &str,
    sends_certificates: bool,
    key: Option<&SigningKey>,
) -> Result<Map<String, Value>, &'static str> {
    const NONE: &str =
        "has no certificate in PEM (`-----BEGIN CERTIFICATE-----`), or one that is damaged";

    let certificates: Option<Vec<_>> = pem
        .split("-----BEGIN CERTIFICATE-----")
        .skip(1)
        .map(|rest| {
            let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
            let body: String = body.split_ascii_whitespace().collect();
            let der = STANDARD.decode(body).ok()?;
            // A certificate is a sequence (X.690).
            (der.first() == Some(&0x30)).then_some(der)
        })
        .collect();
    let certificates = certificates.ok_or(NONE)?;
    let first = certificates.first().ok_or(NONE)?;
    if let Some(public) = key.and_then(PublicKey::of)
        && !public.is_in(first)
    {
        return Err(
            "begins with the certificate of another key, give that of the private key first",
        );
    }
    let mut header = Map::new();
    let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(first));
    header.insert("x5t#S256".to_owned(), thumbprint.into());
    if sends_certificates {
        let chain = certificates.iter().map(|der| STANDARD.encode(der).into());
        header.insert("x5c".to_owned(), Value::Array(chain.collect()));
    }
    Ok(header)
}

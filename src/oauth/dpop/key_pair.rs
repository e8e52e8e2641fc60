use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::{
        public_key::PublicKey,
        signing::{SigningAlgorithm, SigningKey},
    },
};

use super::proof_key::ProofKey;

/// The first byte of a point that is written as x and y (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A private key that was parsed once, and what each proof says of its public part.
pub(super) struct KeyPair {
    algorithm: SigningAlgorithm,
    private: Private,
    /// The header of each proof, in base64url.
    header: String,
    thumbprint: String,
}

pub(super) enum Private {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair, &'static dyn RsaEncoding),
    Elsewhere(Arc<Elsewhere>),
}

/// A private key that is not in this process, and its public part.
pub(super) struct Elsewhere {
    key: SigningKey,
    public: ProofKey,
}

/// Generates a key for ES256. Returns `None` if there are no random numbers.
pub(super) fn generated() -> Option<KeyPair> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
    KeyPair::p256(pair)
}

impl KeyPair {
    /// Parses a key that `SigningKey` has read.
    pub(super) fn local(key: &SigningKey) -> Option<Self> {
        let public = PublicKey::of(key)?;
        let bytes = key.local()?.as_bytes();
        let algorithm = key.algorithm();
        let private = match algorithm {
            SigningAlgorithm::Es256 => Private::Ecdsa(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes).ok()?,
            ),
            SigningAlgorithm::Es384 => Private::Ecdsa(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, bytes).ok()?,
            ),
            SigningAlgorithm::EdDsa => {
                Private::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).ok()?)
            }
            SigningAlgorithm::Rs256 => {
                Private::Rsa(rsa::KeyPair::from_der(bytes).ok()?, &RSA_PKCS1_SHA256)
            }
            SigningAlgorithm::Ps256 => {
                Private::Rsa(rsa::KeyPair::from_der(bytes).ok()?, &RSA_PSS_SHA256)
            }
        };
        Self::new(algorithm, private, &public)
    }

    /// Wraps a key pair on P-256.
    pub(super) fn p256(pair: EcdsaKeyPair) -> Option<Self> {
        let (first, point) = pair.public_key().as_ref().split_first()?;
        let (x, y) = point
            .split_at_checked(32)
            .filter(|_| *first == UNCOMPRESSED)?;
        let public = PublicKey::Ec {
            curve: "P-256",
            x: x.to_vec(),
            y: y.to_vec(),
        };
        Self::new(SigningAlgorithm::Es256, Private::Ecdsa(pair), &public)
    }

    pub(super) fn elsewhere(key: SigningKey, public: ProofKey) -> Self {
        let algorithm = key.algorithm();
        let elsewhere = Arc::new(Elsewhere { key, public });
        Self::with(
            algorithm,
            Private::Elsewhere(Arc::clone(&elsewhere)),
            &elsewhere.public,
        )
    }

    fn new(algorithm: SigningAlgorithm, private: Private, public: &PublicKey) -> Option<Self> {
        let public = ProofKey::read(algorithm, &public.jwk()).ok()?;
        Some(Self::with(algorithm, private, &public))
    }

    fn with(algorithm: SigningAlgorithm, private: Private, public: &ProofKey) -> Self {
        let header = format!(
            r#"{{"typ":"dpop+jwt","alg":"{}","jwk":{}}}"#,
            algorithm.name(),
            public.as_json()
        );
        Self {
            algorithm,
            private,
            header: URL_SAFE_NO_PAD.encode(header),
            thumbprint: URL_SAFE_NO_PAD.encode(public.thumbprint()),
        }
    }

    pub(super) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    pub(super) fn private(&self) -> &Private {
        &self.private
    }
}

impl KeyPair {
    /// The length of its signatures (RFC 7518 §3.4, RFC 8037 §3.1). It may be another if an RSA key is elsewhere.
    pub(super) fn signature_length(&self) -> usize {
        match (&self.private, self.algorithm) {
            (Private::Rsa(pair, _), _) => pair.public_modulus_len(),
            (_, SigningAlgorithm::Es384) => 96,
            _ => 64,
        }
    }
}

impl Private {
    /// Makes a JWS of its signed part, by appending the signature. Returns `None` if the library cannot sign, and if the
    /// key is elsewhere.
    pub(super) fn sign(&self, proof: &mut String) -> Option<()> {
        let message = proof.as_bytes();
        let rsa_signature;
        let signature;
        let bytes = match self {
            Self::Ecdsa(pair) => {
                signature = pair.sign(&SystemRandom::new(), message).ok()?;
                signature.as_ref()
            }
            Self::Ed25519(pair) => {
                signature = pair.try_sign(message).ok()?;
                signature.as_ref()
            }
            Self::Rsa(pair, encoding) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut bytes)
                    .ok()?;
                rsa_signature = bytes;
                &rsa_signature
            }
            Self::Elsewhere(_) => return None,
        };
        proof.push('.');
        URL_SAFE_NO_PAD.encode_string(bytes, proof);
        Some(())
    }
}

impl Elsewhere {
    /// Signs a message, and checks that the signer has the key of the public part.
    pub(super) async fn sign(&self, message: &str) -> Result<Vec<u8>, AuthError> {
        let signature = self.key.sign(message).await?;
        if self.public.verifies(message.as_bytes(), &signature) {
            return Ok(signature);
        }
        Err(AuthError::new(
            AuthErrorKind::Configuration,
            "the signer of a DPoP proof has another key than the public JWK that was set, or another algorithm; set the \
             JWK of the key that signs",
        ))
    }
}

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
        ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256,
        RsaEncoding, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::{
        public_key::PublicKey,
        signing::{SigningAlgorithm, SigningKey},
    },
};

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
    public: PublicKey,
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
        Some(Self::new(algorithm, private, &public))
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
        Some(Self::new(
            SigningAlgorithm::Es256,
            Private::Ecdsa(pair),
            &public,
        ))
    }

    pub(super) fn elsewhere(key: SigningKey, public: PublicKey) -> Self {
        let (algorithm, jwk) = (key.algorithm(), public.jwk());
        let private = Private::Elsewhere(Arc::new(Elsewhere { key, public }));
        Self::of_jwk(algorithm, private, &jwk)
    }

    fn new(algorithm: SigningAlgorithm, private: Private, public: &PublicKey) -> Self {
        Self::of_jwk(algorithm, private, &public.jwk())
    }

    fn of_jwk(algorithm: SigningAlgorithm, private: Private, jwk: &Map<String, Value>) -> Self {
        let thumbprint = thumbprint_of(jwk);
        let header = json!({ "typ": "dpop+jwt", "alg": algorithm.name(), "jwk": jwk });
        Self {
            algorithm,
            private,
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
            thumbprint,
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

impl Private {
    pub(super) fn signature_length(&self) -> usize {
        match self {
            Self::Rsa(pair, _) => pair.public_modulus_len(),
            // Of P-384. All others but RSA have fewer bytes.
            _ => 96,
        }
    }

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
        if is_signed(
            self.key.algorithm(),
            &self.public,
            message.as_bytes(),
            &signature,
        ) {
            return Ok(signature);
        }
        Err(AuthError::new(
            AuthErrorKind::Configuration,
            "the signer of a DPoP proof has another key than the public JWK that was set, or another algorithm; set the \
             JWK of the key that signs",
        ))
    }
}

fn is_signed(
    algorithm: SigningAlgorithm,
    public: &PublicKey,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let verify = |with: &'static dyn VerificationAlgorithm, parts: &[&[u8]]| {
        UnparsedPublicKey::new(with, parts.concat()).verify(message, signature)
    };
    let verified = match public {
        PublicKey::Rsa { n, e } => {
            let with = match algorithm {
                SigningAlgorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
                _ => &RSA_PKCS1_2048_8192_SHA256,
            };
            RsaPublicKeyComponents { n, e }.verify(with, message, signature)
        }
        PublicKey::Ec { x, y, .. } => {
            let with = match algorithm {
                SigningAlgorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
                _ => &ECDSA_P256_SHA256_FIXED,
            };
            verify(with, &[&[UNCOMPRESSED], x, y])
        }
        PublicKey::Ed { x } => verify(&ED25519, &[x]),
    };
    verified.is_ok()
}

/// The thumbprint of a public key that has only the members that define it (RFC 7638 §3).
fn thumbprint_of(jwk: &Map<String, Value>) -> String {
    let mut members: Vec<_> = jwk.iter().collect();
    // A map of `serde_json` is only sorted while no other crate enables `preserve_order`.
    members.sort_by_key(|(name, _)| *name);
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())))
        .collect();
    let canonical = format!("{{{}}}", members.join(","));
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::oauth::{
    public_key::PublicKey,
    signing::{SigningAlgorithm, SigningKey},
};

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
    Elsewhere(SigningKey),
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
        // An uncompressed point: 4, x, y (SEC 1 §2.3.3).
        let (first, point) = pair.public_key().as_ref().split_first()?;
        let (x, y) = point.split_at_checked(32).filter(|_| *first == 4)?;
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

    pub(super) fn elsewhere(key: SigningKey, public: &PublicKey) -> Self {
        Self::new(key.algorithm(), Private::Elsewhere(key), public)
    }

    fn new(algorithm: SigningAlgorithm, private: Private, public: &PublicKey) -> Self {
        let jwk = public.jwk();
        let thumbprint = thumbprint_of(&jwk);
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

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::oauth::SigningAlgorithm;

/// The members that a public key does not have (RFC 7518 §6.2.2, §6.3.2, §6.4, RFC 8037 §2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// From 2,048 to 4,096 bits, in bytes. The longer the key, the longer a verification takes.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=512;
const LONGEST_RSA_EXPONENT: usize = 4;

/// The public key in the header of a proof (RFC 7517).
pub(crate) struct ProofKey {
    algorithm: SigningAlgorithm,
    key: Key,
    /// The members that the thumbprint is made of (RFC 7638 §3).
    canonical: String,
}

/// Why a JWK is no key of a proof.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unfit {
    HasPrivatePart,
    /// It is of another algorithm, or malformed.
    Other,
}

enum Key {
    /// An uncompressed point (SEC 1 §2.3.3).
    Ec(Vec<u8>),
    Ed(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl ProofKey {
    /// Reads a key that can be one of the algorithm.
    pub(crate) fn read(
        algorithm: SigningAlgorithm,
        jwk: &Map<String, Value>,
    ) -> Result<Self, Unfit> {
        if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return Err(Unfit::HasPrivatePart);
        }
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let is_for = |name: &str, wanted: &[&str]| match jwk.get(name) {
            None => true,
            Some(value) => value.as_str().is_some_and(|value| wanted.contains(&value)),
        };
        let names = match algorithm {
            SigningAlgorithm::EdDsa => &["EdDSA", "Ed25519"][..],
            _ => &[algorithm.name()][..],
        };
        if !is_for("alg", names) || !is_for("use", &["sig"]) {
            return Err(Unfit::Other);
        }
        // A text with padding, or with bits that do not count, is refused: one key has one thumbprint.
        let octets = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let of_length = |name: &str, length| octets(name).filter(|octets| octets.len() == length);
        let is = |kty, crv| text("kty") == Some(kty) && text("crv") == Some(crv);
        let encode = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        let ec = |crv, length| {
            let (x, y) = (of_length("x", length)?, of_length("y", length)?);
            let (in_x, in_y) = (encode(&x), encode(&y));
            let canonical = format!(r#"{{"crv":"{crv}","kty":"EC","x":"{in_x}","y":"{in_y}"}}"#);
            let point = [&[4][..], &x, &y].concat();
            is("EC", crv).then_some((Key::Ec(point), canonical))
        };
        let read = match algorithm {
            SigningAlgorithm::Es256 => ec("P-256", 32),
            SigningAlgorithm::Es384 => ec("P-384", 48),
            SigningAlgorithm::EdDsa => of_length("x", 32).and_then(|x| {
                let in_x = encode(&x);
                let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{in_x}"}}"#);
                is("OKP", "Ed25519").then_some((Key::Ed(x), canonical))
            }),
            SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => {
                let is_number = |octets: &Vec<u8>| octets.first().is_some_and(|first| *first != 0);
                let number = |name| octets(name).filter(is_number);
                number("n").zip(number("e")).and_then(|(n, e)| {
                    let (in_n, in_e) = (encode(&n), encode(&e));
                    let canonical = format!(r#"{{"e":"{in_e}","kty":"RSA","n":"{in_n}"}}"#);
                    let is_sane = text("kty") == Some("RSA")
                        && RSA_MODULUS.contains(&n.len())
                        && e.len() <= LONGEST_RSA_EXPONENT;
                    is_sane.then_some((Key::Rsa { n, e }, canonical))
                })
            }
        };
        let (key, canonical) = read.ok_or(Unfit::Other)?;
        Ok(Self {
            algorithm,
            key,
            canonical,
        })
    }

    /// The key as JSON, with the members that define it alone.
    pub(crate) fn as_json(&self) -> &str {
        &self.canonical
    }

    /// Verifies with aws-lc directly, so that the provider of `jsonwebtoken` is neither used nor fixed.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.key {
            Key::Ec(point) => {
                let algorithm = match self.algorithm {
                    SigningAlgorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
                    _ => &ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            Key::Ed(x) => UnparsedPublicKey::new(&ED25519, x).verify(message, signature),
            Key::Rsa { n, e } => {
                let algorithm = match self.algorithm {
                    SigningAlgorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
                    _ => &RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n, e }.verify(algorithm, message, signature)
            }
        };
        verified.is_ok()
    }

    /// The thumbprint with SHA-256 (RFC 7638), which `cnf.jkt` has.
    pub(crate) fn thumbprint(&self) -> [u8; 32] {
        Sha256::digest(&self.canonical).into()
    }
}

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{crypto::aws_lc, jwk::EllipticCurve};
use serde_json::{Map, Value};

use super::signing::{SigningAlgorithm, SigningKey};

/// The public part of a key that this process has the private part of.
pub(crate) enum PublicKey {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ec {
        curve: &'static str,
        x: Vec<u8>,
        y: Vec<u8>,
    },
    Ed {
        x: Vec<u8>,
    },
}

impl PublicKey {
    /// Returns `None` if the private key is elsewhere.
    pub(crate) fn of(key: &SigningKey) -> Option<Self> {
        let utils = &aws_lc::DEFAULT_PROVIDER.key_utils;
        let private = key.local()?.as_bytes();
        let algorithm = key.algorithm();
        Some(match algorithm {
            SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => {
                let (n, e) = (utils.rsa_pub_components_from_private_key)(private).ok()?;
                Self::Rsa { n, e }
            }
            SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => {
                let algorithm = algorithm.of_jsonwebtoken();
                let components = (utils.ec_pub_components_from_private_key)(private, algorithm);
                let (curve, x, y) = components.ok()?;
                let curve = match curve {
                    EllipticCurve::P384 => "P-384",
                    _ => "P-256",
                };
                Self::Ec { curve, x, y }
            }
            SigningAlgorithm::EdDsa => {
                let curve = EllipticCurve::Ed25519;
                let x = (utils.ed_pub_components_from_private_key)(private, &curve).ok()?;
                Self::Ed { x }
            }
        })
    }

    /// Returns `true` if a certificate (in DER) is of this key. A key is a random number of at least 256 bits, so it is in
    /// no other certificate.
    pub(crate) fn is_in(&self, certificate: &[u8]) -> bool {
        let bytes = match self {
            Self::Rsa { n, .. } => n.clone(),
            Self::Ec { x, y, .. } => [&**x, &**y].concat(),
            Self::Ed { x } => x.clone(),
        };
        certificate
            .windows(bytes.len().max(1))
            .any(|part| part == bytes)
    }

    /// The members of the key as a JWK (RFC 7518 §6, RFC 8037 §2).
    pub(crate) fn jwk(&self) -> Map<String, Value> {
        let encode = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let members = match self {
            Self::Rsa { n, e } => vec![("kty", "RSA".into()), ("n", encode(n)), ("e", encode(e))],
            Self::Ec { curve, x, y } => vec![
                ("kty", "EC".into()),
                ("crv", (*curve).into()),
                ("x", encode(x)),
                ("y", encode(y)),
            ],
            Self::Ed { x } => vec![
                ("kty", "OKP".into()),
                ("crv", "Ed25519".into()),
                ("x", encode(x)),
            ],
        };
        let members = members.into_iter();
        members
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

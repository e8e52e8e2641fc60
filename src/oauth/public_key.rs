use jsonwebtoken::{crypto::aws_lc, jwk::EllipticCurve};

use super::signing::{SigningAlgorithm, SigningKey};

/// The public part of a key that this process has the private part of.
pub(crate) enum PublicKey {
    Rsa { n: Vec<u8> },
    Ec { x: Vec<u8>, y: Vec<u8> },
    Ed { x: Vec<u8> },
}

impl PublicKey {
    /// Returns `None` if the private key is elsewhere.
    pub(crate) fn of(key: &SigningKey) -> Option<Self> {
        let utils = &aws_lc::DEFAULT_PROVIDER.key_utils;
        let private = key.local()?.as_bytes();
        let algorithm = key.algorithm();
        Some(match algorithm {
            SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => {
                let (n, _) = (utils.rsa_pub_components_from_private_key)(private).ok()?;
                Self::Rsa { n }
            }
            SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => {
                let algorithm = algorithm.of_jsonwebtoken();
                let components = (utils.ec_pub_components_from_private_key)(private, algorithm);
                let (_, x, y) = components.ok()?;
                Self::Ec { x, y }
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
            Self::Rsa { n } => n.clone(),
            Self::Ec { x, y } => [&**x, &**y].concat(),
            Self::Ed { x } => x.clone(),
        };
        certificate
            .windows(bytes.len().max(1))
            .any(|part| part == bytes)
    }
}

//! Key pairs that issuers sign with, and tokens signed with them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use serde_json::{Value, json};

/// A key pair of the issuer, by the name that it has as `kid`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KeyPair {
    pub(crate) id: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) pem: &'static str,
}

pub(crate) const RSA: KeyPair = KeyPair {
    id: "rsa",
    algorithm: Algorithm::RS256,
    pem: include_str!("keys/rsa.pem"),
};
pub(crate) const P256: KeyPair = KeyPair {
    id: "p256",
    algorithm: Algorithm::ES256,
    pem: include_str!("keys/p256.pem"),
};
pub(crate) const P384: KeyPair = KeyPair {
    id: "p384",
    algorithm: Algorithm::ES384,
    pem: include_str!("keys/p384.pem"),
};
pub(crate) const ED25519: KeyPair = KeyPair {
    id: "ed25519",
    algorithm: Algorithm::EdDSA,
    pem: include_str!("keys/ed25519.pem"),
};

impl KeyPair {
    pub(crate) fn private(&self) -> EncodingKey {
        let pem = self.pem.as_bytes();
        match self.algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
            _ => EncodingKey::from_rsa_pem(pem),
        }
        .unwrap()
    }

    /// The public key as it is published: with `kid`, `use` and `alg`.
    pub(crate) fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.private(), self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with just this header and these claims.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_as(self.algorithm, header, claims)
    }

    pub(crate) fn sign_as(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private(), algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// The header that such a token has.
    pub(crate) fn header(&self) -> Value {
        let algorithm = format!("{:?}", self.algorithm);
        json!({ "alg": algorithm, "typ": "at+jwt", "kid": self.id })
    }
}

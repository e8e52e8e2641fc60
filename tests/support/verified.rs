//! Signatures, verified with the public key as it is published.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, jwk::Jwk};
use serde_json::Value;

use super::key_pair::KeyPair;

/// The header and the claims of a token that this key signed.
pub(crate) fn signed_by(key: KeyPair, token: &str) -> (Value, Value) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let jwk: Jwk = serde_json::from_value(key.public()).unwrap();
    let public = DecodingKey::from_jwk(&jwk).unwrap();
    let verified =
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &public, key.algorithm);
    assert!(verified.unwrap(), "another key signed it");
    let (header, claims) = message.split_once('.').unwrap();
    let read = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (read(header), read(claims))
}

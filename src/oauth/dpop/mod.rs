//! Tokens that are bound to a key (DPoP, RFC 9449): the key, the proof that each request has, and the server's nonce.

pub(crate) mod key;
mod key_pair;
pub(crate) mod keys;
pub(crate) mod nonce;
pub(crate) mod proof;
pub(crate) mod proof_key;

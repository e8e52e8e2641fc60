use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::{
    error::AuthError,
    incoming::jwks::{KeySet, Verification},
};

use super::rejected;

/// A JWS in its compact form (RFC 7515 §7.1), before it is verified.
pub(super) struct Jwt<'a> {
    header: Header,
    message: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

/// The members of a header that are read. Others are ignored, in particular a key or its URL.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Jwt<'a> {
    /// `None`, when it is no JWT.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            message,
            payload,
            signature: decode(signature)?,
        })
    }

    /// Whether it says what it has to of itself, and one of the keys signed it.
    pub(super) fn verify(
        &self,
        keys: &KeySet,
        require_at_jwt: bool,
    ) -> Result<Verification, AuthError> {
        if self.header.crit.is_some() {
            return Err(rejected("the token has an extension that is not known"));
        }
        if !is_accepted_type(self.header.typ.as_deref(), require_at_jwt) {
            return Err(rejected("the token is of another type"));
        }
        let algorithm = algorithm(&self.header.alg).ok_or_else(|| {
            rejected("the token is signed with an algorithm that is not accepted")
        })?;
        Ok(keys.verify(
            algorithm,
            self.header.kid.as_deref(),
            self.message.as_bytes(),
            &self.signature,
        ))
    }

    pub(super) fn claims(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&decode(self.payload)?).ok()
    }
}

fn is_accepted_type(typ: Option<&str>, require_at_jwt: bool) -> bool {
    let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
    is("at+jwt") || is("application/at+jwt") || (!require_at_jwt && (typ.is_none() || is("JWT")))
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// The algorithms of key pairs. Algorithms whose verifying key can sign are left out.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::{
    error::AuthError,
    incoming::{
        issuer::TrustedIssuer,
        key_set::{KeySet, Signed, Verification, algorithm},
    },
};

use super::rejected;

/// A JWS in its compact form (RFC 7515 §7.1), before anything in it is verified.
pub(super) struct Jwt<'a> {
    header: Header,
    message: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

/// The members of a header that are read. The others are not, in particular a key or its URL.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

/// A member that is `null` is there, too.
fn is_present<'de, D: Deserializer<'de>>(member: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(member).map(|_| true)
}

impl<'a> Jwt<'a> {
    /// `None`, when it is no JWT.
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let header = decode(header)?;
        // A struct could be read of an array as well.
        let is_object = header.trim_ascii_start().starts_with(b"{");
        Some(Self {
            header: is_object.then(|| serde_json::from_slice(&header).ok())??,
            message,
            payload,
            signature: decode(signature)?,
        })
    }

    /// The claims, which are the caller's until the token is [verified](Self::verify).
    pub(super) fn claims(&self) -> Result<Map<String, Value>, AuthError> {
        decode(self.payload)
            .and_then(|payload| serde_json::from_slice(&payload).ok())
            .ok_or_else(|| rejected("the token is malformed"))
    }

    /// Whether it says what it has to of itself, and one of the issuer's keys signed it.
    pub(super) fn verify(
        &self,
        keys: &KeySet,
        issuer: &TrustedIssuer,
        claims: &Map<String, Value>,
    ) -> Result<Verification, AuthError> {
        if self.header.crit {
            return Err(rejected(
                "the token needs an extension that is not known (`crit`)",
            ));
        }
        if !is_accepted_type(self.header.typ.as_deref(), issuer.require_at_jwt) {
            return Err(rejected("the token is of another type (`typ`)"));
        }
        let algorithm = algorithm(&self.header.alg).ok_or_else(|| {
            rejected("the token is signed with an algorithm that is not accepted")
        })?;
        let tenant_issuer = claims.get("iss").filter(|_| issuer.id.is_template());
        Ok(keys.verify(&Signed {
            algorithm,
            key_id: self.header.kid.as_deref(),
            tenant_issuer: tenant_issuer.and_then(Value::as_str),
            message: self.message,
            signature: &self.signature,
        }))
    }
}

fn is_accepted_type(typ: Option<&str>, require_at_jwt: bool) -> bool {
    let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
    is("at+jwt") || is("application/at+jwt") || (!require_at_jwt && (typ.is_none() || is("JWT")))
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

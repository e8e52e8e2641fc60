use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    dpop::DPOP,
    oauth::{
        SigningAlgorithm,
        dpop::proof_key::{ProofKey, Unfit},
        unverified_jwt::{decode_object, numeric_date},
    },
};

use super::public_url::PublicUrl;

/// The longest proof. One with a key of 4,096 bits has some 2 KiB.
const LONGEST: usize = 8 * 1024;
const LONGEST_JTI: usize = 256;

/// A proof that is good for its request, as long as it was not used before.
pub(in crate::incoming) struct Proof {
    /// The thumbprint of its key (RFC 7638, with SHA-256).
    pub(in crate::incoming) thumbprint: [u8; 32],
    /// Stands for its key and its `jti`.
    pub(super) id: [u8; 32],
    pub(super) issued_at: SystemTime,
}

/// The request that a proof has to be for, and how.
pub(super) struct Expected<'a> {
    pub(super) algorithms: &'a [SigningAlgorithm],
    pub(super) urls: &'a [PublicUrl],
    pub(super) window: Duration,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    /// A request for a token has none.
    pub(super) token: Option<&'a str>,
    pub(super) now: SystemTime,
}

/// A fault is a sentence that holds nothing of the proof.
type Checked<T> = Result<T, &'static str>;

/// Returns the proof of a request: it has one, and only one.
pub(super) fn sent_in(headers: &HeaderMap) -> Checked<&str> {
    let mut values = headers.get_all(DPOP).iter();
    let proof = values
        .next()
        .ok_or("there is no DPoP header with a proof")?;
    if values.next().is_some() {
        return Err("there is more than one DPoP header");
    }
    if proof.len() > LONGEST {
        return Err("the proof is too large");
    }
    proof.to_str().map_err(|_| MALFORMED)
}

const MALFORMED: &str = "the proof is malformed";

impl Expected<'_> {
    /// Checks the proof (RFC 9449 §4.3), except whether it was used before. Returns it with its nonce.
    pub(super) fn check(&self, proof: &str) -> Checked<(Proof, Option<String>)> {
        let (message, signature) = proof.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = message.split_once('.').ok_or(MALFORMED)?;
        if claims.contains('.') {
            return Err(MALFORMED);
        }
        let header = decode_object(header).ok_or(MALFORMED)?;
        let key = self.key_of(&header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| MALFORMED)?;
        if !key.verifies(message.as_bytes(), &signature) {
            return Err("the proof's signature is not one of its key");
        }
        let claims = decode_object(claims).ok_or(MALFORMED)?;
        let thumbprint = key.thumbprint();
        let proof = Proof {
            id: self.check_claims(&claims, &thumbprint)?,
            thumbprint,
            issued_at: self.issued_at(&claims)?,
        };
        let nonce = match claims.get("nonce") {
            None => None,
            Some(Value::String(nonce)) => Some(nonce.clone()),
            Some(_) => return Err("the proof's `nonce` is not a string"),
        };
        Ok((proof, nonce))
    }

    fn key_of(&self, header: &Map<String, Value>) -> Checked<ProofKey> {
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        let is = |name: &str| text("typ").is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        if !is("dpop+jwt") && !is("application/dpop+jwt") {
            return Err("the proof's `typ` is not `dpop+jwt`");
        }
        if header.contains_key("crit") {
            return Err("the proof has an extension that is not known");
        }
        let name = match text("alg") {
            // Ed25519 is the only curve here (RFC 9864).
            Some("Ed25519") => Some("EdDSA"),
            name => name,
        };
        let mut algorithms = self.algorithms.iter();
        let algorithm = algorithms.find(|algorithm| Some(algorithm.name()) == name);
        let algorithm = algorithm.ok_or("the proof's `alg` is not accepted")?;
        match header.get("jwk") {
            Some(Value::Object(jwk)) => {
                ProofKey::read(*algorithm, jwk).map_err(|unfit| match unfit {
                    Unfit::HasPrivatePart => "the proof's `jwk` has a private part",
                    Unfit::Other => "the proof's `jwk` is not a public key of its algorithm",
                })
            }
            _ => Err("the proof has no `jwk`"),
        }
    }

    /// Returns what stands for the proof.
    fn check_claims(
        &self,
        claims: &Map<String, Value>,
        thumbprint: &[u8; 32],
    ) -> Checked<[u8; 32]> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let jti = text("jti").filter(|jti| (1..=LONGEST_JTI).contains(&jti.len()));
        let jti = jti.ok_or("the proof's `jti` is not a string of 1 to 256 bytes")?;
        if text("htm") != Some(self.method.as_str()) {
            return Err("the proof is for another method, says its `htm`");
        }
        let htu = text("htu").ok_or("the proof's `htu` is not a string")?;
        if !self.urls.iter().any(|url| url.is_of(htu, self.path)) {
            return Err("the proof is for another URL, says its `htu`");
        }
        let ath = self
            .token
            .map(|token| URL_SAFE_NO_PAD.encode(Sha256::digest(token)));
        if ath.is_some() && text("ath") != ath.as_deref() {
            return Err("the proof is for another token, says its `ath`");
        }
        let id = Sha256::new()
            .chain_update(b"tower-identity DPoP proof")
            .chain_update(thumbprint)
            .chain_update(jti);
        Ok(id.finalize().into())
    }

    fn issued_at(&self, claims: &Map<String, Value>) -> Checked<SystemTime> {
        let issued_at = claims.get("iat").and_then(|iat| numeric_date(iat).ok());
        let issued_at = issued_at.ok_or("the proof's `iat` is not a time")?;
        let is_new = |issued_at: &SystemTime| {
            let difference = self.now.duration_since(*issued_at);
            difference.unwrap_or_else(|ahead| ahead.duration()) <= self.window
        };
        issued_at
            .filter(is_new)
            .ok_or("the proof was not made just now, says its `iat`")
    }
}

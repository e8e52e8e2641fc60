use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto::aws_lc};
use serde_json::{Map, Value};

use crate::error::BuildError;

use super::issuer::tenant_in;

const MAX_KEYS: usize = 100;

/// The public keys of an issuer (RFC 7517 §5) that can verify a token.
///
/// Needs the feature `incoming`.
///
/// With a key set, a [`TokenValidator`](crate::TokenValidator) needs no connection to
/// the issuer, for example in a test:
///
/// ```
/// use tower_identity::{KeySet, TokenValidator};
///
/// let keys = KeySet::from_json(
///     r#"{ "keys": [{
///         "kty": "OKP",
///         "crv": "Ed25519",
///         "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
///     }] }"#,
/// )?;
/// let issuer = "https://issuer.example.com";
/// let validator = TokenValidator::builder_with_keys(issuer, keys)
///     .audience("https://gateway.example.com")
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A key that cannot verify a token is left out: a key whose use is not signatures, and
/// a key of another algorithm or type than RS256 to RS512, PS256 to PS512, ES256, ES384
/// and EdDSA (or `Ed25519`, RFC 9864) with Ed25519. In particular, symmetric keys are left
/// out. A key with an `alg` verifies that algorithm alone. A key without one verifies the
/// algorithms of its type and curve.
///
/// A key is also read if its numbers are padded, written in plain base64, or have a
/// leading zero octet too many or too few. A key that is written wrongly is left out, and
/// a `tracing` event at warn level names it.
#[derive(Clone)]
pub struct KeySet {
    keys: Arc<[Key]>,
}

impl KeySet {
    /// Reads a JSON Web Key Set.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `json` is not a key set, has more than 100 keys, or has no key that can verify a token.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, BuildError> {
        Self::parse(json.as_ref()).map_err(|fault| BuildError::of("KeySet", "json", fault))
    }

    /// `serde_json` quotes the text in its errors, so they go no further.
    pub(super) fn parse(json: &[u8]) -> Result<Self, &'static str> {
        const NOT_A_KEY_SET: &str = "is not a JSON Web Key Set (RFC 7517 §5)";

        let mut set: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| NOT_A_KEY_SET)?;
        let Some(Value::Array(keys)) = set.remove("keys") else {
            return Err(NOT_A_KEY_SET);
        };
        if keys.len() > MAX_KEYS {
            return Err("has more than 100 keys");
        }
        let keys: Arc<[Key]> = keys.into_iter().filter_map(read).collect();
        if keys.is_empty() {
            return Err("has no key that can verify a token");
        }
        Ok(Self { keys })
    }

    /// `Unknown` may be cured by newer keys.
    pub(crate) fn verify(&self, signed: &Signed<'_>) -> Verification {
        let mut named = false;
        for key in self.keys.iter() {
            let is_candidate = signed.key_id.is_none() || key.id.as_deref() == signed.key_id;
            if !is_candidate || !key.is_of(signed.tenant_issuer) {
                continue;
            }
            named |= signed.key_id.is_some();
            if key.verify(signed) {
                return Verification::Good;
            }
        }
        if named {
            Verification::Bad
        } else {
            Verification::Unknown
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_deref());
        f.debug_list().entries(ids).finish()
    }
}

/// The signature of a token, and what its header says of it.
pub(crate) struct Signed<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<&'a str>,
    /// The token's issuer, if it is one of many whose keys are in one set.
    pub(crate) tenant_issuer: Option<&'a str>,
    pub(crate) message: &'a str,
    pub(crate) signature: &'a Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    Good,
    /// The key that the token names says no.
    Bad,
    /// The token names a key that is not in the set, or none, and no key fits.
    Unknown,
}

/// The algorithm of a `alg`, if a key pair signs with it. A symmetric one, where the verifier could also sign, is none.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        // Ed25519 is the only curve here.
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}

struct Key {
    id: Option<String>,
    /// The `issuer` that Microsoft Entra adds to keys which tenants share.
    issuer: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    fn is_of(&self, tenant_issuer: Option<&str>) -> bool {
        let (Some(key_issuer), Some(issuer)) = (&self.issuer, tenant_issuer) else {
            return true;
        };
        key_issuer == issuer || tenant_in(key_issuer, issuer).is_some()
    }

    /// With aws-lc by name: `jsonwebtoken::decode` would use, and fix, the provider of the whole process.
    fn verify(&self, signed: &Signed<'_>) -> bool {
        self.algorithms.contains(&signed.algorithm)
            && (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&signed.algorithm, &self.key).is_ok_and(
                |verifier| {
                    let message = signed.message.as_bytes();
                    verifier.verify(message, signed.signature).is_ok()
                },
            )
    }
}

/// `None` for a key that cannot verify a token here.
fn read(key: Value) -> Option<Key> {
    let id = key.get("kid").cloned();
    Members::of(key)
        .and_then(Members::into_key)
        .unwrap_or_else(|fault| {
            tracing::warn!(key = ?id, fault, "a key of a key set is left out, because it is written wrongly");
            None
        })
}

/// The members of a JSON Web Key (RFC 7517 §4). A fault is a sentence whose subject is the key.
struct Members(Map<String, Value>);

impl Members {
    fn of(key: Value) -> Result<Self, String> {
        match key {
            Value::Object(mut members) => {
                members.retain(|_, member| !member.is_null());
                Ok(Self(members))
            }
            _ => Err("is not a JSON object".to_owned()),
        }
    }

    fn into_key(self) -> Result<Option<Key>, String> {
        if !self.is_for_signatures()? {
            return Ok(None);
        }
        let Some((mut algorithms, key)) = self.public_key()? else {
            return Ok(None);
        };
        if let Some(only) = self.text("alg")? {
            let only = algorithm(only);
            algorithms.retain(|algorithm| Some(*algorithm) == only);
        }
        if algorithms.is_empty() {
            return Ok(None);
        }
        Ok(Some(Key {
            id: self.text("kid")?.map(str::to_owned),
            issuer: self.text("issuer")?.map(str::to_owned),
            algorithms,
            key: key.map_err(|_| "is not one of its type")?,
        }))
    }

    fn is_for_signatures(&self) -> Result<bool, String> {
        let is_for_signatures = self.text("use")?.is_none_or(|key_use| key_use == "sig");
        let verifies = match self.0.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|each| each == "verify"),
            Some(_) => return Err("has `key_ops` that are not a list".to_owned()),
        };
        Ok(is_for_signatures && verifies)
    }

    /// The key, and what a key of its type and curve can verify. `None` for another type or curve.
    fn public_key(&self) -> Result<Option<ReadKey>, String> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};

        let encoded = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        let point = |length| -> Result<_, String> {
            let (x, y) = (self.fixed("x", length)?, self.fixed("y", length)?);
            Ok(DecodingKey::from_ec_components(&encoded(&x), &encoded(&y)))
        };
        Ok(match (self.text("kty")?, self.text("crv")?) {
            (Some("RSA"), _) => {
                let (n, e) = (self.number("n")?, self.number("e")?);
                let key = DecodingKey::from_rsa_components(&encoded(&n), &encoded(&e));
                Some((vec![RS256, RS384, RS512, PS256, PS384, PS512], key))
            }
            (Some("EC"), Some("P-256")) => Some((vec![ES256], point(32)?)),
            (Some("EC"), Some("P-384")) => Some((vec![ES384], point(48)?)),
            (Some("OKP"), Some("Ed25519")) => {
                let x = self.octets("x")?;
                if x.len() != 32 {
                    return Err("has an `x` of another length than its curve".to_owned());
                }
                Some((vec![EdDSA], DecodingKey::from_ed_components(&encoded(&x))))
            }
            (None, _) => return Err("has no `kty`".to_owned()),
            _ => None,
        })
    }

    /// An unsigned number (RFC 7518 §2), without the leading zero octets that some issuers write.
    fn number(&self, name: &str) -> Result<Vec<u8>, String> {
        let mut octets = self.octets(name)?;
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        octets.drain(..zeros);
        if octets.is_empty() {
            return Err(format!("has a `{name}` that is zero"));
        }
        Ok(octets)
    }

    /// A coordinate (RFC 7518 §6.2.1.2): some issuers leave its leading zero octets out, others write one more.
    fn fixed(&self, name: &str, length: usize) -> Result<Vec<u8>, String> {
        const LEFT_OUT: usize = 2;

        let number = self.number(name)?;
        let zeros = length.checked_sub(number.len());
        let zeros = zeros
            .filter(|zeros| *zeros <= LEFT_OUT)
            .ok_or_else(|| format!("has an `{name}` of another length than its curve"))?;
        let mut fixed = vec![0; zeros];
        fixed.extend(number);
        Ok(fixed)
    }

    /// The octets of a base64url text. Plain base64 and padding are read as well, because no text means both.
    fn octets(&self, name: &str) -> Result<Vec<u8>, String> {
        let text = self
            .text(name)?
            .ok_or_else(|| format!("has no `{name}`"))?
            .trim_end_matches('=')
            .replace('+', "-")
            .replace('/', "_");
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| format!("has a `{name}` that is not base64url"))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("has a `{name}` that is not a string")),
        }
    }
}

type ReadKey = (Vec<Algorithm>, jsonwebtoken::errors::Result<DecodingKey>);

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures_util::FutureExt;
use serde_json::{Map, Value, json};

use crate::{
    KeySet, Secret,
    incoming::key_set::{Signed, Verification, algorithm},
    oauth::{SigningAlgorithm, public_key::PublicKey, signing::SigningKey},
};

use super::{TestIssuer, state::Kind};

/// The claims of a token that a [`TestIssuer`] is to issue. It is made by [`TestIssuer::token`].
///
/// ```
/// use std::time::Duration;
/// use serde_json::{Value, json};
/// use tower_identity::testing::TestIssuer;
///
/// let issuer = TestIssuer::new("https://idp.example.com");
/// let token = issuer
///     .token("alice")
///     .audience("https://gateway.example.com")
///     .scope("read write")
///     .expires_in(Duration::from_secs(60))
///     .claim("groups", json!(["admins"]))
///     .claim("client_id", Value::Null);
/// let jwt = token.clone().sign();
/// let opaque = token.opaque();
/// assert_eq!(issuer.claims(&jwt).unwrap()["scope"], "read write");
/// assert!(!issuer.claims(&opaque).unwrap().contains_key("client_id"));
/// ```
///
/// Needs the feature `testing`.
#[derive(Clone, Debug)]
#[must_use = "there is no token before `sign` or `opaque`"]
pub struct TestToken {
    issuer: TestIssuer,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl TestToken {
    pub(super) fn new(issuer: &TestIssuer, claims: Map<String, Value>) -> Self {
        Self {
            issuer: issuer.clone(),
            header: Map::new(),
            claims,
        }
    }

    /// Sets the audience: the claim `aud`.
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Sets the scopes: the claim `scope`, in which they are separated by spaces.
    pub fn scope(self, scope: &str) -> Self {
        self.claim("scope", scope)
    }

    /// Sets how long the token is good from now on. By default that is the issuer's
    /// [lifetime](TestIssuer::set_token_lifetime).
    pub fn expires_in(self, lifetime: Duration) -> Self {
        let end = seconds(self.issuer.now()).saturating_add(lifetime.as_secs());
        self.claim("exp", end)
    }

    /// Sets any claim. `Value::Null` leaves the claim out.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }

    /// Sets a member of the header of a JWT, for example `typ`. `Value::Null` leaves it out.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Issues a signed JWT.
    pub fn sign(self) -> String {
        self.issuer.sign("at+jwt", self.header, self.claims)
    }

    /// Issues an opaque token, whose claims the [introspection endpoint](TestIssuer::introspection_endpoint) tells.
    pub fn opaque(self) -> String {
        self.issuer.keep(Kind::Access, self.claims, None)
    }
}

pub(super) fn set(members: &mut Map<String, Value>, name: &str, value: Value) {
    match value {
        Value::Null => drop(members.remove(name)),
        value => drop(members.insert(name.to_owned(), value)),
    }
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Returns 43 characters that nobody guesses.
pub(super) fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes())
}

fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A key pair of ES256.
pub(super) struct Key {
    id: String,
    private: SigningKey,
    jwk: Map<String, Value>,
}

impl Key {
    pub(super) fn new() -> Self {
        // A private key is any number from 1 to the order of the curve, which all but one of 2^32 are.
        let private = (0..8).find_map(|_| {
            let pem = Secret::new(pkcs8(&random_bytes())).ok()?;
            SigningKey::read(SigningAlgorithm::Es256, &pem).ok()
        });
        let private = private.expect("there is a key");
        let id = random_text();
        let public = PublicKey::of(&private).expect("the key is here");
        let mut jwk = public.jwk();
        for (name, value) in [("kid", &*id), ("use", "sig"), ("alg", "ES256")] {
            jwk.insert(name.to_owned(), value.into());
        }
        Self { id, private, jwk }
    }

    pub(super) fn jwk(&self) -> &Map<String, Value> {
        &self.jwk
    }

    pub(super) fn sign(
        &self,
        header_type: &str,
        changes: Map<String, Value>,
        claims: Map<String, Value>,
    ) -> String {
        let mut header = Map::new();
        for (name, value) in [("typ", header_type), ("kid", &*self.id)] {
            header.insert(name.to_owned(), value.into());
        }
        for (name, value) in changes {
            set(&mut header, &name, value);
        }
        let signing = self.private.sign_jwt(header, claims).now_or_never();
        let jwt = signing.and_then(Result::ok);
        jwt.expect("a key of this process signs at once")
            .to_string()
    }
}

/// The claims of a JWT that one of these keys has signed.
pub(super) fn verified(jwt: &str, keys: &[&Map<String, Value>]) -> Option<Map<String, Value>> {
    let (message, signature) = jwt.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let header: Map<String, Value> = decoded(header)?;
    let set = serde_json::json!({ "keys": keys }).to_string();
    let set = KeySet::from_json(set).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let signed = Signed {
        algorithm: algorithm(header.get("alg")?.as_str()?)?,
        key_id: header.get("kid").and_then(Value::as_str),
        tenant_issuer: None,
        message,
        signature: &signature,
    };
    (set.verify(&signed) == Verification::Good)
        .then(|| decoded(claims))
        .flatten()
}

pub(super) fn is_jwt(token: &str) -> bool {
    token.split('.').count() == 3
}

fn decoded(part: &str) -> Option<Map<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A private key on P-256 in PEM (RFC 5958, RFC 5915), from which the public one is computed.
fn pkcs8(private: &[u8; 32]) -> String {
    const BEFORE: &[u8] = &[
        0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
        0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25,
        0x02, 0x01, 0x01, 0x04, 0x20,
    ];
    let encoded = STANDARD.encode([BEFORE, private].concat());
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

/// Binds a token to a key (RFC 9449 §6.1).
pub(super) fn bind(claims: &mut Map<String, Value>, key: Option<&str>) {
    if let Some(key) = key {
        claims.insert("cnf".to_owned(), json!({ "jkt": key }));
    }
}

/// The key that a token is bound to.
pub(in crate::testing) fn bound_to(claims: &Map<String, Value>) -> Option<&str> {
    claims.get("cnf")?.get("jkt")?.as_str()
}

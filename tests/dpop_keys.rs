//! The keys that tokens are bound to, and the proofs that they sign (RFC 9449 §4).

mod support;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{
    dpop::{Asked, URL, json_answer, part, proof_for, verified},
    key_pair::{ED25519, KeyPair, P256, P384, RSA},
};
use tower_identity::{
    AuthErrorKind, ClientAuth, Identity, ManualClock, Secret, TokenEndpoint,
    oauth::{
        DpopKey, DpopKeys, JwtSigner, Lifetime, SigningAlgorithm, SigningFuture, TokenRequest,
    },
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ALGORITHMS: [(SigningAlgorithm, KeyPair, &str); 5] = [
    (SigningAlgorithm::Es256, P256, "ES256"),
    (SigningAlgorithm::Es384, P384, "ES384"),
    (SigningAlgorithm::EdDsa, ED25519, "EdDSA"),
    (SigningAlgorithm::Rs256, RSA, "RS256"),
    (SigningAlgorithm::Ps256, RSA, "PS256"),
];

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn per_user() -> DpopKeys {
    DpopKeys::per_user(&secret(SECRET)).unwrap()
}

fn user(issuer: Option<&str>, subject: &str) -> Identity {
    let user = Identity::builder(subject);
    let user = match issuer {
        Some(issuer) => user.issuer(issuer),
        None => user,
    };
    user.build().unwrap()
}

/// Signs with the key of a test, as an HSM does.
struct Hsm(KeyPair, jsonwebtoken::Algorithm);

impl JwtSigner for Hsm {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
        let signature = jsonwebtoken::crypto::sign(message, &self.0.private(), self.1);
        Box::pin(async move { Ok(URL_SAFE_NO_PAD.decode(signature?)?) })
    }
}

fn elsewhere(algorithm: SigningAlgorithm, key: KeyPair, name: &str) -> DpopKey {
    let hsm = Hsm(key, name.parse().unwrap());
    let mut public = key.public();
    public["alg"] = json!(name);
    DpopKey::with_signer(algorithm, hsm, &public.to_string()).unwrap()
}

#[tokio::test]
async fn the_proofs_of_each_kind_of_key_are_verified_by_another_library() {
    let mut keys: Vec<(DpopKey, &str)> = Vec::new();
    for (algorithm, key, name) in ALGORITHMS {
        let here = DpopKey::from_pem(algorithm, &secret(key.pem)).unwrap();
        let elsewhere = elsewhere(algorithm, key, name);
        assert_eq!(here.thumbprint(), elsewhere.thumbprint());
        keys.extend([(here, name), (elsewhere, name)]);
    }
    let of_alice = per_user().key(Some(&user(None, "alice"))).unwrap();
    keys.extend([
        (of_alice, "ES256"),
        (per_user().key(None).unwrap(), "ES256"),
    ]);
    keys.push((DpopKey::generate().unwrap(), "ES256"));

    let now = std::time::SystemTime::now();
    let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut proofs = Vec::new();
    for (key, _) in &keys {
        proofs.push(proof_for(key.clone(), URL).await);
    }
    let Some(verified) = verified(&proofs) else {
        return;
    };
    let mut ids = BTreeSet::new();
    for ((key, name), verified) in keys.iter().zip(&verified) {
        assert_eq!(verified.get("error"), None, "{name}: {verified}");
        assert_eq!(verified["thumbprint"], key.thumbprint(), "{name}");
        assert_eq!(verified["header"]["typ"], "dpop+jwt");
        assert_eq!(verified["header"]["alg"], *name);
        let jwk = verified["header"]["jwk"].as_object().unwrap();
        for member in jwk.keys() {
            let public = ["kty", "crv", "x", "y", "n", "e"];
            assert!(public.contains(&&**member), "{member} is shown");
        }
        let claims = &verified["claims"];
        let members: Vec<_> = claims.as_object().unwrap().keys().collect();
        assert_eq!(members, ["htm", "htu", "iat", "jti"]);
        assert_eq!(claims["htm"], "POST");
        assert_eq!(claims["htu"], URL);
        let issued_at = claims["iat"].as_u64().unwrap();
        assert!((now..now + 60).contains(&issued_at));
        // At least 96 bits (RFC 9449 §4.2).
        assert_eq!(claims["jti"].as_str().unwrap().len(), 22);
        ids.insert(claims["jti"].to_string());
    }
    assert_eq!(ids.len(), keys.len(), "two proofs have the same `jti`");
}

#[test]
fn thumbprints_are_those_of_the_rfcs() {
    let rfc_7638 = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    });
    let rfc_8037 = json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let rfc_9449 = part(&proof_of_rfc_9449(), 0)["jwk"].take();
    for (algorithm, jwk, thumbprint) in [
        (
            SigningAlgorithm::Rs256,
            rfc_7638,
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        ),
        (
            SigningAlgorithm::EdDsa,
            rfc_8037,
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        ),
        (
            SigningAlgorithm::Es256,
            rfc_9449,
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        ),
    ] {
        let hsm = Hsm(P256, jsonwebtoken::Algorithm::ES256);
        let key = DpopKey::with_signer(algorithm, hsm, &jwk.to_string()).unwrap();
        assert_eq!(key.thumbprint(), thumbprint);
    }
}

fn rfc_9449() -> Value {
    serde_json::from_str(include_str!("data/rfc9449.json")).unwrap()
}

/// The proof of RFC 9449 §4.1.
fn proof_of_rfc_9449() -> String {
    let proof = rfc_9449()["token_request_with_code"]["dpop"].take();
    proof.as_str().unwrap().to_owned()
}

/// Signs what it is asked to with the signature of another message, and keeps the message.
struct Recorder(Arc<Mutex<Vec<u8>>>);

impl JwtSigner for Recorder {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
        *self.0.lock().unwrap() = message.to_vec();
        let proof = proof_of_rfc_9449();
        let (_, signature) = proof.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature);
        Box::pin(async move { Ok(signature?) })
    }
}

/// `jti` is the only thing that cannot be the same: the RFC's has 15 bytes.
#[tokio::test]
async fn the_proof_of_rfc_9449_section_4_1_is_made_with_the_same_members() {
    let message = Arc::default();
    let public = part(&proof_of_rfc_9449(), 0)["jwk"].take().to_string();
    let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_562_262_616));
    let signer = Recorder(Arc::clone(&message));
    let key = DpopKey::with_signer(SigningAlgorithm::Es256, signer, &public).unwrap();
    let asked = Asked::default();
    let endpoint = asked.endpoint("https://server.example.com/token?tenant=1");
    let endpoint = endpoint.dpop(key.clock(Arc::new(clock))).build().unwrap();
    let request = TokenRequest::client_credentials();
    // The signature is of the RFC's own message, so it does not fit this one.
    let error = endpoint.request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("another key"), "{error}");
    assert!(asked.requests().is_empty());

    let message = String::from_utf8(message.lock().unwrap().clone()).unwrap();
    assert_eq!(part(&message, 0), part(&proof_of_rfc_9449(), 0));
    let mut claims = part(&message, 1);
    let mut theirs = part(&proof_of_rfc_9449(), 1);
    claims["jti"].take();
    theirs["jti"].take();
    assert_eq!(claims, theirs);
}

/// The parameters of a form, in any order.
fn parameters(form: &[u8]) -> BTreeSet<(String, String)> {
    form_urlencoded::parse(form).into_owned().collect()
}

#[tokio::test]
async fn the_token_requests_of_rfc_9449_section_5_go_over_the_wire_and_its_answer_is_understood() {
    let rfc = rfc_9449();
    let asked = Asked::default();
    let endpoint = asked
        .endpoint("https://server.example.com/token")
        .client_auth(ClientAuth::none("s6BhdRkqt"))
        .dpop(DpopKey::generate().unwrap())
        .build()
        .unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let [with_code, with_refresh_token] = [
        "token_request_with_code",
        "token_request_with_refresh_token",
    ]
    .map(|name| &rfc[name]);
    let form = |request: &Value| parameters(text(&request["form"]).as_bytes());
    let of_code = form(with_code);
    let parameter = |name: &str| {
        let mut parameters = of_code.iter();
        &parameters.find(|(key, _)| key == name).unwrap().1
    };
    let request = TokenRequest::authorization_code(parameter("code"))
        .parameter("redirect_uri", parameter("redirect_uri"))
        .parameter("code_verifier", parameter("code_verifier"));
    asked.answer(json_answer(200, &rfc["token_response"]));
    let response = endpoint.request_token(request).await.unwrap();
    assert!(response.is_dpop_bound());
    assert_eq!(
        response.token().expose(),
        rfc["token_response"]["access_token"]
    );
    assert_eq!(
        response.lifetime(),
        Lifetime::For(Duration::from_secs(2_677))
    );
    let refresh_token = response.refresh_token().unwrap().expose();
    let request = TokenRequest::refresh_token(refresh_token);
    endpoint.request_token(request).await.unwrap();

    let (requests, proofs) = (asked.requests(), asked.proofs());
    for (index, theirs) in [with_code, with_refresh_token].into_iter().enumerate() {
        assert_eq!(parameters(requests[index].body()), form(theirs));
        let (ours, theirs) = (&proofs[index], text(&theirs["dpop"]));
        for member in ["typ", "alg"] {
            assert_eq!(part(ours, 0)[member], part(&theirs, 0)[member]);
        }
        let names = |claims: Value| -> BTreeSet<String> {
            claims.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(part(ours, 1)), names(part(&theirs, 1)));
        for member in ["htm", "htu"] {
            assert_eq!(part(ours, 1)[member], part(&theirs, 1)[member]);
        }
    }
    let theirs = [with_code, with_refresh_token].map(|request| text(&request["dpop"]));
    if let Some(verified) = verified(&theirs) {
        assert!(
            verified
                .iter()
                .all(|proof| proof["thumbprint"] == rfc["thumbprint"])
        );
    }
}

#[tokio::test]
async fn a_signer_with_another_key_than_the_public_one_is_told_and_nothing_is_sent() {
    for (algorithm, key, name) in ALGORITHMS {
        let (public, _) = match name {
            "ES256" => (Some(DpopKey::generate().unwrap()), ()),
            _ => (None, ()),
        };
        // For RSA the other padding, for the other curves a key whose coordinate is changed.
        let mut jwk = key.public();
        jwk["alg"] = json!(name);
        let mut signs_as: jsonwebtoken::Algorithm = name.parse().unwrap();
        match (name, public) {
            ("RS256", _) => signs_as = jsonwebtoken::Algorithm::PS256,
            ("PS256", _) => signs_as = jsonwebtoken::Algorithm::RS256,
            ("ES256", Some(public)) => jwk = part(&proof_for(public, URL).await, 0)["jwk"].take(),
            _ => {
                let mut x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
                x[5] ^= 1;
                jwk["x"] = json!(URL_SAFE_NO_PAD.encode(x));
            }
        }
        let key = DpopKey::with_signer(algorithm, Hsm(key, signs_as), &jwk.to_string()).unwrap();
        let asked = Asked::default();
        let endpoint = asked.endpoint(URL).dpop(key).build().unwrap();
        let request = TokenRequest::client_credentials();
        let error = endpoint.request_token(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration, "{name}");
        assert!(error.to_string().contains("another key"), "{name}: {error}");
        assert!(asked.requests().is_empty());
    }
}

#[test]
fn a_public_key_that_is_none_of_the_algorithm_or_has_a_private_part_is_refused() {
    let with = |key: KeyPair, member: &str, value: Value| {
        let mut jwk = key.public();
        jwk[member] = value;
        jwk.to_string()
    };
    let short = URL_SAFE_NO_PAD.encode([7; 31]);
    let n = RSA.public()["n"].as_str().unwrap().to_owned();
    let padded = [&[0], &*URL_SAFE_NO_PAD.decode(&n).unwrap()].concat();
    for (algorithm, jwk) in [
        (SigningAlgorithm::Es256, String::new()),
        (SigningAlgorithm::Es256, "[]".to_owned()),
        (SigningAlgorithm::Es256, "[".repeat(10_000)),
        (SigningAlgorithm::Es256, P384.public().to_string()),
        (SigningAlgorithm::Es384, P256.public().to_string()),
        (SigningAlgorithm::EdDsa, P256.public().to_string()),
        (SigningAlgorithm::Rs256, ED25519.public().to_string()),
        (SigningAlgorithm::Es256, with(P256, "x", json!(short))),
        (SigningAlgorithm::Es256, with(P256, "y", json!(17))),
        (SigningAlgorithm::Es256, with(P256, "x", json!("a+/="))),
        (SigningAlgorithm::Es256, with(P256, "d", json!("secret"))),
        (SigningAlgorithm::Rs256, with(RSA, "qi", json!("secret"))),
        (SigningAlgorithm::Rs256, with(RSA, "n", json!("AQAB"))),
        (SigningAlgorithm::Rs256, with(RSA, "e", json!(""))),
        (SigningAlgorithm::Ps256, with(RSA, "alg", json!("RS256"))),
        (SigningAlgorithm::Es256, with(P256, "use", json!("enc"))),
        (
            SigningAlgorithm::Rs256,
            with(RSA, "n", json!(URL_SAFE_NO_PAD.encode(padded))),
        ),
    ] {
        let hsm = Hsm(P256, jsonwebtoken::Algorithm::ES256);
        let error = DpopKey::with_signer(algorithm, hsm, &jwk).unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1);
        assert_eq!(error.invalid_settings()[0].setting(), "public_jwk");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[test]
fn a_pem_that_is_no_key_of_the_algorithm_is_refused_and_not_shown() {
    for (algorithm, pem) in [
        (SigningAlgorithm::Es256, P384.pem),
        (SigningAlgorithm::Es256, "MIGHAgEAMBMGByqGSM49"),
        (SigningAlgorithm::EdDsa, RSA.pem),
        (SigningAlgorithm::Rs256, P256.pem),
        (
            SigningAlgorithm::Es256,
            include_str!("support/keys/p256.pub.pem"),
        ),
    ] {
        let error = DpopKey::from_pem(algorithm, &secret(pem)).unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "pem");
        let line = pem.lines().nth(1).unwrap_or(pem);
        assert!(!format!("{error} {error:?}").contains(line));
    }
}

#[tokio::test]
async fn the_address_in_a_proof_is_normalized() {
    for (url, htu) in [
        (URL, URL),
        (
            "https://IDP.Example.com/Token",
            "https://idp.example.com/Token",
        ),
        ("https://idp.example.com:443/token", URL),
        (
            "https://idp.example.com:8443/token",
            "https://idp.example.com:8443/token",
        ),
        ("http://localhost:80/token", "http://localhost/token"),
        ("https://idp.example.com", "https://idp.example.com/"),
        (
            "https://idp.example.com?tenant=1",
            "https://idp.example.com/",
        ),
        ("https://idp.example.com/token?tenant=1", URL),
        ("https://idp.example.com/token?", URL),
        (
            "https://[::1]:9443/a/../b/%2F",
            "https://[::1]:9443/a/../b/%2F",
        ),
    ] {
        let proof = proof_for(DpopKey::generate().unwrap(), url).await;
        assert_eq!(part(&proof, 1)["htu"], htu);
    }
}

/// Mostly the characters that JSON or a URI gives a meaning.
fn path() -> impl Strategy<Value = String> {
    let odd = prop::char::ranges(vec!['\0'..='\u{ff}', '\u{2020}'..='\u{2030}'].into());
    let character = prop_oneof![Just('"'), Just('\\'), Just('\u{7f}'), Just('/'), odd];
    prop::collection::vec(character, 0..40).prop_map(|path| path.into_iter().collect())
}

proptest! {
    #[test]
    fn whatever_path_a_uri_may_have_the_proof_is_json_with_that_path(path in path()) {
        let url = format!("https://idp.example.com/{path}");
        let Ok(uri) = url.parse::<Uri>() else {
            return Ok(());
        };
        let asked = Asked::default();
        let Ok(endpoint) = asked.endpoint(&url).dpop(key()).build() else {
            return Ok(());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(endpoint.request_token(TokenRequest::client_credentials())).unwrap();
        let claims = part(&asked.proofs()[0], 1);
        prop_assert_eq!(&claims["htu"], &format!("https://idp.example.com{}", uri.path()));
        prop_assert_eq!(claims.as_object().unwrap().len(), 4);
    }
}

fn key() -> DpopKey {
    DpopKey::from_pem(SigningAlgorithm::EdDsa, &secret(ED25519.pem)).unwrap()
}

#[tokio::test]
async fn a_clock_and_a_random_source_that_are_set_are_those_of_each_proof() {
    let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000)));
    let set = |keys: DpopKeys| keys.clock(clock.clone()).random(|| Ok([7; 16]));
    for keys in [set(key().into()), set(per_user())] {
        let claims = part(&proof_for(keys, URL).await, 1);
        assert_eq!(claims["iat"], 1_000);
        assert_eq!(claims["jti"], URL_SAFE_NO_PAD.encode([7; 16]));
    }
    let failing = key().random(|| Err("no randomness".into()));
    let asked = Asked::default();
    let endpoint = asked.endpoint(URL).dpop(failing).build().unwrap();
    let request = TokenRequest::client_credentials();
    let error = endpoint.request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(asked.requests().is_empty());
}

#[test]
fn no_key_material_is_in_debug() {
    let mut shown = Vec::new();
    let mut secrets = vec![SECRET.to_owned()];
    for (algorithm, key, _) in ALGORITHMS {
        let dpop_key = DpopKey::from_pem(algorithm, &secret(key.pem)).unwrap();
        shown.push(format!(
            "{dpop_key:?} {:?}",
            DpopKeys::from(dpop_key.clone())
        ));
        let client = support::dpop::Asked::default();
        let builder = client.endpoint(URL).dpop(dpop_key.clone());
        shown.push(format!("{builder:?}"));
        shown.push(format!("{:?}", builder.build().unwrap()));
        let request = TokenRequest::client_credentials().dpop_key(dpop_key);
        shown.push(format!("{request:?}"));
        secrets.extend(
            key.pem
                .lines()
                .filter(|line| !line.starts_with("---"))
                .map(str::to_owned),
        );
    }
    let keys = per_user();
    shown.push(format!("{keys:?} {:?}", keys.key(None).unwrap()));
    for shown in &shown {
        for secret in &secrets {
            assert!(!shown.contains(&**secret), "{shown}");
        }
    }
}

// A key for each user.

#[test]
fn the_key_of_a_user_is_the_same_on_each_replica_and_after_a_restart() {
    // Computed by another implementation (Python's cryptography): HKDF-SHA256 with the salt "tower-identity DPoP key" and
    // as info the SHA-256 of "user", issuer and subject, each after its length in 8 bytes, and a zero.
    for (identity, thumbprint) in [
        (
            Some(user(Some("https://issuer.example.com"), "alice")),
            "YAC8hy4Ua8EZaOZ7UnekSBVdFbwzKhbp9olYaHYx2Q8",
        ),
        (
            Some(user(None, "alice")),
            "kNW9Y2z831Nx7ybg7Y1QFmubuIzRlcTg1rDUgHgRsX4",
        ),
        (None, "B-M3z0zdeQTGRUGiPjGST8MrXl9ZpGy4hFOUZmJlhPg"),
    ] {
        let [one, another] = [per_user(), per_user()];
        for keys in [&one, &another, &one] {
            assert_eq!(
                keys.key(identity.as_ref()).unwrap().thumbprint(),
                thumbprint
            );
        }
    }
}

#[test]
fn each_user_of_each_issuer_has_another_key_and_each_secret_other_keys() {
    let other = DpopKeys::per_user(&secret("0123456789abcdef0123456789abcdeF")).unwrap();
    let mut thumbprints = BTreeSet::new();
    let mut count = 0;
    for keys in [&per_user(), &other] {
        for identity in [
            None,
            Some(user(None, "alice")),
            Some(user(None, "client")),
            Some(user(Some("alice"), "bob")),
            Some(user(Some("bob"), "alice")),
            // The same text, were issuer and subject only put together.
            Some(user(Some("https://issuer.example.com/a"), "lice")),
            Some(user(Some("https://issuer.example.com/"), "alice")),
            Some(user(Some("https://issuer.example.com"), "/alice")),
        ] {
            let key = keys.key(identity.as_ref()).unwrap();
            thumbprints.insert(key.thumbprint().to_owned());
            count += 1;
        }
    }
    assert_eq!(thumbprints.len(), count);
}

#[test]
fn a_secret_that_is_too_short_is_refused() {
    let error = DpopKeys::per_user(&secret(&SECRET[1..])).unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "secret");
    assert!(!error.to_string().contains(&SECRET[1..]));
}

#[test]
fn one_key_is_the_key_of_everybody() {
    let key = DpopKey::generate().unwrap();
    let keys = DpopKeys::from(key.clone());
    for identity in [None, Some(user(None, "alice")), Some(user(None, "bob"))] {
        let same = keys.key(identity.as_ref()).unwrap();
        assert_eq!(same.thumbprint(), key.thumbprint());
    }
    assert_ne!(key.thumbprint(), DpopKey::generate().unwrap().thumbprint());
}

#[tokio::test]
async fn a_request_has_the_proof_of_its_own_user() {
    let asked = Asked::default();
    let keys = per_user();
    let endpoint: TokenEndpoint = asked.endpoint(URL).dpop(keys.clone()).build().unwrap();
    let mut thumbprints = Vec::new();
    for identity in [None, Some(user(None, "alice")), Some(user(None, "bob"))] {
        let key = keys.key(identity.as_ref()).unwrap();
        thumbprints.push(key.thumbprint().to_owned());
        let request = TokenRequest::client_credentials();
        let request = match identity {
            Some(_) => request.dpop_key(key),
            None => request,
        };
        endpoint.request_token(request).await.unwrap();
    }
    let Some(verified) = verified(&asked.proofs()) else {
        return;
    };
    let of_proofs: Vec<_> = verified
        .iter()
        .map(|proof| proof["thumbprint"].clone())
        .collect();
    assert_eq!(of_proofs, thumbprints);
}

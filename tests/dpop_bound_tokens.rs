//! Tokens that are bound to a key (DPoP, RFC 9449) are accepted with a proof for the request, and never without.
#![cfg(all(feature = "incoming", feature = "dpop"))]

mod support;

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Router, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use jsonwebtoken::{
    Algorithm,
    jwk::{Jwk, ThumbprintHash},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use support::{
    identity_provider::{
        AUDIENCE, ED25519, INTROSPECT, IdentityProvider, KeyPair, P256, P384, RSA, client, some_day,
    },
    log::Log,
};
use tower::{Layer, ServiceExt, util::BoxCloneService};
use tower_identity::{
    AuthError, AuthErrorKind, Identity, IntrospectionEndpoint, KeySet, ManualClock, TokenValidator,
    TokenValidatorLayer,
    incoming::{ClientCertificate, DpopPolicy, ProofStore, TokenValidatorBuilder},
    oauth::SigningAlgorithm,
    upstream::{SealingKey, UpstreamFuture},
};

const ISSUER: &str = "https://issuer.example.com";
const URL: &str = "https://gateway.example.com";
const RESOURCE: &str = "https://gateway.example.com/mcp";
const METADATA: &str = "https://gateway.example.com/.well-known/oauth-protected-resource/mcp";

fn policy() -> DpopPolicy {
    DpopPolicy::new().url(URL)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(some_day()))
}

/// The issuer signs with RSA, so that no holder of a token has its key.
fn builder() -> TokenValidatorBuilder {
    let keys = json!({ "keys": [RSA.public()] }).to_string();
    TokenValidator::builder_with_keys(ISSUER, KeySet::from_json(keys).unwrap())
        .audience(AUDIENCE)
        .clock(clock())
}

fn validator(policy: DpopPolicy) -> TokenValidator {
    builder().dpop(policy).build().unwrap()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    let now = seconds(some_day());
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 86_400 })
}

fn token(claims: &Value) -> String {
    RSA.sign(&RSA.header(), claims)
}

fn unbound() -> String {
    token(&claims())
}

fn bound_by(confirmation: Value) -> String {
    let mut claims = claims();
    claims["cnf"] = confirmation;
    token(&claims)
}

fn bound_to(key: KeyPair) -> String {
    bound_by(json!({ "jkt": thumbprint(key) }))
}

fn jwk_of(key: KeyPair) -> Value {
    let mut jwk = key.public();
    for name in ["kid", "use", "alg"] {
        jwk.as_object_mut().unwrap().remove(name);
    }
    jwk
}

/// As `jsonwebtoken` makes it.
fn thumbprint(key: KeyPair) -> String {
    let jwk: Jwk = serde_json::from_value(key.public()).unwrap();
    jwk.thumbprint(ThumbprintHash::SHA256).unwrap()
}

fn ath(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token))
}

fn fresh_jti() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);

    format!("jti-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A proof for `GET /mcp`, until it is changed.
#[derive(Clone)]
struct Proof {
    key: KeyPair,
    header: Value,
    claims: Value,
}

impl Proof {
    fn new(key: KeyPair, token: &str) -> Self {
        Self {
            key,
            header: json!({
                "typ": "dpop+jwt",
                "alg": format!("{:?}", key.algorithm),
                "jwk": jwk_of(key),
            }),
            claims: json!({
                "jti": fresh_jti(),
                "htm": "GET",
                "htu": RESOURCE,
                "iat": seconds(some_day()),
                "ath": ath(token),
            }),
        }
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    fn jwk(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header["jwk"][name] = value.into();
        self
    }

    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    fn without(mut self, part: &str, name: &str) -> Self {
        let members = match part {
            "header" => &mut self.header,
            "jwk" => &mut self.header["jwk"],
            _ => &mut self.claims,
        };
        members.as_object_mut().unwrap().remove(name).unwrap();
        self
    }

    fn signed(&self) -> String {
        self.key.sign(&self.header, &self.claims)
    }
}

fn request(scheme: &str, token: &str, proofs: &[&str]) -> Request<()> {
    let mut request = Request::get("/mcp?query=1").body(()).unwrap();
    let headers = request.headers_mut();
    let value = HeaderValue::try_from(format!("{scheme} {token}")).unwrap();
    headers.insert(AUTHORIZATION, value);
    for proof in proofs {
        headers.append("dpop", HeaderValue::from_str(proof).unwrap());
    }
    request
}

fn dpop(token: &str, proof: &Proof) -> Request<()> {
    request("DPoP", token, &[&proof.signed()])
}

type Outcome = Result<Identity, AuthError>;

fn check(validator: &TokenValidator, request: &Request<()>) -> Outcome {
    validator.validate_request(request).now_or_never().unwrap()
}

/// The status, the error code and the challenge of the response.
fn told(error: &AuthError) -> (StatusCode, String, String) {
    let response = error.to_response::<Bytes>();
    let challenge = response.headers().get(WWW_AUTHENTICATE);
    let challenge = challenge.map_or("", |value| value.to_str().unwrap());
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    let code = body["error"].as_str().unwrap();
    (response.status(), code.to_owned(), challenge.to_owned())
}

#[track_caller]
fn assert_refused(outcome: Outcome, code: &str, word: &str) {
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains(word), "{error}");
    let (status, told, challenge) = told(&error);
    assert_eq!(
        (status, &*told),
        (StatusCode::UNAUTHORIZED, code),
        "{error}"
    );
    assert!(
        challenge.contains(&format!(r#"error="{code}""#)),
        "{challenge}"
    );
}

#[track_caller]
fn assert_bad_proof(validator: &TokenValidator, token: &str, proof: &str, word: &str) {
    let outcome = check(validator, &request("DPoP", token, &[proof]));
    assert_refused(outcome, "invalid_dpop_proof", word);
}

// What passes.

#[test]
fn a_bound_token_with_a_proof_of_its_key_becomes_the_identity_of_the_request() {
    let token = bound_to(P256);
    let validator = validator(policy());
    for scheme in ["DPoP", "dpop", "DPOP"] {
        let proof = Proof::new(P256, &token);
        let request = request(scheme, &token, &[&proof.signed()]);
        let identity = check(&validator, &request).unwrap();
        assert_eq!(identity.subject(), "alice");
        assert_eq!(identity.claims()["cnf"]["jkt"], thumbprint(P256));
    }
}

#[test]
fn proofs_of_each_algorithm_are_verified_where_it_is_accepted() {
    let all = validator(policy().algorithms([
        SigningAlgorithm::Es256,
        SigningAlgorithm::Es384,
        SigningAlgorithm::EdDsa,
        SigningAlgorithm::Rs256,
        SigningAlgorithm::Ps256,
    ]));
    let default = validator(policy());
    for (key, is_default) in [(P256, true), (ED25519, true), (P384, false), (RSA, false)] {
        let token = bound_to(key);
        check(&all, &dpop(&token, &Proof::new(key, &token))).unwrap();
        let outcome = check(&default, &dpop(&token, &Proof::new(key, &token)));
        if is_default {
            outcome.unwrap();
        } else {
            assert_refused(outcome, "invalid_dpop_proof", "`alg`");
        }
    }
    let token = bound_to(RSA);
    let ps256 = Proof::new(RSA, &token).header("alg", "PS256");
    let ps256 = RSA.sign_as(Algorithm::PS256, &ps256.header, &ps256.claims);
    check(&all, &request("DPoP", &token, &[&ps256])).unwrap();
    let token = bound_to(ED25519);
    let ed25519 = Proof::new(ED25519, &token).header("alg", "Ed25519");
    check(&default, &dpop(&token, &ed25519)).unwrap();
}

/// RFC 9449, figures 12 and 2. Their lines are joined.
const PROOF_OF_FIGURE_12: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
const PROOF_OF_FIGURE_2: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
const TOKEN_OF_FIGURE_12: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const THUMBPRINT_OF_FIGURE_7: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

#[tokio::test]
async fn the_request_of_the_rfcs_example_passes_at_its_time_and_once() {
    let provider = IdentityProvider::start(P256).await;
    let then = UNIX_EPOCH + Duration::from_secs(1_562_262_620);
    let mut said = provider.claims("alice", then);
    said["active"] = json!(true);
    said["token_type"] = json!("DPoP");
    said["cnf"] = json!({ "jkt": THUMBPRINT_OF_FIGURE_7 });
    provider.introspects(TOKEN_OF_FIGURE_12, said);
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client());
    let clock = Arc::new(ManualClock::new(then));
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .introspection(endpoint.build().unwrap())
        .dpop(DpopPolicy::new().url("https://resource.example.org"))
        .clock(clock.clone())
        .build()
        .unwrap();
    let ask = |method: Method, path: &str, proof: &str| {
        let mut request = request("DPoP", TOKEN_OF_FIGURE_12, &[proof]);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        validator.validate_request(&request)
    };
    let path = "/protectedresource";
    let identity = ask(Method::GET, path, PROOF_OF_FIGURE_12).await.unwrap();
    assert_eq!(identity.subject(), "alice");

    let outcome = ask(Method::GET, path, PROOF_OF_FIGURE_12).await;
    assert_refused(outcome, "invalid_dpop_proof", "used before");
    let outcome = ask(Method::POST, "/token", PROOF_OF_FIGURE_2).await;
    assert_refused(outcome, "invalid_dpop_proof", "`htu`");
    clock.advance(Duration::from_secs(59));
    let outcome = ask(Method::GET, path, PROOF_OF_FIGURE_12).await;
    assert_refused(outcome, "invalid_dpop_proof", "`iat`");
}

#[tokio::test]
async fn an_opaque_token_is_bound_by_what_introspection_says_of_it() {
    let provider = IdentityProvider::start(P256).await;
    let mut said = provider.claims("alice", some_day());
    said["active"] = json!(true);
    provider.introspects("unbound", said.clone());
    said["token_type"] = json!("DPoP");
    provider.introspects("without-a-key", said.clone());
    said["cnf"] = json!({ "jkt": thumbprint(P256) });
    provider.introspects("bound", said);
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client());
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .introspection(endpoint.build().unwrap())
        .dpop(policy())
        .clock(clock())
        .build()
        .unwrap();
    let with_proof = |token: &str, key| dpop(token, &Proof::new(key, token));
    let ask = |request: Request<()>| validator.validate_request(&request);
    assert_eq!(
        ask(with_proof("bound", P256)).await.unwrap().subject(),
        "alice"
    );
    let outcome = ask(with_proof("bound", ED25519)).await;
    assert_refused(outcome, "invalid_token", "another key");
    let outcome = ask(request("Bearer", "bound", &[])).await;
    assert_refused(outcome, "invalid_token", "without a proof");
    let outcome = ask(with_proof("unbound", P256)).await;
    assert_refused(outcome, "invalid_token", "not bound");
    let outcome = ask(with_proof("without-a-key", P256)).await;
    assert_refused(outcome, "invalid_token", "`token_type`");
    ask(request("Bearer", "unbound", &[])).await.unwrap();
}

// Which tokens are accepted, and how.

#[test]
fn f71_a_token_that_is_bound_to_a_key_is_refused_without_its_proof_in_every_configuration() {
    let token = bound_to(P256);
    for builder in [
        builder(),
        builder().admit_bound_tokens(),
        builder().cache_tokens(10),
        builder().dpop(policy()),
        builder().dpop(policy().require()),
        builder().dpop(policy()).admit_bound_tokens(),
    ] {
        let validator = builder.build().unwrap();
        // Where it is remembered, too.
        for _ in 0..2 {
            for outcome in [
                check(&validator, &request("Bearer", &token, &[])),
                check(
                    &validator,
                    &request("Bearer", &token, &[&Proof::new(P256, &token).signed()]),
                ),
                validator.validate(&token).now_or_never().unwrap(),
            ] {
                assert_refused(outcome, "invalid_token", "bound to a key");
            }
        }
    }
    let unaware = builder().build().unwrap();
    let outcome = check(&unaware, &dpop(&token, &Proof::new(P256, &token)));
    assert_eq!(outcome.unwrap_err().kind(), AuthErrorKind::MissingIdentity);
    let outcome = check(&validator(policy()), &request("DPoP", &token, &[]));
    assert_refused(outcome, "invalid_dpop_proof", "no DPoP header");
}

#[test]
fn a_stolen_token_is_refused_with_the_proof_of_another_key() {
    let token = bound_to(P256);
    let validator = builder().cache_tokens(10).dpop(policy()).build().unwrap();
    for _ in 0..2 {
        let outcome = check(&validator, &dpop(&token, &Proof::new(ED25519, &token)));
        assert_refused(outcome, "invalid_token", "another key");
        check(&validator, &dpop(&token, &Proof::new(P256, &token))).unwrap();
    }
}

#[test]
fn the_proof_is_checked_for_each_request_also_where_the_token_is_remembered() {
    let token = bound_to(P256);
    let validator = builder().cache_tokens(10).dpop(policy()).build().unwrap();
    let proof = Proof::new(P256, &token);
    check(&validator, &dpop(&token, &proof)).unwrap();
    let outcome = check(&validator, &dpop(&token, &proof));
    assert_refused(outcome, "invalid_dpop_proof", "used before");
    let outcome = check(
        &validator,
        &dpop(&token, &Proof::new(P256, &token).claim("htm", "PUT")),
    );
    assert_refused(outcome, "invalid_dpop_proof", "`htm`");
    check(&validator, &dpop(&token, &Proof::new(P256, &token))).unwrap();
}

#[test]
fn a_token_that_is_not_bound_is_a_bearer_token_unless_all_have_to_be_bound() {
    let token = unbound();
    let lenient = validator(policy());
    check(&lenient, &request("Bearer", &token, &[])).unwrap();
    let outcome = check(&lenient, &dpop(&token, &Proof::new(P256, &token)));
    assert_refused(outcome, "invalid_token", "not bound");

    let strict = validator(policy().require());
    let outcome = check(&strict, &request("Bearer", &token, &[]));
    assert_refused(outcome, "invalid_token", "bound to a key is needed");
    let outcome = check(&strict, &dpop(&token, &Proof::new(P256, &token)));
    assert_refused(outcome, "invalid_token", "not bound");
    let token = bound_to(P256);
    check(&strict, &dpop(&token, &Proof::new(P256, &token))).unwrap();
}

#[test]
fn a_token_that_is_bound_to_a_key_and_a_certificate_needs_both() {
    let certificate = ClientCertificate::from_der(b"a certificate");
    let token = bound_by(json!({
        "jkt": thumbprint(P256),
        "x5t#S256": certificate.thumbprint(),
    }));
    let validator = validator(policy());
    let proven = || dpop(&token, &Proof::new(P256, &token));
    assert_refused(check(&validator, &proven()), "invalid_token", "certificate");
    let mut over_it = request("Bearer", &token, &[]);
    over_it.extensions_mut().insert(certificate);
    assert_refused(
        check(&validator, &over_it),
        "invalid_token",
        "without a proof",
    );
    let mut both = proven();
    both.extensions_mut().insert(certificate);
    check(&validator, &both).unwrap();
}

#[test]
fn f71_a_confirmation_that_is_not_understood_is_refused_beside_one_that_is() {
    let jkt = thumbprint(P256);
    let validator = validator(policy());
    for confirmation in [
        json!({ "jkt": jkt, "kid": "other" }),
        json!({ "jkt": jkt, "jwk": jwk_of(P256) }),
        json!({ "jkt": null }),
        json!({ "jkt": 1 }),
        json!({ "jkt": [jkt] }),
        json!({ "jkt": format!("{jkt}=") }),
        json!({ "jkt": &jkt[1..] }),
        json!({ "jkt": "" }),
        json!([{ "jkt": jkt }]),
        json!(jkt),
        json!({}),
        Value::Null,
    ] {
        let token = bound_by(confirmation);
        let outcome = check(&validator, &dpop(&token, &Proof::new(P256, &token)));
        assert_refused(outcome, "invalid_token", "`cnf`");
    }
}

// Proofs with wrong everything.

#[test]
fn there_is_one_proof_in_one_header() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let (first, second) = (
        Proof::new(P256, &token).signed(),
        Proof::new(P256, &token).signed(),
    );
    let twice = check(&validator, &request("DPoP", &token, &[&first, &second]));
    assert_refused(twice, "invalid_dpop_proof", "more than one");
    let same = check(&validator, &request("DPoP", &token, &[&first, &first]));
    assert_refused(same, "invalid_dpop_proof", "more than one");
    for proof in [
        format!("{first},{second}"),
        format!("{first}, {second}"),
        format!("{first} {second}"),
        format!("DPoP {first}"),
        format!("{first}."),
        format!(".{first}"),
        format!("{first}="),
        format!("{first}.{first}"),
        first.replace('.', ""),
        first.replacen('.', "", 1),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "\u{7f}".replace('\u{7f}', "\t"),
    ] {
        assert_bad_proof(&validator, &token, &proof, "malformed");
    }
    let mut odd = request("DPoP", &token, &[]);
    let value = HeaderValue::from_bytes(b"\xff.\xff.\xff").unwrap();
    odd.headers_mut().insert("dpop", value);
    assert_refused(check(&validator, &odd), "invalid_dpop_proof", "malformed");
    // None of them was used up.
    check(&validator, &request("DPoP", &token, &[&first])).unwrap();
}

#[test]
fn a_proof_with_a_wrong_header_is_refused() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let good = || Proof::new(P256, &token);
    let wrong = |value: Value| good().header("typ", value);
    for proof in [
        good().without("header", "typ"),
        wrong(Value::Null),
        wrong(json!("JWT")),
        wrong(json!("at+jwt")),
        wrong(json!("dpop+jwt ")),
        wrong(json!(["dpop+jwt"])),
        wrong(json!(1)),
    ] {
        assert_bad_proof(&validator, &token, &proof.signed(), "`typ`");
    }
    let wrong = |value: Value| good().header("alg", value);
    for proof in [
        good().without("header", "alg"),
        wrong(Value::Null),
        wrong(json!("none")),
        wrong(json!("None")),
        wrong(json!("HS256")),
        wrong(json!("RS256")),
        wrong(json!("ES384")),
        wrong(json!("ES256K")),
        wrong(json!("es256")),
        wrong(json!("")),
        wrong(json!(["ES256"])),
        wrong(json!(256)),
    ] {
        assert_bad_proof(&validator, &token, &proof.signed(), "`alg`");
    }
    let wrong = |value: Value| good().header("jwk", value);
    for proof in [
        good().without("header", "jwk"),
        wrong(Value::Null),
        wrong(json!("key")),
        wrong(json!([jwk_of(P256)])),
        wrong(json!(jwk_of(P256).to_string())),
    ] {
        assert_bad_proof(&validator, &token, &proof.signed(), "no `jwk`");
    }
    for crit in [json!(["b64"]), json!([]), Value::Null] {
        let proof = good().header("crit", crit).signed();
        assert_bad_proof(&validator, &token, &proof, "extension");
    }
    let array = json!(["dpop+jwt", "ES256", jwk_of(P256)]);
    let array = P256.sign(&array, &good().claims);
    assert_bad_proof(&validator, &token, &array, "malformed");
    let array = P256.sign(&good().header, &json!(["jti", "GET"]));
    assert_bad_proof(&validator, &token, &array, "malformed");
}

#[test]
fn a_key_that_is_not_a_public_one_of_its_algorithm_is_refused() {
    let token = bound_to(P256);
    let all = [
        SigningAlgorithm::Es256,
        SigningAlgorithm::Es384,
        SigningAlgorithm::EdDsa,
        SigningAlgorithm::Rs256,
        SigningAlgorithm::Ps256,
    ];
    let validator = validator(policy().algorithms(all));
    let good = || Proof::new(P256, &token);
    for name in ["d", "p", "q", "dp", "dq", "qi", "k", "oth"] {
        for value in [json!("AQAB"), Value::Null, json!(1), json!([])] {
            let proof = good().jwk(name, value).signed();
            assert_bad_proof(&validator, &token, &proof, "private part");
        }
    }
    let jwk = jwk_of(P256);
    let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
    let octets = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let encoded = |octets: Vec<u8>| URL_SAFE_NO_PAD.encode(octets);
    for proof in [
        good().jwk("kty", "OKP"),
        good().jwk("kty", "ec"),
        good().jwk("kty", "oct"),
        good().jwk("kty", Value::Null),
        good().without("jwk", "kty"),
        good().jwk("crv", "P-384"),
        good().jwk("crv", "secp256k1"),
        good().without("jwk", "crv"),
        good().without("jwk", "x"),
        good().without("jwk", "y"),
        good().jwk("x", 1),
        good().jwk("x", format!("{x}=")),
        good().jwk("x", format!("{x}A")),
        good().jwk("x", encoded([&[0][..], &octets(x)].concat())),
        good().jwk("x", encoded(octets(x)[1..].to_vec())),
        good().jwk("y", ""),
        good().jwk("alg", "ES384"),
        good().jwk("alg", 1),
        good().jwk("use", "enc"),
        good().jwk("use", Value::Null),
        good().header("jwk", json!({})),
        good().header("jwk", jwk_of(ED25519)),
        good().header("jwk", jwk_of(P384)),
        good().header("jwk", jwk_of(RSA)),
        good().header("alg", "EdDSA"),
        good().header("alg", "PS256"),
    ] {
        assert_bad_proof(
            &validator,
            &token,
            &proof.signed(),
            "not a public key of its algorithm",
        );
    }
    for proof in [
        // A point that is on no curve, and the point at infinity.
        good().jwk("x", y).jwk("y", x),
        good()
            .jwk("x", encoded(vec![0; 32]))
            .jwk("y", encoded(vec![0; 32])),
    ] {
        assert_bad_proof(&validator, &token, &proof.signed(), "signature");
    }

    let token = bound_to(RSA);
    let good = || Proof::new(RSA, &token);
    let n = octets(jwk_of(RSA)["n"].as_str().unwrap());
    for proof in [
        good().jwk("n", encoded(vec![0xff; 128])),
        good().jwk("n", encoded(vec![0xff; 1024])),
        good().jwk("n", encoded([&[0][..], &n].concat())),
        good().jwk("n", ""),
        good().jwk("e", encoded(vec![0, 1, 0, 1])),
        good().jwk("e", encoded(vec![1; 64])),
        good().jwk("e", ""),
    ] {
        assert_bad_proof(
            &validator,
            &token,
            &proof.signed(),
            "not a public key of its algorithm",
        );
    }
}

#[test]
fn a_signature_of_another_key_or_another_text_is_refused() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let good = Proof::new(P256, &token);
    let signed = good.signed();
    let (message, signature) = signed.rsplit_once('.').unwrap();
    let other = P256.sign(&good.header, &json!({ "other": 1 }));
    let der = {
        let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let integer = |bytes: &[u8]| [&[2, 33, 0], bytes].concat();
        let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
        URL_SAFE_NO_PAD.encode([&[0x30, body.len() as u8][..], &body].concat())
    };
    for signature in [
        "",
        "AAAA",
        other.rsplit_once('.').unwrap().1,
        &URL_SAFE_NO_PAD.encode([0; 64]),
        &der,
    ] {
        let proof = format!("{message}.{signature}");
        assert_bad_proof(&validator, &token, &proof, "signature");
    }
    let of_another = Proof {
        key: ED25519,
        ..good
    }
    .signed();
    assert_bad_proof(&validator, &token, &of_another, "signature");
}

#[test]
fn a_proof_with_a_wrong_claim_is_refused() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let good = || Proof::new(P256, &token);
    let now = seconds(some_day());
    let odd = [
        Value::Null,
        json!(1),
        json!([]),
        json!({}),
        json!(true),
        json!(""),
    ];
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        let word = format!("`{name}`");
        assert_bad_proof(
            &validator,
            &token,
            &good().without("claims", name).signed(),
            &word,
        );
        for value in &odd {
            let proof = good().claim(name, value.clone()).signed();
            assert_bad_proof(&validator, &token, &proof, &word);
        }
    }
    for (name, values) in [
        ("jti", vec![json!("x".repeat(257)), json!(["jti"])]),
        (
            "htm",
            vec![json!("get"), json!("POST"), json!("GET "), json!(["GET"])],
        ),
        (
            "htu",
            vec![
                json!("https://gateway.example.com/other"),
                json!("https://gateway.example.com/mcp/"),
                json!("https://gateway.example.com/mcp%2F"),
                json!("https://other.example.com/mcp"),
                json!("https://gateway.example.com:8443/mcp"),
                json!("http://gateway.example.com/mcp"),
                json!("https://gateway.example.com@evil.example/mcp"),
                json!("/mcp"),
                json!([RESOURCE]),
            ],
        ),
        (
            "iat",
            vec![
                json!(now - 61),
                json!(now + 61),
                json!(now - 1_000_000_000),
                json!(0),
                json!(-1),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(1e300),
                json!(-1e300),
                json!(now as f64 + 60.5),
                json!(now * 1000),
                json!(now.to_string()),
                json!([now]),
            ],
        ),
        (
            "ath",
            vec![
                json!(ath("other")),
                json!(format!("{}=", ath(&token))),
                json!(ath(&token).to_lowercase()),
            ],
        ),
    ] {
        for value in values {
            let proof = good().claim(name, value.clone()).signed();
            assert_bad_proof(&validator, &token, &proof, &format!("`{name}`"));
        }
    }
    for nonce in [Value::Null, json!(1), json!(["a"])] {
        let proof = good().claim("nonce", nonce).signed();
        assert_bad_proof(&validator, &token, &proof, "`nonce`");
    }
    // Some JSON that `serde_json` would not write.
    let (_, signed) = ("", good().signed());
    let header = signed.split('.').next().unwrap();
    for claims in ["", "{", "{\"iat\":1e999}", "{}{}", "[[[[", "\u{0}"] {
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &P256.private(), Algorithm::ES256);
        let proof = format!("{message}.{}", signature.unwrap());
        assert_bad_proof(&validator, &token, &proof, "malformed");
    }
}

#[test]
fn a_proof_within_the_window_passes_and_its_url_may_be_written_in_other_ways() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let now = seconds(some_day());
    let good = || Proof::new(P256, &token);
    for iat in [json!(now - 60), json!(now + 60), json!(now as f64 + 0.25)] {
        check(&validator, &dpop(&token, &good().claim("iat", iat))).unwrap();
    }
    for htu in [
        "https://gateway.example.com/mcp?query=1",
        "https://gateway.example.com/mcp?another#fragment",
        "HTTPS://GATEWAY.example.com:443/mcp",
        "https://gateway.example.com/%6dcp",
        "https://gateway.example.com/a/../mcp",
    ] {
        check(&validator, &dpop(&token, &good().claim("htu", htu))).unwrap();
    }
    for typ in ["DPoP+JWT", "application/dpop+jwt"] {
        check(&validator, &dpop(&token, &good().header("typ", typ))).unwrap();
    }
    let unknown = good().claim("exp", 1).claim("aud", "x").header("kid", "y");
    check(
        &validator,
        &dpop(&token, &unknown.jwk("alg", "ES256").jwk("use", "sig")),
    )
    .unwrap();
}

#[test]
fn the_url_is_a_setting_and_never_the_host_of_the_request() {
    let token = bound_to(P256);
    let stolen_at = |host: &str| {
        let htu = format!("https://{host}/mcp");
        let mut request = dpop(&token, &Proof::new(P256, &token).claim("htu", htu));
        request
            .headers_mut()
            .insert("host", HeaderValue::from_str(host).unwrap());
        request
            .headers_mut()
            .insert("x-forwarded-host", HeaderValue::from_str(host).unwrap());
        request
    };
    let by_url = validator(policy());
    let by_resource = builder()
        .resource(RESOURCE)
        .dpop(DpopPolicy::new())
        .build()
        .unwrap();
    for validator in [by_url, by_resource] {
        let outcome = check(&validator, &stolen_at("evil.example"));
        assert_refused(outcome, "invalid_dpop_proof", "`htu`");
        let mut absolute = stolen_at("evil.example");
        *absolute.uri_mut() = "https://evil.example/mcp".parse().unwrap();
        let outcome = check(&validator, &absolute);
        assert_refused(outcome, "invalid_dpop_proof", "`htu`");
        check(&validator, &stolen_at("gateway.example.com")).unwrap();
    }
    let several = validator(
        policy()
            .url("https://internal.example.com/gateway")
            .url("http://127.0.0.1:8080"),
    );
    for (htu, is_ours) in [
        ("https://gateway.example.com/mcp", true),
        ("https://internal.example.com/gateway/mcp", true),
        ("http://127.0.0.1:8080/mcp", true),
        ("https://internal.example.com/mcp", false),
        ("http://127.0.0.1/mcp", false),
    ] {
        let proof = Proof::new(P256, &token).claim("htu", htu);
        assert_eq!(
            check(&several, &dpop(&token, &proof)).is_ok(),
            is_ours,
            "{htu}"
        );
    }
}

#[test]
fn a_policy_that_protects_nothing_is_not_built() {
    let settings = |builder: TokenValidatorBuilder| {
        let error = builder.build().unwrap_err();
        let settings = error.invalid_settings().iter();
        settings
            .map(|invalid| invalid.setting().to_owned())
            .collect::<Vec<_>>()
    };
    let key = || SealingKey::new([1; 32]);
    for (policy, wrong) in [
        (DpopPolicy::new(), vec!["dpop.url"]),
        (DpopPolicy::default().url(""), vec!["dpop.url"]),
        (
            DpopPolicy::new().url("http://gateway.example.com"),
            vec!["dpop.url"],
        ),
        (
            DpopPolicy::new().url("https://a@gateway.example.com"),
            vec!["dpop.url"],
        ),
        (
            DpopPolicy::new().url("https://gateway.example.com?x"),
            vec!["dpop.url"],
        ),
        (policy().url("gateway"), vec!["dpop.url[1]"]),
        (policy().algorithms([]), vec!["dpop.algorithms"]),
        (policy().window(Duration::ZERO), vec!["dpop.window"]),
        (
            policy().window(Duration::from_secs(601)),
            vec!["dpop.window"],
        ),
        (policy().proof_memory(0), vec!["dpop.proof_memory"]),
        (
            policy().nonce_lifetime(Duration::from_secs(1)),
            vec!["dpop.nonce_lifetime"],
        ),
        (
            policy().older_nonce_key(key()),
            vec!["dpop.older_nonce_key"],
        ),
        (
            policy().nonces(key()).nonce_lifetime(Duration::ZERO),
            vec!["dpop.nonce_lifetime"],
        ),
        (
            policy().algorithms([]).window(Duration::ZERO),
            vec!["dpop.algorithms", "dpop.window"],
        ),
    ] {
        let shown = format!("{policy:?}");
        assert_eq!(settings(builder().dpop(policy)), wrong, "{shown}");
    }
    assert_eq!(
        settings(builder().resource("nonsense").dpop(DpopPolicy::new())),
        ["resource"]
    );
    builder()
        .insecure()
        .dpop(DpopPolicy::new().url("http://gateway.internal"))
        .build()
        .unwrap();
}

// Replays.

#[test]
fn a_proof_is_accepted_once_within_the_window_and_not_at_all_after_it() {
    let token = bound_to(P256);
    let clock = clock();
    // A small memory has one part, so that each proof has it looked through.
    let validator = builder()
        .clock(clock.clone())
        .dpop(policy().proof_memory(100))
        .build()
        .unwrap();
    let proof = Proof::new(P256, &token);
    check(&validator, &dpop(&token, &proof)).unwrap();
    for _ in 0..6 {
        let outcome = check(&validator, &dpop(&token, &proof));
        assert_refused(outcome, "invalid_dpop_proof", "used before");
        clock.advance(Duration::from_secs(10));
    }
    assert_refused(
        check(&validator, &dpop(&token, &proof)),
        "invalid_dpop_proof",
        "used before",
    );
    clock.advance(Duration::from_secs(1));
    assert_refused(
        check(&validator, &dpop(&token, &proof)),
        "invalid_dpop_proof",
        "`iat`",
    );
}

#[test]
fn a_jti_counts_for_its_key_alone_and_whatever_else_the_proof_says() {
    let validator = validator(policy());
    let (of_p256, of_ed25519) = (bound_to(P256), bound_to(ED25519));
    let same = |key, token: &str| Proof::new(key, token).claim("jti", "the same");
    check(&validator, &dpop(&of_p256, &same(P256, &of_p256))).unwrap();
    check(&validator, &dpop(&of_ed25519, &same(ED25519, &of_ed25519))).unwrap();
    let later = same(P256, &of_p256).claim("iat", seconds(some_day()) + 1);
    let outcome = check(&validator, &dpop(&of_p256, &later));
    assert_refused(outcome, "invalid_dpop_proof", "used before");
}

#[test]
fn a_proof_whose_token_is_refused_is_not_used_up() {
    let validator = validator(policy());
    let mut expired = claims();
    expired["exp"] = json!(1);
    expired["cnf"] = json!({ "jkt": thumbprint(P256) });
    let token = token(&expired);
    let proof = Proof::new(P256, &token);
    for _ in 0..2 {
        let outcome = check(&validator, &dpop(&token, &proof));
        assert_refused(outcome, "invalid_token", "expired");
    }
}

#[test]
fn a_clone_of_a_policy_shares_its_memory() {
    let token = bound_to(P256);
    let policy = policy();
    let validators = [validator(policy.clone()), validator(policy)];
    let proof = Proof::new(P256, &token);
    check(&validators[0], &dpop(&token, &proof)).unwrap();
    let outcome = check(&validators[1], &dpop(&token, &proof));
    assert_refused(outcome, "invalid_dpop_proof", "used before");
}

#[test]
fn a_memory_that_is_full_refuses_new_proofs_with_503_and_forgets_no_old_one() {
    let token = bound_to(P256);
    let clock = clock();
    let policy = policy().proof_memory(2);
    let validator = builder().clock(clock.clone()).dpop(policy).build().unwrap();
    let kept = [Proof::new(P256, &token), Proof::new(P256, &token)];
    for proof in &kept {
        check(&validator, &dpop(&token, proof)).unwrap();
    }
    for _ in 0..3 {
        let outcome = check(&validator, &dpop(&token, &Proof::new(P256, &token)));
        let error = outcome.unwrap_err();
        let (status, code, challenge) = told(&error);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((&*code, &*challenge), ("temporarily_unavailable", ""));
        assert!(error.to_string().contains("proof_memory"), "{error}");
    }
    for proof in &kept {
        let outcome = check(&validator, &dpop(&token, proof));
        assert_refused(outcome, "invalid_dpop_proof", "used before");
    }
    clock.advance(Duration::from_secs(62));
    let later = Proof::new(P256, &token).claim("iat", seconds(some_day()) + 62);
    check(&validator, &dpop(&token, &later)).unwrap();
}

/// A validator whose memory is looked through for each proof, and its clock. `at` is in seconds after `some_day`.
struct Steps {
    token: String,
    clock: Arc<ManualClock>,
    validator: TokenValidator,
}

impl Steps {
    fn with(policy: DpopPolicy) -> Self {
        let clock = clock();
        let validator = builder().clock(clock.clone()).dpop(policy).build();
        Self {
            token: bound_to(P256),
            clock,
            validator: validator.unwrap(),
        }
    }

    fn step_to(&self, at: u64) {
        self.clock.set(some_day() + Duration::from_secs(at));
    }

    fn made_at(&self, at: u64) -> Proof {
        Proof::new(P256, &self.token).claim("iat", seconds(some_day()) + at)
    }

    fn present(&self, proof: &Proof) -> Outcome {
        check(&self.validator, &dpop(&self.token, proof))
    }
}

/// For how long the caller is asked to wait.
#[track_caller]
fn assert_passing_fault_of_the_clock(outcome: Outcome) -> u64 {
    let error = outcome.unwrap_err();
    let (status, code, challenge) = told(&error);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{error}");
    assert_eq!((&*code, &*challenge), ("temporarily_unavailable", ""));
    assert!(error.to_string().contains("clock"), "{error}");
    let response = error.to_response::<Bytes>();
    let wait = response.headers()[RETRY_AFTER].to_str().unwrap();
    wait.parse().unwrap()
}

const HOUR: u64 = 3600;

#[test]
fn once_a_clock_that_was_ahead_is_right_again_fresh_proofs_pass_at_once() {
    let steps = Steps::with(policy().proof_memory(100));
    let before = steps.made_at(0);
    steps.present(&before).unwrap();
    // Its callers' clocks are as wrong.
    for minute in 0..10 {
        let at = HOUR + 60 * minute;
        steps.step_to(at);
        steps.present(&steps.made_at(at)).unwrap();
    }
    steps.step_to(600);
    for slow in [0, 30, 60] {
        steps.present(&steps.made_at(600 - slow)).unwrap();
    }
    // Not those that may have been used.
    steps.step_to(0);
    assert_passing_fault_of_the_clock(steps.present(&before));
    assert_passing_fault_of_the_clock(steps.present(&steps.made_at(0)));
    steps.present(&steps.made_at(1)).unwrap();
}

#[test]
fn a_proof_of_a_time_whose_proofs_were_forgotten_is_refused_for_the_clocks_sake_and_not_for_the_callers()
 {
    let log = Log::default();
    let _guard = log.capture("tower_identity=warn");
    let steps = Steps::with(policy().proof_memory(100));
    // A proof of each second of half a minute, while the clock is ahead by an hour. Then it goes on for a while.
    let mut used = Vec::new();
    for second in 0..=30 {
        steps.step_to(HOUR + second);
        used.push(steps.made_at(HOUR + second));
        steps.present(used.last().unwrap()).unwrap();
    }
    steps.step_to(HOUR + 600);
    steps.present(&steps.made_at(HOUR + 600)).unwrap();
    // It is set back. An hour later comes the time that was there already.
    steps.step_to(HOUR - 1);
    steps.present(&steps.made_at(HOUR - 1)).unwrap();
    assert_eq!(log.text(), "");
    steps.step_to(HOUR);
    for proof in &used {
        assert_passing_fault_of_the_clock(steps.present(proof));
    }
    let wait = assert_passing_fault_of_the_clock(steps.present(&steps.made_at(HOUR)));
    assert!(wait <= 31, "{wait}");
    let text = log.text();
    assert!(text.contains("WARN") && text.contains("clock"), "{text}");
    assert_eq!(text.lines().count(), 1, "one a minute is enough: {text}");
    steps.step_to(HOUR + wait);
    steps.present(&steps.made_at(HOUR + wait)).unwrap();
}

#[test]
fn proofs_that_were_made_while_the_clock_was_ahead_leave_room_for_others() {
    let steps = Steps::with(policy().proof_memory(4));
    steps.step_to(HOUR);
    let ahead: Vec<_> = (0..4).map(|_| steps.made_at(HOUR)).collect();
    for proof in &ahead {
        steps.present(proof).unwrap();
    }
    steps.step_to(10);
    for _ in 0..4 {
        steps.present(&steps.made_at(10)).unwrap();
    }
    steps.step_to(HOUR);
    for proof in &ahead {
        steps.present(proof).unwrap_err();
    }
}

#[test]
fn a_nonce_that_was_made_while_the_clock_was_ahead_is_replaced_by_one_that_passes() {
    let steps = Steps::with(policy().nonces(sealing(1)));
    steps.step_to(HOUR);
    let nonce = nonce_in(&steps.present(&steps.made_at(HOUR)).unwrap_err());
    let ahead = steps.made_at(HOUR).claim("nonce", &*nonce);
    steps.present(&ahead).unwrap();
    steps.step_to(600);
    let outcome = steps.present(&steps.made_at(600).claim("nonce", &*nonce));
    let next = nonce_in(&outcome.clone().unwrap_err());
    assert_refused(outcome, "use_dpop_nonce", "nonce");
    let proof = steps.made_at(600).claim("nonce", &*next);
    steps.present(&proof).unwrap();
}

type Uses = Vec<([u8; 32], SystemTime)>;

/// A store that two replicas share.
#[derive(Clone, Debug, Default)]
struct SharedProofs {
    used: Arc<Mutex<Uses>>,
}

impl ProofStore for SharedProofs {
    fn use_once<'a>(&'a self, proof: [u8; 32], until: SystemTime) -> UpstreamFuture<'a, bool> {
        let mut used = self.used.lock().unwrap();
        let is_new = used.iter().all(|(earlier, _)| *earlier != proof);
        used.push((proof, until));
        Box::pin(async move { Ok(is_new) })
    }
}

#[tokio::test]
async fn a_proof_is_accepted_once_by_all_replicas_that_share_a_store() {
    let token = bound_to(P256);
    let store = SharedProofs::default();
    let replica = || validator(policy().proof_store(store.clone()));
    let proof = Proof::new(P256, &token).claim("iat", seconds(some_day()) - 10);
    replica()
        .validate_request(&dpop(&token, &proof))
        .await
        .unwrap();
    let outcome = replica().validate_request(&dpop(&token, &proof)).await;
    assert_refused(outcome, "invalid_dpop_proof", "used before");
    // For as long as it is accepted by a replica whose clock is a minute behind, after a validation of a minute.
    let used = store.used.lock().unwrap();
    let until = some_day() + Duration::from_secs(170);
    assert!(used.iter().all(|(_, time)| *time == until), "{used:?}");
}

/// A store with a fault.
#[derive(Debug)]
enum Faulty {
    Down,
    Misconfigured,
    Odd,
    Panicking,
    Silent,
}

impl ProofStore for Faulty {
    fn use_once<'a>(&'a self, _: [u8; 32], _: SystemTime) -> UpstreamFuture<'a, bool> {
        let fails = |kind| -> UpstreamFuture<'a, bool> {
            Box::pin(async move { Err(AuthError::new(kind, "the store is not well")) })
        };
        match self {
            Self::Down => fails(AuthErrorKind::Unavailable),
            Self::Misconfigured => fails(AuthErrorKind::Configuration),
            Self::Odd => fails(AuthErrorKind::Rejected),
            Self::Panicking => panic!("on purpose"),
            Self::Silent => Box::pin(pending()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_tell_accepts_nothing_and_is_not_the_callers_fault() {
    let token = bound_to(P256);
    for (store, status) in [
        (Faulty::Down, 503),
        (Faulty::Misconfigured, 500),
        (Faulty::Odd, 503),
        (Faulty::Panicking, 503),
        (Faulty::Silent, 503),
    ] {
        let shown = format!("{store:?}");
        let validator = validator(policy().proof_store(Arc::new(store)));
        let request = dpop(&token, &Proof::new(P256, &token));
        let error = validator.validate_request(&request).await.unwrap_err();
        let (told, _, challenge) = told(&error);
        assert_eq!((told.as_u16(), &*challenge), (status, ""), "{shown}");
    }
}

// Nonces.

fn sealing(byte: u8) -> SealingKey {
    SealingKey::new([byte; 32])
}

fn nonce_in(error: &AuthError) -> String {
    let response = error.to_response::<Bytes>();
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    response.headers()["dpop-nonce"]
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_proof_without_a_nonce_gets_one_and_passes_with_it() {
    let token = bound_to(P256);
    let validator = validator(policy().nonces(sealing(1)));
    let outcome = check(&validator, &dpop(&token, &Proof::new(P256, &token)));
    let nonce = nonce_in(&outcome.clone().unwrap_err());
    assert_refused(outcome, "use_dpop_nonce", "nonce");
    assert!(
        nonce
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
    );

    let with = |nonce: &str| dpop(&token, &Proof::new(P256, &token).claim("nonce", nonce));
    // Any number of times.
    check(&validator, &with(&nonce)).unwrap();
    check(&validator, &with(&nonce)).unwrap();
    let long = "x".repeat(4000);
    for other in [
        "",
        "x",
        "eyJ7S_zG.eyJH0-Z.HX4w-7v",
        &nonce[1..],
        &nonce.to_lowercase(),
        &long,
    ] {
        let outcome = check(&validator, &with(other));
        assert_ne!(nonce_in(&outcome.clone().unwrap_err()), nonce);
        assert_refused(outcome, "use_dpop_nonce", "nonce");
    }
    // A bad proof gets none.
    let bad = Proof::new(P256, &token).claim("htm", "PUT");
    let error = check(&validator, &dpop(&token, &bad)).unwrap_err();
    assert!(
        !error
            .to_response::<Bytes>()
            .headers()
            .contains_key("dpop-nonce")
    );
}

#[test]
fn replicas_with_the_same_keys_accept_each_others_nonces_for_five_minutes() {
    let token = bound_to(P256);
    let replica = |ahead: u64, policy: DpopPolicy| {
        let clock = Arc::new(ManualClock::new(some_day() + Duration::from_secs(ahead)));
        builder().clock(clock).dpop(policy).build().unwrap()
    };
    let with = |nonce: &str, at: u64| {
        let proof = Proof::new(P256, &token).claim("iat", seconds(some_day()) + at);
        dpop(&token, &proof.claim("nonce", nonce))
    };
    let one = policy().nonces(sealing(1));
    let error = check(&replica(0, one.clone()), &with("", 0)).unwrap_err();
    let nonce = nonce_in(&error);
    for (ahead, policy, is_accepted) in [
        (0, one.clone(), true),
        (299, one.clone(), true),
        (300, one.clone(), false),
        (
            299,
            policy().nonces(sealing(2)).older_nonce_key(sealing(1)),
            true,
        ),
        (0, policy().nonces(sealing(2)), false),
        (
            10,
            one.clone().nonce_lifetime(Duration::from_secs(10)),
            false,
        ),
        (3600, one.nonce_lifetime(Duration::from_secs(86_400)), true),
    ] {
        let outcome = check(&replica(ahead, policy.clone()), &with(&nonce, ahead));
        assert_eq!(outcome.is_ok(), is_accepted, "{ahead} {policy:?}");
        if !is_accepted {
            assert_refused(outcome, "use_dpop_nonce", "nonce");
        }
    }
    // A replica whose clock is behind.
    let clock = Arc::new(ManualClock::new(some_day() - Duration::from_secs(60)));
    let behind = builder()
        .clock(clock)
        .dpop(policy().nonces(sealing(1)))
        .build()
        .unwrap();
    check(&behind, &with(&nonce, 0)).unwrap();
}

// The layer.

type Body = Full<Bytes>;

fn gateway(
    validator: &TokenValidator,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> BoxCloneService<Request<()>, Response<Body>, Infallible> {
    let gateway = TokenValidatorLayer::new(validator.clone()).layer(tower::service_fn(
        move |request: Request<()>| {
            assert!(request.extensions().get::<Identity>().is_some());
            for name in ["authorization", "dpop"] {
                assert!(!request.headers().contains_key(name), "{name}");
            }
            let response = answer();
            async { Ok(response) }
        },
    ));
    BoxCloneService::new(gateway)
}

fn served() -> Response<Body> {
    Response::new(Full::from("served"))
}

async fn answer(
    validator: &TokenValidator,
    request: Request<()>,
) -> (StatusCode, HeaderMap, Bytes) {
    let response = gateway(validator, served).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    (
        head.status,
        head.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

#[tokio::test]
async fn the_layer_passes_a_bound_token_on_without_its_proof() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let proof = Proof::new(P256, &token);
    let (status, headers, body) = answer(&validator, dpop(&token, &proof)).await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"served"[..]));
    assert!(!headers.contains_key("dpop-nonce"));
    let (status, ..) = answer(&validator, dpop(&token, &proof)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // A bearer's proof, which nobody looked at, goes no further either.
    let stray = request("Bearer", &unbound(), &[&proof.signed()]);
    assert_eq!(answer(&validator, stray).await.0, StatusCode::OK);
    let unaware = builder().build().unwrap();
    let stray = request("Bearer", &unbound(), &[&proof.signed()]);
    assert_eq!(answer(&unaware, stray).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_challenge_names_each_scheme_except_to_a_caller_that_uses_dpop() {
    let token = bound_to(P256);
    let lenient = builder()
        .resource(RESOURCE)
        .scopes(["read"])
        .dpop(policy())
        .build()
        .unwrap();
    let strict = builder()
        .resource(RESOURCE)
        .dpop(policy().require())
        .build()
        .unwrap();
    let nonces = builder()
        .dpop(policy().nonces(sealing(1)).require())
        .build()
        .unwrap();
    let place = format!(r#"realm="{AUDIENCE}", resource_metadata="{METADATA}""#);
    let algs = r#"algs="ES256 EdDSA""#;
    let bad = || dpop(&token, &Proof::new(P256, &token).claim("htm", "PUT"));
    let fault = |code: &str, description: &str| {
        format!(r#"error="{code}", error_description="{description}""#)
    };
    let no_proof = fault(
        "invalid_token",
        "the token is bound to a key (`cnf`), and was presented without a proof that the caller has it",
    );
    let other_key = fault(
        "invalid_token",
        "the token is bound to another key (`cnf`) than that of the proof",
    );
    let htm = fault(
        "invalid_dpop_proof",
        "the proof is for another method, says its `htm`",
    );
    let required = fault(
        "invalid_token",
        "a token that is bound to a key is needed, with the scheme DPoP and a proof",
    );
    let nonce = fault(
        "use_dpop_nonce",
        "the proof needs a nonce of this server that has not expired",
    );
    for (validator, request, wanted) in [
        (
            &lenient,
            Request::new(()),
            format!(r#"Bearer {place}, scope="read", DPoP {place}, scope="read", {algs}"#),
        ),
        (
            &lenient,
            request("Bearer", &token, &[]),
            format!(
                r#"Bearer {place}, scope="read", {no_proof}, DPoP {place}, scope="read", {algs}"#
            ),
        ),
        (
            &lenient,
            dpop(&token, &Proof::new(ED25519, &token)),
            format!(r#"DPoP {place}, scope="read", {other_key}, {algs}"#),
        ),
        (
            &lenient,
            bad(),
            format!(r#"DPoP {place}, scope="read", {htm}, {algs}"#),
        ),
        (&strict, Request::new(()), format!("DPoP {place}, {algs}")),
        (
            &strict,
            request("Bearer", &unbound(), &[]),
            format!("DPoP {place}, {required}, {algs}"),
        ),
        (&strict, bad(), format!("DPoP {place}, {htm}, {algs}")),
        (
            &nonces,
            dpop(&token, &Proof::new(P256, &token)),
            format!(r#"DPoP realm="{AUDIENCE}", {nonce}, {algs}"#),
        ),
    ] {
        let (status, headers, _) = answer(validator, request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let challenges: Vec<_> = headers.get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(challenges, [&wanted]);
        assert_eq!(
            headers.contains_key("dpop-nonce"),
            wanted.contains("use_dpop_nonce")
        );
    }
}

#[tokio::test]
async fn the_error_of_a_service_beneath_is_told_under_the_scheme_of_the_caller() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let fails = || {
        let error = AuthError::new(AuthErrorKind::MissingToken, "no token of a provider");
        error.to_response()
    };
    for (request, wanted) in [
        (
            dpop(&token, &Proof::new(P256, &token)),
            r#"DPoP realm="https://gateway.example.com", error="invalid_token", error_description="log in again", algs="ES256 EdDSA""#,
        ),
        (
            request("Bearer", &unbound(), &[]),
            r#"Bearer realm="https://gateway.example.com", error="invalid_token", error_description="log in again", DPoP realm="https://gateway.example.com", algs="ES256 EdDSA""#,
        ),
    ] {
        let response = gateway(&validator, fails).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], wanted);
    }
}

#[tokio::test]
async fn a_nonce_that_nears_its_end_is_followed_by_the_next_one_also_in_good_responses() {
    let token = bound_to(P256);
    let clock = clock();
    let policy = policy().nonces(sealing(1));
    let validator = builder().clock(clock.clone()).dpop(policy).build().unwrap();
    let with = |nonce: &str, at: u64| {
        let proof = Proof::new(P256, &token).claim("iat", seconds(some_day()) + at);
        dpop(&token, &proof.claim("nonce", nonce))
    };
    let (status, headers, _) = answer(&validator, with("", 0)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let first = headers["dpop-nonce"].to_str().unwrap();
    let (status, headers, _) = answer(&validator, with(first, 0)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!headers.contains_key("dpop-nonce"));
    clock.advance(Duration::from_secs(149));
    let (_, headers, _) = answer(&validator, with(first, 149)).await;
    assert!(!headers.contains_key("dpop-nonce"));
    clock.advance(Duration::from_secs(1));
    let (status, headers, _) = answer(&validator, with(first, 150)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    let second = headers["dpop-nonce"].to_str().unwrap();
    assert_ne!(first, second);
    // A token that is refused is no reason to keep it back.
    let other = Proof::new(ED25519, &token).claim("iat", seconds(some_day()) + 150);
    let (status, headers, _) = answer(&validator, dpop(&token, &other.claim("nonce", first))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(headers.contains_key("dpop-nonce"));
    clock.advance(Duration::from_secs(200));
    let (status, headers, _) = answer(&validator, with(second, 350)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers.contains_key("dpop-nonce"));
    // A bearer has no use for one.
    let (_, headers, _) = answer(&validator, request("Bearer", &unbound(), &[])).await;
    assert!(!headers.contains_key("dpop-nonce"));
}

#[tokio::test]
async fn the_part_of_the_path_that_a_nested_router_takes_away_is_in_the_url() {
    let token = bound_to(P256);
    let nested = |policy: DpopPolicy| {
        let layer = TokenValidatorLayer::new(validator(policy));
        let inner = Router::new().route("/mcp", get(async || "served"));
        Router::new().nest("/api", inner.layer(layer))
    };
    let prefixed = DpopPolicy::new().url("https://gateway.example.com/api");
    for (policy, status) in [(prefixed, 200), (policy(), 401)] {
        let proof = Proof::new(P256, &token).claim("htu", "https://gateway.example.com/api/mcp");
        let mut request = dpop(&token, &proof).map(|()| axum::body::Body::empty());
        *request.uri_mut() = "/api/mcp?query=1".parse().unwrap();
        let response = nested(policy).oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_handler_that_needs_an_identity_asks_for_it_with_the_same_challenge() {
    for (policy, challenge) in [
        (
            policy(),
            r#"Bearer realm="https://gateway.example.com", DPoP realm="https://gateway.example.com", algs="ES256 EdDSA""#,
        ),
        (
            policy().require(),
            r#"DPoP realm="https://gateway.example.com", algs="ES256 EdDSA""#,
        ),
    ] {
        let layer = TokenValidatorLayer::new(validator(policy)).allow_anonymous();
        let handler = get(async |caller: Identity| caller.subject().to_owned());
        let router = Router::new().route("/mcp", handler).layer(layer);
        let anonymous = Request::get("/mcp")
            .body(axum::body::Body::empty())
            .unwrap();
        let response = router.clone().oneshot(anonymous).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);

        let token = bound_to(P256);
        let proven = dpop(&token, &Proof::new(P256, &token));
        let proven = proven.map(|()| axum::body::Body::empty());
        let response = router.oneshot(proven).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn the_nonce_of_a_backend_does_not_reach_the_caller() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let relays = || {
        let mut response = served();
        let nonce = HeaderValue::from_static("of-the-backend");
        response.headers_mut().insert("dpop-nonce", nonce);
        response
    };
    let request = dpop(&token, &Proof::new(P256, &token));
    let response = gateway(&validator, relays).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("dpop-nonce"));
}

#[tokio::test]
async fn the_metadata_says_which_proofs_are_accepted_and_whether_all_tokens_must_be_bound() {
    for (policy, algorithms, is_required) in [
        (DpopPolicy::new(), json!(["ES256", "EdDSA"]), false),
        (
            DpopPolicy::new()
                .require()
                .algorithms([SigningAlgorithm::Ps256]),
            json!(["PS256"]),
            true,
        ),
    ] {
        let validator = builder().resource(RESOURCE).dpop(policy).build().unwrap();
        let metadata = validator.resource_metadata().unwrap();
        let request = Request::get(metadata.path().to_owned()).body(()).unwrap();
        let response = metadata.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let said: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(said["dpop_signing_alg_values_supported"], algorithms);
        assert_eq!(said["dpop_bound_access_tokens_required"], is_required);
        assert_eq!(said["resource"], RESOURCE);
    }
    let without = builder().resource(RESOURCE).build().unwrap();
    let metadata = without.resource_metadata().unwrap();
    let request = Request::get(metadata.path().to_owned()).body(()).unwrap();
    let body = metadata.oneshot(request).await.unwrap().into_body();
    let body = body.collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8(body.to_vec()).unwrap().contains("dpop"));
}

// What an attacker sends.

#[test]
fn a_proof_of_64_kib_is_not_read() {
    let token = bound_to(P256);
    let validator = validator(policy());
    let large = Proof::new(P256, &token)
        .claim("x", "y".repeat(48 * 1024))
        .signed();
    assert!(large.len() > 64 * 1024);
    assert_bad_proof(&validator, &token, &large, "too large");
    let nested = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let nested = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(&nested),
        URL_SAFE_NO_PAD.encode("{}")
    );
    assert_bad_proof(&validator, &token, &nested, "malformed");
    let large = Proof::new(P256, &token).claim("x", "y".repeat(4 * 1024));
    check(&validator, &dpop(&token, &large)).unwrap();
}

#[test]
fn nothing_of_a_proof_is_logged_or_shown() {
    let log = Log::default();
    let _guard = log.capture("tower_identity=trace");
    let token = bound_to(P256);
    let validator = validator(policy().nonces(sealing(1)));
    let mut shown = format!("{validator:?}");
    let mut secrets = vec![token.clone()];
    for proof in [
        Proof::new(P256, &token),
        Proof::new(ED25519, &token),
        Proof::new(P256, &token).claim("htu", "https://leaked.example/leaked"),
        Proof::new(P256, &token)
            .claim("jti", "leaked-jti")
            .claim("htm", "leaked"),
        Proof::new(P256, &token).header("typ", "leaked"),
        Proof::new(P256, &token).claim("nonce", "leaked-nonce"),
    ] {
        let signed = proof.signed();
        let outcome = check(&validator, &request("DPoP", &token, &[&signed]));
        shown += &format!("{outcome:?}");
        if let Err(error) = outcome {
            shown += &format!("{error} {error:#?} {:?}", told(&error));
        }
        secrets.push(signed.rsplit_once('.').unwrap().1.to_owned());
    }
    shown += &log.text();
    assert!(shown.contains("a caller was refused"));
    for secret in secrets.iter().map(String::as_str).chain(["leaked"]) {
        assert!(!shown.contains(secret), "{secret}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("GET")),
        Just(json!(RESOURCE)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_are_accepted_as_a_proof(bytes in prop::collection::vec(0x20u8..0x7f, 0..200)) {
        let token = bound_to(P256);
        let proof = String::from_utf8(bytes).unwrap();
        let outcome = check(&validator(policy()), &request("DPoP", &token, &[&proof]));
        prop_assert_eq!(told(&outcome.unwrap_err()).1, "invalid_dpop_proof");
    }

    #[test]
    fn no_change_of_a_member_panics_or_is_the_operators_fault(
        name in prop::sample::select(vec![
            "typ", "alg", "jwk", "crit", "kty", "crv", "x", "y", "n", "e", "d", "jti", "htm", "htu", "iat", "ath", "nonce",
        ]),
        value in any_json(),
    ) {
        let token = bound_to(P256);
        let proof = Proof::new(P256, &token);
        let changed = match name {
            "typ" | "alg" | "jwk" | "crit" => proof.header(name, value),
            "kty" | "crv" | "x" | "y" | "n" | "e" | "d" => proof.jwk(name, value),
            _ => proof.claim(name, value),
        };
        if let Err(error) = check(&validator(policy()), &dpop(&token, &changed)) {
            let (status, code, _) = told(&error);
            prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
            prop_assert_eq!(code, "invalid_dpop_proof");
        }
    }

    #[test]
    fn no_change_of_a_character_is_accepted(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let token = bound_to(P256);
        let proof = Proof::new(P256, &token).signed();
        let at = at.index(proof.len());
        let mut changed = proof.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != proof);
        let outcome = check(&validator(policy()), &request("DPoP", &token, &[&changed]));
        prop_assert!(outcome.is_err());
    }
}

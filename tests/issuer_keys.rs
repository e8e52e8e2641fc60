//! The issuer's keys: how they are found, kept, renewed and refused.
#![cfg(feature = "incoming")]

mod support;

use std::{
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::join_all, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::identity_provider::{
    AUDIENCE, ED25519, IdentityProvider, KEYS, OAUTH, OPENID, P256, P384, RSA, client, some_day,
};
use support::log::Log;
use tower::service_fn;
use tower_identity::{AuthError, AuthErrorKind, Clock, KeySet, ManualClock, TokenValidator};

struct Setup {
    provider: IdentityProvider,
    clock: Arc<ManualClock>,
    validator: TokenValidator,
}

async fn setup() -> Setup {
    let provider = IdentityProvider::start(P256).await;
    let clock = Arc::new(ManualClock::new(some_day()));
    let validator = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .clock(clock.clone())
        .build()
        .unwrap();
    Setup {
        provider,
        clock,
        validator,
    }
}

impl Setup {
    fn token(&self, key: support::identity_provider::KeyPair) -> String {
        self.provider.token(key, "alice", self.clock.now())
    }

    async fn kind(&self, token: &str) -> Option<AuthErrorKind> {
        let outcome = self.validator.validate(token).await;
        outcome.err().map(|error| error.kind())
    }

    /// Lets the tasks in the background reach the issuer `fetches` times in all.
    async fn fetched(&self, fetches: usize) {
        let reached = async {
            while self.provider.key_fetches() < fetches {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .unwrap();
    }
}

fn body_of(error: &AuthError) -> (StatusCode, Value) {
    let response = error.to_response::<Bytes>();
    let body = serde_json::from_slice(response.body()).unwrap();
    (response.status(), body)
}

#[tokio::test]
async fn keys_are_found_by_oidc_discovery_and_fetched_once() {
    let setup = setup().await;
    for _ in 0..3 {
        let identity = setup.validator.validate(&setup.token(P256)).await.unwrap();
        assert_eq!(identity.subject(), "alice");
    }
    assert_eq!(setup.provider.fetches(OPENID), 1);
    assert_eq!(setup.provider.key_fetches(), 1);
}

#[tokio::test]
async fn keys_are_found_by_rfc_8414_metadata_where_there_is_no_other() {
    let setup = setup().await;
    let metadata =
        json!({ "issuer": setup.provider.issuer(), "jwks_uri": setup.provider.uri(KEYS) });
    setup
        .provider
        .script(OPENID, 404, "")
        .script(OAUTH, 200, metadata.to_string());
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
}

#[tokio::test]
async fn an_issuer_with_a_path_is_found_by_both_rules() {
    let provider = IdentityProvider::start(P256).await;
    let issuer = provider.uri("/tenants/one");
    let metadata = json!({ "issuer": issuer, "jwks_uri": provider.uri(KEYS) }).to_string();
    let mut claims = provider.claims("alice", some_day());
    claims["iss"] = json!(issuer);
    let token = P256.sign(&P256.header(), &claims);
    for path in [
        "/tenants/one/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server/tenants/one",
    ] {
        provider.script(path, 200, metadata.clone());
        let validator = TokenValidator::builder(&issuer, client())
            .audience(AUDIENCE)
            .clock(Arc::new(ManualClock::new(some_day())))
            .build()
            .unwrap();
        validator.validate(&token).await.unwrap();
        provider.script(path, 404, "");
    }
}

#[tokio::test]
async fn many_first_callers_fetch_the_keys_once() {
    let setup = setup().await;
    let token = setup.token(P256);
    let outcomes = join_all((0..100).map(|_| setup.validator.validate(&token))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(setup.provider.key_fetches(), 1);
}

#[tokio::test]
async fn f28_a_rotated_key_is_looked_up_on_the_first_token_that_names_it() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.provider.publish([ED25519.public()]);
    let token = setup.token(ED25519);
    let outcomes = join_all((0..100).map(|_| setup.validator.validate(&token))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(setup.provider.key_fetches(), 2);
    assert_eq!(
        setup.kind(&setup.token(P256)).await,
        Some(AuthErrorKind::Rejected),
        "the withdrawn key is gone"
    );
}

/// A token that names a key which the issuer does not have.
fn bad_token(setup: &Setup, key_id: &str) -> String {
    let mut header = P256.header();
    header["kid"] = json!(key_id);
    P256.sign(&header, &setup.provider.claims("eve", setup.clock.now()))
}

#[tokio::test]
async fn f28_bad_tokens_fetch_keys_a_few_times_a_minute() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    for second in 0..=60 {
        for attempt in 0..20 {
            let token = bad_token(&setup, &format!("made-up-{second}-{attempt}"));
            assert!(setup.kind(&token).await.is_some());
        }
        let fetches = setup.provider.key_fetches() - 1;
        assert_eq!(fetches, 6 + second / 10, "after {second} s");
        assert_eq!(setup.kind(&setup.token(P256)).await, None, "a known key");
        setup.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn f70_a_token_of_a_new_key_is_admitted_although_bad_tokens_were_looked_up_a_moment_ago() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    for attempt in 0..3 {
        let bad = bad_token(&setup, &format!("made-up-{attempt}"));
        assert_eq!(setup.kind(&bad).await, Some(AuthErrorKind::Rejected));
    }
    setup.provider.publish([P256.public(), ED25519.public()]);
    assert_eq!(setup.kind(&setup.token(ED25519)).await, None);
}

#[tokio::test]
async fn f70_a_token_that_was_not_checked_is_never_called_bad_but_asked_to_wait() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    let mut said = Vec::new();
    for attempt in 0..8 {
        let bad = bad_token(&setup, &format!("made-up-{attempt}"));
        said.push(setup.kind(&bad).await.unwrap());
    }
    let (checked, not_checked) = said.split_at(6);
    assert!(checked.iter().all(|kind| *kind == AuthErrorKind::Rejected));
    assert!(
        not_checked
            .iter()
            .all(|kind| *kind == AuthErrorKind::Unavailable)
    );

    setup.provider.publish([P256.public(), ED25519.public()]);
    setup.clock.advance(Duration::from_secs(4));
    let token = setup.token(ED25519);
    let error = setup.validator.validate(&token).await.unwrap_err();
    assert_eq!(body_of(&error).0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(6)));
    setup.clock.advance(Duration::from_secs(6));
    assert_eq!(setup.kind(&token).await, None, "it waited as it was told");
}

#[tokio::test]
async fn f70_old_tokens_of_a_key_that_was_withdrawn_use_up_no_fetch_of_others() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    let old = setup.token(P256);
    setup.clock.advance(Duration::from_secs(120));
    setup.provider.publish([RSA.public()]);
    assert_eq!(setup.kind(&setup.token(RSA)).await, None);
    let before = setup.provider.key_fetches();
    for _ in 0..100 {
        assert_eq!(setup.kind(&old).await, Some(AuthErrorKind::Rejected));
    }
    assert_eq!(setup.provider.key_fetches(), before);
    setup.provider.publish([RSA.public(), ED25519.public()]);
    assert_eq!(setup.kind(&setup.token(ED25519)).await, None);
}

#[tokio::test]
async fn f73_keys_are_asked_for_in_both_media_types() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    let requests = setup.provider.requests();
    let keys = requests.iter().find(|request| request.uri.path() == KEYS);
    let accepted = keys.unwrap().headers["accept"].to_str().unwrap();
    let accepted: Vec<_> = accepted.split(", ").collect();
    assert_eq!(accepted, ["application/jwk-set+json", "application/json"]);
}

#[tokio::test]
async fn f75_a_document_that_is_odd_does_not_end_the_search_for_the_metadata() {
    let provider = IdentityProvider::start(P256).await;
    let issuer = provider.uri("/tenants/one");
    let good = json!({ "issuer": issuer, "jwks_uri": provider.uri(KEYS) }).to_string();
    let other = json!({ "issuer": "https://evil.example.com", "jwks_uri": provider.uri(KEYS) });
    let mut claims = provider.claims("alice", some_day());
    claims["iss"] = json!(issuer);
    let token = P256.sign(&P256.header(), &claims);
    let places = [
        "/tenants/one/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server/tenants/one",
        "/.well-known/openid-configuration/tenants/one",
    ];
    let odd = [
        (404, String::new()),
        (500, String::new()),
        (302, String::new()),
        (200, "<html>".to_owned()),
        (200, "null".to_owned()),
        (200, json!([issuer, provider.uri(KEYS)]).to_string()),
        (
            200,
            json!({ "issuer": issuer, "jwks_uri": null }).to_string(),
        ),
        (200, other.to_string()),
        (200, "[".repeat(10_000)),
    ];
    for (status, document) in odd {
        for good_place in places {
            for place in places {
                provider.script(place, status, document.clone());
            }
            provider.script(good_place, 200, good.clone());
            let validator = TokenValidator::builder(&issuer, client())
                .audience(AUDIENCE)
                .clock(Arc::new(ManualClock::new(some_day())))
                .build()
                .unwrap();
            let outcome = validator.validate(&token).await;
            outcome.unwrap_or_else(|error| panic!("{status} {document:.40}: {error:?}"));
        }
    }
    assert_eq!(provider.fetches("/elsewhere"), 0);
}

#[tokio::test]
async fn f28_a_bad_signature_by_a_known_key_fetches_nothing() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    let mut token = setup.token(P256);
    token.truncate(token.len() - 8);
    token.push_str("AAAAAAAA");
    assert_eq!(setup.kind(&token).await, Some(AuthErrorKind::Rejected));
    assert_eq!(setup.provider.key_fetches(), 1);
}

#[tokio::test]
async fn a_first_token_with_an_unknown_key_fetches_once() {
    let setup = setup().await;
    assert_eq!(
        setup.kind(&setup.token(ED25519)).await,
        Some(AuthErrorKind::Rejected)
    );
    assert_eq!(setup.provider.key_fetches(), 1);
}

#[tokio::test]
async fn keys_are_renewed_in_the_background_before_they_age_out() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.clock.advance(Duration::from_secs(3590));
    let gate = setup.provider.hold();
    for _ in 0..10 {
        assert_eq!(setup.kind(&setup.token(P256)).await, None, "nobody waits");
    }
    gate.add_permits(2);
    setup.fetched(2).await;
    assert_eq!(setup.provider.fetches(OPENID), 2, "one fetch");
}

#[tokio::test]
async fn keys_age_as_the_issuer_says() {
    let setup = setup().await;
    setup.provider.cache_control("public, max-age=7200");
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.clock.advance(Duration::from_secs(3700));
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.clock.advance(Duration::from_secs(3490));
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.fetched(2).await;
}

#[tokio::test]
async fn an_issuer_that_is_down_refuses_nobody_whose_key_is_known() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    setup.provider.is_down(true);
    for _ in 0..20 {
        setup.clock.advance(Duration::from_secs(6 * 3600));
        assert_eq!(setup.kind(&setup.token(P256)).await, None);
    }
    assert_eq!(
        setup.kind(&setup.token(ED25519)).await,
        Some(AuthErrorKind::Unavailable)
    );
    assert_eq!(setup.kind(&setup.token(P256)).await, None);

    setup.provider.is_down(false).publish([ED25519.public()]);
    setup.clock.advance(Duration::from_secs(120));
    assert_eq!(setup.kind(&setup.token(ED25519)).await, None, "it recovers");
}

#[tokio::test]
async fn an_issuer_that_hangs_delays_nobody_whose_key_is_known() {
    let setup = setup().await;
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
    let _never = setup.provider.hold();
    setup.clock.advance(Duration::from_secs(7200));
    for _ in 0..10 {
        assert_eq!(setup.kind(&setup.token(P256)).await, None);
    }
}

#[tokio::test]
async fn f29_an_issuer_that_was_never_reached_is_503_with_retry_after() {
    let setup = setup().await;
    setup.provider.is_down(true);
    let error = setup
        .validator
        .validate(&setup.token(P256))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    let (status, body) = body_of(&error);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["error"], "temporarily_unavailable");
    let response = error.to_response::<Bytes>();
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=2).contains(&wait));
    assert!(!response.headers().contains_key("www-authenticate"));
    assert!(!body.to_string().contains("127.0.0.1"), "nothing internal");

    setup.provider.is_down(false);
    setup.clock.advance(Duration::from_secs(2));
    assert_eq!(setup.kind(&setup.token(P256)).await, None, "it recovers");
}

#[tokio::test]
async fn what_cannot_be_a_key_set_is_refused_and_what_was_known_stays() {
    let many = |count: usize| {
        let keys: Vec<_> = (0..count).map(|_| P256.public()).collect();
        json!({ "keys": keys }).to_string()
    };
    let mut huge = many(1);
    huge.push_str(&" ".repeat(10 << 20));
    let nested = format!(
        "{{\"keys\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let bad = [
        ("a status", 500, String::new()),
        ("a redirect", 302, String::new()),
        ("an empty body", 200, String::new()),
        ("no JSON", 200, "<html>".to_owned()),
        ("no object", 200, "[]".to_owned()),
        ("no keys", 200, r#"{"keys":[]}"#.to_owned()),
        (
            "keys that are none",
            200,
            r#"{"keys":[1,null,{}]}"#.to_owned(),
        ),
        ("10,000 keys", 200, many(10_000)),
        ("101 keys", 200, many(101)),
        ("10 MiB", 200, huge),
        ("deep nesting", 200, nested),
    ];
    for (fault, status, body) in bad {
        let setup = setup().await;
        setup.provider.script(KEYS, status, body);
        assert_eq!(
            setup.kind(&setup.token(P256)).await,
            Some(AuthErrorKind::Unavailable),
            "{fault}"
        );
        assert_eq!(setup.provider.fetches("/elsewhere"), 0);
        let good = json!({ "keys": [P256.public()] }).to_string();
        let scripted = setup.provider.requests().len();
        assert!(scripted <= 2, "{fault}");
        setup.provider.script(KEYS, 200, good);
        setup.clock.advance(Duration::from_secs(2));
        assert_eq!(setup.kind(&setup.token(P256)).await, None, "{fault}");
        setup.provider.script(KEYS, 200, "{}");
        setup.clock.advance(Duration::from_secs(7200));
        assert_eq!(setup.kind(&setup.token(P256)).await, None, "{fault}");
    }
}

#[tokio::test]
async fn metadata_that_is_not_the_issuers_is_refused() {
    let setup = setup().await;
    let issuer = setup.provider.issuer();
    let keys = setup.provider.uri(KEYS);
    let bad = [
        (
            "another issuer",
            json!({ "issuer": "https://evil.example.com", "jwks_uri": keys }),
        ),
        (
            "a slash more",
            json!({ "issuer": format!("{issuer}/"), "jwks_uri": keys }),
        ),
        ("no issuer", json!({ "jwks_uri": keys })),
        ("no key set", json!({ "issuer": issuer })),
        (
            "plain http",
            json!({ "issuer": issuer, "jwks_uri": "http://keys.example.com/" }),
        ),
        (
            "a file",
            json!({ "issuer": issuer, "jwks_uri": "file:///etc/passwd" }),
        ),
        (
            "a relative URI",
            json!({ "issuer": issuer, "jwks_uri": "/keys" }),
        ),
        ("no object", json!([])),
    ];
    for (fault, metadata) in bad {
        setup.provider.script(OPENID, 200, metadata.to_string());
        let error = setup
            .validator
            .validate(&setup.token(P256))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{fault}");
        assert!(!error.to_string().contains("evil"), "{fault}");
        setup.clock.advance(Duration::from_secs(120));
    }
    assert_eq!(setup.provider.key_fetches(), 0);
}

#[tokio::test]
async fn only_keys_for_signatures_of_the_right_type_verify() {
    let changed = |key: Value, name: &str, value: Value| {
        let mut key = key;
        key[name] = value;
        key
    };
    let p256 = P256.public();
    let unusable = [
        changed(p256.clone(), "use", json!("enc")),
        changed(p256.clone(), "key_ops", json!(["sign"])),
        changed(p256.clone(), "alg", json!("ES384")),
        changed(p256.clone(), "alg", json!("RS256")),
        changed(p256.clone(), "alg", json!("HS256")),
        changed(p256.clone(), "alg", json!("made-up")),
        changed(p256.clone(), "crv", json!("P-384")),
        changed(p256.clone(), "crv", json!("secp256k1")),
        changed(p256.clone(), "kty", json!("RSA")),
        changed(p256.clone(), "kty", json!("oct")),
        changed(p256.clone(), "x", json!("AAAA")),
        changed(p256.clone(), "x", json!("not base64!")),
        changed(p256.clone(), "kid", json!(1)),
        json!({ "kty": "oct", "kid": "p256", "k": "c2VjcmV0", "alg": "HS256" }),
    ];
    for key in unusable {
        let setup = setup().await;
        // The other key makes the set a good one.
        setup.provider.publish([key.clone(), ED25519.public()]);
        assert_eq!(
            setup.kind(&setup.token(P256)).await,
            Some(AuthErrorKind::Rejected),
            "{key}"
        );
        assert_eq!(setup.kind(&setup.token(ED25519)).await, None);
    }
}

#[tokio::test]
async fn f76_keys_that_are_written_a_little_differently_are_read() {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
    };

    let octets = |key: &Value, name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap());
    for (key, names) in [
        (RSA, &["n", "e"][..]),
        (P256, &["x", "y"]),
        (P384, &["x", "y"]),
        (ED25519, &["x"]),
    ] {
        let rewritten = |write: &dyn Fn(Vec<u8>) -> String| {
            let mut public = key.public();
            for name in names {
                public[*name] = json!(write(octets(&public, name).unwrap()));
            }
            public
        };
        let mut odd = vec![
            rewritten(&|octets| URL_SAFE.encode(octets)),
            rewritten(&|octets| STANDARD.encode(octets)),
        ];
        if key != ED25519 {
            odd.push(rewritten(&|octets| {
                URL_SAFE_NO_PAD.encode([&[0], &octets[..]].concat())
            }));
        }
        for name in ["use", "alg", "key_ops", "x5t", "issuer"] {
            let mut public = key.public();
            public[name] = Value::Null;
            odd.push(public);
        }
        for odd in odd {
            let setup = setup().await;
            setup.provider.publish([odd.clone()]);
            assert_eq!(setup.kind(&setup.token(key)).await, None, "{odd}");
        }
    }
}

#[test]
fn f76_a_key_that_is_written_wrongly_is_named_in_an_event_and_the_others_serve() {
    let changed = |name: &str, value: Value| {
        let mut key = P256.public();
        key["kid"] = json!("odd\n\u{1b}[31m-key");
        key[name] = value;
        key
    };
    let odd = [
        changed("x", json!("not base64!")),
        changed("x", json!("AQAB")),
        changed("x", json!("A".repeat(1000))),
        changed("x", json!([1, 2])),
        changed("y", Value::Null),
        changed("kty", Value::Null),
        changed("alg", json!(256)),
        changed("key_ops", json!("verify")),
        changed("use", json!({})),
    ];
    for key in odd {
        let log = Log::default();
        let captured = log.capture("tower_identity=warn");
        let keys = json!({ "keys": [key, ED25519.public()] }).to_string();
        let keys = KeySet::from_json(keys).unwrap();
        assert_eq!(format!("{keys:?}"), r#"[Some("ed25519")]"#, "{key}");
        drop(captured);
        let log = log.text();
        assert!(log.contains("odd\\n\\u{1b}[31m-key"), "{key}: {log}");
        assert!(!log.contains("\u{1b}[31m"));
    }
    for nothing in [
        json!(1),
        json!([]),
        json!({ "keys": {} }),
        json!([[P256.public()]]),
    ] {
        KeySet::from_json(nothing.to_string()).unwrap_err();
    }
}

#[tokio::test]
async fn f77_ed25519_is_the_name_of_an_algorithm_too() {
    for named in ["Ed25519", "EdDSA"] {
        let setup = setup().await;
        let mut key = ED25519.public();
        key["alg"] = json!(named);
        setup.provider.publish([key]);
        let claims = setup.provider.claims("alice", setup.clock.now());
        for algorithm in ["Ed25519", "EdDSA"] {
            let mut header = ED25519.header();
            header["alg"] = json!(algorithm);
            let token = ED25519.sign(&header, &claims);
            assert_eq!(setup.kind(&token).await, None, "{named} {algorithm}");
        }
        let mut header = ED25519.header();
        header["alg"] = json!("Ed448");
        let token = ED25519.sign(&header, &claims);
        assert_eq!(setup.kind(&token).await, Some(AuthErrorKind::Rejected));
    }
}

#[tokio::test]
async fn f81_an_https_issuer_cannot_have_its_keys_come_over_plain_http() {
    let metadata = |keys: &str| {
        json!({ "issuer": "https://issuer.example.com", "jwks_uri": keys }).to_string()
    };
    for keys in ["http://127.0.0.1:8080/keys", "http://localhost/keys"] {
        let validator = validator_of(metadata(keys).into(), keys_document());
        let error = validator.validate(&token_of_issuer()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
    let keys = metadata("https://keys.example.com/keys");
    let validator = validator_of(keys.into(), keys_document());
    let error = validator.validate(&token_of_issuer()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected, "it has no audience");
}

fn keys_document() -> Bytes {
    json!({ "keys": [P256.public()] }).to_string().into()
}

fn token_of_issuer() -> String {
    P256.sign(
        &P256.header(),
        &json!({ "iss": "https://issuer.example.com" }),
    )
}

#[tokio::test]
async fn a_key_of_edwards_curves_that_names_another_curve_verifies_nothing() {
    let setup = setup().await;
    let mut key = ED25519.public();
    key["crv"] = json!("P-256");
    setup.provider.publish([key, P256.public()]);
    assert_eq!(
        setup.kind(&setup.token(ED25519)).await,
        Some(AuthErrorKind::Rejected)
    );
    assert_eq!(setup.kind(&setup.token(P256)).await, None);
}

#[tokio::test]
async fn every_algorithm_of_key_pairs_verifies() {
    use jsonwebtoken::Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};

    let setup = setup().await;
    let mut keys = [RSA, P256, P384, ED25519].map(|key| key.public());
    keys[0].as_object_mut().unwrap().remove("alg");
    setup.provider.publish(keys);
    let claims = setup.provider.claims("alice", setup.clock.now());
    let all = [
        (RSA, RS256),
        (RSA, RS384),
        (RSA, RS512),
        (RSA, PS256),
        (RSA, PS384),
        (RSA, PS512),
        (P256, ES256),
        (P384, ES384),
        (ED25519, EdDSA),
    ];
    for (key, algorithm) in all {
        let mut header = key.header();
        header["alg"] = json!(format!("{algorithm:?}"));
        let token = key.sign_as(algorithm, &header, &claims);
        assert_eq!(setup.kind(&token).await, None, "{algorithm:?}");
        header.as_object_mut().unwrap().remove("kid");
        let token = key.sign_as(algorithm, &header, &claims);
        assert_eq!(setup.kind(&token).await, None, "{algorithm:?} without kid");
    }
    assert_eq!(setup.provider.key_fetches(), 1);
}

#[tokio::test]
async fn a_key_verifies_its_own_algorithm_alone() {
    let setup = setup().await;
    setup.provider.publish([RSA.public()]);
    let mut header = RSA.header();
    header["alg"] = json!("PS256");
    let claims = setup.provider.claims("alice", setup.clock.now());
    let token = RSA.sign_as(jsonwebtoken::Algorithm::PS256, &header, &claims);
    assert_eq!(setup.kind(&token).await, Some(AuthErrorKind::Rejected));
}

#[tokio::test]
async fn given_keys_need_no_issuer() {
    let keys = json!({ "keys": [ED25519.public()] }).to_string();
    let validator =
        TokenValidator::builder_with_keys("an issuer", KeySet::from_json(keys).unwrap())
            .audience(AUDIENCE)
            .clock(Arc::new(ManualClock::new(some_day())))
            .build()
            .unwrap();
    let provider = IdentityProvider::start(P256).await;
    let mut claims = provider.claims("alice", some_day());
    claims["iss"] = json!("an issuer");
    let token = ED25519.sign(&ED25519.header(), &claims);
    assert_eq!(validator.validate(&token).await.unwrap().subject(), "alice");
    let token = P256.sign(&P256.header(), &claims);
    let error = validator.validate(&token).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);

    for bad in ["", "{}", r#"{"keys":[]}"#] {
        let error = KeySet::from_json(bad).unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "json");
    }
}

#[test]
fn a_key_set_shows_the_names_of_its_keys_alone() {
    let keys = json!({ "keys": [P256.public(), ED25519.public()] }).to_string();
    let shown = format!("{:?}", KeySet::from_json(keys).unwrap());
    assert_eq!(shown, r#"[Some("p256"), Some("ed25519")]"#);
}

#[test]
fn a_key_set_has_at_most_100_keys() {
    let keys = |count| json!({ "keys": vec![P256.public(); count] }).to_string();
    KeySet::from_json(keys(100)).unwrap();
    KeySet::from_json(keys(101)).unwrap_err();
}

// An issuer that answers whatever it wants. No socket: these are many.

#[tokio::test]
async fn the_path_of_an_issuer_begins_after_its_host_however_short_that_is() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keeps = asked.clone();
    let issuer = service_fn(move |request: Request<Full<Bytes>>| {
        keeps.lock().unwrap().push(request.uri().to_string());
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        ready(Ok::<_, Infallible>(response))
    });
    let validator = TokenValidator::builder("https://a.b/c", issuer)
        .audience(AUDIENCE)
        .build()
        .unwrap();
    let token = P256.sign(&P256.header(), &json!({ "iss": "https://a.b/c" }));
    validator.validate(&token).await.unwrap_err();
    assert_eq!(
        *asked.lock().unwrap(),
        [
            "https://a.b/c/.well-known/openid-configuration",
            "https://a.b/.well-known/oauth-authorization-server/c",
            "https://a.b/.well-known/openid-configuration/c"
        ]
    );
}

/// A validator whose issuer sends these bodies.
fn validator_of(metadata: Bytes, keys: Bytes) -> TokenValidator {
    let issuer = service_fn(move |request: Request<Full<Bytes>>| {
        let body = match request.uri().path() {
            OPENID => metadata.clone(),
            _ => keys.clone(),
        };
        async { Ok::<_, Infallible>(Response::new(Full::new(body))) }
    });
    TokenValidator::builder("https://issuer.example.com", issuer)
        .audience(AUDIENCE)
        .build()
        .unwrap()
}

fn kind_of(validator: &TokenValidator) -> AuthErrorKind {
    let token = token_of_issuer();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(validator.validate(&token)).unwrap_err();
    error.kind()
}

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<f64>().prop_map(Value::from),
        Just(json!("https://issuer.example.com")),
        "[ -~]{0,20}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("issuer|jwks_uri|keys|[a-z]{1,3}", inner, 0..4)
                .prop_map(|map| json!(map)),
        ]
    });
    prop_oneof![value.prop_map(|value| value.to_string()), ".{0,100}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_metadata_panics_or_is_the_callers_fault(metadata in json_text()) {
        let validator = validator_of(metadata.into(), "{}".into());
        prop_assert_eq!(kind_of(&validator), AuthErrorKind::Unavailable);
    }

    #[test]
    fn no_key_set_panics_or_is_the_callers_fault(keys in json_text()) {
        let metadata = json!({
            "issuer": "https://issuer.example.com",
            "jwks_uri": "https://keys.example.com/",
        });
        let validator = validator_of(metadata.to_string().into(), keys.into());
        prop_assert_eq!(kind_of(&validator), AuthErrorKind::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_ends_its_answer_is_given_up_after_10_seconds() {
    let issuer = service_fn(async |_: Request<Full<Bytes>>| {
        let drops = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let frame = Frame::data(Bytes::from_static(b" "));
            Some((Ok::<_, Infallible>(frame), ()))
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(drops)))
    });
    let validator = TokenValidator::builder("https://issuer.example.com", issuer)
        .audience(AUDIENCE)
        .build()
        .unwrap();
    let token = token_of_issuer();
    let started = tokio::time::Instant::now();
    let error = validator.validate(&token).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(started.elapsed().as_secs(), 10);
}

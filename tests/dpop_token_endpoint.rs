//! Tokens that a token endpoint binds to a key (RFC 9449 §5 and §8), with npm's oidc-provider and with hostile answers.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{
    dpop::{Asked, URL, issued, part, refused, verified},
    key_pair::{ED25519, P256, P384, RSA},
    log::Log,
    oidc_provider::{CALLBACK, OidcProvider, VERIFIER},
};
use tower::{BoxError, service_fn};
use tower_identity::{
    AuthError, AuthErrorKind, ClientAuth, Secret, TokenEndpoint,
    client::hyper::https_client,
    oauth::{
        DpopKey, DpopKeys, PrivateKeyJwt, SigningAlgorithm, TokenEndpointBuilder, TokenRequest,
    },
};

const API: &str = "https://api.example.com/";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn key() -> DpopKey {
    DpopKey::generate().unwrap()
}

fn application() -> TokenRequest {
    TokenRequest::client_credentials().resource(API)
}

/// With the client `gateway` by `private_key_jwt`, and the public client `browser`. Tokens of both are always bound.
async fn provider(options: Value) -> Option<OidcProvider> {
    let mut all = json!({
        "clients": [
            {
                "client_id": "gateway",
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES256",
                "jwks": { "keys": [P256.public()] },
                "dpop_bound_access_tokens": true,
            },
            {
                "client_id": "browser",
                "token_endpoint_auth_method": "none",
                "dpop_bound_access_tokens": true,
            },
            { "client_id": "old", "client_secret": SECRET },
        ],
        "resources": { API: {} },
        "dpop": {},
    });
    for (name, value) in options.as_object().unwrap() {
        all[name] = value.clone();
    }
    OidcProvider::start(all).await
}

fn gateway() -> ClientAuth {
    let key = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &secret(P256.pem));
    ClientAuth::private_key_jwt("gateway", key.key_id(P256.id).build().unwrap())
}

fn endpoint(provider: &OidcProvider, client_auth: ClientAuth) -> TokenEndpointBuilder {
    let client = https_client::<Full<Bytes>>().unwrap();
    TokenEndpoint::builder(provider.token_endpoint(), client)
        .client_auth(client_auth)
        .issuer(provider.issuer())
}

/// The key that a token is bound to, as the token says.
fn bound_to(token: &str) -> Value {
    part(token, 1)["cnf"]["jkt"].take()
}

#[tokio::test]
async fn a_provider_binds_the_applications_token_to_each_kind_of_key() {
    let algorithms = ["ES256", "ES384", "EdDSA", "RS256", "PS256"];
    let Some(provider) = provider(json!({ "dpop": { "algorithms": algorithms } })).await else {
        return;
    };
    let mut keys = vec![
        DpopKeys::from(key()),
        DpopKeys::per_user(&secret(SECRET)).unwrap(),
    ];
    for (algorithm, key) in [
        (SigningAlgorithm::Es256, P256),
        (SigningAlgorithm::Es384, P384),
        (SigningAlgorithm::EdDsa, ED25519),
        (SigningAlgorithm::Rs256, RSA),
        (SigningAlgorithm::Ps256, RSA),
    ] {
        let key = DpopKey::from_pem(algorithm, &secret(key.pem));
        keys.push(key.unwrap().into());
    }
    for keys in keys {
        let endpoint = endpoint(&provider, gateway())
            .dpop(keys.clone())
            .build()
            .unwrap();
        let response = match endpoint.request_token(application()).await {
            Ok(response) => response,
            Err(error) => panic!("{keys:?}: {error}"),
        };
        assert!(response.is_dpop_bound());
        let thumbprint = keys.key(None).unwrap().thumbprint().to_owned();
        assert_eq!(bound_to(response.token().expose()), thumbprint);
    }
}

#[tokio::test]
async fn a_nonce_that_a_provider_asks_for_costs_one_request_and_is_kept() {
    let Some(provider) = provider(json!({ "dpop": { "nonce": true } })).await else {
        return;
    };
    let endpoint = endpoint(&provider, gateway()).dpop(key()).build().unwrap();
    for _ in 0..3 {
        let response = endpoint.request_token(application()).await.unwrap();
        assert!(response.is_dpop_bound());
    }
    let grant = "client_credentials";
    assert_eq!(provider.errors("use_dpop_nonce", grant).await, 1);
    assert_eq!(provider.count("grant.error", grant).await, 1);
    assert_eq!(provider.count("grant.success", grant).await, 3);
}

/// What an authorization code of Alice brings at this endpoint.
async fn code(provider: &OidcProvider, jkt: Option<&str>) -> TokenRequest {
    let mut parameters = vec![
        ("client_id", "browser"),
        ("scope", "openid offline_access read"),
        ("prompt", "consent"),
        ("resource", API),
        ("login_hint", "alice"),
    ];
    parameters.extend(jkt.map(|jkt| ("dpop_jkt", jkt)));
    let code = provider.code(&parameters).await;
    TokenRequest::authorization_code(&code)
        .parameter("code_verifier", VERIFIER)
        .parameter("redirect_uri", CALLBACK)
        .resource(API)
}

#[tokio::test]
async fn a_code_and_its_refresh_tokens_are_of_use_with_the_key_that_they_are_bound_to_alone() {
    for nonce in [false, true] {
        let Some(provider) = provider(json!({ "dpop": { "nonce": nonce } })).await else {
            return;
        };
        let keys = DpopKeys::per_user(&secret(SECRET)).unwrap();
        let alice = tower_identity::Identity::builder("alice").build().unwrap();
        let of_alice = keys.key(Some(&alice)).unwrap();
        let endpoint = endpoint(&provider, ClientAuth::none("browser"))
            .dpop(keys)
            .build()
            .unwrap();

        let started = code(&provider, Some(of_alice.thumbprint())).await;
        let with_another = endpoint.request_token(started).await.unwrap_err();
        assert_eq!(with_another.kind(), AuthErrorKind::Rejected);
        assert_eq!(with_another.oauth_error(), Some("invalid_grant"));

        let started = code(&provider, Some(of_alice.thumbprint())).await;
        let tokens = endpoint
            .request_token(started.dpop_key(of_alice.clone()))
            .await
            .unwrap();
        assert_eq!(bound_to(tokens.token().expose()), of_alice.thumbprint());

        let refresh = || {
            let refresh_token = tokens.refresh_token().unwrap();
            TokenRequest::refresh_token(refresh_token.expose())
        };
        let with_another = endpoint.request_token(refresh()).await.unwrap_err();
        assert_eq!(with_another.kind(), AuthErrorKind::Rejected);
        let again = endpoint
            .request_token(refresh().dpop_key(of_alice.clone()))
            .await
            .unwrap();
        assert_eq!(bound_to(again.token().expose()), of_alice.thumbprint());
        assert!(again.is_dpop_bound());
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_unless_the_providers_nonces_make_up_for_it() {
    for nonces in [true, false] {
        let Some(provider) = provider(json!({ "dpop": { "nonces": nonces } })).await else {
            return;
        };
        let old = ClientAuth::basic("old", secret(SECRET));
        let endpoint = endpoint(&provider, old).dpop(key()).build().unwrap();
        endpoint.request_token(application()).await.unwrap();
        provider.set(json!({ "ahead": 3_600 })).await;
        match endpoint.request_token(application()).await {
            Ok(response) => assert!(nonces && response.is_dpop_bound()),
            Err(error) => {
                assert!(!nonces, "{error}");
                assert_eq!(error.kind(), AuthErrorKind::Configuration);
                assert_eq!(error.oauth_error(), Some("invalid_dpop_proof"));
                assert!(error.to_string().contains("clock"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_of_a_provider_that_does_not_know_dpop_is_refused_unless_it_is_allowed() {
    let Some(provider) = provider(json!({ "dpop": null })).await else {
        return;
    };
    let old = || endpoint(&provider, ClientAuth::basic("old", secret(SECRET))).dpop(key());
    let error = old()
        .build()
        .unwrap()
        .request_token(application())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("allow_bearer_tokens"), "{error}");
    let allowed = old().allow_bearer_tokens().build().unwrap();
    let response = allowed.request_token(application()).await.unwrap();
    assert!(!response.is_dpop_bound());
}

// With a token endpoint that does as it is told.

async fn ask(
    asked: &Asked,
    build: fn(TokenEndpointBuilder) -> TokenEndpointBuilder,
) -> Result<bool, AuthError> {
    let endpoint = build(asked.endpoint(URL)).build().unwrap();
    let response = endpoint
        .request_token(TokenRequest::client_credentials())
        .await?;
    Ok(response.is_dpop_bound())
}

#[tokio::test]
async fn a_token_type_counts_in_any_case_and_a_bound_token_without_keys_is_told_as_one() {
    type Build = fn(TokenEndpointBuilder) -> TokenEndpointBuilder;

    let bound: Build = |builder| builder.dpop(key());
    let either: Build = |builder| builder.allow_bearer_tokens().dpop(key());
    let bearer: Build = |builder| builder;
    let allowing: Build = |builder| builder.allow_bearer_tokens();
    let wrong = Err(AuthErrorKind::Configuration);
    let unusable = Err(AuthErrorKind::Unavailable);
    for (has_keys, build, token_type, expected) in [
        (true, bound, "DPoP", Ok(true)),
        (true, bound, "dpop", Ok(true)),
        (true, bound, "DPOP", Ok(true)),
        (true, bound, "Bearer", wrong),
        (true, bound, "bearer", wrong),
        (true, bound, "", unusable),
        (true, bound, "DPoP ", unusable),
        (true, bound, "PoP", unusable),
        (true, either, "dPoP", Ok(true)),
        (true, either, "BEARER", Ok(false)),
        (true, either, "mac", unusable),
        (false, bearer, "Bearer", Ok(false)),
        (false, bearer, "DPoP", wrong),
        // Without keys there is nothing to allow.
        (false, allowing, "DPoP", wrong),
        (false, allowing, "Bearer", Ok(false)),
    ] {
        let asked = Asked::default();
        asked.answer(issued(token_type));
        let outcome = ask(&asked, build).await.map_err(|error| {
            let names_key = error.to_string().contains("key");
            assert_eq!(
                names_key,
                error.kind() == AuthErrorKind::Configuration,
                "{error}"
            );
            error.kind()
        });
        assert_eq!(outcome, expected, "{token_type}");
        let has_proof = asked.requests()[0].headers().contains_key("dpop");
        assert_eq!(has_proof, has_keys, "{token_type}");
    }
}

#[tokio::test]
async fn the_retry_with_a_nonce_is_one_request_that_is_made_anew() {
    let asked = Asked::default();
    asked
        .answer(refused(400, "use_dpop_nonce", &[b"first"]))
        .answer(refused(401, "use_dpop_nonce", &[b"second"]));
    let endpoint = asked
        .endpoint(URL)
        .client_auth(gateway())
        .dpop(key())
        .build()
        .unwrap();
    let request = || TokenRequest::client_credentials();
    let error = endpoint.request_token(request()).await.unwrap_err();
    // The server's nonces change faster than they are used, or it does not know what another of its replicas gave.
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(error.oauth_error(), Some("use_dpop_nonce"));
    assert_eq!(asked.requests().len(), 2);

    endpoint.request_token(request()).await.unwrap();
    let claims: Vec<_> = asked.proofs().iter().map(|proof| part(proof, 1)).collect();
    let nonces: Vec<_> = claims
        .iter()
        .map(|claims| claims.get("nonce").cloned())
        .collect();
    assert_eq!(nonces, [None, Some(json!("first")), Some(json!("second"))]);
    for pair in claims.windows(2) {
        assert_ne!(pair[0]["jti"], pair[1]["jti"]);
    }
    let assertions: Vec<_> = asked.requests().iter().map(assertion).collect();
    assert_ne!(assertions[0], assertions[1], "an assertion is sent twice");
    if let Some(verified) = verified(&asked.proofs()) {
        assert!(verified.iter().all(|proof| proof.get("error").is_none()));
    }
}

fn assertion(request: &Request<Bytes>) -> String {
    let mut form = form_urlencoded::parse(request.body());
    let (_, assertion) = form.find(|(name, _)| name == "client_assertion").unwrap();
    part(&assertion, 1)["jti"].to_string()
}

#[tokio::test]
async fn a_nonce_is_learnt_from_each_answer() {
    let asked = Asked::default();
    let mut success = issued("DPoP");
    success
        .headers_mut()
        .insert("dpop-nonce", "from-a-success".parse().unwrap());
    asked
        .answer(success)
        .answer(refused(400, "invalid_scope", &[b"from-a-refusal"]))
        .answer(refused(503, "server_error", &[b"from-an-outage"]));
    let endpoint = asked.endpoint(URL).dpop(key()).build().unwrap();
    for _ in 0..4 {
        let request = TokenRequest::client_credentials();
        drop(endpoint.clone().request_token(request).await);
    }
    let nonces: Vec<_> = asked
        .proofs()
        .iter()
        .map(|proof| part(proof, 1)["nonce"].take())
        .collect();
    assert_eq!(
        nonces,
        [
            Value::Null,
            json!("from-a-success"),
            json!("from-a-refusal"),
            json!("from-an-outage")
        ]
    );
}

#[tokio::test]
async fn a_refusal_of_the_proof_says_what_helps() {
    use AuthErrorKind::{Configuration, Unavailable};

    let keys: fn(TokenEndpointBuilder) -> TokenEndpointBuilder = |builder| builder.dpop(key());
    let none: fn(TokenEndpointBuilder) -> TokenEndpointBuilder = |builder| builder;
    for (build, code, kind, says) in [
        (keys, "invalid_dpop_proof", Configuration, "clock"),
        (none, "invalid_dpop_proof", Configuration, "set `dpop`"),
        // Without a nonce there is nothing to send again.
        (keys, "use_dpop_nonce", Unavailable, "nonce"),
        (none, "use_dpop_nonce", Configuration, "set `dpop`"),
    ] {
        let asked = Asked::default();
        asked.answer(refused(400, code, &[]));
        let error = ask(&asked, build).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.oauth_error(), Some(code));
        assert_eq!(asked.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_hostile_nonce_is_neither_sent_nor_logged_nor_kept() {
    let log = Log::default();
    let _guard = log.capture("trace");
    let long = vec![b'n'; 1 << 20];
    let too_long = vec![b'n'; 1_025];
    let hostile: [&[&[u8]]; 10] = [
        &[b""],
        &[b"with space"],
        &[b"tab\tinside"],
        &[b"quote\"inside"],
        &[b"back\\slash"],
        &["ümlaut".as_bytes()],
        &[b"\xff\xfe"],
        &[&too_long],
        &[&long],
        &[b"hostile-one", b"hostile-two"],
    ];
    for nonces in hostile {
        let asked = Asked::default();
        asked.answer(refused(400, "use_dpop_nonce", nonces));
        let endpoint = asked.endpoint(URL).dpop(key()).build().unwrap();
        let request = || TokenRequest::client_credentials();
        let error = endpoint.request_token(request()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        endpoint.request_token(request()).await.unwrap();
        for proof in asked.proofs() {
            assert_eq!(part(&proof, 1).get("nonce"), None);
        }
        let shown = format!("{error} {error:?} {endpoint:?} {}", log.text());
        for nonce in nonces.iter().filter(|nonce| !nonce.is_empty()) {
            let nonce = String::from_utf8_lossy(&nonce[..nonce.len().min(64)]);
            assert!(!shown.contains(&*nonce), "{nonce}");
        }
    }
}

proptest! {
    #[test]
    fn a_nonce_that_is_taken_comes_back_unchanged(nonce in prop::collection::vec(any::<u8>(), 0..48)) {
        let Ok(value) = http::HeaderValue::from_bytes(&nonce) else {
            return Ok(());
        };
        let asked = Asked::default();
        let mut answer = issued("DPoP");
        answer.headers_mut().insert("dpop-nonce", value);
        asked.answer(answer);
        let endpoint = asked.endpoint(URL).dpop(key()).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for _ in 0..2 {
                endpoint.request_token(TokenRequest::client_credentials()).await.unwrap();
            }
        });
        // RFC 9449 §8.1: NQCHAR of RFC 6749, appendix A.
        let is_of_nonce = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let is_nonce = !nonce.is_empty() && nonce.iter().all(is_of_nonce);
        let sent = part(&asked.proofs()[1], 1).get("nonce").cloned();
        let expected = is_nonce.then(|| json!(String::from_utf8(nonce).unwrap()));
        prop_assert_eq!(sent, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_retry_with_a_nonce_is_within_the_time_limit_of_the_request() {
    let slow = service_fn(|_: Request<Full<Bytes>>| async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let answer: Response<Full<Bytes>> = refused(400, "use_dpop_nonce", &[b"nonce"]);
        Ok::<_, BoxError>(answer)
    });
    let endpoint = TokenEndpoint::builder(URL, slow)
        .dpop(key())
        .build()
        .unwrap();
    let started = tokio::time::Instant::now();
    let request = TokenRequest::client_credentials();
    let error = endpoint.request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(started.elapsed(), Duration::from_secs(30));
}

#[tokio::test]
async fn a_request_with_a_key_is_not_sent_to_an_endpoint_without_keys() {
    let asked = Asked::default();
    let endpoint = asked.endpoint(URL).build().unwrap();
    let request = TokenRequest::client_credentials().dpop_key(key());
    let error = endpoint.request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(asked.requests().is_empty());
}

#[tokio::test]
async fn an_endpoint_whose_keys_are_shared_by_clones_shares_its_nonce() {
    let asked = Asked::default();
    asked.answer(refused(400, "use_dpop_nonce", &[b"kept"]));
    let endpoint = Arc::new(asked.endpoint(URL).dpop(key()).build().unwrap());
    let another = TokenEndpoint::clone(&endpoint);
    let request = || TokenRequest::client_credentials();
    endpoint.request_token(request()).await.unwrap();
    another.request_token(request()).await.unwrap();
    let nonces = asked
        .proofs()
        .iter()
        .filter(|proof| part(proof, 1)["nonce"] == "kept")
        .count();
    assert_eq!((asked.requests().len(), nonces), (3, 2));
    assert_eq!(asked.requests()[0].uri(), URL);
}

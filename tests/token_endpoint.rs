//! The token endpoint: what is sent, what is accepted, and what comes of an issuer that says no or misbehaves.
#![cfg(feature = "token-exchange")]

mod support;

use std::{
    convert::Infallible,
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{
    issuer::{
        self, Behaviour, CLIENT_CREDENTIALS, Issuer, JWT_BEARER, REFRESH_TOKEN, TOKEN_EXCHANGE,
    },
    log::Log,
};
use tower::service_fn;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, ClientAuth, ManualClock, Secret, TokenEndpoint,
    oauth::{Lifetime, TokenRequest, TokenResponse, TokenType},
};

const SUBJECT_TOKEN: &str = "subject-token-of-alice";
const CLIENT_SECRET: &str = "client-secret-1";
const ISSUED: &str = "issued-token-1";

fn token_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn endpoint(issuer: &Issuer) -> TokenEndpoint {
    TokenEndpoint::builder(issuer.url(), token_client())
        .build()
        .unwrap()
}

fn endpoint_with(issuer: &Issuer, client_auth: ClientAuth) -> TokenEndpoint {
    TokenEndpoint::builder(issuer.url(), token_client())
        .client_auth(client_auth)
        .build()
        .unwrap()
}

fn exchange() -> TokenRequest {
    TokenRequest::token_exchange().subject_token(SUBJECT_TOKEN, TokenType::AccessToken)
}

/// What a good answer to `exchange()` is.
fn good_answer() -> Value {
    json!({
        "access_token": ISSUED,
        "issued_token_type": TokenType::AccessToken.urn(),
        "token_type": "Bearer",
        "expires_in": 3600,
    })
}

async fn answer_to_exchange(behaviour: Behaviour) -> Result<TokenResponse, AuthError> {
    let issuer = Issuer::start().await;
    issuer.next(behaviour);
    let answer = endpoint(&issuer).request_token(exchange()).await;
    assert_eq!(issuer.requests().len(), 1, "nothing is tried twice");
    answer
}

/// All that an error shows, to whom ever.
fn shown(error: &AuthError) -> String {
    let sources = std::iter::successors(Some(error as &dyn Error), |&error| error.source());
    let sources: Vec<_> = sources
        .map(|error| format!("{error} {error:?} {error:#?}"))
        .collect();
    let response = error.to_response::<Bytes>();
    format!("{sources:?} {response:?}")
}

fn assert_shows_no_secret(text: &str) {
    for secret in [
        SUBJECT_TOKEN,
        CLIENT_SECRET,
        &STANDARD.encode(format!("gateway:{CLIENT_SECRET}")),
        ISSUED,
        "said by the issuer",
    ] {
        assert!(!text.contains(secret), "`{secret}` is in {text}");
    }
}

// What is sent.

#[tokio::test]
async fn a_token_is_exchanged_as_rfc_8693_has_it() {
    let issuer = Issuer::start().await;
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .know("actor-token", "gateway");
    let request = exchange()
        .actor_token("actor-token", TokenType::Jwt)
        .audience("mcp")
        .audience("files")
        .resource("https://mcp.example.com/a")
        .resource("urn:example:files")
        .scopes(["tools:read", "tools:write"])
        .requested_token_type(TokenType::AccessToken)
        .parameter("x-tenant", "blue & green");

    let response = endpoint(&issuer).request_token(request).await.unwrap();

    assert_eq!(response.token().expose(), "exchanged-for-alice-mcp+files-1");
    assert!(response.token().authorization().is_sensitive());
    assert_eq!(
        response.lifetime(),
        Lifetime::For(Duration::from_secs(3600))
    );
    assert_eq!(response.scope(), Some("tools:read tools:write"));
    let sent = issuer.request();
    assert_eq!(sent.uri, "/token");
    assert_eq!(sent.headers[header::ACCEPT], "application/json");
    let expected = [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", SUBJECT_TOKEN),
        ("subject_token_type", TokenType::AccessToken.urn()),
        ("actor_token", "actor-token"),
        ("actor_token_type", TokenType::Jwt.urn()),
        ("audience", "mcp"),
        ("audience", "files"),
        ("resource", "https://mcp.example.com/a"),
        ("resource", "urn:example:files"),
        ("scope", "tools:read tools:write"),
        ("requested_token_type", TokenType::AccessToken.urn()),
        ("x-tenant", "blue & green"),
    ];
    assert_eq!(sent.form, expected.map(|(n, v)| (n.into(), v.into())));
}

#[tokio::test]
async fn the_example_of_rfc_8693_section_2_3_goes_over_the_wire() {
    let issuer = Issuer::start().await;
    let access_token = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.eyJhdWQiOiJodHRwczovL2JhY2tlbmQuZXhhbXBsZS5jb20iLCJpc3Mi\
                        OiJodHRwczovL2FzLmV4YW1wbGUuY29tIiwiZXhwIjoxNDQxOTE3NTkzLCJpYXQiOjE0NDE5MTc1MzMsInN1YiI6ImJk\
                        Y0BleGFtcGxlLmNvbSIsInNjb3BlIjoiYXBpIn0.40y3ZgQedw6rxf59WlwHDD9jryFOr0_Wh3CGozQBihNBhnXEQgU8\
                        5AI9x3KmsPottVMLPIWvmDCMy5-kdXjwhw";
    let answer = json!({
        "access_token": access_token,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 60,
    });
    issuer.next(Behaviour::json(200, &answer).header("cache-control", "no-cache, no-store"));
    let client_auth = ClientAuth::basic("rs08", secret("long-secure-random-secret"));
    let subject_token = "accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC";
    let request = TokenRequest::token_exchange()
        .resource("https://backend.example.com/api")
        .subject_token(subject_token, TokenType::AccessToken);

    let endpoint = endpoint_with(&issuer, client_auth);
    let response = endpoint.request_token(request).await.unwrap();

    assert_eq!(response.token().expose(), access_token);
    assert_eq!(response.lifetime(), Lifetime::For(Duration::from_secs(60)));
    let sent = issuer.request();
    assert_eq!(
        sent.headers[header::AUTHORIZATION],
        "Basic cnMwODpsb25nLXNlY3VyZS1yYW5kb20tc2VjcmV0"
    );
    assert_eq!(
        sent.body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
         &resource=https%3A%2F%2Fbackend.example.com%2Fapi\
         &subject_token=accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token"
    );
}

#[tokio::test]
async fn each_grant_is_answered() {
    let issuer = Issuer::start().await;
    issuer
        .know("an-assertion", "alice")
        .know("a-refresh-token", "bob");
    let endpoint = endpoint(&issuer);

    let client = TokenRequest::client_credentials().audience("mcp");
    let client = endpoint.request_token(client).await.unwrap();
    assert_eq!(client.token().expose(), "issued-to-client-mcp-1");
    let assertion = TokenRequest::jwt_bearer().assertion("an-assertion");
    let assertion = endpoint.request_token(assertion).await.unwrap();
    assert_eq!(assertion.token().expose(), "issued-for-alice-2");
    let refreshed = TokenRequest::refresh_token("a-refresh-token");
    let refreshed = endpoint.request_token(refreshed).await.unwrap();
    assert_eq!(refreshed.token().expose(), "refreshed-for-bob-3");

    assert_eq!(issuer.count(CLIENT_CREDENTIALS, None), 1);
    assert_eq!(issuer.count(JWT_BEARER, Some("alice")), 1);
    assert_eq!(issuer.count(REFRESH_TOKEN, Some("bob")), 1);
}

#[tokio::test]
async fn a_url_keeps_its_query() {
    let issuer = Issuer::start().await;
    issuer.next(Behaviour::json(200, &good_answer()));
    let url = format!("{}?tenant=blue", issuer.url());
    let endpoint = TokenEndpoint::builder(url, token_client()).build().unwrap();

    endpoint.request_token(exchange()).await.unwrap();

    assert_eq!(issuer.request().uri, "/token?tenant=blue");
}

#[tokio::test]
async fn a_client_that_was_not_configured_is_not_named() {
    let issuer = Issuer::start().await;
    issuer.know(SUBJECT_TOKEN, "alice");

    endpoint(&issuer).request_token(exchange()).await.unwrap();

    let sent = issuer.request();
    assert!(!sent.headers.contains_key(header::AUTHORIZATION));
    assert_eq!(sent.one("client_id"), None);
}

#[tokio::test]
async fn a_public_client_sends_its_id() {
    let issuer = Issuer::start().await;
    let id = "gateway";
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .require(issuer::Client::Public { id: id.into() });

    let endpoint = endpoint_with(&issuer, ClientAuth::none(id));
    endpoint.request_token(exchange()).await.unwrap();
}

#[tokio::test]
async fn a_secret_is_posted_where_that_was_configured() {
    let issuer = Issuer::start().await;
    let (id, password) = ("a:b+c%d e&ü", "p:w+%2B =ß");
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .require(issuer::Client::Post {
            id: id.into(),
            secret: password.into(),
        });

    let endpoint = endpoint_with(&issuer, ClientAuth::post(id, secret(password)));
    endpoint.request_token(exchange()).await.unwrap();
}

#[tokio::test]
async fn id_and_secret_are_form_urlencoded_before_http_basic() {
    let issuer = Issuer::start().await;
    let (id, password) = ("a:b+c%d e&ü", "p:w+%2B =ß");
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .require(issuer::Client::Basic {
            id: id.into(),
            secret: password.into(),
        });

    let endpoint = endpoint_with(&issuer, ClientAuth::basic(id, secret(password)));
    endpoint.request_token(exchange()).await.unwrap();

    let pair = "a%3Ab%2Bc%25d+e%26%C3%BC:p%3Aw%2B%252B+%3D%C3%9F";
    assert_eq!(
        issuer.request().headers[header::AUTHORIZATION],
        format!("Basic {}", STANDARD.encode(pair))
    );
}

#[tokio::test]
async fn a_refused_client_does_not_try_another_way() {
    let issuer = Issuer::start().await;
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .require(issuer::Client::Post {
            id: "gateway".into(),
            secret: CLIENT_SECRET.into(),
        });

    let client_auth = ClientAuth::basic("gateway", secret(CLIENT_SECRET));
    let endpoint = endpoint_with(&issuer, client_auth);
    let error = endpoint.request_token(exchange()).await.unwrap_err();

    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("`invalid_client`"), "{error}");
    assert_eq!(issuer.request().one("client_secret"), None);
}

#[cfg(feature = "private-key-jwt")]
mod private_key_jwt {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use tower_identity::oauth::{PrivateKeyJwt, SigningAlgorithm};

    use super::*;

    // Made for this test with `openssl genpkey`, and used nowhere else.
    const EC_KEY: &str = include_str!("support/keys/p256.pem");
    const EC_PUBLIC: &str = include_str!("support/keys/p256.pub.pem");
    const EC_384_KEY: &str = include_str!("support/keys/p384.pem");
    const EC_384_PUBLIC: &str = include_str!("support/keys/p384.pub.pem");
    const RSA_KEY: &str = include_str!("support/keys/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("support/keys/rsa.pub.pem");
    const ED_KEY: &str = include_str!("support/keys/ed25519.pem");
    const ED_PUBLIC: &str = include_str!("support/keys/ed25519.pub.pem");

    fn clock() -> Arc<ManualClock> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(ManualClock::new(now))
    }

    async fn sent_assertion(key: PrivateKeyJwt) -> (String, String) {
        let issuer = Issuer::start().await;
        issuer
            .know(SUBJECT_TOKEN, "alice")
            .require(issuer::Client::Assertion {
                id: "gateway".into(),
            });
        let endpoint = TokenEndpoint::builder(issuer.url(), token_client())
            .client_auth(ClientAuth::private_key_jwt("gateway", key))
            .clock(clock())
            .build()
            .unwrap();
        endpoint.request_token(exchange()).await.unwrap();
        let sent = issuer.request();
        (
            sent.one("client_assertion").unwrap().to_owned(),
            issuer.url(),
        )
    }

    fn claims(assertion: &str, algorithm: Algorithm, key: &DecodingKey) -> Value {
        let mut validation = Validation::new(algorithm);
        // Against the injected clock, below.
        validation.validate_exp = false;
        validation.validate_aud = false;
        decode(assertion, key, &validation).unwrap().claims
    }

    #[tokio::test]
    async fn an_assertion_is_signed_addressed_and_dated() {
        let key = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &secret(EC_KEY))
            .key_id("key-1")
            .random(|| Ok([7; 16]))
            .build()
            .unwrap();

        let (assertion, url) = sent_assertion(key).await;

        let public = DecodingKey::from_ec_pem(EC_PUBLIC.as_bytes()).unwrap();
        assert_eq!(
            claims(&assertion, Algorithm::ES256, &public),
            json!({
                "iss": "gateway",
                "sub": "gateway",
                "aud": url,
                "jti": "BwcHBwcHBwcHBwcHBwcHBw",
                "iat": 1_800_000_000,
                "exp": 1_800_000_060,
            })
        );
        let header = decode_header(&assertion).unwrap();
        assert_eq!(header.kid.as_deref(), Some("key-1"));
    }

    #[tokio::test]
    async fn each_algorithm_is_verified_with_its_public_key() {
        let rsa = DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes()).unwrap();
        let ec = DecodingKey::from_ec_pem(EC_384_PUBLIC.as_bytes()).unwrap();
        let ed = DecodingKey::from_ed_pem(ED_PUBLIC.as_bytes()).unwrap();
        for (signing, pem, algorithm, public) in [
            (SigningAlgorithm::Rs256, RSA_KEY, Algorithm::RS256, &rsa),
            (SigningAlgorithm::Ps256, RSA_KEY, Algorithm::PS256, &rsa),
            (SigningAlgorithm::Es384, EC_384_KEY, Algorithm::ES384, &ec),
            (SigningAlgorithm::EdDsa, ED_KEY, Algorithm::EdDSA, &ed),
        ] {
            let key = PrivateKeyJwt::builder(signing, &secret(pem))
                .audience("https://issuer.example.com")
                .build()
                .unwrap();
            let (assertion, _) = sent_assertion(key).await;
            let claims = claims(&assertion, algorithm, public);
            assert_eq!(claims["aud"], "https://issuer.example.com");
        }
    }

    #[tokio::test]
    async fn no_two_assertions_have_the_same_id() {
        let key = PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY))
            .build()
            .unwrap();
        let (one, _) = sent_assertion(key.clone()).await;
        let (two, _) = sent_assertion(key).await;
        let public = DecodingKey::from_ed_pem(ED_PUBLIC.as_bytes()).unwrap();
        let id = |assertion: &str| claims(assertion, Algorithm::EdDSA, &public)["jti"].clone();
        assert_ne!(id(&one), id(&two));
    }

    #[tokio::test]
    async fn a_random_source_that_fails_sends_nothing() {
        let issuer = Issuer::start().await;
        let key = PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY))
            .random(|| Err("no entropy".into()))
            .build()
            .unwrap();
        let endpoint = endpoint_with(&issuer, ClientAuth::private_key_jwt("gateway", key));

        let error = endpoint.request_token(exchange()).await.unwrap_err();

        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(issuer.requests().is_empty());
    }

    #[test]
    fn a_key_that_cannot_sign_is_refused_when_it_is_read() {
        for (algorithm, pem) in [
            (SigningAlgorithm::Es256, RSA_KEY),
            (SigningAlgorithm::Es384, EC_KEY),
            (SigningAlgorithm::Rs256, EC_KEY),
            (SigningAlgorithm::Es256, EC_PUBLIC),
            (SigningAlgorithm::EdDsa, "not a key"),
        ] {
            let key = PrivateKeyJwt::builder(algorithm, &secret(pem));
            assert!(!format!("{key:?}").contains(pem));
            let error = key.build().unwrap_err();
            assert_eq!(error.invalid_settings()[0].setting(), "pem");
            assert!(!format!("{error} {error:?}").contains(pem));
        }
    }

    #[test]
    fn f33_a_key_is_not_shown() {
        let key = PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY))
            .build()
            .unwrap();
        let client_auth = ClientAuth::private_key_jwt("gateway", key.clone());
        let shown = format!("{key:?} {client_auth:?}");
        for line in ED_KEY.lines() {
            assert!(!shown.contains(line), "{shown}");
        }
        assert!(
            shown.starts_with("PrivateKeyJwt { algorithm: EdDsa, "),
            "{shown}"
        );
        assert_eq!(client_auth.client_id(), "gateway");
    }

    #[test]
    fn an_empty_key_id_or_audience_is_refused() {
        let key = || PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY));
        for (key, setting) in [
            (key().key_id(""), "key_id"),
            (key().audience(" "), "audience"),
        ] {
            let error = key.build().unwrap_err();
            assert_eq!(error.invalid_settings()[0].setting(), setting);
        }
    }
}

// What is refused before anything is sent.

#[test]
fn an_endpoint_that_cannot_be_used_is_refused_when_it_is_built() {
    for url in [
        "",
        "idp.example.com/token",
        "/token",
        "ftp://idp.example.com/token",
        "http://idp.example.com/token",
        "http://localhost.example.com/token",
        "https://idp.example.com/token#fragment",
        "https://gateway:password@idp.example.com/token",
        "https://idp.example.com:0/token",
        "https://idp.example.com:https/token",
        "https://idp.example.com/to ken",
        "https:///token",
    ] {
        let error = TokenEndpoint::builder(url, token_client())
            .build()
            .unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "url", "{url}");
        assert!(!format!("{error} {error:?}").contains("password"));
    }
    for url in [
        "https://idp.example.com/token",
        "https://idp.example.com",
        "http://localhost:8080/token",
        "http://127.0.0.1/token",
        "http://[::1]:8080/token",
    ] {
        assert!(
            TokenEndpoint::builder(url, token_client()).build().is_ok(),
            "{url}"
        );
    }
}

#[test]
fn plain_http_has_to_be_asked_for_by_name() {
    let endpoint = TokenEndpoint::builder("http://idp.internal/token", token_client()).insecure();
    assert_eq!(endpoint.build().unwrap().uri(), "http://idp.internal/token");
}

#[test]
fn a_client_without_an_id_and_a_limit_without_time_are_refused() {
    let builder = || TokenEndpoint::builder("https://idp.example.com/token", token_client());
    for endpoint in [
        builder().client_auth(ClientAuth::none("")),
        builder().client_auth(ClientAuth::none(" ")),
        builder().client_auth(ClientAuth::basic("", secret(CLIENT_SECRET))),
        builder().client_auth(ClientAuth::post("", secret(CLIENT_SECRET))),
        builder().time_limit(Duration::ZERO),
    ] {
        let error = endpoint.build().unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1, "{error}");
        assert_shows_no_secret(&format!("{error} {error:?}"));
    }
}

#[tokio::test]
async fn a_request_that_says_too_little_or_too_much_is_not_sent() {
    let issuer = Issuer::start().await;
    let client_auth = ClientAuth::post("gateway", secret(CLIENT_SECRET));
    let endpoint = endpoint_with(&issuer, client_auth);
    let invalid = [
        exchange().scopes(["tools:read tools:write"]),
        exchange().scopes([""]),
        exchange().scopes(["\"tools\""]),
        exchange().scopes(["tööls"]),
        exchange().resource("mcp.example.com"),
        exchange().resource("/mcp"),
        exchange().resource("https://mcp.example.com/#top"),
        exchange().resource("https:///mcp"),
        exchange().resource("urn:"),
        exchange().resource("urn:a b"),
        exchange().resource(":a"),
        exchange().resource("1urn:a"),
        exchange().resource("u_n:a"),
        exchange().audience(""),
        exchange().subject_token("another", TokenType::IdToken),
        exchange().parameter("grant_type", CLIENT_CREDENTIALS),
        TokenRequest::token_exchange().subject_token("", TokenType::AccessToken),
        TokenRequest::jwt_bearer().assertion(""),
        TokenRequest::refresh_token(""),
    ];
    for request in invalid {
        let error = request.check().unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration, "{request:?}");
        let error = endpoint.request_token(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
        assert_shows_no_secret(&shown(&error));
    }
    for template in [TokenRequest::token_exchange(), TokenRequest::jwt_bearer()] {
        assert!(template.check().is_ok());
        let error = endpoint.request_token(template).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
    }
    // The client's authentication is the endpoint's.
    for name in ["client_id", "client_secret"] {
        let request = exchange().parameter(name, "another");
        let error = endpoint.request_token(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
    }
    // An ID token is no bearer token, and an access token no assertion.
    let request = exchange().requested_token_type(TokenType::IdToken);
    let error = endpoint.request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    let access_token = exchange().requested_token_type(TokenType::AccessToken);
    for request in [exchange(), access_token] {
        let error = endpoint.request_assertion(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
    }
    assert!(issuer.requests().is_empty());
    assert!(exchange().scopes([] as [&str; 0]).check().is_ok());
}

// What is accepted.

#[tokio::test]
async fn f16_an_odd_expires_in_never_means_for_ever() {
    let hours = |hours: u64| Lifetime::For(Duration::from_secs(hours * 3600));
    for (expires_in, lifetime) in [
        ("3600", hours(1)),
        ("3600.0", hours(1)),
        ("3600.9", hours(1)),
        ("3.6e3", hours(1)),
        ("\"3600\"", hours(1)),
        ("\" 3600.0 \"", hours(1)),
        ("1", Lifetime::For(Duration::from_secs(1))),
        ("86400", hours(24)),
        ("86401", hours(24)),
        ("18446744073709551616", hours(24)),
        ("1e300", hours(24)),
        ("\"99999999999999999999999999\"", hours(24)),
        ("0", Lifetime::Spent),
        ("-0.0", Lifetime::Spent),
        ("0.5", Lifetime::Spent),
        ("-1", Lifetime::Spent),
        ("-1e300", Lifetime::Spent),
        ("null", Lifetime::Spent),
        ("true", Lifetime::Spent),
        ("\"\"", Lifetime::Spent),
        ("\"soon\"", Lifetime::Spent),
        ("\"NaN\"", Lifetime::Spent),
        ("\"inf\"", Lifetime::Spent),
        ("[3600]", Lifetime::Spent),
        ("{\"seconds\":3600}", Lifetime::Spent),
    ] {
        let body = format!(
            r#"{{"access_token":"{ISSUED}","token_type":"Bearer","expires_in":{expires_in},
                "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
        );
        let response = answer_to_exchange(Behaviour::body(200, body))
            .await
            .unwrap();
        assert_eq!(response.lifetime(), lifetime, "{expires_in}");
    }

    let mut body = good_answer();
    body.as_object_mut().unwrap().remove("expires_in");
    let response = answer_to_exchange(Behaviour::json(200, &body))
        .await
        .unwrap();
    assert_eq!(response.lifetime(), Lifetime::Unknown);
}

#[tokio::test]
async fn an_empty_member_is_none() {
    let mut body = good_answer();
    for name in ["scope", "refresh_token", "id_token"] {
        body[name] = json!("");
    }
    let response = answer_to_exchange(Behaviour::json(200, &body))
        .await
        .unwrap();
    assert_eq!(response.scope(), None);
    assert!(response.refresh_token().is_none() && response.id_token().is_none());
}

#[tokio::test]
async fn what_real_issuers_send_is_accepted() {
    let mut body = good_answer();
    body["token_type"] = json!("bEARER");
    body["issued_token_type"] = json!(TokenType::Jwt.urn());
    body["scope"] = json!(["tools:read"]);
    body["refresh_token"] = json!("a-refresh-token");
    body["id_token"] = json!("an-id-token");
    body["error"] = json!("");
    body["ext_expires_in"] = json!({ "deep": [null, 1.5, "x"] });
    for content_type in [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "text/json",
        "application/vnd.example+json",
    ] {
        let behaviour = Behaviour::json(200, &body).header("content-type", content_type);
        let response = answer_to_exchange(behaviour).await.unwrap();
        assert_eq!(response.token().expose(), ISSUED, "{content_type}");
        assert_eq!(response.scope(), None);
        let refresh_token = response.refresh_token().map(Secret::expose);
        assert_eq!(refresh_token, Some("a-refresh-token"));
        assert_eq!(response.id_token().map(Secret::expose), Some("an-id-token"));
    }
    let untyped = Response::new(Bytes::from(body.to_string()));
    let response = answer_to_exchange(Behaviour::respond(untyped))
        .await
        .unwrap();
    assert_eq!(response.into_token().expose(), ISSUED);
}

#[tokio::test]
async fn only_a_bearer_token_is_used_as_one() {
    for (member, value) in [
        ("token_type", json!("N_A")),
        ("token_type", json!("DPoP")),
        ("token_type", json!("mac")),
        ("token_type", json!("")),
        ("token_type", Value::Null),
        ("issued_token_type", json!(TokenType::IdToken.urn())),
        ("issued_token_type", json!(TokenType::IdJag.urn())),
        ("issued_token_type", json!("access_token")),
        ("issued_token_type", Value::Null),
        ("access_token", json!("")),
        ("access_token", json!("two words")),
        ("access_token", json!("line\r\nbreak")),
        ("access_token", json!("tökén")),
        ("access_token", json!(42)),
        ("access_token", Value::Null),
    ] {
        // The client's registration binds its tokens, and the settings here do not.
        let kind = match value.as_str() {
            Some("DPoP") => AuthErrorKind::Configuration,
            _ => AuthErrorKind::Unavailable,
        };
        let mut body = good_answer();
        body[member] = value;
        let error = answer_to_exchange(Behaviour::json(200, &body))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{body}");
        assert_shows_no_secret(&shown(&error));
    }
}

#[tokio::test]
async fn other_grants_need_no_issued_token_type() {
    let issuer = Issuer::start().await;
    let mut body = good_answer();
    body.as_object_mut().unwrap().remove("issued_token_type");
    issuer.next(Behaviour::json(200, &body));
    let request = TokenRequest::client_credentials();
    endpoint(&issuer).request_token(request).await.unwrap();

    body["issued_token_type"] = json!(TokenType::IdToken.urn());
    issuer.next(Behaviour::json(200, &body));
    let request = TokenRequest::client_credentials();
    let error = endpoint(&issuer).request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn an_assertion_is_what_was_asked_for_and_no_bearer_token() {
    let issuer = Issuer::start().await;
    issuer.know(SUBJECT_TOKEN, "alice");
    let endpoint = endpoint(&issuer);
    let request = || exchange().requested_token_type(TokenType::IdJag);

    let response = endpoint.request_assertion(request()).await.unwrap();
    assert_eq!(response.token().expose(), "exchanged-for-alice-any-1");

    let good = json!({
        "access_token": ISSUED,
        "issued_token_type": TokenType::IdJag.urn(),
        "token_type": "n_a",
    });
    issuer.next(Behaviour::json(200, &good));
    endpoint.request_assertion(request()).await.unwrap();
    for (member, value) in [
        ("token_type", json!("Bearer")),
        ("token_type", Value::Null),
        ("issued_token_type", json!(TokenType::AccessToken.urn())),
        ("issued_token_type", json!(TokenType::IdToken.urn())),
        ("issued_token_type", Value::Null),
        ("access_token", Value::Null),
    ] {
        let mut body = good.clone();
        body[member] = value;
        issuer.next(Behaviour::json(200, &body));
        let error = endpoint.request_assertion(request()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{body}");
    }
}

// What comes of a refusal.

#[tokio::test]
async fn f29_the_callers_fault_is_told_from_the_issuers() {
    use AuthErrorKind::{Configuration, InsufficientScope, Rejected, Unavailable};

    for (status, code, kind, answer) in [
        (400, "invalid_grant", Rejected, 401),
        (401, "invalid_grant", Rejected, 401),
        (403, "invalid_grant", Rejected, 401),
        // The issuer is ill, whatever it says.
        (500, "invalid_grant", Unavailable, 503),
        (200, "invalid_grant", Rejected, 401),
        (400, "invalid_token", Rejected, 401),
        (400, "expired_token", Rejected, 401),
        (400, "interaction_required", Rejected, 401),
        (400, "login_required", Rejected, 401),
        (400, "consent_required", Rejected, 401),
        (400, "invalid_request", Rejected, 401),
        (400, "invalid_scope", InsufficientScope, 403),
        (403, "insufficient_scope", InsufficientScope, 403),
        (403, "access_denied", InsufficientScope, 403),
        (401, "invalid_client", Configuration, 500),
        (400, "invalid_client", Configuration, 500),
        (400, "unauthorized_client", Configuration, 500),
        (400, "unsupported_grant_type", Configuration, 500),
        (400, "invalid_target", Configuration, 500),
        (400, "invalid_resource", Configuration, 500),
        (400, "invalid_dpop_proof", Configuration, 500),
        (400, "use_dpop_nonce", Configuration, 500),
        (400, "server_error", Unavailable, 503),
        (200, "temporarily_unavailable", Unavailable, 503),
        (400, "slow_down", Unavailable, 503),
        (429, "invalid_grant", Unavailable, 503),
    ] {
        let error = answer_to_exchange(Behaviour::error(status, code))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {code}");
        let response = error.to_response::<Bytes>();
        assert_eq!(response.status(), answer, "{status} {code}");
        let is_challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(is_challenged, answer == 401 || answer == 403);
        let message = error.to_string();
        assert!(message.contains(&format!("{status} `{code}`")), "{message}");
        assert_shows_no_secret(&shown(&error));
    }
}

#[tokio::test]
async fn f29_without_a_known_code_the_status_decides() {
    use AuthErrorKind::{Configuration, Rejected, Unavailable};

    for (status, kind) in [
        (400, Rejected),
        (401, Rejected),
        (403, Rejected),
        (404, Configuration),
        (405, Configuration),
        (408, Unavailable),
        (425, Unavailable),
        (429, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (599, Unavailable),
    ] {
        for body in [
            json!({ "error": "issued-token-1" }).to_string(),
            json!({ "error": { "code": 7, "message": "invalid_grant" } }).to_string(),
            json!(["invalid_grant"]).to_string(),
            format!("<html>{ISSUED}</html>"),
            String::new(),
        ] {
            let error = answer_to_exchange(Behaviour::body(status, body))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{status}");
            assert!(error.to_string().contains(&status.to_string()), "{error}");
            assert_shows_no_secret(&shown(&error));
        }
    }
}

#[tokio::test]
async fn f29_a_success_that_says_error_is_no_success() {
    let mut body = good_answer();
    body["error"] = json!("invalid_grant");
    let error = answer_to_exchange(Behaviour::json(200, &body))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
    body["error"] = json!("never_heard_of");
    let error = answer_to_exchange(Behaviour::json(200, &body))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
    for not_a_code in [json!({ "code": 400 }), json!(["x"]), json!(1), json!(true)] {
        body["error"] = not_a_code;
        let error = answer_to_exchange(Behaviour::json(200, &body))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
        assert_eq!(error.oauth_error(), None);
    }
}

#[tokio::test]
async fn an_invalid_request_without_a_users_token_is_a_matter_of_configuration() {
    let issuer = Issuer::start().await;
    issuer.next(Behaviour::error(400, "invalid_request"));
    let request = TokenRequest::client_credentials();
    let error = endpoint(&issuer).request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
}

#[tokio::test]
async fn a_rejected_subject_token_is_the_callers_fault() {
    let issuer = Issuer::start().await;
    issuer.know(SUBJECT_TOKEN, "alice").forget(SUBJECT_TOKEN);
    let error = endpoint(&issuer)
        .request_token(exchange())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn scopes_that_are_not_allowed_are_told_as_such() {
    let issuer = Issuer::start().await;
    issuer
        .know(SUBJECT_TOKEN, "alice")
        .allow_scopes(&["tools:read"]);
    let request = exchange().scopes(["tools:read", "admin"]);
    let error = endpoint(&issuer).request_token(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
}

#[tokio::test]
async fn retry_after_is_understood_in_seconds_and_as_a_date() {
    // Sun, 06 Nov 1994 08:49:37 GMT
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let issuer = Issuer::start().await;
    let endpoint = TokenEndpoint::builder(issuer.url(), token_client())
        .clock(Arc::new(ManualClock::new(now)))
        .build()
        .unwrap();
    for (value, retry_after) in [
        ("7", Some(7)),
        ("0", Some(0)),
        ("3601", Some(3600)),
        ("99999999999999999999999999", Some(3600)),
        ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
        ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
        ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
        ("Sat, 06 Nov 2094 08:49:37 GMT", Some(3600)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        for status in [429, 503] {
            let behaviour = Behaviour::body(status, "").header("retry-after", value);
            issuer.next(behaviour);
            let error = endpoint.request_token(exchange()).await.unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::Unavailable);
            assert_eq!(
                error.retry_after(),
                retry_after.map(Duration::from_secs),
                "{value}"
            );
        }
    }
    issuer.next(Behaviour::error(400, "invalid_grant").header("retry-after", "7"));
    let error = endpoint.request_token(exchange()).await.unwrap_err();
    assert_eq!(error.retry_after(), None);
}

// An issuer that misbehaves.

#[tokio::test]
async fn f35_a_body_of_a_gibibyte_is_not_read() {
    let chunk = vec![b' '; 64 << 10];
    let honest = Behaviour::endless(chunk.clone(), Duration::ZERO)
        .header("content-length", &(1u64 << 30).to_string())
        .header("content-type", "application/json");
    let chunked = Behaviour::endless(chunk, Duration::ZERO);
    for behaviour in [honest, chunked] {
        let issuer = Issuer::start().await;
        issuer.next(behaviour);
        let error = endpoint(&issuer).request_token(exchange()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(error.to_string().contains("1 MiB"), "{error}");
        // What the sockets between hold is sent all the same.
        assert!(issuer.chunks() < 512, "{} chunks", issuer.chunks());
    }
}

#[tokio::test]
async fn f35_a_body_may_be_as_long_as_the_limit_and_no_longer() {
    let padded = |length: usize| {
        let body = good_answer().to_string();
        let padding = " ".repeat(length - body.len());
        Behaviour::body(200, body + &padding)
    };
    let response = answer_to_exchange(padded(1 << 20)).await.unwrap();
    assert_eq!(response.token().expose(), ISSUED);
    let error = answer_to_exchange(padded((1 << 20) + 1)).await.unwrap_err();
    assert!(error.to_string().contains("1 MiB"), "{error}");
}

#[tokio::test]
async fn f35_a_token_that_fits_into_no_header_is_the_issuers_fault() {
    for (length, is_good) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let mut answer = good_answer();
        answer["access_token"] = json!("x".repeat(length));
        let outcome = answer_to_exchange(Behaviour::body(200, answer.to_string())).await;
        assert_eq!(outcome.is_ok(), is_good);
        if let Err(error) = outcome {
            assert_eq!(error.kind(), AuthErrorKind::Unavailable);
            assert!(error.to_string().contains("more than 64 KiB"), "{error}");
        }
    }
}

#[tokio::test]
async fn f35_an_answer_that_drips_or_never_comes_is_given_up() {
    let drip = Behaviour::endless(" ", Duration::from_millis(10));
    for behaviour in [drip, Behaviour::hang()] {
        let issuer = Issuer::start().await;
        issuer.next(behaviour);
        let endpoint = TokenEndpoint::builder(issuer.url(), token_client())
            .time_limit(Duration::from_millis(200))
            .build()
            .unwrap();
        let asked =
            tokio::time::timeout(Duration::from_secs(30), endpoint.request_token(exchange()));
        let error = asked.await.expect("it is not given up").unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(error.to_string().contains("within 200ms"), "{error}");
        assert_shows_no_secret(&shown(&error));
    }
}

#[tokio::test(start_paused = true)]
async fn f35_the_time_limit_is_30_seconds_and_holds_for_a_client_that_is_never_ready() {
    #[derive(Clone)]
    struct NeverReady;

    impl tower::Service<Request<Full<Bytes>>> for NeverReady {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Pending
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            panic!("called before it was ready")
        }
    }

    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", NeverReady)
        .build()
        .unwrap();
    let start = tokio::time::Instant::now();
    let error = endpoint.request_token(exchange()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn f35_a_connection_that_breaks_is_an_issuer_that_cannot_be_asked() {
    let truncated = Response::builder()
        .header("content-length", "1000")
        .header("connection", "close")
        .body(Bytes::new())
        .unwrap();
    for behaviour in [Behaviour::close(), Behaviour::respond(truncated)] {
        let error = answer_to_exchange(behaviour).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{error}");
        assert_shows_no_secret(&shown(&error));
    }

    let issuer = Issuer::start().await;
    let endpoint = endpoint(&issuer);
    drop(issuer);
    let error = endpoint.request_token(exchange()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(error.source().is_some(), "says why");
}

#[tokio::test]
async fn f35_what_is_no_json_object_is_no_token() {
    let token_members = good_answer().to_string();
    let token_members = token_members.trim_matches(['{', '}']);
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    for body in [
        Vec::new(),
        b"<html>issued-token-1</html>".to_vec(),
        b"access_token=issued-token-1&token_type=bearer".to_vec(),
        b"\"issued-token-1\"".to_vec(),
        b"null".to_vec(),
        b"[\"issued-token-1\", \"Bearer\"]".to_vec(),
        format!("{{{token_members}").into_bytes(),
        format!("{{{token_members}}}{{").into_bytes(),
        format!("{{{token_members},\"expires_in\":1e400}}").into_bytes(),
        [b"{\"access_token\":\"issued-token-1\xff\"}".as_slice()].concat(),
        b"\x00\x01\x02\xfe\xff".to_vec(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        format!("{{{token_members},\"extra\":{}}}", deep("[", "]")).into_bytes(),
        format!("{{{token_members},\"expires_in\":{}}}", deep("[", "]")).into_bytes(),
    ] {
        let shortened = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let error = answer_to_exchange(Behaviour::body(200, body))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{shortened}");
        assert_shows_no_secret(&shown(&error));
    }
}

#[tokio::test]
async fn f35_a_token_in_what_says_it_is_no_json_is_not_taken() {
    for content_type in [
        "text/html",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ] {
        let behaviour = Behaviour::json(200, &good_answer()).header("content-type", content_type);
        let error = answer_to_exchange(behaviour).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{content_type}");
        assert_shows_no_secret(&shown(&error));
    }
}

#[tokio::test]
async fn f35_a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let stranger = Issuer::start().await;
        let behaviour = Behaviour::json(status, &good_answer()).header("location", &stranger.url());
        let error = answer_to_exchange(behaviour).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
        assert!(stranger.requests().is_empty());
        assert!(!shown(&error).contains(&stranger.url()), "{error}");
    }
}

// Secrets.

#[tokio::test]
async fn f33_no_secret_is_in_a_log_an_error_a_url_or_debug() {
    let log = Log::default();
    // For all threads: `tracing` keeps what it is told of an event by the thread that first meets it. What the other tests
    // log meanwhile shall not have a secret in it either.
    tracing::subscriber::set_global_default(log.subscriber("trace")).unwrap();

    for client_auth in [
        ClientAuth::basic("gateway", secret(CLIENT_SECRET)),
        ClientAuth::post("gateway", secret(CLIENT_SECRET)),
    ] {
        let issuer = Issuer::start().await;
        let builder = TokenEndpoint::builder(issuer.url(), token_client()).client_auth(client_auth);
        let text = format!("{builder:?} {builder:#?}");
        assert_shows_no_secret(&text);
        let who =
            r#"{ client_auth: Some(ClientAuth { client_id: "gateway", method: "client_secret_"#;
        assert!(text.contains(who), "{text}");
        let endpoint = builder.build().unwrap();
        let text = format!("{endpoint:?} {endpoint:#?} {}", endpoint.uri());
        assert_shows_no_secret(&text);
        let whose = "TokenEndpoint { origin: Origin(http://127.0.0.1:";
        assert!(text.starts_with(whose), "{text}");
        let text = format!("{:?} {:#?}", exchange(), exchange());
        assert_shows_no_secret(&text);
        let what = format!(
            "TokenRequest {{ grant_type: {TOKEN_EXCHANGE:?}, parameters: [\"grant_type\", \"subject_token\", "
        );
        assert!(text.starts_with(&what), "{text}");
        let asking = endpoint.request_token(exchange());
        assert_eq!(format!("{asking:?}"), "TokenResponseFuture { .. }");

        let mut body = good_answer();
        body["refresh_token"] = json!(CLIENT_SECRET);
        body["scope"] = json!(CLIENT_SECRET);
        issuer.next(Behaviour::json(200, &body));
        let response = endpoint.request_token(exchange()).await.unwrap();
        let text = format!("{response:?} {response:#?}");
        assert_shows_no_secret(&text);
        assert!(text.starts_with("TokenResponse { lifetime: For("), "{text}");

        let echo = json!({
            "error": SUBJECT_TOKEN,
            "error_description": CLIENT_SECRET,
            "error_uri": ISSUED,
        });
        let echoed_header = Behaviour::json(400, &echo).header("www-authenticate", CLIENT_SECRET);
        for behaviour in [
            echoed_header,
            Behaviour::body(200, format!("{SUBJECT_TOKEN} {CLIENT_SECRET} {ISSUED}")),
            Behaviour::json(
                200,
                &json!({ "access_token": SUBJECT_TOKEN, "token_type": ISSUED }),
            ),
            Behaviour::close(),
        ] {
            issuer.next(behaviour);
            let error = endpoint.request_token(exchange()).await.unwrap_err();
            assert_shows_no_secret(&shown(&error));
        }
        for request in issuer.requests() {
            assert_eq!(request.uri, "/token");
        }
    }

    let log = log.text();
    assert!(log.contains("the token endpoint answered"));
    assert_shows_no_secret(&log);
}

// Any body at all.

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("Bearer")),
        Just(json!("N_A")),
        Just(json!(TokenType::AccessToken.urn())),
        ".{0,6}".prop_map(|text| json!(format!("{text}{ISSUED}"))),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let array = prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from);
        let name = prop_oneof![
            Just("access_token".to_owned()),
            Just("token_type".to_owned()),
            Just("issued_token_type".to_owned()),
            Just("expires_in".to_owned()),
            Just("error".to_owned()),
            Just("error_description".to_owned()),
            Just("scope".to_owned()),
            Just("refresh_token".to_owned()),
            ".{0,12}",
        ];
        let object = prop::collection::hash_map(name, inner, 0..9)
            .prop_map(|members| Value::Object(members.into_iter().collect()));
        prop_oneof![array, object]
    })
}

/// Half of them are good but for some members.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let nearly_good = json_value().prop_map(|value| {
        let mut body = good_answer();
        if let (Some(body), Value::Object(odd)) = (body.as_object_mut(), value) {
            body.extend(odd);
        }
        body.to_string().into_bytes()
    });
    prop_oneof![
        nearly_good,
        json_value().prop_map(|value| value.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #[test]
    fn no_body_panics_or_leaks(body in body(), status in 200u16..600) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let client = service_fn(move |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Full::<Bytes>::from(body.clone()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            async { Ok::<_, Infallible>(response) }
        });
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", client)
            .build()
            .unwrap();

        let answer: Result<TokenResponse<AccessToken>, _> =
            runtime.block_on(endpoint.request_token(exchange()));
        match answer {
            Ok(response) => {
                prop_assert!((200..300).contains(&status));
                prop_assert!(!response.token().expose().is_empty());
                let debug = format!("{response:?}");
                prop_assert!(!debug.contains(ISSUED), "{}", debug);
            }
            Err(error) => prop_assert!(!shown(&error).contains(ISSUED), "{}", shown(&error)),
        }
        let assertion = exchange().requested_token_type(TokenType::IdJag);
        if let Err(error) = runtime.block_on(endpoint.request_assertion(assertion)) {
            prop_assert!(!shown(&error).contains(ISSUED), "{}", shown(&error));
        }
    }
}

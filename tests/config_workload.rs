//! Configuration of what the gateway authenticates with as a workload, of what it signs, and of two credentials on one
//! request. Each document is loaded, and its strategy is used over sockets.

mod support;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    certificate::certificate,
    issuer::{Behaviour, CLIENT_CREDENTIALS, Client, Issuer, JWT_BEARER},
    key_pair::{ED25519, KeyPair, P256, P384, RSA},
    token_stack::{Backend, Body, HttpService, http_client, jwt, send, user, user_with_id_token},
    verified::signed_by,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, KeySet, Origin, OutgoingAuthConfig, Strategy,
    TokenValidator, UpstreamToken,
    config::{LiveOutgoingAuth, Resources},
    oauth::{Jwks, JwtSigner, SigningFuture},
};

const SECRET: &str = "s3cr3t-value-that-nobody-may-see";
const RSA_PEM: &str = include_str!("support/keys/rsa.pem");
const P256_PEM: &str = include_str!("support/keys/p256.pem");
const P384_PEM: &str = include_str!("support/keys/p384.pem");
const ED25519_PEM: &str = include_str!("support/keys/ed25519.pem");

const YEAR_2100: u64 = 4_102_444_800;

/// A folder with keys, a certificate and tokens, as they are mounted.
fn mounted() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
    for (name, content) in [
        ("rsa.pem", RSA_PEM),
        ("p256.pem", P256_PEM),
        ("p384.pem", P384_PEM),
        ("ed25519.pem", ED25519_PEM),
        ("workload.jwt", &workload_token("1")),
        ("empty", " \n"),
        ("large", &"x".repeat(64 * 1024 + 1)),
    ] {
        write(name, content);
    }
    write("rsa.crt", &certificate(RSA_PEM).0);
    write("p256.crt", &certificate(P256_PEM).0);
    fs::write(folder.path().join("binary"), [0xff; 32]).unwrap();
    folder
}

fn workload_token(id: &str) -> String {
    jwt(&json!({}), &json!({ "jti": id, "exp": YEAR_2100 }))
}

/// The document in which `DIR` stands for the folder.
fn document(text: &str, folder: &Path) -> OutgoingAuthConfig {
    let text = text.replace("DIR", folder.to_str().unwrap());
    serde_saphyr::from_str(&text).unwrap()
}

fn resources() -> Resources<Body> {
    let builder = Resources::builder(http_client()).environment(|variable| match variable {
        "P384_KEY" => Some(P384_PEM.to_owned()),
        "UNSET" => None,
        _ => Some(SECRET.to_owned()),
    });
    let builder = builder.client_certificate("gateway", http_client());
    builder.build().unwrap()
}

fn stack(layer: AuthLayer<Arc<dyn Strategy<Body>>>) -> impl HttpService {
    ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(layer)
        .service(http_client())
}

fn client(
    config: &OutgoingAuthConfig,
    resources: &Resources<Body>,
    to: &Backend,
) -> impl HttpService {
    stack(
        config
            .layer_for("b", to.server.origin(), resources)
            .unwrap(),
    )
}

/// The values of a header of the last request.
fn last(backend: &Backend, header: &str) -> Vec<String> {
    let last = backend.server.requests().pop().unwrap();
    last.all(header).into_iter().map(str::to_owned).collect()
}

fn faults(config: &OutgoingAuthConfig) -> Vec<String> {
    let error = config.check(&resources()).unwrap_err();
    error.faults().iter().map(ToString::to_string).collect()
}

// Clients with a private key.

#[tokio::test]
async fn a_client_with_a_private_key_signs_its_assertions_in_every_type() {
    let folder = mounted();
    let (issuer, target) = (Issuer::start().await, Issuer::start().await);
    let backend = Backend::start().await;
    for known in [&issuer, &target] {
        known.require(Client::Assertion {
            id: "gateway".into(),
        });
    }
    issuer.know("alices-token", "alice");
    let id_token = jwt(
        &json!({}),
        &json!({ "iss": "https://idp.example.com", "exp": YEAR_2100 }),
    );
    let id_jag = jwt(
        &json!({ "typ": "oauth-id-jag+jwt" }),
        &json!({ "iss": "https://idp.example.com", "aud": "https://as.example.com", "exp": YEAR_2100 }),
    );
    target.know(&id_jag, "alice");
    let key = r#"
        keyFile: DIR/rsa.pem
        algorithm: PS256
        keyId: "2026-01"
        certificateFile: DIR/rsa.crt
        sendCertificates: true
        audience: https://audience.example.com
"#;
    let (url, target_url) = (issuer.url(), target.url());
    for (block, identity, asked) in [
        (
            format!(
                "token_exchange\n    tokenExchange:\n      tokenUrl: {url}\n      clientId: gateway\n      clientKey:{key}"
            ),
            user("alice", "alices-token"),
            &issuer,
        ),
        (
            format!(
                "obo\n    obo:\n      tokenUrl: {url}\n      clientId: gateway\n      scopes: [s]\n      clientKey:{key}"
            ),
            user("alice", "alices-token"),
            &issuer,
        ),
        (
            format!(
                "client_credentials\n    clientCredentials:\n      tokenUrl: {url}\n      clientId: gateway\n      clientKey:{key}"
            ),
            user("bob", "bobs-token"),
            &issuer,
        ),
        (
            format!(
                "xaa\n    xaa:\n      idpTokenUrl: {url}\n      idpClientId: gateway\n      subjectProviderName: idp\n      \
                 targetTokenUrl: {target_url}\n      targetClientId: gateway\n      \
                 targetAudience: https://as.example.com\n      targetClientKey:{key}      idpClientKey:{key}"
            ),
            user_with_id_token("alice", &id_token),
            &target,
        ),
    ] {
        if std::ptr::eq(asked, &target) {
            issuer.next(Behaviour::json(
                200,
                &json!({
                    "access_token": id_jag, "token_type": "N_A",
                    "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
                }),
            ));
        }
        let config = document(
            &format!("backends:\n  b:\n    type: {block}"),
            folder.path(),
        );
        let client = client(&config, &resources(), &backend);
        send(&client, backend.request(identity)).await.unwrap();
        let sent = asked.requests().pop().unwrap();
        let assertion = sent.one("client_assertion").unwrap();
        let (header, claims) = signed_by(
            KeyPair {
                algorithm: jsonwebtoken::Algorithm::PS256,
                ..RSA
            },
            assertion,
        );
        assert_eq!(header["kid"], "2026-01");
        assert!(header["x5c"].as_array().unwrap()[0].is_string());
        let der = STANDARD.decode(header["x5c"][0].as_str().unwrap()).unwrap();
        assert_eq!(
            header["x5t#S256"],
            URL_SAFE_NO_PAD.encode(Sha256::digest(der))
        );
        assert_eq!(claims["aud"], "https://audience.example.com");
    }
    let sent = issuer.requests().pop().unwrap();
    assert!(
        sent.one("client_assertion").is_some(),
        "at the identity provider, too"
    );
}

#[tokio::test]
async fn a_private_key_may_be_in_the_environment_and_its_assertions_are_for_the_endpoint() {
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    issuer.require(Client::Assertion {
        id: "gateway".into(),
    });
    let config = document(
        &format!(
            r#"
backends:
  b:
    type: client_credentials
    clientCredentials:
      tokenUrl: {}
      clientId: gateway
      clientKey: {{ keyEnv: P384_KEY, algorithm: ES384 }}
      audience: mcp
      resource: https://mcp.example.com
      scopes: ["tools:list"]
"#,
            issuer.url()
        ),
        Path::new(""),
    );
    let client = client(&config, &resources(), &backend);
    send(&client, backend.request(None)).await.unwrap();
    let sent = issuer.request();
    let (header, claims) = signed_by(P384, sent.one("client_assertion").unwrap());
    assert_eq!(header.get("kid"), None);
    assert_eq!(header.get("x5c"), None);
    assert_eq!(claims["aud"], issuer.url());
    assert_eq!(sent.one("audience"), Some("mcp"));
    assert_eq!(sent.one("resource"), Some("https://mcp.example.com"));
    assert_eq!(sent.one("scope"), Some("tools:list"));
    assert_eq!(
        backend.authorizations(),
        [["Bearer issued-to-client-mcp-1"]]
    );
}

/// Stands for a KMS: it has the key, and the gateway only its name.
struct Kms;

impl JwtSigner for Kms {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
        Box::pin(async move {
            let key = ED25519.private();
            let signature = jsonwebtoken::crypto::sign(message, &key, ED25519.algorithm)?;
            Ok(URL_SAFE_NO_PAD.decode(signature)?)
        })
    }
}

#[tokio::test]
async fn a_signer_that_the_application_names_signs_the_assertions() {
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    issuer.require(Client::Assertion {
        id: "gateway".into(),
    });
    let text = format!(
        r#"
backends:
  b:
    type: client_credentials
    clientCredentials:
      tokenUrl: {}
      clientId: gateway
      clientKey: {{ signer: kms, algorithm: EdDSA }}
"#,
        issuer.url()
    );
    let config = document(&text, Path::new(""));
    let resources = Resources::builder(http_client())
        .signer("kms", Kms)
        .build()
        .unwrap();
    // The second is the configuration after a reload: the token of the first serves it.
    for _ in 0..2 {
        let client = client(&config, &resources, &backend);
        send(&client, backend.request(None)).await.unwrap();
    }
    let [sent] = &issuer.requests()[..] else {
        panic!("more than one request for a token");
    };
    let (_, claims) = signed_by(ED25519, sent.one("client_assertion").unwrap());
    assert_eq!(claims["iss"], "gateway");

    let twice = Resources::<Body>::builder(http_client())
        .signer("kms", Kms)
        .signer("kms", Kms)
        .signer(" ", Kms);
    let error = twice.build().unwrap_err();
    let settings: Vec<_> = error
        .invalid_settings()
        .iter()
        .map(|it| it.setting())
        .collect();
    assert_eq!(settings, ["signer[1]", "signer[2]"]);
}

// The application's own token.

#[tokio::test]
async fn client_credentials_from_yaml_authenticate_in_each_way() {
    let folder = mounted();
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    let backend = Backend::start().await;
    let basic = Client::Basic {
        id: "gateway".into(),
        secret: SECRET.into(),
    };
    let assertion = Client::Assertion {
        id: "gateway".into(),
    };
    for (keys, known) in [
        (format!("clientSecret: {SECRET}"), &basic),
        ("clientSecretEnv: GATEWAY_SECRET".to_owned(), &basic),
        ("clientSecretFile: DIR/secret".to_owned(), &basic),
        (
            "clientAssertionFile: DIR/workload.jwt".to_owned(),
            &assertion,
        ),
    ] {
        let issuer = Issuer::start().await;
        issuer.require(known.clone());
        let text = format!(
            "backends: {{b: {{type: client_credentials, clientCredentials: {{tokenUrl: '{}', clientId: gateway, {keys}, \
             headerName: x-api-key, headerPrefix: 'Key '}}}}}}",
            issuer.url()
        );
        let config = document(&text, folder.path());
        let client = client(&config, &resources(), &backend);
        for request in [
            backend.request(user("alice", "a")),
            backend.request(None),
            backend.probe(),
        ] {
            send(&client, request).await.unwrap();
            assert_eq!(last(&backend, "x-api-key"), ["Key issued-to-client-any-1"]);
        }
        assert_eq!(issuer.count(CLIENT_CREDENTIALS, None), 1);
    }
}

#[tokio::test]
async fn the_token_of_the_workload_is_the_grant_and_is_read_again() {
    let folder = mounted();
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    let (first, second) = (workload_token("1"), workload_token("2"));
    issuer
        .know(&first, "gateway")
        .know(&second, "gateway-later");
    let text = format!(
        "backends: {{b: {{type: client_credentials, clientCredentials: {{tokenUrl: '{}', \
         workloadTokenFile: DIR/workload.jwt}}}}}}",
        issuer.url()
    );
    let config = document(&text, folder.path());
    send(
        &client(&config, &resources(), &backend),
        backend.request(None),
    )
    .await
    .unwrap();
    let sent = issuer.request();
    assert_eq!(sent.one("grant_type"), Some(JWT_BEARER));
    assert_eq!(sent.one("assertion"), Some(&*first));
    assert_eq!(sent.one("client_id"), None);
    fs::write(folder.path().join("workload.jwt"), &second).unwrap();
    send(
        &client(&config, &resources(), &backend),
        backend.request(None),
    )
    .await
    .unwrap();
    assert_eq!(issuer.count(JWT_BEARER, Some("gateway-later")), 1);
}

// A signed statement.

const SIGNED: &str = r#"
backends:
  b:
    type: signed_identity
    signedIdentity:
      issuer: https://gateway.example.com
      audience: https://mcp.example.com
      claims: [email]
      lifetimeSeconds: 30
      signingKeys: KEYS
      headerName: x-identity
      headerPrefix: "Bearer "
"#;

const ES256: &str = "{keyId: first, algorithm: ES256, keyFile: DIR/p256.pem}";
const EDDSA: &str = "{keyId: second, algorithm: EdDSA, keyFile: DIR/ed25519.pem}";

fn alice() -> Identity {
    let claims = json!({ "email": "alice@example.com" });
    Identity::builder("alice")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("alices-token").unwrap())
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap()
}

async fn published(jwks: Jwks) -> Value {
    let request = Request::get("/jwks").body(()).unwrap();
    let response = jwks.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

/// What a backend that trusts these keys says to the statement of the last request.
async fn verdict(keys: &Value, backend: &Backend) -> Option<Identity> {
    let keys = KeySet::from_json(keys.to_string()).unwrap();
    let validator = TokenValidator::builder_with_keys("https://gateway.example.com", keys);
    let validator = validator
        .audience("https://mcp.example.com")
        .build()
        .unwrap();
    let statement = last(backend, "x-identity").pop().unwrap();
    let statement = statement.strip_prefix("Bearer ").unwrap();
    validator.validate(statement).await.ok()
}

#[tokio::test]
async fn a_backend_verifies_a_statement_from_yaml_with_the_published_keys() {
    let folder = mounted();
    let backend = Backend::start().await;
    let config = document(
        &SIGNED.replace("KEYS", &format!("[{ES256}]")),
        folder.path(),
    );
    let resources = resources();
    let client = client(&config, &resources, &backend);
    send(&client, backend.request(alice())).await.unwrap();
    let keys = published(config.jwks(&resources).unwrap()).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    let identity = verdict(&keys, &backend).await.unwrap();
    assert_eq!(identity.subject(), "alice");
    let claims = identity.claims();
    assert_eq!(claims["email"], "alice@example.com");
    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 30);

    // Each session has its own layer, and one statement serves them.
    let statement = last(&backend, "x-identity");
    let another = stack(
        config
            .layer_for("b", backend.server.origin(), &resources)
            .unwrap(),
    );
    send(&another, backend.request(alice())).await.unwrap();
    assert_eq!(last(&backend, "x-identity"), statement);
}

#[tokio::test]
async fn a_key_is_rotated_by_replacing_the_configuration() {
    let folder = mounted();
    let backend = Backend::start().await;
    let with = |keys: &str| document(&SIGNED.replace("KEYS", keys), folder.path());
    let live = LiveOutgoingAuth::new(with(&format!("[{ES256}]")), resources()).unwrap();
    let client = stack(live.layer_for("b", backend.server.origin()).unwrap());
    let jwks = live.jwks();
    let mut known_before = published(jwks.clone()).await;
    for (keys, signing) in [
        (format!("[{ES256}, {EDDSA}]"), P256),
        (format!("[{EDDSA}, {ES256}]"), ED25519),
        (format!("[{EDDSA}]"), ED25519),
    ] {
        live.replace(with(&keys)).unwrap();
        send(&client, backend.request(alice())).await.unwrap();
        let statement = last(&backend, "x-identity").pop().unwrap();
        signed_by(signing, statement.strip_prefix("Bearer ").unwrap());
        // A backend that fetched the keys before the last step still verifies what is signed after it.
        assert!(verdict(&known_before, &backend).await.is_some());
        known_before = published(jwks.clone()).await;
        assert!(verdict(&known_before, &backend).await.is_some());
    }
    let ids: Vec<_> = known_before["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["kid"])
        .collect();
    assert_eq!(ids, ["second"]);
}

#[tokio::test]
async fn what_signs_is_what_is_published_also_where_the_file_of_a_key_is_replaced() {
    let folder = mounted();
    let backend = Backend::start().await;
    let resources = resources();
    let config = document(
        &SIGNED.replace("KEYS", &format!("[{ES256}]")),
        folder.path(),
    );
    let jwks = config.jwks(&resources).unwrap();
    fs::remove_file(folder.path().join("p256.pem")).unwrap();
    let client = client(&config, &resources, &backend);
    send(&client, backend.request(alice())).await.unwrap();
    assert!(verdict(&published(jwks).await, &backend).await.is_some());
}

#[test]
fn two_keys_of_one_name_are_a_fault_and_one_key_in_two_backends_is_none() {
    let folder = mounted();
    let block = |key: &str| {
        format!(
            "{{type: signed_identity, signedIdentity: {{issuer: g, audience: a, signingKeys: [{key}]}}}}"
        )
    };
    let same = ES256.to_owned();
    let other = EDDSA.replace("second", "first");
    let both = format!(
        "{{type: both, both: {{first: {{type: header_injection, headerInjection: {{headerName: x-k, headerValue: v}}}}, \
         second: {}}}}}",
        block(&other)
    );
    let text = format!("backends: {{one: {}, two: {}}}", block(&same), block(&same));
    let config = document(&text, folder.path());
    config.check(&resources()).unwrap();
    let text = format!("backends: {{one: {}, two: {both}}}", block(&same));
    assert_eq!(
        faults(&document(&text, folder.path())),
        [
            "backends.two.both.second.signedIdentity.signingKeys[0].keyId: is the name of another key, give it its own"
        ]
    );
}

// Two credentials.

#[tokio::test]
async fn a_request_has_the_key_of_the_gateway_and_the_token_of_the_user() {
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    issuer.know("alices-token", "alice");
    let text = format!(
        r#"
backends:
  b:
    type: both
    both:
      first:
        type: header_injection
        headerInjection: {{ headerName: x-api-key, headerValueEnv: GATEWAY_KEY }}
      second:
        type: both
        both:
          first: {{ type: upstream_inject, upstreamInject: {{ providerName: github, headerName: x-github }} }}
          second: {{ type: token_exchange, tokenExchange: {{ tokenUrl: '{}' }} }}
"#,
        issuer.url()
    );
    let config = document(&text, Path::new(""));
    let client = client(&config, &resources(), &backend);
    let github = UpstreamToken::new(AccessToken::new("gho_1").unwrap());
    let alice = Identity::builder("alice")
        .token(AccessToken::new("alices-token").unwrap())
        .upstream("github", github);
    send(&client, backend.request(alice.build().unwrap()))
        .await
        .unwrap();
    assert_eq!(last(&backend, "x-api-key"), [SECRET]);
    assert_eq!(last(&backend, "x-github"), ["gho_1"]);
    assert_eq!(
        last(&backend, "authorization"),
        ["Bearer exchanged-for-alice-any-1"]
    );
    let sent = backend.server.requests().len();
    let error = send(&client, backend.request(user("bob", "unknown"))).await;
    error.unwrap_err();
    assert_eq!(
        backend.server.requests().len(),
        sent,
        "without one, the other does not leave"
    );
}

#[test]
fn two_credentials_in_one_header_are_a_fault_in_any_spelling() {
    let inject = |header: &str| json!({ "type": "header_injection", "headerInjection": { "headerName": header, "headerValue": "v" } });
    let claim = json!({ "type": "claim_injection", "claimInjection": { "claims": ["sub"] } });
    let exchange = |header: Option<&str>| {
        let mut block = json!({ "tokenUrl": "https://idp.example.com/token" });
        if let Some(header) = header {
            block["headerName"] = json!(header);
        }
        json!({ "type": "token_exchange", "tokenExchange": block })
    };
    for (first, second, header) in [
        (inject("X-Api-Key"), inject("x_api_key"), Some("x-api-key")),
        (
            inject("Authorization"),
            exchange(None),
            Some("authorization"),
        ),
        (
            exchange(Some("x-token")),
            inject("x-token"),
            Some("x-token"),
        ),
        (claim.clone(), inject("x-claim-sub"), Some("x-claim-sub")),
        (
            json!({ "type": "both", "both": { "first": inject("x-a"), "second": inject("x-b") } }),
            inject("x-b"),
            Some("x-b"),
        ),
        (inject("x-a"), exchange(None), None),
        (claim, inject("x-claim-email"), None),
    ] {
        let backend = json!({ "type": "both", "both": { "first": first, "second": second } });
        let config: OutgoingAuthConfig =
            serde_json::from_value(json!({ "backends": { "b": backend } })).unwrap();
        match header {
            Some(header) => assert_eq!(
                faults(&config),
                [format!(
                    "backends.b.both.second: sends the header `{header}` as `first` does, so that only one would leave; \
                     send another"
                )]
            ),
            None => config.check(&resources()).unwrap(),
        }
    }
}

// An issuer's own exchange.

#[tokio::test]
async fn a_grant_and_parameters_of_the_issuers_own_are_sent() {
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    let token = json!({ "access_token": "ya29.1", "token_type": "Bearer", "expires_in": 60 });
    issuer.next(Behaviour::json(200, &token));
    let text = format!(
        r#"
backends:
  b:
    type: token_exchange
    tokenExchange:
      tokenUrl: {}
      grantType: urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token
      requestedTokenType: http://auth0.com/oauth/token-type/federated-connection-access-token
      resource: https://mcp.example.com
      parameters:
        - name: connection
          value: google-oauth2
        - name: login_hint
          claim: email
"#,
        issuer.url()
    );
    let config = document(&text, Path::new(""));
    let client = client(&config, &resources(), &backend);
    send(&client, backend.request(alice())).await.unwrap();
    let sent = issuer.request();
    assert_eq!(sent.one("resource"), Some("https://mcp.example.com"));
    assert_eq!(sent.one("connection"), Some("google-oauth2"));
    assert_eq!(sent.one("login_hint"), Some("alice@example.com"));
    assert!(sent.one("grant_type").unwrap().starts_with("urn:auth0:"));
    assert_eq!(backend.authorizations(), [["Bearer ya29.1"]]);
}

// Bad input.

#[test]
fn each_fault_names_the_key() {
    let folder = mounted();
    let key = |keys: &str| {
        format!(
            "type: client_credentials, clientCredentials: {{tokenUrl: 'https://idp.example.com/token', clientId: g, \
             clientKey: {{{keys}}}}}"
        )
    };
    let plain = |keys: &str| format!("type: client_credentials, clientCredentials: {{{keys}}}");
    let url = "tokenUrl: 'https://idp.example.com/token'";
    let exchange = |keys: &str| format!("type: token_exchange, tokenExchange: {{{url}, {keys}}}");
    let signed = |keys: &str| {
        format!("type: signed_identity, signedIdentity: {{issuer: g, audience: a, {keys}}}")
    };
    let signing = |keys: &str| {
        signed(&format!(
            "signingKeys: [{{keyId: k, algorithm: ES256, {keys}}}]"
        ))
    };
    for (backend, place, message) in [
        (key("keyFile: DIR/p256.pem"), "clientCredentials.clientKey.algorithm", "is missing"),
        (key("keyFile: DIR/p256.pem, algorithm: HS256"), "clientCredentials.clientKey.algorithm", "none of `RS256`"),
        (key("algorithm: ES256"), "clientCredentials.clientKey.keyFile", "is missing; give it, or `clientKey.keyEnv`"),
        (
            key("algorithm: ES256, keyFile: DIR/p256.pem, keyEnv: P384_KEY"),
            "clientCredentials.clientKey.keyEnv",
            "is there beside `clientKey.keyFile`",
        ),
        (key("algorithm: ES256, signer: kms"), "clientCredentials.clientKey.signer", "is the name of no signer"),
        (
            key("algorithm: ES256, signer: kms, keyEnv: P384_KEY"),
            "clientCredentials.clientKey.signer",
            "is there beside `clientKey.keyEnv`",
        ),
        (key("algorithm: ES256, keyFile: DIR/missing"), "clientCredentials.clientKey.keyFile", "does not exist"),
        (key("algorithm: ES256, keyFile: DIR"), "clientCredentials.clientKey.keyFile", "cannot be read"),
        (key("algorithm: ES256, keyFile: DIR/empty"), "clientCredentials.clientKey.keyFile", "is empty"),
        (key("algorithm: ES256, keyFile: DIR/large"), "clientCredentials.clientKey.keyFile", "more than 64 KiB"),
        (key("algorithm: ES256, keyFile: DIR/binary"), "clientCredentials.clientKey.keyFile", "not UTF-8"),
        (key("algorithm: ES256, keyFile: p256.pem"), "clientCredentials.clientKey.keyFile", "not the absolute path"),
        (key("algorithm: ES256, keyFile: DIR/rsa.pem"), "clientCredentials.clientKey.keyFile", "can sign with ES256"),
        (key("algorithm: ES256, keyEnv: UNSET"), "clientCredentials.clientKey.keyEnv", "`UNSET` that is not set"),
        (key("algorithm: ES256, keyEnv: OTHER"), "clientCredentials.clientKey.keyEnv", "can sign with ES256"),
        (
            key("algorithm: RS256, keyFile: DIR/rsa.pem, certificateFile: DIR/p256.crt"),
            "clientCredentials.clientKey.certificateFile",
            "the certificate of another key",
        ),
        (
            key("algorithm: RS256, keyFile: DIR/rsa.pem, certificateFile: DIR/rsa.pem"),
            "clientCredentials.clientKey.certificateFile",
            "no certificate in PEM",
        ),
        (
            key("algorithm: RS256, keyFile: DIR/rsa.pem, certificateFile: DIR/missing"),
            "clientCredentials.clientKey.certificateFile",
            "does not exist",
        ),
        (
            key("algorithm: RS256, keyFile: DIR/rsa.pem, sendCertificates: true"),
            "clientCredentials.clientKey.sendCertificates",
            "without `clientKey.certificateFile`",
        ),
        (key("algorithm: RS256, keyFile: DIR/rsa.pem, kid: x"), "clientCredentials.clientKey.kid", "unknown key"),
        (key("algorithm: RS256, keyFile: DIR/rsa.pem, keyId: ''"), "clientCredentials.clientKey.keyId", "is empty"),
        (plain(&format!("{url}, clientId: g")), "clientCredentials.clientSecret", "`clientKey` or `clientCertificate`"),
        (
            plain(&format!("{url}, clientId: g, clientCertificate: {{name: vault}}")),
            "clientCredentials.clientCertificate.name",
            "is the name of no client with a certificate",
        ),
        (
            plain(&format!("{url}, clientId: g, clientCertificate: {{method: private_key_jwt}}")),
            "clientCredentials.clientCertificate.method",
            "is neither `tls_client_auth` nor",
        ),
        (
            plain(&format!("{url}, clientId: g, clientCertificate: {{certificateFile: /tls.crt}}")),
            "clientCredentials.clientCertificate.certificateFile",
            "unknown key",
        ),
        (
            exchange("clientId: g, clientCertificate: gateway"),
            "tokenExchange.clientCertificate",
            "expected a map",
        ),
        (
            plain(&format!("{url}, clientId: g, clientSecret: s, clientCertificate: {{}}")),
            "clientCredentials.clientCertificate",
            "is there beside `clientSecret`",
        ),
        (
            plain(&format!("{url}, clientCertificate: {{}}")),
            "clientCredentials.clientId",
            "there is a secret that goes with it: `clientCertificate`",
        ),
        (plain("workloadTokenFile: DIR/workload.jwt"), "clientCredentials.tokenUrl", "is missing"),
        (plain(&format!("{url}, workloadTokenFile: w")), "clientCredentials.workloadTokenFile", "not the absolute path"),
        (
            plain(&format!("{url}, clientId: g, clientSecret: s, clientKey: {{algorithm: ES256, keyFile: DIR/p256.pem}}")),
            "clientCredentials.clientKey",
            "is there beside `clientSecret`",
        ),
        (
            plain(&format!("{url}, clientKey: {{algorithm: ES256, keyFile: DIR/p256.pem}}")),
            "clientCredentials.clientId",
            "there is a secret that goes with it: `clientKey`",
        ),
        (
            format!("type: token_exchange, tokenExchange: {{{url}, clientKey: k}}"),
            "tokenExchange.clientKey",
            "expected a map",
        ),
        (
            plain(&format!("{url}, workloadTokenFile: DIR/workload.jwt, resource: mcp")),
            "clientCredentials.resource",
            "is not an absolute URI",
        ),
        (
            "type: obo, obo: {tokenUrl: 'https://idp.example.com/token', clientId: g, scopes: [s], clientKey: {algorithm: ES256, \
             keyFile: DIR/missing}}"
                .to_owned(),
            "obo.clientKey.keyFile",
            "does not exist",
        ),
        (exchange("grantType: password"), "tokenExchange.grantType", "a grant with other parameters"),
        (exchange("resource: mcp"), "tokenExchange.resource", "is not an absolute URI"),
        (exchange("parameters: [{name: scope, value: x}]"), "tokenExchange.parameters[0].name", "by another setting"),
        (exchange("parameters: [{value: x}]"), "tokenExchange.parameters[0].name", "is missing"),
        (exchange("parameters: [{name: a}]"), "tokenExchange.parameters[0].value", "give it, or `claim`"),
        (
            exchange("parameters: [{name: b, value: x}, {name: a, value: x, claim: z}]"),
            "tokenExchange.parameters[1].claim",
            "is there beside `value`",
        ),
        (exchange("parameters: [{name: a, value: 5}]"), "tokenExchange.parameters[0].value", "put it in quotes"),
        (exchange("parameters: {a: b}"), "tokenExchange.parameters", "expected a list"),
        (signed("claims: [email]"), "signedIdentity.signingKeys", "is missing"),
        (signed("signingKeys: []"), "signedIdentity.signingKeys", "is missing"),
        (signing("keyFile: DIR/missing"), "signedIdentity.signingKeys[0].keyFile", "does not exist"),
        (signing("keyFile: DIR/rsa.pem"), "signedIdentity.signingKeys[0].keyFile", "can sign with ES256"),
        (signing("keyEnv: UNSET"), "signedIdentity.signingKeys[0].keyEnv", "that is not set"),
        (
            signed("signingKeys: [{algorithm: ES256, keyFile: DIR/p256.pem}]"),
            "signedIdentity.signingKeys[0].keyId",
            "is missing",
        ),
        (
            signed("claims: [sub], signingKeys: [{keyId: k, algorithm: ES256, keyFile: DIR/p256.pem}]"),
            "signedIdentity.claims[0]",
            "sets itself",
        ),
        (
            signed("lifetimeSeconds: -1, signingKeys: [{keyId: k, algorithm: ES256, keyFile: DIR/p256.pem}]"),
            "signedIdentity.lifetimeSeconds",
            "between a second and an hour",
        ),
        (
            signed("headerName: host, signingKeys: [{keyId: k, algorithm: ES256, keyFile: DIR/p256.pem}]"),
            "signedIdentity.headerName",
            "is a header of the connection",
        ),
        ("type: both, both: {first: {type: unauthenticated}}".to_owned(), "both.second", "is missing"),
        (
            "type: both, both: {first: {type: unauthenticated}, second: {type: upstream_inject}}".to_owned(),
            "both.second.upstreamInject",
            "is missing",
        ),
        (
            "type: both, both: {first: {type: unauthenticated}, second: {type: upstream_inject, upstreamInject: {providerName: p, \
             headerName: host}}}"
                .to_owned(),
            "both.second.upstreamInject.headerName",
            "is a header of the connection",
        ),
        (
            "type: both, both: {first: {type: client_credentials, clientCredentials: {tokenUrl: 'https://idp.example.com/t', clientId: g, \
             clientSecretEnv: GATEWAY_SECRET, headerName: x-token}}, second: {type: token_exchange, tokenExchange: \
             {tokenUrl: 'https://idp.example.com/t', stepUpScopes: [write]}}}"
                .to_owned(),
            "both.second",
            "does not say of which",
        ),
        ("type: both, both: {first: {type: unauthenticated}, second: 5}".to_owned(), "both.second", "expected a map"),
        (
            "type: both, both: {first: {type: unauthenticated}, second: {type: nonsense}}".to_owned(),
            "both.second.type",
            "neither a type of this crate",
        ),
    ] {
        let config = document(&format!("backends: {{b: {{{backend}}}}}"), folder.path());
        let found = faults(&config);
        let place = format!("backends.b.{place}: ");
        assert!(
            found.len() == 1 && found[0].starts_with(&place) && found[0].contains(message),
            "{backend} should be at fault with {place}{message}, and is with {found:#?}"
        );
        let layer = config.layer_for("b", Origin::try_from("https://mcp.example.com").unwrap(), &resources());
        layer.unwrap_err();
    }
}

#[test]
fn all_faults_are_told_beside_a_key_that_cannot_be_read() {
    let folder = mounted();
    let text = "backends: {b: {type: signed_identity, signedIdentity: {audience: a, claims: [sub, sub], signingKeys: [{keyId: k, \
                algorithm: ES256, keyFile: DIR/missing}, {keyId: l, algorithm: none, keyFile: DIR/p256.pem}]}}}";
    let found = faults(&document(text, folder.path()));
    let keys: Vec<_> = found
        .iter()
        .map(|fault| fault.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "backends.b.signedIdentity.issuer",
            "backends.b.signedIdentity.claims[0]",
            "backends.b.signedIdentity.claims[1]",
            "backends.b.signedIdentity.signingKeys[0].keyFile",
            "backends.b.signedIdentity.signingKeys[1].algorithm",
        ]
    );
}

/// A pipe has no end to read to.
#[cfg(unix)]
#[test]
fn a_key_is_not_waited_for_at_a_pipe() {
    let folder = mounted();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let text = "backends: {b: {type: signed_identity, signedIdentity: {issuer: g, audience: a, signingKeys: [{keyId: k, \
                algorithm: ES256, keyFile: DIR/pipe}]}}}";
    let found = faults(&document(text, folder.path()));
    assert!(found[0].contains("cannot be read"), "{found:?}");
}

#[test]
fn no_output_shows_what_stands_in_place_of_a_path_or_a_variable() {
    let text = format!(
        "backends: {{b: {{type: signed_identity, signedIdentity: {{issuer: g, audience: a, signingKeys: [{{keyId: k, \
         algorithm: ES256, keyFile: {SECRET}}}, {{keyId: l, algorithm: ES256, keyEnv: {SECRET}}}]}}}}}}"
    );
    let config = document(&text, Path::new(""));
    let error = config.check(&resources()).unwrap_err();
    let shown = format!(
        "{config:?} {error} {error:?} {}",
        serde_json::to_string(&config).unwrap()
    );
    assert!(!shown.contains(SECRET), "{shown}");
}

/// The documents in the rustdoc of the configuration.
#[test]
fn the_documented_examples_are_complete() {
    let folder = mounted();
    let source = include_str!("../src/config/outgoing_auth.rs");
    let mut examples = 0;
    for example in source.split("/// ```yaml\n").skip(1) {
        let example = example.split("/// ```").next().unwrap();
        if example.contains("dpop:") && !cfg!(feature = "dpop") {
            continue;
        }
        let lines = example
            .lines()
            .map(|line| line.strip_prefix("///").unwrap());
        let mut text = lines.collect::<Vec<_>>().join("\n");
        for (mounted_at, file) in [
            ("/run/secrets/gateway.pem", "DIR/rsa.pem"),
            ("/run/secrets/gateway.crt", "DIR/rsa.crt"),
            ("/run/secrets/signing.pem", "DIR/p256.pem"),
            ("/run/secrets/dpop.pem", "DIR/p256.pem"),
            ("/run/secrets/dpop-users", "DIR/p256.pem"),
        ] {
            text = text.replace(mounted_at, file);
        }
        let config = document(&text, folder.path());
        config.check(&resources()).unwrap();
        examples += config.backends.len();
    }
    assert!(examples >= 5, "{examples}");
}

// The schema, and the way there and back.

const EVERY_KEY: &str = r#"
backends:
  own:
    type: client_credentials
    clientCredentials:
      tokenUrl: https://idp.example.com/token
      clientId: gateway
      clientSecretEnv: GATEWAY_SECRET
      workloadTokenFile: /var/run/secrets/tokens/gateway
      audience: mcp
      resource: https://mcp.example.com
      scopes: ["tools:list"]
      stepUpScopes: ["tools:call"]
      headerName: x-token
      headerPrefix: "Bearer "
  key:
    type: client_credentials
    clientCredentials:
      tokenUrl: https://idp.example.com/token
      clientId: gateway
      clientKey:
        keyFile: /run/secrets/gateway.pem
        algorithm: PS256
        keyId: "2026-01"
        certificateFile: /run/secrets/gateway.crt
        sendCertificates: true
        audience: https://idp.example.com
  own_grant:
    type: token_exchange
    tokenExchange:
      tokenUrl: https://example.auth0.com/oauth/token
      resource: https://mcp.example.com
      grantType: urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token
      parameters:
        - name: connection
          value: google-oauth2
        - name: login_hint
          claim: email
  statement:
    type: signed_identity
    signedIdentity:
      issuer: https://gateway.example.com
      audience: https://mcp.example.com
      claims: [email]
      lifetimeSeconds: 60
      signingKeys:
        - keyId: "2026-01"
          algorithm: ES256
          keyFile: /run/secrets/signing.pem
      headerName: x-identity
      headerPrefix: "Bearer "
  two:
    type: both
    both:
      first:
        type: header_injection
        headerInjection:
          headerName: x-api-key
          headerValueEnv: GATEWAY_KEY
      second:
        type: upstream_inject
        upstreamInject:
          providerName: github
"#;

#[test]
fn every_key_makes_the_way_there_and_back() {
    let document: Value = serde_saphyr::from_str(EVERY_KEY).unwrap();
    let config: OutgoingAuthConfig = serde_json::from_value(document.clone()).unwrap();
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["backends"], document["backends"]);
    let config: OutgoingAuthConfig = serde_saphyr::from_str(EVERY_KEY).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), written);
}

#[test]
fn the_schema_has_every_key_and_no_others() {
    let schema = OutgoingAuthConfig::json_schema();
    let document: Value = serde_saphyr::from_str(EVERY_KEY).unwrap();
    let properties = |name: &str| -> BTreeSet<String> {
        let object = &schema["$defs"][name];
        assert_eq!(object["additionalProperties"], false, "{name}");
        object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    let keys = |value: &Value, more: &[&str]| -> BTreeSet<String> {
        let keys = value.as_object().unwrap().keys().cloned();
        keys.chain(more.iter().map(|&key| key.to_owned())).collect()
    };
    let backends = &document["backends"];
    let client = &[
        "clientSecret",
        "clientSecretFile",
        "clientAssertionFile",
        "clientAssertionType",
        "clientKey",
        "clientCertificate",
        "dpop",
    ];
    for (name, expected) in [
        (
            "ClientCredentialsConfig",
            keys(&backends["own"]["clientCredentials"], client),
        ),
        (
            "ClientKeyConfig",
            keys(
                &backends["key"]["clientCredentials"]["clientKey"],
                &["keyEnv", "signer"],
            ),
        ),
        (
            "SignedIdentityConfig",
            keys(&backends["statement"]["signedIdentity"], &[]),
        ),
        (
            "SigningKeyConfig",
            keys(
                &backends["statement"]["signedIdentity"]["signingKeys"][0],
                &["keyEnv"],
            ),
        ),
        (
            "ParameterConfig",
            keys(
                &backends["own_grant"]["tokenExchange"]["parameters"][0],
                &["claim"],
            ),
        ),
        ("BothConfig", keys(&backends["two"]["both"], &[])),
        (
            "ClientCertificateConfig",
            keys(&json!({}), &["name", "method"]),
        ),
    ] {
        assert_eq!(properties(name), expected, "{name}");
    }
    assert_eq!(
        schema["$defs"]["BothConfig"]["required"],
        json!(["first", "second"])
    );
}

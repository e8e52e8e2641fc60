//! The key `dpop` of a configuration: each document is loaded, and its strategy asks an issuer and a backend in the process.
#![cfg(all(feature = "config", feature = "dpop", feature = "incoming"))]

mod support;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use support::{
    dpop::{part, verified},
    key_pair::P256,
    recording::{Arrival, RecordingService},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Identity, Origin, OutgoingAuthConfig, Secret,
    Strategy, UpstreamToken,
    config::{DpopConfig, LiveOutgoingAuth, Resources, TokenExchangeConfig},
    oauth::{DpopKey, DpopKeys, SigningAlgorithm},
};

type Body = Full<Bytes>;

const USERS: &str = "0123456789abcdef0123456789abcdef";

/// An issuer that issues a token of the type that it is told, for anything that it is asked, and keeps the headers.
#[derive(Clone)]
struct Issuer {
    token_type: &'static str,
    asked: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

impl Issuer {
    fn of(token_type: &'static str) -> Self {
        Self {
            token_type,
            asked: Arc::default(),
        }
    }

    fn resources(&self) -> Resources<Body> {
        let issuer = self.clone();
        let client = service_fn(move |request: Request<Body>| {
            let issuer = issuer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = String::from_utf8(body.to_vec())?;
                let is_assertion = body.contains("id-jag");
                issuer.asked.lock().unwrap().push((head.headers, body));
                let answer = match is_assertion {
                    true => {
                        json!({ "access_token": id_jag(), "token_type": "N_A", "expires_in": 600,
                        "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag" })
                    }
                    false => json!({ "access_token": "issued", "token_type": issuer.token_type,
                        "expires_in": 600,
                        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" }),
                };
                let response = Response::builder().header("content-type", "application/json");
                Ok::<_, BoxError>(response.body(Body::from(answer.to_string())).unwrap())
            }
        });
        let builder = Resources::builder(client).environment(|variable| match variable {
            "USERS" => Some(USERS.to_owned()),
            "P256" => Some(P256.pem.to_owned()),
            "SHORT" => Some("short".to_owned()),
            _ => None,
        });
        builder.build().unwrap()
    }

    fn proofs(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let proof = |(headers, _): &(HeaderMap, String)| {
            let proof = headers.get("dpop")?.to_str().unwrap();
            Some(proof.to_owned())
        };
        asked.iter().filter_map(proof).collect()
    }
}

fn id_jag() -> String {
    let header = json!({ "typ": "oauth-id-jag+jwt" });
    let claims = json!({ "iss": "https://idp.example.com", "aud": "https://as.example.com",
        "exp": 4_102_444_800_u64 });
    support::token_stack::jwt(&header, &claims)
}

fn origin() -> Origin {
    Origin::try_from("https://mcp.example.com").unwrap()
}

fn alice() -> Identity {
    let id_token = json!({ "iss": "https://idp.example.com", "exp": 4_102_444_800_u64 });
    let id_token = support::token_stack::jwt(&json!({}), &id_token);
    let upstream = UpstreamToken::new(AccessToken::new("gho_1").unwrap());
    let upstream = upstream.with_id_token(Secret::new(id_token).unwrap());
    Identity::builder("alice")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("callers-own").unwrap())
        .upstream("idp", upstream)
        .build()
        .unwrap()
}

fn mounted() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("p256.pem", P256.pem),
        ("users", USERS),
        ("short", "short"),
        ("rsa", "no key"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn document(text: &str, folder: &Path) -> OutgoingAuthConfig {
    let text = text.replace("DIR", folder.to_str().unwrap());
    serde_saphyr::from_str(&format!("backends: {{b: {{{text}}}}}")).unwrap()
}

async fn arrives(
    layer: AuthLayer<Arc<dyn Strategy<Body>>>,
    user: Identity,
) -> Result<Arrival, AuthError> {
    let backend = RecordingService::new();
    let mut request = Request::get("https://mcp.example.com/mcp")
        .body(Body::default())
        .unwrap();
    request.extensions_mut().insert(user);
    match layer.layer(backend.clone()).oneshot(request).await {
        Ok(_) => Ok(backend.arrival()),
        Err(error) => Err(AuthError::find_in(&*error).unwrap().clone()),
    }
}

/// Each type that has tokens issued, with this block of keys.
fn every_type(dpop: &str) -> Vec<(&'static str, String)> {
    let url = "tokenUrl: 'https://idp.example.com/token', clientId: g, clientSecret: s";
    vec![
        (
            "token exchange",
            format!("type: token_exchange, tokenExchange: {{{url}, dpop: {dpop}}}"),
        ),
        (
            "client credentials",
            format!("type: client_credentials, clientCredentials: {{{url}, dpop: {dpop}}}"),
        ),
        (
            "on behalf of",
            format!("type: obo, obo: {{{url}, scopes: [a], dpop: {dpop}}}"),
        ),
        (
            "cross-app access",
            format!(
                "type: xaa, xaa: {{subjectProviderName: idp, idpTokenUrl: 'https://idp.example.com/token', \
                 targetTokenUrl: 'https://as.example.com/token', targetAudience: 'https://as.example.com', \
                 idpDpop: {dpop}, targetDpop: {dpop}}}"
            ),
        ),
    ]
}

#[tokio::test]
async fn every_type_binds_its_tokens_to_the_key_of_each_kind_of_block() {
    let folder = mounted();
    let pem = Secret::new(P256.pem).unwrap();
    let given = DpopKey::from_pem(SigningAlgorithm::Es256, &pem).unwrap();
    let given = given.thumbprint().to_owned();
    let users = DpopKeys::per_user(&Secret::new(USERS).unwrap()).unwrap();
    let of_user = users.key(Some(&alice())).unwrap().thumbprint().to_owned();
    let of_client = users.key(None).unwrap().thumbprint().to_owned();
    for (dpop, expected) in [
        (
            "{keyFile: DIR/p256.pem, algorithm: ES256}",
            Some([&given, &given]),
        ),
        ("{keyEnv: P256, algorithm: ES256}", Some([&given, &given])),
        (
            "{perUserSecretFile: DIR/users}",
            Some([&of_user, &of_client]),
        ),
        ("{perUserSecretEnv: USERS}", Some([&of_user, &of_client])),
        ("{}", None),
        ("{allowBearerTokens: false}", None),
    ] {
        for (name, text) in every_type(dpop) {
            let issuer = Issuer::of("DPoP");
            let config = document(&text, folder.path());
            let resources = issuer.resources();
            let layer = config.layer_for("b", origin(), &resources).unwrap();
            let arrival = arrives(layer, alice()).await.unwrap();
            assert_eq!(
                arrival.header("authorization"),
                ["DPoP issued"],
                "{name}: {dpop}"
            );
            let [proof] = &*arrival.header("dpop") else {
                panic!("{name}: {dpop}");
            };
            let mut proofs = issuer.proofs();
            proofs.push((*proof).to_owned());
            assert_eq!(proofs.len(), if name == "cross-app access" { 3 } else { 2 });
            let Some(verified) = verified(&proofs) else {
                return;
            };
            let first = verified[0]["thumbprint"].as_str().unwrap().to_owned();
            let expected = expected.map_or(&first, |[user, client]| match name {
                "client credentials" => client,
                _ => user,
            });
            for said in &verified {
                assert_eq!(said["thumbprint"], **expected, "{name}: {dpop}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_bearer_token_is_refused_unless_the_block_allows_it() {
    let folder = mounted();
    for (dpop, allowed) in [("{}", false), ("{allowBearerTokens: true}", true)] {
        for (name, text) in every_type(dpop) {
            let resources = Issuer::of("Bearer").resources();
            let config = document(&text, folder.path());
            let layer = config.layer_for("b", origin(), &resources).unwrap();
            match arrives(layer, alice()).await {
                Ok(arrival) => {
                    assert!(allowed, "{name}");
                    assert_eq!(arrival.header("authorization"), ["Bearer issued"], "{name}");
                    assert_eq!(arrival.header("dpop"), Vec::<&str>::new());
                }
                Err(error) => {
                    assert!(!allowed, "{name}: {error}");
                    assert_eq!(error.kind(), AuthErrorKind::Configuration, "{name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_generated_key_outlives_a_configuration_that_is_replaced() {
    let folder = mounted();
    let issuer = Issuer::of("DPoP");
    let (_, text) = every_type("{}").remove(0);
    let more = text.replace("clientId: g", "clientId: g, audience: other");
    let live = LiveOutgoingAuth::new(document(&text, folder.path()), issuer.resources()).unwrap();
    let layer = live.layer_for("b", origin()).unwrap();
    let mut proofs = Vec::new();
    for next in [
        text.clone(),
        more,
        text.replace("dpop: {}", "dpop: {allowBearerTokens: true}"),
    ] {
        live.replace(document(&next, folder.path())).unwrap();
        let arrival = arrives(layer.clone(), alice()).await.unwrap();
        proofs.push(arrival.header("dpop")[0].to_owned());
    }
    let keys: Vec<_> = proofs
        .iter()
        .map(|proof| part(proof, 0)["jwk"].clone())
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");

    // Without `dpop` the same backend sends bearer tokens, and none that was bound.
    let plain = text.replace(", dpop: {}", "");
    live.replace(document(&plain, folder.path())).unwrap();
    let error = arrives(layer, alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration, "{error}");
}

#[tokio::test]
async fn upstream_tokens_that_are_bound_to_a_key_are_sent_with_the_key_that_the_application_has_too()
 {
    let folder = mounted();
    let users = DpopKeys::per_user(&Secret::new(USERS).unwrap()).unwrap();
    let thumbprint = users.key(Some(&alice())).unwrap().thumbprint().to_owned();
    let token = UpstreamToken::new(AccessToken::new("bound").unwrap());
    let alice = Identity::builder("alice")
        .issuer("https://idp.example.com")
        .upstream("idp", token.with_dpop_thumbprint(thumbprint))
        .build()
        .unwrap();
    let text = "type: upstream_inject, upstreamInject: {providerName: idp, dpop: {perUserSecretFile: DIR/users}}";
    let config = document(text, folder.path());
    let resources = Issuer::of("DPoP").resources();
    let layer = config.layer_for("b", origin(), &resources).unwrap();
    let arrival = arrives(layer, alice).await.unwrap();
    assert_eq!(arrival.header("authorization"), ["DPoP bound"]);
    assert_eq!(
        part(arrival.header("dpop")[0], 1)["htu"],
        "https://mcp.example.com/mcp"
    );
}

#[test]
fn each_fault_names_the_key() {
    let folder = mounted();
    let exchange = |dpop: &str| {
        format!(
            "type: token_exchange, tokenExchange: {{tokenUrl: 'https://idp.example.com/token', dpop: {dpop}}}"
        )
    };
    let inject = |keys: &str| {
        format!("type: upstream_inject, upstreamInject: {{providerName: idp, {keys}}}")
    };
    for (text, key, message) in [
        (exchange("true"), "tokenExchange.dpop", "expected a map"),
        (
            exchange("{keyfile: DIR/p256.pem}"),
            "tokenExchange.dpop.keyfile",
            "did you mean `keyFile`",
        ),
        (
            exchange("{keyFile: DIR/p256.pem}"),
            "tokenExchange.dpop.algorithm",
            "is missing",
        ),
        (
            exchange("{keyFile: DIR/p256.pem, algorithm: HS256}"),
            "tokenExchange.dpop.algorithm",
            "none of `RS256`",
        ),
        (
            exchange("{algorithm: ES256}"),
            "tokenExchange.dpop.algorithm",
            "without a private key; give `dpop.keyFile`",
        ),
        (
            exchange("{keyFile: DIR/rsa, algorithm: ES256}"),
            "tokenExchange.dpop.keyFile",
            "",
        ),
        (
            exchange("{keyFile: DIR/missing, algorithm: ES256}"),
            "tokenExchange.dpop.keyFile",
            "does not exist",
        ),
        (
            exchange("{keyEnv: UNSET, algorithm: ES256}"),
            "tokenExchange.dpop.keyEnv",
            "that is not set",
        ),
        (
            exchange("{perUserSecretEnv: SHORT}"),
            "tokenExchange.dpop.perUserSecretEnv",
            "fewer than 32",
        ),
        (
            exchange("{perUserSecretFile: DIR/short}"),
            "tokenExchange.dpop.perUserSecretFile",
            "fewer than 32",
        ),
        (
            exchange("{perUserSecretFile: users}"),
            "tokenExchange.dpop.perUserSecretFile",
            "absolute path",
        ),
        (
            exchange("{perUserSecretFile: DIR/users, keyEnv: P256, algorithm: ES256}"),
            "tokenExchange.dpop.perUserSecretFile",
            "is there beside `dpop.keyEnv`",
        ),
        (
            exchange("{}, headerName: x-token"),
            "tokenExchange.headerName",
            "`Authorization: DPoP`",
        ),
        (
            inject("dpop: {}"),
            "upstreamInject.dpop",
            "give `dpop.perUserSecretFile`",
        ),
        (
            inject("dpop: {perUserSecretEnv: USERS}, headerName: x-token"),
            "upstreamInject.headerName",
            "is there beside `dpop`",
        ),
        (
            inject("dpop: {perUserSecretEnv: USERS, allowBearerTokens: true}"),
            "upstreamInject.dpop.allowBearerTokens",
            "is of no use here",
        ),
    ] {
        let config = document(&text, folder.path());
        let error = config.check(&Issuer::of("DPoP").resources()).unwrap_err();
        let [fault] = error.faults() else {
            panic!("{text}: {error}");
        };
        assert_eq!(
            fault.key(),
            format!("backends.b.{key}").split_once("b.").unwrap().1,
            "{text}: {fault}"
        );
        assert!(fault.message().contains(message), "{text}: {fault}");
    }
}

#[test]
fn the_key_makes_the_way_there_and_back() {
    let block = json!({ "keyFile": "/run/secrets/dpop.pem", "algorithm": "ES256" });
    let mut exchange = TokenExchangeConfig::new("https://idp.example.com/token");
    exchange.dpop = Some(DpopConfig::new("/run/secrets/dpop.pem", "ES256"));
    let written = serde_json::to_value(&exchange).unwrap();
    assert_eq!(written["dpop"], block);
    exchange.dpop = Some(DpopConfig::generated());
    assert_eq!(serde_json::to_value(&exchange).unwrap()["dpop"], json!({}));
    exchange.dpop = Some(DpopConfig::per_user("/run/secrets/users"));
    let written = serde_json::to_value(&exchange).unwrap();
    assert_eq!(
        written["dpop"],
        json!({ "perUserSecretFile": "/run/secrets/users" })
    );
    let schema = OutgoingAuthConfig::json_schema();
    let keys = schema["$defs"]["DpopConfig"]["properties"]
        .as_object()
        .unwrap();
    assert_eq!(keys.len(), 6, "{keys:?}");
}

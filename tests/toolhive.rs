//! The example for people who come from ToolHive: its file, served to callers of an issuer that nobody here wrote.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "hyper",
    feature = "incoming"
))]

#[path = "../examples/toolhive/gateway.rs"]
mod gateway;
mod support;

use std::net::SocketAddr;

use axum::body::Body;
use http::{
    Request, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use http_body_util::BodyExt;
use serde_json::json;
use support::{
    http_server::{HttpServer, ok, server_body},
    oidc_provider::OidcProvider,
};
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_identity::client::hyper::https_client;

const FILE: &str = include_str!("../examples/toolhive/vmcp.yaml");
const GATEWAY: &str = "https://gateway.example.com/";
const BACKEND: &str = "https://backend.example.com/";

/// The file with the addresses of real servers.
async fn serve(provider: &OidcProvider, github: &HttpServer, docs: &HttpServer) -> SocketAddr {
    let file = FILE
        .replace("https://idp.example.com", provider.issuer())
        .replace("https://mcp-github.example.com/mcp", &github.uri("/mcp"))
        .replace("https://mcp-docs.example.com/mcp", &docs.uri("/mcp"));
    let secret = |name: &str| (name == "GATEWAY_SECRET").then(|| "s3cr3t".to_owned());
    let router = gateway::router(&file, secret).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

async fn call(
    gateway: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> (StatusCode, Option<String>, String) {
    let mut request = Request::post(format!("http://{gateway}{path}")).header("x-trace-id", "42");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::from("{}")).unwrap();
    let client = https_client::<Body>().unwrap();
    let (head, body) = client.oneshot(request).await.unwrap().into_parts();
    let challenge = head.headers.get(WWW_AUTHENTICATE);
    let body = body.collect().await.unwrap().to_bytes();
    (
        head.status,
        challenge.map(|challenge| challenge.to_str().unwrap().to_owned()),
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn provider() -> Option<OidcProvider> {
    OidcProvider::start(json!({
        "clients": [
            { "client_id": "browser", "token_endpoint_auth_method": "none" },
            { "client_id": "gateway", "client_secret": "s3cr3t" },
        ],
        "resources": {
            GATEWAY: { "alg": "RS256" },
            BACKEND: { "alg": "ES256", "audience": BACKEND, "scope": "read write" },
        },
    }))
    .await
}

#[tokio::test]
async fn the_file_of_a_vmcp_becomes_a_gateway_whose_backends_are_called_as_the_caller() {
    let Some(provider) = provider().await else {
        return;
    };
    let github = HttpServer::start(async |_| ok()).await;
    let docs = HttpServer::start(async |_| ok()).await;
    let gateway = serve(&provider, &github, &docs).await;
    let alice = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;

    let (status, challenge, _) = call(gateway, "/github/mcp", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let challenge = challenge.unwrap();
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    let metadata = "/.well-known/oauth-protected-resource";
    let get = Request::get(format!("http://{gateway}{metadata}"));
    let client = https_client::<Body>().unwrap();
    let response = client.oneshot(get.body(Body::empty()).unwrap()).await;
    let body = response.unwrap().into_body().collect().await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&body.to_bytes()).unwrap();
    assert_eq!(
        document["authorization_servers"],
        json!([provider.issuer()])
    );

    let token = Some(&*alice.access_token);
    let (status, _, body) = call(gateway, "/github/mcp", token).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let sent = &github.requests()[0];
    let [sent_token] = sent.all("authorization")[..] else {
        panic!("{sent:?}");
    };
    assert_ne!(sent_token, format!("Bearer {}", alice.access_token));
    assert_eq!(sent.all("x-trace-id"), ["42"]);
    assert_eq!(sent.uri, "/mcp");

    let (status, ..) = call(gateway, "/docs/mcp", token).await;
    assert_eq!(status, StatusCode::OK);
    assert!(docs.requests()[0].all("authorization").is_empty());
    assert_eq!(github.requests().len(), 1);

    let mallory = provider
        .log_in("browser", "mallory", "openid read", GATEWAY)
        .await;
    let (status, ..) = call(gateway, "/docs/mcp", Some(&mallory.access_token)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(docs.requests().len(), 1);
}

#[tokio::test]
async fn a_backend_that_refuses_the_credential_does_not_say_where_the_caller_logs_in() {
    let Some(provider) = provider().await else {
        return;
    };
    let refusing = HttpServer::start(async |_| {
        http::Response::builder()
            .status(401)
            .header(
                WWW_AUTHENTICATE,
                r#"Bearer resource_metadata="https://evil.example""#,
            )
            .body(server_body(http_body_util::Empty::new()))
            .unwrap()
    })
    .await;
    let gateway = serve(&provider, &refusing, &refusing).await;
    let alice = provider
        .log_in("browser", "alice", "openid read", GATEWAY)
        .await;
    let (status, challenge, _) = call(gateway, "/github/mcp", Some(&alice.access_token)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let challenge = challenge.unwrap();
    assert!(!challenge.contains("evil"), "{challenge}");
    assert!(challenge.contains("gateway.example.com"), "{challenge}");

    // It gets no credential of the caller, so that no login helps.
    let (status, challenge, _) = call(gateway, "/docs/mcp", Some(&alice.access_token)).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(challenge, None);
}

#[tokio::test]
async fn a_file_with_a_fault_is_refused_with_its_key_and_nothing_is_served() {
    let file = FILE.replace("tokenUrl:", "tokenURL:");
    let error = gateway::router(&file, |_| Some("s3cr3t".to_owned())).unwrap_err();
    let error = error.to_string();
    let expected = "outgoingAuth.backends.github.tokenExchange.tokenURL: unknown key, did you mean `tokenUrl`?";
    assert!(error.contains(expected), "{error}");
}

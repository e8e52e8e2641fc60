//! Serves the backends of a ToolHive vMCP's file, and calls each with its caller's credential.
//!
//! ```sh
//! cargo run --all-features --example toolhive
//! cargo run --all-features --example toolhive -- vmcp.yaml 127.0.0.1:4483
//! ```
//!
//! The second command serves a file. The first one reads `examples/toolhive/vmcp.yaml`, starts an issuer and backends for
//! it in this process, calls the gateway and prints the answers.

mod gateway;

use std::{
    env, fs,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, Request, header::AUTHORIZATION},
    routing::{any, get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::BodyExt;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{BoxError, ServiceExt};
use tower_identity::client::hyper::https_client;

const FILE: &str = include_str!("vmcp.yaml");

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let mut arguments = env::args().skip(1);
    if let Some(path) = arguments.next() {
        let address = arguments.next().unwrap_or("127.0.0.1:4483".to_owned());
        let router = gateway::router(&fs::read_to_string(path)?, |name| env::var(name).ok())?;
        let listener = TcpListener::bind(address).await?;
        return Ok(axum::serve(listener, router).await?);
    }

    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let issuer = format!("http://{}", listener.local_addr()?);
    serve_on(listener, issuer_of(&issuer, &key));
    let backend = serve(Router::new().route("/mcp", any(show))).await?;
    let file = FILE
        .replace("https://idp.example.com", &issuer)
        .replace(
            "https://mcp-github.example.com",
            &format!("http://{backend}"),
        )
        .replace("https://mcp-docs.example.com", &format!("http://{backend}"));
    let secret = |name: &str| (name == "GATEWAY_SECRET").then(|| "s3cr3t".to_owned());
    let gateway = serve(gateway::router(&file, secret)?).await?;

    let client = https_client::<Body>()?;
    for (path, caller) in [
        ("github/mcp", None),
        ("github/mcp", Some("alice")),
        ("docs/mcp", Some("alice")),
        ("docs/mcp", Some("mallory")),
    ] {
        let mut request = Request::post(format!("http://{gateway}/{path}"));
        if let Some(caller) = caller {
            let token = token(&key, &issuer, caller)?;
            request = request
                .header(AUTHORIZATION, format!("Bearer {token}"))
                .header("x-trace-id", "42");
        }
        let response = client
            .clone()
            .oneshot(request.body(Body::from("{}"))?)
            .await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let caller = caller.unwrap_or("a stranger");
        println!(
            "{caller} at /{path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    Ok(())
}

/// Answers with the headers that the backend received.
async fn show(headers: HeaderMap) -> String {
    let shown = |name| headers.get(name).and_then(|value| value.to_str().ok());
    format!(
        "authorization {:?}, x-trace-id {:?}",
        shown("authorization"),
        shown("x-trace-id")
    )
}

/// An issuer that publishes its key, and exchanges any token.
fn issuer_of(issuer: &str, key: &KeyPair) -> Router {
    let metadata = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/jwks") });
    let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] });
    let exchanged = json!({
        "access_token": "exchanged-for-the-callers", "token_type": "Bearer", "expires_in": 3600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let answer = |document: Value| async move || Json(document);
    Router::new()
        .route("/.well-known/openid-configuration", get(answer(metadata)))
        .route("/jwks", get(answer(keys)))
        .route("/token", post(answer(exchanged)))
}

async fn serve(router: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    serve_on(listener, router);
    Ok(address)
}

fn serve_on(listener: TcpListener, router: Router) {
    tokio::spawn(async { axum::serve(listener, router).await });
}

fn token(key: &KeyPair, issuer: &str, subject: &str) -> Result<String, BoxError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let audience = "https://gateway.example.com/";
    let claims = json!({ "iss": issuer, "sub": subject, "aud": audience, "exp": now + 600 });
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt" });
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signature = key.sign(format!("{header}.{claims}").as_bytes())?;
    Ok(format!(
        "{header}.{claims}.{}",
        URL_SAFE_NO_PAD.encode(signature)
    ))
}

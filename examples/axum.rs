//! A protected API on axum, which calls a backend with a token that is exchanged for its caller's.
//!
//! ```sh
//! cargo run --all-features --example axum
//! ```
//!
//! The program calls its own API and prints the answers. The issuer is one for tests, in this process.

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, Response, header::AUTHORIZATION},
    routing::get,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, ClientAuth, Identity, Origin, Secret, TokenEndpoint,
    TokenExchange, TokenValidator, TokenValidatorLayer,
    testing::{TestIssuer, TestNetwork},
};

type HttpClient = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// The API. Outside of this example, `network` is `https_client()?`.
fn api(network: TestNetwork) -> Result<Router, BoxError> {
    let validator = TokenValidator::builder("https://idp.example.com", network.clone())
        .audience("https://api.example.com")
        .build()?;
    let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", network.clone())
        .client_auth(ClientAuth::basic("api", secret))
        .build()?;
    let exchange = TokenExchange::builder(endpoint)
        .audience("https://backend.example.com")
        .build()?;
    let origin = Origin::try_from("https://backend.example.com")?;
    let backend = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .layer(AuthLayer::new(origin, exchange))
        .service(network);
    Ok(Router::new()
        .route("/report", get(report))
        .layer(TokenValidatorLayer::new(validator))
        // A route that is added after the layer is open to everybody.
        .route("/health", get(async || "up"))
        .with_state(HttpClient::new(backend)))
}

async fn report(
    State(backend): State<HttpClient>,
    caller: Identity,
) -> Result<Response<Body>, AuthError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "https://backend.example.com/".parse().map_err(failed)?;
    request.extensions_mut().insert(caller);
    backend.oneshot(request).await.map_err(failed)
}

/// Finds the `AuthError` in the error of a stack. Any other error means that the backend was not reached.
fn failed(error: impl Into<BoxError>) -> AuthError {
    let error = error.into();
    match AuthError::find_in(&*error) {
        Some(error) => error.clone(),
        None => AuthError::new(AuthErrorKind::Unavailable, "the backend cannot be reached")
            .with_source(error),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let issuer = TestIssuer::new("https://idp.example.com");
    let backend = Router::new()
        .route("/", get(show))
        .with_state(issuer.clone());
    let network = TestNetwork::new()
        .issuer(&issuer)
        .host("https://backend.example.com", backend);
    let api = api(network)?;

    let token = issuer.token("alice").audience("https://api.example.com");
    let authorization = format!("Bearer {}", token.sign());
    for (path, authorization) in [
        ("/health", None),
        ("/report", None),
        ("/report", Some(authorization)),
    ] {
        let mut request = Request::get(path);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = api.clone().oneshot(request.body(Body::empty())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// The backend: it shows whose token it got, and for whom the token is.
async fn show(State(issuer): State<TestIssuer>, headers: HeaderMap) -> String {
    let authorization = headers.get(AUTHORIZATION);
    let token = authorization.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let claims = token
        .and_then(|token| issuer.claims(token))
        .unwrap_or_default();
    let claim = |name: &str| claims.get(name).cloned().unwrap_or(Value::Null);
    format!(
        "the backend got a token of {} for {}",
        claim("sub"),
        claim("aud")
    )
}

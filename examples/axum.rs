//! A protected API on axum, which calls a backend with a token that is exchanged for its caller's.
//!
//! ```sh
//! cargo run --all-features --example axum
//! ```
//!
//! The issuer and the backend are fakes in this process. The program calls its own API and prints the answers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Request, Response, header::AUTHORIZATION},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt, Full};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::json;
use tokio::net::TcpListener;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, Identity, KeySet, Origin, TokenEndpoint, TokenExchange,
    TokenValidator, TokenValidatorLayer, client::hyper::https_client,
};

const ISSUER: &str = "https://idp.example.com";
const AUDIENCE: &str = "https://api.example.com";

type Client = BoxCloneSyncService<Request<Body>, Response<hyper::body::Incoming>, BoxError>;

#[derive(Clone)]
struct Backend {
    url: String,
    client: Client,
}

fn api(keys: KeySet, backend: Backend) -> Result<Router, BoxError> {
    let validator = TokenValidator::builder_with_keys(ISSUER, keys).audience(AUDIENCE);
    Ok(Router::new()
        .route("/report", get(report))
        .layer(TokenValidatorLayer::new(validator.build()?))
        // A route that is added after the layer is open to everybody.
        .route("/health", get(async || "up"))
        .with_state(backend))
}

async fn report(State(backend): State<Backend>, caller: Identity) -> Result<String, AuthError> {
    let subject = caller.subject().to_owned();
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = backend.url.parse().map_err(unreachable)?;
    request.extensions_mut().insert(caller);
    let response = backend.client.oneshot(request).await.map_err(auth_error)?;
    let answer = response.into_body().collect().await.map_err(unreachable)?;
    let answer = String::from_utf8_lossy(&answer.to_bytes()).into_owned();
    Ok(format!("{subject}'s report: {answer}"))
}

/// Finds the `AuthError` in the error of a stack. Any other error means that the backend was not reached.
fn auth_error(error: BoxError) -> AuthError {
    match AuthError::find_in(&*error) {
        Some(error) => error.clone(),
        None => unreachable(error),
    }
}

fn unreachable(error: impl Into<BoxError>) -> AuthError {
    AuthError::new(AuthErrorKind::Unavailable, "the backend cannot be reached").with_source(error)
}

fn backend_client(address: SocketAddr) -> Result<Client, BoxError> {
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", service_fn(exchange));
    let exchange = TokenExchange::builder(endpoint.build()?)
        .audience("backend")
        .build()?;
    let origin = Origin::try_from(format!("http://{address}"))?;
    let client = ServiceBuilder::new()
        .layer(AuthLayer::new(origin, exchange))
        .service(https_client::<Body>()?);
    Ok(BoxCloneSyncService::new(client))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let issuer = KeyPair::generate_for(&PKCS_ED25519)?;
    let show =
        async |headers: HeaderMap| format!("the backend saw {:?}", headers.get(AUTHORIZATION));
    let address = serve(Router::new().route("/", get(show))).await?;
    let backend = Backend {
        url: format!("http://{address}/"),
        client: backend_client(address)?,
    };
    let api = serve(api(keys(&issuer)?, backend)?).await?;

    let client = https_client::<Body>()?;
    for (path, token) in [
        ("health", None),
        ("report", None),
        ("report", Some(token(&issuer, "alice")?)),
    ] {
        let mut request = Request::get(format!("http://{api}/{path}"));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = client.clone().oneshot(request.body(Body::empty())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("/{path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

async fn serve(router: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, router).await });
    Ok(address)
}

/// The issuer's token endpoint. A real one issues a token for the backend to a client that it knows.
async fn exchange(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = json!({
        "access_token": "exchanged-for-the-callers", "token_type": "Bearer", "expires_in": 3600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    Ok(Response::new(Full::from(answer.to_string())))
}

fn keys(issuer: &KeyPair) -> Result<KeySet, BoxError> {
    let x = URL_SAFE_NO_PAD.encode(issuer.public_key_raw());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] });
    Ok(KeySet::from_json(keys.to_string())?)
}

fn token(issuer: &KeyPair, subject: &str) -> Result<String, BoxError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({ "iss": ISSUER, "sub": subject, "aud": AUDIENCE, "exp": now + 600 });
    let header = json!({ "alg": "EdDSA", "typ": "at+jwt" });
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signature = issuer.sign(format!("{header}.{claims}").as_bytes())?;
    Ok(format!(
        "{header}.{claims}.{}",
        URL_SAFE_NO_PAD.encode(signature)
    ))
}

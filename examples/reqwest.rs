//! A `reqwest::Client` beneath the layers, with the headers that the backend wants besides the credential.
//!
//! ```sh
//! cargo run --all-features --example reqwest
//! ```
//!
//! The backend is started here, on loopback, and prints what it sees.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, HeaderForwardLayer, Identity, IdentityLayer, Origin, UpstreamInject,
    UpstreamToken, client::reqwest::ReqwestService,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backend = start_backend().await?;
    let origin = Origin::try_from(format!("http://{backend}"))?;

    let forward = HeaderForwardLayer::builder(origin.clone())
        .header("x-api-version", "2")
        .capture("x-tenant")
        .build()?;
    // `new` switches redirects off. The client would follow them beneath the layers, with the credential.
    let http_client =
        ReqwestService::new(reqwest::Client::builder().connect_timeout(Duration::from_secs(10)))?;
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(identity("token-at-login")?))
        .layer(forward.clone())
        .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
        .service(http_client);

    // The headers of an incoming request. Only `x-tenant` is passed on.
    let mut incoming = HeaderMap::new();
    incoming.insert("x-tenant", HeaderValue::from_static("blue"));
    incoming.insert("cookie", HeaderValue::from_static("session=1"));

    let mut request = Request::post(format!("http://{backend}/mcp")).body(String::from("{}"))?;
    request
        .extensions_mut()
        .insert(identity("token-refreshed")?);
    request.extensions_mut().insert(forward.captured(&incoming));
    let response = client.oneshot(request).await?;
    println!("the client got: {}", response.status());
    Ok(())
}

/// Stands in for the identity that a validator makes of an incoming request, with fresh tokens.
fn identity(github_token: &str) -> Result<Identity, BoxError> {
    let github = UpstreamToken::new(AccessToken::new(github_token)?);
    Ok(Identity::builder("user-1")
        .upstream("github", github)
        .build()?)
}

async fn start_backend() -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer));
            tokio::spawn(connection);
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    println!(
        "the backend saw: {} {:#?}",
        request.method(),
        request.headers()
    );
    Ok(Response::default())
}

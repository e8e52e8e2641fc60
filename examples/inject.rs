//! The smallest complete program: each request to a backend leaves with its own user's token.
//!
//! ```sh
//! cargo run --all-features --example inject
//! ```
//!
//! The backend is started here, on loopback, and prints what it sees.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, FallbackPolicy, Identity, IdentityLayer, Origin, UpstreamInject,
    UpstreamToken, client::hyper::https_client,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backend = start_backend().await?;

    // One session, opened with the identity that the user had at login.
    let session =
        IdentityLayer::new(identity("token-at-login")?).fallback(FallbackPolicy::teardown());
    let origin = Origin::try_from(format!("http://{backend}"))?;
    let mut client = ServiceBuilder::new()
        .layer(session)
        .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
        .service(https_client::<Full<Bytes>>()?);

    // Hours later, a request carries a refreshed token. The request's identity wins.
    let mut call = Request::post(format!("http://{backend}/mcp")).body(Full::from("{}"))?;
    call.extensions_mut().insert(identity("token-refreshed")?);
    client.ready().await?.call(call).await?;

    // The teardown carries no identity, so the session's fills the gap.
    let teardown = Request::delete(format!("http://{backend}/mcp")).body(Full::default())?;
    client.ready().await?.call(teardown).await?;

    // A credential is for one origin. A request for another fails, and is not sent.
    let elsewhere = Request::delete("http://127.0.0.1:9/mcp").body(Full::default())?;
    if let Err(error) = client.ready().await?.call(elsewhere).await {
        println!("the client refused: {error}");
    }
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
    let authorization = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    println!("the backend saw: {} {authorization:?}", request.method());
    Ok(Response::default())
}

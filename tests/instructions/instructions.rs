//! Runs one scenario a number of times, for `.ci/instructions.py`, which counts its instructions with valgrind.
//!
//! Unlike a time, the count is the same in each run and on a busy machine, so that it can fail the build. Every scenario
//! includes building the request and dropping it.
//!
//! ```text
//! .ci/instructions.py
//! ```

use std::{
    convert::Infallible,
    env,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Service, ServiceBuilder, service_fn};
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, Origin, Strategy, TokenEndpoint,
    TokenExchange, UpstreamInject, UpstreamToken,
};

type Body = Full<Bytes>;

/// Stands for the HTTP client: takes the request and answers at once.
#[derive(Clone)]
struct Bare;

impl Service<Request<Body>> for Bare {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(())))
    }
}

fn identity(upstream_token: &str) -> Result<Identity, BoxError> {
    let upstream = UpstreamToken::new(AccessToken::new(upstream_token)?)
        .with_expires_at(SystemTime::now() + Duration::from_secs(3600));
    let identity = Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("eyJhbGciOiJFUzI1NiJ9")?)
        .upstream("github", upstream);
    Ok(identity.build()?)
}

/// A request as an MCP client sends it.
fn request(identity: Option<&Identity>) -> Result<Request<Body>, http::Error> {
    let mut request = Request::post("https://mcp.example.com/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::from(Bytes::from_static(b"{}")))?;
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity.clone());
    }
    Ok(request)
}

fn layers<A: Strategy<Body> + Clone>(
    session: Option<Identity>,
    strategy: A,
) -> Result<impl Service<Request<Body>, Response = Response<()>>, BoxError> {
    let origin = Origin::try_from("https://mcp.example.com")?;
    Ok(ServiceBuilder::new()
        .layer(IdentityLayer::new(session))
        .layer(AuthLayer::new(origin, strategy))
        .service(Bare))
}

fn exchange() -> Result<TokenExchange, BoxError> {
    let issuer = service_fn(async |_: Request<Body>| {
        let answer = r#"{"access_token":"exchanged","token_type":"Bearer","expires_in":43200,
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#;
        Ok::<_, Infallible>(Response::new(Body::from(answer)))
    });
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer).build()?;
    let exchange = TokenExchange::builder(endpoint).audience("mcp-backend");
    Ok(exchange.build()?)
}

fn run<S>(times: usize, identity: Option<&Identity>, mut service: S) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<()>>,
{
    for _ in 0..times {
        let answered = service.call(request(identity)?).now_or_never();
        assert!(black_box(answered).is_some_and(|answer| answer.is_ok()));
    }
    Ok(())
}

fn main() -> Result<(), BoxError> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [scenario, times] = &*arguments else {
        return Err("give a scenario and how many times it runs".into());
    };
    let times = times.parse()?;
    let fresh = identity("gho_16C7e42F292c6912E7710c838347Ae178B4a")?;
    let session = Some(identity("gho_0000000000000000000000000000000000")?);
    let inject = UpstreamInject::new("github")?;
    match scenario.as_str() {
        "bare" => run(times, Some(&fresh), Bare),
        "inject" => run(times, Some(&fresh), layers(session, inject)?),
        "fallback" => run(times, None, layers(session, inject)?),
        "cache_hit" => {
            let exchange = exchange()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            runtime.block_on(async {
                let mut request = request(Some(&fresh))?;
                let authenticating = exchange.authenticate(&mut request);
                authenticating.complete(request).await?;
                Ok::<_, BoxError>(())
            })?;
            run(times, Some(&fresh), layers(None, exchange)?)
        }
        other => Err(format!("no scenario is called {other}").into()),
    }
}

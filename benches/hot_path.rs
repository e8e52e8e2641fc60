//! What the layers cost on each request, beside the hand-written minimum and tower-http's simplest layer.
//!
//! Ratios of medians from one run are what counts. Building the request is not timed; dropping it is, in every row.
//!
//! ```text
//! GLIBC_TUNABLES=glibc.malloc.tcache_count=4096 taskset -c 1 cargo bench --bench hot_path
//! ```

mod support;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder};
use tower_http::set_header::SetRequestHeaderLayer;
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, Origin, Strategy, UpstreamInject,
    UpstreamToken,
};

use support::Bare;

type Body = Full<Bytes>;

/// What somebody would write by hand, without any check of the origin.
#[derive(Clone)]
struct Minimum<S> {
    inner: S,
    session: Option<Identity>,
}

impl<S> Service<Request<Body>> for Minimum<S>
where
    S: Service<Request<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.extensions().get::<Identity>().is_none()
            && let Some(session) = &self.session
        {
            request.extensions_mut().insert(session.clone());
        }
        let authorization = request
            .extensions()
            .get::<Identity>()
            .and_then(|identity| identity.upstream("github"))
            .filter(|token| token.expires_at().is_none_or(|at| at > SystemTime::now()))
            .map(|token| token.access_token().authorization().clone());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        self.inner.call(request)
    }
}

fn identity(token: &str) -> Identity {
    let token = UpstreamToken::new(AccessToken::new(token).unwrap())
        .with_expires_at(SystemTime::now() + Duration::from_secs(3600));
    Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .upstream("github", token)
        .build()
        .unwrap()
}

/// A request as an MCP client sends it.
fn request() -> Request<Body> {
    Request::post("https://mcp.example.com/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::from(Bytes::from_static(b"{}")))
        .unwrap()
}

fn layers<A>(
    session: Option<Identity>,
    strategy: A,
) -> impl Service<Request<Body>, Response = Response<()>>
where
    A: Strategy<Body> + Clone,
{
    ServiceBuilder::new()
        .layer(IdentityLayer::new(session))
        .layer(AuthLayer::new(
            Origin::try_from("https://mcp.example.com").unwrap(),
            strategy,
        ))
        .service(Bare)
}

fn row<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    identity: Option<Identity>,
    mut service: S,
) where
    S: Service<Request<Body>, Response = Response<()>>,
{
    let setup = || {
        let mut request = request();
        if let Some(identity) = identity.clone() {
            request.extensions_mut().insert(identity);
        }
        request
    };
    group.bench_function(id, |bencher| {
        bencher.iter_batched(
            setup,
            |request| {
                service
                    .call(request)
                    .now_or_never()
                    .map(|response| response.is_ok())
            },
            // More at once would overflow the allocator's thread cache, and the noise would hide the difference.
            BatchSize::NumIterations(16),
        );
    });
}

fn hot_path(criterion: &mut Criterion) {
    let fresh = identity("gho_16C7e42F292c6912E7710c838347Ae178B4a");
    let at_log_in = identity("gho_0000000000000000000000000000000000");
    let inject = UpstreamInject::new("github").unwrap();
    let shared: Arc<dyn Strategy<Body>> = Arc::new(inject.clone());
    let fixed =
        SetRequestHeaderLayer::overriding(AUTHORIZATION, HeaderValue::from_static("Bearer fixed"));
    let on_request = Some(fresh);
    let session = Some(at_log_in);

    let mut group = criterion.benchmark_group("hot_path");
    row(&mut group, "bare", on_request.clone(), Bare);
    let minimum = Minimum {
        inner: Bare,
        session: session.clone(),
    };
    row(&mut group, "minimum", on_request.clone(), minimum.clone());
    row(
        &mut group,
        "layers_static",
        on_request.clone(),
        layers(session.clone(), inject.clone()),
    );
    row(
        &mut group,
        "layers_dyn",
        on_request.clone(),
        layers(session.clone(), shared),
    );
    row(&mut group, "fallback_minimum", None, minimum);
    row(&mut group, "fallback_layers", None, layers(session, inject));
    row(
        &mut group,
        "tower_http_set_header",
        on_request,
        fixed.layer(Bare),
    );
    group.finish();
}

criterion_group!(benches, hot_path);
criterion_main!(benches);

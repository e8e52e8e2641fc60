//! The whole way of a request, in one process: the caller is validated, their upstream tokens are refreshed, and the MCP
//! backend sees the fresh one on the very next call (stacklok/toolhive#5323, #5334).
#![cfg(all(feature = "incoming", feature = "rmcp"))]

mod support;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use rmcp::{
    RoleClient, ServiceExt as _,
    model::CallToolRequestParams,
    service::RunningService,
    transport::{
        StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use support::{
    identity_provider::{AUDIENCE, IdentityProvider, P256, client, some_day},
    mcp_backend::McpBackend,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt as _, layer::layer_fn, util::BoxCloneService,
};
use tower_identity::{
    AccessToken, AuthLayer, Clock, Identity, IdentityLayer, ManualClock, MemoryStore, Secret,
    TokenValidator, TokenValidatorLayer, UpstreamInject, UpstreamToken, UpstreamTokenStore,
    UpstreamTokens,
    client::rmcp::{SendAs, TowerHttpClient},
    upstream::{Provider, ProviderTokens, Refreshed, Refresher, TokenOwner, UpstreamFuture},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Turns `refresh-1` into `upstream-2` and `refresh-2`, and so on, and no refresh token twice.
#[derive(Clone, Debug, Default)]
struct ScriptedRefresher {
    spent: Arc<AtomicUsize>,
}

impl Refresher for ScriptedRefresher {
    fn refresh(
        &self,
        tokens: &ProviderTokens,
        now: SystemTime,
    ) -> UpstreamFuture<'static, Refreshed> {
        let spent = self.spent.fetch_add(1, Ordering::SeqCst) + 1;
        let sent = tokens.refresh_token().unwrap().expose().to_owned();
        assert_eq!(sent, format!("refresh-{spent}"), "spent twice, or lost");
        let issued = issued(spent + 1, now);
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(issued.into())
        })
    }
}

fn issued(number: usize, now: SystemTime) -> ProviderTokens {
    let token = AccessToken::new(format!("upstream-{number}")).unwrap();
    let token = UpstreamToken::new(token).with_expires_at(now + HOUR);
    let refresh_token = Secret::new(format!("refresh-{number}")).unwrap();
    ProviderTokens::new(token, now).with_refresh_token(refresh_token)
}

/// The bug: the identity that was captured when the session was opened replaces each fresh one.
#[derive(Clone)]
struct SnapshotWins<S> {
    inner: S,
    snapshot: Identity,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for SnapshotWins<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.snapshot.clone());
        self.inner.call(request)
    }
}

/// A gateway with one MCP session to its backend.
struct World {
    clock: Arc<ManualClock>,
    issuer: IdentityProvider,
    refresher: ScriptedRefresher,
    validator: TokenValidator,
    backend: McpBackend,
}

type Gateway = BoxCloneService<Request<()>, Response<Full<Bytes>>, Infallible>;
type Session = RunningService<RoleClient, ()>;

impl World {
    /// The user has logged in.
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(some_day()));
        let issuer = IdentityProvider::start(P256).await;
        let refresher = ScriptedRefresher::default();
        let store = MemoryStore::new();
        let at_log_in = issued(1, some_day());
        let alice = TokenOwner::new(issuer.issuer(), "alice").unwrap();
        store.put(&alice, "github", &at_log_in).await.unwrap();
        let github = Provider::builder("github", refresher.clone())
            .build()
            .unwrap();
        let upstream = UpstreamTokens::new(store, [github]).clock(clock.clone());
        let validator = TokenValidator::builder(issuer.issuer(), client())
            .audience(AUDIENCE)
            .clock(clock.clone())
            .upstream_tokens(upstream)
            .build()
            .unwrap();
        let backend = McpBackend::start().await;
        backend.accept_only(["upstream-1"]);
        Self {
            clock,
            issuer,
            refresher,
            validator,
            backend,
        }
    }

    /// What the user's client sends: a token of its own that is good for ten minutes.
    fn request(&self) -> Request<()> {
        let claims = self.issuer.claims("alice", self.clock.now());
        let token = P256.sign(&P256.header(), &claims);
        let mut request = Request::new(());
        let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, authorization);
        request
    }

    /// Opens the MCP session for the user, as they are now, over what `identity_layer` makes of the stack.
    async fn open<L>(&self, identity_layer: impl FnOnce(Identity) -> L) -> Session
    where
        L: Layer<tower_identity::outgoing::AuthService<HttpClient, UpstreamInject>>,
        L::Service: Service<Request<Full<Bytes>>, Response = Response<hyper::body::Incoming>>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request<Full<Bytes>>>>::Error: Into<tower::BoxError>,
        <L::Service as Service<Request<Full<Bytes>>>>::Future: Send,
    {
        let request = self.request();
        let token = request.headers()[AUTHORIZATION].to_str().unwrap();
        let token = token.strip_prefix("Bearer ").unwrap();
        let snapshot = self.validator.validate(token).await.unwrap();
        let inject = UpstreamInject::new("github").unwrap();
        let stack = ServiceBuilder::new()
            .layer(identity_layer(snapshot))
            .layer(AuthLayer::new(
                self.backend.origin(),
                inject.clock(self.clock.clone()),
            ))
            .service(client());
        let transport = StreamableHttpClientTransport::with_client(
            TowerHttpClient::new(stack),
            StreamableHttpClientTransportConfig::with_uri(self.backend.url()),
        );
        let session = ().serve(transport).await.unwrap();
        self.backend.wait_for("GET").await;
        session
    }

    /// The gateway: behind the validator, each request is one call of a tool of the backend.
    fn gateway(&self, session: &Session) -> Gateway {
        let peer = session.peer().clone();
        let forward = tower::service_fn(move |request: Request<()>| {
            assert!(!request.headers().contains_key(AUTHORIZATION));
            let identity = request.extensions().get::<Identity>().unwrap().clone();
            let peer = peer.clone();
            async move {
                let call = CallToolRequestParams::new("whoami");
                let body = match peer.call_tool_as(identity, call).await {
                    Ok(result) => result.content[0].as_text().unwrap().text.clone(),
                    Err(_) => "refused by the backend".to_owned(),
                };
                Ok(Response::new(Full::from(body)))
            }
        });
        let layer = TokenValidatorLayer::new(self.validator.clone());
        BoxCloneService::new(layer.layer(forward))
    }
}

type HttpClient = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    Full<Bytes>,
>;

async fn text(response: Response<Full<Bytes>>) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn f01_after_each_refresh_the_backend_sees_the_fresh_token_on_the_very_next_call() {
    let world = World::new().await;
    let session = world
        .open(|identity| IdentityLayer::new(identity).follow_requests())
        .await;
    let gateway = world.gateway(&session);

    let response = gateway.clone().oneshot(world.request()).await.unwrap();
    assert_eq!(text(response).await, "upstream-1");
    for hour in 2..=8 {
        world.clock.advance(HOUR);
        let fresh = format!("upstream-{hour}");
        world.backend.accept_only([&fresh]);
        let calls = (0..20).map(|_| gateway.clone().oneshot(world.request()));
        for response in join_all(calls).await {
            assert_eq!(text(response.unwrap()).await, fresh);
        }
        assert_eq!(world.refresher.spent.load(Ordering::SeqCst), hour - 1);
    }
    session.cancel().await.unwrap();

    let teardown = world.backend.wait_for("DELETE").await;
    assert_eq!(teardown.authorization(), ["Bearer upstream-8"]);
    let refused = world.backend.seen();
    let refused: Vec<_> = refused.iter().filter(|seen| !seen.accepted).collect();
    assert!(refused.is_empty(), "{refused:?}");
    world.backend.shutdown().await;
}

/// What the test above protects from: with this layer, it fails.
#[tokio::test]
async fn f01_a_layer_that_prefers_the_snapshot_would_be_refused_from_the_first_refresh_on() {
    let world = World::new().await;
    let session = world
        .open(|snapshot| {
            layer_fn(move |inner| SnapshotWins {
                inner,
                snapshot: snapshot.clone(),
            })
        })
        .await;
    let gateway = world.gateway(&session);

    let response = gateway.clone().oneshot(world.request()).await.unwrap();
    assert_eq!(text(response).await, "upstream-1");
    world.clock.advance(HOUR);
    world.backend.accept_only(["upstream-2"]);
    let response = gateway.oneshot(world.request()).await.unwrap();
    assert_eq!(text(response).await, "refused by the backend");
    world.backend.shutdown().await;
}

//! Calls that outlive the token that they were made with: on a real MCP server, in both eras of the protocol.
#![cfg(feature = "rmcp")]

mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rmcp::{
    ClientHandler, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, CallToolResult, ProgressNotificationParam, ProtocolVersion,
        SubscriptionFilter,
    },
    service::{ClientLifecycleMode, ClientServiceExt, NotificationContext, RunningService},
    transport::{
        StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};
use tower::Layer;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Clock, DefaultClock, Identity, IdentityLayer,
    ManualClock, UpstreamInject, UpstreamToken,
    client::rmcp::{SendAs, TowerHttpClient},
};

use support::mcp_backend::McpBackend;

const HOUR: Duration = Duration::from_secs(3600);
/// More than any step takes, and less than a test may.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Era {
    Session,
    Stateless,
}

struct World {
    clock: Arc<ManualClock>,
    backend: McpBackend,
    session: RunningService<RoleClient, Listener>,
    progress: UnboundedReceiver<()>,
}

impl World {
    /// A session of Alice, whose first token lives for an hour.
    async fn open(era: Era) -> Self {
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let _guard = DefaultClock::set(clock.clone());
        let backend = McpBackend::start().await;
        backend.accept_only(["token-1"]);
        let http = Client::builder(TokioExecutor::new()).build_http();
        let http: Client<HttpConnector, Full<Bytes>> = http;
        let auth = AuthLayer::new(backend.origin(), UpstreamInject::new("idp").unwrap());
        let identity = IdentityLayer::new(alice(&clock, "token-1")).follow_requests();
        let client = TowerHttpClient::new(identity.layer(auth.layer(http)));
        let config = StreamableHttpClientTransportConfig::with_uri(backend.url());
        let transport = StreamableHttpClientTransport::with_client(client, config);
        let lifecycle = match era {
            Era::Session => ClientLifecycleMode::Initialize,
            Era::Stateless => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
        };
        let (sender, progress) = unbounded_channel();
        let listener = Listener { progress: sender };
        let session = listener.serve_with_lifecycle(transport, lifecycle).await;
        Self {
            clock,
            backend,
            session: session.unwrap(),
            progress,
        }
    }

    /// A call that reports progress, and is under way.
    async fn hold(&mut self, token: &str) -> JoinHandle<Result<CallToolResult, ServiceError>> {
        let (peer, alice) = (self.session.peer().clone(), alice(&self.clock, token));
        let hold = CallToolRequestParams::new("hold");
        let held = tokio::spawn(async move { peer.call_tool_as(alice, hold).await });
        let progress = timeout(PATIENCE, self.progress.recv()).await;
        progress.expect("no progress").unwrap();
        held
    }

    /// An hour passes. The first token has expired, here and at the server, and the next one is in use.
    async fn token_expires(&self) {
        self.clock.advance(HOUR);
        self.backend.accept_only(["token-2"]);
        assert_eq!(self.whoami().await, "token-2");
    }

    async fn whoami(&self) -> String {
        let whoami = CallToolRequestParams::new("whoami");
        let alice = alice(&self.clock, "token-2");
        let result = timeout(PATIENCE, self.session.call_tool_as(alice, whoami)).await;
        text(result.unwrap())
    }

    async fn stream_with(&self, token: &str) {
        let is_reconnected = async {
            loop {
                let request = self.backend.wait_for("GET").await;
                if request.authorization() == [format!("Bearer {token}")] {
                    return request;
                }
                tokio::task::yield_now().await;
            }
        };
        let request = timeout(PATIENCE, is_reconnected).await;
        let request = request.expect("no stream with the fresh token");
        assert!(request.accepted);
    }
}

struct Listener {
    progress: UnboundedSender<()>,
}

impl ClientHandler for Listener {
    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        let _ = self.progress.send(());
    }
}

/// Alice with a token that expires in an hour.
fn alice(clock: &ManualClock, token: &str) -> Identity {
    let token = UpstreamToken::new(AccessToken::new(token).unwrap());
    Identity::builder("alice")
        .issuer("https://idp.example.com")
        .upstream("idp", token.with_expires_at(clock.now() + HOUR))
        .build()
        .unwrap()
}

fn text(result: Result<CallToolResult, ServiceError>) -> String {
    result.unwrap().content[0].as_text().unwrap().text.clone()
}

#[tokio::test]
async fn a_call_that_is_under_way_when_its_token_expires_gets_its_answer() {
    for era in [Era::Session, Era::Stateless] {
        let mut world = World::open(era).await;
        let held = world.hold("token-1").await;
        world.token_expires().await;
        world.backend.release();
        let result = timeout(PATIENCE, held).await.unwrap().unwrap();
        assert_eq!(text(result), "released", "{era:?}");
        world.backend.shutdown().await;
    }
}

#[tokio::test]
async fn a_call_whose_connection_breaks_after_that_is_resumed_with_the_fresh_token() {
    let mut world = World::open(Era::Session).await;
    let held = world.hold("token-1").await;
    world.token_expires().await;
    world.backend.cut_connections();
    world.stream_with("token-2").await;
    world.backend.release();
    let result = timeout(PATIENCE, held).await.unwrap().unwrap();
    assert_eq!(text(result), "released");
    world.backend.shutdown().await;
}

#[tokio::test]
async fn without_a_session_such_a_call_fails_and_is_made_again_with_the_fresh_token() {
    let mut world = World::open(Era::Stateless).await;
    let held = world.hold("token-1").await;
    world.token_expires().await;
    world.backend.cut_connections();
    let result = timeout(PATIENCE, held).await.unwrap().unwrap();
    result.unwrap_err();
    // With the token of old it is not sent at all.
    let expired = alice(&ManualClock::new(world.clock.now() - 2 * HOUR), "token-1");
    let hold = CallToolRequestParams::new("hold");
    let refused = world.session.call_tool_as(expired, hold).await.unwrap_err();
    let refused = AuthError::find_in(&refused).unwrap();
    assert_eq!(refused.kind(), AuthErrorKind::Expired);

    let held = world.hold("token-2").await;
    // The server does not know that nobody waits for the first one.
    world.backend.release();
    world.backend.release();
    let result = timeout(PATIENCE, held).await.unwrap().unwrap();
    assert_eq!(text(result), "released");
    world.backend.shutdown().await;
}

#[tokio::test]
async fn a_subscription_outlives_its_token_and_is_made_again_with_the_fresh_one() {
    let world = World::open(Era::Stateless).await;
    let mut filter = SubscriptionFilter::new();
    filter.tools_list_changed = Some(true);
    let listening = world.session.peer().listen(filter.clone());
    let mut subscription = timeout(PATIENCE, listening).await.unwrap().unwrap();
    world.token_expires().await;
    assert!(subscription.end().is_none());

    world.backend.cut_connections();
    let ended = timeout(PATIENCE, subscription.next()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    let again = timeout(PATIENCE, world.session.peer().listen(filter)).await;
    again.unwrap().unwrap();
    let listen = world.backend.wait_for("POST subscriptions/listen").await;
    assert_eq!(listen.authorization(), ["Bearer token-2"]);
    world.backend.shutdown().await;
}

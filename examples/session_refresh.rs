//! One MCP session that outlives its user's tokens: each call is sent with the newest token.
//!
//! ```sh
//! cargo run --all-features --example session_refresh
//! cargo run --all-features --example session_refresh -- --stale
//! ```
//!
//! A real MCP server, on loopback, accepts the token that is valid at the moment and no other. The token is refreshed
//! twice while the session goes on. `--stale` puts a wrong layer in place of `IdentityLayer`: the identity from login
//! always wins, and from the first refresh on the user gets a 401 to every call. The exit code is 0 if each line of the
//! timeline is as it should be.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rmcp::{
    ClientHandler, RoleClient, RoleServer, ServerHandler, ServiceExt,
    model::{CallToolRequestParams, ServerCapabilities, ServerConfig},
    service::{NotificationContext, Peer},
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpClientTransport, StreamableHttpService,
        streamable_http_client::StreamableHttpClientTransportConfig,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::timeout,
};
use tower::{BoxError, Service, ServiceBuilder, layer::layer_fn, util::Either};
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, Origin, UpstreamInject, UpstreamToken,
    client::{
        hyper::https_client,
        rmcp::{SendAs, TowerHttpClient},
    },
};

/// A request that must arrive at the server: its kind, its token, and the source of its identity.
const EXPECTED: [(&str, &str, &str); 9] = [
    ("POST initialize", "token-1", "fallback"),
    ("POST notifications/initialized", "token-1", "fallback"),
    ("GET", "token-1", "fallback"),
    ("POST tools/call", "token-1", "request"),
    ("POST tools/call", "token-2", "request"),
    ("POST tools/call", "token-2", "request"),
    ("POST tools/call", "token-3", "request"),
    ("POST tools/call", "token-3", "request"),
    ("DELETE", "token-3", "fallback"),
];

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let stale = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--stale") => true,
        Some(other) => {
            return Err(format!("unknown argument `{other}`: there is only `--stale`").into());
        }
    };
    let backend = Backend::default();
    let address = backend.start().await?;

    // The user logs in, and the gateway opens a session to the backend.
    backend.accept_only("token-1");
    let at_log_in = identity("token-1")?;
    let session = IdentityLayer::new(at_log_in.clone()).follow_requests();
    let session = match stale {
        false => Either::Left(session),
        true => Either::Right(layer_fn(move |inner| SnapshotWins {
            inner,
            snapshot: at_log_in.clone(),
        })),
    };
    let stack = ServiceBuilder::new()
        .map_request(note_source)
        .layer(session)
        .layer(AuthLayer::new(
            Origin::try_from(format!("http://{address}"))?,
            UpstreamInject::new("github")?,
        ))
        .service(https_client::<Full<Bytes>>()?);
    let transport = StreamableHttpClientTransport::with_client(
        TowerHttpClient::new(stack),
        StreamableHttpClientTransportConfig::with_uri(format!("http://{address}/mcp")),
    );
    let events = Events::default();
    let client = events.clone().serve(transport).await?;
    backend.wait_for_event_stream().await?;

    // Each incoming request brings an identity with the newest token.
    call(&client, "token-1").await?;
    for refreshed in ["token-2", "token-3"] {
        backend.accept_only(refreshed);
        call(&client, refreshed).await?;
        call(&client, refreshed).await?;
    }
    let stream_is_alive = backend.reaches(&events).await;
    client.cancel().await?;

    let timeline_is_right = backend.print_timeline();
    println!();
    match stream_is_alive {
        true => println!("The event stream that was opened at log-in was alive at the end."),
        false => println!("WRONG: the event stream that was opened at log-in was dead at the end."),
    }
    match timeline_is_right {
        true => println!("Each request went out with the token of the moment."),
        false => {
            println!("WRONG: the backend was sent stale tokens; the user has to log in again.")
        }
    }
    Ok(ExitCode::from(u8::from(
        !(stream_is_alive && timeline_is_right),
    )))
}

/// Stands in for the identity that a validator makes of an incoming request, after it refreshed the user's tokens.
fn identity(github_token: &str) -> Result<Identity, BoxError> {
    let github = UpstreamToken::new(AccessToken::new(github_token)?);
    Ok(Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .upstream("github", github)
        .build()?)
}

/// A refused call is what this example is about: the timeline shows it.
async fn call(client: &Peer<RoleClient>, token: &str) -> Result<(), BoxError> {
    let ping = CallToolRequestParams::new("ping");
    if let Err(error) = client.call_tool_as(identity(token)?, ping).await {
        // The SDK's text begins with the type of the whole stack.
        let error = error.to_string();
        let reason = error.rsplit("error: ").next().unwrap_or_default();
        println!("A call of the user failed: {reason}");
    }
    Ok(())
}

/// Tells the server, for its timeline, whether the request came with an identity.
fn note_source(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let source = match request.extensions().get::<Identity>() {
        Some(_) => "request",
        None => "fallback",
    };
    request
        .headers_mut()
        .insert("x-identity-from", HeaderValue::from_static(source));
    request
}

/// The bug: the identity that was captured at login replaces each fresh one.
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

/// The client's side of the event stream: it hears that the list of tools has changed.
#[derive(Clone, Default)]
struct Events {
    heard: Arc<Notify>,
}

impl ClientHandler for Events {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.heard.notify_one();
    }
}

/// A real MCP server, which keeps a timeline of what arrives.
#[derive(Clone, Default)]
struct Backend {
    valid: Arc<Mutex<String>>,
    timeline: watch::Sender<Vec<Arrival>>,
    peers: Arc<Mutex<Vec<Peer<RoleServer>>>>,
}

#[derive(Clone)]
struct Arrival {
    sent: String,
    token: String,
    source: String,
    status: StatusCode,
}

#[tool_router]
impl Backend {
    #[tool(description = "Answers pong")]
    async fn ping(&self) -> String {
        "pong".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Backend {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_tools()
                .enable_tool_list_changed()
                .build(),
        )
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        lock(&self.peers).push(context.peer);
    }
}

impl Backend {
    async fn start(&self) -> Result<SocketAddr, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tools = self.clone();
        let sessions = Arc::new(LocalSessionManager::default());
        let mcp =
            StreamableHttpService::new(move || Ok(tools.clone()), sessions, Default::default());
        let backend = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (backend, mcp) = (backend.clone(), mcp.clone());
                let service =
                    service_fn(move |request| backend.clone().answer(request, mcp.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Ok(address)
    }

    /// From now on this token is valid, and no other.
    fn accept_only(&self, token: &str) {
        *lock(&self.valid) = token.to_owned();
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        mcp: Mcp,
    ) -> Result<Response<Body>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let header = |name| {
            head.headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("none")
        };
        let token = header("authorization")
            .trim_start_matches("Bearer ")
            .to_owned();
        let valid = token == *lock(&self.valid);
        let arrival = Arrival {
            sent: format!("{} {}", head.method, json_rpc_method(&body))
                .trim_end()
                .to_owned(),
            source: header("x-identity-from").to_owned(),
            status: if valid {
                StatusCode::OK
            } else {
                StatusCode::UNAUTHORIZED
            },
            token,
        };
        self.timeline.send_modify(|timeline| timeline.push(arrival));
        if valid {
            return Ok(mcp.handle(Request::from_parts(head, Full::new(body))).await);
        }
        let mut refusal = Response::new(Body::default());
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        refusal.headers_mut().insert(
            "www-authenticate",
            HeaderValue::from_static("Bearer error=\"invalid_token\""),
        );
        Ok(refusal)
    }

    async fn wait_for_event_stream(&self) -> Result<(), BoxError> {
        let mut timeline = self.timeline.subscribe();
        let opened =
            timeline.wait_for(|timeline| timeline.iter().any(|arrival| arrival.sent == "GET"));
        timeout(Duration::from_secs(10), opened).await??;
        Ok(())
    }

    /// Sends an event on the stream that was opened at login, and returns whether it arrived.
    async fn reaches(&self, events: &Events) -> bool {
        let peers = lock(&self.peers).clone();
        for peer in peers {
            if peer.notify_tool_list_changed().await.is_err() {
                return false;
            }
        }
        timeout(Duration::from_secs(10), events.heard.notified())
            .await
            .is_ok()
    }

    /// Prints what arrived, and says whether all of it was as it should be.
    fn print_timeline(&self) -> bool {
        let timeline = self.timeline.borrow();
        let mut right = timeline.len() == EXPECTED.len();
        println!(
            "{:<32}{:<10}{:<10}{:<6}",
            "what the client sent", "whose", "from the", "answer"
        );
        for (at, arrival) in timeline.iter().enumerate() {
            let Arrival {
                sent,
                token,
                source,
                status,
            } = arrival;
            let as_expected = *status == StatusCode::OK
                && EXPECTED
                    .get(at)
                    .is_some_and(|&expected| expected == (sent, token, source));
            let verdict = if as_expected { "" } else { "WRONG" };
            println!(
                "{sent:<32}{token:<10}{source:<10}{:<6}{verdict}",
                status.as_u16()
            );
            right &= as_expected;
        }
        right
    }
}

type Mcp = StreamableHttpService<Backend, LocalSessionManager>;
type Body = BoxBody<Bytes, Infallible>;

fn json_rpc_method(body: &[u8]) -> String {
    let message: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    message["method"].as_str().unwrap_or_default().to_owned()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

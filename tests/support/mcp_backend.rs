//! [`McpBackend`]: a real MCP server on a real socket, that says whose token it saw.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
    request::Parts,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rmcp::{
    RoleServer, ServerHandler,
    handler::server::tool::Extension,
    model::{ProgressNotificationParam, ServerCapabilities, ServerConfig, SubscriptionFilter},
    service::{NotificationContext, Peer, RequestContext},
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};
use tower_identity::Origin;

/// A streamable HTTP server with sessions, which refuses every token that is not valid at the moment.
///
/// | tool | what it does |
/// | --- | --- |
/// | `whoami` | returns the bearer token of this very request |
/// | `hold` | reports progress, and keeps its response stream open until [`release`](Self::release) |
///
/// Since 2026-07-28 a client can also listen for changes of the list of tools.
pub(crate) struct McpBackend {
    address: SocketAddr,
    state: Arc<State>,
    sessions: Arc<LocalSessionManager>,
    config: StreamableHttpServerConfig,
    accepting: JoinHandle<()>,
}

type Http = StreamableHttpService<Tools, LocalSessionManager>;
type Body = BoxBody<Bytes, Infallible>;

/// A request as it arrived, refused ones included.
#[derive(Clone, Debug)]
pub(crate) struct SeenRequest {
    pub(crate) method: Method,
    /// The method of the JSON-RPC message, if the body is one that has a method.
    pub(crate) rpc: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) accepted: bool,
}

impl SeenRequest {
    /// `POST tools/call`, `GET`, `DELETE`.
    pub(crate) fn name(&self) -> String {
        match &self.rpc {
            Some(rpc) => format!("{} {rpc}", self.method),
            None => self.method.to_string(),
        }
    }

    /// All values of `Authorization`: there should be one.
    pub(crate) fn authorization(&self) -> Vec<&str> {
        let values = self.headers.get_all(AUTHORIZATION).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    pub(crate) fn session_id(&self) -> Option<&str> {
        Some(self.headers.get("mcp-session-id")?.to_str().unwrap())
    }
}

impl McpBackend {
    /// Starts on a free port of 127.0.0.1. No token is valid yet.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::new());
        let sessions = Arc::new(LocalSessionManager::default());
        // A client whose stream broke off comes back soon.
        let retry = Some(Duration::from_millis(10));
        let config = StreamableHttpServerConfig::default().with_sse_retry(retry);
        let tools = Tools {
            state: state.clone(),
        };
        let tools = move || Ok(tools.clone());
        let http = StreamableHttpService::new(tools, sessions.clone(), config.clone());
        let accepting = tokio::spawn(accept(listener, state.clone(), http));
        Self {
            address,
            state,
            sessions,
            config,
            accepting,
        }
    }

    /// Where a client connects to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The origin that a credential for this backend is bound to.
    pub(crate) fn origin(&self) -> Origin {
        Origin::try_from(format!("http://{}", self.address)).unwrap()
    }

    /// From now on these tokens are valid, and no other.
    pub(crate) fn accept_only<const N: usize>(&self, tokens: [&str; N]) {
        let tokens = tokens.map(|token| format!("Bearer {token}"));
        *self.state.valid.lock().unwrap() = HashSet::from(tokens);
    }

    /// From now on a request needs no token.
    pub(crate) fn accept_anyone(&self) {
        self.state.is_open.store(true, Ordering::SeqCst);
    }

    /// Every request so far, in the order of arrival.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        self.state.seen.borrow().clone()
    }

    /// Waits until a request of this [name](SeenRequest::name) has arrived, and returns the last one.
    pub(crate) async fn wait_for(&self, name: &str) -> SeenRequest {
        let last = |seen: &[SeenRequest]| seen.iter().rfind(|seen| seen.name() == name).cloned();
        let mut seen = self.state.seen.subscribe();
        let seen = seen.wait_for(|seen| last(seen).is_some()).await.unwrap();
        last(&seen).unwrap()
    }

    /// Forgets all sessions: the next request of any of them is answered with 404.
    pub(crate) async fn drop_sessions(&self) {
        let sessions = std::mem::take(&mut *self.sessions.sessions.write().await);
        for session in sessions.into_values() {
            session.close().await.unwrap();
        }
        self.state.peers.lock().unwrap().clear();
    }

    /// Tells every session, on its standalone event stream, that the list of tools has changed.
    pub(crate) async fn notify(&self) {
        let peers = self.state.peers.lock().unwrap().clone();
        for peer in peers {
            peer.notify_tool_list_changed().await.unwrap();
        }
    }

    /// Breaks all connections, as a proxy does that limits their time. Sessions stay.
    pub(crate) fn cut_connections(&self) {
        self.state.cuts.notify_one();
    }

    /// Lets one call of `hold` end.
    pub(crate) fn release(&self) {
        self.state.released.add_permits(1);
    }

    /// Ends all sessions and connections, and waits until they have ended.
    pub(crate) async fn shutdown(self) {
        self.config.cancellation_token.cancel();
        self.accepting.abort();
        assert!(self.accepting.await.unwrap_err().is_cancelled());
    }
}

struct State {
    valid: Mutex<HashSet<String>>,
    is_open: AtomicBool,
    seen: watch::Sender<Vec<SeenRequest>>,
    peers: Mutex<Vec<Peer<RoleServer>>>,
    released: Semaphore,
    cuts: Notify,
}

async fn accept(listener: TcpListener, state: Arc<State>, http: Http) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            () = state.cuts.notified() => {
                connections.shutdown().await;
                continue;
            }
        };
        let (state, http) = (state.clone(), http.clone());
        let service = service_fn(move |request| answer(request, state.clone(), http.clone()));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
    http: Http,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = SeenRequest {
        rpc: json_rpc_method(&body),
        accepted: state.accepts(&head.headers),
        method: head.method.clone(),
        headers: head.headers.clone(),
    };
    let accepted = seen.accepted;
    state.seen.send_modify(|all| all.push(seen));
    if !accepted {
        return Ok(refusal());
    }
    Ok(http
        .handle(Request::from_parts(head, Full::new(body)))
        .await)
}

fn json_rpc_method(body: &[u8]) -> Option<String> {
    let message: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(message.get("method")?.as_str()?.to_owned())
}

fn refusal() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(
        WWW_AUTHENTICATE,
        HeaderValue::from_static(r#"Bearer error="invalid_token""#),
    );
    response
}

impl State {
    fn new() -> Self {
        Self {
            valid: Mutex::default(),
            is_open: AtomicBool::new(false),
            seen: watch::Sender::default(),
            peers: Mutex::default(),
            released: Semaphore::new(0),
            cuts: Notify::new(),
        }
    }

    fn accepts(&self, headers: &HeaderMap) -> bool {
        if self.is_open.load(Ordering::SeqCst) {
            return true;
        }
        let mut credentials = headers.get_all(AUTHORIZATION).iter();
        match (credentials.next(), credentials.next()) {
            (Some(credential), None) => {
                let valid = self.valid.lock().unwrap();
                credential.to_str().is_ok_and(|text| valid.contains(text))
            }
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Tools {
    state: Arc<State>,
}

#[tool_router]
impl Tools {
    #[tool(description = "Returns the bearer token of this request")]
    async fn whoami(&self, Extension(head): Extension<Parts>) -> String {
        let credential = head.headers[AUTHORIZATION].to_str().unwrap();
        credential.strip_prefix("Bearer ").unwrap().to_owned()
    }

    #[tool(description = "Reports progress, then waits until it is released")]
    async fn hold(&self, context: RequestContext<RoleServer>) -> String {
        let token = context.meta.get_progress_token().unwrap();
        let progress = ProgressNotificationParam::new(token, 1.0);
        context.peer.notify_progress(progress).await.unwrap();
        self.state.released.acquire().await.unwrap().forget();
        "released".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder()
                .enable_tools()
                .enable_tool_list_changed()
                .build(),
        )
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.state.peers.lock().unwrap().push(context.peer);
    }
}

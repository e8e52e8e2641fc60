//! A user's day, and whether it went as it should.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use rmcp::{
    RoleClient, ServiceExt as _,
    model::{CallToolRequestParams, ProtocolVersion},
    service::{ClientLifecycleMode, ClientServiceExt as _, RunningService},
    transport::{
        StreamableHttpClientTransport, Transport,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tower::{BoxError, ServiceExt, service_fn};
use tower_identity::{
    ManualClock, MemoryStore, UpstreamTokenStore,
    client::{hyper::https_client, rmcp::TowerHttpClient},
    upstream::TokenOwner,
};

use crate::{
    fakes::{self, Arrivals, CLIENT_SECRET, Issuer, McpServer, lock},
    gateway::{Config, Gateway, SESSION_ID, Surroundings},
};

/// More than the gateway has when it stops.
const PATIENCE: Duration = Duration::from_secs(20);
const AN_HOUR_AND_A_BIT: Duration = Duration::from_secs(3660);

/// The expected timeline: an event, the answers to the client, and the requests at the backends with their credentials.
const EXPECTED: [(&str, &str, &str); 21] = [
    ("ask for its health", "200", ""),
    (
        "log in, open a session with github",
        "200",
        "initialize with github-1",
    ),
    (
        "open a session with tickets",
        "200",
        "initialize with tickets-1",
    ),
    ("call 1: github", "200", "tools/call with github-1"),
    ("call 2: tickets", "200", "tools/call with tickets-1"),
    ("another user, with the id of that session", "403", ""),
    (
        "call 3: github, an hour later",
        "200",
        "tools/call with github-2",
    ),
    ("call 4: tickets", "200", "tools/call with tickets-2"),
    ("call 5: github", "200", "tools/call with github-2"),
    (
        "call 6: github, another hour later",
        "200",
        "tools/call with github-3",
    ),
    ("call 7: tickets", "200", "tools/call with tickets-3"),
    ("call 8: github, its refresh token revoked", "401", ""),
    (
        "call 9: github, logged in again",
        "200",
        "tools/call with github-4",
    ),
    (
        "call 10: github, which redirects to a stranger",
        "502",
        "tools/call with github-4",
    ),
    ("what arrived at the stranger", "", "0 requests"),
    (
        "without a session: ask what tickets can do",
        "200",
        "server/discover with tickets-4",
    ),
    (
        "call 11: tickets, without a session",
        "200",
        "tools/call with tickets-4",
    ),
    (
        "another user asks the same",
        "200",
        "server/discover with tickets-5",
    ),
    (
        "call 12: tickets, without a session, as another user",
        "200",
        "tools/call with tickets-5",
    ),
    (
        "the client ends its session with github",
        "202",
        "DELETE with github-4",
    ),
    (
        "the gateway stops, and ends the other session",
        "",
        "DELETE with tickets-4",
    ),
];

pub(crate) async fn drive() -> Result<ExitCode, BoxError> {
    // The world.
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let issuer = Issuer::start(clock.clone()).await?;
    let arrivals = Arrivals::default();
    let (github, github_address) = McpServer::start("github", &issuer, &arrivals).await?;
    let (_, tickets_address) = McpServer::start("tickets", &issuer, &arrivals).await?;
    let (strangers_requests, stranger) = fakes::stranger().await?;

    // The gateway, by the file beside this one, with the addresses of this world.
    let file = include_str!("gateway.yaml")
        .replace(
            "https://idp.example.com",
            &format!("http://{}", issuer.address),
        )
        .replace(
            "https://github.example.com",
            &format!("http://{}", issuer.address),
        )
        .replace(
            "https://mcp-github.example.com",
            &format!("http://{github_address}"),
        )
        .replace(
            "https://mcp-tickets.example.com",
            &format!("http://{tickets_address}"),
        );
    let config = Config::from_yaml(&file)?;
    let store = MemoryStore::builder().clock(clock.clone()).build()?;
    let surroundings = Surroundings {
        environment: |_| Some(CLIENT_SECRET.to_owned()),
        clock: clock.clone(),
        store: store.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Gateway::new(&config, surroundings)?.serve(listener, async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving);

    // The day.
    let mut timeline = Timeline::new(arrivals);
    timeline.note_health(&gateway).await?;
    let user = TokenOwner::new(issuer.url(), "user-1")?;
    store.put(&user, "github", &issuer.log_in()?).await?;
    let token = issuer.callers_token("user-1")?;
    let with_github = timeline.open(&format!("{gateway}/github"), &token).await?;
    let with_tickets = timeline.open(&format!("{gateway}/tickets"), &token).await?;
    timeline.call(&with_github).await;
    timeline.call(&with_tickets).await;
    let another = issuer.callers_token("user-2")?;
    timeline
        .intrude(&format!("{gateway}/tickets"), &another)
        .await?;
    clock.advance(AN_HOUR_AND_A_BIT);
    timeline.call(&with_github).await;
    timeline.call(&with_tickets).await;
    timeline.call(&with_github).await;
    clock.advance(AN_HOUR_AND_A_BIT);
    timeline.call(&with_github).await;
    timeline.call(&with_tickets).await;
    issuer.revoke_refresh_token();
    clock.advance(AN_HOUR_AND_A_BIT);
    timeline.call(&with_github).await;
    store.put(&user, "github", &issuer.log_in()?).await?;
    timeline.call(&with_github).await;
    github.redirect_next_call(format!("http://{stranger}/mcp"));
    timeline.call(&with_github).await;
    let count = strangers_requests.load(Ordering::SeqCst);
    timeline
        .rows
        .push((String::new(), format!("{count} requests")));
    let stateless = timeline
        .open_without_session(&format!("{gateway}/tickets"), &token)
        .await?;
    timeline.call(&stateless).await;
    let of_another = timeline
        .open_without_session(&format!("{gateway}/tickets"), &another)
        .await?;
    timeline.call(&of_another).await;
    with_github.cancel().await?;
    timeline.note();
    stop.send(()).map_err(|()| "the gateway is gone")?;
    timeout(PATIENCE, serving).await???;
    timeline.note();
    Ok(timeline.verdict())
}

type Client = RunningService<RoleClient, ()>;

/// Records the answers to the client and the arrivals at the backends, one row per event.
struct Timeline {
    answers: Arc<Mutex<Vec<StatusCode>>>,
    last_session: Arc<Mutex<Option<HeaderValue>>>,
    arrivals: Arrivals,
    rows: Vec<(String, String)>,
}

impl Timeline {
    fn new(arrivals: Arrivals) -> Self {
        Self {
            answers: Arc::default(),
            last_session: Arc::default(),
            arrivals,
            rows: Vec::new(),
        }
    }

    async fn note_health(&mut self, gateway: &str) -> Result<(), BoxError> {
        let request = Request::get(format!("{gateway}/healthz")).body(Full::<Bytes>::default())?;
        let response = https_client()?.oneshot(request).await?;
        lock(&self.answers).push(response.status());
        response.into_body().collect().await?;
        self.note();
        Ok(())
    }

    /// Opens an MCP session with the gateway, with the SDK's own client.
    async fn open(&mut self, url: &str, token: &str) -> Result<Client, BoxError> {
        let client = ().serve(self.transport(url, token)?).await?;
        self.note();
        Ok(client)
    }

    /// As MCP has it since 2026-07-28: there is no session, and each call stands for itself.
    async fn open_without_session(&mut self, url: &str, token: &str) -> Result<Client, BoxError> {
        let lifecycle = ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        };
        let transport = self.transport(url, token)?;
        let client = ().serve_with_lifecycle(transport, lifecycle).await?;
        self.note();
        Ok(client)
    }

    fn transport(
        &self,
        url: &str,
        token: &str,
    ) -> Result<impl Transport<RoleClient> + use<>, BoxError> {
        let http = https_client::<Full<Bytes>>()?;
        let (answers, last_session) = (self.answers.clone(), self.last_session.clone());
        let noting = service_fn(move |request: Request<Full<Bytes>>| {
            let is_stream = request.method() == Method::GET;
            let (sending, answers) = (http.clone().oneshot(request), answers.clone());
            let last_session = last_session.clone();
            async move {
                let response = sending.await?;
                if let Some(id) = response.headers().get(SESSION_ID) {
                    *lock(&last_session) = Some(id.clone());
                }
                if !is_stream {
                    lock(&answers).push(response.status());
                }
                Ok::<_, BoxError>(response)
            }
        });
        let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
        let client = TowerHttpClient::new(noting);
        Ok(StreamableHttpClientTransport::with_client(client, config))
    }

    /// Makes a call. The timeline shows whether it was refused.
    async fn call(&mut self, client: &Client) {
        let _ = timeout(
            PATIENCE,
            client.call_tool(CallToolRequestParams::new("ping")),
        )
        .await;
        self.note();
    }

    /// Sends a call in the session that was opened last, as somebody else who has learned its id.
    async fn intrude(&mut self, url: &str, token: &str) -> Result<(), BoxError> {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"}}"#;
        let id = lock(&self.last_session).clone().ok_or("no session yet")?;
        let request = Request::post(url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(SESSION_ID, id)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(call))?;
        let response = https_client()?.oneshot(request).await?;
        lock(&self.answers).push(response.status());
        self.note();
        Ok(())
    }

    fn note(&mut self) {
        let answers = std::mem::take(&mut *lock(&self.answers));
        let answer = answers
            .first()
            .map_or(String::new(), |status| status.as_u16().to_string());
        let arrived = std::mem::take(&mut *lock(&self.arrivals));
        self.rows.push((answer, arrived.join(", ")));
    }

    fn verdict(&self) -> ExitCode {
        println!(
            "{:<54}{:<8}what arrives at the backend",
            "what happens", "answer"
        );
        let mut right = self.rows.len() == EXPECTED.len();
        for ((happens, answer, arrives), row) in EXPECTED.iter().zip(&self.rows) {
            let as_expected = (*answer, *arrives) == (&row.0, &row.1);
            let verdict = if as_expected { "" } else { "  WRONG" };
            println!("{happens:<54}{:<8}{}{verdict}", row.0, row.1);
            right &= as_expected;
        }
        println!();
        match right {
            true => {
                println!("Each call went out with the token of the moment, to whom it was for.")
            }
            false => println!("WRONG: the timeline should be {EXPECTED:#?}"),
        }
        ExitCode::from(u8::from(!right))
    }
}

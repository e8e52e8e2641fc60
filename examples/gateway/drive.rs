//! A user's day, and whether it went as it should.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, COOKIE, LOCATION, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE},
};
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
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tower::{BoxError, ServiceExt, service_fn};
use tower_identity::{
    ManualClock, MemoryStore, SystemClock,
    client::{
        hyper::{HttpsClient, https_client},
        rmcp::TowerHttpClient,
    },
};

use crate::{
    config::Config,
    fakes::{self, Arrivals, CLIENT_SECRET, Issuer, McpServer, lock},
    gateway::{Gateway, SESSION_ID, Surroundings},
};

/// More than the gateway has when it stops.
const PATIENCE: Duration = Duration::from_secs(20);
const AN_HOUR_AND_A_BIT: Duration = Duration::from_secs(3660);

/// The expected timeline: an event, the answers to the client, and the requests at the backends with their credentials.
const EXPECTED: [(&str, &str, &str); 27] = [
    ("ask for its health", "200", ""),
    (
        "call github without a token, and ask where to log in",
        "200",
        "",
    ),
    ("log in with a browser, refuse to link github", "403", ""),
    ("link github", "200", ""),
    (
        "open a session with github",
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
        "call 9: tickets, which does not need github",
        "200",
        "tools/call with tickets-4",
    ),
    (
        "call 10: github, linked again",
        "200",
        "tools/call with github-4",
    ),
    (
        "call 11: github, which redirects to a stranger",
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
        "call 12: tickets, without a session",
        "200",
        "tools/call with tickets-4",
    ),
    (
        "another user asks the same",
        "200",
        "server/discover with tickets-5",
    ),
    (
        "call 13: tickets, without a session, as another user",
        "200",
        "tools/call with tickets-5",
    ),
    (
        "the client ends its session with github",
        "202",
        "DELETE with github-4",
    ),
    ("unlink github", "200", ""),
    ("open a session with github, unlinked", "401", ""),
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
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = format!("http://{}", listener.local_addr()?);
    let file = file_with(&issuer, github_address, tickets_address, &gateway);
    let config = Config::from_yaml(&file)?;
    let store = MemoryStore::builder().clock(clock.clone()).build()?;
    let surroundings = Surroundings {
        environment: |_| Some(CLIENT_SECRET.to_owned()),
        clock: clock.clone(),
        store: Arc::new(store),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = Gateway::new(&config, surroundings)?.serve(listener, async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving);

    // The day.
    let mut timeline = Timeline::new(arrivals);
    timeline.note_health(&gateway).await?;
    timeline.note_metadata(&gateway, "github", &issuer).await?;
    let mut browser = Browser::new(&gateway)?;
    let link = format!("{gateway}/accounts/link/github");
    timeline.note_page(browser.visit(&link, "no").await?);
    timeline.note_page(browser.visit(&link, "yes").await?);
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
    timeline.call(&with_tickets).await;
    browser.visit(&link, "yes").await?;
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
    let unlink = format!("{gateway}/accounts/unlink/github");
    timeline.note_page(browser.submit(&unlink).await?);
    let url = format!("{gateway}/github");
    timeline.knock(&url, &token).await?;
    stop.send(()).map_err(|()| "the gateway is gone")?;
    timeout(PATIENCE, serving).await???;
    timeline.note();
    Ok(timeline.verdict())
}

/// The file, with the addresses of a world on loopback.
fn file_with(issuer: &Issuer, github: SocketAddr, tickets: SocketAddr, gateway: &str) -> String {
    let issuer = format!("http://{}", issuer.address);
    include_str!("gateway.yaml")
        .replace(
            "url: https://gateway.example.com",
            &format!("url: {gateway}"),
        )
        .replace("https://idp.example.com", &issuer)
        .replace("https://github.example.com", &issuer)
        .replace(
            "https://mcp-github.example.com",
            &format!("http://{github}"),
        )
        .replace(
            "https://mcp-tickets.example.com",
            &format!("http://{tickets}"),
        )
}

/// Starts the world and the gateway, says how to use them, and waits.
pub(crate) async fn demo() -> Result<ExitCode, BoxError> {
    let issuer = Issuer::start(Arc::new(SystemClock)).await?;
    let arrivals = Arrivals::default();
    let (_github, github_address) = McpServer::start("github", &issuer, &arrivals).await?;
    let (_tickets, tickets_address) = McpServer::start("tickets", &issuer, &arrivals).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = format!("http://{}", listener.local_addr()?);
    let file = file_with(&issuer, github_address, tickets_address, &gateway);
    let surroundings = Surroundings {
        environment: |_| Some(CLIENT_SECRET.to_owned()),
        clock: Arc::new(SystemClock),
        store: Arc::new(MemoryStore::new()),
    };
    let serving = Gateway::new(&Config::from_yaml(&file)?, surroundings)?;
    println!("Open {gateway}/accounts and log in as alice.");
    println!(
        "The MCP servers are {gateway}/github and {gateway}/tickets. A token of alice for them:"
    );
    println!("{}", issuer.callers_token("alice")?);
    serving.serve(listener, crate::stopped()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// A browser, whose user answers the issuer's pages.
struct Browser {
    gateway: String,
    http: HttpsClient<Full<Bytes>>,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn new(gateway: &str) -> Result<Self, BoxError> {
        Ok(Self {
            gateway: gateway.to_owned(),
            http: https_client()?,
            cookies: BTreeMap::new(),
        })
    }

    /// Opens a page of the gateway. The user gives this answer where an account is linked, and logs in before.
    async fn visit(&mut self, url: &str, answer: &str) -> Result<StatusCode, BoxError> {
        self.follow(Request::get(url).body(Full::default())?, answer)
            .await
    }

    /// Sends a form of the gateway's pages.
    async fn submit(&mut self, url: &str) -> Result<StatusCode, BoxError> {
        let request = Request::post(url).header(ORIGIN, &self.gateway);
        self.follow(request.body(Full::default())?, "no").await
    }

    async fn follow(
        &mut self,
        mut request: Request<Full<Bytes>>,
        answer: &str,
    ) -> Result<StatusCode, BoxError> {
        loop {
            let url = request.uri().to_string();
            let at_gateway = url.starts_with(&self.gateway);
            if at_gateway {
                let pairs = self.cookies.iter();
                let pairs: Vec<_> = pairs
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                let cookies = HeaderValue::try_from(pairs.join("; "))?;
                request.headers_mut().insert(COOKIE, cookies);
            }
            let response = self.http.clone().oneshot(request).await?;
            for cookie in response.headers().get_all(SET_COOKIE) {
                let pair = cookie
                    .to_str()?
                    .split(';')
                    .next()
                    .and_then(|pair| pair.split_once('='));
                self.cookies
                    .extend(pair.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            request = match response.headers().get(LOCATION) {
                Some(location) => {
                    let mut location = location.to_str()?.to_owned();
                    if location.starts_with('/') {
                        location.insert_str(0, &self.gateway);
                    }
                    Request::get(location).body(Full::default())?
                }
                None if at_gateway => return Ok(response.status()),
                None => {
                    let (page, asked) = url.split_once('?').ok_or("not a page of the issuer")?;
                    let is_login = asked.contains("nonce=");
                    let answer = if is_login { "yes" } else { answer };
                    let form = format!("{asked}&user=user-1&answer={answer}");
                    Request::post(page)
                        .header("content-type", "application/x-www-form-urlencoded")
                        .body(Full::from(form))?
                }
            };
        }
    }
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

    /// Follows the refusal of a request without a token to the metadata of this backend alone (RFC 9728 §3.3).
    async fn note_metadata(
        &mut self,
        gateway: &str,
        backend: &str,
        issuer: &Issuer,
    ) -> Result<(), BoxError> {
        let url = format!("{gateway}/{backend}");
        let request = Request::post(&url).body(Full::<Bytes>::default())?;
        let refusal = https_client()?.oneshot(request).await?;
        let challenge = refusal.headers()[WWW_AUTHENTICATE].to_str()?;
        let at = challenge.split("resource_metadata=\"").nth(1);
        let at = at.and_then(|at| at.split('"').next()).unwrap_or_default();
        let request = Request::get(at).body(Full::<Bytes>::default())?;
        let response = https_client()?.oneshot(request).await?;
        let status = response.status();
        let metadata = response.into_body().collect().await?.to_bytes();
        let metadata: Value = serde_json::from_slice(&metadata)?;
        let is_of_backend = metadata["resource"] == url;
        let names_issuer = metadata["authorization_servers"] == json!([issuer.url()]);
        let is_right = is_of_backend && names_issuer;
        self.note_page(if is_right {
            status
        } else {
            StatusCode::NOT_FOUND
        });
        Ok(())
    }

    /// Asks to open a session, without a client that would report the refusal.
    async fn knock(&mut self, url: &str, token: &str) -> Result<(), BoxError> {
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        let request = Request::post(url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(initialize))?;
        let response = https_client()?.oneshot(request).await?;
        self.note_page(response.status());
        Ok(())
    }

    fn note_page(&mut self, status: StatusCode) {
        lock(&self.answers).push(status);
        self.note();
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

//! A user's day, and whether it went as it should.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, COOKIE, LOCATION, ORIGIN, SET_COOKIE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use rmcp::{
    ClientHandler, ErrorData, RoleClient, ServiceError, ServiceExt as _,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
        ElicitationAction, ElicitationCapability, Implementation, ProtocolVersion,
    },
    service::{ClientLifecycleMode, ClientServiceExt as _, RequestContext, RunningService},
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
const VISITS: usize = 101;
const AN_HOUR_AND_A_BIT: Duration = Duration::from_secs(3660);

/// The expected timeline: an event, the answers to the client, and the requests at the backends with their credentials.
const EXPECTED: [(&str, &str, &str); 37] = [
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
    ("call 8: github, its refresh token revoked", "-32000", ""),
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
    (
        "open a session with github, with a client for URLs",
        "200",
        "initialize with github-4",
    ),
    (
        "without a session: ask what github can do",
        "200",
        "server/discover with github-4",
    ),
    ("unlink github", "200", ""),
    ("open a session with github, unlinked", "-32000", ""),
    (
        "call 14: github, which has the URL to link at",
        "-32042",
        "",
    ),
    ("another user opens that URL and links", "200", ""),
    (
        "call 15: github, which the user has not linked",
        "-32042",
        "",
    ),
    ("the user opens that URL and links", "200", ""),
    ("call 16: github", "200", "tools/call with github-6"),
    (
        "the client ends its session with github",
        "202",
        "DELETE with github-6",
    ),
    ("unlink github", "200", ""),
    (
        "call 17: github, without a session: the client links",
        "200",
        "tools/call with github-7",
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
    let mut browser = Browser::of("user-1", &gateway)?;
    let link = format!("{gateway}/accounts/link/github");
    timeline.note_page(browser.visit(&link, "no").await?);
    timeline.note_page(browser.visit(&link, "yes").await?);
    let page = browser
        .median_of_visits(&format!("{gateway}/accounts"))
        .await?;
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
    // A client that shows URLs is sent to where its user links the account.
    let url = format!("{gateway}/github");
    let unlink = format!("{gateway}/accounts/unlink/github");
    let browser = Arc::new(tokio::sync::Mutex::new(browser));
    let with_browser = timeline.open_with(ShowsUrls(None), &url, &token).await?;
    let opens_urls = ShowsUrls(Some(browser.clone()));
    let links = timeline.discover_with(opens_urls, &url, &token).await?;
    timeline.note_page(browser.lock().await.submit(&unlink).await?);
    timeline.knock(&url, &token).await?;
    let link = timeline.call(&with_browser).await.unwrap_or_default();
    let mut others = Browser::of("user-2", &gateway)?;
    timeline.note_page(others.visit(&link, "yes").await?);
    let link = timeline.call(&with_browser).await.unwrap_or_default();
    timeline.note_page(browser.lock().await.visit(&link, "yes").await?);
    timeline.call(&with_browser).await;
    with_browser.cancel().await?;
    timeline.note();
    timeline.note_page(browser.lock().await.submit(&unlink).await?);
    timeline.call(&links).await;
    stop.send(()).map_err(|()| "the gateway is gone")?;
    timeout(PATIENCE, serving).await???;
    timeline.note();
    let verdict = timeline.verdict();
    println!("A page of the accounts took {page:.1?} (the median of {VISITS}).");
    Ok(verdict)
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
    user: &'static str,
    gateway: String,
    http: HttpsClient<Full<Bytes>>,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn of(user: &'static str, gateway: &str) -> Result<Self, BoxError> {
        Ok(Self {
            user,
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

    /// How long it takes to get a page of the gateway that leads nowhere else.
    async fn median_of_visits(&mut self, url: &str) -> Result<Duration, BoxError> {
        let mut times = Vec::new();
        for _ in 0..VISITS {
            let start = Instant::now();
            if self.visit(url, "no").await? != StatusCode::OK {
                return Err("the page cannot be had".into());
            }
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[VISITS / 2])
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
                    let form = format!("{asked}&user={}&answer={answer}", self.user);
                    Request::post(page)
                        .header("content-type", "application/x-www-form-urlencoded")
                        .body(Full::from(form))?
                }
            };
        }
    }
}

type Client<H = ()> = RunningService<RoleClient, H>;

/// A client that can have its user visit a URL. If it asks for one by itself, this browser opens it.
struct ShowsUrls(Option<Arc<tokio::sync::Mutex<Browser>>>);

impl ClientHandler for ShowsUrls {
    fn get_info(&self) -> ClientConfig {
        let elicitation = ElicitationCapability::new().with_url(Default::default());
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation = Some(elicitation);
        ClientConfig::new(capabilities, Implementation::new("shows-urls", "1"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let refused = |fault: String| ErrorData::internal_error(fault, None);
        let (Some(browser), ElicitRequestParams::UrlElicitationParams { url, .. }) =
            (&self.0, request)
        else {
            return Ok(ElicitResult::new(ElicitationAction::Decline));
        };
        let visited = browser.lock().await.visit(&url, "yes").await;
        visited.map_err(|error| refused(error.to_string()))?;
        Ok(ElicitResult::new(ElicitationAction::Accept))
    }
}

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
        let answer = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&answer)?;
        let words = answer["error"]["message"].as_str().unwrap_or_default();
        if words.contains("/accounts/link/github") {
            self.note_error(serde_json::from_value(answer["error"]["code"].clone())?);
        }
        Ok(())
    }

    fn note_page(&mut self, status: StatusCode) {
        lock(&self.answers).push(status);
        self.note();
    }

    /// Opens an MCP session with the gateway, with the SDK's own client.
    async fn open(&mut self, url: &str, token: &str) -> Result<Client, BoxError> {
        self.open_with((), url, token).await
    }

    async fn open_with<H: ClientHandler>(
        &mut self,
        handler: H,
        url: &str,
        token: &str,
    ) -> Result<Client<H>, BoxError> {
        let client = handler.serve(self.transport(url, token)?).await?;
        self.note();
        Ok(client)
    }

    /// As MCP has it since 2026-07-28: there is no session, and each call stands for itself.
    async fn open_without_session(&mut self, url: &str, token: &str) -> Result<Client, BoxError> {
        self.discover_with((), url, token).await
    }

    async fn discover_with<H: ClientHandler>(
        &mut self,
        handler: H,
        url: &str,
        token: &str,
    ) -> Result<Client<H>, BoxError> {
        let lifecycle = ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        };
        let transport = self.transport(url, token)?;
        let client = handler.serve_with_lifecycle(transport, lifecycle).await?;
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

    /// Makes a call. The timeline shows whether it was refused. Returns the URL that the user must visit before.
    async fn call<H: ClientHandler>(&mut self, client: &Client<H>) -> Option<String> {
        let called = client.call_tool(CallToolRequestParams::new("ping"));
        let called = timeout(PATIENCE, called).await;
        self.note();
        let Ok(Err(ServiceError::McpError(error))) = called else {
            return None;
        };
        if error.message.contains("/accounts/link/github") {
            self.note_error(error.code.0);
        }
        let data = error.data?;
        let url = data["elicitations"][0]["url"].as_str()?;
        Some(url.to_owned())
    }

    fn note_error(&mut self, code: i32) {
        if let Some((answer, _)) = self.rows.last_mut() {
            *answer = code.to_string();
        }
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

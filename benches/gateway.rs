//! What the layers cost a gateway under load: the gateway of `examples/gateway`, and the same proxy without the layers.
//!
//! ```sh
//! apt-get install wrk
//! cargo bench --all-features --bench gateway
//! ```
//!
//! `wrk` sends tool calls in 64 sessions, of as many users, to both, and this says how many were answered a second, and in
//! what time. The two take turns in being first in a round. In front of the backend the gateway validates the caller's
//! token, finds the session, loads the user's upstream tokens and puts one onto the request. The other proxy only copies
//! requests and answers, and puts a constant credential of the same length onto the request, because the backend
//! parses that too.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/config.rs"]
mod config;
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/fakes.rs"]
mod fakes;
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/gateway.rs"]
mod gateway;
#[allow(dead_code, reason = "no browser takes part")]
#[path = "../examples/gateway/pages.rs"]
mod pages;

use std::{
    fmt::Write as _,
    fs,
    future::pending,
    io::Write as _,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{any, post},
    serve::ListenerExt,
};
use http::{HeaderValue, StatusCode, Uri, header::AUTHORIZATION};
use moka::sync::Cache;
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, process::Command};
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::{FollowRedirect, FollowRedirectLayer};
use tower_identity::{
    ManualClock, MemoryStore, SystemClock, UpstreamTokenStore,
    client::hyper::{HttpsClient, https_client},
    outgoing::forward_mcp,
    upstream::TokenOwner,
};

use config::Config;
use fakes::{AUDIENCE, CLIENT_SECRET, Issuer};
use gateway::{Gateway, MAX_SESSIONS, SESSION_ID, SESSION_IDLE, Surroundings, relayed};

const ROUNDS: usize = 6;
const SECONDS: usize = 30;
const CONNECTIONS: usize = 32;
const SESSIONS: usize = 64;
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"}}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"pong"}],"isError":false}}"#;

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    if Command::new("wrk").arg("--version").output().await.is_err() {
        eprintln!("this bench needs `wrk`: apt-get install wrk");
        return Ok(ExitCode::SUCCESS);
    }
    let backend = start(
        Router::new()
            .route("/mcp", post(pong))
            .with_state(Arc::default()),
    )
    .await?;
    let issuer = Issuer::start(Arc::new(ManualClock::new(SystemTime::now()))).await?;
    let with_layers = start_gateway(&issuer, backend).await?;
    let credential = issuer
        .log_in()?
        .token()
        .access_token()
        .authorization()
        .clone();
    let without_layers = start_proxy(backend, credential).await?;

    let mut tokens = Vec::new();
    for number in 0..SESSIONS {
        tokens.push(issuer.callers_token(&user(number))?);
    }
    let with_layers = Target::open(with_layers, &tokens).await?;
    let without_layers = Target::open(without_layers, &tokens).await?;

    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(if round % 2 == 0 {
            let with = with_layers.load().await?;
            (with, without_layers.load().await?)
        } else {
            let without = without_layers.load().await?;
            (with_layers.load().await?, without)
        });
    }

    let (with, without): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    println!(
        "{:<16}{:>14}{:>12}{:>12}{:>16}",
        "median of rounds", "requests/s", "p50", "p99", "CPU a request"
    );
    for (name, loads) in [("with layers", &with), ("without", &without)] {
        println!(
            "{name:<16}{:>14.0}{:>9.0} µs{:>9.0} µs{:>13.1} µs",
            median(loads.iter().map(|load| load.requests_per_second)),
            median(loads.iter().map(|load| load.p50)),
            median(loads.iter().map(|load| load.p99)),
            median(loads.iter().map(|load| load.cpu)),
        );
    }
    let ratios = |of: fn(&Load) -> f64| {
        let pairs = with.iter().zip(&without);
        let mut ratios: Vec<_> = pairs
            .map(|(with, without)| of(with) / of(without))
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    };
    for (name, ratios) in [
        ("requests/s", ratios(|load| load.requests_per_second)),
        ("CPU a request", ratios(|load| load.cpu)),
    ] {
        println!(
            "{name}, with / without: median {:.3}, all rounds {ratios:.3?}",
            median(ratios.iter().copied())
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(router: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|tcp| _ = tcp.set_nodelay(true));
    let server = axum::serve(listener, router).with_graceful_shutdown(pending());
    tokio::spawn(server.into_future());
    Ok(address)
}

/// Each request without a session opens one.
async fn pong(State(sessions): State<Arc<AtomicUsize>>, request: Request) -> Response {
    let json = ("content-type", "application/json");
    if request.headers().contains_key("mcp-session-id") {
        return ([json], PONG).into_response();
    }
    let id = sessions.fetch_add(1, Ordering::Relaxed).to_string();
    ([json, ("mcp-session-id", &id)], PONG).into_response()
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

async fn start_gateway(issuer: &Issuer, backend: SocketAddr) -> Result<SocketAddr, BoxError> {
    let issuers_address = issuer.address;
    let config: Config = serde_saphyr::from_str(&format!(
        "{{ url: '{AUDIENCE}', issuer: 'http://{issuers_address}', audience: '{AUDIENCE}', backends: {{ mcp: 'http://{backend}/mcp' }}, \
         providers: {{ github: {{ authorizationUrl: 'http://{issuers_address}/authorize', \
         tokenUrl: 'http://{issuers_address}/token', clientId: gateway, clientSecretEnv: X }} }}, \
         outgoingAuth: {{ default: {{ type: upstream_inject, upstreamInject: {{ providerName: github }} }} }} }}"
    ))?;
    let store = MemoryStore::new();
    for number in 0..SESSIONS {
        let owner = TokenOwner::new(issuer.url(), user(number))?;
        store.put(&owner, "github", &issuer.log_in()?).await?;
    }
    let surroundings = Surroundings {
        environment: |_| Some(CLIENT_SECRET.to_owned()),
        clock: Arc::new(SystemClock),
        store: Arc::new(store),
    };
    let gateway = Gateway::new(&config, surroundings)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(gateway.serve(listener, pending()));
    Ok(address)
}

/// The gateway with its layers removed: it keeps sessions and follows redirects, and asks nobody who they are.
struct Bare {
    url: Uri,
    credential: HeaderValue,
    client: FollowRedirect<HttpsClient<Body>>,
    sessions: Cache<(String, HeaderValue), FollowRedirect<HttpsClient<Body>>>,
}

impl Bare {
    async fn forward(&self, name: &str, request: Request) -> Result<Response, BoxError> {
        let Some(id) = request.headers().get(SESSION_ID) else {
            let session = self.client.clone();
            let response = session.clone().oneshot(self.outgoing(request)).await?;
            if let Some(id) = response.headers().get(SESSION_ID) {
                self.sessions.insert((name.to_owned(), id.clone()), session);
            }
            return relayed(response.map(Body::new));
        };
        let Some(session) = self.sessions.get(&(name.to_owned(), id.clone())) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        let response = session.oneshot(self.outgoing(request)).await?;
        relayed(response.map(Body::new))
    }

    fn outgoing(&self, request: Request) -> Request {
        let mut outgoing = forward_mcp(request, self.url.clone());
        let headers = outgoing.headers_mut();
        headers.insert(AUTHORIZATION, self.credential.clone());
        outgoing
    }
}

async fn start_proxy(backend: SocketAddr, credential: HeaderValue) -> Result<SocketAddr, BoxError> {
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .service(https_client::<Body>()?);
    let bare = Arc::new(Bare {
        url: format!("http://{backend}/mcp").parse()?,
        credential,
        client,
        sessions: Cache::builder()
            .max_capacity(MAX_SESSIONS)
            .time_to_idle(SESSION_IDLE)
            .build(),
    });
    let forward =
        async |State(bare): State<Arc<Bare>>, Path(backend): Path<String>, request: Request| {
            let response = bare.forward(&backend, request).await;
            response.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
        };
    let router = Router::new()
        .route("/{backend}", any(forward))
        .layer(tower::layer::layer_fn(|service| service))
        .with_state(bare);
    start(router).await
}

/// A gateway with open sessions, and the calls in them as a script for `wrk`.
struct Target {
    address: SocketAddr,
    script: NamedTempFile,
}

impl Target {
    async fn open(address: SocketAddr, tokens: &[String]) -> Result<Self, BoxError> {
        let client = https_client()?;
        let mut calls = String::new();
        for (index, token) in tokens.iter().enumerate() {
            let request = http::Request::post(format!("http://{address}/mcp"))
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", "application/json")
                .body(Body::from(CALL))?;
            let opened = client.clone().oneshot(request).await?;
            assert_eq!(opened.status(), StatusCode::OK);
            let id = opened.headers()["mcp-session-id"].to_str()?;
            writeln!(
                calls,
                "calls[{}] = wrk.format('POST', nil, {{ ['content-type'] = 'application/json', \
                 ['mcp-session-id'] = '{id}', ['authorization'] = 'Bearer {token}' }}, '{CALL}')",
                index + 1
            )?;
        }
        let mut script = NamedTempFile::new()?;
        write!(
            script,
            "local calls, last = {{}}, 0\nfunction init()\n{calls}end\n\
             function request()\nlast = last % #calls + 1\nreturn calls[last]\nend\n"
        )?;
        Ok(Self { address, script })
    }

    async fn load(&self) -> Result<Load, BoxError> {
        let before = cpu_time()?;
        let output = Command::new("wrk")
            .args(["--latency", "-t", "2", "-c", &CONNECTIONS.to_string()])
            .args(["-d", &format!("{SECONDS}s"), "-s"])
            .arg(self.script.path())
            .arg(format!("http://{}/mcp", self.address))
            .output()
            .await?;
        let spent = cpu_time()? - before;
        Load::new(&String::from_utf8(output.stdout)?, spent)
    }
}

/// What `wrk` measured, times in microseconds.
struct Load {
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    /// What one request costs the gateway and the backend.
    cpu: f64,
}

impl Load {
    fn new(output: &str, cpu_time: f64) -> Result<Self, BoxError> {
        if output.contains("Non-2xx") || output.contains("Socket errors") {
            return Err(format!("not every request was answered: {output}").into());
        }
        let value = |name: &str| {
            let line = output
                .lines()
                .find_map(|line| line.trim().strip_prefix(name));
            line.map(str::trim)
                .ok_or_else(|| format!("no {name} in {output}"))
        };
        let requests_per_second = value("Requests/sec:")?.parse()?;
        Ok(Self {
            requests_per_second,
            p50: microseconds(value("50%")?)?,
            p99: microseconds(value("99%")?)?,
            cpu: 1e6 * cpu_time / (requests_per_second * SECONDS as f64),
        })
    }
}

/// The seconds for which this process was on a processor, where the system says so.
fn cpu_time() -> Result<f64, BoxError> {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else {
        return Ok(f64::NAN);
    };
    let (_, fields) = stat.rsplit_once(')').ok_or("no process")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

fn microseconds(text: &str) -> Result<f64, BoxError> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    Err(format!("{text} is no time").into())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! What the layers cost a gateway under load: the gateway of `examples/gateway`, and the same proxy without the layers.
//!
//! ```sh
//! apt-get install wrk
//! cargo bench --all-features --bench gateway
//! ```
//!
//! `wrk` sends tool calls in 64 sessions, of as many users, to both, in turns, and this says how many were answered a second, and in what
//! time. In front of the backend the gateway validates the caller's token, finds the session, loads the user's upstream
//! tokens and puts one onto the request. The other proxy only copies requests and answers.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/fakes.rs"]
mod fakes;
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/gateway.rs"]
mod gateway;

use std::{
    fmt::Write as _,
    fs,
    future::pending,
    net::SocketAddr,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use http::{StatusCode, Uri};
use tokio::{net::TcpListener, task::spawn_blocking};
use tower::BoxError;
use tower_identity::{
    MemoryStore, UpstreamTokenStore,
    client::hyper::{HttpsClient, https_client},
    clock::{ManualClock, SystemClock},
};

use fakes::{AUDIENCE, CLIENT_SECRET, Issuer};
use gateway::{Config, Gateway, Surroundings, outgoing, relayed};

const ROUNDS: usize = 7;
const SECONDS: usize = 4;
const CONNECTIONS: usize = 32;
const SESSIONS: usize = 64;
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"}}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"pong"}],"isError":false}}"#;

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    if Command::new("wrk").arg("--version").output().is_err() {
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
    let without_layers = start_proxy(backend).await?;

    let mut calls = String::new();
    for number in 0..SESSIONS {
        let token = issuer.callers_token(&format!("user-{number}"), &session(number))?;
        let request = http::Request::post(format!("http://{with_layers}/mcp"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Body::from(CALL))?;
        let opened = https_client()?.request(request).await?;
        assert_eq!(opened.status(), StatusCode::OK);
        let id = opened.headers()["mcp-session-id"].to_str()?;
        writeln!(
            calls,
            "calls[{}] = wrk.format('POST', nil, {{ ['content-type'] = 'application/json', ['mcp-session-id'] = '{id}', \
             ['authorization'] = 'Bearer {token}' }}, '{CALL}')",
            number + 1
        )?;
    }
    let script = std::env::temp_dir().join(format!("tower-identity-{}.lua", std::process::id()));
    fs::write(
        &script,
        format!(
            "local calls, last = {{}}, 0\nfunction init()\n{calls}end\n\
             function request()\nlast = last % #calls + 1\nreturn calls[last]\nend\n"
        ),
    )?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let script = script.clone();
        let round = spawn_blocking(move || -> Result<_, BoxError> {
            let script = script.to_str().ok_or("the path of the script is no text")?;
            Ok((load(with_layers, script)?, load(without_layers, script)?))
        });
        rounds.push(round.await??);
    }
    fs::remove_file(script)?;

    let (with, without): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    println!(
        "{:<16}{:>14}{:>12}{:>12}",
        "median of rounds", "requests/s", "p50", "p99"
    );
    for (name, loads) in [("with layers", &with), ("without", &without)] {
        println!(
            "{name:<16}{:>14.0}{:>9.0} µs{:>9.0} µs",
            median(loads.iter().map(|load| load.requests_per_second)),
            median(loads.iter().map(|load| load.p50)),
            median(loads.iter().map(|load| load.p99)),
        );
    }
    let costs = with.iter().zip(&without).map(|(with, without)| {
        100.0 * (1.0 - with.requests_per_second / without.requests_per_second)
    });
    println!(
        "The layers cost {:.1} % of throughput (median of {ROUNDS} rounds).",
        median(costs)
    );
    Ok(ExitCode::SUCCESS)
}

async fn start(router: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, router).await });
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

fn session(number: usize) -> String {
    format!("session-{number}")
}

async fn start_gateway(issuer: &Issuer, backend: SocketAddr) -> Result<SocketAddr, BoxError> {
    let issuers_address = issuer.address;
    let config: Config = serde_saphyr::from_str(&format!(
        "{{ issuer: 'http://{issuers_address}', audience: '{AUDIENCE}', backends: {{ mcp: 'http://{backend}/mcp' }}, \
         providers: {{ github: {{ tokenUrl: 'http://{issuers_address}/token', clientId: gateway, clientSecretEnv: X }} }}, \
         outgoingAuth: {{ default: {{ type: upstream_inject, upstreamInject: {{ providerName: github }} }} }} }}"
    ))?;
    let store = MemoryStore::new();
    for number in 0..SESSIONS {
        store
            .put(&session(number), "github", &issuer.log_in()?)
            .await?;
    }
    let surroundings = Surroundings {
        environment: |_| Some(CLIENT_SECRET.to_owned()),
        clock: Arc::new(SystemClock),
        store,
    };
    let gateway = Gateway::new(&config, surroundings)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(gateway.serve(listener, pending()));
    Ok(address)
}

async fn start_proxy(backend: SocketAddr) -> Result<SocketAddr, BoxError> {
    let url: Uri = format!("http://{backend}/mcp").parse()?;
    let client = https_client::<Body>()?;
    let forward = async |State((client, url)): State<(HttpsClient<Body>, Uri)>,
                         request: Request| {
        let response = client.request(outgoing(request, &url)).await;
        let response = response.map_err(BoxError::from);
        match response.and_then(|response| relayed(response.map(Body::new))) {
            Ok(response) => response,
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    };
    start(
        Router::new()
            .route("/{backend}", any(forward))
            .with_state((client, url)),
    )
    .await
}

/// What `wrk` measured, times in microseconds.
struct Load {
    requests_per_second: f64,
    p50: f64,
    p99: f64,
}

fn load(address: SocketAddr, script: &str) -> Result<Load, BoxError> {
    let output = Command::new("wrk")
        .args(["--latency", "-t", "2", "-c", &CONNECTIONS.to_string()])
        .args([
            "-d",
            &format!("{SECONDS}s"),
            "-s",
            script,
            &format!("http://{address}/mcp"),
        ])
        .output()?;
    let output = String::from_utf8(output.stdout)?;
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
    Ok(Load {
        requests_per_second: value("Requests/sec:")?.parse()?,
        p50: microseconds(value("50%")?)?,
        p99: microseconds(value("99%")?)?,
    })
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

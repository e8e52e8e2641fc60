//! MCP's official SDKs as clients of the gateway example. They learn from its 401 where to log in, register themselves at npm's
//! oidc-provider, and call the tools of two backends, across an expiry of all tokens.
#![cfg(all(
    feature = "config",
    feature = "hyper",
    feature = "linking",
    feature = "rmcp"
))]

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/config.rs"]
mod config;
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/gateway/gateway.rs"]
mod gateway;
#[path = "../examples/gateway/pages.rs"]
mod pages;
mod support;

use std::{
    collections::BTreeMap,
    future::pending,
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use support::{
    gateway_world::{ALICE, SECRET, World},
    peers,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use tower_identity::{ManualClock, MemoryStore};

use config::Config;
use gateway::{Gateway, Surroundings};

const TWO_HOURS: u64 = 7200;
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// The gateway, in a world whose clocks are set by hand.
async fn gateway() -> Option<(World, Arc<ManualClock>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&format!("http://{}", listener.local_addr().unwrap())).await?;
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
    let surroundings = Surroundings {
        environment: |_| Some(SECRET.to_owned()),
        clock: clock.clone(),
        store: Arc::new(store),
    };
    let config = Config::from_yaml(&world.file()).unwrap();
    let gateway = Gateway::new(&config, surroundings).unwrap();
    tokio::spawn(gateway.serve(listener, pending()));
    Some((world, clock))
}

/// A program that uses an SDK.
struct Client {
    process: Child,
    errors: ChildStderr,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(peer: &str, mode: &str, gateway: &str) -> Option<Self> {
        let servers = ["github", "tickets"].map(|name| (name, format!("{gateway}/{name}")));
        let mut process = Command::from(peers::required(peer)?)
            .arg(mode)
            .arg(json!(BTreeMap::from(servers)).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Some(Self {
            errors: process.stderr.take().unwrap(),
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
        })
    }

    async fn tell(&mut self, line: Value) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    async fn said(&mut self) -> Value {
        let line = timeout(STEP_LIMIT, self.output.next_line()).await;
        let line = line.expect("the client does nothing").unwrap();
        let Some(line) = line else {
            panic!("the client ended: {}", self.complaint().await);
        };
        serde_json::from_str(&line).unwrap()
    }

    /// Reads the error with which the program ends.
    async fn complaint(&mut self) -> String {
        let mut complaint = String::new();
        let reading = self.errors.read_to_string(&mut complaint);
        timeout(STEP_LIMIT, reading).await.unwrap().unwrap();
        complaint
    }

    async fn end(mut self) {
        drop(self.input);
        let status = timeout(STEP_LIMIT, self.process.wait()).await;
        assert!(status.expect("the client does not end").unwrap().success());
    }
}

async fn uses_both_backends_across_an_expiry(peer: &str, mode: &str) {
    let Some((world, clock)) = gateway().await else {
        return;
    };
    let Some(mut client) = Client::start(peer, mode, &world.gateway) else {
        return;
    };
    let mut alice = world.alice();
    let link = format!("{}/accounts/link/github", world.gateway);
    let page = alice.open(&link).await;
    assert!(page.contains("linked, next renewed before"), "{page}");

    let mut tokens = Vec::new();
    let mut asked = Vec::new();
    for ahead in [0, TWO_HOURS] {
        if ahead > 0 {
            clock.advance(Duration::from_secs(ahead));
            world.be_ahead(ahead).await;
            client.tell(json!(ahead)).await;
        }
        loop {
            let said = client.said().await;
            if let Some(url) = said["authorize"].as_str() {
                asked.push(url.to_owned());
                client.tell(json!(alice.open(url).await)).await;
            } else if let Some(server) = said["server"].as_str() {
                let token = said["answer"].as_str().unwrap().to_owned();
                let expected = ALICE[usize::from(server == "github")];
                assert_eq!(world.owner(server, &token, clock.clone()).await, expected);
                assert!(!tokens.contains(&token), "all tokens have expired");
                tokens.push(token);
            } else {
                break;
            }
        }
    }
    assert_eq!(tokens.len(), 4);
    client.end().await;

    // One login at each backend, for this backend alone, and none after the expiry.
    assert_eq!(asked.len(), 2, "{asked:#?}");
    for (name, url) in ["github", "tickets"].into_iter().zip(asked) {
        let (_, query) = url.split_once('?').unwrap();
        let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        assert_eq!(query["resource"], format!("{}/{name}", world.gateway));
        assert_eq!(query["code_challenge_method"], "S256");
    }
    assert_eq!(
        world.issuer.count("grant.success", "refresh_token").await,
        2
    );
}

/// A 401 would have the client log in again, and the user see nothing of what to do.
#[tokio::test]
async fn who_has_not_linked_an_account_is_told_where_by_each_sdk() {
    let Some((world, _)) = gateway().await else {
        return;
    };
    for (peer, mode) in [
        (peers::MCP_TYPESCRIPT, "v2"),
        (peers::MCP_TYPESCRIPT, "v1"),
        (peers::MCP_PYTHON, "auto"),
        (peers::MCP_PYTHON, "legacy"),
    ] {
        let Some(mut client) = Client::start(peer, mode, &world.gateway) else {
            return;
        };
        let asked = client.said().await;
        let url = asked["authorize"].as_str().unwrap();
        client.tell(json!(world.alice().open(url).await)).await;
        let complaint = client.complaint().await;
        let link = format!("{}/accounts/link/github", world.gateway);
        assert!(complaint.contains(&link), "{peer} {mode}: {complaint}");
    }
}

#[tokio::test]
async fn the_typescript_sdk_logs_in_and_calls_tools_across_an_expiry() {
    uses_both_backends_across_an_expiry(peers::MCP_TYPESCRIPT, "v2").await;
}

#[tokio::test]
async fn the_first_typescript_sdk_does_so_too() {
    uses_both_backends_across_an_expiry(peers::MCP_TYPESCRIPT, "v1").await;
}

#[tokio::test]
async fn the_python_sdk_logs_in_and_calls_tools_across_an_expiry() {
    uses_both_backends_across_an_expiry(peers::MCP_PYTHON, "auto").await;
}

#[tokio::test]
async fn the_python_sdk_does_so_in_sessions_too() {
    uses_both_backends_across_an_expiry(peers::MCP_PYTHON, "legacy").await;
}

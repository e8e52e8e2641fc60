//! The gateway example as a stranger runs it: `--serve` and `--config`, with npm's oidc-provider as the issuer and as the
//! provider of linked accounts, and with Redis. A real browser uses its pages.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "hyper",
    feature = "linking",
    feature = "redis",
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
    env,
    future::pending,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use serde_json::{Value, json};
use support::{
    gateway_world::{ALICE, Caller, SECRET, World},
    http_server::{HttpServer, server_body},
    peers,
    redis::RedisServer,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    sync::OnceCell,
    time::timeout,
};
use tower_identity::{ManualClock, MemoryStore, SystemClock};

use config::Config;
use gateway::{Gateway, Surroundings};

const STEP_LIMIT: Duration = Duration::from_secs(120);
const SESSION: &str = "__Host-gateway-session";
/// Of 32 bytes.
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// The example, which is built if need be.
async fn example() -> Command {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let mut command = Command::new(BUILT.get_or_init(build).await);
    command
        .env("GITHUB_CLIENT_SECRET", SECRET)
        .env("IDP_CLIENT_SECRET", SECRET)
        .env("UPSTREAM_TOKEN_KEY", KEY)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn build() -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    for (name, _) in env::vars_os() {
        // What Cargo tells a test about its package would have build scripts run again.
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = cargo
        .args(["build", "--quiet", "--all-features", "--example", "gateway"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .await;
    assert!(built.unwrap().success());
    target.join("debug/examples/gateway")
}

/// A port for a gateway, and its URL.
fn address() -> (String, String) {
    let address = format!("127.0.0.1:{}", peers::free_port());
    let url = format!("http://{address}");
    (address, url)
}

/// Writes the file of a gateway that keeps tokens in this Redis, or in its memory, and returns its path.
fn file(world: &World, redis: Option<&RedisServer>) -> String {
    let name = world.gateway.replace([':', '/'], "-");
    let path = format!("{}/{name}.yaml", env!("CARGO_TARGET_TMPDIR"));
    let mut text = world.file();
    if let Some(redis) = redis {
        let commented = "# redis: rediss://redis.example.com";
        assert!(text.contains(commented));
        text = text.replace(commented, &format!("redis: {}", redis.url()));
    }
    std::fs::write(&path, text).unwrap();
    path
}

async fn serve(address: &str, file: &str) -> Child {
    let mut command = example().await;
    let command = command.args(["--serve", address, "--config", file]);
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
    let line = timeout(STEP_LIMIT, said.next_line()).await.unwrap();
    assert_eq!(line.unwrap().unwrap(), format!("serving on {address}"));
    process
}

async fn stop(mut process: Child) {
    let id = process.id().unwrap().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(told.unwrap().success());
    let status = timeout(STEP_LIMIT, process.wait()).await.unwrap();
    assert!(status.unwrap().success(), "it says good-bye");
}

#[tokio::test]
async fn a_stranger_serves_it_with_redis_and_links_survive_a_restart() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (address, url) = address();
    let Some(world) = World::start(&url).await else {
        return;
    };
    let file = file(&world, Some(&redis));
    let gateway = serve(&address, &file).await;

    let mut alice = world.alice();
    let link = format!("{url}/accounts/link/github");
    let mut page = alice.open(&link).await;
    // A busy machine may keep the gateway waiting for Redis.
    while page.contains("does not answer at the moment") {
        page = alice.open(&link).await;
    }
    assert!(page.contains("linked, next renewed before"), "{page}");
    let mut times = Vec::new();
    for _ in 0..101 {
        let start = Instant::now();
        let page = alice.open(&format!("{url}/accounts")).await;
        times.push(start.elapsed());
        assert!(page.contains("logged in as"), "{page}");
    }
    times.sort_unstable();
    println!("a page with Redis: {:?} (median of 101)", times[50]);

    let clock = Arc::new(SystemClock);
    for backend in ["github", "tickets"] {
        let mut caller = Caller::log_in(&world, backend, &mut alice).await;
        let token = caller.call().await.unwrap();
        let expected = ALICE[usize::from(backend == "github")];
        assert_eq!(world.owner(backend, &token, clock.clone()).await, expected);
        // A token for one backend is none for the other.
        let elsewhere = if backend == "github" {
            "tickets"
        } else {
            "github"
        };
        let refused = caller.at(&world, elsewhere).call().await.unwrap_err();
        assert!(refused.starts_with("401"), "{refused}");
        let metadata = format!("{url}/.well-known/oauth-protected-resource/{elsewhere}");
        assert!(refused.contains(&metadata), "{refused}");
    }

    stop(gateway).await;
    for backend in ["github", "tickets"] {
        let deleted = world.backend(backend).wait_for("DELETE");
        let deleted = timeout(STEP_LIMIT, deleted).await;
        assert!(deleted.is_ok(), "the session with {backend} was not closed");
    }
    let gateway = serve(&address, &file).await;
    let page = alice.open(&format!("{url}/accounts")).await;
    assert!(page.contains("linked, next renewed before"), "{page}");
    let mut caller = Caller::log_in(&world, "github", &mut alice).await;
    let token = caller.call().await.unwrap();
    assert_eq!(world.owner("github", &token, clock).await, ALICE[1]);
    stop(gateway).await;
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let example_file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/gateway/gateway.yaml");
    let with_redis = format!("{}/with-redis.yaml", env!("CARGO_TARGET_TMPDIR"));
    let text = std::fs::read_to_string(example_file).unwrap();
    std::fs::write(&with_redis, text.replace("# redis:", "redis:")).unwrap();
    for (variable, file, expected) in [
        (
            "IDP_CLIENT_SECRET",
            example_file,
            "`IDP_CLIENT_SECRET` that is not set",
        ),
        (
            "GITHUB_CLIENT_SECRET",
            example_file,
            "provider github: the variable GITHUB_CLIENT_SECRET is not set",
        ),
        (
            "UPSTREAM_TOKEN_KEY",
            &with_redis,
            "the variable UPSTREAM_TOKEN_KEY is not set",
        ),
        ("NOTHING", "no-such.yaml", "no-such.yaml: No such file"),
    ] {
        let mut command = example().await;
        command.env_remove(variable);
        let mut process = command
            .args(["--serve", "127.0.0.1:0", "--config", file])
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = process.stderr.take().unwrap();
        output.read_to_string(&mut said).await.unwrap();
        assert!(!process.wait().await.unwrap().success());
        assert!(said.contains(expected), "{variable}: {said}");
    }
}

#[tokio::test]
async fn a_session_of_the_pages_is_sealed_and_bounded_and_no_other_site_ends_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let Some(world) = World::start(&url).await else {
        return;
    };
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let config = Config::from_yaml(&world.file()).unwrap();
    let gateway = || {
        let surroundings = Surroundings {
            environment: |_| Some(SECRET.to_owned()),
            clock: clock.clone(),
            store: Arc::new(MemoryStore::new()),
        };
        Gateway::new(&config, surroundings).unwrap()
    };
    tokio::spawn(gateway().serve(listener, pending()));

    let mut mallory = world.person(["<b>mallory", "mallory-at-github"]);
    let accounts = format!("{url}/accounts");
    let page = mallory.open(&accounts).await;
    assert!(page.contains("<b>&lt;b&gt;mallory</b>"), "{page}");

    let cookie = mallory.cookie(&url, SESSION);
    let get = async |cookie: String| {
        let cookie = format!("{SESSION}={cookie}");
        mallory
            .send(Method::GET, &accounts, &[("cookie", &cookie)])
            .await
    };
    let page = get(cookie.clone()).await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");

    let asks_for_login = |page: Response<Incoming>| {
        assert_eq!(page.status(), StatusCode::SEE_OTHER);
        assert_eq!(page.headers()["location"], "/login?return_to=%2Faccounts");
    };
    for at in 0..cookie.len() {
        let mut changed = cookie.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        asks_for_login(get(String::from_utf8(changed).unwrap()).await);
    }
    // A gateway with another key cannot read it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let another = format!("http://{}/accounts", listener.local_addr().unwrap());
    tokio::spawn(gateway().serve(listener, pending()));
    let sealed = format!("{SESSION}={cookie}");
    let page = mallory
        .send(Method::GET, &another, &[("cookie", &sealed)])
        .await;
    asks_for_login(page);

    let out = format!("{url}/logout");
    for (name, value) in [
        ("origin", "https://evil.example.com"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("cookie", &*sealed),
    ] {
        let page = mallory.send(Method::POST, &out, &[(name, value)]).await;
        assert_eq!(page.status(), StatusCode::FORBIDDEN, "{name}: {value}");
        assert!(!page.headers().contains_key("set-cookie"));
    }
    let page = mallory.send(Method::POST, &out, &[("origin", &url)]).await;
    assert_eq!(page.status(), StatusCode::OK);
    let gone = page.headers()["set-cookie"].to_str().unwrap();
    assert!(gone.contains("Max-Age=0"), "{gone}");

    clock.advance(Duration::from_secs(8 * 3600 - 1));
    assert_eq!(get(cookie.clone()).await.status(), StatusCode::OK);
    clock.advance(Duration::from_secs(1));
    asks_for_login(get(cookie).await);
}

#[tokio::test]
async fn a_user_is_sent_to_log_in_only_where_that_helps_against_a_refusal_of_the_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let Some(world) = World::start(&url).await else {
        return;
    };
    let refusing = HttpServer::start(async |_| {
        let response = Response::builder().status(StatusCode::UNAUTHORIZED);
        response.body(server_body(Empty::new())).unwrap()
    })
    .await;
    let mut file = world.file();
    for backend in ["github", "tickets"] {
        file = file.replace(&world.backend(backend).url(), &refusing.uri("/mcp"));
    }
    file.truncate(
        file.find("    tickets:\n      type: token_exchange")
            .unwrap(),
    );
    file.push_str(
        "    tickets:\n      type: header_injection\n      headerInjection: { headerName: x-api-key, headerValue: k3y }\n",
    );
    let surroundings = Surroundings {
        environment: |_| Some(SECRET.to_owned()),
        clock: Arc::new(SystemClock),
        store: Arc::new(MemoryStore::new()),
    };
    let gateway = Gateway::new(&Config::from_yaml(&file).unwrap(), surroundings).unwrap();
    tokio::spawn(gateway.serve(listener, pending()));
    let mut alice = world.alice();

    let mut caller = Caller::log_in(&world, "tickets", &mut alice).await;
    let said = caller.call().await.unwrap_err();
    assert!(refusing.requests()[0].headers.contains_key("x-api-key"));
    assert!(!said.contains("401"), "{said}");
    for word in ["www-authenticate", "log in", "x-api-key", "k3y"] {
        assert!(!said.to_lowercase().contains(word), "{said}");
    }

    // For example, the user has revoked the token there.
    let link = format!("{url}/accounts/link/github");
    let page = alice.open(&link).await;
    assert!(page.contains("linked, next renewed before"), "{page}");
    let mut caller = Caller::log_in(&world, "github", &mut alice).await;
    let said = caller.call().await.unwrap_err();
    assert_eq!(refusing.requests().len(), 2);
    assert!(said.contains(&link), "{said}");
    for word in ["401", "www-authenticate", "log in again"] {
        assert!(!said.to_lowercase().contains(word), "{said}");
    }
}

#[tokio::test]
async fn a_browser_logs_in_links_refuses_renews_and_unlinks() {
    let Some(browser) = peers::required(peers::CHROMIUM) else {
        return;
    };
    let (address, url) = address();
    // Tokens of the linked account are renewed for each call.
    let Some(world) = World::start_with(&url, 1).await else {
        return;
    };
    let gateway = serve(&address, &file(&world, None)).await;

    let mut caller = Caller::log_in(&world, "github", &mut world.alice()).await;
    let shots = concat!(env!("CARGO_TARGET_TMPDIR"), "/browser");
    let mut browser = Command::from(browser)
        .args([&*url, shots])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = browser.stdin.take().unwrap();
    let mut said = BufReader::new(browser.stdout.take().unwrap()).lines();
    let mut checked = 0;
    while let Some(line) = timeout(STEP_LIMIT, said.next_line())
        .await
        .unwrap()
        .unwrap()
    {
        let line: Value = serde_json::from_str(&line).unwrap();
        let answer = match line["ask"].as_str() {
            Some("call") => match caller.call().await {
                Ok(token) => {
                    let owner = world.owner("github", &token, Arc::new(SystemClock)).await;
                    json!({ "owner": owner })
                }
                Err(refused) => json!({ "refused": refused }),
            },
            Some("mallory") => {
                let mut mallory = world.person(["mallory", "mallory-at-github"]);
                let link = format!("{url}/accounts/link/github");
                let back = format!("{url}/accounts/link/callback/");
                json!(mallory.open_until(&link, &back).await)
            }
            Some("end the link") => {
                world.github.revoke_all().await;
                json!({})
            }
            _ => {
                println!("{line}");
                checked += 1;
                continue;
            }
        };
        let answer = format!("{answer}\n");
        input.write_all(answer.as_bytes()).await.unwrap();
    }
    let status = timeout(STEP_LIMIT, browser.wait()).await.unwrap();
    assert!(status.unwrap().success(), "the screenshots are in {shots}");
    assert!(checked > 25, "{checked}");
    stop(gateway).await;
}

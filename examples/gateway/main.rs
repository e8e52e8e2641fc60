//! An MCP gateway, whole: callers are validated, sessions are kept, and each backend gets the credential it wants.
//!
//! ```sh
//! cargo run --all-features --example gateway
//! cargo run --all-features --example gateway -- --demo
//! GITHUB_CLIENT_SECRET=… IDP_CLIENT_SECRET=… \
//!     cargo run --all-features --example gateway -- \
//!     --serve 127.0.0.1:8080 --config examples/gateway/gateway.yaml
//! ```
//!
//! The gateway is `gateway.rs`, and this is the file to copy. Without arguments it is driven through a user's day, in one
//! process and by a clock that is moved by hand: an issuer and two real MCP servers on loopback, seventeen tool calls
//! with and without sessions, two expiries of all tokens, a revoked refresh token, a redirect to a stranger, and the end
//! of the sessions. The exit code is 0 if each line of the timeline is as it should be.
//!
//! With `--demo` it starts the same world on loopback, and waits for a browser: log in, link an account, unlink it. The
//! pages are `pages.rs`.

mod config;
mod drive;
mod fakes;
mod gateway;
mod pages;

use std::{fs, process::ExitCode, sync::Arc};

use tokio::{
    net::TcpListener,
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
};
use tower::BoxError;
use tower_identity::{
    MemoryStore, RedisStore, SystemClock, UpstreamTokenStore, upstream::SealingKey,
};
use tracing_subscriber::EnvFilter;

use config::Config;
use gateway::{Gateway, Surroundings};

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => drive::drive().await,
        ["--demo"] => drive::demo().await,
        ["--serve", address, "--config", file] => serve(address, file).await,
        _ => Err("usage: gateway [--demo | --serve ADDRESS --config FILE]".into()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

async fn serve(address: &str, file: &str) -> Result<ExitCode, BoxError> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let config = Config::from_yaml(&text).map_err(|error| format!("{file}: {error}"))?;
    let surroundings = Surroundings {
        environment: |variable| std::env::var(variable).ok(),
        clock: Arc::new(SystemClock),
        store: store(&config)?,
    };
    let gateway = Gateway::new(&config, surroundings)?;
    let listener = TcpListener::bind(address).await?;
    eprintln!("serving on {}", listener.local_addr()?);
    gateway.serve(listener, stopped()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the signal to stop.
fn stopped() -> Result<impl Future<Output = ()> + Send + 'static, BoxError> {
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    })
}

fn store(config: &Config) -> Result<Arc<dyn UpstreamTokenStore>, BoxError> {
    let Some(url) = &config.redis else {
        return Ok(Arc::new(MemoryStore::new()));
    };
    let key = std::env::var("UPSTREAM_TOKEN_KEY")
        .map_err(|_| "the variable UPSTREAM_TOKEN_KEY is not set")?;
    let key = SealingKey::from_base64(&key)?;
    Ok(Arc::new(RedisStore::builder(url, key).build()?))
}

//! An MCP gateway, whole: callers are validated, sessions are kept, and each backend gets the credential it wants.
//!
//! ```sh
//! cargo run --all-features --example gateway
//! cargo run --all-features --example gateway -- --serve 127.0.0.1:8080 --config examples/gateway/gateway.yaml
//! ```
//!
//! The gateway is `gateway.rs`, and this is the file to copy. Without arguments it is driven through a user's day, in one
//! process and by a clock that is moved by hand: an issuer and two real MCP servers on loopback, ten tool calls, two
//! expiries of all tokens, a revoked refresh token, a redirect to a stranger, and the end of the sessions. The exit code is
//! 0 if each line of the timeline is as it should be.

mod drive;
mod fakes;
mod gateway;

use std::{process::ExitCode, sync::Arc};

use tokio::{net::TcpListener, signal};
use tower::BoxError;
use tower_identity::{MemoryStore, clock::SystemClock};

use gateway::{Config, Gateway, Surroundings};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => drive::drive().await,
        ["--serve", address, "--config", file] => {
            let config: Config = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
            let surroundings = Surroundings {
                environment: |variable| std::env::var(variable).ok(),
                clock: Arc::new(SystemClock),
                store: MemoryStore::new(),
            };
            let gateway = Gateway::new(&config, surroundings)?;
            let listener = TcpListener::bind(address).await?;
            gateway.serve(listener, stop()).await?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("usage: gateway [--serve ADDRESS --config FILE]");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn stop() {
    // Without a handler there is no way to be asked to stop, but by being killed.
    if signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

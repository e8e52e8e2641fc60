//! Redis as it is run where it may not be down: a primary with replicas and sentinels, and a cluster.
//!
//! All of it blocks until the servers themselves say that what was asked for has happened.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{authority::Authority, peers, redis::RedisServer};

pub(crate) const SERVICE: &str = "fleet";
const LIMIT: Duration = Duration::from_secs(60);
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(5);
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// TLS between servers, and with clients that have a certificate of the same CA.
pub(crate) struct ServerTls {
    directory: TempDir,
}

impl ServerTls {
    pub(crate) fn new(authority: &Authority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.issue("127.0.0.1");
        for (name, content) in [
            ("cert", &certificate),
            ("key", &key),
            ("ca-cert", &authority.certificate),
        ] {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Self { directory }
    }

    fn options(&self, port: u16) -> Vec<(String, String)> {
        let mut options = vec![("tls-port".to_owned(), port.to_string())];
        for name in ["cert", "key", "ca-cert"] {
            let file = self.directory.path().join(name);
            let file = file.to_str().unwrap().to_owned();
            options.push((format!("tls-{name}-file"), file));
        }
        options.push(("tls-replication".to_owned(), "yes".to_owned()));
        options
    }
}

/// The port for TLS and the options that go with it, if there is any.
fn tls_options(tls: Option<&ServerTls>) -> (Option<u16>, Vec<(String, String)>) {
    let Some(tls) = tls else {
        return (None, Vec::new());
    };
    let port = peers::free_port();
    (Some(port), tls.options(port))
}

fn known_by(server: RedisServer, tls_port: Option<u16>) -> Mutex<RedisServer> {
    Mutex::new(match tls_port {
        Some(port) => server.known_by_tls_port(port),
        None => server,
    })
}

fn as_words(options: &[(String, String)]) -> impl Iterator<Item = String> {
    let words = options.iter();
    words.flat_map(|(name, value)| [format!("--{name}"), value.clone()])
}

/// A primary with two replicas, and three sentinels that watch over them.
pub(crate) struct SentinelFleet {
    servers: Vec<Mutex<RedisServer>>,
    sentinels: Vec<Mutex<RedisServer>>,
}

impl SentinelFleet {
    /// Starts servers with these options besides. `None`, loudly, where there is no `redis-server`.
    ///
    /// # Panics
    ///
    /// Where there is none and `CI` is set.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        Self::start_with(None, options)
    }

    /// As [`start`](Self::start), with TLS on all connections but those of the test itself.
    pub(crate) fn start_tls(tls: &ServerTls) -> Option<Self> {
        Self::start_with(Some(tls), &[])
    }

    fn start_with(tls: Option<&ServerTls>, options: &[&str]) -> Option<Self> {
        let program: PathBuf = peers::required(peers::REDIS)?.get_program().into();
        let launch = |primary: Option<SocketAddr>| {
            let (tls_port, tls) = tls_options(tls);
            let server = RedisServer::launch(program.clone(), peers::free_port(), |_| {
                let common =
                    "--bind 127.0.0.1 --replica-announce-ip 127.0.0.1 --repl-diskless-sync-delay 0";
                let mut words: Vec<String> = common.split(' ').map(Into::into).collect();
                words.extend(["--save".into(), String::new()]);
                words.extend(as_words(&tls));
                words.extend(options.iter().map(|&option| option.into()));
                if let Some(primary) = primary {
                    let address = format!("{} {}", primary.ip(), primary.port());
                    words.extend(["--replicaof".into(), address]);
                }
                words
            });
            known_by(server, tls_port)
        };
        let primary = launch(None);
        let address = lock(&primary).known_address();
        let replicas = [launch(Some(address)), launch(Some(address))];
        let sentinels = (0..3).map(|_| {
            let (tls_port, tls) = tls_options(tls);
            let sentinel = RedisServer::launch(program.clone(), peers::free_port(), |directory| {
                let file = directory.join("sentinel.conf");
                let mut settings = sentinel_settings(address);
                for (name, value) in tls {
                    settings += &format!("{name} {value}\n");
                }
                fs::write(&file, settings).unwrap();
                vec![file.to_str().unwrap().into(), "--sentinel".into()]
            });
            known_by(sentinel, tls_port)
        });
        let fleet = Self {
            servers: [primary].into_iter().chain(replicas).collect(),
            sentinels: sentinels.collect(),
        };
        for sentinel in fleet.running_sentinels() {
            // By default they look every ten seconds, and introduce themselves every two.
            sentinel.ask::<()>("SENTINEL DEBUG INFO-PERIOD 200 PUBLISH-PERIOD 200 PING-PERIOD 100");
        }
        fleet.settle();
        Some(fleet)
    }

    /// A URL for each sentinel.
    pub(crate) fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels
            .iter()
            .map(|sentinel| lock(sentinel).client_url())
            .collect()
    }

    /// Which server the sentinels name. `None` while they do not agree, or it does not take itself for the primary.
    pub(crate) fn primary(&self) -> Option<SocketAddr> {
        let mut named = self.running_sentinels().map(|sentinel| named_by(&sentinel));
        let primary = named.next()?;
        let agree = named.all(|other| other == primary);
        (agree && self.role(primary).as_deref() == Some("master")).then_some(primary)
    }

    /// What was asked of the primary.
    pub(crate) fn ask_primary<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.with_primary(|primary| primary.ask(command))
    }

    /// Does something with the primary that the sentinels name.
    pub(crate) fn with_primary<T>(&self, act: impl FnOnce(&mut RedisServer) -> T) -> T {
        let address = wait_for("a primary", || self.primary());
        act(&mut self.server(address))
    }

    /// Has the sentinels put a replica in the primary's place, and gives its address.
    pub(crate) fn fail_over(&self) -> SocketAddr {
        let before = wait_for("a primary", || self.primary());
        let mut asked_at: Option<Instant> = None;
        wait_for("another primary", || {
            // Right after another one there is none yet, and on a busy machine one may be given up.
            if asked_at.is_none_or(|asked_at| asked_at.elapsed() > ASKED_AGAIN_AFTER) {
                let sentinel = self.running_sentinels().next().unwrap();
                let mut command = redis::cmd("SENTINEL");
                command.arg("FAILOVER").arg(SERVICE);
                let is_before = named_by(&sentinel) == before;
                if is_before && command.exec(&mut sentinel.connection()).is_ok() {
                    asked_at = Some(Instant::now());
                }
            }
            self.primary().filter(|now| *now != before)
        })
    }

    /// Ends the primary as a crash does, and gives the address of the one that the sentinels chose instead.
    pub(crate) fn crash_primary(&self) -> SocketAddr {
        let before = wait_for("a primary", || self.primary());
        self.server(before).kill();
        self.wait_for_successor(before)
    }

    /// Ends the primary, and starts it from its last snapshot before a sentinel misses it: what came since is lost.
    pub(crate) fn restart_primary_from_snapshot(&self) {
        self.with_primary(RedisServer::restart);
    }

    /// Starts the servers again that were ended, and waits until all follow the primary.
    pub(crate) fn heal(&self) {
        for server in self.servers.iter().chain(&self.sentinels) {
            let mut server = lock(server);
            if !server.is_running() {
                server.restart();
            }
        }
        self.settle();
    }

    pub(crate) fn kill_sentinel(&self, index: usize) {
        lock(&self.sentinels[index]).kill();
    }

    fn settle(&self) {
        let replicas = self.servers.len() - 1;
        wait_for("replicas that follow, and sentinels that know them", || {
            let primary = self.primary()?;
            let info: String = self.server(primary).ask("INFO replication");
            // The primary calls a replica online before that one has loaded what it was sent.
            let follow = info.matches("state=online").count() == replicas
                && self.servers.iter().all(|server| {
                    let server = lock(server);
                    server.known_address() == primary || has_loaded(&server)
                });
            let sentinels = self.running_sentinels().count();
            let known =
                format!("status=ok,address={primary},slaves={replicas},sentinels={sentinels}");
            let is_known = |sentinel: MutexGuard<'_, RedisServer>| {
                sentinel.ask::<String>("INFO sentinel").contains(&known)
            };
            (follow && self.running_sentinels().all(is_known)).then_some(())
        });
    }

    fn wait_for_successor(&self, before: SocketAddr) -> SocketAddr {
        wait_for("another primary", || {
            self.primary().filter(|now| *now != before)
        })
    }

    fn role(&self, address: SocketAddr) -> Option<String> {
        let server = self.server(address);
        let mut connection = redis::Client::open(server.url())
            .ok()?
            .get_connection()
            .ok()?;
        let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut connection).ok()?;
        redis::from_redis_value_ref(role.first()?).ok()
    }

    fn server(&self, address: SocketAddr) -> MutexGuard<'_, RedisServer> {
        let mut servers = self.servers.iter().map(lock);
        servers
            .find(|server| server.known_address() == address)
            .unwrap()
    }

    fn running_sentinels(&self) -> impl Iterator<Item = MutexGuard<'_, RedisServer>> {
        self.sentinels
            .iter()
            .map(lock)
            .filter(|sentinel| sentinel.is_running())
    }
}

fn named_by(sentinel: &RedisServer) -> SocketAddr {
    let command = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}");
    let (host, port): (String, u16) = sentinel.ask(&command);
    SocketAddr::new(host.parse().unwrap(), port)
}

/// Whether a replica has what its primary had when it began to follow.
fn has_loaded(replica: &RedisServer) -> bool {
    let info: String = replica.ask("INFO");
    info.contains("loading:0")
        && info.contains("master_link_status:up")
        && info.contains("master_sync_in_progress:0")
}

fn sentinel_settings(primary: SocketAddr) -> String {
    format!(
        "bind 127.0.0.1\n\
         sentinel monitor {SERVICE} {} {} 2\n\
         sentinel down-after-milliseconds {SERVICE} 500\n\
         sentinel failover-timeout {SERVICE} 2000\n\
         sentinel parallel-syncs {SERVICE} 2\n",
        primary.ip(),
        primary.port()
    )
}

/// A cluster of three masters, which share the slots evenly. There may be a replica of each.
pub(crate) struct Cluster {
    /// The masters, then their replicas, until one takes the place of another.
    nodes: Vec<Mutex<RedisServer>>,
}

impl Cluster {
    /// Starts masters with these options besides. `None`, loudly, where there is no `redis-server`.
    ///
    /// # Panics
    ///
    /// Where there is none and `CI` is set.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        Self::start_with(SLOTS.len(), None, options)
    }

    /// As [`start`](Self::start), with a replica of each master.
    pub(crate) fn start_with_replicas(options: &[&str]) -> Option<Self> {
        Self::start_with(2 * SLOTS.len(), None, options)
    }

    /// As [`start`](Self::start), with TLS on all connections but those of the test itself.
    pub(crate) fn start_tls(tls: &ServerTls) -> Option<Self> {
        Self::start_with(SLOTS.len(), Some(tls), &[])
    }

    fn start_with(nodes: usize, tls: Option<&ServerTls>, options: &[&str]) -> Option<Self> {
        let program: PathBuf = peers::required(peers::REDIS)?.get_program().into();
        let mut buses = Vec::new();
        let nodes = (0..nodes).map(|_| {
            let bus = peers::free_port();
            buses.push(bus);
            let (tls_port, mut tls) = tls_options(tls);
            if tls_port.is_some() {
                tls.push(("tls-cluster".to_owned(), "yes".to_owned()));
            }
            let server = RedisServer::launch(program.clone(), peers::free_port(), |_| {
                let common = format!(
                    "--bind 127.0.0.1 --cluster-enabled yes --cluster-node-timeout 1000 \
                     --cluster-announce-ip 127.0.0.1 --cluster-port {bus} --repl-diskless-sync-delay 0"
                );
                let mut words: Vec<String> = common.split(' ').map(Into::into).collect();
                words.extend(["--save".into(), String::new()]);
                words.extend(as_words(&tls));
                words.extend(options.iter().map(|&option| option.into()));
                words
            });
            known_by(server, tls_port)
        });
        let nodes: Vec<_> = nodes.collect();
        let first = lock(&nodes[0]).known_address().port();
        for (number, node) in nodes.iter().enumerate() {
            let node = lock(node);
            if let Some((from, to)) = SLOTS.get(number) {
                node.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            }
            node.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
            if number > 0 {
                let meet = format!("CLUSTER MEET 127.0.0.1 {first} {}", buses[0]);
                node.ask::<()>(&meet);
            }
        }
        let cluster = Self { nodes };
        for replica in SLOTS.len()..cluster.nodes.len() {
            let master = cluster.id(replica - SLOTS.len());
            let command = redis::cmd("CLUSTER").arg("REPLICATE").arg(master).clone();
            wait_for("a replica that knows its master", || {
                cluster.with(replica, |replica| {
                    command.exec(&mut replica.connection()).ok()
                })
            });
        }
        cluster.settle();
        Some(cluster)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| lock(node).client_url())
            .collect()
    }

    fn id(&self, node: usize) -> String {
        self.with(node, |node| node.ask("CLUSTER MYID"))
    }

    /// Does something with a node by its place.
    pub(crate) fn with<T>(&self, node: usize, act: impl FnOnce(&mut RedisServer) -> T) -> T {
        act(&mut lock(&self.nodes[node]))
    }

    /// The place of the master that has this key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        self.owner_by(0, key)
    }

    fn owner_by(&self, asked: usize, key: &str) -> usize {
        let slot: u16 = self.with(asked, |node| node.ask(&format!("CLUSTER KEYSLOT {key}")));
        let ranges: Vec<Vec<redis::Value>> = self.with(asked, |node| node.ask("CLUSTER SLOTS"));
        let number = |value: &redis::Value| redis::from_redis_value_ref::<u16>(value).unwrap();
        let is_in = |range: &&Vec<_>| (number(&range[0])..=number(&range[1])).contains(&slot);
        let range = ranges.iter().find(is_in).expect("a slot that nobody has");
        let master: Vec<redis::Value> = redis::from_redis_value_ref(&range[2]).unwrap();
        let port = number(&master[1]);
        let is_owner = |node: &Mutex<RedisServer>| lock(node).address().port() == port;
        self.nodes.iter().position(is_owner).unwrap()
    }

    /// Moves the slot of this key, with what is in it, to another master, and gives its place.
    pub(crate) fn move_away(&self, key: &str) -> usize {
        let from = self.owner(key);
        let to = (from + 1) % SLOTS.len();
        let (from_id, to_id) = (self.id(from), self.id(to));
        let (slot, port): (u16, u16) = self.with(to, |master| {
            (
                master.ask(&format!("CLUSTER KEYSLOT {key}")),
                master.known_address().port(),
            )
        });
        let set = |master, what: &str| {
            self.with(master, |master| {
                master.ask::<()>(&format!("CLUSTER SETSLOT {slot} {what}"))
            });
        };
        set(to, &format!("IMPORTING {from_id}"));
        set(from, &format!("MIGRATING {to_id}"));
        let keys: Vec<String> = self.with(from, |master| {
            master.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"))
        });
        for key in keys {
            self.with(from, |master| {
                master.ask::<String>(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000"))
            });
        }
        for master in [to, from] {
            set(master, &format!("NODE {to_id}"));
        }
        wait_for("masters that know where the slot went", || {
            let all = (0..SLOTS.len()).all(|asked| self.owner_by(asked, key) == to);
            all.then_some(())
        });
        to
    }

    /// Ends a master as a crash does, and waits until the others refuse to serve.
    pub(crate) fn crash(&self, master: usize) {
        self.with(master, RedisServer::kill);
        wait_for("a cluster that is down", || {
            self.states().contains(&Some(false)).then_some(())
        });
    }

    /// Ends a master as a crash does, and gives the place of the replica that has its slots instead.
    pub(crate) fn crash_to_replica(&self, master: usize, key: &str) -> usize {
        assert_eq!(self.owner(key), master);
        let other = (master + 1) % SLOTS.len();
        self.with(master, RedisServer::kill);
        wait_for("a replica that is master", || {
            let owner = self.owner_by(other, key);
            (owner != master).then_some(owner)
        })
    }

    /// Starts the nodes again that were ended, and waits until the cluster serves.
    pub(crate) fn heal(&self) {
        for node in &self.nodes {
            let mut node = lock(node);
            if !node.is_running() {
                node.restart();
            }
        }
        self.settle();
    }

    fn settle(&self) {
        wait_for("a cluster that serves", || {
            let all_ok = self.states().iter().all(|&state| state == Some(true));
            let mut nodes = self.nodes.iter().map(lock);
            (all_ok && nodes.all(|node| is_master(&node) || has_loaded(&node))).then_some(())
        });
        if self.nodes.len() > SLOTS.len() {
            wait_for("a replica for each master", || {
                let mut masters = self.nodes.iter().map(lock).filter(|node| is_master(node));
                let follows = masters.all(|master| {
                    let info: String = master.ask("INFO replication");
                    info.contains("state=online")
                });
                follows.then_some(())
            });
        }
    }

    /// Whether each node takes the cluster for whole, or does not run.
    fn states(&self) -> Vec<Option<bool>> {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        let state = |node: MutexGuard<'_, RedisServer>| {
            node.is_running().then(|| {
                let info: String = node.ask("CLUSTER INFO");
                info.contains("cluster_state:ok") && info.contains(&known)
            })
        };
        self.nodes.iter().map(lock).map(state).collect()
    }
}

fn is_master(node: &RedisServer) -> bool {
    let info: String = node.ask("INFO replication");
    info.contains("role:master")
}

fn lock(server: &Mutex<RedisServer>) -> MutexGuard<'_, RedisServer> {
    server.lock().unwrap()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "waited too long for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

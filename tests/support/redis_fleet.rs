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

use super::{peers, redis::RedisServer};

pub(crate) const SERVICE: &str = "fleet";
const LIMIT: Duration = Duration::from_secs(60);

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
        let program: PathBuf = peers::required(peers::REDIS)?.get_program().into();
        let launch = |primary: Option<SocketAddr>| {
            RedisServer::launch(program.clone(), peers::free_port(), |_| {
                let common =
                    "--bind 127.0.0.1 --replica-announce-ip 127.0.0.1 --repl-diskless-sync-delay 0";
                let mut words: Vec<String> = common.split(' ').map(Into::into).collect();
                words.extend(["--save".into(), String::new()]);
                words.extend(options.iter().map(|&option| option.into()));
                if let Some(primary) = primary {
                    let address = format!("{} {}", primary.ip(), primary.port());
                    words.extend(["--replicaof".into(), address]);
                }
                words
            })
        };
        let primary = launch(None);
        let address = primary.address();
        let replicas = [launch(Some(address)), launch(Some(address))];
        let sentinels = (0..3).map(|_| {
            Mutex::new(RedisServer::launch(
                program.clone(),
                peers::free_port(),
                |directory| {
                    let file = directory.join("sentinel.conf");
                    fs::write(&file, sentinel_settings(address)).unwrap();
                    vec![file.to_str().unwrap().into(), "--sentinel".into()]
                },
            ))
        });
        let fleet = Self {
            servers: [primary]
                .into_iter()
                .chain(replicas)
                .map(Mutex::new)
                .collect(),
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
            .map(|sentinel| lock(sentinel).url())
            .collect()
    }

    /// Which server the sentinels name. `None` while they do not agree, or it does not take itself for the primary.
    pub(crate) fn primary(&self) -> Option<SocketAddr> {
        let command = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}");
        let mut named = self.running_sentinels().map(|sentinel| {
            let (host, port): (String, u16) = sentinel.ask(&command);
            SocketAddr::new(host.parse().unwrap(), port)
        });
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
        let command = redis::cmd("SENTINEL").arg("FAILOVER").arg(SERVICE).clone();
        wait_for("a fail-over", || {
            let sentinel = self.running_sentinels().next().unwrap();
            // Right after another one there is none yet.
            command.exec(&mut sentinel.connection()).ok()
        });
        self.wait_for_successor(before)
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
                    server.address() == primary || has_loaded(&server)
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
        servers.find(|server| server.address() == address).unwrap()
    }

    fn running_sentinels(&self) -> impl Iterator<Item = MutexGuard<'_, RedisServer>> {
        self.sentinels
            .iter()
            .map(lock)
            .filter(|sentinel| sentinel.is_running())
    }
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

/// A cluster of three masters without replicas, which share the slots evenly.
pub(crate) struct Cluster {
    masters: Vec<Mutex<RedisServer>>,
}

impl Cluster {
    /// Starts servers with these options besides. `None`, loudly, where there is no `redis-server`.
    ///
    /// # Panics
    ///
    /// Where there is none and `CI` is set.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];
        let program: PathBuf = peers::required(peers::REDIS)?.get_program().into();
        let masters = SLOTS.map(|_| {
            let bus = peers::free_port();
            let server = RedisServer::launch(program.clone(), peers::free_port(), |_| {
                let common = format!(
                    "--bind 127.0.0.1 --cluster-enabled yes --cluster-node-timeout 1000 \
                     --cluster-announce-ip 127.0.0.1 --cluster-port {bus}"
                );
                let mut words: Vec<String> = common.split(' ').map(Into::into).collect();
                words.extend(["--save".into(), String::new()]);
                words.extend(options.iter().map(|&option| option.into()));
                words
            });
            (server, bus)
        });
        let (first, first_bus) = (masters[0].0.address().port(), masters[0].1);
        for (epoch, ((master, _), (from, to))) in masters.iter().zip(SLOTS).enumerate() {
            master.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            master.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", epoch + 1));
            if epoch > 0 {
                master.ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {first} {first_bus}"));
            }
        }
        let masters = masters.map(|(master, _)| Mutex::new(master)).into();
        let cluster = Self { masters };
        cluster.settle();
        Some(cluster)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.masters
            .iter()
            .map(|master| lock(master).url())
            .collect()
    }

    /// Does something with a master by its place.
    pub(crate) fn with<T>(&self, master: usize, act: impl FnOnce(&mut RedisServer) -> T) -> T {
        act(&mut lock(&self.masters[master]))
    }

    /// The place of the master that has this key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot: u16 = self.with(0, |master| master.ask(&format!("CLUSTER KEYSLOT {key}")));
        let ranges: Vec<(u16, u16, Vec<redis::Value>)> =
            self.with(0, |master| master.ask("CLUSTER SLOTS"));
        let range = ranges
            .into_iter()
            .find(|(from, to, _)| (*from..=*to).contains(&slot));
        let (_, _, node) = range.expect("a slot that nobody has");
        let port: u16 = redis::from_redis_value_ref(&node[1]).unwrap();
        let is_owner = |master: &Mutex<RedisServer>| lock(master).address().port() == port;
        self.masters.iter().position(is_owner).unwrap()
    }

    /// Moves the slot of this key, with what is in it, to another master, and gives its place.
    pub(crate) fn move_away(&self, key: &str) -> usize {
        let from = self.owner(key);
        let to = (from + 1) % self.masters.len();
        let id = |master| self.with(master, |master| master.ask::<String>("CLUSTER MYID"));
        let (from_id, to_id) = (id(from), id(to));
        let (slot, port): (u16, u16) = self.with(to, |master| {
            (
                master.ask(&format!("CLUSTER KEYSLOT {key}")),
                master.address().port(),
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
            (self.owner(key) == to).then_some(())
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

    /// Starts the masters again that were ended, and waits until the cluster serves.
    pub(crate) fn heal(&self) {
        for master in &self.masters {
            let mut master = lock(master);
            if !master.is_running() {
                master.restart();
            }
        }
        self.settle();
    }

    fn settle(&self) {
        wait_for("a cluster that serves", || {
            let all_ok = self.states().iter().all(|&state| state == Some(true));
            all_ok.then_some(())
        });
    }

    /// Whether each master takes the cluster of three for whole, or does not run.
    fn states(&self) -> Vec<Option<bool>> {
        let state = |master: MutexGuard<'_, RedisServer>| {
            master.is_running().then(|| {
                let info: String = master.ask("CLUSTER INFO");
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        };
        self.masters.iter().map(lock).map(state).collect()
    }
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

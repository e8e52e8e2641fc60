//! The Redis of the gateways, and how it is broken: one server, or a fleet with Sentinel.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tower_identity::{
    RedisStore,
    upstream::{RedisStoreBuilder, SealingKey},
};

use super::{
    ledger::Ledger,
    settings::{REDIS_LIMIT, RedisKind},
    support::{
        redis::{Proxy, RedisServer},
        redis_fleet::{SERVICE, SentinelFleet},
    },
};

pub(crate) enum Redis {
    Server(Arc<Mutex<RedisServer>>, Proxy),
    Fleet(Arc<SentinelFleet>),
}

impl Redis {
    /// `None`, loudly, where there is none.
    pub(crate) async fn start(kind: RedisKind) -> Option<Self> {
        match kind {
            RedisKind::Server => {
                // What a process has written stays when it is killed, though nothing waits for the disk.
                let options = "--appendonly yes --appendfsync no --auto-aof-rewrite-min-size 4mb";
                let server = RedisServer::start_with(&options.split(' ').collect::<Vec<_>>())?;
                let proxy = Proxy::to(&server).await;
                Some(Self::Server(Arc::new(Mutex::new(server)), proxy))
            }
            RedisKind::Sentinel => {
                let fleet = spawn_blocking(|| SentinelFleet::start(&[]))
                    .await
                    .unwrap()?;
                Some(Self::Fleet(Arc::new(fleet)))
            }
        }
    }

    /// The store of a gateway.
    pub(crate) fn store(&self) -> RedisStore {
        match self {
            Self::Server(_, proxy) => patient(RedisStore::builder(proxy.url(), key())),
            Self::Fleet(_) => self.direct_store(),
        }
    }

    /// A store past the proxy.
    pub(crate) fn direct_store(&self) -> RedisStore {
        match self {
            Self::Server(server, _) => {
                let url = server.lock().unwrap().url();
                patient(RedisStore::builder(url, key()))
            }
            Self::Fleet(fleet) => {
                let sentinels = fleet.sentinel_urls();
                patient(RedisStore::sentinel(sentinels, SERVICE, key()).replicas(2))
            }
        }
    }

    /// Breaks it in some way, and puts it right after a while.
    pub(crate) async fn suffer(
        &self,
        how_long: Duration,
        random: &mut fastrand::Rng,
        ledger: &Ledger,
    ) {
        match (self, random.u8(0..4)) {
            (Self::Server(server, _), 0 | 1) => {
                ledger.count("fault: Redis is killed");
                change(server, |server| server.lock().unwrap().kill()).await;
                sleep(how_long).await;
                change(server, |server| server.lock().unwrap().restart()).await;
            }
            (Self::Server(_, proxy), 2) => {
                ledger.count("fault: Redis stalls");
                proxy.stall();
                sleep(how_long).await;
                proxy.go_on();
            }
            (Self::Server(_, proxy), _) => {
                ledger.count("fault: connections to Redis end");
                proxy.drop_connections();
            }
            (Self::Fleet(fleet), 0 | 1) => {
                ledger.count("fault: the primary is killed");
                change(fleet, |fleet| {
                    fleet.crash_primary();
                })
                .await;
                sleep(how_long).await;
                change(fleet, SentinelFleet::heal).await;
            }
            (Self::Fleet(fleet), 2) => {
                ledger.count("fault: Redis fails over");
                change(fleet, |fleet| {
                    fleet.fail_over();
                    fleet.heal();
                })
                .await;
            }
            (Self::Fleet(fleet), _) => {
                ledger.count("fault: connections to Redis end");
                change(fleet, |fleet| {
                    fleet.ask_primary::<i64>("CLIENT KILL TYPE normal");
                })
                .await;
            }
        }
    }
}

async fn change<T: Send + Sync + 'static>(redis: &Arc<T>, change: fn(&T)) {
    let redis = Arc::clone(redis);
    spawn_blocking(move || change(&redis)).await.unwrap();
}

fn key() -> SealingKey {
    SealingKey::new([7; 32])
}

fn patient(store: RedisStoreBuilder) -> RedisStore {
    store.response_limit(REDIS_LIMIT).build().unwrap()
}

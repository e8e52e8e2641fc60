//! Everything that takes part, put together and taken apart.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tower_identity::ManualClock;

use super::{
    backends::{Backend, BackendServer},
    callers::User,
    calls::Town,
    faults::{Faults, Weather},
    gateway::{Gateway, Surroundings},
    issuers::{Issuer, Role},
    ledger::Ledger,
    memory,
    passage::{Asked, Passage, http_client},
    realm::Realm,
    recorder::Sums,
    redis::Redis,
    settings::{SPEED, Settings},
    support::identity_provider::{IdentityProvider, P256, some_day},
};

const TICK: Duration = Duration::from_millis(25);
const AT_ONCE: usize = 16;

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) realm: Arc<Realm>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) sums: Sums,
    pub(crate) issuers: Vec<Arc<Issuer>>,
    pub(crate) asked: HashMap<Role, Arc<Asked>>,
    pub(crate) asked_for_keys: Arc<Asked>,
    pub(crate) backends: Vec<BackendServer>,
    pub(crate) passages: [Arc<Passage>; 4],
    pub(crate) gateways: [Gateway; 2],
    weather: Arc<Weather>,
    town: Arc<Town>,
    time: JoinHandle<()>,
}

impl World {
    /// `None`, loudly, where there is no Redis.
    pub(crate) async fn create(settings: Settings) -> Option<Self> {
        let redis = Redis::start(settings.redis).await?;
        let sums = Sums::default();
        metrics::set_global_recorder(sums.clone()).unwrap();

        let clock = Arc::new(ManualClock::new(some_day()));
        let ledger = Arc::new(Ledger::default());
        let keys = IdentityProvider::start(P256).await;
        keys.cache_control("max-age=300");
        let realm = Arc::new(Realm::new(&settings, clock, keys, Arc::clone(&ledger)));
        let mut issuers = Vec::new();
        for role in Role::ALL {
            issuers.push(Arc::new(Issuer::start(role, Arc::clone(&realm)).await));
        }
        let mut backends = Vec::new();
        for backend in Backend::ALL {
            let server = BackendServer::start(backend, settings.users, Arc::clone(&realm));
            backends.push(server.await);
        }
        let asked = Role::ALL.map(|role| (role, Arc::default())).into();
        let faults = Arc::new(Faults::default());
        let surroundings = Surroundings {
            realm: Arc::clone(&realm),
            faults: Arc::clone(&faults),
            issuers: &issuers,
            asked: &asked,
            asked_for_keys: Arc::default(),
            origins: Backend::ALL.map(|backend| backends[backend.index()].server.origin()),
            passages: Backend::ALL.map(|_| Arc::default()),
            redis: &redis,
        };
        let gateways = [
            Gateway::start(&surroundings).await,
            Gateway::start(&surroundings).await,
        ];
        let (passages, asked_for_keys) = (
            surroundings.passages.clone(),
            Arc::clone(&surroundings.asked_for_keys),
        );
        let town = Arc::new(Town {
            settings,
            realm: Arc::clone(&realm),
            ledger: Arc::clone(&ledger),
            faults: Arc::clone(&faults),
            gateways: [0, 1].map(|number: usize| gateways[number].server.uri("")),
            client: http_client(),
            store: redis.direct_store(),
            has_ended: AtomicBool::new(false),
            sessions: (0..settings.users).map(|_| Mutex::default()).collect(),
        });
        let weather = Arc::new(Weather {
            settings,
            realm: Arc::clone(&realm),
            faults,
            issuers: issuers.clone(),
            redis,
        });
        Some(Self {
            time: tokio::spawn(pass_time(Arc::clone(&realm.clock))),
            settings,
            realm,
            ledger,
            sums,
            issuers,
            asked,
            asked_for_keys,
            backends,
            passages,
            gateways,
            weather,
            town,
        })
    }

    pub(crate) fn weather(&self) -> Arc<Weather> {
        Arc::clone(&self.weather)
    }

    /// Uses every connection once. Returns how many tasks there are when none is in use any more.
    pub(crate) async fn warm_up(&self) -> usize {
        for _ in 0..2 {
            for number in 0..self.settings.users.min(20) {
                User::arrive(Arc::clone(&self.town), number)
                    .await
                    .prove_access()
                    .await;
            }
            // All that was issued has expired now, and is renewed in the second round.
            self.realm.clock.advance(Duration::from_secs(4000));
        }
        sleep(Duration::from_secs(5)).await;
        Handle::current().metrics().num_alive_tasks()
    }

    pub(crate) async fn populate(&self) -> Vec<JoinHandle<User>> {
        let numbers = stream::iter(0..self.settings.users);
        let arriving = numbers.map(|number| User::arrive(Arc::clone(&self.town), number));
        let users: Vec<User> = arriving.buffer_unordered(AT_ONCE).collect().await;
        users
            .into_iter()
            .map(|user| tokio::spawn(user.live()))
            .collect()
    }

    /// Has the users come no more.
    pub(crate) fn end(&self) {
        self.town.has_ended.store(true, Relaxed);
    }

    pub(crate) async fn prove_access(&self, users: Vec<User>) {
        let proving = users
            .into_iter()
            .map(|mut user| async move { user.prove_access().await });
        let mut proving = stream::iter(proving).buffer_unordered(AT_ONCE);
        while proving.next().await.is_some() {}
    }

    pub(crate) async fn destroy(self) {
        self.time.abort();
        let (ledger, users) = (self.ledger, self.town.sessions.len());
        drop((self.gateways, self.backends, self.issuers, self.weather));
        drop((self.town, self.realm, self.passages, self.asked));
        println!(
            "the world of {users} users has ended, with {} troubles",
            ledger.troubles()
        );
    }

    pub(crate) fn report(&self, elapsed: Duration) {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let made = self.ledger.number("call: made");
        println!(
            "\n== {} s, {} KiB, {tasks} tasks, {made} calls ({} a second), {} troubles\n{}",
            elapsed.as_secs(),
            memory::resident().unwrap_or_default(),
            made / elapsed.as_secs().max(1),
            self.ledger.troubles(),
            self.ledger.table()
        );
    }
}

/// Moves the clock on. It is late when the machine is, so that a busy machine makes nothing expire in between.
async fn pass_time(clock: Arc<ManualClock>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        clock.advance(TICK * SPEED);
    }
}

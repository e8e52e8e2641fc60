//! Everything that takes part, put together and taken apart.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tower_identity::{clock::ManualClock, credential::cache::CacheCounters};

use super::{
    backends::{Backend, BackendServer},
    callers::{Town, User},
    faults::{Faults, Weather},
    gateway::{Gateway, Surroundings, redis_store},
    issuers::{Issuer, Role},
    ledger::Ledger,
    memory,
    passage::{Asked, KINDS, Passage, http_client},
    realm::Realm,
    recorder::Sums,
    settings::{SPEED, Settings},
    support::{
        identity_provider::{IdentityProvider, OPENID, P256, some_day},
        redis::{Proxy, RedisServer},
    },
};

const TICK: Duration = Duration::from_millis(25);
const AT_ONCE: usize = 16;

pub(crate) struct World {
    settings: Settings,
    realm: Arc<Realm>,
    ledger: Arc<Ledger>,
    sums: Sums,
    issuers: Vec<Arc<Issuer>>,
    asked: HashMap<Role, Arc<Asked>>,
    asked_for_keys: Arc<Asked>,
    backends: Vec<BackendServer>,
    passages: [Arc<Passage>; 4],
    gateways: [Gateway; 2],
    weather: Arc<Weather>,
    town: Arc<Town>,
    time: JoinHandle<()>,
}

impl World {
    /// `None`, loudly, where there is no Redis.
    pub(crate) async fn create(settings: Settings) -> Option<Self> {
        // What a process has written stays when it is killed, though nothing waits for the disk.
        let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "no"])?;
        let proxy = Proxy::to(&redis).await;
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
        let surroundings = Surroundings {
            realm: Arc::clone(&realm),
            issuers: &issuers,
            asked: &asked,
            asked_for_keys: Arc::default(),
            origins: Backend::ALL.map(|backend| backends[backend.index()].server.origin()),
            passages: Backend::ALL.map(|_| Arc::default()),
            store_url: proxy.url(),
        };
        let gateways = [
            Gateway::start(&surroundings).await,
            Gateway::start(&surroundings).await,
        ];
        let (passages, asked_for_keys) = (
            surroundings.passages.clone(),
            Arc::clone(&surroundings.asked_for_keys),
        );
        let faults = Arc::new(Faults::default());
        let town = Arc::new(Town {
            settings,
            realm: Arc::clone(&realm),
            ledger: Arc::clone(&ledger),
            faults: Arc::clone(&faults),
            gateways: [0, 1].map(|number: usize| gateways[number].server.uri("")),
            client: http_client(),
            store: redis_store(&redis.url()),
            has_ended: AtomicBool::new(false),
            sessions: (0..settings.users).map(|_| Mutex::default()).collect(),
        });
        let weather = Arc::new(Weather {
            settings,
            realm: Arc::clone(&realm),
            faults,
            issuers: issuers.clone(),
            redis: Arc::new(Mutex::new(redis)),
            proxy,
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

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(crate) fn duration(&self) -> Duration {
        self.settings.duration
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

    /// All that was counted in one place was counted in the other.
    pub(crate) fn check_counters(&self) {
        println!("\n== what adds up");
        let ledger = &self.ledger;
        let number = |what| ledger.number(what);
        let ended = number("call: answered")
            + number("call: answered before it was given up")
            + number("call: given up");
        ledger.check(
            "calls made, and answered or given up",
            number("call: made"),
            ended,
        );
        for backend in Backend::ALL {
            self.check_requests(backend);
        }
        self.check_look_ups();
        self.check_issuers();
        let teardowns = self
            .gateways
            .iter()
            .map(|gateway| read(&gateway.inner.teardowns))
            .sum();
        let fallbacks = self.sums.of(&["tower_identity_fallbacks_total"]);
        ledger.check(
            "fallbacks, and requests without an identity",
            fallbacks,
            teardowns,
        );
    }

    fn check_requests(&self, backend: Backend) {
        let passage = &self.passages[backend.index()];
        let origin = format!(
            "backend={};",
            self.backends[backend.index()].server.origin()
        );
        let counted = |outcome: &str| {
            let outcome = format!("outcome={outcome};");
            self.sums
                .of(&["tower_identity_requests_total", &origin, &outcome])
        };
        let check = |what: &str, left, right| {
            self.ledger
                .check(&format!("{backend:?}: {what}"), left, right);
        };
        check("requests ok, and sent", counted("ok"), read(&passage.left));
        for (index, (_, kind)) in KINDS.iter().enumerate() {
            let refused = read(&passage.refused[index]);
            if refused + counted(kind) > 0 {
                let what = format!("requests {kind}, and errors seen");
                check(&what, counted(kind), refused);
            }
        }
        check(
            "requests begun, and sent, refused or given up",
            read(&passage.entered),
            read(&passage.left) + passage.refused() + read(&passage.given_up),
        );
    }

    fn check_look_ups(&self) {
        let ledger = &self.ledger;
        let asked: u64 = self
            .passages
            .iter()
            .map(|passage| read(&passage.had_subject))
            .sum();
        let in_vain = self
            .passages
            .iter()
            .map(|passage| read(&passage.had_expired_subject));
        let look_ups = "tower_identity_cache_lookups_total";
        let counted = self.sums.in_strategies(&[look_ups]);
        for state in ["hit", "miss", "refresh", "coalesced", "refused"] {
            let state = format!("cache={state};");
            let counted = self.sums.in_strategies(&[look_ups, &state]);
            println!("      {counted:>9} {state}");
        }
        ledger.check(
            "look-ups, and calls that needed one",
            counted,
            asked - in_vain.sum::<u64>(),
        );
        let counters = self.counters();
        let sum = |count: fn(&CacheCounters) -> u64| counters.iter().map(count).sum::<u64>();
        for (state, count) in [
            ("cache=hit;", sum(|counters| counters.hits)),
            ("cache=miss;", sum(|counters| counters.misses)),
            ("cache=coalesced;", sum(|counters| counters.coalesced)),
        ] {
            let counted = self.sums.in_strategies(&[look_ups, state]);
            ledger.check(&format!("{state} and the caches' own"), counted, count);
        }
        let flights = sum(|counters| counters.misses + counters.refreshes);
        let upstream: u64 = self
            .gateways
            .iter()
            .map(|gateway| gateway.inner.flights.count())
            .sum();
        let keys = self.realm.keys().fetches(OPENID) as u64;
        ledger.check(
            "credentials asked for, and flights of the caches, of upstream tokens and of keys",
            self.sums.of(&["tower_identity_refresh_duration_seconds"]),
            flights + upstream + keys,
        );
    }

    fn check_issuers(&self) {
        let ledger = &self.ledger;
        let flights = |counters: fn(&Gateway) -> CacheCounters| {
            let counters = self.gateways.iter().map(counters);
            counters
                .map(|counters| counters.misses + counters.refreshes)
                .sum::<u64>()
        };
        let calls = |role| read(&self.asked[&role].calls);
        ledger.check(
            "exchanges asked for, and flights",
            calls(Role::Exchange),
            flights(|gateway| gateway.inner.caches.exchanged.counters()),
        );
        ledger.check(
            "assertions asked for, and flights",
            calls(Role::IdentityProvider),
            flights(|gateway| gateway.inner.caches.cross_app.counters()),
        );
        ledger.check(
            "roles asked for, and flights",
            calls(Role::Sts),
            flights(|gateway| gateway.inner.caches.aws.counters()),
        );
        let upstream = self
            .gateways
            .iter()
            .map(|gateway| gateway.inner.flights.count())
            .sum();
        ledger.check_at_most(
            "refreshes asked for, and flights",
            calls(Role::Hub),
            upstream,
        );
        for issuer in &self.issuers {
            let (role, asked) = (issuer.role, &self.asked[&issuer.role]);
            let unanswered = read(&asked.calls) - read(&asked.answers);
            let check = |what: &str, left, right| {
                ledger.check_at_most(&format!("{role:?}: {what}"), left, right);
            };
            check(
                "answers, and calls that arrived",
                read(&asked.answers),
                issuer.arrived(),
            );
            check(
                "calls that arrived, and made",
                issuer.arrived(),
                read(&asked.calls),
            );
            check(
                "grants received, and granted",
                read(&asked.grants),
                issuer.granted(),
            );
            check(
                "granted, and received or unanswered",
                issuer.granted(),
                read(&asked.grants) + unanswered,
            );
            println!("      {role:?} refused {}", issuer.refused());
        }
        println!("      {} calls for keys", read(&self.asked_for_keys.calls));
    }

    fn counters(&self) -> Vec<CacheCounters> {
        let caches = self.gateways.iter().map(|gateway| &gateway.inner.caches);
        let counters = caches.flat_map(|caches| {
            [
                caches.exchanged.counters(),
                caches.cross_app.counters(),
                caches.aws.counters(),
            ]
        });
        counters.collect()
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

fn read(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

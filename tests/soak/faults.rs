//! When what is broken on purpose, and what that explains.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    backends::Backend,
    issuers::{Issuer, Outage, Role},
    realm::Realm,
    redis::Redis,
    settings::Settings,
};

const STORM: Duration = Duration::from_secs(30);
/// Longer than the [`AFTERMATH`](super::settings::AFTERMATH): in the rest of it no error has an excuse.
const CALM: Duration = Duration::from_secs(45);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Issuer(Role),
    Redis,
}

/// What a backend's credential depends on, once the caller has been let in.
pub(crate) fn parts_behind(backend: Backend) -> &'static [Part] {
    use Part::{Issuer, Redis};
    match backend {
        Backend::Upstream => &[Redis, Issuer(Role::Hub)],
        Backend::Exchange => &[Issuer(Role::Exchange)],
        Backend::CrossApp => &[
            Redis,
            Issuer(Role::Hub),
            Issuer(Role::IdentityProvider),
            Issuer(Role::AuthorizationServer),
        ],
        Backend::Aws => &[Issuer(Role::Sts)],
    }
}

#[derive(Default)]
pub(crate) struct Faults {
    windows: Mutex<HashMap<Part, VecDeque<Window>>>,
}

struct Window {
    to: Option<Instant>,
}

impl Faults {
    /// Whether something was wrong with one of these parts since then, or so long before.
    pub(crate) fn explain(&self, parts: &[Part], since: Instant, aftermath: Duration) -> bool {
        let windows = self.windows.lock().unwrap();
        let mut windows = parts.iter().filter_map(|part| windows.get(part)).flatten();
        windows.any(|window| window.to.is_none_or(|end| end + aftermath >= since))
    }

    /// Something went wrong by itself, now.
    pub(crate) fn note(&self, part: Part) {
        self.add(part, Some(Instant::now()));
    }

    fn begin(&self, part: Part) {
        self.add(part, None);
    }

    fn end(&self, part: Part) {
        let mut windows = self.windows.lock().unwrap();
        let windows = windows.get_mut(&part).unwrap();
        let open = windows.iter_mut().find(|window| window.to.is_none());
        open.unwrap().to = Some(Instant::now());
    }

    fn add(&self, part: Part, to: Option<Instant>) {
        let mut windows = self.windows.lock().unwrap();
        let windows = windows.entry(part).or_default();
        let is_old = |window: &Window| window.to.is_some_and(|to| to.elapsed() > FORGOTTEN_AFTER);
        while windows.front().is_some_and(is_old) {
            windows.pop_front();
        }
        windows.push_back(Window { to });
    }
}

/// Breaks things, and puts them right.
pub(crate) struct Weather {
    pub(crate) settings: Settings,
    pub(crate) realm: Arc<Realm>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) issuers: Vec<Arc<Issuer>>,
    pub(crate) redis: Redis,
}

impl Weather {
    /// Storms and calms in turn until then. It ends with all put right.
    pub(crate) async fn go_on_until(&self, end: Instant) {
        let mut random = self.settings.random(2);
        // Not in a short while that could not even see the first refreshes.
        sleep(Duration::from_secs(5)).await;
        while Instant::now() < end {
            let storm_end = (Instant::now() + STORM).min(end);
            self.realm.is_stormy.store(true, Relaxed);
            let suffering = self.issuers.iter().map(|issuer| {
                let random = random.fork();
                self.break_issuer(issuer, storm_end, random)
            });
            let suffering = join_all(suffering.collect::<Vec<_>>());
            let keys = self.break_keys(storm_end, random.fork());
            let redis = self.break_redis(storm_end, random.fork());
            let revoking = self.revoke(storm_end, random.fork());
            tokio::join!(suffering, keys, redis, revoking);
            self.realm.is_stormy.store(false, Relaxed);
            let calm = end.saturating_duration_since(Instant::now()).min(CALM);
            sleep(calm).await;
        }
    }

    async fn break_issuer(&self, issuer: &Issuer, end: Instant, mut random: fastrand::Rng) {
        let part = Part::Issuer(issuer.role);
        while let Some(how_long) = pause(end, &mut random).await {
            let outage = random.choice(Outage::ALL).unwrap();
            self.realm.ledger.count(&format!("fault: {outage:?}"));
            self.faults.begin(part);
            issuer.suffer(outage, how_long).await;
            self.faults.end(part);
        }
    }

    /// It explains nothing: the keys that were fetched last go on serving.
    async fn break_keys(&self, end: Instant, mut random: fastrand::Rng) {
        while let Some(how_long) = pause(end, &mut random).await {
            self.realm.ledger.count("fault: keys cannot be fetched");
            self.realm.keys().is_down(true);
            sleep(how_long).await;
            self.realm.keys().is_down(false);
        }
    }

    async fn break_redis(&self, end: Instant, mut random: fastrand::Rng) {
        while let Some(how_long) = pause(end, &mut random).await {
            let began = Instant::now();
            self.faults.begin(Part::Redis);
            let ledger = &self.realm.ledger;
            self.redis.suffer(how_long, &mut random, ledger).await;
            self.faults.end(Part::Redis);
            let milliseconds = began.elapsed().as_millis() as u64;
            self.realm
                .ledger
                .add("fault: milliseconds without Redis", milliseconds);
        }
    }

    async fn revoke(&self, end: Instant, mut random: fastrand::Rng) {
        while Instant::now() < end {
            self.realm.revoke(random.usize(0..self.settings.users));
            self.realm.ledger.count("fault: a refresh token is revoked");
            sleep(Duration::from_millis(random.u64(200..1000))).await;
        }
    }
}

/// Waits, and says for how long the next fault lasts; `None` when there is no time left for one.
async fn pause(end: Instant, random: &mut fastrand::Rng) -> Option<Duration> {
    sleep(Duration::from_millis(random.u64(500..9000))).await;
    let left = end.saturating_duration_since(Instant::now());
    let how_long = Duration::from_millis(random.u64(300..4000)).min(left);
    (how_long > Duration::from_millis(200)).then_some(how_long)
}

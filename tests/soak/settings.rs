use std::{
    env,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How many seconds pass on the clock that tokens expire by, in one second.
pub(crate) const SPEED: u32 = 20;

/// For how long a caller waits before a call counts as unanswered.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long any client of an issuer waits for it.
pub(crate) const TOKEN_LIMIT: Duration = Duration::from_secs(10);

/// For how long after its end a fault may still explain an error: time limits, then the longest back-off.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(30);

/// How long the gateways wait for Redis: what a busy machine takes its time for is no fault of Redis.
pub(crate) const REDIS_LIMIT: Duration = Duration::from_secs(10);

/// For how long after its end a fault of Redis may still explain that the store could not be asked: calls on a connection
/// that stalled wait to the limit, and the first of them to fail has the next call make a new one.
pub(crate) const AFTERMATH_OF_REDIS: Duration = Duration::from_secs(15);

/// How far a token may be past its end when its request leaves, on the fast clock: what passes between a look at the clock
/// and the next line, on a machine that is busy.
pub(crate) const LEEWAY: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
pub(crate) enum RedisKind {
    Server,
    Sentinel,
}

impl FromStr for RedisKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "server" => Ok(Self::Server),
            "sentinel" => Ok(Self::Sentinel),
            _ => Err(()),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
    pub(crate) users: usize,
    /// Calls that are begun in a second, at the most.
    pub(crate) rate: f64,
    pub(crate) redis: RedisKind,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let settings = Self {
            duration: Duration::from_secs(variable("SOAK_SECONDS", 1800)),
            seed: variable("SOAK_SEED", since_epoch.unwrap().as_secs()),
            users: variable("SOAK_USERS", 2000),
            rate: variable("SOAK_RATE", 300.0),
            redis: variable("SOAK_REDIS", RedisKind::Server),
        };
        println!(
            "{} s with SOAK_SEED={}: {} users, {} calls a second, Redis is a {:?}, the clock goes {SPEED} times as fast",
            settings.duration.as_secs(),
            settings.seed,
            settings.users,
            settings.rate,
            settings.redis,
        );
        settings
    }

    /// Chance of its own for the part of the soak with this number.
    pub(crate) fn random(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1_000_003).wrapping_add(part))
    }
}

fn variable<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} cannot be read")),
        Err(_) => default,
    }
}

use std::{fmt, sync::Arc, time::Duration};

use redis::Client;

use crate::error::{BuildError, Faults};

use super::{Inner, RedisStore, milliseconds, server::Server};
use crate::upstream::store::sealing::SealingKey;

const RESPONSE_LIMIT: Duration = Duration::from_millis(500);
const TIME_TO_LIVE: Duration = Duration::from_secs(30 * 24 * 3600);
const PREFIX: &str = "tower-identity:";

/// Builds a [`RedisStore`].
#[derive(Clone)]
#[must_use = "nothing is checked before `build`"]
pub struct RedisStoreBuilder {
    url: String,
    keys: Vec<SealingKey>,
    prefix: String,
    time_to_live: Duration,
    response_limit: Duration,
    replicas: u32,
}

impl RedisStoreBuilder {
    pub(super) fn new(url: String, key: SealingKey) -> Self {
        Self {
            url,
            keys: vec![key],
            prefix: PREFIX.to_owned(),
            time_to_live: TIME_TO_LIVE,
            response_limit: RESPONSE_LIMIT,
            replicas: 0,
        }
    }

    /// Adds a key that opens values, and seals none.
    ///
    /// To rotate keys, first add the new key to all replicas with this method. Then make it the sealing key, and the old
    /// one an older key. Remove the old key when each session was refreshed or has ended.
    pub fn older_key(mut self, key: SealingKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Sets the prefix of the keys in Redis. By default `tower-identity:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a session is kept after its last login or refresh. By default 30 days.
    pub fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = time_to_live;
        self
    }

    /// Sets the time limit of a call, including the connection and a second try. By default 500 ms.
    pub fn response_limit(mut self, response_limit: Duration) -> Self {
        self.response_limit = response_limit;
        self
    }

    /// Sets how many replicas of Redis must confirm a write (`WAIT`). By default none.
    ///
    /// A failover to a replica that confirmed then loses neither claims nor stored tokens. While fewer replicas are
    /// reachable, no tokens are refreshed.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Creates the store. It connects at its first use, so that it needs neither a runtime nor Redis yet.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url` is not a URL of Redis.
    /// - `prefix` has `{}`, which a cluster takes for an empty hash tag.
    /// - `time_to_live` or `response_limit` is below a millisecond.
    pub fn build(self) -> Result<RedisStore, BuildError> {
        let mut faults = Faults::new("RedisStore");
        // The error may quote the URL, which may hold a password.
        let client = Client::open(self.url).map_err(|_| {
            "is not a URL such as `redis://127.0.0.1:6379/0`, or asks for TLS, which is not enabled"
        });
        let client = faults.take("url", client);
        for (setting, time) in [
            ("time_to_live", self.time_to_live),
            ("response_limit", self.response_limit),
        ] {
            if milliseconds(time) == 0 {
                faults.add(
                    setting,
                    "is below a millisecond, so nothing could be kept or answered",
                );
            }
        }
        if self.prefix.contains("{}") {
            faults.add(
                "prefix",
                "has `{}`, so that a cluster would not keep the keys of a user together, leave it out",
            );
        }
        let client = faults.or(client)?;
        Ok(RedisStore {
            inner: Arc::new(Inner {
                server: Server::new(client, self.response_limit, self.replicas),
                keys: self.keys,
                prefix: self.prefix,
                time_to_live: self.time_to_live,
            }),
        })
    }
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("keys", &self.keys.len())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

//! [`RedisStore`]: tokens that all replicas share, in Redis 5 or newer.
//!
//! A session is one hash with a time to live. Its key is a prefix and the SHA-256 of the session's id, so that who can
//! list keys learns no id. A provider's tokens are one field: their version, and the tokens sealed with
//! XChaCha20-Poly1305. All that is compared and written is compared and written in a script. Leases run by the clock of
//! Redis, so it does not matter how far the replicas' clocks are apart.
//!
//! ```no_run
//! use tower_identity::{
//!     UpstreamTokens,
//!     incoming::store::{RedisStore, SealingKey},
//! };
//!
//! # fn build(provider: tower_identity::incoming::Provider) -> Result<(), tower_identity::AuthError> {
//! let key = SealingKey::from_base64(&std::env::var("UPSTREAM_TOKEN_KEY").unwrap_or_default())?;
//! let store = RedisStore::builder("redis://127.0.0.1/", key).build()?;
//! let upstream = UpstreamTokens::new(store, [provider]);
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when Redis fails
//!
//! What that means for a refresh is in [`upstream`](crate::incoming::upstream#what-happens-when-something-breaks).
//!
//! | Redis | a call |
//! | --- | --- |
//! | is down, refuses, or is still loading | [`Unavailable`](crate::AuthErrorKind::Unavailable) |
//! | stalls | `Unavailable` after 500 ms, and the next call makes a new connection, so a host that is gone without a word is not waited for either |
//! | drops the connection | is made once more, on a new connection; each may be made twice. The 500 ms are for both |
//! | restarts with its data | as above, until it is there |
//! | restarts without its data | the sessions are gone: every provider needs a log-in. What a refresh brings afterwards is not stored, as if the user had logged out |
//! | fails over | as with a dropped connection, when the address leads to the new primary. A primary may confirm a write that its replicas never get: with [`replicas`](RedisStoreBuilder::replicas), no refresh token is spent before as many have the claim, and no successor counts as stored before they have it |
//! | holds a value that was sealed with a key that is not in the ring, or was tampered with, or moved | [`Configuration`](crate::AuthErrorKind::Configuration): it is not taken for a missing one, and nothing is overwritten |
//!
//! # Security
//!
//! - Who reads Redis learns how many sessions there are, when they were used, and the names of their providers. Who
//!   writes to it can delete sessions and bring back an older state of one, but not make up tokens, and not move them to
//!   another session, provider or version.
//! - The nonces are random and of 192 bits: there is no limit to how much one key seals.
//! - The connection is not encrypted, unless the URL is a `rediss://` one and the application enables TLS in the `redis`
//!   crate (`tokio-rustls-comp`). The values are sealed in either case.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
    Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::error::{AuthError, AuthErrorKind};

pub use super::sealing::SealingKey;

use super::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoreFuture, StoredTokens,
    UpstreamTokenStore, Version,
    sealing::{Place, open, seal},
};

const RESPONSE_LIMIT: Duration = Duration::from_millis(500);
const TIME_TO_LIVE: Duration = Duration::from_secs(30 * 24 * 3600);
const PREFIX: &str = "tower-identity:";

const TOKENS: &str = "t:";
const VERSION_LENGTH: usize = 16;

/// A lease is `holder fence since until`, both times in milliseconds of the clock of Redis.
const CLAIM: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local version, holder = ARGV[2], ARGV[3]
local time, grace, in_doubt_for = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local stored = redis.call('HGET', key, tokens)
if not stored then return {'gone'} end
if string.sub(stored, 1, 16) ~= version then return {'superseded', stored} end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local since, fence = now, nil
local held = redis.call('HGET', key, lease)
if held then
  local by, by_fence, first, till = string.match(held, '^(%x+) (%d+) (%d+) (%d+)$')
  since = tonumber(first)
  if by == holder then
    fence = by_fence
  elseif now < tonumber(till) then
    return {'held', till - now}
  elseif now - since >= grace then
    local left = in_doubt_for - (now - since)
    if left > 0 then return {'in doubt', left} end
    redis.call('HDEL', key, tokens, lease)
    return {'gone'}
  end
end
if not fence then fence = redis.call('HINCRBY', key, 'fence', 1) end
redis.call('HSET', key, lease, string.format('%s %s %.0f %.0f', holder, fence, since, now + time))
return {'granted', tonumber(fence)}
";

const RENEW: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local stored, held = redis.call('HGET', key, tokens), redis.call('HGET', key, lease)
if not stored or string.sub(stored, 1, 16) ~= ARGV[2] or not held then return 0 end
local by, fence, since = string.match(held, '^(%x+) (%d+) (%d+) ')
if fence ~= ARGV[3] then return 0 end
local clock = redis.call('TIME')
local till = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[4])
redis.call('HSET', key, lease, string.format('%s %s %s %.0f', by, fence, since, till))
return 1
";

/// What is written already is written again, so that it does no harm to ask twice, and `WAIT` has a write to wait for.
const SETTLE: &str = r"
local key, tokens, lease = KEYS[1], 't:' .. ARGV[1], 'l:' .. ARGV[1]
local how, new = ARGV[4], ARGV[5]
local stored, held = redis.call('HGET', key, tokens), redis.call('HGET', key, lease)
if not stored then return 0 end
local version = string.sub(stored, 1, 16)
if how == 'replace' and version == string.sub(new, 1, 16) then
  redis.call('HSET', key, tokens, new)
  return 1
end
if version ~= ARGV[2] or not held then return 0 end
if string.match(held, '^%x+ (%d+) ') ~= ARGV[3] then return 0 end
redis.call('HDEL', key, lease)
if how == 'replace' then
  redis.call('HSET', key, tokens, new)
  redis.call('PEXPIRE', key, ARGV[6])
elseif how == 'remove' then
  redis.call('HDEL', key, tokens)
end
return 1
";

const PUT: &str = r"
redis.call('HSET', KEYS[1], 't:' .. ARGV[1], ARGV[2])
redis.call('HDEL', KEYS[1], 'l:' .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

/// Keeps tokens in Redis, for all replicas that share it and the sealing keys.
///
/// A clone is the same store, on the same connection. See the [module](self) for what it promises.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    connection: Mutex<Option<Connection>>,
    keys: Vec<SealingKey>,
    prefix: String,
    time_to_live: Duration,
    response_limit: Duration,
    replicas: u32,
}

#[derive(Clone)]
struct Connection {
    manager: ConnectionManager,
    mark: Arc<()>,
}

impl RedisStore {
    /// Starts a store at `url` (`redis://[user:password@]host[:port][/database]`), sealed with `key`.
    pub fn builder(url: impl Into<String>, key: SealingKey) -> RedisStoreBuilder {
        RedisStoreBuilder {
            url: url.into(),
            keys: vec![key],
            prefix: PREFIX.to_owned(),
            time_to_live: TIME_TO_LIVE,
            response_limit: RESPONSE_LIMIT,
            replicas: 0,
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.inner.prefix)
            .field("keys", &self.inner.keys.len())
            .finish_non_exhaustive()
    }
}

impl UpstreamTokenStore for RedisStore {
    fn load<'a>(&'a self, session: &'a str) -> StoreFuture<'a, BTreeMap<String, StoredTokens>> {
        Box::pin(async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.inner.key(session));
            let fields: Vec<(String, Vec<u8>)> = self.inner.ask(&command).await?;
            let tokens = fields.into_iter().filter_map(|(field, value)| {
                let provider = field.strip_prefix(TOKENS)?;
                let stored = self.inner.read(session, provider, &value);
                Some(stored.map(|stored| (provider.to_owned(), stored)))
            });
            tokens.collect()
        })
    }

    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let stored = StoredTokens::new(tokens.clone());
            let mut command = self.inner.script(PUT, session, provider);
            command
                .arg(self.inner.written(session, provider, &stored)?)
                .arg(milliseconds(self.inner.time_to_live));
            let _: i64 = self.inner.write(&command).await?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, session: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut command = redis::cmd("DEL");
            command.arg(self.inner.key(session));
            let _: i64 = self.inner.write(&command).await?;
            Ok(())
        })
    }

    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> StoreFuture<'a, Claimed> {
        Box::pin(async move {
            let mut command = self.inner.script(CLAIM, session, provider);
            command
                .arg(&claim.version.to_bytes()[..])
                .arg(format!("{:032x}", claim.holder))
                .arg(milliseconds(claim.time))
                .arg(milliseconds(claim.grace))
                .arg(milliseconds(claim.in_doubt_for));
            let answer = self.inner.write(&command).await?;
            self.inner.claimed(session, provider, claim, answer)
        })
    }

    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let mut command = self.inner.script(RENEW, session, provider);
            command
                .arg(&lease.version.to_bytes()[..])
                .arg(lease.fence)
                .arg(milliseconds(time));
            self.inner.ask(&command).await
        })
    }

    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let (how, new) = match settlement {
                Settlement::Replace(stored) => {
                    ("replace", self.inner.written(session, provider, stored)?)
                }
                Settlement::Remove => ("remove", Vec::new()),
                Settlement::Release => ("release", Vec::new()),
            };
            let mut command = self.inner.script(SETTLE, session, provider);
            command
                .arg(&lease.version.to_bytes()[..])
                .arg(lease.fence)
                .arg(how)
                .arg(new)
                .arg(milliseconds(self.inner.time_to_live));
            self.inner.write(&command).await
        })
    }
}

impl Inner {
    fn key(&self, session: &str) -> String {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(session));
        format!("{}{hash}", self.prefix)
    }

    fn script(&self, script: &'static str, session: &str, provider: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command
            .arg(script)
            .arg(1)
            .arg(self.key(session))
            .arg(provider);
        command
    }

    fn written(
        &self,
        session: &str,
        provider: &str,
        stored: &StoredTokens,
    ) -> Result<Vec<u8>, AuthError> {
        let version = stored.version;
        let place = Place {
            session,
            provider,
            version,
        };
        let newest = self.keys.first().ok_or_else(unreadable)?;
        let sealed = seal(&stored.tokens, &place, newest)?;
        Ok([&version.to_bytes()[..], &sealed].concat())
    }

    fn read(&self, session: &str, provider: &str, value: &[u8]) -> Result<StoredTokens, AuthError> {
        let (version, sealed) = value
            .split_first_chunk::<VERSION_LENGTH>()
            .ok_or_else(unreadable)?;
        let version = Version::from_bytes(*version);
        let place = Place {
            session,
            provider,
            version,
        };
        let tokens = open(sealed, &place, &self.keys)?;
        Ok(StoredTokens { tokens, version })
    }

    fn claimed(
        &self,
        session: &str,
        provider: &str,
        claim: &Claim,
        answer: Vec<Value>,
    ) -> Result<Claimed, AuthError> {
        let mut answer = answer.into_iter();
        let word: String = answer.next().and_then(read_as).ok_or_else(unreadable)?;
        let value = answer.next();
        let number = || value.clone().and_then(read_as).ok_or_else(unreadable);
        Ok(match word.as_str() {
            "granted" => Claimed::Granted(Lease {
                version: claim.version,
                fence: number()?,
            }),
            "held" => Claimed::Held(Duration::from_millis(number()?)),
            "in doubt" => Claimed::InDoubt(Duration::from_millis(number()?)),
            "superseded" => {
                let stored: Vec<u8> = value.and_then(read_as).ok_or_else(unreadable)?;
                Claimed::Superseded(self.read(session, provider, &stored)?)
            }
            "gone" => Claimed::Gone,
            _ => return Err(unreadable()),
        })
    }

    /// Writes, and waits for the replicas where it is to. On error it may have been written.
    async fn write<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AuthError> {
        if self.replicas == 0 {
            return self.ask(command).await;
        }
        let mut pipeline = redis::pipe();
        pipeline
            .add_command(command.clone())
            .cmd("WAIT")
            .arg(self.replicas)
            .arg(milliseconds(self.response_limit / 2));
        let (answer, confirmed): (T, u32) =
            self.within_limit(Question::Pipeline(&pipeline)).await?;
        if confirmed < self.replicas {
            return Err(AuthError::new(
                AuthErrorKind::Unavailable,
                "too few replicas of the token store confirmed a write, so it does not count; check their connection to \
                 the primary",
            ));
        }
        Ok(answer)
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AuthError> {
        self.within_limit(Question::Command(command)).await
    }

    /// Asks, and once more if the connection was broken: all that is asked here may be asked twice.
    async fn within_limit<T: FromRedisValue>(
        &self,
        question: Question<'_>,
    ) -> Result<T, AuthError> {
        let connection = self.connection()?;
        let asking = async {
            match question.ask(connection.manager.clone()).await {
                Err(error) if error.is_connection_dropped() => {
                    question.ask(connection.manager.clone()).await
                }
                answer => answer,
            }
        };
        match timeout(self.response_limit, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if is_replica(&error) {
                    self.forget(&connection);
                }
                Err(unavailable("failed").with_source(error))
            }
            Err(_) => {
                self.forget(&connection);
                Err(unavailable("did not answer in time"))
            }
        }
    }

    fn connection(&self) -> Result<Connection, AuthError> {
        let mut current = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(self.response_limit))
            .set_response_timeout(None);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| unavailable("cannot be connected to").with_source(error))?;
        let connection = Connection {
            manager,
            mark: Arc::new(()),
        };
        Ok(current.insert(connection).clone())
    }

    /// Lets the next call make a new connection, unless another call has done so already.
    fn forget(&self, connection: &Connection) {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|current| Arc::ptr_eq(&current.mark, &connection.mark));
    }
}

enum Question<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

impl Question<'_> {
    async fn ask<T: FromRedisValue>(&self, mut manager: ConnectionManager) -> RedisResult<T> {
        match self {
            Self::Command(command) => command.query_async(&mut manager).await,
            Self::Pipeline(pipeline) => pipeline.query_async(&mut manager).await,
        }
    }
}

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
    /// Adds a key that opens what was sealed with it, and seals nothing.
    ///
    /// To rotate keys, first give all replicas the new key as an older one, then make it the newest. What was sealed with
    /// the old one is gone when every session was refreshed or has ended.
    pub fn older_key(mut self, key: SealingKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Sets what the names of the keys in Redis begin with. By default `tower-identity:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets for how long a session is kept after its last log-in or refresh. By default 30 days.
    pub fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = time_to_live;
        self
    }

    /// Sets within what time a call has its answer, connecting and a second try included. By default 500 ms.
    pub fn response_limit(mut self, response_limit: Duration) -> Self {
        self.response_limit = response_limit;
        self
    }

    /// Sets how many replicas of Redis have to confirm what is written (`WAIT`). By default none.
    ///
    /// It lets a fail-over lose no claim and no successor that was counted as stored, as long as it promotes a replica
    /// that confirmed. While too few are there nothing is refreshed.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Makes the store. It connects when it is first used, so it needs no runtime and no Redis yet.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when the URL is none for Redis, or a time is below a
    /// millisecond.
    pub fn build(self) -> Result<RedisStore, AuthError> {
        let invalid = |message: &'static str| AuthError::new(AuthErrorKind::Configuration, message);
        // The error may quote the URL, which may hold a password.
        let client = Client::open(self.url).map_err(|_| {
            invalid("the URL of the token store is one such as `redis://127.0.0.1:6379/0`; this is none, or asks for TLS, which is not enabled")
        })?;
        let shortest = self.time_to_live.min(self.response_limit);
        if milliseconds(shortest) == 0 {
            return Err(invalid(
                "a token store keeps sessions and waits for answers for some time; one of the two is set to zero",
            ));
        }
        Ok(RedisStore {
            inner: Arc::new(Inner {
                client,
                connection: Mutex::new(None),
                keys: self.keys,
                prefix: self.prefix,
                time_to_live: self.time_to_live,
                response_limit: self.response_limit,
                replicas: self.replicas,
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

fn read_as<T: FromRedisValue>(value: Value) -> Option<T> {
    T::from_redis_value(value).ok()
}

/// After a fail-over the connection may still lead to what was the primary.
fn is_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

fn milliseconds(duration: Duration) -> u64 {
    // Within what Lua's numbers and the expiry of Redis can hold.
    const LONGEST: u64 = 1 << 45;
    u64::try_from(duration.as_millis())
        .unwrap_or(LONGEST)
        .min(LONGEST)
}

#[cold]
fn unavailable(what: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        format!("the token store {what}; check that Redis runs and can be reached"),
    )
}

#[cold]
fn unreadable() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the token store holds something that is none of ours; check its key prefix",
    )
}

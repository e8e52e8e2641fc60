mod builder;
mod scripts;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{Cmd, FromRedisValue, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    upstream::{OwnerKey, TokenOwner},
};

pub use builder::RedisStoreBuilder;

use super::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, UpstreamFuture,
    UpstreamTokenStore, Version,
    sealing::{Place, SealingKey, open, seal},
};

use scripts::{CLAIM, PROVIDERS, PUT, REMOVE_USER, RENEW, SETTLE};
use server::Server;

const TOKENS: &str = "t:";
const VERSION_LENGTH: usize = 16;

/// Stores upstream tokens in Redis, for all replicas that share it and the sealing keys.
///
/// It needs Redis 5 or newer. A clone is the same store, on the same connection.
///
/// ```no_run
/// use tower_identity::{
///     RedisStore, UpstreamTokens,
///     upstream::{Provider, SealingKey},
/// };
///
/// # fn build(provider: Provider) -> Result<(), Box<dyn std::error::Error>> {
/// let key = SealingKey::from_base64(&std::env::var("UPSTREAM_TOKEN_KEY")?)?;
/// let store = RedisStore::builder("redis://127.0.0.1/", key).build()?;
/// let upstream = UpstreamTokens::new(store, [provider]);
/// # Ok(())
/// # }
/// ```
///
/// Scripts compare and write in one step. Leases run by the clock of Redis, so that the
/// clocks of the replicas may differ.
///
/// # What is in Redis
///
/// | key | value |
/// | --- | --- |
/// | prefix, `{`, the [user key](crate::upstream::TokenOwner::user_key), `}` | a hash: the tokens of the user that belong to no session |
/// | the same, `:`, the [key](crate::upstream::TokenOwner::key) of the session | a hash: the tokens of that session |
/// | prefix, `{`, the user key, `}:sessions` | a sorted set: the user's sessions, by when they end |
///
/// The keys of user and session are SHA-256 sums in Base64, so that Redis has no issuer,
/// no subject and no session's id. The braces are a hash tag: a cluster keeps all keys
/// of a user in one slot. All keys have a time to live.
///
/// In a hash, a provider's tokens are one field: their version, and the tokens sealed
/// with XChaCha20-Poly1305.
///
/// # What happens when Redis fails
///
/// The effect on a refresh is described at
/// [`UpstreamTokens`](crate::UpstreamTokens#what-happens-when-something-breaks).
///
/// | Redis | a call |
/// | --- | --- |
/// | is down, refuses, or is still loading | fails with [`Unavailable`](crate::AuthErrorKind::Unavailable) |
/// | stalls | fails with `Unavailable` after 500 ms. The next call makes a new connection, so that a host that vanished is not waited for |
/// | drops the connection | is made once more on a new connection, which is safe. Both tries together take at most 500 ms |
/// | restarts with its data | fails as above, until Redis is back |
/// | restarts without its data | finds no tokens: every provider needs a login. A refresh that was running stores nothing, as after a logout |
/// | fails over | behaves as after a dropped connection, if the address leads to the new primary. A primary may confirm a write that its replicas never get. With [`replicas`](RedisStoreBuilder::replicas), a refresh token is used only when that many replicas have the claim, and its successor counts as stored only when they have it |
/// | holds a value that was sealed with an unknown key, was tampered with, or was moved | fails with [`Configuration`](crate::AuthErrorKind::Configuration). The value does not count as missing, and is not overwritten |
///
/// # Security
///
/// - A party that reads Redis learns the number of users and sessions, when they were
///   used, and the names of their providers. It can recognize a user whose issuer and
///   subject it knows. A party that writes to Redis can delete tokens and restore an
///   older state of them. It can neither forge tokens nor move them to another user,
///   session, provider or version.
/// - [`remove_user`](crate::UpstreamTokenStore::remove_user) finds the sessions in the
///   sorted set. Let Redis evict no keys (`maxmemory-policy noeviction`).
/// - Nonces are random and have 192 bits: one key can seal any amount of data.
/// - The connection is encrypted only if the URL starts with `rediss://` and the
///   application enables TLS in the `redis` crate (`tokio-rustls-comp`). The values are
///   sealed in either case.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    server: Server,
    keys: Vec<SealingKey>,
    prefix: String,
    time_to_live: Duration,
}

impl RedisStore {
    /// Starts a store at `url` (`redis://[user:password@]host[:port][/database]`). New values are sealed with `key`.
    pub fn builder(url: impl Into<String>, key: SealingKey) -> RedisStoreBuilder {
        RedisStoreBuilder::new(url.into(), key)
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
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        Box::pin(async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.inner.key(owner));
            let fields: Vec<(String, Vec<u8>)> = self.inner.server.ask(&command).await?;
            let tokens = fields.into_iter().filter_map(|(field, value)| {
                let provider = field.strip_prefix(TOKENS)?;
                let stored = self.inner.read(owner, provider, &value);
                Some(stored.map(|stored| (provider.to_owned(), stored)))
            });
            tokens.collect()
        })
    }

    fn put<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let stored = StoredTokens::new(owner, tokens.clone());
            let mut command = self.inner.script(PUT, owner, provider);
            command
                .arg(self.inner.written(owner, provider, &stored)?)
                .arg(milliseconds(self.inner.time_to_live))
                .arg(session_name(owner));
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let mut command = redis::cmd("DEL");
            command.arg(self.inner.key(owner));
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let sessions = self.inner.sessions(user).await?;
            let mut command = redis::cmd("EVAL");
            command.arg(REMOVE_USER).arg(sessions.len() + 2);
            command.arg(self.inner.index(user));
            command.arg(self.inner.keys(user, &sessions));
            command.arg(&sessions);
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn providers<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>> {
        Box::pin(async move {
            let sessions = self.inner.sessions(user).await?;
            let mut command = redis::cmd("EVAL");
            command.arg(PROVIDERS).arg(sessions.len() + 1);
            command.arg(self.inner.keys(user, &sessions));
            self.inner.server.ask(&command).await
        })
    }

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        Box::pin(async move {
            let mut command = self.inner.script(CLAIM, owner, provider);
            command
                .arg(&claim.version().to_bytes()[..])
                .arg(format!("{:032x}", claim.holder()))
                .arg(milliseconds(claim.lease_time()))
                .arg(milliseconds(claim.grace()))
                .arg(milliseconds(claim.in_doubt_for()));
            let answer = self.inner.server.write(&command).await?;
            self.inner.claimed(owner, provider, claim, answer)
        })
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            let mut command = self.inner.script(RENEW, owner, provider);
            command
                .arg(&lease.version().to_bytes()[..])
                .arg(lease.fence())
                .arg(milliseconds(time));
            self.inner.server.ask(&command).await
        })
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            let (how, new) = match settlement {
                Settlement::Replace(stored) => {
                    ("replace", self.inner.written(owner, provider, stored)?)
                }
                Settlement::Remove => ("remove", Vec::new()),
                Settlement::Release => ("release", Vec::new()),
            };
            let mut command = self.inner.script(SETTLE, owner, provider);
            command
                .arg(&lease.version().to_bytes()[..])
                .arg(lease.fence())
                .arg(how)
                .arg(new)
                .arg(milliseconds(self.inner.time_to_live))
                .arg(session_name(owner));
            self.inner.server.write(&command).await
        })
    }
}

impl Inner {
    /// The key of the hash that has the tokens.
    ///
    /// All keys of a user have the same hash tag, so that a cluster keeps them in one slot.
    fn key(&self, owner: &TokenOwner) -> String {
        let user = self.user_key(owner);
        match owner.session() {
            None => user,
            Some(_) => session_key(&user, &session_name(owner)),
        }
    }

    fn user_key(&self, user: &TokenOwner) -> String {
        format!("{}{{{}}}", self.prefix, encoded(user.user_key()))
    }

    /// The key of the sorted set of the user's sessions, by when they end.
    fn index(&self, user: &TokenOwner) -> String {
        format!("{}:sessions", self.user_key(user))
    }

    /// The keys of the user's tokens, first of those without a session.
    fn keys(&self, user: &TokenOwner, sessions: &[String]) -> Vec<String> {
        let user = self.user_key(user);
        let of_sessions = sessions.iter().map(|session| session_key(&user, session));
        std::iter::once(user.clone()).chain(of_sessions).collect()
    }

    async fn sessions(&self, user: &TokenOwner) -> Result<Vec<String>, AuthError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.index(user)).arg(0).arg(-1);
        self.server.ask(&command).await
    }

    /// A script with the key of the tokens, and with the index if they belong to a session.
    fn script(&self, script: &'static str, owner: &TokenOwner, provider: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script);
        match owner.session() {
            None => command.arg(1).arg(self.key(owner)),
            Some(_) => command.arg(2).arg(self.key(owner)).arg(self.index(owner)),
        };
        command.arg(provider);
        command
    }

    fn written(
        &self,
        owner: &TokenOwner,
        provider: &str,
        stored: &StoredTokens,
    ) -> Result<Vec<u8>, AuthError> {
        let version = stored.version();
        let place = Place {
            owner: owner.key(),
            provider,
            version,
        };
        let newest = self.keys.first().ok_or_else(unreadable)?;
        let sealed = seal(stored.tokens(), &place, newest)?;
        Ok([&version.to_bytes()[..], &sealed].concat())
    }

    fn read(
        &self,
        owner: &TokenOwner,
        provider: &str,
        value: &[u8],
    ) -> Result<StoredTokens, AuthError> {
        let (version, sealed) = value
            .split_first_chunk::<VERSION_LENGTH>()
            .ok_or_else(unreadable)?;
        let version = Version::from_bytes(*version);
        let place = Place {
            owner: owner.key(),
            provider,
            version,
        };
        let tokens = open(sealed, &place, &self.keys)?;
        Ok(StoredTokens::restored(owner.user_key(), tokens, version))
    }

    fn claimed(
        &self,
        owner: &TokenOwner,
        provider: &str,
        claim: &Claim,
        answer: Vec<Value>,
    ) -> Result<Claimed, AuthError> {
        let mut answer = answer.into_iter();
        let word: String = answer.next().and_then(read_as).ok_or_else(unreadable)?;
        let value = answer.next();
        let number = || value.clone().and_then(read_as).ok_or_else(unreadable);
        Ok(match word.as_str() {
            "granted" => Claimed::Granted(Lease::new(claim.version(), number()?)),
            "held" => Claimed::Held(Duration::from_millis(number()?)),
            "in doubt" => Claimed::InDoubt(Duration::from_millis(number()?)),
            "superseded" => {
                let stored: Vec<u8> = value.and_then(read_as).ok_or_else(unreadable)?;
                Claimed::Superseded(self.read(owner, provider, &stored)?)
            }
            "gone" => Claimed::Gone,
            _ => return Err(unreadable()),
        })
    }
}

fn session_key(user: &str, session: &str) -> String {
    format!("{user}:{session}")
}

/// The name of a session in the index.
fn session_name(owner: &TokenOwner) -> String {
    encoded(owner.key())
}

fn encoded(key: OwnerKey) -> String {
    URL_SAFE_NO_PAD.encode(key.to_bytes())
}

fn read_as<T: FromRedisValue>(value: Value) -> Option<T> {
    T::from_redis_value(value).ok()
}

fn milliseconds(duration: Duration) -> u64 {
    // Within what Lua's numbers and the expiry of Redis can hold.
    const LONGEST: u64 = 1 << 45;
    u64::try_from(duration.as_millis())
        .unwrap_or(LONGEST)
        .min(LONGEST)
}

#[cold]
fn unreadable() -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the token store holds something that is none of ours; check its key prefix",
    )
}

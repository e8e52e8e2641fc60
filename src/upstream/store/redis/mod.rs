mod builder;
mod scripts;
mod server;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::{Cmd, FromRedisValue, Value};
use sha2::{Digest, Sha256};

use crate::error::{AuthError, AuthErrorKind};

pub use builder::RedisStoreBuilder;

use super::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, UpstreamFuture,
    UpstreamTokenStore, Version,
    sealing::{Place, SealingKey, open, seal},
};

use scripts::{CLAIM, PUT, RENEW, SETTLE};
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
/// A session is one hash with a time to live. Its key is a prefix and the SHA-256 of the
/// session's id, so that listing the keys does not reveal ids. A provider's tokens are
/// one field: their version, and the tokens sealed with XChaCha20-Poly1305. Scripts
/// compare and write in one step. Leases run by the clock of Redis, so that the clocks
/// of the replicas may differ.
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
/// | restarts without its data | finds no sessions: every provider needs a login. A refresh that was running stores nothing, as after a logout |
/// | fails over | behaves as after a dropped connection, if the address leads to the new primary. A primary may confirm a write that its replicas never get. With [`replicas`](RedisStoreBuilder::replicas), a refresh token is used only when that many replicas have the claim, and its successor counts as stored only when they have it |
/// | holds a value that was sealed with an unknown key, was tampered with, or was moved | fails with [`Configuration`](crate::AuthErrorKind::Configuration). The value does not count as missing, and is not overwritten |
///
/// # Security
///
/// - A party that reads Redis learns the number of sessions, when they were used, and
///   the names of their providers. A party that writes to Redis can delete sessions and
///   restore an older state of a session. It can neither forge tokens nor move them to
///   another session, provider or version.
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
    fn load<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        Box::pin(async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.inner.key(session));
            let fields: Vec<(String, Vec<u8>)> = self.inner.server.ask(&command).await?;
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
    ) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let stored = StoredTokens::new(tokens.clone());
            let mut command = self.inner.script(PUT, session, provider);
            command
                .arg(self.inner.written(session, provider, &stored)?)
                .arg(milliseconds(self.inner.time_to_live));
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let mut command = redis::cmd("DEL");
            command.arg(self.inner.key(session));
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        Box::pin(async move {
            let mut command = self.inner.script(CLAIM, session, provider);
            command
                .arg(&claim.version().to_bytes()[..])
                .arg(format!("{:032x}", claim.holder()))
                .arg(milliseconds(claim.lease_time()))
                .arg(milliseconds(claim.grace()))
                .arg(milliseconds(claim.in_doubt_for()));
            let answer = self.inner.server.write(&command).await?;
            self.inner.claimed(session, provider, claim, answer)
        })
    }

    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            let mut command = self.inner.script(RENEW, session, provider);
            command
                .arg(&lease.version().to_bytes()[..])
                .arg(lease.fence())
                .arg(milliseconds(time));
            self.inner.server.ask(&command).await
        })
    }

    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
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
                .arg(&lease.version().to_bytes()[..])
                .arg(lease.fence())
                .arg(how)
                .arg(new)
                .arg(milliseconds(self.inner.time_to_live));
            self.inner.server.write(&command).await
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
        let version = stored.version();
        let place = Place {
            session,
            provider,
            version,
        };
        let newest = self.keys.first().ok_or_else(unreadable)?;
        let sealed = seal(stored.tokens(), &place, newest)?;
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
        Ok(StoredTokens::with_version(tokens, version))
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
            "granted" => Claimed::Granted(Lease::new(claim.version(), number()?)),
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

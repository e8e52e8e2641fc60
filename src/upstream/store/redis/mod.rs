//! [`RedisStore`]: tokens that all replicas share, in Redis 5 or newer.
//!
//! A session is one hash with a time to live. Its key is a prefix and the SHA-256 of the session's id, so that who can
//! list keys learns no id. A provider's tokens are one field: their version, and the tokens sealed with
//! XChaCha20-Poly1305. All that is compared and written is compared and written in a script. Leases run by the clock of
//! Redis, so it does not matter how far the replicas' clocks are apart.
//!
//! ```no_run
//! use tower_identity::{RedisStore, UpstreamTokens, upstream::SealingKey};
//!
//! # fn build(provider: tower_identity::upstream::Provider) -> Result<(), tower_identity::BuildError> {
//! let key = SealingKey::from_base64(&std::env::var("UPSTREAM_TOKEN_KEY").unwrap_or_default())?;
//! let store = RedisStore::builder("redis://127.0.0.1/", key).build()?;
//! let upstream = UpstreamTokens::new(store, [provider]);
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when Redis fails
//!
//! What that means for a refresh is in [`upstream`](crate::upstream#what-happens-when-something-breaks).
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

/// Keeps tokens in Redis, for all replicas that share it and the sealing keys.
///
/// A clone is the same store, on the same connection. See the [module](self) for what it promises.
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
    /// Starts a store at `url` (`redis://[user:password@]host[:port][/database]`), sealed with `key`.
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

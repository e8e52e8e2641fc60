mod address;
mod builder;
mod fault;
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
    clock::AGES,
    error::AuthError,
    upstream::{OwnerKey, TokenOwner},
    wiped::Wiped,
};

use builder::Place;
pub use builder::RedisStoreBuilder;

use super::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, UpstreamFuture,
    UpstreamTokenStore, Version,
    sealing::{self, open, seal},
    sealing_key::SealingKey,
};

use fault::unreadable;
#[cfg(feature = "dpop")]
use scripts::USE_UNTIL;
use scripts::{
    CLAIM, PROVIDERS, PUT, REMOVE, REMOVE_PROVIDER, REMOVE_USER, RENEW, SETTLE, USE_ONCE,
};
use server::Server;

const TOKENS: &str = "t:";
const VERSION_LENGTH: usize = 16;
/// For how long a script that ran is not run again, besides the time in which it is sent.
const RUN_ONCE_FOR: Duration = Duration::from_secs(60);

/// Stores upstream tokens in Redis, for all replicas that share it and the sealing keys.
///
/// Needs the feature `redis`.
///
/// A clone is the same store, on the same connection. The store connects at its first
/// use.
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
/// | prefix, `{`, the user key, `}:run:`, a random number | a mark that a login or logout was stored, so that it is not stored again. It lasts for a minute |
/// | prefix, `used:`, the hash of a redirect's state | a hash, for some minutes: the redirect was [used](UpstreamTokenStore::use_once) |
/// | prefix, `used:`, the hash of a DPoP proof's key and `jti` | a hash, for some minutes: the proof was used |
///
/// The keys of user and session are SHA-256 sums in Base64, so that Redis has no issuer,
/// no subject and no session's id. The braces are a hash tag: a cluster keeps all keys
/// of a user in one slot. All keys have a time to live.
///
/// In a hash, a provider's tokens are one field: their version, and the tokens sealed
/// with AES-256-GCM-SIV (RFC 8452).
///
/// # Kinds of Redis
///
/// | set-up | constructor |
/// | --- | --- |
/// | one server, or a proxy or service with one address | [`builder`](Self::builder) |
/// | a primary with replicas and Redis Sentinel | [`sentinel`](Self::sentinel) |
/// | Redis Cluster | [`cluster`](Self::cluster) |
///
/// The store needs Redis 5 or newer. Versions 6.2 and 7.0 are tested. A compatible
/// server or proxy must run Lua scripts (`EVAL`) that call `TIME` and then write.
///
/// A URL that starts with `rediss://` encrypts the connections with TLS. The server's
/// certificate must name the host of the URL, and with Sentinel or Cluster the address
/// that the servers announce. The CAs are those of the system, or
/// [`ca_certificates`](RedisStoreBuilder::ca_certificates). If the process has no
/// default `CryptoProvider` of rustls yet, the first connection with TLS installs
/// aws-lc-rs.
///
/// # Rights
///
/// The store needs these rights, and no others (Redis 6 or newer):
///
/// ```text
/// ACL SETUSER gateway on >password ~tower-identity:* +eval +hgetall +hget
///     +hset +hdel +hkeys +hincrby +zadd +zrem +zrange +zremrangebyscore
///     +pexpire +time +del
/// ```
///
/// | with | also |
/// | --- | --- |
/// | another [`prefix`](RedisStoreBuilder::prefix) | that prefix instead of `tower-identity:` |
/// | [`replicas`](RedisStoreBuilder::replicas) | `+wait` |
/// | a database other than 0 | `+select` |
/// | Sentinel | `+role`, and at the sentinels a user with `+role +sentinel\|masters` |
/// | Cluster | `+cluster\|slots +asking` |
///
/// # Persistence
///
/// A write that Redis forgets can cost a user the login: an older refresh token comes
/// back, which the provider takes for stolen.
///
/// | setting of Redis | what a crash loses |
/// | --- | --- |
/// | `appendonly yes`, `appendfsync always` | nothing that was confirmed |
/// | `appendonly yes`, `appendfsync everysec` (the default) | the last second. Users whose tokens were refreshed in it must log in again |
/// | snapshots only (`save`) | all since the last snapshot. Users whose tokens were refreshed since then must log in again, and logouts since then are undone |
/// | neither | all sessions: every user must log in again |
///
/// Replicas of Redis do not replace this: a primary that restarts at once from an old
/// snapshot passes it on to them. Set `maxmemory-policy noeviction`, because an evicted
/// session needs a login, and is not found by a logout everywhere.
///
/// # What happens when Redis fails
///
/// The effect on a refresh is described at
/// [`UpstreamTokens`](crate::UpstreamTokens#what-happens-when-something-breaks).
/// `Unavailable` and `Configuration` are [kinds](crate::AuthErrorKind) of errors.
///
/// Each call that fails because of the connection or the state of the node leaves the
/// connection, looks up the address again, and is made once more. This is safe. Both
/// tries together take at most 500 ms
/// ([`response_limit`](RedisStoreBuilder::response_limit)).
///
/// | Redis | a call | test |
/// | --- | --- | --- |
/// | is down, or refuses connections | fails with `Unavailable` | `redis_store`: `f19_a_redis_that_is_down_is_unavailable_until_it_is_back` |
/// | drops the connection | succeeds on a new connection | `redis_store`: `a_call_on_a_connection_that_was_dropped_is_made_once_more` |
/// | stalls | fails with `Unavailable` after 500 ms | `redis_store`: `f19_a_redis_that_stalls_is_unavailable_in_bounded_time_and_nothing_is_spent` |
/// | vanishes with its host | fails with `Unavailable` after 500 ms. The next call makes a new connection | `redis_store`: `a_host_that_is_gone_without_a_word_is_not_waited_for_twice` |
/// | answers that it cannot serve: it is a replica now, loading, out of memory, without its replicas or disk (`READONLY`, `LOADING`, `OOM`, `NOREPLICAS`, `MISCONF` and others) | succeeds if the address leads to another node now, else fails with `Unavailable` | `redis_faults`: `f64_any_answer_about_the_state_of_a_node_drops_the_connection` |
/// | stays in such a state | fails with `Unavailable`. New connections are made at most every 100 ms | `redis_faults`: `a_node_that_stays_unwell_is_not_flooded_with_connections` |
/// | fails over behind one address | behaves as in the rows above. A primary may confirm a write that its replicas never get: set [`replicas`](RedisStoreBuilder::replicas) to the number of all of them | `redis_store`: `f17_a_fail_over_in_the_middle_of_a_refresh_spends_nothing_twice_and_loses_nothing` |
/// | fails over with Sentinel | fails with `Unavailable` until the sentinels name the new primary. Refreshes that were running end well, and no user must log in, if all replicas have to [confirm](RedisStoreBuilder::replicas) | `redis_topologies`: `a_fail_over_in_the_middle_of_refreshes_sends_nobody_to_log_in` |
/// | fails over with Sentinel every few seconds, while replicas of the gateway die | behaves as in the row above. Only users whose gateway replica died in the middle of a refresh must log in, and with [`grace`](crate::upstream::ProviderBuilder::grace) not even they | `redis_fail_overs`: `eight_replicas_that_are_killed_while_redis_fails_over_cost_nobody_a_log_in_that_need_not_be` |
/// | has a sentinel that is down or silent | succeeds: all sentinels are asked at once | `redis_topologies`: `f64_the_new_primary_is_found_although_a_sentinel_is_gone` |
/// | moves a slot of the cluster | succeeds | `redis_topologies`: `f64_a_session_whose_slot_moved_is_found_at_the_next_call` |
/// | loses a node of the cluster | fails with `Unavailable` until the node or its replica serves | `redis_topologies`: `a_crashed_node_of_a_cluster_costs_nobody_the_log_in` |
/// | has too few replicas that confirm a write in time | fails with `Unavailable`. The connection is left | `redis_faults`: `f64_a_primary_without_its_replicas_is_left` |
/// | restarts without its data | finds no sessions: every provider needs a login. A refresh that was running stores nothing, as after a logout | `redis_store`: `a_redis_that_lost_its_data_needs_a_log_in_and_a_refresh_does_not_bring_a_session_back` |
/// | refuses the password, a command or the keys, has no scripts or no such database, or is a node of a cluster | fails with `Configuration` and says what to do | `redis_faults`: `f78_what_no_other_attempt_mends_is_a_configuration_error_that_says_what_to_do` |
/// | has a certificate that is not trusted, or refuses the client's | fails with `Configuration` | `redis_faults`: `tls_takes_a_ca_and_a_client_certificate_of_ones_own` |
/// | sets its clock back, so that leases seem to last for long | waits no longer than two minutes | `redis_faults`: `f81_a_lease_that_ends_far_in_the_future_is_not_waited_for` |
/// | holds a value that was sealed with an unknown key, was tampered with, or was moved | fails with `Configuration`. The value does not count as missing, and is not overwritten | `redis_store`: `a_value_that_was_moved_or_tampered_with_is_an_error_and_no_log_in` |
/// | is not Redis, or answers nonsense | fails with `Configuration` or `Unavailable` | `redis_faults`: `f81_an_answer_that_is_none_is_an_error_that_shows_nothing_of_it` |
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
/// - The connection is encrypted only if the URL starts with `rediss://`. The values are
///   sealed in either case.
/// - Errors show what Redis said, with control characters escaped. They show neither
///   arguments of commands nor the URL.
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
    /// Starts a store at one server or proxy. New values are sealed with `key`.
    ///
    /// `url` is `redis://[user:password@]host[:port][/database]`, or `rediss://…` for TLS. The host is looked up for each
    /// new connection.
    pub fn builder(url: impl Into<String>, key: SealingKey) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Place::Server(url.into()), key)
    }

    /// Starts a store at the primary that Redis Sentinel names. New values are sealed with `key`.
    ///
    /// `sentinels` are URLs of the sentinels, usually with port 26379. All of them are asked for each new connection,
    /// and the first answer counts that leads to a primary. `primary` is the name that the sentinels know it by, for
    /// example `mymaster`.
    ///
    /// A user and password in a URL are those of the sentinels. Those of the servers are set with
    /// [`credentials`](RedisStoreBuilder::credentials). The database and the scheme of the first URL hold for the
    /// servers too: with `rediss://`, all connections use TLS.
    ///
    /// ```
    /// use tower_identity::{RedisStore, Secret, upstream::SealingKey};
    ///
    /// # fn build(password: Secret) -> Result<(), tower_identity::BuildError> {
    /// let sentinels = ["redis://sentinel-1:26379", "redis://sentinel-2:26379"];
    /// let key = SealingKey::new([7; 32]); // not a good one
    /// let store = RedisStore::sentinel(sentinels, "mymaster", key)
    ///     .credentials("gateway", password)
    ///     .replicas(2)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// # build(Secret::new("7Fjfp0ZBr1Kt").unwrap()).unwrap();
    /// ```
    pub fn sentinel<U>(
        sentinels: impl IntoIterator<Item = U>,
        primary: impl Into<String>,
        key: SealingKey,
    ) -> RedisStoreBuilder
    where
        U: Into<String>,
    {
        let urls = sentinels.into_iter().map(Into::into).collect();
        RedisStoreBuilder::new(Place::Sentinels(urls, primary.into()), key)
    }

    /// Starts a store at a Redis Cluster. New values are sealed with `key`.
    ///
    /// `nodes` are URLs of some of its nodes, with the same credentials and scheme. The first that answers names the
    /// others. A session is one key, so that each call concerns one node.
    pub fn cluster<U>(nodes: impl IntoIterator<Item = U>, key: SealingKey) -> RedisStoreBuilder
    where
        U: Into<String>,
    {
        let urls = nodes.into_iter().map(Into::into).collect();
        RedisStoreBuilder::new(Place::Cluster(urls), key)
    }
}

#[cfg(feature = "dpop")]
impl RedisStore {
    /// Notes that `id` is used, until the clock of Redis says `until`, in milliseconds since 1970. `None` if it says so
    /// already.
    pub(crate) async fn use_until(
        &self,
        id: [u8; 32],
        attempt: u128,
        until: u64,
    ) -> Result<Option<bool>, AuthError> {
        let mut command = redis::cmd("EVAL");
        command.arg(USE_UNTIL).arg(1).arg(self.inner.use_key(id));
        command.arg(format!("{attempt:032x}")).arg(until);
        let noted: i64 = self.inner.server.write(&command).await?;
        Ok((noted >= 0).then_some(noted == 1))
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
            let answer: Value = self.inner.server.ask(&command).await?;
            let mut tokens = BTreeMap::new();
            // A proxy that speaks the newer protocol answers with a map.
            for pair in answer.into_map_iter().map_err(|_| unreadable())? {
                let (Value::BulkString(field), Value::BulkString(value)) = pair else {
                    return Err(unreadable());
                };
                let field = std::str::from_utf8(&field).unwrap_or_default();
                if let Some(provider) = field.strip_prefix(TOKENS) {
                    let stored = self.inner.read(owner, provider, value)?;
                    tokens.insert(provider.to_owned(), stored);
                }
            }
            Ok(tokens)
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
            let mut keys = vec![self.inner.key(owner)];
            keys.extend(owner.session().map(|_| self.inner.index(owner)));
            let mut command = self.inner.once(PUT, owner, &keys);
            command
                .arg(provider)
                .arg(self.inner.written(owner, provider, &stored)?)
                .arg(milliseconds(self.inner.time_to_live))
                .arg(session_name(owner));
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let command = self.inner.once(REMOVE, owner, &[self.inner.key(owner)]);
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn remove_provider<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
    ) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let keys = [self.inner.key(owner)];
            let mut command = self.inner.once(REMOVE_PROVIDER, owner, &keys);
            command.arg(provider);
            let _: i64 = self.inner.server.write(&command).await?;
            Ok(())
        })
    }

    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        Box::pin(async move {
            let sessions = self.inner.sessions(user).await?;
            let mut keys = vec![self.inner.index(user)];
            keys.extend(self.inner.keys(user, &sessions));
            let mut command = self.inner.once(REMOVE_USER, user, &keys);
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

    fn use_once<'a>(
        &'a self,
        id: [u8; 32],
        attempt: u128,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            let mut command = redis::cmd("EVAL");
            command.arg(USE_ONCE).arg(1).arg(self.inner.use_key(id));
            command.arg(format!("{attempt:032x}"));
            command.arg(milliseconds(time).max(1));
            self.inner.server.write(&command).await
        })
    }

    #[cfg(feature = "linking")]
    fn sealing_keys(&self) -> &[SealingKey] {
        &self.inner.keys
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
        [&self.prefix, "{", &encoded(user.user_key()), "}"].concat()
    }

    /// The key of what was used once.
    fn use_key(&self, id: [u8; 32]) -> String {
        format!("{}used:{}", self.prefix, URL_SAFE_NO_PAD.encode(id))
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

    /// A script that runs once, however often the command is sent.
    fn once(&self, script: &'static str, user: &TokenOwner, keys: &[String]) -> Cmd {
        let run = format!("{}:run:{:032x}", self.user_key(user), fastrand::u128(..));
        let known_for = self.server.response_limit().saturating_add(RUN_ONCE_FOR);
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len() + 1);
        command.arg(run).arg(keys).arg(milliseconds(known_for));
        command
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
        let place = sealing::Place {
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
        value: Vec<u8>,
    ) -> Result<StoredTokens, AuthError> {
        // What is sealed in it is opened in place.
        let mut value = Wiped::new(value);
        let (version, sealed) = value
            .split_first_chunk_mut::<VERSION_LENGTH>()
            .ok_or_else(unreadable)?;
        let version = Version::from_bytes(*version);
        let place = sealing::Place {
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
                Claimed::Superseded(self.read(owner, provider, stored)?)
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
    // Lua's numbers and the expiry of Redis can hold it.
    u64::try_from(duration.min(AGES).as_millis()).unwrap_or(u64::MAX)
}

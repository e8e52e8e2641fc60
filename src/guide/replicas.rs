//! I run several replicas.
//!
//! A refresh token that rotates may be spent once. Two replicas that spend it together look like a theft to its issuer, and
//! the user is logged out. So the upstream tokens of a session are shared, and one replica at a time refreshes them.
//!
//! # 1. Share the tokens
//!
//! [`RedisStore`](crate::RedisStore) (feature `redis`) takes the place of [`MemoryStore`](crate::MemoryStore).
//!
//! ```
//! use std::time::Duration;
//! use tower_identity::{
//!     AuthError, RedisStore, UpstreamTokens,
//!     upstream::{Provider, RefreshTokenGrant, SealingKey},
//! };
//!
//! fn upstream_tokens(
//!     newest: SealingKey,
//!     older: SealingKey,
//!     github: RefreshTokenGrant,
//! ) -> Result<UpstreamTokens, AuthError> {
//!     let store = RedisStore::builder("redis://redis.internal/", newest)
//!         .older_key(older)
//!         .replicas(1)
//!         .build()?;
//!     let github = Provider::new("github", github)?.grace(Duration::from_secs(30));
//!     Ok(UpstreamTokens::new(store, [github]))
//! }
//! # let _ = upstream_tokens;
//! ```
//!
//! # 2. Choose how much a fault may cost
//!
//! | setting | set it when |
//! | --- | --- |
//! | [`Provider::grace`](crate::incoming::Provider::grace) | the provider says that it accepts a spent refresh token for a while. Then a replica that dies in the middle of a refresh costs no log-in. **Not** when it does not say so: it takes the second use for a theft |
//! | [`replicas`](crate::upstream::store::redis::RedisStoreBuilder::replicas) | Redis fails over. Then no refresh token is spent before as many replicas of Redis have the claim. While too few are there, nothing is refreshed |
//! | [`lease_time`](crate::UpstreamTokens::lease_time) | the default of 10 s is too long to wait for a replica that died |
//! | [`response_limit`](crate::upstream::store::redis::RedisStoreBuilder::response_limit) | Redis is far away, and 500 ms are too short |
//! | [`time_to_live`](crate::upstream::store::redis::RedisStoreBuilder::time_to_live) | sessions should end sooner, or later, than 30 days after their last refresh |
//!
//! What happens when a replica dies, a lease runs out, or Redis stalls, fails over or loses its data is written down
//! [for refreshes](crate::upstream#what-happens-when-something-breaks) and
//! [for Redis](crate::upstream::store::redis#what-happens-when-redis-fails), row by row.
//!
//! # 3. Rotate the sealing key
//!
//! 1. Make a key: `openssl rand -base64 32`.
//! 2. Give it to all replicas as an [older key](crate::upstream::store::redis::RedisStoreBuilder::older_key), and wait until
//!    all have it.
//! 3. Make it the newest everywhere, and the one before an older one.
//! 4. Drop the old one when each session was refreshed, or has ended. What is then still sealed with it is a
//!    [`Configuration`](crate::AuthErrorKind::Configuration) error, and not a log-in.
//!
//! # 4. Keep the clocks
//!
//! Leases run by the clock of Redis, so it does not matter how far the replicas' clocks are apart. The ends of tokens are
//! compared with each replica's own clock: run NTP. A replica that is a minute behind sends tokens that have expired.
//!
//! # What is per process
//!
//! | what | so |
//! | --- | --- |
//! | what a [`CredentialCache`](crate::CredentialCache) holds (`TokenExchange` and its kin, `AwsSts`) | each replica asks the issuer once for each user, backend and lifetime |
//! | back-off after a failure | each replica tries an issuer that is down by itself |
//! | the issuer's [keys](crate::incoming::jwks) | each replica fetches them |
//! | [remembered tokens](crate::incoming::TokenValidatorBuilder::cache_tokens) | a token that was revoked is good until its end on each replica that remembers it |
//! | the identity that [`follow_requests`](crate::IdentityLayer::follow_requests) follows, and your session map | route a session to the replica that opened it, or open it again |
//! | a replaced [configuration](crate::config::LiveOutgoingAuth) | replace it on each |
//! | spans and metrics | add them up |

//! Run several replicas.
//!
//! A refresh token that rotates may be used only once. If two replicas use the same one, the issuer takes it for stolen
//! and logs the user out. Therefore the replicas share the upstream tokens of a user, and only one of them refreshes
//! the tokens at a time.
//!
//! # 1. Share the tokens
//!
//! Replace [`MemoryStore`](crate::MemoryStore) by [`RedisStore`](crate::RedisStore) (feature `redis`).
//!
//! ```
//! use std::time::Duration;
//! use tower::BoxError;
//! use tower_identity::{
//!     RedisStore, UpstreamTokens,
//!     upstream::{Provider, RefreshTokenGrant, SealingKey},
//! };
//!
//! fn upstream_tokens(
//!     newest: SealingKey,
//!     older: SealingKey,
//!     github: RefreshTokenGrant,
//! ) -> Result<UpstreamTokens, BoxError> {
//!     // This Redis has two replicas, and each may become the primary. So both
//!     // must have a claim before a refresh token is used.
//!     let store = RedisStore::builder("redis://redis.internal/", newest)
//!         .older_key(older)
//!         .replicas(2)
//!         .build()?;
//!     let grace = Duration::from_secs(30);
//!     let github = Provider::builder("github", github).grace(grace).build()?;
//!     Ok(UpstreamTokens::new(store, [github]))
//! }
//! # let _ = upstream_tokens;
//! ```
//!
//! A refresh token is never used twice: within a process, callers share one refresh. Across processes, one replica at a
//! time holds a lease, and a fencing token stops a holder that is too late. The stored tokens are sealed, bound to
//! their user and session, and written by compare-and-swap.
//!
//! # 2. Choose how much a fault may cost
//!
//! | setting | when to set it |
//! | --- | --- |
//! | [`grace`](crate::upstream::ProviderBuilder::grace) | The provider documents that it accepts a used refresh token for some time. Then the user stays logged in if a replica dies in the middle of a refresh. **Do not** set it otherwise, because the provider takes the second use for a theft. |
//! | [`replicas`](crate::upstream::RedisStoreBuilder::replicas) | Redis fails over. Set it to the number of all replicas, because each of them may become the primary: with a smaller number, a replica that did not confirm a claim may be promoted, and users whose refresh falls into that moment must log in again. No refresh token is used before all have the claim, so while one is not connected, nothing is refreshed. |
//! | [`lease_time`](crate::UpstreamTokens::lease_time) | The default of 10 s is too long to wait for a replica that died. |
//! | [`response_limit`](crate::upstream::RedisStoreBuilder::response_limit) | Redis is far away, and the default of 500 ms is too short. |
//! | [`time_to_live`](crate::upstream::RedisStoreBuilder::time_to_live) | Tokens should be removed sooner or later than 30 days after their last refresh. |
//!
//! Two tables list what happens when a replica dies, a lease ends, or Redis stalls, fails over or loses its data: one
//! [for refreshes](crate::UpstreamTokens#what-happens-when-something-breaks) and one [for
//! Redis](crate::RedisStore#what-happens-when-redis-fails). Each row has a test.
//!
//! # 3. Rotate the sealing key
//!
//! 1. Make a key: `openssl rand -base64 32`.
//! 2. Give it to all replicas as an [older key](crate::upstream::RedisStoreBuilder::older_key), and wait until all of
//!    them have it.
//! 3. Make it the newest key everywhere, and the previous key an older one.
//! 4. Remove the previous key when all tokens have been refreshed or removed. Loading tokens that are still sealed with a
//!    removed key fails with [`Configuration`](crate::AuthErrorKind::Configuration), and does not ask the user to log
//!    in.
//!
//! # 4. Synchronize the clocks
//!
//! Leases use the clock of Redis, so differences between the replicas' clocks do not matter to them. The expiry of a
//! token is compared with the replica's own clock. Run NTP, because a replica whose clock is a minute behind sends
//! expired tokens.
//!
//! # 5. Share the used DPoP proofs
//!
//! Where callers have tokens that are bound to their keys ([`DpopPolicy`](crate::incoming::DpopPolicy)), a proof that was
//! used at one replica can be used once more at each other one, within the window of 60 s. Give the policy the same store:
//!
//! ```
//! use tower_identity::{RedisStore, incoming::DpopPolicy, upstream::SealingKey};
//!
//! fn policy(store: RedisStore, nonces: SealingKey) -> DpopPolicy {
//!     DpopPolicy::new()
//!         .url("https://gateway.example.com")
//!         .proof_store(store)
//!         .nonces(nonces)
//! }
//! # let _ = policy;
//! ```
//!
//! Each request with a proof is then one more call to Redis, and is answered with 503 while Redis cannot be reached. Nonces
//! need no store, only the same key on each replica. The window of `iat` is by the clock of the replica, so keep the clocks
//! within a few seconds. Redis remembers proofs by its own clock, so that none is accepted twice even where the clock of a
//! replica is wrong. A replica that is behind Redis by two minutes more than the window of `iat`
//! refuses even proofs that it finds fresh, with 503.
//!
//! # 6. Share the key that tokens are bound to
//!
//! Skip this unless a [provider](crate::upstream::OAuthProviderBuilder::dpop) or a [token
//! endpoint](crate::oauth::TokenEndpointBuilder::dpop) binds tokens to a key (DPoP). The store keeps
//! the thumbprint of the key beside the tokens, and never the key. A replica that has another key can neither use nor
//! refresh these tokens, so the user must link the account again. It leaves the stored tokens as they are.
//!
//! | key | replicas | after a restart | a stolen key makes these stolen tokens usable |
//! | --- | --- | --- | --- |
//! | [generated](crate::oauth::DpopKey::generate) | each has another one: only for tokens that are not shared, such as those of [`ClientCredentials`](crate::ClientCredentials) | tokens that are bound to it are of no use | those of one process |
//! | [from a PEM](crate::oauth::DpopKey::from_pem) | share the PEM | the same | those of all users |
//! | [elsewhere](crate::oauth::DpopKey::with_signer), in a KMS or an HSM | share the signer, and each proof costs a call | the same | none, because it cannot be copied |
//! | [per user](crate::oauth::DpopKeys::per_user) | share a secret | the same | those of all users by the secret, those of one user by one key |
//!
//! A shared key protects a token that leaks from a log, a backend or the provider. It does not protect against a party
//! that reads both the store's sealing key and the key for DPoP, so keep them in the same place as other secrets. To
//! replace a shared key or secret, replace it everywhere at once. The users then link their accounts again.
//!
//! # State that each process has for itself
//!
//! | state | consequence |
//! | --- | --- |
//! | the contents of a [`CredentialCache`](crate::CredentialCache) (used by `TokenExchange` and the other strategies with issued tokens, and by `AwsSts`) | each replica asks the issuer once for each user, backend and lifetime |
//! | the back-off after a failure | each replica finds out by itself that an issuer is down |
//! | used [DPoP proofs](crate::incoming::DpopPolicy::proof_memory), without a store | a proof that was read on its way can be used once at each other replica |
//! | the issuer's [keys](crate::TokenValidator#where-the-keys-come-from) | each replica fetches them |
//! | [remembered tokens](crate::incoming::TokenValidatorBuilder::cache_tokens) | a revoked token stays valid until it expires on each replica that remembers it |
//! | the identity that [`follow_requests`](crate::IdentityLayer::follow_requests) keeps, and your map of sessions | route a session to the replica that opened it, or open it again |
//! | the [client certificate](crate::client::hyper::CertificateSource), and tokens that are bound to it | each replica reads its own files. Upstream tokens in Redis that a provider bound to a certificate (RFC 8705) are good for replicas with this certificate alone: give all replicas the same one |
//! | a replaced [configuration](crate::config::LiveOutgoingAuth) | replace it on each replica |
//! | the nonces of servers that ask for one (DPoP) | each replica makes one more request for its first nonce |
//! | spans and metrics | add them up |

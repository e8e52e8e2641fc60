//! Costs of the layers, and how to measure them.
//!
//! # One request
//!
//! The table has the medians of eight runs on a small virtual machine. Compare rows with each other, because the absolute
//! numbers depend on the machine. Each row includes dropping the request. Building the request is not timed.
//!
//! | a request | ns | against its minimum |
//! | --- | --- | --- |
//! | bare service | 115 | |
//! | hand-written minimum: look up the identity, check the token's expiry, insert the header | 192 | |
//! | both layers with `UpstreamInject`, origin check included | 223 | 1.16 |
//! | the same with `Arc<dyn Strategy>` | 222 | 1.16 |
//! | the fallback, written by hand | 221 | |
//! | the fallback, by the layers | 245 | 1.11 |
//! | tower-http's `SetRequestHeader`, for scale | 152 | |
//!
//! ```sh
//! GLIBC_TUNABLES=glibc.malloc.tcache_count=4096 taskset -c 1 \
//!     cargo bench --bench hot_path
//! ```
//!
//! A request that carries an identity costs no allocation, whether its token is injected or comes from a
//! [`CredentialCache`](crate::CredentialCache). A test (`tests/allocation.rs`) holds this promise.
//!
//! A cached statement of [`SignedIdentity`](crate::SignedIdentity) takes 7,625 instructions beside 7,242 for a cached
//! exchange, with both layers and the request itself (`.ci/instructions.py`). With 10,000 users it takes 2.0 µs beside
//! 0.94 µs, because more memory is read. A token in another header than `Authorization` costs no allocation after
//! `Bearer `, and two with another prefix, because its value is put together in memory that is wiped: 775 instructions
//! more. A secret in a file is looked at when a token endpoint is asked, and not for a request whose token is cached.
//!
//! # The other benches
//!
//! Each of them but `growth` compares the crate with a peer that does the same work by hand.
//!
//! | bench | measures | beside | needs |
//! | --- | --- | --- | --- |
//! | `credential_cache` | a cache hit, with 10,000 users | bare `quick_cache` and `moka` | |
//! | `dpop` | a request with a cached token that is bound to a key, and parts of its proof | the bare signature by the same library | |
//! | `signing` | signing and sending a request with `AwsSts` | `aws-sigv4`, called directly | |
//! | `incoming` | a validated request, also with a proof of the caller's key (feature `dpop`) | the bare verification of its token and proof by `jsonwebtoken` | |
//! | `redis` | loading a session's upstream tokens with `RedisStore` | one bare `GET` of the same size | `redis-server` |
//! | `mcp_client` | a tool call through `TowerHttpClient` and the layers | rmcp's own client on reqwest, without a credential | |
//! | `gateway` | the gateway of `examples/gateway` under load | the same proxy without the layers | `wrk` |
//! | `growth` | the time and the memory for more backends and users, and the calls to Redis for more replicas | itself, at other sizes | `redis-server` |
//!
//! ```sh
//! cargo bench --all-features --bench credential_cache
//! ```
//!
//! # A proof of possession
//!
//! The proof of a request whose cached token is bound to a key (DPoP, ES256) takes 16.9 µs beside 15.7 µs for the bare
//! signature by the same library: 1.08 times as long, and 1.09 with a key for each user (medians on one core). The random
//! `jti` is 0.36 µs of it. The hash of the token is kept beside the token, where it would be 0.6 µs. Beside the signature,
//! the proof costs two allocations.
//!
//! A request with a token that is bound to the caller's key ([`DpopPolicy`](crate::incoming::DpopPolicy)) takes as long as
//! the two verifications that it needs: 83 µs beside 83 µs for the token and the proof by `jsonwebtoken`, or 74 µs where the
//! token is remembered (one run of `incoming` on a busy machine, RS256 and ES256). Of the proof, 59 µs are its signature.
//!
//! # Loading upstream tokens from Redis
//!
//! Loading a session with two providers, each with an access token and a refresh token of 1 KiB, takes 28 µs beside 22 µs
//! for a bare `GET` of the same size: 1.27 times as long (medians of seven runs on one core). Opening the seals is 2.4 µs
//! of it.
//!
//! # Growth
//!
//! | size | cost |
//! | --- | --- |
//! | 1, 10, 100 backends in a configuration | 195, 182, 188 ns a request |
//! | 10,000 users in a cache, with tokens of 1 KiB | 1,491 bytes a user, 0.3 µs a look-up in random order |
//! | 1,000,000 users | 1,480 bytes a user, 1.5 µs a look-up, because each one misses the processor's caches |
//! | 2, 8, 32 replicas on one Redis | one call a request, and 10 to 20 µs of Redis' processor |
//!
//! ```sh
//! cargo bench --all-features --bench growth
//! ```
//!
//! # A gateway under load
//!
//! With the layers, a request costs the gateway 6 to 9 µs more CPU time (52 to 60 µs in total, including the backend's
//! share), and the gateway answers 6 to 8 % fewer requests. These numbers come from two runs on four cores, which the
//! gateway shared with the load generator. Most of the cost is on the way in: validating the caller's token, and
//! loading the session's upstream tokens.

//! Costs of the layers, and how to measure them.
//!
//! All figures on this page are medians of one commit (26 November 2026), on a small virtual machine with two cores. Compare
//! rows with each other, because the absolute numbers depend on the machine, and differ by 10 % from run to run.
//!
//! # One request
//!
//! Each row includes dropping the request. Building the request is not timed.
//!
//! | a request | ns | against its minimum |
//! | --- | --- | --- |
//! | bare service | 106 | |
//! | hand-written minimum: look up the identity, check the token's expiry, insert the header | 182 | |
//! | both layers with `UpstreamInject`, origin check included | 215 | 1.18 |
//! | the same with `Arc<dyn Strategy>` | 216 | 1.18 |
//! | the fallback, written by hand | 211 | |
//! | the fallback, by the layers | 234 | 1.11 |
//! | tower-http's `SetRequestHeader`, for scale | 136 | |
//!
//! ```sh
//! GLIBC_TUNABLES=glibc.malloc.tcache_count=4096 taskset -c 1 \
//!     cargo bench --bench hot_path
//! ```
//!
//! A request that carries an identity costs no allocation, whether its token is injected or comes from a
//! [`CredentialCache`](crate::CredentialCache). A test (`tests/allocation.rs`) holds this promise. The gate counts the
//! instructions of these requests, which are the same on each run, and fails when one has 3 % more (`.ci/instructions.py`).
//!
//! A token in another header than `Authorization` costs no allocation if its prefix is `Bearer `. Any other prefix costs two
//! allocations and 775 instructions, because the value is put together in memory that is wiped. A secret in a file is read
//! when a token endpoint is asked, and not for a request whose token is cached.
//!
//! # Beside peers
//!
//! | path | takes | beside | ratio |
//! | --- | --- | --- | --- |
//! | a cached exchange, with both layers, 10,000 users | 802 ns | 685 ns: the same by hand, with `quick_cache` | 1.17 |
//! | a cached statement of [`SignedIdentity`](crate::SignedIdentity), with both layers | 612 ns | 802 ns: the cached exchange | 0.76 |
//! | a look-up in the cache | 273 ns | 193 ns: `quick_cache` and two clock reads in turn (71 and 48 ns alone) | 1.41 |
//! | one user's cached token on two cores at once, with both layers | 425 ns | 321 ns: on one core | 1.32 |
//! | a validated request, RS256 | 22.1 µs | 21.8 µs: the token's verification by `jsonwebtoken` | 1.01 |
//! | the same with a remembered token | 0.38 µs | | |
//! | a validated request with a DPoP proof, ES256 | 79.6 µs | 75.7 µs: both verifications by `jsonwebtoken` | 1.05 |
//! | a request with a cached token that is bound to a key | 17.2 µs | 15.7 µs: the bare signature, by aws-lc | 1.10 |
//! | `AwsSts`, no body, 1 KiB, 64 KiB | 7.3, 8.2, 44.0 µs | 7.0, 7.7, 43.9 µs: `aws-sigv4` alone | 1.05, 1.07, 1.00 |
//! | a load from Redis, two providers with tokens of 1 KiB | 27.3 µs | 21.6 µs: a bare `GET` of the same size | 1.26 |
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
//! signature by the same library: 1.07 times as long, and 1.09 with a key for each user (medians on one core). The random
//! `jti` is 0.36 µs of it. The hash of the token is kept beside the token, where it would be 0.6 µs. Beside the signature,
//! the proof costs two allocations.
//!
//! A request with a token that is bound to the caller's key ([`DpopPolicy`](crate::incoming::DpopPolicy)) takes 1.05
//! times as long as the two verifications that it needs, of the token and of the proof, by `jsonwebtoken`. Where the token
//! is remembered, it takes 59 µs (RS256 and ES256). Of the proof, 56 µs are its signature.
//!
//! # Growth
//!
//! | size | cost |
//! | --- | --- |
//! | 1, 10, 100 backends in a configuration | 180, 180, 195 ns a request |
//! | 10,000 users in a cache, with tokens of 1 KiB | 1,520 bytes a user, 0.2 µs a look-up in random order |
//! | 1,000,000 users | 1,479 bytes a user, 1.4 µs a look-up, because each one misses the processor's caches |
//! | 2, 8, 32 replicas on one Redis | one call a request, and 8 to 17 µs of Redis' processor |
//!
//! ```sh
//! cargo bench --all-features --bench growth
//! ```
//!
//! # A gateway under load
//!
//! The gateway of `examples/gateway` answers 0.87 times as many requests as the same proxy without the layers (six rounds
//! of 30 s, from 0.76 to 1.02), and a request costs 49.1 µs of processor time beside 40.1 µs, the backend's share included
//! (0.98 to 1.37 times as much). The machine was shared, so that the rounds differ.
//!
//! Counted, which does not differ, a request takes 13,300 instructions and 16 allocations more than the other proxy's
//! 80,200 and 54, and the same system calls. About
//! a third of the difference is on the way in, where the token is validated and the user's upstream tokens are loaded. The
//! rest is the copy of the request for a retry, the body that is read as a whole, the session, and the checks of the layers.

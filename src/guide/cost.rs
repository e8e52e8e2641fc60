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
//! | bare service | 120 | |
//! | hand-written minimum: look up the identity, check the token's expiry, insert the header | 197 | |
//! | both layers with `UpstreamInject`, origin check included | 213 | 1.08 |
//! | the same with `Arc<dyn Strategy>` | 222 | 1.13 |
//! | the fallback, written by hand | 220 | |
//! | the fallback, by the layers | 255 | 1.16 |
//! | tower-http's `SetRequestHeader`, for scale | 146 | |
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
//! | a cached exchange, with both layers, 10,000 users | 884 ns | 700 ns: the same by hand, with `quick_cache` | 1.26 |
//! | a cached statement of [`SignedIdentity`](crate::SignedIdentity), with both layers | 899 ns | 884 ns: the cached exchange | 1.02 |
//! | a look-up in the cache | 354 ns | 76 ns: `quick_cache`, and 51 ns: the two clock reads of a look-up | |
//! | one user's cached token on two cores at once, with both layers | 419 ns | 375 ns: on one core | 1.12 |
//! | a validated request, RS256 | 23.9 µs | 22.1 µs: the token's verification by `jsonwebtoken` | 1.08 |
//! | the same with a remembered token | 0.43 µs | | |
//! | a validated request with a DPoP proof, ES256 | 80 µs | 77 µs: both verifications by `jsonwebtoken` | 1.04 |
//! | a request with a cached token that is bound to a key | 17.4 µs | 16.3 µs: the bare signature, by aws-lc | 1.07 |
//! | `AwsSts`, no body, 1 KiB, 64 KiB | 7.1, 7.9, 45.7 µs | 6.6, 7.2, 43.3 µs: `aws-sigv4` alone | 1.07, 1.10, 1.06 |
//! | a load from Redis, two providers with tokens of 1 KiB | 30.5 µs | 22.3 µs: a bare `GET` of the same size | 1.37 |
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
//! The gateway of `examples/gateway` answers 0.89 times as many requests as the same proxy without the layers (six rounds
//! of 30 s, from 0.69 to 0.93), and a request costs 48.1 µs of processor time beside 38.8 µs, the backend's share included
//! (1.10 to 1.51 times as much). The machine was shared, so that the rounds differ.
//!
//! Counted in instructions, which do not differ, a request takes 96,100 beside 80,200, and 71 allocations beside 54. About
//! a third of the difference is on the way in, where the token is validated and the user's upstream tokens are loaded. The
//! rest is the copy of the request for a retry, the body that is read as a whole, the session, and the checks of the layers.

//! How the crate is tested, and how to find out whether the tests would notice a bug.
//!
//! The tests and benches are in the repository, not in the published package.
//!
//! # The tests
//!
//! ```sh
//! cargo test --all-features
//! ```
//!
//! They run against real MCP servers and real HTTP peers on loopback. Some need `redis-server` and `moto_server` (PyPI
//! `moto[server]`) on the `PATH`. `tests/peers/install` brings the others, among them MCP's conformance suite and its
//! `server-everything`. Without these programs the tests that need them say that they did not run. `cargo test
//! --all-features --test mcp_conformance -- --nocapture` shows a row for each scenario of the suite. The [threat
//! model](super::security#promises-and-their-tests) lists the test that holds each promise.
//!
//! # The examples
//!
//! `examples/README.md` lists the programs in `examples/`. Each starts the issuers and backends that it needs. For
//! example, this one shows an MCP session whose token is refreshed twice, and with `-- --stale` the 401s that a captured
//! identity causes:
//!
//! ```sh
//! cargo run --all-features --example session_refresh
//! ```
//!
//! `tests/peers/browser/link.py` drives Chromium through the pages of `--example gateway -- --demo`, and leaves
//! screenshots. `--example aws_sts` runs against moto's server if `moto_server` is installed.
//!
//! # The faults of other systems
//!
//! The following command puts each [fault](super::faults) into a copy of the crate, one after another, and checks that
//! a test fails. A full run needs Python and Git, and takes hours, because the crate is built for each row of that page.
//! `tests/faults/run F07 F18` tries only these two.
//!
//! ```sh
//! tests/faults/run
//! ```
//!
//! # Mutations
//!
//! [cargo-mutants](https://mutants.rs) changes one function of a module at a time, and runs the tests that hold the
//! module's promises:
//!
//! ```sh
//! cargo mutants --all-features -f src/origin.rs \
//!     -C=--test=origin -C=--test=auth_layer -C=--test=redirects
//! ```
//!
//! # Hostile input
//!
//! `tests/hostile_input` tries a few thousand inputs. libFuzzer tries as many as there is time for. Install it with
//! `cargo install cargo-fuzz`. `cargo fuzz list --fuzz-dir tests/fuzz` shows the other targets.
//!
//! ```sh
//! mkdir -p tests/fuzz/corpus/token
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none \
//!     token tests/fuzz/corpus/token tests/hostile_input/seeds/token
//! ```
//!
//! # Half an hour of everything
//!
//! The soak test has 2,000 users at two gateways with four backends. Meanwhile issuers and Redis fail, tokens expire
//! and are revoked, and callers give up. It reports what went wrong, and checks that all counters add up, that memory
//! stayed flat (within 15 % after the warm-up) and that every task ended.
//!
//! ```sh
//! cargo test --all-features --test soak -- --ignored --nocapture
//! SOAK_SECONDS=60 cargo test --all-features --test soak -- --ignored --nocapture
//! ```
//!
//! | variable | sets |
//! | --- | --- |
//! | `SOAK_SECONDS` | how long it runs |
//! | `SOAK_SEED` | which faults happen when: the same seed breaks the same things again |
//! | `SOAK_RATE` | calls per second (300 by default) |

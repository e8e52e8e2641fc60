#![no_main]

#[allow(dead_code, reason = "this target reads challenges, and checks none that is an input")]
#[path = "../../hostile_input/challenge.rs"]
mod challenge;
#[path = "../../hostile_input/harness.rs"]
mod harness;
#[allow(dead_code, reason = "only what `challenge` needs is used")]
#[path = "../../support/key_pair.rs"]
mod key_pair;
#[path = "../../hostile_input/token_response.rs"]
mod token_response;

libfuzzer_sys::fuzz_target!(|input: &[u8]| token_response::check(input));

#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../support/key_pair.rs"]
mod key_pair;
#[path = "../../hostile_input/token.rs"]
mod token;

libfuzzer_sys::fuzz_target!(|input: &[u8]| token::check(input));

#![no_main]

#[path = "../../hostile_input/challenge.rs"]
mod challenge;
#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../support/key_pair.rs"]
mod key_pair;

libfuzzer_sys::fuzz_target!(|input: &[u8]| challenge::check_read(input));

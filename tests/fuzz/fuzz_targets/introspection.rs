#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/introspection.rs"]
mod introspection;
#[path = "../../support/key_pair.rs"]
mod key_pair;

libfuzzer_sys::fuzz_target!(|input: &[u8]| introspection::check(input));

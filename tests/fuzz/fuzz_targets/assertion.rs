#![no_main]

#[path = "../../hostile_input/assertion.rs"]
mod assertion;
#[path = "../../hostile_input/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| assertion::check(input));

#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/origin.rs"]
mod origin;

libfuzzer_sys::fuzz_target!(|input: &[u8]| origin::check(input));

#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/token_response.rs"]
mod token_response;

libfuzzer_sys::fuzz_target!(|input: &[u8]| token_response::check(input));

#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/signed_request.rs"]
mod signed_request;
#[path = "../../support/sigv4.rs"]
mod sigv4;

libfuzzer_sys::fuzz_target!(|input: &[u8]| signed_request::check(input));

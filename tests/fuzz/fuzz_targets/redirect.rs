#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/redirect.rs"]
mod redirect;

libfuzzer_sys::fuzz_target!(|input: &[u8]| redirect::check(input));

#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/roles.rs"]
mod roles;

libfuzzer_sys::fuzz_target!(
    // What is caught is no crash: `cel` panics, and the strategy counts on it.
    init: drop(std::panic::take_hook()),
    |input: &[u8]| roles::check_claims(input)
);

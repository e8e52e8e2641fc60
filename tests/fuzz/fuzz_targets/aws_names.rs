#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/roles.rs"]
mod roles;

libfuzzer_sys::fuzz_target!(|input: &[u8]| roles::check_names(input));

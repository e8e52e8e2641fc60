#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/sts_answer.rs"]
mod sts_answer;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sts_answer::check(input));

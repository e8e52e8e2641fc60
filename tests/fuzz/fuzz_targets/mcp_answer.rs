#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/mcp_answer.rs"]
mod mcp_answer;

libfuzzer_sys::fuzz_target!(|input: &[u8]| mcp_answer::check(input));

#![no_main]

#[path = "../../hostile_input/event_stream.rs"]
mod event_stream;
#[path = "../../hostile_input/harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| event_stream::check(input));

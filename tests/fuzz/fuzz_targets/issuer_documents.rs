#![no_main]

#[path = "../../hostile_input/harness.rs"]
mod harness;
#[path = "../../hostile_input/issuer_documents.rs"]
mod issuer_documents;
#[path = "../../support/key_pair.rs"]
mod key_pair;

libfuzzer_sys::fuzz_target!(|input: &[u8]| issuer_documents::check(input));

//! Law: no line makes the parser panic; an accepted line, exported and parsed again, is the same event.
#![no_main]

#[path = "../laws/ndjson_import.rs"]
mod law;

libfuzzer_sys::fuzz_target!(|data: &[u8]| law::ndjson_import(data));

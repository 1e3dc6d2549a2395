//! Law: any bytes as a snapshot file: a load gives what was saved, or an older one, or none, and never fails.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::snapshot_file(data));

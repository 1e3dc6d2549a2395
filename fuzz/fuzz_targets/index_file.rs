//! Law: any bytes as an `.idx` file: refused, or every answer agrees with the segments.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::index_file(data));

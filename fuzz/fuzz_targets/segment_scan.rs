//! Law: a scan of any bytes ends, does not panic and takes no memory beyond them; what it kept, followed by zeros, scans clean
//! with the same events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::segment_scan(data));

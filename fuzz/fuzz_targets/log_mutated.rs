//! Law: a valid log, its files changed, cut, swapped or removed, is refused or opens; every event read was appended there; none is
//! missing without an error unless nothing is left that could tell.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::log_mutated(data));

//! Law: appends, reads, closes, crashes and faults in any order: the log is what a plain list of events says. Acknowledged
//! events stay, refused ones never appear, batches are whole or absent.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::log_ops(data));

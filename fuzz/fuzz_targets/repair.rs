//! Law: a valid log, its files changed, cut, swapped or removed, is refused by a repair and not changed, or repaired: it opens and is whole,
//! every event read was appended there, every other one lies in a loss that is reported, unless nothing is left that could tell.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::repair(data));

//! Law: decoding any bytes does not panic; what decodes encodes to an equal record; decode(encode(x)) = x.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| annals::fuzzing::record_decode(data));

//! See `testkit::fuzzing::guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzzing::guest(data));

//! See `testkit::fuzzing::template_guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzzing::template_guest(data));

//! See `testkit::fuzzing::file_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzzing::file_server(data));

//! See `spank_vm::fuzzing::template_guest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spank_vm::fuzzing::template_guest(data));

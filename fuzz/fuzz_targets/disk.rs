//! See `spank_vm::fuzzing::disk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spank_vm::fuzzing::disk(data));

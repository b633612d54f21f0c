//! Raw bindings to `spank.h`, made by `build.rs`; only [`crate::spank`] imports them.
//!
//! One set of bindings serves every Slurm release from 22.05 on: the items and structures used
//! here kept their values and layout (compared up to 26.05).

#![allow(unsafe_code)]
#![allow(missing_docs, missing_debug_implementations)]
#![allow(non_camel_case_types, non_upper_case_globals, dead_code)]
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/spank.rs"));

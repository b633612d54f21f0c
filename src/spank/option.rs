//! Registration of command line options.

#![allow(unsafe_code)]

use super::handle::{c_string, check};
use super::{Spank, SpankError};
use crate::sys;
use request::About;
use std::ffi::{OsStr, c_char, c_int};
use std::ptr;

/// The function that Slurm calls for each value of an option, with the option's number, the value,
/// and whether this is slurmstepd.
pub type Callback = unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int;

/// Registers an option; `number` is handed to `callback`.
///
/// The table symbol `spank_options` of spank.h would be simpler, but sbatch and salloc do not read it.
///
/// # Errors
/// When Slurm refuses, for instance outside of `slurm_spank_init`.
pub fn register(spank: &Spank, option: &About, number: c_int, callback: Callback) -> Result<(), SpankError> {
    let text = |text: &str| c_string(OsStr::new(text));
    let (name, usage) = (text(option.name)?, text(option.help)?);
    let argument = option.argument.map(text).transpose()?;
    let mut raw = sys::spank_option {
        name: name.as_ptr().cast_mut(),
        arginfo: argument.as_ref().map_or(ptr::null_mut(), |word| word.as_ptr().cast_mut()),
        usage: usage.as_ptr().cast_mut(),
        // Never 2 (an optional value): the word that follows would not be read as the value.
        has_arg: c_int::from(option.argument.is_some()),
        val: number,
        cb: Some(callback),
    };
    // SAFETY: the handle is the one Slurm passed to the running hook; Slurm copies the structure
    // and its strings, and writes to neither.
    let code = unsafe { sys::spank_option_register(spank.raw(), &raw mut raw) };
    check(code, || format!("to register --{}", option.name))
}

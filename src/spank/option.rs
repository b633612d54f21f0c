//! Registration of command line options.

#![allow(unsafe_code)]

use super::handle::check;
use super::{Spank, SpankError};
use crate::sys;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;

/// What Slurm calls for each value of an option: number of the option, its value, whether this is
/// slurmstepd.
pub type Callback = unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int;

/// An option, as `srun --help` shows it.
#[derive(Debug, Clone, Copy)]
pub struct CliOption {
    /// Name without the dashes.
    pub name: &'static CStr,
    /// The word after `=` in the help; `None` for an option that takes no value.
    pub arginfo: Option<&'static CStr>,
    /// The help itself; Slurm demands one and breaks its lines.
    pub usage: &'static CStr,
}

/// Registers an option; `number` is handed to `callback`.
///
/// The table symbol `spank_options` of spank.h would be simpler, but sbatch and salloc do not read it.
///
/// # Errors
/// When Slurm refuses, for instance outside of `slurm_spank_init`.
pub fn register(spank: &Spank, option: &CliOption, number: c_int, callback: Callback) -> Result<(), SpankError> {
    let mut raw = sys::spank_option {
        name: option.name.as_ptr().cast_mut(),
        arginfo: option.arginfo.map_or(ptr::null_mut(), |word| word.as_ptr().cast_mut()),
        usage: option.usage.as_ptr().cast_mut(),
        // Never 2, an optional value: a word that follows would not be taken for it.
        has_arg: c_int::from(option.arginfo.is_some()),
        val: number,
        cb: Some(callback),
    };
    // SAFETY: the handle is the one Slurm passed to the running hook; Slurm copies the structure
    // and its strings, and writes to neither.
    let code = unsafe { sys::spank_option_register(spank.raw(), &raw mut raw) };
    check(code, || format!("to register --{}", option.name.to_string_lossy()))
}

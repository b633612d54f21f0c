//! Lines to the user and the administrator through Slurm's own log functions.
//!
//! They know where a message goes in each program: standard error of srun and sbatch, the task's
//! standard error in slurmstepd once that is set up, slurmd's log before that. The plugin itself
//! never writes to a file descriptor.

#![allow(unsafe_code)]

use super::Level;
use crate::sys;
use std::ffi::CString;

/// Writes `vm: text` at the given level.
pub fn line(level: Level, text: &str) {
    let line = c_line(text);
    // SAFETY: these are printf-like functions of the host; with the constant format "%s" they read
    // one NUL-terminated string, which lives until they return.
    unsafe {
        match level {
            Level::Error => sys::slurm_error(c"%s".as_ptr(), line.as_ptr()),
            Level::Note => sys::slurm_spank_log(c"%s".as_ptr(), line.as_ptr()),
            Level::Warning => sys::slurm_info(c"%s".as_ptr(), line.as_ptr()),
            Level::Admin => sys::slurm_verbose(c"%s".as_ptr(), line.as_ptr()),
        }
    }
}

/// Tells the user why the step or the submission fails.
pub fn user_error(text: &str) {
    line(Level::Error, text);
}

fn c_line(text: &str) -> CString {
    // No NUL is left, so new() cannot fail; an empty line would be harmless.
    CString::new(format!("vm: {}", text.replace('\0', "\u{fffd}"))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_in_a_message_does_not_cut_it() {
        assert_eq!(c_line("a\0b").to_str(), Ok("vm: a\u{fffd}b"));
    }
}

//! The data symbols by which Slurm recognises a plugin.
//!
//! Slurm loads a plugin only when `plugin_version` has its own major and minor number
//! (`plugin.c:_verify_syms`). The parts of the interface used here have not changed from 22.05 to
//! 26.05, so one file can serve all: a constructor asks the program that loads it which release it
//! is. A release that is not in the table sees version 0 and refuses the plugin cleanly
//! ("Incompatible Slurm plugin").

#![allow(unsafe_code)]

use crate::spank::symbol;
use std::ffi::{c_char, c_long};
use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of the plugin; part of the environment variables that carry its options.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static plugin_name: [u8; 9] = *b"spank_vm\0";

/// Kind of the plugin.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static plugin_type: [u8; 6] = *b"spank\0";

/// Release of Slurm this plugin claims to be built for, `0xMMmm00`. Same layout as C's `uint32_t`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static plugin_version: AtomicU32 = AtomicU32::new(0);

const _: () = assert!(size_of::<c_char>() == 1 && size_of::<AtomicU32>() == 4);

/// Runs inside dlopen, before Slurm looks at [`plugin_version`]. It runs twice in one process if
/// plugstack.conf has a relative path, because Slurm then tries the file before it loads it.
#[used]
#[unsafe(link_section = ".init_array")]
static SET_VERSION: extern "C" fn() = set_version;

extern "C" fn set_version() {
    type ApiVersion = unsafe extern "C" fn() -> c_long;
    // Nothing here can panic, so no guard is needed (and none may be: there is no way to report).
    if let Some(function) = symbol(c"slurm_api_version") {
        // SAFETY: slurm.h: `extern long slurm_api_version(void)`, in every release.
        let version = unsafe { mem::transmute::<*mut std::ffi::c_void, ApiVersion>(function.as_ptr())() };
        plugin_version.store(release_of_api(version >> 16), Ordering::Relaxed);
    }
}

/// The release of Slurm that loaded the plugin, `0xMMmm00`; 0 when it is not known.
pub fn release() -> u32 {
    plugin_version.load(Ordering::Relaxed)
}

/// The release that has this `API_CURRENT` (file META of Slurm's sources).
fn release_of_api(api: c_long) -> u32 {
    let (major, minor) = match api {
        38 => (22, 5),
        39 => (23, 2),
        40 => (23, 11),
        41 => (24, 5),
        42 => (24, 11),
        43 => (25, 5),
        44 => (25, 11),
        45 => (26, 5),
        _ => return 0,
    };
    major << 16 | minor << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_releases_are_claimed_and_others_are_not() {
        assert_eq!(release_of_api(38), 0x0016_0500);
        assert_eq!(release_of_api(42), 0x0018_0b00);
        assert_eq!(release_of_api(45), 0x001a_0500);
        assert_eq!(release_of_api(37), 0);
        assert_eq!(release_of_api(46), 0);
    }
}

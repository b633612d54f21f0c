//! The real [`Host`]: the handle Slurm passes to each hook.

#![allow(unsafe_code)]

use super::live::LiveArgv;
use super::process::symbol;
use super::{Context, Host, Level, SpankError, Step, log};
use crate::sys;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

/// Largest variable that is read from a job's environment; Slurm's own limit is a quarter of it.
const MAX_VALUE: usize = 1 << 20;

/// Slurm's handle, valid for the hook it was passed to.
#[derive(Debug)]
pub struct Spank(sys::spank_t);

impl Spank {
    /// Wraps the handle of the running hook.
    ///
    /// # Safety
    /// `handle` must be what Slurm passed to a hook that has not returned.
    pub unsafe fn new(handle: sys::spank_t) -> Self {
        Self(handle)
    }

    /// The handle itself, for calls that are no items.
    pub(super) fn raw(&self) -> sys::spank_t {
        self.0
    }

    /// Reads an item that Slurm stores through one pointer.
    ///
    /// # Safety
    /// `T` must be the type spank.h states for the item.
    unsafe fn item<T: Default>(&self, item: sys::spank_item, name: &str) -> Result<T, SpankError> {
        let mut value = T::default();
        // SAFETY: by the caller's promise the pointer is of the type Slurm writes through.
        let code = unsafe { sys::spank_get_item(self.0, item, &raw mut value) };
        check(code, || name.to_owned())?;
        Ok(value)
    }

    /// The live argument vector.
    fn raw_argv(&self) -> Result<(usize, *mut *mut c_char), SpankError> {
        let mut count: c_int = 0;
        let mut words: *mut *mut c_char = ptr::null_mut();
        // SAFETY: spank.h: S_JOB_ARGV takes (int *, char ***).
        let code = unsafe { sys::spank_get_item(self.0, sys::S_JOB_ARGV, &raw mut count, &raw mut words) };
        check(code, || "S_JOB_ARGV".to_owned())?;
        let count = if words.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
        Ok((count, words))
    }
}

/// Where srun keeps what it read of the command line.
const SRUN_VARIABLES: [&CStr; 2] = [c"opt", c"sropt"];

impl Spank {
    fn live_argv(&self) -> Option<LiveArgv> {
        let variables = SRUN_VARIABLES.map(|name| symbol(name).map(|place| place.as_ptr() as usize));
        let variables: Vec<usize> = variables.into_iter().flatten().collect();
        LiveArgv::find(&variables, &self.command_line())
    }
}

impl Host for Spank {
    fn context(&self) -> Context {
        // SAFETY: no arguments; the host only looks at its own state.
        match unsafe { sys::spank_context() } {
            sys::S_CTX_LOCAL => Context::Srun,
            sys::S_CTX_ALLOCATOR => Context::Allocator,
            sys::S_CTX_REMOTE => Context::Stepd,
            sys::S_CTX_SLURMD => Context::Slurmd,
            _ => Context::Other,
        }
    }

    fn job_id(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item(sys::S_JOB_ID, "S_JOB_ID") }
    }

    fn step(&self) -> Result<Step, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item::<u32>(sys::S_JOB_STEPID, "S_JOB_STEPID") }.map(Step::from)
    }

    fn owner(&self) -> Result<(u32, u32), SpankError> {
        // SAFETY: spank.h: uid_t *, which is 32 bits unsigned on Linux.
        let uid = unsafe { self.item(sys::S_JOB_UID, "S_JOB_UID") }?;
        // SAFETY: spank.h: gid_t *, likewise.
        let gid = unsafe { self.item(sys::S_JOB_GID, "S_JOB_GID") }?;
        Ok((uid, gid))
    }

    fn task_id(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item(sys::S_TASK_GLOBAL_ID, "S_TASK_GLOBAL_ID") }
    }

    fn local_tasks(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item(sys::S_JOB_LOCAL_TASK_COUNT, "S_JOB_LOCAL_TASK_COUNT") }
    }

    fn local_task_id(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: int *.
        unsafe { self.item::<i32>(sys::S_TASK_ID, "S_TASK_ID") }.map(|id| u32::try_from(id).unwrap_or(0))
    }

    fn all_tasks(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item::<u32>(sys::S_JOB_TOTAL_TASK_COUNT, "S_JOB_TOTAL_TASK_COUNT") }
    }

    fn step_nodes(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item::<u32>(sys::S_JOB_NNODES, "S_JOB_NNODES") }
    }

    fn node_id(&self) -> Result<u32, SpankError> {
        // SAFETY: spank.h: uint32_t *.
        unsafe { self.item::<u32>(sys::S_JOB_NODEID, "S_JOB_NODEID") }
    }

    fn global_task_id(&self, local: u32) -> Result<u32, SpankError> {
        let mut global: u32 = 0;
        // SAFETY: spank.h: S_JOB_LOCAL_TO_GLOBAL_ID takes (uint32_t, uint32_t *).
        let code = unsafe { sys::spank_get_item(self.0, sys::S_JOB_LOCAL_TO_GLOBAL_ID, local, &raw mut global) };
        check(code, || "S_JOB_LOCAL_TO_GLOBAL_ID".to_owned())?;
        Ok(global)
    }

    fn step_memory_mib(&self) -> Result<u64, SpankError> {
        // SAFETY: spank.h: uint64_t *.
        unsafe { self.item(sys::S_STEP_ALLOC_MEM, "S_STEP_ALLOC_MEM") }
    }

    fn argv(&self) -> Result<Vec<OsString>, SpankError> {
        let (count, words) = self.raw_argv()?;
        // SAFETY: Slurm's argv: `count` pointers, each null or a NUL-terminated string.
        Ok(unsafe { own_words(count, words) })
    }

    fn set_arg(&mut self, index: usize, word: &OsStr) -> Result<(), SpankError> {
        let (count, words) = self.raw_argv()?;
        if count <= index {
            return Err(SpankError { what: "to replace the command".into(), reason: "there is no command".into() });
        }
        let copy = slurm_string(word)?;
        // SAFETY: the array has more than `index` elements and is writable memory of Slurm's heap. The old
        // string is left alone, because srun may hold another pointer to it.
        unsafe { *words.add(index) = copy };
        Ok(())
    }

    fn component_command(&self) -> Option<Vec<OsString>> {
        self.live_argv().map(|argv| argv.words)
    }

    fn hide_component_command(&mut self, word: &OsStr) -> Result<(), SpankError> {
        let failed = |reason: String| SpankError { what: "to replace the command of a component".into(), reason };
        let argv = self.live_argv().ok_or_else(|| failed("it was not found".into()))?;
        let copy = slurm_string(word)?;
        argv.set_first(copy as usize).map_err(|error| failed(error.to_string()))
    }

    fn can_prepend_argv(&self) -> bool {
        symbol(PREPEND).is_some()
    }

    fn prepend_argv(&mut self, words: &[&OsStr]) -> Result<(), SpankError> {
        type Prepend = unsafe extern "C" fn(sys::spank_t, c_int, *const *const c_char) -> sys::spank_err_t;
        let what = || "spank_prepend_task_argv".to_owned();
        let Some(function) = symbol(PREPEND) else {
            return Err(SpankError { what: what(), reason: "it exists since Slurm 23.11".into() });
        };
        let words = words.iter().map(|word| c_string(word)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        // SAFETY: that symbol has this type since 23.11 (spank.h of 24.11 and 26.05 compared). It
        // copies the strings.
        let code = unsafe {
            let prepend: Prepend = mem::transmute(function.as_ptr());
            prepend(self.0, count, pointers.as_ptr())
        };
        check(code, what)
    }

    fn job_env(&self, name: &str) -> Result<Option<OsString>, SpankError> {
        let c_name = c_string(OsStr::new(name))?;
        let mut size = 4096;
        loop {
            let mut value = vec![0_u8; size];
            let length = c_int::try_from(size).unwrap_or(c_int::MAX);
            // SAFETY: Slurm writes at most `length` bytes, the NUL included, into the buffer.
            let code =
                unsafe { sys::spank_getenv(self.0, c_name.as_ptr(), value.as_mut_ptr().cast::<c_char>(), length) };
            match code {
                sys::ESPANK_ENV_NOEXIST => return Ok(None),
                sys::ESPANK_NOSPACE if size < MAX_VALUE => size *= 4,
                code => {
                    check(code, || format!("the variable {name}"))?;
                    value.truncate(value.iter().position(|&byte| byte == 0).unwrap_or(0));
                    return Ok(Some(OsString::from_vec(value)));
                }
            }
        }
    }

    fn set_job_env(&mut self, name: &str, value: &OsStr) -> Result<(), SpankError> {
        let (c_name, c_value) = (c_string(OsStr::new(name))?, c_string(value)?);
        // SAFETY: Slurm copies both strings.
        let code = unsafe { sys::spank_setenv(self.0, c_name.as_ptr(), c_value.as_ptr(), 1) };
        check(code, || format!("to set {name}"))
    }

    fn unset_job_env(&mut self, name: &str) -> Result<(), SpankError> {
        let c_name = c_string(OsStr::new(name))?;
        // SAFETY: Slurm only reads the name.
        let code = unsafe { sys::spank_unsetenv(self.0, c_name.as_ptr()) };
        check(code, || format!("to unset {name}"))
    }

    fn is_verbose(&self) -> bool {
        type LogLevel = unsafe extern "C" fn() -> c_int;
        let Some(function) = symbol(c"slurm_get_log_level") else { return false };
        // SAFETY: Slurm exports this function with this type under this name to its plugins
        // (slurm_xlator.h, 22.05 to 26.05); it only reads a number.
        let level = unsafe { mem::transmute::<*mut c_void, LogLevel>(function.as_ptr())() };
        level >= LOG_LEVEL_VERBOSE
    }

    fn command_line(&self) -> Vec<OsString> {
        env::args_os().collect()
    }

    fn own_env(&self, name: &str) -> Option<OsString> {
        env::var_os(name)
    }

    fn set_own_env(&mut self, name: &str, value: &OsStr) {
        // SAFETY: clients call hooks from one thread at a time and set variables around them
        // themselves (spank_init_post_opt; pre_launch_srun_job merges `environ` right after
        // slurm_spank_local_user_init). srun's other thread then, for signals, reads none.
        unsafe { env::set_var(name, value) };
    }

    fn log(&self, level: Level, text: &str) {
        log::line(level, text);
    }
}

/// What one `-v` makes of Slurm's log level (log.h).
const LOG_LEVEL_VERBOSE: c_int = 4;

const PREPEND: &CStr = c"spank_prepend_task_argv";

/// Copies an argument vector of C: hook arguments, command lines.
///
/// # Safety
/// `words` must be null or point to `count` pointers, each null or to a NUL-terminated string.
pub unsafe fn own_words(count: usize, words: *const *mut c_char) -> Vec<OsString> {
    if words.is_null() {
        return Vec::new();
    }
    let mut owned = Vec::with_capacity(count.min(1024));
    for index in 0..count {
        // SAFETY: by the caller's promise there are `count` pointers.
        let word = unsafe { *words.add(index) };
        if word.is_null() {
            break;
        }
        // SAFETY: by the caller's promise NUL-terminated.
        owned.extend(unsafe { own_word(word) });
    }
    owned
}

/// Copies a string of C's; `None` for a null pointer.
///
/// # Safety
/// `pointer` must be null or point to a NUL-terminated string.
pub unsafe fn own_word(pointer: *const c_char) -> Option<OsString> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(pointer) }.to_bytes()).to_owned())
}

/// Turns Slurm's return code into a `Result`.
pub fn check(code: sys::spank_err_t, what: impl FnOnce() -> String) -> Result<(), SpankError> {
    if code == sys::ESPANK_SUCCESS {
        return Ok(());
    }
    // SAFETY: returns a constant string.
    let reason = unsafe { own_word(sys::spank_strerror(code)) };
    let reason = reason.map_or_else(|| format!("error {code}"), |text| text.to_string_lossy().into_owned());
    Err(SpankError { what: what(), reason })
}

pub(super) fn c_string(word: &OsStr) -> Result<CString, SpankError> {
    CString::new(word.as_bytes())
        .map_err(|_| SpankError { what: format!("{word:?}"), reason: "it contains a NUL byte".into() })
}

/// A copy of `word` on Slurm's own heap.
///
/// `srun --bcast` of later releases frees `argv[0]` after the hook that replaced it; Slurm's
/// allocator has a header of its own, so a string of Rust's or libc's would abort srun there. Where
/// the allocator is not exported, a string that nobody frees serves as well.
fn slurm_string(word: &OsStr) -> Result<*mut c_char, SpankError> {
    type Xstrdup = unsafe extern "C" fn(*const c_char) -> *mut c_char;
    let word = c_string(word)?;
    let Some(function) = symbol(c"slurm_xstrdup") else {
        return Ok(word.into_raw());
    };
    // SAFETY: Slurm exports this function with this type under this name to its plugins
    // (slurm_xlator.h, 22.05 to 26.05).
    let copy = unsafe {
        let xstrdup: Xstrdup = mem::transmute(function.as_ptr());
        xstrdup(word.as_ptr())
    };
    Ok(copy)
}

//! The functions Slurm calls: from C to [`client`], [`stepd`] and [`sweep`] and back.
//!
//! Every one is guarded, reports through Slurm's log and returns 0 or -1. Never a positive number:
//! releases differ in how they read it.

#![allow(unsafe_code)]

use super::error::Error;
use super::plugin::Plugin;
use super::{client, stepd, sweep};
use crate::spank::log::user_error;
use crate::spank::{
    Context, Host, Level, Spank, end_task, exit_client, guard, log, own_word, own_words, register, spank_t,
};
use request::{IMAGE, LIST, OPTIONS};
use std::ffi::{OsStr, OsString, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The state between two hooks; Slurm calls them one at a time. The lock is not held while a
/// process ends, because that may call `slurm_spank_exit`, and not between hooks, when slurmstepd
/// forks.
static PLUGIN: Mutex<Option<Plugin>> = Mutex::new(None);

/// Set when slurmstepd handed us an option and we failed to store it. Slurm ignores that failure
/// and starts the task, which then must not run.
static OPTION_LOST: AtomicBool = AtomicBool::new(false);

/// Runs `body` on the state; `None` (a hook before `slurm_spank_init`) becomes a fresh state.
fn with_plugin<T>(body: impl FnOnce(&mut Plugin) -> T) -> T {
    // A panic in an earlier hook left nothing half-done that matters: the options are still there,
    // and with them the knowledge that the step must not run on the host.
    let mut state = PLUGIN.lock().unwrap_or_else(PoisonError::into_inner);
    body(state.get_or_insert_with(|| Plugin::new(&[])))
}

/// A hook: takes the handle apart, guards, reports. `body` sees Slurm as a [`Host`] only.
///
/// # Safety
/// The arguments must be those of a hook that Slurm is calling.
unsafe fn hook(name: &str, spank: spank_t, body: impl FnOnce(&mut Spank) -> Result<(), Error>) -> c_int {
    guard(name, user_error, || {
        #[cfg(feature = "panics-on-demand")]
        panic_on_demand(name);
        // SAFETY: by the caller's promise; the value does not outlive this call.
        let mut host = unsafe { Spank::new(spank) };
        match body(&mut host) {
            Ok(()) => 0,
            Err(error) => {
                user_error(&error.to_string());
                -1
            }
        }
    })
}

/// Lets tests/hooks see what a panic does; it is not in the installed library.
#[cfg(feature = "panics-on-demand")]
fn panic_on_demand(hook: &str) {
    assert!(std::env::var("SPANK_VM_TEST_PANIC").as_deref() != Ok(hook), "asked for by the test");
}

/// First hook, in every context: registers the options, reads plugstack.conf's arguments.
///
/// # Safety
/// For Slurm to call: `spank` its handle, `argv` pointing to `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_init(spank: spank_t, argc: c_int, argv: *mut *mut c_char) -> c_int {
    let start = |host: &mut Spank| {
        // SAFETY: Slurm's promise, passed on by this function's own.
        let arguments = unsafe { own_words(usize::try_from(argc).unwrap_or(0), argv) };
        let mut plugin = Plugin::new(&arguments);
        if let Err(error) = &plugin.args {
            // Only a VM step fails because of it, and it reports the error itself.
            host.log(Level::Admin, &error.to_string());
        }
        for (number, option) in OPTIONS.iter().enumerate() {
            if let Err(error) = register(host, &option.about, c_int::try_from(number).unwrap_or(c_int::MAX), on_option)
            {
                // Bare-metal jobs go on; the option is then unknown to Slurm, which refuses it.
                host.log(Level::Admin, &error.to_string());
            }
        }
        if host.context() == Context::Slurmd {
            sweep::at_start(&plugin, host);
        }
        let wants_list = client::start(&mut plugin, host);
        let command = plugin.list_command();
        *PLUGIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(plugin);
        OPTION_LOST.store(false, Ordering::Relaxed);
        if wants_list {
            list_and_exit(command);
        }
        Ok(())
    };
    // SAFETY: as this function's. The code is dropped: a failing init drains nodes, and in clients
    // it breaks jobs that have nothing to do with VMs.
    unsafe { hook("slurm_spank_init", spank, start) };
    0
}

/// All options are known: clients check them, and slurmstepd, as root and before it forks the tasks, makes what they share.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_init_post_opt(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let check = |host: &mut Spank| match host.context() {
        Context::Srun | Context::Allocator => with_plugin(|plugin| client::check_options(plugin, host)),
        Context::Stepd => {
            with_plugin(|plugin| stepd::before_tasks(plugin, host));
            Ok(())
        }
        Context::Slurmd | Context::Other => Ok(()),
    };
    // SAFETY: as this function's.
    let code = unsafe { hook("slurm_spank_init_post_opt", spank, check) };
    if code != 0 {
        // Returning -1 instead costs the user two more lines ("required plugin … failed with rc=-1",
        // "Plugin stack post-option processing failed") and is ignored where plugstack.conf says
        // `optional`: the job would be queued only to fail later. Nothing exists yet that srun,
        // sbatch or salloc would have to clean up; they end themselves by exit() at this point too.
        exit_if_client(spank);
    }
    // In slurmstepd only a panic leads here. It must not drain the node: the tasks miss what was to be made, and refuse to start.
    0
}

fn exit_if_client(spank: spank_t) {
    guard("the end of a client", user_error, || {
        // SAFETY: called from a running hook with its handle.
        let host = unsafe { Spank::new(spank) };
        match host.context() {
            Context::Srun | Context::Allocator => exit_client(client::error_status(&host)),
            Context::Stepd | Context::Slurmd | Context::Other => 0,
        }
    });
}

/// srun has its allocation and is about to start the tasks.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_local_user_init(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let send = |host: &mut Spank| with_plugin(|plugin| client::hide_command(plugin, host));
    // SAFETY: as this function's.
    let code = unsafe { hook("slurm_spank_local_user_init", spank, send) };
    let must_not_run = || c_int::from(with_plugin(|plugin| plugin.wants_vm() || plugin.image_of_job.is_some()));
    if code != 0 && guard("the end of srun", user_error, must_not_run) != 0 {
        // Where the plugin is `optional` srun would go on and send the command as it is. Slurm itself ends srun by
        // exit() here; the allocation is released as after any other end of srun.
        exit_if_client(spank);
    }
    code
}

/// Per task, as root, before it becomes the user.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_task_init_privileged(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let prepare = |host: &mut Spank| {
        with_plugin(|plugin| stepd::task_init_privileged(plugin, host));
        Ok(())
    };
    // SAFETY: as this function's.
    let code = unsafe { hook("slurm_spank_task_init_privileged", spank, prepare) };
    if code != 0 {
        // Only a panic leads here. The task tells it, if it wants a VM.
        let keep = || {
            with_plugin(|plugin| plugin.deferred = Some(Error::Unprepared));
            0
        };
        guard("a task without its preparation", user_error, keep);
    }
    0
}

/// Per task, as the user, just before the command is executed.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_task_init(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let mut refused = None;
    let become_step = |host: &mut Spank| {
        let lost = OPTION_LOST.load(Ordering::Relaxed);
        let result = if lost { Err(Error::LostOption) } else { with_plugin(|plugin| stepd::task_init(plugin, host)) };
        result.map_err(Error::of_task).inspect_err(|error| refused = Some(error.task_status()))
    };
    // SAFETY: as this function's.
    let code = unsafe { hook("slurm_spank_task_init", spank, become_step) };
    let must_not_run = || c_int::from(with_plugin(|plugin| plugin.given.wants_vm()));
    if refused.is_some() || (code != 0 && guard("the end of a task", user_error, must_not_run) != 0) {
        // slurmstepd does the same when a *required* plugin fails, after two more lines of its own.
        // Where the plugin is `optional` it would go on and run the command on the host.
        end_task(refused.unwrap_or(1));
    }
    code
}

/// Per task, in slurmstepd, after all tasks were forked.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_task_post_fork(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let leave = |_: &mut Spank| {
        with_plugin(stepd::tasks_are_forked);
        Ok(())
    };
    // SAFETY: as this function's. The code is dropped: a failure here drains the node.
    unsafe { hook("slurm_spank_task_post_fork", spank, leave) };
    0
}

/// Per task, as root, after its end.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_task_exit(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let sweep = |host: &mut Spank| {
        with_plugin(|plugin| stepd::task_exit(plugin, host));
        Ok(())
    };
    // SAFETY: as this function's.
    unsafe { hook("slurm_spank_task_exit", spank, sweep) };
    0
}

/// A job has left the node. A helper process of slurmd calls this as root, if slurmd saw this function when it
/// started.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_job_epilog(spank: spank_t, argc: c_int, argv: *mut *mut c_char) -> c_int {
    let sweep = |host: &mut Spank| {
        // slurm_spank_init is not called in this context.
        // SAFETY: Slurm's promise, passed on by this function's own.
        let arguments = unsafe { own_words(usize::try_from(argc).unwrap_or(0), argv) };
        sweep::after_job(&Plugin::new(&arguments), host);
        Ok(())
    };
    // SAFETY: as this function's. The code is dropped: a failing epilog drains the node.
    unsafe { hook("slurm_spank_job_epilog", spank, sweep) };
    0
}

/// Last hook.
///
/// # Safety
/// For Slurm to call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn slurm_spank_exit(spank: spank_t, _: c_int, _: *mut *mut c_char) -> c_int {
    let sweep = |host: &mut Spank| {
        if host.context() == Context::Stepd {
            with_plugin(|plugin| stepd::exit(plugin, host));
        }
        // Slurm unloads the library next; the memory of the state would leak.
        *PLUGIN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    };
    // SAFETY: as this function's.
    unsafe { hook("slurm_spank_exit", spank, sweep) };
    0
}

/// Slurm found one of our options.
///
/// Values are only stored here. Errors in them are reported when all are known: a later source may
/// override a bad value, a message from here would be followed by Slurm's own ("Invalid --vm-image
/// argument"), and in slurmstepd a refusal would be ignored.
unsafe extern "C" fn on_option(number: c_int, value: *const c_char, remote: c_int) -> c_int {
    let code = guard("an option", user_error, || {
        #[cfg(feature = "panics-on-demand")]
        panic_on_demand("an option");
        // SAFETY: spank.h: the option's argument, a string, or null.
        let value = unsafe { own_word(value) };
        let Some(option) = usize::try_from(number).ok().filter(|&number| number < OPTIONS.len()) else {
            return -1;
        };
        if remote == 0 && option == IMAGE && value.as_deref() == Some(OsStr::new(LIST)) {
            // Not later: srun wants a command first, sbatch a script.
            list_and_exit(with_plugin(|plugin| plugin.list_command()));
        }
        with_plugin(|plugin| plugin.take(option, value.as_deref()));
        if remote == 0 && option == IMAGE && with_plugin(|plugin| plugin.given.wants_vm()) && client::is_scrontab() {
            user_error(&Error::Scrontab.to_string());
            return -1;
        }
        0
    });
    if code != 0 && remote != 0 {
        OPTION_LOST.store(true, Ordering::Relaxed);
    }
    code
}

fn list_and_exit(command: Result<(OsString, Vec<OsString>), Error>) -> ! {
    exit_client(client::list_images(command).unwrap_or_else(|error| {
        log::line(Level::Error, &error.to_string());
        1
    }))
}

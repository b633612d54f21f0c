//! Keeps panics inside the plugin.

use std::any::Any;
use std::ffi::c_int;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};

#[cfg(panic = "abort")]
compile_error!("the plugin catches panics at its border to C: build it with panic = \"unwind\"");

/// Where the last panic happened; the payload that [`panic::catch_unwind`] hands out does not say.
static LAST_PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Runs the Rust side of a function that C calls. A panic, which would otherwise abort srun or
/// slurmstepd with all its tasks, becomes a line through `report` and the return code -1.
///
/// The option callback needs it too: it is called from C like every hook.
pub fn guard(name: &str, report: fn(&str), body: impl FnOnce() -> c_int) -> c_int {
    keep_quiet();
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let place = LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner).take();
        let what = message(payload.as_ref()).to_owned();
        #[expect(clippy::mem_forget, reason = "dropping a payload runs foreign code that may panic in turn")]
        mem::forget(payload);
        report(&format!("internal error in {name} ({}): {what}", place.as_deref().unwrap_or("unknown place")));
        -1
    })
}

/// Rust's own panic hook writes to file descriptor 2, which in slurmstepd is the task's standard
/// error and in a prolog may be anything. This library has its own copy of the standard library,
/// so nobody else's hook is replaced.
fn keep_quiet() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            *LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

//! Which system calls QEMU may make: no new processes, no other rights, nothing of what a kernel keeps for old programs or for
//! administrators. Whoever breaks out of a guest gets no further with it than QEMU does.
//!
//! QEMU has this itself (`-sandbox`) where it is built with libseccomp. Debian's small program is so since QEMU 8; to one that is
//! not, [`Filter`] does the same from outside, before the program is executed. So it cannot forbid that the program executes another
//! in its place. Landlock forbids that for all files but the program and its loader, and without Landlock such a program is not used.
//! Whatever is executed is held to the same filter and the same rules.
//!
//! | what goes wrong | what happens |
//! | --- | --- |
//! | it cannot be told whether a program has its own: a script, a program that starts another, a static one, no file that is understood | it is told to use it; if it has none, it says so and ends |
//! | the kernel has no Landlock, or the site has switched it off | [`Confinement`](crate::Confinement) refuses such a program; VMs start by the next way |
//! | the kernel has no filters of system calls | QEMU is not started |
//! | QEMU makes a forbidden call | the kernel ends it (SIGSYS), and the step says so |

mod filter;

use std::fs::File;
use std::path::Path;

use crate::elf;
pub(crate) use filter::Filter;

/// What a program that has its own is told.
const OPTIONS: [&str; 2] = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"];

/// The library by which QEMU has a sandbox of its own.
const SECCOMP: &[u8] = b"libseccomp.so";

/// A library of every QEMU. A program without it is none: it starts one, which has its own.
const GLIB: &[u8] = b"libglib-2.0.so";

/// Who holds a QEMU to its system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// It does so itself.
    Own,
    /// It is built without: the runner does.
    Ours,
}

impl Sandbox {
    /// What this program needs: read from its file, as asking it would take longer than a clone's other preparations together.
    pub(crate) fn of(qemu: &Path) -> Self {
        let Ok(needs) = File::open(qemu).and_then(|program| elf::needs(qemu, &program)) else { return Self::Own };
        let has = |library| needs.libraries.iter().any(|name| name.starts_with(library));
        if has(GLIB) && !has(SECCOMP) { Self::Ours } else { Self::Own }
    }

    /// The options that it must be started with.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Own => &OPTIONS,
            Self::Ours => &[],
        }
    }
}

#[cfg(test)]
mod tests;

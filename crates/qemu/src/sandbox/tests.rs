//! What a program can still call.

#![allow(unsafe_code)]

use super::*;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

/// Makes a program of these lines of C, with options for the linker.
fn made(dir: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let (file, program) = (dir.join(name).with_extension("c"), dir.join(name));
    std::fs::write(&file, source).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-pthread", "-o"]).args([&program, &file]).args(options);
    assert!(gcc.status().unwrap().success());
    program
}

const NOTHING: &str = "int main(void) { return 0; }\n";

#[test]
fn a_program_without_the_library_gets_a_filter_and_no_option() {
    let dir = tempfile::tempdir().unwrap();
    let library = |name: &str| {
        let library = made(dir.path(), name, "int nothing;\n", &["-shared", &format!("-Wl,-soname,{name}")]);
        library.to_str().unwrap().to_owned()
    };
    let (glib, seccomp) = (library("libglib-2.0.so.0"), library("libseccomp.so.2"));
    let with = made(dir.path(), "with", NOTHING, &["-Wl,--no-as-needed", &glib, &seccomp]);
    let without = made(dir.path(), "without", NOTHING, &["-Wl,--no-as-needed", &glib]);
    let wrapper = made(dir.path(), "wrapper", NOTHING, &[]);
    let whole = made(dir.path(), "static", NOTHING, &["-static"]);
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    assert_eq!(Sandbox::of(&without), Sandbox::Ours);
    for own in [&with, &wrapper, &whole, &script, &dir.path().join("missing")] {
        assert_eq!(Sandbox::of(own), Sandbox::Own, "{}", own.display());
    }
    assert!(Sandbox::Ours.options().is_empty() && Sandbox::Own.options()[0] == "-sandbox");
}

/// How a program ends that makes this call before it is executed; with 0 if the call returns `errno`.
fn call(number: libc::c_long, first: libc::c_long, errno: i32) -> ExitStatus {
    let filter = Filter::new();
    let mut program = Command::new("true");
    let tries = move || {
        filter.enter()?;
        // SAFETY: no call of these tests does anything with such arguments, if it is made at all.
        let rc = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
        let error = std::io::Error::last_os_error();
        if rc == -1 && error.raw_os_error() == Some(errno) { Ok(()) } else { Err(error) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { program.pre_exec(tries) };
    program.status().unwrap_or_else(|error| panic!("call {number}: {error}"))
}

#[test]
fn what_qemu_never_does_ends_it() {
    const X32: libc::c_long = 0x4000_0000;
    let new_namespace = libc::c_long::from(libc::CLONE_VM | libc::CLONE_NEWUSER);
    let calls = [
        (libc::SYS_fork, 0),
        (libc::SYS_clone, 0),
        (libc::SYS_clone, new_namespace),
        (libc::SYS_execveat, -1),
        (libc::SYS_ptrace, -1),
        (libc::SYS_process_vm_writev, 0),
        (libc::SYS_unshare, 0),
        (libc::SYS_setsid, 0),
        (libc::SYS_setresuid, -1),
        (libc::SYS_mount, 0),
        (libc::SYS_open_by_handle_at, -1),
        (libc::SYS_swapon, 0),
        (libc::SYS_uselib, 0),
        (X32 | libc::SYS_getpid, 0),
    ];
    for (number, first) in calls {
        assert_eq!(call(number, first, 0).signal(), Some(libc::SIGSYS), "call {number}");
    }
}

#[test]
fn what_libraries_try_fails_and_no_more() {
    for refused in [libc::SYS_setpriority, libc::SYS_sched_setaffinity, libc::SYS_bpf, libc::SYS_keyctl] {
        assert!(call(refused, 0, libc::EPERM).success(), "call {refused}");
    }
    for missing in [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_userfaultfd] {
        assert!(call(missing, 0, libc::ENOSYS).success(), "call {missing}");
    }
    // And what QEMU does is as it was.
    assert!(call(libc::SYS_close, -1, libc::EBADF).success());
}

/// Does what its argument says, and ends with 0 if that works.
const DOES: &str = r#"
#include <pthread.h>
#include <string.h>
#include <unistd.h>
static void *nothing(void *passed) { return passed; }
int main(int count, char **words) {
    pthread_t thread;
    long number = 20; /* getpid of the table for 32 bits */
    if (count < 2) return 9;
    if (!strcmp(words[1], "thread")) return pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL);
    if (!strcmp(words[1], "fork")) return fork() < 0;
    if (!strcmp(words[1], "exec")) return execl("/bin/true", "true", NULL);
    __asm__ volatile("int $0x80" : "+a"(number) : : "memory");
    return number != getpid();
}
"#;

#[test]
fn a_program_that_is_executed_later_is_held_to_it_too_and_has_its_threads() {
    let dir = tempfile::tempdir().unwrap();
    let program = made(dir.path(), "does", DOES, &[]);
    let does = |what: &str| {
        let filter = Filter::new();
        let mut command = Command::new(&program);
        // SAFETY: the closure makes system calls only.
        unsafe { command.arg(what).pre_exec(move || filter.enter()) };
        command.status().unwrap()
    };
    assert!(does("thread").success());
    // That is Landlock's to forbid.
    assert!(does("exec").success());
    assert_eq!(does("fork").signal(), Some(libc::SIGSYS));
    // A kernel without that table ends it in another way.
    assert!(matches!(does("other table").signal(), Some(libc::SIGSYS | libc::SIGSEGV)));
}

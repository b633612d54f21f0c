//! A filter of system calls for a QEMU that is built without one: what `-sandbox` denies, and more of what QEMU never does.

#![allow(unsafe_code)]

use std::io;

use libc::{c_long, sock_filter};

/// The kernel's `AUDIT_ARCH_X86_64`: calls by any other table of numbers have other meanings.
const ARCHITECTURE: u32 = 0xc000_003e;

/// Numbers from here on are of the x32 table.
const X32: u32 = 0x4000_0000;

/// Where the kernel's `seccomp_data` has the number, the architecture, and the lower half of the first argument.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FLAGS_AT: u32 = 16;

/// What a new thread has in common with its process, and a new process has not.
const THREAD: u32 = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u32;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Verdict {
    /// The kernel ends the process: QEMU itself never makes it.
    Ends = libc::SECCOMP_RET_KILL_PROCESS,
    /// Libraries try it, and do without.
    IsRefused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
    /// The same, for what not all kernels have.
    IsMissing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    Passes = libc::SECCOMP_RET_ALLOW,
}

/// Other programs, and processes that are not QEMU's. `clone` is judged by its flags.
const PROCESSES: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_unshare,
    libc::SYS_setns,
];

/// Rights of somebody else.
const PRIVILEGES: &[c_long] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// What is the node's.
const NODE: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_vhangup,
];

/// What no program of today calls.
const OBSOLETE: &[c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_afs_syscall,
    libc::SYS_getpmsg,
    libc::SYS_lookup_dcookie,
    libc::SYS_modify_ldt,
    libc::SYS_nfsservctl,
    libc::SYS_putpmsg,
    libc::SYS_security,
    libc::SYS_sysfs,
    libc::SYS_tuxcall,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_vserver,
];

/// Shares of the processors, which are Slurm's to give, and large parts of the kernel that QEMU needs nothing of.
const REFUSED: &[c_long] = &[
    libc::SYS_setpriority,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
];

/// Flags of the first cannot be read by a filter, as they are in memory; C libraries then use `clone`. What is asked of the kernel by
/// the second passes no filter at all, and QEMU does without.
const MISSING: &[c_long] = &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_userfaultfd];

/// System calls that a process and whatever it executes may still make.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// For a QEMU whose program is executed after it has been entered.
    pub(crate) fn new() -> Self {
        let deadly = [PROCESSES, PRIVILEGES, NODE, OBSOLETE];
        let judged = deadly.into_iter().map(|calls| (calls, Verdict::Ends));
        let judged = judged.chain([(REFUSED, Verdict::IsRefused), (MISSING, Verdict::IsMissing)]);
        let mut program = vec![
            load(ARCHITECTURE_AT),
            skip_unless(libc::BPF_JEQ, ARCHITECTURE, false, 1),
            give(Verdict::Ends),
            load(NUMBER_AT),
            skip_unless(libc::BPF_JGE, X32, true, 1),
            give(Verdict::Ends),
        ];
        for (calls, verdict) in judged {
            for &call in calls {
                program.extend([skip_unless(libc::BPF_JEQ, call as u32, true, 1), give(verdict)]);
            }
        }
        program.extend([
            skip_unless(libc::BPF_JEQ, libc::SYS_clone as u32, true, 4),
            load(FLAGS_AT),
            step(libc::BPF_ALU | libc::BPF_AND, THREAD, 0, 0),
            skip_unless(libc::BPF_JEQ, THREAD, false, 1),
            give(Verdict::Ends),
            give(Verdict::Passes),
        ]);
        Self(program)
    }

    /// Holds this thread and whatever it executes to it, for ever. It makes system calls only.
    ///
    /// # Errors
    /// The system's: `EINVAL` if the kernel has no filters.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // Otherwise a program that gains privileges at exec would be held to a filter that it does not know.
        // SAFETY: prctl with integers only.
        let sealed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: the kernel copies the program, which lives during the call and is as long as it says.
        let entered =
            || unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if sealed == 0 && entered() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn step(code: u32, value: u32, jump_if: u8, jump_else: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: jump_if, jf: jump_else, k: value }
}

/// Takes four bytes of what is known of the call.
fn load(at: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0)
}

/// Skips `steps` if what was taken compares to `value` in another way than `wanted`.
fn skip_unless(compare: u32, value: u32, wanted: bool, steps: u8) -> sock_filter {
    let (jump_if, jump_else) = if wanted { (0, steps) } else { (steps, 0) };
    step(libc::BPF_JMP | compare | libc::BPF_K, value, jump_if, jump_else)
}

fn give(verdict: Verdict) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, verdict as u32, 0, 0)
}

//! Resource limits (`ulimit`): those of the task are the command's. The processes that run it need more.
//!
//! Slurm gives a task the soft limits of its user, below the hard limits of the node. So this process raises its own
//! soft limits, which QEMU inherits, and the command gets what they were. What a hard limit forbids is told before a VM
//! is started, or recognised in the words of what failed: it is the user's to change.

use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::RunError;

/// Every limit: its name, its option of `ulimit`, and the unit of that option in bytes (or 1).
const ALL: [(Resource, &str, char, u64); 16] = [
    (Resource::RLIMIT_CPU, "RLIMIT_CPU", 't', 1),
    (Resource::RLIMIT_FSIZE, "RLIMIT_FSIZE", 'f', 1024),
    (Resource::RLIMIT_DATA, "RLIMIT_DATA", 'd', 1024),
    (Resource::RLIMIT_STACK, "RLIMIT_STACK", 's', 1024),
    (Resource::RLIMIT_CORE, "RLIMIT_CORE", 'c', 1024),
    (Resource::RLIMIT_RSS, "RLIMIT_RSS", 'm', 1024),
    (Resource::RLIMIT_NPROC, "RLIMIT_NPROC", 'u', 1),
    (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE", 'n', 1),
    (Resource::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK", 'l', 1024),
    (Resource::RLIMIT_AS, "RLIMIT_AS", 'v', 1024),
    (Resource::RLIMIT_LOCKS, "RLIMIT_LOCKS", 'x', 1),
    (Resource::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING", 'i', 1),
    (Resource::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE", 'q', 1),
    (Resource::RLIMIT_NICE, "RLIMIT_NICE", 'e', 1),
    (Resource::RLIMIT_RTPRIO, "RLIMIT_RTPRIO", 'r', 1),
    (Resource::RLIMIT_RTTIME, "RLIMIT_RTTIME", 'R', 1),
];

/// Stack of a process that has enough, in bytes. Each thread of QEMU gets one of this size.
const STACK: u64 = 8 << 20;

/// The least that this program can live with.
const LEAST_STACK: u64 = 256 << 10;

/// Address space that QEMU takes for itself, in bytes: the program with its libraries, the stacks and arenas of its
/// threads, and up to 1 GiB for translated code.
const OF_QEMU: u64 = 1536 << 20;

/// Descriptors that this process and a QEMU need, and what this process needs for each VM.
const FILES: u64 = 64;
const FILES_PER_VM: u64 = 16;

/// One limit of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Its Linux number.
    pub resource: u8,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

static OF_TASK: OnceLock<Vec<Limit>> = OnceLock::new();

/// The limits that Slurm or the user set for this task.
pub fn of_task() -> &'static [Limit] {
    OF_TASK.get_or_init(|| {
        let read = |(resource, ..): (Resource, _, _, _)| {
            let (soft, hard) = getrlimit(resource).ok()?;
            Some(Limit { resource: resource as u8, soft, hard })
        };
        ALL.into_iter().filter_map(read).collect()
    })
}

/// Gives this process, and what it will start, as much as the hard limits allow. From then on only [`of_task`] tells
/// what the task has.
pub fn raise() {
    let given = of_task();
    for (resource, ..) in ALL {
        let Some(limit) = given.iter().find(|limit| limit.resource == resource as u8) else { continue };
        let enough = match resource {
            Resource::RLIMIT_STACK => STACK.min(limit.hard),
            // Whether this process leaves a core dump is the user's decision; QEMU never does.
            Resource::RLIMIT_CORE => limit.soft,
            _ => limit.hard,
        };
        // What the system does not allow fails later, where it is needed.
        let _ = setrlimit(resource, enough, limit.hard);
    }
}

/// Does that first of all, because code that runs before may need more than the task's soft limits.
///
/// # Errors
/// When this process's stack cannot be large enough.
pub fn take() -> Result<(), RunError> {
    raise();
    match hard(Resource::RLIMIT_STACK).is_some_and(|hard| hard < LEAST_STACK) {
        true => Err(too_low(
            Resource::RLIMIT_STACK,
            &format!("spank-vm needs {}", shown(Resource::RLIMIT_STACK, LEAST_STACK)),
        )),
        false => Ok(()),
    }
}

/// While this lives, files that this process writes are subject to the task's own limit, as the command's are: the
/// output of a batch job is such a file. The signal for a file that is too large then comes to this process, which
/// passes it on.
#[derive(Debug)]
pub struct OutputLimit;

impl OutputLimit {
    /// From now on.
    pub fn hold() -> Self {
        if let Some(limit) = of_task().iter().find(|limit| limit.resource == Resource::RLIMIT_FSIZE as u8) {
            let _ = setrlimit(Resource::RLIMIT_FSIZE, limit.soft, limit.hard);
        }
        Self
    }
}

impl Drop for OutputLimit {
    fn drop(&mut self) {
        raise();
    }
}

/// Room in this process's hard limits for a VM with `guest_bytes` of memory and a private disk of `disk_bytes`, one of
/// `vms`.
///
/// # Errors
/// The limit that is too low for that, and what helps; the user's fault.
pub fn allow_vm(guest_bytes: u64, disk_bytes: u64, vms: u32) -> Result<(), RunError> {
    let needs = [
        (Resource::RLIMIT_FSIZE, disk_bytes, "the VM's private disk"),
        (Resource::RLIMIT_AS, guest_bytes.saturating_add(OF_QEMU), "QEMU with the guest's memory"),
        (Resource::RLIMIT_DATA, guest_bytes.saturating_add(OF_QEMU), "QEMU with the guest's memory"),
        (Resource::RLIMIT_NOFILE, FILES + FILES_PER_VM * u64::from(vms), "the VMs' descriptors"),
    ];
    match needs.into_iter().find(|(resource, needed, _)| hard(*resource).is_some_and(|hard| hard < *needed)) {
        None => Ok(()),
        Some((resource, needed, what)) => {
            Err(too_low(resource, &format!("{what} must have {}", shown(resource, needed))))
        }
    }
}

/// Whether the hard limits let QEMU map so much memory.
pub fn allow_mapping(bytes: u64) -> bool {
    [Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
        .into_iter()
        .all(|of| hard(of).is_none_or(|hard| hard >= bytes.saturating_add(OF_QEMU)))
}

/// The user's fault, if the words of a failure show that a hard limit of this task is the reason.
pub fn blame(why: &str) -> Option<RunError> {
    // A guest has limits of its own.
    let node_s = qemu::GUEST_SAYS.iter().fold(why, |node_s, begin| node_s.split(begin).next().unwrap_or_default());
    // The words of strerror, in which QEMU speaks too.
    let says = |words: &str| node_s.contains(words);
    let reasons = [
        (says("File too large"), Resource::RLIMIT_FSIZE),
        (says("Too many open files"), Resource::RLIMIT_NOFILE),
        (says("Resource temporarily unavailable"), Resource::RLIMIT_NPROC),
        (says("Cannot allocate memory"), Resource::RLIMIT_AS),
        (says("Cannot allocate memory"), Resource::RLIMIT_DATA),
        (says("QEMU was killed") && qemu_used_its_time(), Resource::RLIMIT_CPU),
    ];
    let (_, resource) = reasons.into_iter().find(|(is, resource)| *is && hard(*resource).is_some())?;
    Some(too_low(resource, why))
}

/// Whether the processes of this one that have ended took so much processor time that its limit may have ended one.
fn qemu_used_its_time() -> bool {
    let span = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0));
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).map(|used| span(used.user_time()) + span(used.system_time()));
    hard(Resource::RLIMIT_CPU).is_some_and(|hard| may_have_ended(used.unwrap_or_default(), hard))
}

/// For the limit the kernel counts the ticks at which a process runs, and what it reports is the precise time. Where
/// programs share a processor the two differ: programs with a limit of 1 s were killed after 0.72 to 1.09 s.
fn may_have_ended(used: Duration, hard_s: u64) -> bool {
    used >= Duration::from_secs(hard_s) / 2
}

fn too_low(resource: Resource, why: &str) -> RunError {
    let Some((_, name, option, _)) = ALL.into_iter().find(|(other, ..)| *other == resource) else {
        return RunError::user(why);
    };
    let hard = shown(resource, hard(resource).unwrap_or(RLIM_INFINITY));
    RunError::user(format!(
        "the hard limit {name} of this task ('ulimit -H{option}') is {hard}: {why}; raise it, or do not set it for VM steps"
    ))
}

fn shown(resource: Resource, value: u64) -> String {
    let unit = ALL.into_iter().find(|(other, ..)| *other == resource).map_or(1, |(.., unit)| unit);
    if unit == 1 { value.to_string() } else { format!("{} KiB", value / unit) }
}

/// A hard limit, unless it is none.
fn hard(resource: Resource) -> Option<u64> {
    let limit = of_task().iter().find(|limit| limit.resource == resource as u8)?;
    (limit.hard != RLIM_INFINITY).then_some(limit.hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_this_process_is_the_command_s() {
        let numbers: Vec<u8> = of_task().iter().map(|limit| limit.resource).collect();
        // All that Linux has: <asm-generic/resource.h>.
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn no_size_is_too_large_to_be_compared_with_the_limits() {
        let _ = allow_vm(u64::MAX, u64::MAX, u32::MAX);
        let _ = allow_mapping(u64::MAX);
    }

    #[test]
    fn the_words_of_a_guest_are_not_taken_for_the_system_s() {
        let words = "Too many open files";
        assert!(hard(Resource::RLIMIT_NOFILE).is_none() || blame(words).is_some());
        for guest_s in ["no answer within 60 s; its console ended with: ", "the guest's kernel panicked: "] {
            assert!(blame(&format!("{guest_s}\"{words}\"")).is_none(), "{guest_s}");
        }
        let qemu_s = format!("QEMU failed with code 1; QEMU said: \"{words}\"");
        assert!(hard(Resource::RLIMIT_NOFILE).is_none() || blame(&qemu_s).is_some());
    }

    #[test]
    fn a_limit_of_processor_time_ends_programs_that_share_a_processor_before_it_or_after() {
        for (used_ms, hard_s, is_it) in
            [(720, 1, true), (1090, 1, true), (1600, 2, true), (300, 1, false), (9000, 20, false)]
        {
            assert_eq!(may_have_ended(Duration::from_millis(used_ms), hard_s), is_it, "{used_ms} ms of {hard_s} s");
        }
    }

    #[test]
    fn a_limit_is_named_with_its_option_and_unit() {
        let told = too_low(Resource::RLIMIT_FSIZE, "no").to_string();
        assert!(told.starts_with("the hard limit RLIMIT_FSIZE of this task ('ulimit -Hf') is "), "{told}");
        assert_eq!(shown(Resource::RLIMIT_AS, 1 << 20), "1024 KiB");
        assert_eq!(shown(Resource::RLIMIT_NOFILE, 76), "76");
    }
}

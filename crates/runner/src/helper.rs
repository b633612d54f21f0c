//! A helper VM, without an image: the boot kit's agent works on disks that the host must not mount.
//!
//! The kit's kernel reads an untrusted disk behind QEMU's sandbox, with the rights of the calling user. It
//! needs neither root nor Slurm. Nothing of the host is shared and there is no network: the only output is the
//! standard output of one program of the agent.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use super::error::{Blame, Context, Fault, RunError};
use super::relay::{Patience, Relay};
use super::session::Vm;
use super::signals::Signals;
use super::start::{Attempt, Policy, counter, source};
use super::task::{End, Guest, Output, Streams, Task};
use super::timing::Moments;
use crate::config::Config;
use crate::limits;
use crate::notice::printable;
use image::Links;
use proto::{ExitStatus, FailKind};
use qemu::Way;
use qemu::{Accel, BootSource, VmSize};
use qemu::{Ends, Hardware, HelperDisk, Start, System, VmSpec};
use qemu::{Files, QemuProcess};

/// The agent's own name in a guest without an image.
const AGENT: &str = "/init";

/// Enough for the kit, and for the caches of a large file system's driver.
const SIZE: VmSize = VmSize { memory_mib: 320, cpus: 1 };

/// Longest stderr of the program that is kept; more is dropped.
const SAID_MAX: u64 = 64 * 1024;

/// How the program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// Its stderr, without control characters.
    pub said: Vec<String>,
}

impl Finished {
    /// Its warnings, or its error as one.
    ///
    /// # Errors
    /// When it did not end with 0: its own error text.
    pub fn warnings(self) -> Result<Vec<String>, RunError> {
        let after = |prefix: &str, lines: &[String]| {
            lines.iter().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect::<Vec<_>>()
        };
        if self.status == ExitStatus::Code(0) {
            return Ok(after("warning: ", &self.said));
        }
        match after("error: ", &self.said).pop().or(self.said.last().cloned()) {
            Some(why) => Err(RunError::new(Fault::Image, why)),
            None => {
                let status = self.status;
                Err(RunError::new(Fault::Guest, format!("the program in the helper VM ended with {status:?}")))
            }
        }
    }
}

/// Boots a helper VM with these disks, runs the agent's program with these arguments and passes its standard
/// output to `stdout`, whose reader may close it early. The program reads nothing.
///
/// Signals keep the effect they have on this process, and if it dies so does the VM.
///
/// # Errors
/// When the VM cannot be started, does not answer or fails.
pub fn run(
    config: &Config,
    disks: Vec<HelperDisk>,
    arguments: &[&str],
    stdout: BorrowedFd<'_>,
) -> Result<Finished, RunError> {
    limits::raise();
    let argv = [AGENT].iter().chain(arguments).map(OsString::from).collect();
    let qemu = config.qemu_path()?;
    let helper = Helper { config, qemu, source: source::kit(config)?, disks, task: Task::of_helper(argv), stdout };
    let never_came_up = |(end, _): &(End, Vec<String>)| matches!(end, End::NeverUp(_));
    let timeouts = source::timeouts(&helper.source, config, 1);
    let policy = Policy::of(config, &helper.qemu);
    let (end, said) = policy.start(timeouts, |attempt| helper.attempt(attempt), never_came_up)?.outcome;
    match end {
        End::Exited(status) => Ok(Finished { status, said }),
        End::NotStarted(FailKind::Setup, why) | End::NeverUp(why) | End::Broken(why) | End::NotSaved(why) => {
            Err(broken(why))
        }
        End::NodeFailed(why) => Err(RunError::new(Fault::Node, why).with("the helper VM")),
        End::Refused(fault, why) => Err(RunError::new(fault, why).with("the helper VM")),
        End::NotStarted(_, why) => Err(RunError::new(
            Fault::Node,
            format!("the helper VM: {why}: rebuild the boot kit with 'spank-vm kit build'"),
        )),
    }
}

/// The helper VM ended in another way than its program did.
fn broken(why: String) -> RunError {
    RunError::new(Fault::Guest, why).with("the helper VM")
}

struct Helper<'a> {
    config: &'a Config,
    qemu: PathBuf,
    source: BootSource,
    disks: Vec<HelperDisk>,
    task: Task,
    stdout: BorrowedFd<'a>,
}

impl Helper<'_> {
    fn attempt(&self, attempt: &Attempt<'_>) -> Result<(End, Vec<String>), RunError> {
        let begin = Instant::now();
        let (heard, stderr) = std::io::pipe().context("a pipe")?;
        // Read by a thread, because the relay only writes; it ends with the pipe.
        let listener = std::thread::spawn(move || listen(heard));
        let vm = Vm::new(0, self.spawn(attempt.accel())?, None, Moments::begin(begin));
        let streams = Streams::outputs_only(Output::new(self.stdout, 1)?, Output::new(stderr.as_fd(), 1)?);
        let (signals, links) = (Signals::none()?, Links::default());
        let guest = Guest {
            task: &self.task,
            shares: &[],
            aliases: &[],
            links: &links,
            network: None,
            processors: 1,
            cpus: None,
            memory: None,
            is_described: false,
        };
        let (answer_within, advice) = (attempt.answer_within(), source::advice(&self.source));
        let patience = Patience { attempt, answer_within, advice, silence_limit: None, notice: None };
        let mut relay = Relay::new(vec![vm], streams, &signals, guest, patience);
        relay.run()?;
        let end = relay.commands.end(0);
        let mut vm = relay.vms.remove(0);
        drop((relay, stderr));
        vm.reap();
        tracing::info!(phases = %vm.moments, "helper VM ended");
        let said = listener.join().unwrap_or_default();
        end.map(|end| (end, said)).ok_or_else(|| broken("the relay left it".to_owned()))
    }

    fn spawn(&self, accel: Accel) -> Result<QemuProcess, RunError> {
        let open = |disk: &HelperDisk| disk.file.as_fd().try_clone_to_owned();
        let fds: Vec<OwnedFd> = self.disks.iter().map(open).collect::<Result<_, _>>().context("the disk")?;
        let way = Way::plain(&self.qemu, source::machine(&self.source, self.config.machine));
        let abilities = way.abilities_to_boot();
        let host = source::host(self.config.confinement());
        QemuProcess::spawn(&self.qemu, host, Files { disks: fds, ..Files::default() }, |inherited| {
            // By the numbers that QEMU inherits.
            let numbers: Vec<i32> = inherited.files.disks.iter().map(AsRawFd::as_raw_fd).collect();
            let hardware = Hardware { machine: way.machine, accel, cpu_model: &self.config.cpu_model };
            let system = System::Helper(&self.disks, &numbers);
            let start = Start::Boot(SIZE, abilities);
            let spec = VmSpec::new(hardware, start, &self.source, system, Ends::of(inherited));
            VmSpec { tsc_khz: counter::khz(accel), ..spec }.args()
        })
        .blame(Fault::Node)
    }
}

/// The program's lines, made safe for a terminal.
fn listen(mut pipe: std::io::PipeReader) -> Vec<String> {
    let mut text = Vec::new();
    let _ = pipe.by_ref().take(SAID_MAX).read_to_end(&mut text);
    // Never let the writer wait.
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    let lines = text.split(|&byte| byte == b'\n').map(printable);
    lines.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(code: u8, said: &[&str]) -> Finished {
        Finished { status: ExitStatus::Code(code), said: said.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn nothing_that_a_disk_makes_the_program_say_controls_a_terminal() {
        let (heard, mut said) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut said, "warning: \u{202e}a\x1b[2J\u{2028}b\n\nlast\n".as_bytes()).unwrap();
        drop(said);
        assert_eq!(listen(heard), ["warning: a[2Jb", "last"]);
    }

    #[test]
    fn a_program_s_last_error_is_the_user_s_and_warnings_are_kept() {
        let both = ["warning: a", "error: no root", "noise"];
        assert_eq!(finished(0, &both).warnings().unwrap(), ["a"]);
        assert_eq!(finished(1, &both).warnings().unwrap_err().to_string(), "no root");
        assert_eq!(finished(101, &["it panicked"]).warnings().unwrap_err().to_string(), "it panicked");
        assert!(finished(1, &[]).warnings().unwrap_err().to_string().contains("Code(1)"));
    }
}

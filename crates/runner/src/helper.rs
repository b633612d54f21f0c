//! A VM of our own, without an image: the boot kit's agent works on disks that the host must not mount.
//!
//! What reads a strange disk is the kit's kernel behind QEMU's sandbox, as the user who asks. It needs neither
//! root nor Slurm. Nothing of the host is shared and there is no network: what comes out is the standard output
//! of one program of the agent.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::accel;
use super::relay::{Patience, Relay};
use super::session::Vm;
use super::signals::Signals;
use super::source;
use super::task::{End, Guest, Output, Streams, Task};
use super::timing::Moments;
use crate::config::Config;
use image::Links;
use proto::{ExitStatus, FailKind};
use qemu::BootSource;
use qemu::VmSize;
use qemu::{Accel, HelperDisk, Start, System, VmSpec};
use qemu::{Files, QemuProcess};

/// The agent's own name in a guest without an image.
const AGENT: &str = "/init";

/// Enough for the kit, and for the caches of a large file system's driver.
const SIZE: VmSize = VmSize { memory_mib: 320, cpus: 1 };

/// Longest text that the program may say on stderr; more is dropped.
const SAID_MAX: u64 = 64 * 1024;

/// How the program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// What it said on stderr, without control characters.
    pub said: Vec<String>,
}

impl Finished {
    /// Its warnings, or its error as one.
    ///
    /// # Errors
    /// When it did not end with 0: its own words.
    pub fn warnings(self) -> anyhow::Result<Vec<String>> {
        let after = |prefix: &str, lines: &[String]| {
            lines.iter().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect::<Vec<_>>()
        };
        if self.status == ExitStatus::Code(0) {
            return Ok(after("warning: ", &self.said));
        }
        match after("error: ", &self.said).pop().or(self.said.last().cloned()) {
            Some(why) => bail!("{why}"),
            None => bail!("the program in the helper VM ended with {:?}", self.status),
        }
    }
}

/// Boots a helper VM with these disks, runs the agent's program with these arguments and passes its standard
/// output to `stdout`, whose reader may leave early. It reads nothing.
///
/// Signals keep the effect they have on this process, and if it dies so does the VM.
///
/// # Errors
/// When the VM cannot be started, does not come up or breaks.
pub fn run(
    config: &Config,
    disks: Vec<HelperDisk>,
    arguments: &[&str],
    stdout: BorrowedFd<'_>,
) -> anyhow::Result<Finished> {
    let argv = [AGENT].iter().chain(arguments).map(OsString::from).collect();
    let helper = Helper { config, source: source::kit(config)?, disks, task: Task::of_helper(argv), stdout };
    let decision = accel::decide(config.accel, &config.state_dir, &config.qemu_path()?)?;
    let timeout = Duration::from_secs(config.boot_timeout_s);
    let trial = decision.may_fall_back.then(|| Duration::from_secs(config.kvm_timeout_s));
    let (mut end, mut said) = helper.attempt(decision.accel, trial.unwrap_or(timeout))?;
    if decision.may_fall_back && matches!(end, End::NeverUp(_)) {
        accel::warn_broken();
        accel::remember_broken(&config.state_dir, &config.qemu_path()?);
        (end, said) = helper.attempt(Accel::Tcg, timeout)?;
    }
    match end {
        End::Exited(status) => Ok(Finished { status, said }),
        End::NotStarted(FailKind::Setup, why)
        | End::NeverUp(why)
        | End::Broken(why)
        | End::NodeFailed(why)
        | End::NotSaved(why) => {
            bail!("the helper VM: {why}")
        }
        End::NotStarted(_, why) => bail!("the helper VM: {why}: rebuild the boot kit with 'spank-vm kit build'"),
    }
}

struct Helper<'a> {
    config: &'a Config,
    source: BootSource,
    disks: Vec<HelperDisk>,
    task: Task,
    stdout: BorrowedFd<'a>,
}

impl Helper<'_> {
    fn attempt(&self, accel: Accel, boot_timeout: Duration) -> anyhow::Result<(End, Vec<String>)> {
        let begin = Instant::now();
        let (heard, stderr) = std::io::pipe().context("a pipe")?;
        // Read by a thread, because the relay only writes; it ends with the pipe.
        let listener = std::thread::spawn(move || listen(heard));
        let vm = Vm::new(0, self.spawn(accel)?, None, Moments::begin(begin));
        let streams = Streams::outputs_only(Output::new(self.stdout, 1)?, Output::new(stderr.as_fd(), 1)?);
        let (signals, links) = (Signals::none()?, Links::default());
        let guest = Guest { task: &self.task, shares: &[], links: &links, cpus: None, memory: None };
        let advice = source::advice(&self.source);
        let patience = Patience { boot_timeout, advice, silence_limit: None, notice: None };
        let mut relay = Relay::new(vec![vm], streams, &signals, guest, patience);
        relay.run()?;
        let end = relay.commands.end(0).context("the helper VM: the relay left it")?;
        let mut vm = relay.vms.pop().context("no VM")?;
        drop((relay, stderr));
        vm.reap();
        tracing::info!(phases = %vm.moments, "helper VM ended");
        Ok((end, listener.join().unwrap_or_default()))
    }

    fn spawn(&self, accel: Accel) -> anyhow::Result<QemuProcess> {
        let open = |disk: &HelperDisk| disk.file.as_fd().try_clone_to_owned();
        let fds: Vec<OwnedFd> = self.disks.iter().map(open).collect::<Result<_, _>>().context("the disk")?;
        QemuProcess::spawn(
            &self.config.qemu_path()?,
            source::host(),
            Files { disks: fds, ..Files::default() },
            |inherited| {
                // By the numbers that QEMU inherits.
                let numbers: Vec<i32> = inherited.files.disks.iter().map(AsRawFd::as_raw_fd).collect();
                VmSpec {
                    machine: source::machine(&self.source, self.config.machine),
                    accel,
                    start: Start::Boot(SIZE),
                    source: &self.source,
                    system: System::Helper(&self.disks, &numbers),
                    channel: inherited.channel.as_raw_fd(),
                    console: inherited.console.as_raw_fd(),
                    monitor: inherited.monitor.as_raw_fd(),
                    shares: &[],
                }
                .args()
            },
        )
    }
}

/// The lines that were said, fit for a terminal.
fn listen(mut pipe: std::io::PipeReader) -> Vec<String> {
    let mut text = Vec::new();
    let _ = pipe.by_ref().take(SAID_MAX).read_to_end(&mut text);
    // Never let the writer wait.
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(1000).collect::<String>();
    String::from_utf8_lossy(&text).lines().map(clean).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(code: u8, said: &[&str]) -> Finished {
        Finished { status: ExitStatus::Code(code), said: said.iter().map(|line| (*line).to_owned()).collect() }
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

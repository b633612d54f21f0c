//! `check --node`: what a VM cannot do without, looked at quickly and by a second process.
//!
//! A file server that is down, a frozen disk or a QEMU on a busy node may hold up who looks, and what waits in the
//! kernel cannot always be killed. So a second process looks, at everything at once, and prints what it has found when
//! it has found it. The first one waits a while, and then says of which things it has heard nothing. That is no failure:
//! what is slow now may be there when the step needs it, and the step judges by itself.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::finding::{Checked, Finding, State, exit_code};
use super::{caches, report, settings, slurm, users, vms};
use crate::output::{print, print_line};
use runner::config::Config;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeCheck<'a> {
    pub(super) config_file: Option<&'a Path>,
    pub(super) config: &'a Config,
    pub(super) user: Option<&'a str>,
    /// How long an answer may take.
    pub(super) within_s: u8,
}

/// A requirement: its name, the function that looks, and the words for what it looks at.
type Look = (&'static str, fn(&Config) -> Finding, fn(&Config) -> String);

const LOOKS: [Look; 8] = [
    ("qemu", vms::qemu, qemu),
    ("confined", vms::confined, qemu),
    ("processor", vms::processor, qemu),
    ("kit", vms::kit, |config| config.kit.display().to_string()),
    ("images", vms::images, |config| {
        let dirs: Vec<String> = config.image_dirs.iter().map(|dir| dir.display().to_string()).collect();
        dirs.join(", ")
    }),
    ("scratch", vms::scratch, |config| config.scratch_dir.display().to_string()),
    ("state", caches::state, |config| config.state_dir.display().to_string()),
    ("kvm", vms::demanded_kvm, |_| "/dev/kvm".to_owned()),
];

fn qemu(config: &Config) -> String {
    config.qemu_path().map_or_else(|_| "QEMU".to_owned(), |path| path.display().to_string())
}

impl NodeCheck<'_> {
    /// Tells what is missing on this node and what stalls, in one line.
    pub(super) fn run(self, strict: bool, json: bool) -> anyhow::Result<proto::ExitStatus> {
        let checks = self.look()?;
        let code = exit_code(&checks, strict);
        if json {
            report::json(&settings::text(self.config), &checks, code)?;
            return Ok(proto::ExitStatus::Code(code));
        }
        let findings = || checks.iter().map(|checked| &checked.finding);
        let missing = findings().filter(|finding| finding.state == State::Missing);
        let stalled = findings().filter(|finding| finding.stalled);
        let told: Vec<&str> = missing.chain(stalled).map(|finding| finding.found.as_str()).collect();
        if !told.is_empty() {
            print_line(&told.join("; "))?;
        }
        Ok(proto::ExitStatus::Code(code))
    }

    fn patience(self) -> Duration {
        Duration::from_secs(self.within_s.into())
    }

    fn look(self) -> anyhow::Result<Vec<Checked>> {
        let deadline = Instant::now() + self.patience();
        let other = OtherProcess::start(self)?;
        // Beside it: who asks Slurm may wait as long.
        let mut plugin = slurm::plugin(self.patience());
        // A node check must be sure: a batch script would run on the host.
        if plugin.state == State::Limited {
            plugin.state = State::Missing;
        }
        let (heard, death) = other.hear(deadline);
        let silence = death.map_or_else(
            || format!("no answer within {} s; VM steps wait for it too", self.within_s),
            |status| format!("no answer, because the process that looks has died ({status})"),
        );
        let or_late = |name: &str, what: &dyn Fn() -> String| {
            let late = || checked(name, Finding::stalled(format!("{name} ({}): {silence}", what())));
            heard.iter().find(|checked| checked.name == name).cloned().unwrap_or_else(late)
        };
        let mut checks = vec![checked("plugin", plugin)];
        checks.extend(LOOKS.iter().map(|(name, _, what)| or_late(name, &|| what(self.config))));
        if let Some(user) = self.user {
            checks.push(or_late("users", &|| user.to_owned()));
        }
        Ok(checks)
    }

    /// The second process: looks at everything at once, and prints each finding as a line of JSON.
    pub(super) fn look_and_print(self) -> anyhow::Result<()> {
        let (send, found) = mpsc::channel();
        for (name, look, _) in LOOKS {
            let (send, config) = (send.clone(), self.config.clone());
            thread::spawn(move || send.send(checked(name, look(&config))));
        }
        if let Some(user) = self.user.map(str::to_owned) {
            let (send, config, patience) = (send.clone(), self.config.clone(), self.patience());
            let file = self.config_file.map(Path::to_owned);
            let look = move || users::look(file.as_deref(), &config, Some(&user), patience);
            thread::spawn(move || send.send(checked("users", look())));
        }
        drop(send);
        for checked in found {
            print(&format!("{}\n", serde_json::to_string(&checked)?))?;
        }
        Ok(())
    }
}

fn checked(name: &str, finding: Finding) -> Checked {
    Checked { name: name.to_owned(), about: String::new(), finding }
}

/// The process that looks.
struct OtherProcess {
    child: Child,
    lines: Receiver<Checked>,
}

impl OtherProcess {
    fn start(check: NodeCheck<'_>) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        if let Some(file) = check.config_file {
            command.arg("--config").arg(file);
        }
        command.args(["check", "--node", "--look", "--within", &check.within_s.to_string()]);
        command.args(check.user.iter().flat_map(|user| ["--user", user]));
        // Nothing of the caller's: who waits for the end of our output does not wait for what hangs.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (send, lines) = mpsc::channel();
        let output = child.stdout.take();
        thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
                let Ok(checked) = serde_json::from_str(&line) else { continue };
                let _ = send.send(checked);
            }
        });
        Ok(Self { child, lines })
    }

    /// What it has found by then, and how it ended if it has. It is not waited for: it may be stuck in the kernel.
    fn hear(mut self, deadline: Instant) -> (Vec<Checked>, Option<ExitStatus>) {
        let mut heard = Vec::new();
        let end = loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(checked) => heard.push(checked),
                Err(end) => break end,
            }
        };
        // Its output ends with it.
        let death = (end == RecvTimeoutError::Disconnected).then(|| self.child.wait().ok()).flatten();
        let _ = self.child.kill();
        (heard, death)
    }
}

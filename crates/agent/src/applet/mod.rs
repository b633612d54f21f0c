//! What the agent does when it is not PID 1: small programs that the runner starts in a guest.
//!
//! ```text
//! export DIR [--exclude PATH]… [--hollow PATH]… [--include MOUNT]… [--limit BYTES]     DIR as a tar to stdout
//! disk frozen                                                            the system's own disk, all writers wait
//! disk export SERIAL [--partition N] [--subvolume NAME] [--limit BYTES]   the root found on a disk, likewise
//! disk install-agent SERIAL [--partition N] [--subvolume NAME]        this program as a service of the system
//!                           [--kernel own|given] [--shares needed|optional]     on a disk
//! disk optimise SERIAL [--partition N] [--subvolume NAME] [--only look]    takes files and units away from the system
//!                      [--drop DIRECTORY]… [--mask UNIT]…                  on a disk
//! ```
//!
//! In a guest whose root is an image the binary has no path any more, but `/proc/1/exe` opens it. A failure is one line
//! on stderr that begins with `error: `, and exit code 1; a line that begins with `warning: ` does not stop the work.

mod contents;
mod disk;
mod failure;
mod frozen;
mod fstab;
mod grub;
mod inside;
mod install;
mod kernels;
mod optimise;
mod partitions;
mod subvolumes;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use archive::Export;

pub(super) use disk::{Access, Choice, Root};
use failure::Failure;

/// Bytes collected before they are written: many files are small.
const BUFFER: usize = 256 * 1024;

/// Runs the applet that the arguments name.
pub(super) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stderr(), "error: {}", why.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// These paths, and where they lead: an image's `/tmp` may be a link.
fn with_real_places(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let real: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
    paths.extend(real);
    paths
}

fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut arguments = Arguments::parse(arguments)?;
    match (arguments.word().as_deref(), arguments.word()) {
        (Some("export"), Some(directory)) => write_out(&Export {
            root: directory.into(),
            exclude: arguments.all("--exclude"),
            hollow: with_real_places(arguments.all("--hollow")),
            include: arguments.all("--include"),
            limit: arguments.number("--limit")?,
            ..Export::default()
        }),
        (Some("disk"), Some(what)) if what == "export" => {
            let serial = arguments.word().ok_or("which disk?")?;
            let root = Root::find(&serial, &arguments.choice()?, Access::ReadOnly)?;
            let limit = arguments.number("--limit")?;
            write_out(&Export { root: root.path().to_owned(), across: true, limit, ..Export::default() })
        }
        (Some("disk"), Some(what)) if what == "install-agent" => {
            let serial = arguments.word().ok_or("which disk?")?;
            let options = install::Options {
                choice: arguments.choice()?,
                loads_kernel: arguments.has("--kernel", "given"),
                without_shares: arguments.has("--shares", "optional"),
            };
            let answer = install::install(&serial, &options)?;
            io::stdout().write_all(answer.as_bytes()).map_err(|error| error.to_string())
        }
        (Some("disk"), Some(what)) if what == "frozen" => frozen::export(),
        (Some("disk"), Some(what)) if what == "optimise" => {
            let serial = arguments.word().ok_or("which disk?")?;
            let options = optimise::Options {
                choice: arguments.choice()?,
                dry_run: arguments.has("--only", "look"),
                drop: arguments.all("--drop"),
                mask: arguments.all("--mask").iter().filter_map(|unit| unit.to_str()).map(str::to_owned).collect(),
            };
            let answer = optimise::optimise(&serial, &options)?;
            io::stdout().write_all(answer.as_bytes()).map_err(|error| error.to_string())
        }
        _ => Err("this is the init of a spank-vm boot kit; elsewhere it knows '--service', 'export', 'disk frozen', 'disk export', 'disk install-agent' and 'disk optimise'".to_owned()),
    }
}

fn write_out(tree: &Export) -> Result<(), Failure> {
    let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    tree.write(out).map(drop).map_err(|error| error.to_string())
}

/// Words, and options that each have a value.
struct Arguments {
    words: Vec<String>,
    options: Vec<(String, OsString)>,
}

impl Arguments {
    fn parse(arguments: Vec<OsString>) -> Result<Self, Failure> {
        let (mut words, mut options) = (Vec::new(), Vec::new());
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let text = argument.into_string().map_err(|_| "an argument is not UTF-8".to_owned())?;
            match text.starts_with("--") {
                true => {
                    let value = rest.next().ok_or_else(|| format!("{text} needs a value"))?;
                    options.push((text, value));
                }
                false => words.push(text),
            }
        }
        words.reverse();
        Ok(Self { words, options })
    }

    fn word(&mut self) -> Option<String> {
        self.words.pop()
    }

    fn all(&self, option: &str) -> Vec<PathBuf> {
        self.options.iter().filter(|(name, _)| name == option).map(|(_, value)| value.into()).collect()
    }

    fn has(&self, option: &str, value: &str) -> bool {
        self.options.iter().any(|(name, given)| name == option && given == value)
    }

    /// Which of several systems on a disk.
    fn choice(&self) -> Result<Choice, Failure> {
        let subvolume = self.options.iter().rfind(|(name, _)| name == "--subvolume");
        Ok(Choice {
            partition: u32::try_from(self.number("--partition")?).ok().filter(|&number| number > 0),
            subvolume: subvolume.and_then(|(_, value)| value.to_str()).map(str::to_owned),
        })
    }

    /// 0 without the option.
    fn number(&self, option: &str) -> Result<u64, Failure> {
        match self.options.iter().rfind(|(name, _)| name == option) {
            None => Ok(0),
            Some((_, value)) => value
                .to_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("{option} needs a number, not '{}'", value.display())),
        }
    }
}

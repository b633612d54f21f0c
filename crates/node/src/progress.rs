//! What a runner is doing, as it says itself: a few words in a file that has no name and lies in its memory.
//!
//! Only the runner can write it, and only its user and root can read it, through `/proc/PID/fd`. It is gone with the
//! process, however that ends. It is for people: a user's runner may say of itself what it likes.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

/// The name that the kernel shows for the file.
pub const FILE: &str = "spank-vm-progress";

/// Its length: each text is filled up with blanks, so that it is written in one piece.
pub const LENGTH: usize = 128;

/// Where a task's VMs are in their life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// The request is checked, and the image is looked for or copied.
    #[default]
    Prepare,
    /// A template is looked for or made.
    Template,
    /// The VMs start.
    Start,
    /// Their commands run.
    Run,
    /// A VM's disk becomes an image.
    Save,
    /// The commands have ended.
    End,
}

impl Phase {
    /// All of them with their words.
    const WORDS: [(Self, &'static str); 6] = [
        (Self::Prepare, "prepare"),
        (Self::Template, "template"),
        (Self::Start, "start"),
        (Self::Run, "run"),
        (Self::Save, "save"),
        (Self::End, "end"),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(phase, _)| *phase == self).map_or("", |(_, word)| word)
    }
}

/// What a runner says of its VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Where they are.
    pub phase: Phase,
    /// Memory of each guest in MiB; 0 while it is not known.
    pub memory_mib: u64,
    /// Processors of each; 0 while they are not known.
    pub cpus: u32,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.phase.word(), self.memory_mib, self.cpus)
    }
}

impl FromStr for Progress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_whitespace().collect();
        // A newer runner may say more.
        let &[phase, memory, cpus, ..] = &words[..] else { return Err(()) };
        let (phase, _) = Phase::WORDS.into_iter().find(|(_, word)| *word == phase).ok_or(())?;
        Ok(Self { phase, memory_mib: memory.parse().map_err(drop)?, cpus: cpus.parse().map_err(drop)? })
    }
}

/// What the process says of itself, if this process may know and it says something.
pub fn of(pid: u32) -> Option<Progress> {
    let wanted = format!("/memfd:{FILE}");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let is_it = |path: &Path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with(&wanted));
    let path = descriptors.map(|entry| entry.path()).find(|path| is_it(path))?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(LENGTH as u64).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_back_and_nonsense_is_not_believed() {
        let said = Progress { phase: Phase::Run, memory_mib: 512, cpus: 2 };
        assert_eq!(said.to_string().parse(), Ok(said));
        assert_eq!("run 512 2 and more".parse(), Ok(said));
        for nonsense in ["", "run", "run 512", "dance 1 1", "run -1 1", "run 1 99999999999"] {
            assert!(nonsense.parse::<Progress>().is_err(), "{nonsense}");
        }
        assert!(Phase::WORDS.iter().all(|(phase, word)| phase.word() == *word));
    }

    #[test]
    fn a_process_that_says_nothing_has_no_progress() {
        assert_eq!(of(std::process::id()), None);
        assert_eq!(of(u32::MAX), None);
    }
}

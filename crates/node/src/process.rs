//! A unique identity of a process: its number, when it started, and in which boot of the machine.
//!
//! A number alone is reused later. With the kernel's start time it is unique until the next boot,
//! and with the kernel's boot id for ever.

use std::fmt;
use std::io;
use std::str::FromStr;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A process that ran at some time. Its text, `pid-start-boot`, is what the state directory stores for a task's
/// runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its start, in clock ticks since the machine's boot.
    started: u64,
    /// The machine's boot.
    boot: String,
}

impl Process {
    /// The calling process. It stays the same when it executes another program.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn this() -> io::Result<Self> {
        let boot = boot()?;
        let pid = std::process::id();
        let started = start_of(pid)?.ok_or_else(|| io::Error::other("/proc does not show this process"))?;
        Ok(Self { pid, started, boot })
    }

    /// Whether it still runs. If that is unknown, it counts as running.
    pub fn is_alive(&self) -> bool {
        let Ok(boot) = boot() else { return true };
        boot == self.boot && start_of(self.pid).map_or(true, |started| started == Some(self.started))
    }
}

/// Which boot of the machine this is.
///
/// # Errors
/// When /proc cannot be read.
pub fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// When the process of that number started; `None` if there is none, or only a zombie.
fn start_of(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        // A process may give itself any bytes as its name.
        Ok(stat) => String::from_utf8_lossy(&stat).into_owned(),
        // ESRCH: it ended between open and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The second field is the name in parentheses and may hold anything, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(stat.as_str(), |(_, rest)| rest).split(' ').collect();
    match fields.first() {
        Some(&"Z" | &"X") => Ok(None),
        _ => {
            fields.get(19).and_then(|start| start.parse().ok()).map(Some).ok_or_else(|| io::Error::other(stat.clone()))
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.pid, self.started, self.boot)
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let mut next = || parts.next().ok_or(());
        let (pid, started, boot) = (next()?, next()?, next()?);
        Ok(Self { pid: pid.parse().map_err(drop)?, started: started.parse().map_err(drop)?, boot: boot.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_lives_and_is_known_by_its_text() {
        let this = Process::this().unwrap();
        let read: Process = this.to_string().parse().unwrap();
        assert_eq!(read, this);
        assert!(read.is_alive());
    }

    #[test]
    fn a_process_that_ended_is_dead_before_and_after_its_parent_looked() {
        let mut child =
            Command::new("sh").args(["-c", "read line"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let started = start_of(child.id()).unwrap().unwrap();
        let process = Process { pid: child.id(), started, ..Process::this().unwrap() };
        assert!(process.is_alive());
        drop(child.stdin.take());
        while start_of(child.id()).unwrap().is_some() {
            std::thread::yield_now();
        }
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_process_whose_name_is_no_text_ends_like_any_other() {
        let mut child = Command::new("sh")
            .args(["-c", r"printf '\377' >/proc/$$/comm; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        let started = start_of(child.id()).unwrap().unwrap();
        let earlier = Process { pid: child.id(), started: started - 1, ..Process::this().unwrap() };
        assert!(!earlier.is_alive(), "another process has its number now");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_same_number_of_another_time_or_boot_is_somebody_else() {
        let this = Process::this().unwrap();
        assert!(!Process { started: this.started + 1, ..this.clone() }.is_alive());
        assert!(!Process { boot: "another".into(), ..this }.is_alive());
        for text in ["", "1", "1-2", "x-2-boot", "1--boot"] {
            assert!(text.parse::<Process>().is_err(), "{text}");
        }
    }
}

//! When a guest runs out of memory, ends the right process soon and reports it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::sysinfo::sysinfo;

use super::error::{AgentError, Doing};

/// Switches on the kernel's newer method to choose memory to reclaim, and protects memory used in the last so many
/// milliseconds.
const RECLAIM: [(&str, &str); 2] =
    [("/sys/kernel/mm/lru_gen/enabled", "y"), ("/sys/kernel/mm/lru_gen/min_ttl_ms", "1000")];

/// Makes a guest whose memory is used up kill the process that uses it.
///
/// Kernels before that method (6.1), or without this setting, instead drop and read again the pages of the running
/// programs for minutes: there is no swap, and an emulated processor must decompress each read.
///
/// # Errors
/// The kernel does not have that method.
pub(super) fn set_policy() -> Result<(), AgentError> {
    RECLAIM.into_iter().try_for_each(|(file, value)| fs::write(file, value).doing(|| format!("write {file}")))
}

/// Most records that are looked at: more than a kernel's log holds.
const RECORDS_MOST: usize = 1 << 16;

/// What the kernel has killed until now.
#[derive(Debug, Default)]
pub(super) struct OomKills {
    told: u64,
}

impl OomKills {
    /// One sentence for the user if processes were killed since the last time.
    pub fn news(&mut self) -> Option<String> {
        let count = count(&fs::read_to_string("/proc/vmstat").ok()?)?;
        let new = count.checked_sub(self.told).filter(|&new| new > 0)?;
        self.told = count;
        let mib = sysinfo().map_or(0, |info| info.ram_total() >> 20);
        Some(sentence(mib, new, last_victim(&kernel_log()).as_deref()))
    }
}

fn sentence(mib: u64, count: u64, victim: Option<&str>) -> String {
    let others = if count > 1 { format!(" (the last of {count})") } else { String::new() };
    format!(
        "the VM ran out of memory, of which programs have {mib} MiB; its kernel killed {}{others}: ask for more with \
         --mem, or with --vm-mem",
        victim.unwrap_or("a process")
    )
}

/// From the text of /proc/vmstat.
fn count(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// "process 87 'perl'", from `Out of memory: Killed process 87 (perl) total-vm:…`.
fn last_victim(log: &str) -> Option<String> {
    let said = log.lines().rev().find_map(|line| line.split_once("Killed process "))?.1;
    let (pid, rest) = said.split_once(" (")?;
    let name = &rest[..rest.rfind(") total-vm").or(rest.find(')'))?];
    Some(format!("process {pid} '{name}'"))
}

/// The messages that are still in the kernel's log.
fn kernel_log() -> String {
    let Ok(mut kmsg) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else {
        return String::new();
    };
    let mut text = String::new();
    let mut record = [0; 8192];
    // Who writes faster than this is read must not keep the command from ending.
    for _ in 0..RECORDS_MOST {
        match kmsg.read(&mut record) {
            Ok(n @ 1..) => text.push_str(&String::from_utf8_lossy(&record[..n])),
            // The record was overwritten before it was read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Ok(_) | Err(_) => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_is_named() {
        let log = "6,1,2,-;Out of memory: Killed process 80 (sh) total-vm:1kB, anon-rss:1kB\n\
                   6,2,2,-;Out of memory: Killed process 87 (a (b) c) total-vm:417876kB, anon-rss:409280kB\n\
                   6,3,2,-;something else\n";
        assert_eq!(last_victim(log).unwrap(), "process 87 'a (b) c'");
        assert_eq!(last_victim("6,1,2,-;nothing of the kind\n"), None);
    }

    #[test]
    fn kills_are_counted() {
        assert_eq!(count("pgfault 3\noom_kill 2\nnuma_hit 1\n"), Some(2));
        assert_eq!(count("pgfault 3\n"), None);
    }

    #[test]
    fn one_sentence_says_what_happened_and_what_helps() {
        let text = sentence(455, 1, Some("process 87 'perl'"));
        assert!(text.contains("programs have 455 MiB; its kernel killed process 87 'perl': ask"), "{text}");
        assert!(sentence(455, 3, None).contains("killed a process (the last of 3): ask"));
    }
}

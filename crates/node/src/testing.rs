//! For tests of any crate: programs that stand in for others.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes the program `path`, a script, which may be executed at once.
///
/// Another process writes it. A descriptor of this one that may write is inherited by what another thread is just
/// starting, until that is executed, and for so long the kernel refuses the program (ETXTBSY).
///
/// # Errors
/// When it cannot be written.
pub fn program(path: &Path, text: &str) -> io::Result<()> {
    let mut writer = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()?;
    writer.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()))?;
    match writer.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("{} was not written: {status}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    #[test]
    fn a_program_can_be_executed_at_once_whatever_another_thread_starts() {
        let dir = tempfile::tempdir().unwrap();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let ran = (0..50).map(|i| {
                let path = dir.path().join(i.to_string());
                program(&path, "#!/bin/sh\nexit 7\n")?;
                Command::new(path).status().map(|status| status.code())
            });
            let ran: Result<Vec<_>, _> = ran.collect();
            is_done.store(true, Ordering::Relaxed);
            assert!(ran.unwrap().iter().all(|&code| code == Some(7)));
        });
    }
}

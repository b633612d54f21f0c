//! Writes entries into a squashfs, with `sqfstar`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::plan::PlannedFile;
use archive::{Entry, Kind, Writer};

/// Bytes collected before they are written to the pipe.
const BUFFER: usize = 256 * 1024;

/// Memory that the packer may use for data: its own default is a quarter of the machine's memory.
const MEMORY: &str = "64M";

/// Checks that this machine has the program that packs images.
///
/// # Errors
/// When it is missing; the text says how to get it.
pub fn packer_exists() -> anyhow::Result<()> {
    let tried = Command::new("sqfstar").arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).status();
    tried.map(drop).context("sqfstar cannot be started: install squashfs-tools")
}

/// A running `sqfstar`.
#[derive(Debug)]
pub struct Packer {
    child: Child,
    archive: Writer<BufWriter<ChildStdin>>,
    said: File,
}

impl Packer {
    /// Starts packing into `disk`, an empty file. `root` is the entry of the root directory itself.
    ///
    /// # Errors
    /// When `sqfstar` is not installed.
    pub fn start(disk: &Path, root: &Entry) -> anyhow::Result<Self> {
        // In memory, because nobody reads while it writes, and because the disk may be full.
        let said = File::from(memfd_create(c"sqfstar", MFdFlags::MFD_CLOEXEC)?);
        // lz4: under emulation the guest decompresses on a slow processor, and size matters less than start time.
        let mut child = Command::new("sqfstar")
            // -force: the file exists already, and only this process has it. -mem: while a VM is saved, the memory
            // counts as the task's.
            .args(["-quiet", "-no-progress", "-force", "-mem", MEMORY, "-comp", "lz4", "-b", "128K"])
            .args(["-root-mode", &format!("{:o}", root.mode & 0o7777)])
            .args(["-root-uid", &root.uid.to_string(), "-root-gid", &root.gid.to_string()])
            .args(["-root-time", &root.mtime.to_string()])
            .arg(disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .spawn()
            .context("sqfstar cannot be started: install squashfs-tools")?;
        let input = child.stdin.take().context("no pipe to sqfstar")?;
        Ok(Self { child, archive: Writer::new(BufWriter::with_capacity(BUFFER, input)), said })
    }

    /// Packs an entry without content.
    ///
    /// # Errors
    /// When `sqfstar` has ended.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.archive.entry(entry, &mut io::empty())
    }

    /// Packs a file under all its names.
    ///
    /// # Errors
    /// When its content cannot be read or `sqfstar` has ended.
    pub fn file(&mut self, file: &PlannedFile, mut content: impl Read) -> anyhow::Result<()> {
        let size = file.entry.kind.size();
        let mut counted = (&mut content).take(size);
        self.archive.entry(&Entry { kind: Kind::File(size), ..file.entry.clone() }, &mut counted)?;
        if counted.limit() > 0 {
            bail!("the archive changed while it was read");
        }
        for link in file.other_names() {
            self.archive.entry(&link, &mut io::empty())?;
        }
        Ok(())
    }

    /// Waits for the end. `packed` is the result of sending everything to it.
    ///
    /// # Errors
    /// What went wrong first: `sqfstar`'s own reason, if it gave up.
    pub fn finish(mut self, packed: anyhow::Result<()>) -> anyhow::Result<()> {
        let packed = match packed {
            Ok(()) => self.archive.finish().map(drop).map_err(Into::into),
            Err(error) => {
                drop(self.archive);
                Err(error)
            }
        };
        if let Err(error) = packed {
            let is_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
            if !error.downcast_ref::<io::Error>().is_some_and(is_pipe) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(error);
            }
        }
        let status = self.child.wait().context("waiting for sqfstar")?;
        if status.success() {
            return Ok(());
        }
        let mut said = String::new();
        self.said.rewind()?;
        let _ = self.said.take(1 << 20).read_to_string(&mut said);
        let (kind, why) = reason(status, &said);
        Err(io::Error::new(kind, format!("the image cannot be written: {why}")).into())
    }
}

/// Why the packer failed: from its output, or from how it ended. Only its output can show what kind of error it is.
fn reason(status: ExitStatus, said: &str) -> (io::ErrorKind, String) {
    if status.signal() == Some(libc::SIGXFSZ) {
        return (io::ErrorKind::FileTooLarge, "the file grew beyond the limit for files (ulimit -f)".to_owned());
    }
    let kind = match () {
        () if said.contains("No space left on device") => io::ErrorKind::StorageFull,
        () if said.contains("Disk quota exceeded") => io::ErrorKind::QuotaExceeded,
        () if said.contains("File too large") => io::ErrorKind::FileTooLarge,
        () => io::ErrorKind::Other,
    };
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    // The cause is printed before the line that says it is fatal.
    let line = lines().find(|line| line.contains("because")).or_else(|| lines().next_back());
    (kind, line.map_or_else(|| format!("the packer ended with {status}"), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packer_without_room_is_known_by_its_words() {
        let failed = ExitStatus::from_raw(1 << 8);
        let said = "Write failed because No space left on device\nFATAL ERROR: Failed to write to output filesystem\n";
        let (kind, why) = reason(failed, said);
        assert_eq!((kind, why.as_str()), (io::ErrorKind::StorageFull, "Write failed because No space left on device"));
        assert_eq!(reason(failed, "Write failed because Disk quota exceeded").0, io::ErrorKind::QuotaExceeded);
        assert_eq!(reason(failed, "FATAL ERROR: no files\n").0, io::ErrorKind::Other);
        assert_eq!(reason(ExitStatus::from_raw(libc::SIGXFSZ), "").0, io::ErrorKind::FileTooLarge);
    }
}

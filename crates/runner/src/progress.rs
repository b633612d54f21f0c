//! What this runner is doing, for `spank-vm ps` and for lines in the journal.
//!
//! One for the process: a runner has one slot. It goes where messages go and decides nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use nix::sys::memfd::{MFdFlags, memfd_create};

use node::progress::{FILE, LENGTH, Phase, Progress};
use qemu::VmSize;

static SAID: Mutex<Said> = Mutex::new(Said::NOTHING);

/// What is said, and the file in which others can read it.
struct Said {
    file: Option<File>,
    progress: Progress,
}

impl Said {
    const NOTHING: Self = Self { file: None, progress: Progress { phase: Phase::Prepare, memory_mib: 0, cpus: 0 } };

    fn publish(&mut self) {
        // Programs that this process starts must not hold it.
        self.file = memfd_create(FILE, MFdFlags::MFD_CLOEXEC).map(File::from).ok();
        self.write();
    }

    fn enter(&mut self, phase: Phase) {
        self.progress.phase = phase;
        self.write();
    }

    fn size(&mut self, size: VmSize) {
        (self.progress.memory_mib, self.progress.cpus) = (size.memory_mib, size.cpus);
        self.write();
    }

    /// In one piece and always as long, so that no reader sees a half of it.
    fn write(&self) {
        if let Some(file) = &self.file {
            let _ = file.write_all_at(format!("{:<LENGTH$}", self.progress.to_string()).as_bytes(), 0);
        }
    }
}

/// From now on others can read it. Without memory for it they cannot, and nothing else changes.
pub fn publish() {
    change(Said::publish);
}

/// The VMs are in this phase.
pub(crate) fn enter(phase: Phase) {
    change(|said| said.enter(phase));
}

/// The VMs have this size.
pub(crate) fn size(size: VmSize) {
    change(|said| said.size(size));
}

/// The phase in which the VMs are.
pub fn phase() -> &'static str {
    SAID.lock().map_or("", |said| said.progress.phase.word())
}

fn change(change: impl FnOnce(&mut Said)) {
    if let Ok(mut said) = SAID.lock() {
        change(&mut said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_what_the_process_says_and_each_change_of_it() {
        let mut said = Said::NOTHING;
        said.publish();
        said.size(VmSize { memory_mib: 1024, cpus: 2 });
        said.enter(Phase::Template);
        let read = || node::progress::of(std::process::id()).unwrap();
        assert_eq!(read(), Progress { phase: Phase::Template, memory_mib: 1024, cpus: 2 });
        said.enter(Phase::Run);
        assert_eq!(read().phase, Phase::Run);
    }
}

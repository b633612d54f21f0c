//! A disk that is soon full.

use std::path::{Path, PathBuf};

use testkit::system;

/// A file system of so many MiB, mounted until it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes it in `place` and mounts it at `at` as a directory of user `uid`.
    pub fn mount(place: &Path, at: &Path, mib: u32, uid: u32) -> Self {
        let file = place.join("small-disk");
        let (file, dir) = (file.to_str().unwrap(), at.to_str().unwrap());
        system(&["truncate", "-s", &format!("{mib}M"), file]);
        system(&["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", file]);
        system(&["mount", "-o", "loop", file, dir]);
        let mounted = Self(at.to_owned());
        system(&["rmdir", &format!("{dir}/lost+found")]);
        system(&["chown", &format!("{uid}:{uid}"), dir]);
        system(&["chmod", if uid == 0 { "755" } else { "700" }, dir]);
        mounted
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // After a failure something may still be open; then that failure is the one to report.
        let lazily = if std::thread::panicking() { "-l" } else { "-v" };
        system(&["umount", lazily, self.0.to_str().unwrap()]);
    }
}

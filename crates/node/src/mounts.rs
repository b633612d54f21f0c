//! Where users may have mounted file systems of their own, as this process sees it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts of this thread, which may have other ones than its process.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// The beginnings of the kinds of file systems that users can mount without root's help, where the site lets them. Behind these
/// is a program of the user's, or a server of the user's choice. Any other, like one for each user's quota, is root's.
const OF_USERS: [&str; 3] = ["fuse", "cifs", "smb"];

/// The places on which users may have mounted something.
#[derive(Debug)]
pub struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// As they are now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now() -> io::Result<Self> {
        Ok(Self::of(&fs::read(TABLE)?))
    }

    /// A name need be no text: that must not hide the others. What is no text comes below what is compared.
    fn of(table: &[u8]) -> Self {
        Self(points(&String::from_utf8_lossy(table)).collect())
    }

    /// Refuses a directory on or below which a user may have mounted something.
    ///
    /// Users can mount such a file system on any directory of theirs. Where others may enter it (`user_allow_other` of FUSE),
    /// root would wait in it for the user's program. Even to look at its root is to wait, so the list of mounts is asked first.
    ///
    /// # Errors
    /// Names what is mounted; also when there is no such directory.
    pub(crate) fn none_in(&self, dir: &Path) -> io::Result<()> {
        // The list has real places. Only the directory itself is its user's: nothing is followed into it.
        let name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let real = dir.parent().ok_or(io::ErrorKind::InvalidInput)?.canonicalize()?.join(name);
        match self.0.iter().find(|point| point.starts_with(&real)) {
            None => Ok(()),
            Some(point) => Err(io::Error::other(format!("its user has mounted something on {}", point.display()))),
        }
    }
}

/// The places in a list of mounts (proc_pid_mountinfo(5)).
fn points(table: &str) -> impl Iterator<Item = PathBuf> + '_ {
    table.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let is_of_users = OF_USERS.iter().any(|kind| what.starts_with(kind));
        is_of_users.then(|| place.split(' ').nth(4).map(unescape)).flatten()
    })
}

/// A path in that list: blanks and backslashes are octal there.
pub fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_can_mount_is_known_by_its_kind_and_blanks_are_read_as_they_are() {
        let table = "36 35 0:98 / /mnt/a\\040b\\134 rw,nosuid master:1 - fuse.sshfs ada@there:/ rw,user_id=1000\n\
                     22 1 0:21 / /proc rw - proc proc rw\n23 1 8:1 / /mnt/quota rw - xfs /dev/sda1 rw\n\
                     24 1 0:99 / /mnt/share rw - cifs //there/x rw\n";
        assert_eq!(points(table).collect::<Vec<_>>(), [Path::new("/mnt/a b\\"), Path::new("/mnt/share")]);
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_mount() {
        let table = b"36 35 0:98 / /cache/1000/\xff rw - fuse.x x rw\n37 35 0:99 / /cache/1001 rw - fuse.y y rw\n";
        let mounts = Mounts::of(table);
        assert!(mounts.0.iter().any(|point| point.starts_with("/cache/1000")), "{mounts:?}");
        assert!(mounts.0.contains(&PathBuf::from("/cache/1001")), "{mounts:?}");
    }

    #[test]
    fn a_mount_of_a_neighbour_is_none_of_a_directory_s() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["1", "12"].map(|name| dir.path().join(name));
        for dir in [&one, &other] {
            fs::create_dir(dir).unwrap();
        }
        let none_in = |dir: &Path| Mounts::now().unwrap().none_in(dir);
        none_in(&one).unwrap();
        if crate::dir::own_uid().unwrap() == 0 {
            crate::sys::with_mount(&other, || {
                none_in(&one).unwrap();
                let error = none_in(&other).unwrap_err().to_string();
                assert_eq!(error, format!("its user has mounted something on {}", other.display()));
            });
        }
        assert!(none_in(&dir.path().join("none/1")).is_err());
    }
}

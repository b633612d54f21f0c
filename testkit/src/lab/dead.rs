//! What labs leave whose suite was killed: their nodes end with it, but nobody removes their logs.

use std::fs::{self, File};
use std::path::Path;

use node::try_lock;

/// What a lab's directory is called before the number of the process that has started the lab.
pub(super) const PREFIX: &str = "spank-vm-lab.";

/// Removes the directories of labs in `dir` whose process is gone, once nobody holds the lab any more.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('.')?.0.parse::<u32>().ok());
        if owner.is_some_and(|owner| !is_there(owner)) && !is_held(&entry.path()) {
            // Its owner may be another user.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn is_held(lab: &Path) -> bool {
    File::open(lab.join("lock")).is_ok_and(|lock| matches!(try_lock(&lock), Ok(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use nix::fcntl::{Flock, FlockArg};

    #[test]
    fn what_a_killed_suite_s_lab_has_left_is_removed_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let lab = |name: String| {
            let dir = tmp.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("hold.log"), "a node VM ended by itself").unwrap();
            dir
        };
        let dead = lab(format!("{PREFIX}{}.aaaaaa", gone.id()));
        let ending = lab(format!("{PREFIX}{}.bbbbbb", gone.id()));
        let lives = lab(format!("{PREFIX}{}.cccccc", std::process::id()));
        let others = lab("spank-vm-lab.mine".to_owned());
        let lock = File::create(ending.join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
        sweep(tmp.path());
        assert_eq!([&dead, &ending, &lives, &others].map(|dir| dir.exists()), [false, true, true, true]);
        // Not closed only: what another test is just starting has the descriptor too, until it is executed.
        lock.unlock().unwrap();
        sweep(tmp.path());
        assert_eq!([&ending, &lives].map(|dir| dir.exists()), [false, true]);
    }
}

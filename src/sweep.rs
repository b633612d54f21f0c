//! In slurmd and its epilog: removes what processes left that were killed before they could.
//!
//! A task's directory is left when its slurmstepd was killed or the node went down; the draft of a
//! template and its lock, when the runner that made them was. The epilog sweeps its job's, slurmd all when
//! it starts. What somebody uses is told by what only root writes or the kernel holds: the process that a
//! task's directory names, the lock of a draft. A sweep may be repeated and interrupted, runs beside others, and
//! ends at its deadline. Nothing here ever fails a hook: a failing epilog drains the node.

use super::Plugin;
use super::state_dir::{self, is_secure, open};
use super::trash::{self, Trash};
use crate::spank::{Host, Level, try_lock};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Longest that a sweep takes of the start of slurmd or of an epilog.
const PATIENCE: Duration = Duration::from_secs(3);

/// After this time nobody looks any more at a note that a template could not be made.
const NOTE_LASTS: Duration = Duration::from_secs(3600);

/// slurmd starts: no job of an earlier life of this node needs anything any more.
pub fn at_start(plugin: &Plugin, host: &dyn Host) {
    let Ok(args) = &plugin.args else { return };
    let deadline = Instant::now() + PATIENCE;
    report(host, &args.state_dir, tasks(&args.state_dir, None, deadline));
    report(host, &args.template_dir, drafts(&args.template_dir, deadline));
}

/// A job has left the node.
pub fn after_job(plugin: &Plugin, host: &dyn Host) {
    let Ok(args) = &plugin.args else { return };
    match host.job_id() {
        Ok(job) => report(host, &args.state_dir, tasks(&args.state_dir, Some(job), Instant::now() + PATIENCE)),
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
}

fn report(host: &dyn Host, dir: &Path, swept: io::Result<usize>) {
    match swept {
        Ok(0) => {}
        Ok(count) => host.log(Level::Admin, &format!("removed {count} left over in {}", dir.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => host.log(Level::Admin, &format!("not all swept in {}: {error}", dir.display())),
    }
}

/// Removes the directories of tasks, of `job` or of all, whose process is gone; says how many.
///
/// # Errors
/// The first that could not be removed; the others are tried nevertheless.
fn tasks(state_dir: &Path, job: Option<u32>, deadline: Instant) -> io::Result<usize> {
    is_secure(state_dir)?;
    let mut results = Vec::new();
    for entry in fs::read_dir(state_dir)? {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        let entry = entry?;
        let is_task = entry.file_name().to_str().is_some_and(|name| is_task(name, job));
        if is_task && !state_dir::is_in_use(&entry.path()) {
            results.push(state_dir::remove(&entry.path()));
        }
    }
    let count = results.len();
    results.into_iter().collect::<io::Result<()>>().map(|()| count)
}

/// Whether `name` is that of a task's directory, `JOB.STEP.TASK`.
fn is_task(name: &str, job: Option<u32>) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let [id, step, task] = parts[..] else { return false };
    let number = |text: &str| text.parse::<u32>().ok();
    number(id).is_some_and(|id| job.is_none_or(|job| job == id)) && !step.is_empty() && number(task).is_some()
}

/// Removes drafts of templates that nobody works on, their locks, and notes of old failures.
///
/// # Errors
/// The first that could not be removed; the others are tried nevertheless.
fn drafts(template_dir: &Path, deadline: Instant) -> io::Result<usize> {
    is_secure(template_dir)?;
    let users = template_dir.join("users");
    let users = fs::read_dir(&users).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut trash = Trash::below(template_dir)?;
    let mut results = Vec::new();
    for shelf in users.chain([template_dir.join("site")]) {
        // A user's shelf is the user's: it is opened once, and names in it are taken as they are.
        let Ok(shelf) = open(&shelf) else { continue };
        for entry in fs::read_dir(trash::inside(&shelf)).into_iter().flatten().flatten() {
            results.extend(left_over(&shelf, &entry.file_name(), &mut trash));
        }
    }
    let count = results.len();
    results.push(trash.empty(deadline));
    results.into_iter().collect::<io::Result<()>>().map(|()| count)
}

/// Removes what is called `name` if it is left over; `None` if it is not.
fn left_over(shelf: &File, name: &OsStr, trash: &mut Trash) -> Option<io::Result<()>> {
    let path = trash::inside(shelf).join(name);
    let name = name.to_str()?;
    if let Some(key) = name.strip_suffix(".lock").filter(|key| !key.starts_with('.')) {
        // Removed while it is ours, as its holders do: who waits for it takes a new one.
        return free_lock(shelf, key).ok()?.map(|_held| fs::remove_file(&path));
    }
    if name.ends_with(".failed") {
        let noted = fs::symlink_metadata(&path).ok()?.modified().ok()?;
        let is_old = SystemTime::now().duration_since(noted).is_ok_and(|age| age > NOTE_LASTS);
        return is_old.then(|| fs::remove_file(&path));
    }
    // .KEY.PID while it is made, .KEY.PID.old while it is removed.
    let (key, _) = name.strip_prefix('.')?.split_once('.')?;
    match free_lock(shelf, key) {
        Ok(None) => None,
        Ok(Some(_held)) => Some(trash.take(&path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(trash.take(&path)),
        Err(error) => Some(Err(error)),
    }
}

/// Takes the lock of that key's builder; `None` while a builder has it.
fn free_lock(shelf: &File, key: &str) -> io::Result<Option<File>> {
    // Not blocking: its owner may have put a pipe there.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let path = trash::inside(shelf).join(format!("{key}.lock"));
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("a lock that is no file"));
    }
    Ok(try_lock(&file)?.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::process::Process;
    use node::status::Status;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A task's directory as slurmstepd left it, of a process that runs or does not.
    fn task(parent: &Path, name: &str, alive: bool) -> PathBuf {
        let this = Process::this().unwrap().to_string();
        let runner = if alive { this } else { this.replacen('-', "0-", 1) }.parse().unwrap();
        let status = Status { image: "tiny".into(), vms: 1, uid: 1, runner };
        let dir = parent.join(name);
        state_dir::create(&dir, &status.to_string()).unwrap();
        dir
    }

    #[test]
    fn an_epilog_takes_what_its_job_left_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for (name, alive) in
            [("7.0.0", false), ("7.batch.0", false), ("7.1.0", true), ("8.0.0", false), ("77.0.0", false)]
        {
            task(root.path(), name, alive);
        }
        fs::write(root.path().join("kvm-broken"), "").unwrap();
        assert_eq!(tasks(root.path(), Some(7), soon()).unwrap(), 2);
        assert_eq!(names(root.path()), ["7.1.0", "77.0.0", "8.0.0", "kvm-broken"]);
        assert_eq!(tasks(root.path(), Some(7), soon()).unwrap(), 0);
    }

    #[test]
    fn the_start_of_slurmd_takes_all_that_no_process_uses() {
        let root = tempfile::tempdir().unwrap();
        task(root.path(), "7.0.0", true);
        task(root.path(), "8.0.0", false);
        fs::write(root.path().join("kvm-broken"), "").unwrap();
        fs::create_dir(root.path().join("of-the-site")).unwrap();
        assert_eq!(tasks(root.path(), None, soon()).unwrap(), 1);
        assert_eq!(names(root.path()), ["7.0.0", "kvm-broken", "of-the-site"]);
        assert_eq!(tasks(root.path(), None, Instant::now()).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_state_directory_that_others_can_write_to_is_not_touched() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        task(&state, "8.0.0", false);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        tasks(&state, None, soon()).unwrap_err();
        assert!(state.join("8.0.0").exists());
        let missing = tasks(Path::new("/nonexistent/state"), None, soon()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn drafts_and_locks_that_nobody_holds_are_removed_and_templates_stay() {
        let root = tempfile::tempdir().unwrap();
        let shelf = root.path().join("users/1000");
        for name in ["tiny-1", ".tiny-1.50", ".tiny-2.51", ".tiny-3.52.old"] {
            fs::create_dir_all(shelf.join(name).join("empty")).unwrap();
        }
        for name in ["tiny-1.lock", "tiny-2.lock", "tiny-4.failed"] {
            fs::write(shelf.join(name), "").unwrap();
        }
        let held = File::open(shelf.join("tiny-2.lock")).unwrap();
        assert!(try_lock(&held).unwrap());
        assert_eq!(drafts(root.path(), soon()).unwrap(), 3);
        assert_eq!(names(&shelf), [".tiny-2.51", "tiny-1", "tiny-2.lock", "tiny-4.failed"]);
        assert_eq!(names(root.path()), ["users"]);
    }

    #[test]
    fn what_a_user_puts_in_the_place_of_a_draft_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let precious = root.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        let users = root.path().join("users");
        let shelf = users.join("1000");
        fs::create_dir_all(&shelf).unwrap();
        symlink(&precious, shelf.join(".tiny-1.50")).unwrap();
        symlink(precious.join("file"), shelf.join("tiny-2.lock")).unwrap();
        symlink(&precious, users.join("1001")).unwrap();
        let pipe = shelf.join("tiny-3.lock");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _ = drafts(root.path(), soon());
        assert!(precious.join("file").exists());
        assert_eq!(names(&shelf), ["tiny-2.lock", "tiny-3.lock"]);
    }
}

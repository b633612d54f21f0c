//! Processes of the machine, read from `/proc`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The ids of all processes.
pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether there is such a process; a zombie counts.
pub fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether the process lives and its program's name begins with `name`.
pub fn is_named(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
}

/// Whether the process is a VM: a QEMU, and not one that is asked for its release.
pub fn is_vm(pid: i32) -> bool {
    is_named(pid, "qemu") && words(pid).iter().any(|word| word == "-nodefaults")
}

/// The process id of its parent.
pub fn parent(pid: i32) -> Option<i32> {
    field(pid, "PPid:")?.parse().ok()
}

/// A line of `/proc/PID/status` without its name; each run of blanks becomes one.
pub fn field(pid: i32, name: &str) -> Option<String> {
    field_in(Path::new(&format!("/proc/{pid}")), name)
}

/// As [`field`], of a process or a thread by its directory in `/proc`.
pub fn field_in(process: &Path, name: &str) -> Option<String> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Its program and arguments; empty for a zombie or a process that is gone.
pub fn words(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    // Each word ends with a NUL.
    words.pop();
    words
}

/// A variable of the environment that it was started with.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut pairs = bytes.split(|&byte| byte == 0).map(|pair| String::from_utf8_lossy(pair).into_owned());
    pairs.find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Processes whose command line names something below `dir`, each in a few words.
pub fn using(dir: &Path) -> Vec<String> {
    let needle = format!("{}/", dir.display());
    let lines = all().map(|pid| (pid, words(pid).join(" ")));
    lines
        .filter(|(_, line)| line.contains(&needle))
        .map(|(pid, line)| format!("process {pid}: {}", line.chars().take(80).collect::<String>()))
        .collect()
}

/// Whether the process has a file below `dir` open. A file whose name is gone counts too.
pub fn has_open(pid: i32, dir: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file.starts_with(dir))
}

/// Whether anything about the process names a file below `dir`: its program, its words, its environment, a file that it has open.
pub fn belongs_to(pid: i32, dir: &Path) -> bool {
    let needle = format!("{}/", dir.display()).into_bytes();
    let names_it = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(needle.len()).any(|part| part == needle)
    };
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.starts_with(dir))
        || names_it("cmdline")
        || names_it("environ")
        || has_open(pid, dir)
}

/// Sends a signal and returns the time.
///
/// # Panics
///
/// If there is no such process or signal.
#[track_caller]
pub fn signal(pid: i32, signo: i32) -> Instant {
    let signal = Signal::try_from(signo).expect("a signal");
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|why| panic!("{signal} to process {pid}: {why}"));
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio, id};

    #[test]
    fn a_process_belongs_to_a_directory_by_its_words_its_environment_or_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let sleep = |variable: &Path, input: &Path| {
            let mut command = Command::new("sleep");
            command.arg("60").env_clear().env("FILE", variable).stdin(fs::File::open(input).unwrap());
            command.spawn().unwrap()
        };
        let null = Path::new("/dev/null");
        let by_none = sleep(null, null);
        let by_environment = sleep(&file, null);
        let by_file = sleep(null, &file);
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        // What is seen of a process before it runs its program is the parent's.
        crate::wait::wait_for("the children", || {
            [&by_none, &by_environment, &by_file]
                .into_iter()
                .all(|child| words(pid(child)) == ["sleep", "60"])
                .then_some(())
        });
        let found = [&by_none, &by_environment, &by_file].map(|child| belongs_to(pid(child), dir.path()));
        for mut child in [by_none, by_environment, by_file] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [false, true, true]);
    }

    #[test]
    fn a_child_is_found_by_name_parent_and_words() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // A process has its name a moment before its arguments.
        crate::wait::wait_for("sleep", || (words(pid) == ["sleep", "60"]).then_some(()));
        assert!(is_named(pid, "sleep"));
        assert!(all().any(|each| each == pid) && is_there(pid));
        assert_eq!(parent(pid), i32::try_from(id()).ok());
        signal(pid, 9);
        child.wait().unwrap();
        assert!(!is_there(pid) && words(pid).is_empty());
    }
}

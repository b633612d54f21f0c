//! Runs the few programs that a build needs; errors quote their output.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Where programs for administrators are; after `su` alone they are not in PATH.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program for administrators, wherever it is.
pub(super) fn of_administrator(program: &str) -> Command {
    let found = SBIN.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
    found.map_or_else(|| Command::new(program), Command::new)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// It is not installed (the package that has it is named) or failed (its last words are quoted).
pub(super) fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| not_started(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", name(command), output.status, said.trim_end());
    }
    Ok(output.stdout)
}

/// Feeds `input` to a program and returns what it printed, whatever its exit status: decompressors
/// complain about the bytes after their data, and the caller knows the length to expect.
pub(super) fn filter(command: &mut Command, input: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| not_started(command))?;
    let mut stdin = child.stdin.take().context("a child without the pipe it was given")?;
    let output = std::thread::scope(|scope| {
        // The program may stop reading at the end of its data, before it has read all of ours.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output()
    });
    Ok(output.with_context(|| format!("{} did not end", name(command)))?.stdout)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn not_started(command: &Command) -> String {
    let program = name(command);
    let package = match program.as_str() {
        "mkfs.ext4" => "e2fsprogs",
        "xz" => "xz-utils",
        "dpkg-deb" => "dpkg",
        "apt-get" | "apt-cache" => "apt",
        other => other,
    };
    format!("{program} cannot be started; building a kit needs it (package {package})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_quoted_and_one_that_is_missing_is_named() {
        let failed = run(Command::new("sh").args(["-c", "echo no space >&2; exit 3"])).unwrap_err().to_string();
        assert!(failed.contains("sh failed") && failed.ends_with("no space"), "{failed}");
        let missing = run(&mut Command::new("no-such-tool")).unwrap_err().to_string();
        assert!(missing.contains("no-such-tool cannot be started"), "{missing}");
    }

    #[test]
    fn a_program_for_administrators_is_found_without_path() {
        let mut found = of_administrator("mkfs.ext4");
        run(found.arg("-V").env("PATH", "/nonexistent")).unwrap();
        assert_eq!(of_administrator("no-such-tool").get_program(), "no-such-tool");
    }

    #[test]
    fn a_filter_that_reads_only_a_part_of_its_input_is_fine() {
        let input = vec![7; 1 << 20];
        assert_eq!(filter(Command::new("head").args(["-c", "3"]), &input).unwrap(), [7, 7, 7]);
    }
}

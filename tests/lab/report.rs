//! How long each test took, and the table of releases.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Case;
use crate::case::Runs;
use crate::kind::Kind;

/// The results of one release.
pub struct Release {
    kind: Kind,
    /// Packages and their versions, one a line.
    versions: String,
    boot: Duration,
    rows: Vec<Row>,
}

struct Row {
    case: &'static Case,
    took: Duration,
    works: bool,
}

impl Release {
    /// A release and a number of nodes, whose lab was up after `boot`.
    pub fn new(kind: &Kind, versions: String, boot: Duration) -> Self {
        Self { kind: kind.clone(), versions, boot, rows: Vec::new() }
    }

    /// Adds a test that has ended.
    pub fn add(&mut self, case: &'static Case, took: Duration, works: bool) {
        self.rows.push(Row { case, took, works });
    }

    fn version(&self, package: &str) -> String {
        let line = self.versions.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix(' '));
        // Without epoch and Debian's revision: "1:7.2+dfsg-7+deb12u18" is 7.2.
        let version = line.unwrap_or("?");
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        version.split(['-', '+', '~']).next().unwrap_or(version).to_owned()
    }

    fn line(&self, day: &str) -> String {
        let not: Vec<&str> = self.rows.iter().filter(|row| !row.works).map(|row| row.case.name).collect();
        let (slurm, qemu) = (self.version("slurmd"), self.version("qemu-system-x86"));
        let (linux, systemd) = (self.version("linux"), self.version("systemd"));
        let has = |runs| self.rows.iter().any(|row| row.case.runs == runs);
        let part = match self.kind.nodes {
            1 if has(Runs::Nightly) => "",
            1 if has(Runs::Once) => ", without those for every night",
            1 => ", those for every release",
            _ => "",
        };
        let ran = format!("{} of {}{part}", self.rows.len() - not.len(), self.rows.len());
        format!(
            "| {} | {slurm} | {qemu} | {linux} | {systemd} | {day} | {ran} | {} |\n",
            self.kind.title(),
            not.join(", ").replace('_', " ")
        )
    }
}

/// Prints all tests with their times.
pub fn print(releases: &[Release]) {
    for release in releases {
        println!("times in {}, a machine that is emulated itself:", release.kind.title());
        println!("{:>7.1} s  until it was idle", release.boot.as_secs_f64());
        for Row { case, took, .. } in &release.rows {
            println!("{:>7.1} s  {}", took.as_secs_f64(), case.name);
        }
        let total: Duration = release.rows.iter().map(|row| row.took).sum();
        println!("{:>7.1} s  in all", (total + release.boot).as_secs_f64());
    }
}

/// Writes a line for each release, and `target/lab/releases.md` from the latest line of every release, which
/// 'make test-matrix' makes docs/releases.md. A matrix takes hours, so its releases may be run one by one.
pub fn write(releases: &[Release]) {
    let day = Command::new("date").arg("+%F").output().map(|output| output.stdout).unwrap_or_default();
    let day = String::from_utf8_lossy(&day).trim().to_owned();
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab");
    let lines = lab.join("releases");
    fs::create_dir_all(&lines).unwrap();
    for release in releases {
        fs::write(lines.join(release.kind.title()), release.line(&day)).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(lines).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut text = include_str!("releases-head.md").to_owned();
    text.extend(names.into_iter().map(|name| fs::read_to_string(name).unwrap()));
    fs::write(lab.join("releases.md"), text).unwrap();
}

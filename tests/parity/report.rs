//! The output of a case in a form that can be compared, and the table of all cases.

use std::fmt::Write as _;
use std::path::Path;

use testkit::place::output;
use testkit::suite::Length;
use testkit::{Ran, is_waiting};

use crate::cases::Case;

/// What a user sees of a script's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// One line of the report.
pub struct Row {
    /// Its place in the table: cases that run together end in any order.
    pub number: usize,
    pub case: &'static Case,
    pub bare: Seen,
    pub vm: Seen,
}

impl Seen {
    /// Removes what differs between any two runs: the directory, the user, the nodes and job
    /// numbers.
    pub fn new(ran: Ran, dir: &Path, user: &str, node_prefix: &str) -> Self {
        let plain = |text: String| {
            let text = text.replace(&dir.display().to_string(), "WORK").replace(user, "USER");
            let lines = text.lines().filter(|line| !is_waiting(line));
            lines.map(|line| without_nodes(&without_job_numbers(line), node_prefix) + "\n").collect()
        };
        Self { code: ran.code, stdout: plain(ran.stdout), stderr: plain(ran.stderr) }
    }

    /// One cell of the table.
    fn summary(&self) -> String {
        let all: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        let text: String = all.join(" ⏎ ").chars().take(60).collect();
        let text = text.replace('|', "\\|").replace('`', "'");
        let code = match self.code {
            0 => String::new(),
            code => format!("exit {code}; "),
        };
        if text.is_empty() { format!("{code}no output") } else { format!("{code}`{text}`") }
    }
}

/// Replaces the names of the nodes: which ones are free is random.
fn without_nodes(line: &str, prefix: &str) -> String {
    let is_node =
        |word: &str| word.strip_prefix(prefix).is_some_and(|number| number.len() == 1 && ("1"..="4").contains(&number));
    let mut out = String::new();
    for part in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        out.push_str(if is_node(word) { "NODE" } else { word });
        out.push_str(&part[word.len()..]);
    }
    out
}

/// Replaces the number after words that Slurm puts before a job's or step's number.
fn without_job_numbers(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    loop {
        let markers = ["StepId=", "JobId=", "batch job ", "job step ", "STEP ", "JOB ", " step ", " job "];
        let next = markers.iter().filter_map(|marker| rest.find(marker).map(|at| at + marker.len())).min();
        let Some(at) = next else { break };
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        if number > 0 {
            out.push('N');
        }
        // A sentence may end right after the number.
        let dot = rest[..number].ends_with('.');
        out.push_str(if dot { "." } else { "" });
        rest = &rest[number..];
    }
    // Slurm's own time stamps: "*** STEP N ON n1 CANCELLED AT 2026-01-01T00:00:00 ***".
    out.push_str(rest);
    match out.split_once(" AT 20") {
        Some((before, _)) => before.to_owned(),
        None => out,
    }
}

/// Writes the table: short cases with the text around them; long cases as rows alone, to be appended.
pub fn write(rows: &mut [Row], length: Length) {
    rows.sort_by_key(|row| row.number);
    let mut text = String::new();
    if length == Length::Short {
        text.push_str(
            "# Parity: what a user sees of a step on bare metal and in a VM\n\n\
             Made by `make parity`: each script of `tests/parity/cases` runs on a real Slurm, once bare and once with \
             `--vm-image=debian12` on a Debian 12 host; standard output, standard error, exit code and srun's own \
             messages are compared. What differs does so for the reason given. The last cases are those of \
             `make test-long`.\n\n\
             | area | case | bare metal | VM | verdict |\n| --- | --- | --- | --- | --- |\n",
        );
    }
    for Row { case, bare, vm, .. } in rows {
        let verdict = match (bare == vm, case.differs) {
            (true, _) => "same",
            (false, Some(reason)) => reason,
            (false, None) => "DIFFERENT",
        };
        let vm = if bare == vm { "as bare".to_owned() } else { vm.summary() };
        let _ = writeln!(text, "| {} | {} | {} | {vm} | {verdict} |", case.area, case.name, bare.summary());
    }
    let name = match length {
        Length::Short => "PARITY.md",
        Length::Long => "PARITY-long.md",
    };
    std::fs::write(output(name), text).unwrap();
}

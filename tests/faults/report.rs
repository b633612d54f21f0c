//! The table of all rows.

use std::fmt::Write as _;
use std::time::Duration;

use testkit::place::output;
use testkit::suite::Length;

use crate::Fault;

/// One line of the report.
#[derive(Debug)]
pub struct Row {
    pub fault: Fault,
    /// What the user saw.
    pub saw: String,
    /// The longest of all tries, from the fault until the node was as before.
    pub recovery: Duration,
}

/// Writes the table: short rows with the text around them; long rows alone, to be appended.
pub fn write(rows: &[Row], length: Length) {
    let mut text = String::new();
    if length == Length::Short {
        text.push_str(include_str!("reliability-head.md"));
    }
    for Row { fault, saw, recovery } in rows {
        let saw = without_names(saw);
        let seconds = recovery.as_secs_f64();
        let _ =
            writeln!(text, "| {} | {} | {} | {saw} | nothing | {seconds:.1} s |", fault.area, fault.name, fault.tries);
    }
    let name = match length {
        Length::Short => "RELIABILITY.md",
        Length::Long => "RELIABILITY-long.md",
    };
    std::fs::write(output(name), text).unwrap();
}

/// Removes what differs between any two runs: the cluster's directory, job numbers, times.
fn without_names(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = match word.find("/tmp/spank-vm-test.") {
            Some(at) => {
                let rest = &word[at + "/tmp/spank-vm-test.".len()..];
                format!("{}…{}", &word[..at], &rest[rest.find('/').unwrap_or(rest.len())..])
            }
            None => word.to_owned(),
        };
        let after_step = words.last().is_some_and(|last| ["STEP", "JOB", "job", "step"].contains(&last.as_str()));
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_moment = words.last().is_some_and(|last| last == "AT");
        words.push(if is_number && (after_step || is_moment) { "N".to_owned() } else { word });
    }
    let text = words.join(" ");
    match text.split_once("StepId=") {
        Some((before, after)) => {
            let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(after.len());
            format!("{before}StepId=N{}", &after[end..])
        }
        None => text,
    }
}

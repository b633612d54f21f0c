//! Sums of what the journal told, kept from one run to the next.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use runner::error::Fault;

/// Upper ends of the histogram's buckets, in seconds.
pub const BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The ways in which a VM starts.
pub const WAYS: [&str; 2] = ["clone", "boot"];

/// A start that is said to have taken longer than a day is a lie or a mistake.
const LONGEST_MS: u64 = 86_400_000;

/// How long starts took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Starts in each bucket alone; the last one is for those above all ends.
    buckets: Vec<u64>,
    sum_ms: u64,
}

impl Histogram {
    fn add(&mut self, ms: u64) {
        self.buckets.resize(BUCKETS.len() + 1, 0);
        let seconds = ms as f64 / 1e3;
        let at = BUCKETS.iter().position(|&end| seconds <= end).unwrap_or(BUCKETS.len());
        self.buckets[at] += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    /// Starts within each bucket's end, as Prometheus counts them, and then all.
    pub fn cumulative(&self) -> Vec<u64> {
        let counts = (0..=BUCKETS.len()).map(|at| self.buckets.get(at).copied().unwrap_or(0));
        counts
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            })
            .collect()
    }

    /// All of them together, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_ms as f64 / 1e3
    }
}

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Where in the journal the next run goes on.
    pub cursor: Option<String>,
    /// When the last line was written, in microseconds since 1970: where to go on if the journal does not take the cursor.
    pub last_us: Option<u64>,
    /// VMs whose command began, by the way of starting.
    pub starts: BTreeMap<String, Histogram>,
    /// VMs that failed, by whose fault it is.
    pub failures: BTreeMap<String, u64>,
}

impl Counters {
    /// Those of the last run; none if there was none, or its file is damaged.
    pub fn load(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Takes a line of the journal, as JSON, and returns whether it is one.
    pub fn take(&mut self, line: &str) -> bool {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return false };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if let Some(cursor) = text("__CURSOR") {
            self.cursor = Some(cursor.to_owned());
        }
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        if let Some(at) = number("__REALTIME_TIMESTAMP") {
            self.last_us = Some(at);
        }
        let way = text("F_WAY").and_then(|said| WAYS.into_iter().find(|way| *way == said));
        if let (Some(way), Some(ms)) = (way, number("F_START_MS").filter(|ms| *ms <= LONGEST_MS)) {
            self.starts.entry(way.to_owned()).or_default().add(ms);
        }
        if let Some(fault) = text("F_REASON").and_then(Fault::named) {
            *self.failures.entry(fault.word().to_owned()).or_default() += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_failures_are_counted_and_the_place_is_kept() {
        let mut counters = Counters::default();
        for line in [
            r#"{"__CURSOR":"a","F_WAY":"clone","F_START_MS":"376","MESSAGE":"vm ended"}"#,
            r#"{"__CURSOR":"b","F_WAY":"clone","F_START_MS":"999999"}"#,
            r#"{"__CURSOR":"c","F_REASON":"node","F_PHASE":"start"}"#,
            // It never started.
            r#"{"__CURSOR":"d","F_WAY":"boot","MESSAGE":"vm ended"}"#,
        ] {
            assert!(counters.take(line));
        }
        let clones = &counters.starts["clone"];
        assert_eq!(clones.cumulative(), [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert!((clones.sum() - 1000.375).abs() < 1e-6);
        assert_eq!((counters.failures["node"], counters.starts.len()), (1, 1));
        assert_eq!(counters.cursor.as_deref(), Some("d"));
    }

    #[test]
    fn a_line_that_somebody_made_up_adds_no_label_and_no_number_without_bounds() {
        let mut counters = Counters::default();
        for line in [
            r#"{"F_REASON":"x\"} 1\nspank_vm_vms_running 7"}"#,
            r#"{"F_WAY":"magic","F_START_MS":"1"}"#,
            r#"{"F_WAY":"clone","F_START_MS":"18446744073709551615"}"#,
            r#"{"F_WAY":"clone","F_START_MS":"-1"}"#,
            r#"{"F_WAY":["clone"],"F_START_MS":null}"#,
        ] {
            assert!(counters.take(line));
        }
        assert_eq!(counters, Counters::default());
        assert!(!counters.take("no JSON") && !counters.take("[1]"));
    }

    #[test]
    fn sums_survive_from_run_to_run_and_damaged_ones_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(Counters::load(&path), Counters::default());
        let mut counters = Counters::default();
        counters.take(r#"{"__CURSOR":"a","F_WAY":"boot","F_START_MS":"2000"}"#);
        fs::write(&path, serde_json::to_string(&counters).unwrap()).unwrap();
        assert_eq!(Counters::load(&path), counters);
        fs::write(&path, "{\"starts\": 7").unwrap();
        assert_eq!(Counters::load(&path), Counters::default());
    }
}

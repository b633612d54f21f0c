//! How long the slow series may take.

use std::time::{Duration, Instant};

/// The time of all slow series together.
pub struct Allowance {
    /// 0 for any time.
    minutes: u64,
    /// Their end, once the first has begun.
    until: Option<Instant>,
    /// Series that have not begun.
    left: u32,
}

impl Allowance {
    /// For so many series; 0 minutes are any time.
    pub fn new(minutes: u64, series: usize) -> Self {
        Self { minutes, until: None, left: series as u32 }
    }

    /// What the next series has: an equal part of what is left.
    pub fn next(&mut self) -> Budget {
        let now = Instant::now();
        if self.minutes > 0 {
            self.until.get_or_insert(now + Duration::from_secs(60 * self.minutes));
        }
        let part = self.until.map(|until| until.saturating_duration_since(now) / self.left.max(1));
        self.left = self.left.saturating_sub(1);
        Budget { until: part.map(|part| now + part), a_vm: Duration::ZERO }
    }
}

/// The time of one series.
pub struct Budget {
    until: Option<Instant>,
    /// What each VM of the last cell took.
    a_vm: Duration,
}

impl Budget {
    /// Any time.
    pub fn unlimited() -> Self {
        Self { until: None, a_vm: Duration::ZERO }
    }

    /// Whether a cell of so many VMs is likely to end in time.
    pub fn allows(&self, vms: u32) -> bool {
        self.until.is_none_or(|until| Instant::now() + self.a_vm * vms <= until)
    }

    /// Measures a cell of so many VMs.
    pub fn spend<T>(&mut self, vms: u32, measure: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let measured = measure();
        self.a_vm = begin.elapsed() / vms.max(1);
        measured
    }
}

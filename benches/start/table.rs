//! The table on the terminal and its CSV.

use std::fmt::Write as _;
use std::path::Path;

use testkit::measure::quantile;

/// Rows of a measurement, printed as they come.
pub struct Table {
    csv: String,
    /// Time of bare `srun` until its first line, in ms: the unit of all ratios.
    pub bare_ms: Option<f64>,
}

impl Table {
    /// Prints the heading.
    pub fn new() -> Self {
        println!(
            "{:<16} {:>3} {:<22} {:>12} {:>12} {:>9} {:>5}",
            "case", "n", "metric", "p50", "p95", "vs bare", "runs"
        );
        Self { csv: "case,n,metric,p50,p95,unit,ratio_to_bare,runs\n".to_owned(), bare_ms: None }
    }

    /// A row of times in ms, with their ratio to bare `srun` if that makes sense.
    pub fn times(&mut self, case: &str, n: u32, metric: &str, values: &[f64], with_ratio: bool) {
        let ratio = self.bare_ms.filter(|_| with_ratio).map(|bare| format!("{:.1}", quantile(values, 0.5) / bare));
        self.row(case, n, metric, values, "ms", &ratio.unwrap_or_default());
    }

    /// A row of anything.
    pub fn row(&mut self, case: &str, n: u32, metric: &str, values: &[f64], unit: &str, ratio: &str) {
        if values.is_empty() {
            return;
        }
        let (p50, p95, runs) = (quantile(values, 0.5), quantile(values, 0.95), values.len());
        writeln!(self.csv, "{case},{n},{metric},{p50:.1},{p95:.1},{unit},{ratio},{runs}").unwrap();
        println!("{case:<16} {n:>3} {metric:<22} {p50:>8.1} {unit:<3} {p95:>8.1} {unit:<3} {ratio:>9} {runs:>5}");
    }

    /// Writes the CSV.
    pub fn save(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &self.csv).unwrap();
    }
}

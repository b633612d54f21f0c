//! What was measured, as CSV, as a table and as the figure's data.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::measure::{machine, mean, quantile};

use crate::cell::Cell;
use crate::plot;
use crate::series::Series;

/// All cells so far and the directory they are written to.
pub struct Report {
    dir: PathBuf,
    cells: Vec<Cell>,
    /// And whether that is because a cell is too large; else there was no time.
    left_out: Vec<(Series, bool)>,
}

impl Report {
    /// An empty report that will be in `dir`.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), cells: Vec::new(), left_out: Vec::new() }
    }

    /// Adds a cell and writes all tables anew.
    pub fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
        fs::write(self.dir.join("figure4.csv"), self.csv()).unwrap();
        fs::write(self.dir.join("runs.csv"), self.runs_csv()).unwrap();
        fs::write(self.dir.join("figure4.md"), self.markdown()).unwrap();
    }

    /// Notes that a cell of the series is not measured, because it is too large or would take too long.
    pub fn leave_out(&mut self, series: Series, is_too_large: bool) {
        self.left_out.push((series, is_too_large));
    }

    /// Writes the tables once more, draws the figure and prints the table.
    pub fn finish(&self) {
        let table = self.markdown();
        fs::write(self.dir.join("figure4.md"), &table).unwrap();
        // The legend has the order of the curves: the slowest is at the top.
        let lines: Vec<plot::Line> = Series::ALL.into_iter().rev().map(|series| self.line(series)).collect();
        plot::draw(&self.dir, &lines, &self.caption()).unwrap_or_else(|why| eprintln!("no plot: {why}"));
        println!("\n{table}\nwritten to {}", self.dir.display());
    }

    fn series(&self) -> impl Iterator<Item = Series> {
        Series::ALL.into_iter().filter(|&series| self.measured(series).next().is_some())
    }

    fn measured(&self, series: Series) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| cell.series == series && !cell.runs.is_empty())
    }

    fn csv(&self) -> String {
        let mut text = String::from("series,jobs,vms_per_slot,vms,repeats,mean_s,p95_s\n");
        for cell in self.cells.iter().filter(|cell| !cell.runs.is_empty()) {
            let last = last_s(cell);
            let Cell { series, jobs, vms_per_slot, .. } = cell;
            let (vms, repeats, mean_s, p95_s) = (cell.vms(), last.len(), mean(&last), quantile(&last, 0.95));
            writeln!(text, "{},{jobs},{vms_per_slot},{vms},{repeats},{mean_s:.3},{p95_s:.3}", series.name()).unwrap();
        }
        text
    }

    fn runs_csv(&self) -> String {
        let mut text = String::from("series,jobs,vms_per_slot,vms,first_vm_s,mean_vm_s,last_vm_s\n");
        for cell in &self.cells {
            for run in &cell.runs {
                let (series, vms) = (cell.series.name(), cell.vms());
                let at = format!("{:.3},{:.3},{:.3}", run.first_s, run.mean_s, run.last_s);
                writeln!(text, "{series},{},{},{vms},{at}", cell.jobs, cell.vms_per_slot).unwrap();
            }
        }
        text
    }

    fn line(&self, series: Series) -> plot::Line {
        let mut points: Vec<(u32, f64)> = self.measured(series).map(|cell| (cell.vms(), mean(&last_s(cell)))).collect();
        points.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        plot::Line { title: series.title().to_owned(), points }
    }

    /// The machine, the repeats and what is missing: sentences to put below the figure.
    fn caption(&self) -> Vec<String> {
        let repeats: Vec<String> = self
            .series()
            .map(|series| {
                format!("{} {}", series.name(), self.measured(series).map(|c| c.runs.len()).max().unwrap_or(0))
            })
            .collect();
        let mut caption = vec![
            format!("Four Slurm nodes of 2 CPUs, all on one machine of {}.", machine()),
            format!("Points: cells of the grid, each the mean of its repeats ({}).", repeats.join(", ")),
            "Lines: means of the cells that have as many VMs.".to_owned(),
        ];
        let mut left_out: Vec<String> = Vec::new();
        for series in Series::ALL {
            let count = |why| self.left_out.iter().filter(|&&one| one == (series, why)).count();
            let (large, late) = (count(true), count(false));
            if large > 0 {
                let most = series.most_vms();
                left_out.push(format!("{}: cells of more than {most} VMs left out ({large}).", series.name()));
            }
            if late > 0 {
                left_out.push(format!("{}: its {late} largest cells left out for lack of time.", series.name()));
            }
        }
        if !left_out.is_empty() {
            caption.push(left_out.join(" "));
        }
        let failed: usize = self.cells.iter().map(|cell| cell.failures.len()).sum();
        if failed > 0 {
            caption.push(format!("{failed} repeats in which a VM failed are not counted."));
        }
        caption
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# Figure 4: from sbatch to the last VM's first computation\n\n");
        text.push_str(&self.caption().join("\n"));
        text.push_str("\n\nBy number of VMs, over all cells that have so many (mean in s):\n\n");
        text.push_str(
            "| VMs | bare | clone | kit boot | paper | paper ÷ clone | paper ÷ kit boot | kit boot ÷ clone |\n",
        );
        text.push_str("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        let totals: BTreeSet<u32> = self.cells.iter().map(Cell::vms).collect();
        for vms in totals {
            let [bare, clone, kit, paper] = Series::ALL.map(|series| {
                let means: Vec<f64> =
                    self.measured(series).filter(|cell| cell.vms() == vms).map(|cell| mean(&last_s(cell))).collect();
                (!means.is_empty()).then(|| mean(&means))
            });
            let ratio = |slow: Option<f64>, quick: Option<f64>| {
                slow.zip(quick).map_or("–".to_owned(), |(slow, quick)| format!("{:.1}", slow / quick))
            };
            writeln!(
                text,
                "| {vms} | {} | {} | {} | {} | {} | {} | {} |",
                seconds(bare),
                seconds(clone),
                seconds(kit),
                seconds(paper),
                ratio(paper, clone),
                ratio(paper, kit),
                ratio(kit, clone)
            )
            .unwrap();
        }
        text.push_str("\nBy cell (mean / p95 of the last VM, and the mean over all VMs, in s):\n\n");
        text.push_str("| series | jobs × VMs per slot | repeats | last VM | p95 | all VMs |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
        for cell in self.cells.iter().filter(|cell| !cell.runs.is_empty()) {
            let last = last_s(cell);
            let all: Vec<f64> = cell.runs.iter().map(|run| run.mean_s).collect();
            let (series, jobs, vms) = (cell.series.name(), cell.jobs, cell.vms_per_slot);
            let (last_mean, p95, all) = (mean(&last), quantile(&last, 0.95), mean(&all));
            writeln!(text, "| {series} | {jobs} × {vms} | {} | {last_mean:.2} | {p95:.2} | {all:.2} |", last.len())
                .unwrap();
        }
        let failures: Vec<&String> = self.cells.iter().flat_map(|cell| &cell.failures).collect();
        if !failures.is_empty() {
            text.push_str("\nFailed:\n\n");
            for failure in failures {
                writeln!(text, "- {failure}").unwrap();
            }
        }
        text
    }
}

fn last_s(cell: &Cell) -> Vec<f64> {
    cell.runs.iter().map(|run| run.last_s).collect()
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

//! The table of the host's files in a VM and without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use testkit::measure::{quantile, renew};

/// The line before the table.
const BEGIN: &str = "<!-- make bench writes from here -->\n";

/// What is measured, and how a reader calls it.
const CASES: [(&str, &str); 15] = [
    ("find-tree", "`find` in 111 directories"),
    ("ls-lR", "`ls -lR` there"),
    ("find", "`find` in one directory of 1,000 files"),
    ("find-size", "`find -size`"),
    ("ls-l", "`ls -l`"),
    ("stat", "`stat`"),
    ("missing", "names that do not exist"),
    ("untar", "unpack"),
    ("read-small", "read small files"),
    ("create", "create small files"),
    ("remove", "remove them"),
    ("write", "write one large file"),
    ("read", "read it"),
    ("write-4-tasks", "write, four tasks"),
    ("read-4-tasks", "read, four tasks"),
];

/// Milliseconds of all runs.
pub struct Table {
    title: String,
    load: String,
    times: BTreeMap<(&'static str, usize, String), Vec<f64>>,
}

impl Table {
    pub fn new(title: String, load: &str) -> Self {
        Self { title, load: load.to_owned(), times: BTreeMap::new() }
    }

    pub fn load_after(&mut self, load: &str) {
        self.load = format!("{} before and {load} after", self.load);
    }

    /// Adds what a run printed. Of several VMs together the sum counts.
    ///
    /// # Errors
    ///
    /// If something has not ended, or some of the VMs have printed nothing.
    pub fn add(&mut self, way: &'static str, vms: usize, printed: &str) -> Result<(), String> {
        let mut begun = BTreeMap::new();
        let mut times: Vec<(String, f64)> = Vec::new();
        let mut seen = BTreeSet::new();
        for line in printed.lines() {
            let [at, what, name, vm] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let at: f64 = at.parse().expect("microseconds");
            seen.insert(vm);
            if what == "begin" {
                begun.insert((name, vm), at);
            } else if let Some(begun) = begun.remove(&(name, vm)) {
                times.push((name.to_owned(), (at - begun) / 1000.0));
            }
        }
        if let Some((name, vm)) = begun.keys().next() {
            return Err(format!("'{name}' has not ended in VM {vm}"));
        }
        if seen.len() != vms {
            return Err(format!("{} of {vms} have printed something", seen.len()));
        }
        if vms == 1 {
            times.into_iter().for_each(|(name, ms)| self.times.entry((way, 1, name)).or_default().push(ms));
        } else {
            let mean = times.iter().map(|(_, ms)| ms).sum::<f64>() / vms as f64;
            self.times.entry((way, vms, "names".to_owned())).or_default().push(mean);
        }
        Ok(())
    }

    fn median(&self, way: &'static str, vms: usize, name: &str) -> f64 {
        self.times.get(&(way, vms, name.to_owned())).map_or(f64::NAN, |times| quantile(times, 0.5))
    }

    /// Every case with its milliseconds: without a VM, in one.
    fn rows(&self) -> Vec<(String, [f64; 2])> {
        let many = self.times.keys().map(|(_, vms, _)| *vms).max().unwrap_or(1);
        let row = |vms, name: &str| ["bare", "vm"].map(|way| self.median(way, vms, name));
        let mut rows: Vec<_> = CASES.iter().map(|(name, title)| ((*title).to_owned(), row(1, name))).collect();
        if many > 1 {
            rows.push((format!("all on names, {many} VMs at once"), row(many, "names")));
        }
        rows
    }

    /// Writes the medians.
    pub fn write_csv(&self, path: &Path) {
        let mut text = "case,bare_ms,vm_ms,times_as_long,load_average\n".to_owned();
        for (title, [bare, vm]) in self.rows() {
            writeln!(text, "\"{title}\",{bare:.1},{vm:.1},{:.2},{}", vm / bare.max(0.1), self.load).unwrap();
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        println!("{}", path.display());
    }

    /// Puts the table into the document, in place of the old one.
    pub fn write_document(&self, document: &Path) {
        let mut table = format!(
            "\nMeasured with {}; load average of the machine {}. Milliseconds, medians.\n\n\
             | what | without a VM | in a VM | so many times as long |\n| --- | --- | --- | --- |\n",
            self.title, self.load
        );
        for (title, [bare, vm]) in self.rows() {
            writeln!(table, "| {title} | {bare:.1} | {vm:.0} | {:.0} |", vm / bare.max(0.1)).unwrap();
        }
        println!("{table}");
        renew(document, BEGIN, &format!("{table}\n"));
    }
}

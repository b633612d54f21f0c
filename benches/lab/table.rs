//! Samples as CSV, and as the table of docs/lab.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use testkit::measure::renew;

/// One measured start.
pub struct Sample {
    pub release: String,
    pub way: &'static str,
    pub vms: u32,
    /// From `srun` to the first line of the last VM's command.
    pub ms: u64,
    /// How often the processor left a guest for the node's kernel (VM exits), until the step's end.
    pub exits: u64,
    /// The runner's own times of its first VM.
    pub phases: String,
}

/// The line before the table.
const BEGIN: &str = "<!-- make bench-lab writes from here -->\n";

/// Writes every sample on a line.
pub fn write_csv(path: &Path, samples: &[Sample], load: &str) {
    let mut text = "release,way,vms,ms,exits,load_average_before,phases\n".to_owned();
    for Sample { release, way, vms, ms, exits, phases } in samples {
        writeln!(text, "{release},\"{way}\",{vms},{ms},{exits},{load},\"{phases}\"").unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    println!("{}", path.display());
}

/// Puts the medians into the document, in place of the old ones.
pub fn write_table(document: &Path, samples: &[Sample], load: &str) {
    let table = table(samples, load);
    renew(document, BEGIN, &table);
    println!("{table}");
}

fn table(samples: &[Sample], load: &str) -> String {
    let same_way = |a: &Sample, b: &Sample| (&a.release, a.way) == (&b.release, b.way);
    let runs = samples.chunk_by(same_way).map(<[Sample]>::len).max().unwrap_or(0);
    let mut text = format!(
        "\n**Seconds of an emulated node, not of hardware**: medians of {runs}; the load average of the machine that emulates \
         was {load} before.\n\n| emulated node | case | VMs | emulated seconds from `srun` to the first line | ratio to bare, \
         emulated | exits per VM |\n| --- | --- | --- | --- | --- | --- |\n"
    );
    let mut phases = String::new();
    let mut bare = 0;
    for group in samples.chunk_by(same_way) {
        let first = &group[0];
        let ms = median(group, |sample| sample.ms);
        if first.vms == 0 {
            bare = ms.max(1);
        }
        let exits = median(group, |sample| sample.exits) / u64::from(first.vms.max(1));
        let exits = if first.vms == 0 { String::new() } else { exits.to_string() };
        let (seconds, ratio) = (ms as f64 / 1e3, ms as f64 / bare as f64);
        writeln!(text, "| {} | {} | {} | {seconds:.2} | {ratio:.1} | {exits} |", first.release, first.way, first.vms)
            .unwrap();
        if let Some(of_median) = group.iter().find(|sample| sample.ms == ms && !sample.phases.is_empty()) {
            writeln!(phases, "- {}, {}: {}", first.release, first.way, of_median.phases).unwrap();
        }
    }
    format!("{text}\nPhases of the first VM of the median start, emulated too:\n\n{phases}\n")
}

fn median(group: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = group.iter().map(value).collect();
    values.sort_unstable();
    values[(values.len() - 1) / 2]
}

//! Prometheus' text format.

use std::fmt::{Display, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::counters::{BUCKETS, Counters, WAYS};
use node::shelf::{ImageCopy, Item, Shelf, TemplateDir};
use node::space::Space;
use node::status;
use runner::config::Config;
use runner::error::Fault;

/// Metrics as they are written.
struct Text(String);

impl Text {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One number. `labels` are words of this program's own.
    fn number(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.about(name, "gauge", help);
        self.number(name, "", value);
    }
}

/// Everything.
pub fn all(config: &Config, counters: &Counters, journal: bool) -> String {
    let mut text = Text(String::new());
    running(&mut text, &config.state_dir);
    counted(&mut text, counters);
    kept(&mut text, config);
    text.gauge("spank_vm_journal_readable", "Whether starts and failures could be counted.", u8::from(journal));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    text.gauge("spank_vm_metrics_timestamp_seconds", "When this was written.", now);
    text.0
}

fn running(text: &mut Text, state_dir: &Path) {
    let tasks = status::list(state_dir).unwrap_or_default();
    let statuses: Vec<_> = tasks.into_iter().filter_map(|entry| entry.status).collect();
    let (alive, left): (Vec<_>, Vec<_>) = statuses.iter().partition(|status| status.runner.is_alive());
    let now: Vec<_> = alive.iter().map(|status| status::running(status)).collect();
    text.gauge("spank_vm_tasks_running", "Tasks with VMs.", alive.len());
    text.gauge(
        "spank_vm_vms_requested",
        "VMs that they asked for.",
        alive.iter().map(|status| u64::from(status.vms)).sum::<u64>(),
    );
    text.gauge(
        "spank_vm_vms_running",
        "Processes of QEMU that they have.",
        now.iter().map(|running| running.vms).sum::<usize>(),
    );
    let bytes: u64 = now.iter().map(|running| running.resident_mib << 20).sum();
    text.gauge("spank_vm_resident_bytes", "Memory of these processes.", bytes);
    text.gauge("spank_vm_tasks_left_over", "Directories of tasks whose runner is gone.", left.len());
}

fn counted(text: &mut Text, counters: &Counters) {
    let name = "spank_vm_start_seconds";
    text.about(name, "histogram", "From the task's begin until the command of a VM runs.");
    for way in WAYS {
        let histogram = counters.starts.get(way).cloned().unwrap_or_default();
        let counts = histogram.cumulative();
        for (end, count) in BUCKETS.iter().zip(&counts) {
            text.number(&format!("{name}_bucket"), &format!("way=\"{way}\",le=\"{end}\""), count);
        }
        let all = counts.last().copied().unwrap_or(0);
        text.number(&format!("{name}_bucket"), &format!("way=\"{way}\",le=\"+Inf\""), all);
        text.number(&format!("{name}_sum"), &format!("way=\"{way}\""), histogram.sum());
        text.number(&format!("{name}_count"), &format!("way=\"{way}\""), all);
    }
    let name = "spank_vm_failures_total";
    text.about(name, "counter", "VMs and steps that failed, by whose fault it is.");
    for reason in Fault::ALL.map(Fault::word) {
        text.number(name, &format!("reason=\"{reason}\""), counters.failures.get(reason).copied().unwrap_or(0));
    }
}

fn kept(text: &mut Text, config: &Config) {
    let image_cache_dir = config.image_cache_dir();
    let templates = sizes::<TemplateDir>(&config.template_dir);
    let copies = sizes::<ImageCopy>(&image_cache_dir);
    let caches = [("templates", &templates), ("images", &copies)];
    for (name, help, choose) in [
        ("spank_vm_cache_bytes", "What is kept on this node.", (|kept: &Kept| kept.bytes) as fn(&Kept) -> u64),
        ("spank_vm_cache_items", "How many templates and copies of images that is.", |kept: &Kept| kept.items),
    ] {
        text.about(name, "gauge", help);
        for (cache, [site, users]) in caches {
            text.number(name, &format!("cache=\"{cache}\",owner=\"site\""), choose(site));
            text.number(name, &format!("cache=\"{cache}\",owner=\"users\""), choose(users));
        }
    }
    let dirs =
        [("templates", config.template_dir.as_path()), ("images", &image_cache_dir), ("scratch", &config.scratch_dir)];
    text.about("spank_vm_free_bytes", "gauge", "Free space of the file system with it.");
    for (cache, dir) in dirs {
        if let Ok(space) = Space::of(dir, dir) {
            text.number("spank_vm_free_bytes", &format!("cache=\"{cache}\""), space.free);
        }
    }
}

/// What a shelf holds.
#[derive(Debug, Default)]
struct Kept {
    items: u64,
    bytes: u64,
}

/// The site's and all users' together.
fn sizes<I: Item>(dir: &Path) -> [Kept; 2] {
    let mut sizes = [Kept::default(), Kept::default()];
    for shelf in Shelf::<I>::all(dir) {
        let kept = &mut sizes[usize::from(!shelf.is_site())];
        for item in shelf.list() {
            kept.items += 1;
            kept.bytes = kept.bytes.saturating_add(item.bytes);
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_one_that_prometheus_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = Config {
            state_dir: path("state"),
            template_dir: path("templates"),
            image_cache_dir: path("images"),
            scratch_dir: dir.path().to_owned(),
            ..Config::default()
        };
        let mut counters = Counters::default();
        counters.take(r#"{"F_WAY":"clone","F_START_MS":"300"}"#);
        counters.take(r#"{"F_REASON":"guest"}"#);
        let text = all(&config, &counters, true);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("spank_vm_") && value.parse::<f64>().is_ok(), "{line}");
            let base = name.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base);
            assert!(text.contains(&format!("# TYPE {base} ")), "{line}");
        }
        for line in [
            "spank_vm_vms_running 0",
            "spank_vm_start_seconds_bucket{way=\"clone\",le=\"0.25\"} 0",
            "spank_vm_start_seconds_bucket{way=\"clone\",le=\"0.5\"} 1",
            "spank_vm_start_seconds_count{way=\"clone\"} 1",
            "spank_vm_failures_total{reason=\"guest\"} 1",
            "spank_vm_failures_total{reason=\"node\"} 0",
            "spank_vm_cache_bytes{cache=\"templates\",owner=\"site\"} 0",
            "spank_vm_journal_readable 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}

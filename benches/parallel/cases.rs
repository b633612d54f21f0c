//! What is measured, as scripts of the shell: each on bare metal and with both scopes, in turn, so that what else the machine does
//! meets all of them.

use std::collections::BTreeMap;

/// How a step's tasks run: the words for a table, and the options.
pub const WAYS: [(&str, &str); 3] = [
    ("bare", "--vm-image=none"),
    ("slot", "--vm-image=tiny --vm-scope=slot"),
    ("node", "--vm-image=tiny --vm-scope=node"),
];

/// Where steps run.
pub trait Place {
    /// Runs a script for bash as the user who submits, in a directory that has the program `messages`.
    ///
    /// # Errors
    /// What it said, if it failed.
    fn sh(&self, script: &str) -> Result<String, String>;

    /// Its first two nodes: names and addresses.
    fn nodes(&self) -> [(String, String); 2];

    /// Options for 16 tasks, and the memory of four or eight of them on each node.
    fn sixteen(&self) -> &'static str;
}

/// Values by their name and way.
pub type Values = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// The names of what is measured, in a reader's words.
pub const ROWS: [(&str, &str); 7] = [
    ("start", "16 ranks are up, ms"),
    ("latency 1", "half a ping-pong, two ranks on one node, µs"),
    ("bandwidth 1", "64 KiB messages, two ranks on one node, MiB/s"),
    ("latency 2", "half a ping-pong across nodes, µs"),
    ("bandwidth 2", "64 KiB messages across nodes, MiB/s"),
    ("allreduce-8 2", "allreduce of 8 bytes, 2 × 2 ranks, µs"),
    ("allreduce-65536 2", "allreduce of 64 KiB, 2 × 2 ranks, µs"),
];

/// Measures everything so often.
pub fn measure(place: &dyn Place, runs: usize) -> Values {
    let mut values = Values::new();
    for (_, options) in WAYS {
        // Templates are made, caches filled.
        let networks = if options.contains("none") { &[""][..] } else { &["", "--vm-net=job"] };
        for network in networks {
            let sixteen = place.sixteen();
            note("warming up", place.sh(&format!("srun -Q {sixteen} {options} {network} true")));
        }
    }
    for _ in 0..runs {
        for (way, options) in WAYS {
            if let Some(ms) = note(way, place.sh(&start(place, options))) {
                let ms = ms.trim().parse().expect("milliseconds");
                values.entry(("start", way)).or_default().push(ms);
            }
            for (nodes, tasks) in [(1, 2), (2, 2), (2, 4)] {
                // With one task on each node both scopes are the same.
                if (way, nodes, tasks) != ("node", 2, 2) {
                    messages(place, way, options, nodes, tasks, &mut values);
                }
            }
        }
    }
    values
}

/// From srun to the line of the last of 16 ranks.
fn start(place: &dyn Place, options: &str) -> String {
    format!(
        "began=$(date +%s%N); srun -Q {} {options} echo here | {{ for rank in {{1..16}}; do read -r line || exit 1; done; \
         echo $((($(date +%s%N) - began) / 1000000)); cat; }}",
        place.sixteen()
    )
}

fn messages(place: &dyn Place, way: &str, options: &str, nodes: usize, tasks: usize, values: &mut Values) {
    let names = place.nodes();
    let list: Vec<&str> = names[..nodes].iter().map(|(name, _)| name.as_str()).collect();
    // Ranks in a step's own network have its first addresses; bare ones those of their nodes, which have blocks of ranks.
    let address = |rank: usize| match way {
        "bare" => names[rank * nodes / tasks].1.clone(),
        _ => format!("100.80.0.{}", rank + 1),
    };
    let addresses: Vec<String> = (0..tasks).map(address).collect();
    let network = if way == "bare" { "" } else { "--vm-net=job" };
    let script = format!(
        "srun -Q -K1 -t5 -N{nodes} -n{tasks} -w {} --mem=1200 {options} {network} ./messages {}",
        list.join(","),
        addresses.join(" ")
    );
    let Some(printed) = note(way, place.sh(&script)) else { return };
    for line in printed.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let key = format!("{name} {nodes}");
        let (key, _) = ROWS.iter().find(|(known, _)| *known == key).expect("a name of a row");
        let (way, _) = WAYS.iter().find(|(known, _)| *known == way).expect("a way");
        values.entry((key, way)).or_default().push(value.parse().expect("a number"));
    }
}

/// What a script printed. A failure is told, and its values are missing in the table.
fn note(what: &str, done: Result<String, String>) -> Option<String> {
    done.map_err(|why| eprintln!("{what}: {why}")).ok()
}

//! Values as CSV, and as a table in docs/parallel.md.

use std::fmt::Write;
use std::fs;

use testkit::measure::{quantile, renew};
use testkit::place::{output, repository};

use crate::cases::{ROWS, Values, WAYS};

/// Writes `target/bench/NAME.csv`, and the table of docs/parallel.md that begins with this comment.
pub fn write(values: &Values, name: &str, begin: &str, title: &str) {
    let mut csv = "what,way,p50,runs,ratio_to_bare\n".to_owned();
    let mut table = format!(
        "\n{title}\n\n| what | bare | `--vm-scope=slot` | ratio | `--vm-scope=node` | ratio |\n| --- | --- | --- | --- | --- | --- |\n"
    );
    for (key, words) in ROWS {
        let median = |way| values.get(&(key, way)).map(|all| quantile(all, 0.5));
        let bare = median("bare");
        write!(table, "| {words} ").unwrap();
        for (way, _) in WAYS {
            let Some(value) = median(way) else {
                table.push_str("| – | – ");
                continue;
            };
            let ratio = bare.map(|bare| format!("{:.2}", value / bare)).unwrap_or_default();
            let runs = values[&(key, way)].len();
            writeln!(csv, "{key},{way},{value:.2},{runs},{ratio}").unwrap();
            write!(table, "| {} ", rounded(value)).unwrap();
            if way != "bare" {
                write!(table, "| {ratio} ").unwrap();
            }
        }
        table.push_str("|\n");
    }
    let path = output(&format!("bench/{name}.csv"));
    fs::create_dir_all(path.parent().expect("a directory")).unwrap();
    fs::write(&path, csv).unwrap();
    renew(&repository().join("docs/parallel.md"), begin, &format!("{table}\n"));
    println!("{table}\nwritten to {}", path.display());
}

/// Three digits say all that a measurement knows.
fn rounded(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

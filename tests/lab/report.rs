//! How long each test took, and what does not work yet.

use std::time::{Duration, Instant};

/// One test of one release.
pub struct Row {
    release: String,
    name: &'static str,
    took: Duration,
    lacks: Option<&'static str>,
}

impl Row {
    /// A test that began then and has ended now.
    pub fn new(release: &str, name: &'static str, began: Instant, lacks: Option<&'static str>) -> Self {
        Self { release: release.to_owned(), name, took: began.elapsed(), lacks }
    }
}

/// Prints all tests with their times, and those that must fail with their reasons.
pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    println!("times, in a machine that is emulated itself:");
    for row in rows {
        println!("{:>7.1} s  {}: {}", row.took.as_secs_f64(), row.release, row.name);
        if let Some(why) = row.lacks {
            println!("           does not work yet: {why}");
        }
    }
    let total: Duration = rows.iter().map(|row| row.took).sum();
    println!("{:>7.1} s  in all", total.as_secs_f64());
}

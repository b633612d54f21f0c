//! The figure: gnuplot draws it, as SVG and as PNG.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Colours that also differ in lightness.
const COLOURS: [&str; 4] = ["#5e3c99", "#d95f02", "#1b7837", "#808080"];
const POINT_TYPES: [u32; 4] = [9, 5, 7, 2];

/// One way of starting VMs.
pub struct Line {
    /// For the legend.
    pub title: String,
    /// Number of VMs and seconds of each cell, sorted.
    pub points: Vec<(u32, f64)>,
}

/// Draws `figure4.svg` and `figure4.png` in `dir`.
pub fn draw(dir: &Path, lines: &[Line], caption: &[String]) -> Result<(), String> {
    let script = dir.join("figure4.gp");
    fs::write(&script, gnuplot(lines, caption)).map_err(|error| error.to_string())?;
    let output = Command::new("gnuplot").arg("figure4.gp").current_dir(dir).output();
    let output = output.map_err(|error| format!("gnuplot: {error}: run packaging/debian-deps figure4"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(())
}

fn gnuplot(lines: &[Line], caption: &[String]) -> String {
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        writeln!(text, "$cells{number} << EOD").unwrap();
        for (vms, seconds) in &line.points {
            writeln!(text, "{vms} {seconds}").unwrap();
        }
        writeln!(text, "EOD\n$means{number} << EOD").unwrap();
        for (vms, seconds) in means(&line.points) {
            writeln!(text, "{vms} {seconds}").unwrap();
        }
        text.push_str("EOD\n");
    }
    text.push_str(
        "set logscale xy\n\
         set xrange [0.85:150]\n\
         set yrange [0.1:1000]\n\
         set xtics (1, 2, 4, 8, 16, 32, 64, 128)\n\
         set ytics ('0.1' 0.1, '0.2' 0.2, '0.5' 0.5, '1' 1, '2' 2, '5' 5, '10' 10, '20' 20, '50' 50, '100' 100, \
         '200' 200, '500' 500, '1000' 1000)\n\
         unset mxtics\n\
         unset mytics\n\
         set grid xtics ytics linecolor rgb '#c0c0c0' linewidth 1 dashtype solid\n\
         set border 3\n\
         set tics nomirror\n\
         set key bottom right reverse Left samplen 2 spacing 1.1\n\
         set title 'VM launch times of job arrays (Figure 4 of “HPC-VMs”, measured again)' font ',15'\n\
         set xlabel 'VMs (jobs of the array × VMs per slot)'\n\
         set ylabel 'seconds from sbatch until the last VM has computed'\n",
    );
    // The lines of the caption are below the axis, the last one at the lower edge.
    writeln!(text, "set bmargin {}", 3.8 + 1.15 * caption.len() as f64).unwrap();
    for (number, sentence) in caption.iter().rev().enumerate() {
        let y = 0.025 + 0.030 * number as f64;
        let sentence = sentence.replace('\'', "’");
        writeln!(text, "set label '{sentence}' at screen 0.02,{y:.3} left font ',11' textcolor rgb '#555555'").unwrap();
    }
    let mut curves = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
        let look = format!("linecolor rgb '{}'", COLOURS[number % COLOURS.len()]);
        let point = format!("pointtype {} pointsize 1.1", POINT_TYPES[number % POINT_TYPES.len()]);
        curves.push(format!("$means{number} with lines linewidth 2 {look} notitle"));
        curves.push(format!("$cells{number} with points {point} {look} notitle"));
        // In the legend both appear together.
        curves
            .push(format!("NaN with linespoints linewidth 2 {point} {look} title '{}'", line.title.replace('\'', "’")));
    }
    let curves = curves.join(", \\\n  ");
    for (terminal, file) in [
        ("svg size 900,640 font 'sans-serif,12' background rgb 'white'", "figure4.svg"),
        ("pngcairo size 1350,960 font 'DejaVu Sans,12' fontscale 1.5 background rgb 'white'", "figure4.png"),
    ] {
        writeln!(text, "set terminal {terminal}\nset output '{file}'\nplot {curves}\nunset output").unwrap();
    }
    text
}

/// The mean of the cells that have the same number of VMs.
fn means(points: &[(u32, f64)]) -> Vec<(u32, f64)> {
    points
        .chunk_by(|a, b| a.0 == b.0)
        .map(|cells| (cells[0].0, cells.iter().map(|(_, seconds)| seconds).sum::<f64>() / cells.len() as f64))
        .collect()
}

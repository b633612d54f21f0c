//! The commands that the guides tell users to type, typed by a user.
//!
//! Lines for systems and programs that are not at hand are left out by name; `crates/cli/tests/docs` looks at those.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("every_srun_and_sbatch_of_the_user_guide_works_as_it_is_written", user_guide),
    ("every_srun_and_sbatch_of_the_answers_works_as_it_is_written", answers),
    ("the_ways_to_an_image_of_ones_own_work_as_they_are_written", own_images),
];

/// Words of lines that cannot be typed here, each with the reason.
const LEFT_OUT: [(&str, &str); 3] = [
    ("--pty", "it needs a terminal: tests/slurm/terminal.rs"),
    ("rocky9", "the system is not at hand"),
    ("docker ", "the program is not at hand"),
];

/// What is smaller on the test's machine than on a cluster, or has another name.
const HERE: [(&str, &str); 3] = [
    ("--vms-per-slot=16 --mem=6G", "--vms-per-slot=2 --mem=700"),
    ("/scratch/ada", "$PWD/scratch"),
    ("/sw:ro", "$PWD/sw:ro"),
];

/// The lines of code blocks that begin with one of these programs.
fn lines(document: &str, programs: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
    let typed = blocks.filter(|line| programs.iter().any(|program| line.starts_with(program)));
    let here = |line: &str| HERE.iter().fold(line.to_owned(), |line, (there, here)| line.replace(there, here));
    typed.filter(|line| !LEFT_OUT.iter().any(|(word, _)| line.contains(word))).map(here).collect()
}

/// Types the lines in a directory that has what they name.
fn type_all(cluster: &Cluster, lines: &[String], at_least: usize) {
    assert!(lines.len() >= at_least, "{lines:?}");
    let dir = cluster.work_dir();
    for (name, text) in [("job.sh", "#!/bin/sh\nhostname\n"), ("setup.sh", "#!/bin/sh\necho made >/etc/made\n")] {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::write(dir.join("sim"), "#!/bin/sh\ncat /etc/made\n").unwrap();
    for name in ["job.sh", "setup.sh", "sim"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["scratch", "sw"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let images = format!("image_dirs = ['{}/images', '{}/%u']\n", cluster.dir.display(), dir.display());
    let program = format!(
        "spank-vm() {{ '{}' --config '{}' \"$@\"; }}; ",
        cluster.program().display(),
        cluster.config_file().display()
    );
    cluster.with_config(&images, || {
        for line in lines {
            let ran = cluster.run_in(&dir, &["bash", "-c", &format!("{program}{line}")]);
            assert_eq!(ran.code, 0, "{line}: {ran:?}");
        }
    });
}

fn user_guide(cluster: &Cluster) {
    type_all(cluster, &lines("docs/user.md", &["srun ", "sbatch "]), 5);
}

fn answers(cluster: &Cluster) {
    type_all(cluster, &lines("docs/answers.md", &["srun ", "sbatch "]), 1);
}

fn own_images(cluster: &Cluster) {
    let typed =
        lines("docs/images.md", &["srun ", "spank-vm image list", "spank-vm image show", "spank-vm image build"]);
    type_all(cluster, &typed, 4);
}

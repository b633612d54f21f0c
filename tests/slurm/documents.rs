//! The commands that the guides tell users to type, typed by a user.
//!
//! Lines for systems and programs that are not at hand are left out by name: `gallery` types them with stand-ins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("what_readme_shows_works_and_looks_as_it_is_shown", first_page),
    ("every_srun_and_sbatch_of_the_guides_works_as_it_is_written", guides),
];

/// They make images.
pub const LONG_CASES: &[Case] = &[
    ("the_ways_to_an_image_of_ones_own_work_as_they_are_written", own_images),
    ("what_the_demo_suggests_at_its_end_works_as_it_is_written", demo),
];

/// Words of lines that cannot be typed here, each with the reason.
const LEFT_OUT: [(&str, &str); 5] = [
    ("--pty", "it needs a terminal: tests/slurm/terminal.rs"),
    ("rocky9", "a stand-in is made first: gallery.rs"),
    ("--vm-net", "what it reaches is made first: networks.rs, tests/network"),
    ("--mpi", "what it starts is made first: tests/slurm/mpi.rs"),
    ("debain12", "it is a mistake: see first_page"),
];

/// What is smaller on the test's machine than on a cluster, or has another name.
const HERE: [(&str, &str); 7] = [
    ("--vms-per-slot=16 --mem=6G", "--vms-per-slot=2 --mem=700"),
    ("-n8 --vm-image=debian12 --vms-per-slot=4 --mem=8G", "-n2 --vm-image=debian12 --vms-per-slot=2 --mem=1200"),
    ("-N2 -n8", "-N2 -n4 --mem=700"),
    ("/scratch/ada", "@DIR@/scratch"),
    ("/sw:ro", "@DIR@/sw:ro"),
    ("/data/run", "@DIR@/run"),
    ("/proj/x/", "@DIR@/"),
];

/// The lines of a document's code blocks, without the prompt.
pub fn code(document: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
    blocks.map(|line| line.strip_prefix("$ ").unwrap_or(line).to_owned()).collect()
}

/// Those that begin with one of these programs, and need nothing that is made first.
fn lines(document: &str, programs: &[&str]) -> Vec<String> {
    let mut typed = code(document);
    typed.retain(|line| programs.iter().any(|program| line.starts_with(program)));
    typed.retain(|line| !LEFT_OUT.iter().any(|(word, _)| line.contains(word)));
    let here = |line: String| HERE.iter().fold(line, |line, (there, here)| line.replace(there, here));
    typed.into_iter().map(here).collect()
}

/// Types the lines in `dir`, in a shell that has read `prelude`; images are the site's, and the user's in a part of `dir`.
pub fn type_in(cluster: &Cluster, dir: &Path, prelude: &str, config: &str, lines: &[String]) {
    let images = format!("image_dirs = ['{}/images', '{}/%u']\n{config}", cluster.dir.display(), dir.display());
    let (program, file) = (cluster.program(), cluster.config_file());
    let head = format!("spank-vm() {{ '{}' --config '{}' \"$@\"; }}; ", program.display(), file.display());
    cluster.with_config(&images, || {
        for line in lines {
            let ran = cluster.run_in(dir, &["bash", "-c", &format!("{head}{prelude}{line}")]);
            assert_eq!(ran.code, 0, "{line}: {ran:?}");
        }
    });
}

/// Types the lines in a directory that has what they name, with `sim` as the user's program.
fn type_all(cluster: &Cluster, lines: &[String], sim: &str, at_least: usize) {
    assert!(lines.len() >= at_least, "{lines:?}");
    let dir = cluster.work_dir();
    for (name, text) in [("job.sh", "#!/bin/sh\nhostname\n"), ("setup.sh", "#!/bin/sh\necho made >/etc/made\n")] {
        fs::write(dir.join(name), text).unwrap();
    }
    fs::write(dir.join("sim"), format!("#!/bin/sh\n{sim}\n")).unwrap();
    fs::write(dir.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    for name in ["job.sh", "setup.sh", "sim"] {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["scratch", "sw", "run: 1,2"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let here: Vec<String> = lines.iter().map(|line| line.replace("@DIR@", &dir.display().to_string())).collect();
    type_in(cluster, &dir, "", "", &here);
}

/// Also what a terminal shows there: the mistake, and that a VM has a name and a kernel of its own.
fn first_page(cluster: &Cluster) {
    type_all(cluster, &lines("README.md", &["srun ", "sbatch "]), "hostname", 5);
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, shown) = readme.split_once("$ srun --vm-image=debain12 true\n").expect("the mistake is shown");
    let said = cluster.srun(&["--vm-image=debain12", "true"]).stderr;
    assert_eq!(shown.lines().next().unwrap().trim(), said.trim());
}

fn guides(cluster: &Cluster) {
    let guides = ["docs/user.md", "docs/answers.md", "docs/files.md", "docs/parallel.md"];
    let typed: Vec<String> = guides.iter().flat_map(|guide| lines(guide, &["srun ", "sbatch "])).collect();
    type_all(cluster, &typed, "hostname", 7);
}

fn own_images(cluster: &Cluster) {
    let programs = ["srun ", "spank-vm image list", "spank-vm image show", "spank-vm image build"];
    type_all(cluster, &lines("docs/images.md", &programs), "cat /etc/made", 4);
}

/// The lines of the demo's last screen, which the demo's shell prints.
fn demo(cluster: &Cluster) {
    let script = fs::read_to_string(repository().join("testkit/cluster/demo")).unwrap();
    let (_, shown) = script.split_once("and there, for instance:\n").unwrap();
    let (shown, _) = shown.split_once("\nQuestions: ").unwrap();
    let memory = script.lines().find_map(|line| line.strip_prefix("JOB_MEMORY=")).unwrap();
    let (_, job) = script.split_once("jobs/where.sh\" <<'JOB'\n").unwrap();
    let dir = cluster.work_dir();
    fs::write(dir.join("where.sh"), job.split_once("\nJOB\n").unwrap().0).unwrap();
    fs::create_dir(dir.join(&cluster.user)).unwrap();
    fs::set_permissions(dir.join(&cluster.user), fs::Permissions::from_mode(0o777)).unwrap();
    let lines = shown.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("--pty"));
    let lines: Vec<String> = lines
        .map(|line| line.replace("$JOB_MEMORY", memory).replace("\\$", "$").replace("sbatch ", "sbatch -W "))
        .collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    type_in(cluster, &dir, "", "", &lines);
    let out =
        fs::read_dir(&dir).unwrap().flatten().find(|file| file.file_name().to_string_lossy().starts_with("slurm-"));
    let out = fs::read_to_string(out.unwrap().path()).unwrap();
    assert!(out.contains("Debian GNU/Linux 12") && out.contains(&format!("user {}", cluster.user)), "{out}");
}

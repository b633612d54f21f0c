//! The lines for foreign systems (docs/gallery.md, docs/full-boot.md and others), typed by a user.
//!
//! What a line would fetch from elsewhere is made here, of the same kind: an archive of a container, a disk of another
//! hypervisor, a system with its own kernel. The program that fetches is a function of the shell which puts it where the
//! line says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::place::{built, repository};
use testkit::{Cluster, system};

use crate::Case;
use crate::documents::{code, type_in};

pub const CASES: &[Case] = &[("the_lines_for_containers_work_as_they_are_written", containers)];

/// Many images, and some that boot their own system several times.
pub const LONG_CASES: &[Case] = &[
    ("the_lines_of_the_gallery_make_images_that_run", gallery),
    ("the_lines_for_a_cloud_image_work_as_they_are_written", cloud),
    ("the_lines_for_a_full_boot_work_as_they_are_written", full_boot),
];

/// Instead of the programs that fetch.
const FETCH: &str = r#"set -eo pipefail
docker() { [ "$1 $3" = "save -o" ] && cp made/docker.tar "$4"; }
podman() { [ "$1" = pull ] || docker "$@"; }
skopeo() { [ "$1" = copy ] && cp made/oci.tar "${3#oci-archive:}"; }
apptainer() { [ "$1" = pull ] && cp made/tools.sif "$2"; }
mmdebstrap() { cat made/root.tar; }
curl() { [ "$1" = -LO ] && cp made/disk.qcow2 "${2##*/}"; }
"#;

/// A full boot takes as long as it takes.
const PATIENT: &str = "full_boot_timeout_s = 600\n";

fn recipe(name: &str) -> Command {
    Command::new(repository().join("tests/images").join(name))
}

/// A directory of the user with a root in every kind of archive.
fn archives(cluster: &Cluster) -> PathBuf {
    let dir = cluster.work_dir();
    let made = dir.join("made");
    fs::create_dir_all(made.join("etc")).unwrap();
    fs::write(made.join("etc/redhat-release"), "CentOS release 6.10 (Final)\n").unwrap();
    let root = made.join("root.tar");
    let words = root.to_str().unwrap();
    fs::copy(built("rootfs").join("tiny.tar"), &root).unwrap();
    system(&["tar", "-C", made.to_str().unwrap(), "--owner=0", "--group=0", "-rf", words, "./etc/redhat-release"]);
    for (kind, name) in [("docker", "docker.tar"), ("oci", "oci.tar"), ("sif", "tools.sif")] {
        let file = fs::File::create(made.join(name)).unwrap();
        assert!(recipe("as-container").args([kind, words]).stdout(file).status().unwrap().success(), "{name}");
    }
    // The recipes for Debian need a network, and 'make images' runs them.
    let recipes = dir.join("tests/images");
    fs::create_dir_all(&recipes).unwrap();
    for name in ["debian11", "debian12", "debian13", "debian12-i386"] {
        fs::write(recipes.join(name), "#!/bin/sh\nexec cat made/root.tar\n").unwrap();
        fs::set_permissions(recipes.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// The disks of other hypervisors, with the same root.
fn disks(dir: &Path) {
    let root = dir.join("made/root.tar");
    for (format, name) in [("ova", "appliance.ova"), ("vmdk", "disk.vmdk")] {
        let made = recipe("as-disk").args(["ext4", format]).arg(&root).arg(dir.join(name)).status().unwrap();
        assert!(made.success(), "{name}");
    }
    let (from, to) = (dir.join("disk.vmdk"), dir.join("disk.vhdx"));
    system(&["qemu-img", "convert", "-O", "vhdx", from.to_str().unwrap(), to.to_str().unwrap()]);
    system(&["chmod", "644", to.to_str().unwrap()]);
}

fn gallery(cluster: &Cluster) {
    let dir = archives(cluster);
    disks(&dir);
    for name in ["centos7.tar", "centos6.tar"] {
        fs::copy(dir.join("made/docker.tar"), dir.join(name)).unwrap();
    }
    let lines: Vec<String> = code("docs/gallery.md").into_iter().filter(|line| !of_cloud(line)).collect();
    assert!(lines.len() >= 18, "{lines:?}");
    type_in(cluster, &dir, FETCH, "", &lines);
    // What `images` does not run.
    let run = |name: &str| format!("srun -Q --vm-image={name} grep CentOS /etc/redhat-release");
    type_in(cluster, &dir, FETCH, "", &["tools", "hyperv"].map(run));
}

/// Whether a line of the gallery is about the image that boots its own system.
fn of_cloud(line: &str) -> bool {
    line.contains("debian12-cloud") || line.contains("cloud.debian.org")
}

fn containers(cluster: &Cluster) {
    for (document, expected) in [("docs/images.md", 3), ("docs/answers.md", 3)] {
        let lines: Vec<String> = code(document).into_iter().filter(|line| line.contains("rocky9")).collect();
        assert_eq!(lines.len(), expected, "{document}: {lines:?}");
        type_in(cluster, &archives(cluster), FETCH, "", &lines);
    }
}

/// A directory of the user with a system that boots by itself, at this path.
fn system_at(cluster: &Cluster, path: &str) -> PathBuf {
    let dir = cluster.work_dir();
    let (from, to) = (built("disks").join("debian12-disk.raw"), dir.join(path));
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    system(&["qemu-img", "convert", "-O", "qcow2", from.to_str().unwrap(), to.to_str().unwrap()]);
    system(&["chmod", "644", to.to_str().unwrap()]);
    dir
}

fn cloud(cluster: &Cluster) {
    let lines: Vec<String> = code("docs/gallery.md").into_iter().filter(|line| of_cloud(line)).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    type_in(cluster, &system_at(cluster, "made/disk.qcow2"), FETCH, PATIENT, &lines);
}

fn full_boot(cluster: &Cluster) {
    let lines: Vec<String> = code("docs/full-boot.md");
    assert_eq!(lines.len(), 4, "{lines:?}");
    type_in(cluster, &system_at(cluster, "debian12.qcow2"), "", PATIENT, &lines);
}

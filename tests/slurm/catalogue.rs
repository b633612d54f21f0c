//! Images of the site, of users, and by path; who may use them; files that are no disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::undo::with_text;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_disk_is_named_by_its_path_from_srun_sbatch_and_salloc", by_path),
    ("a_site_without_user_images_refuses_paths_and_users_directories", no_user_images),
    ("a_user_s_directory_adds_images_and_never_replaces_those_of_the_site", of_user),
    ("a_directory_that_a_user_may_not_enter_hides_no_others", closed_directory),
    ("an_image_for_others_is_refused_at_submission", for_others),
    ("an_image_for_other_partitions_or_accounts_is_refused_whatever_the_environment_says", for_other_jobs),
    ("a_disk_that_no_vm_can_start_from_is_refused_at_submission", bad_disks),
    ("images_are_listed_shown_verified_and_removed", tools),
];

fn tiny_disk(cluster: &Cluster) -> PathBuf {
    let entry: toml::Table = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap().parse().unwrap();
    cluster.dir.join("images").join(entry["disk"].as_str().unwrap())
}

fn run(words: &[&str]) {
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn by_path(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::create_dir(dir.join("sub dir")).unwrap();
    run(&["chown", &cluster.user, text(&dir.join("sub dir"))]);
    let disk = dir.join("my, own.qcow2");
    run(&["qemu-img", "convert", "-O", "qcow2", text(&tiny_disk(cluster)), text(&disk)]);
    let id = ["grep", "^ID=", "/etc/os-release"];
    let srun = [&["srun", "--vm-image=./my, own.qcow2"], &id[..]].concat();
    assert_eq!(cluster.run_in(&dir, &srun).ok(), "ID=tiny\n");
    // The job runs in another directory; the path is relative to this one.
    let script = "#!/bin/sh\n#SBATCH --vm-image=../my,\\ own.qcow2\npwd; grep ^ID= /etc/os-release\n";
    fs::write(dir.join("sub dir/job.sh"), script.replace("\\ ", "' '")).unwrap();
    let out = format!("--output={}/out", dir.display());
    let sbatch = ["sbatch", "--wait", "--chdir=/tmp", "--export=NONE", &out, "job.sh"];
    cluster.run_in(&dir.join("sub dir"), &sbatch).ok();
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "/tmp\nID=tiny\n");
    let inner = "cd /; srun grep ^ID= /etc/os-release; srun --vm-image=none true";
    let salloc = ["salloc", "-Q", "--vm-image=./my, own.qcow2", "sh", "-c", inner];
    assert_eq!(cluster.run_in(&dir, &salloc).ok(), "ID=tiny\n");
    let default = [&["env", "SPANK_VM_IMAGE=./my, own.qcow2", "srun"], &id[..]].concat();
    assert_eq!(cluster.run_in(&dir, &default).ok(), "ID=tiny\n");
    // An entry beside it says more.
    fs::write(dir.join("mine.toml"), "disk = 'my, own.qcow2'\nformat = 'qcow2'\narch = 'vax'\n").unwrap();
    cluster.run_in(&dir, &["srun", "--vm-image=./mine.toml", "true"]).fails_with_one_line(&["'mine'", "vax"]);
    // A file that the user may not read is not read.
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o600)).unwrap();
    run(&["chown", "root", text(&disk)]);
    cluster.run_in(&dir, &srun).fails_with_one_line(&["my, own.qcow2", "Permission denied"]);
}

fn no_user_images(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(tiny_disk(cluster), dir.join("disk")).unwrap();
    fs::write(dir.join("mine.toml"), "disk = 'disk'\nformat = 'squashfs'\n").unwrap();
    let dirs = format!("['{}/images', '{}/../{}']", cluster.dir.display(), dir.display(), "work%u");
    cluster.with_config(&format!("user_images = false\nimage_dirs = {dirs}\n"), || {
        for path in ["./disk", "./mine.toml"] {
            let option = format!("--vm-image={path}");
            cluster.run_in(&dir, &["srun", &option, "true"]).fails_with_one_line(&["user_images", "--vm-image=list"]);
        }
        // A client that does not check, as on a host without spank-vm: then the node checks.
        let request = format!("vm-image={}/disk config={}/spank-vm.toml", dir.display(), cluster.dir.display());
        let step = cluster.dir.join("stage/libexec/spank-vm-step");
        let forged = ["env", &format!("SPANK_VM_REQUEST={request}"), text(&step), "true"];
        let refused = cluster.run_in(&dir, &forged);
        assert!(refused.code == 125 && refused.stderr.contains("user_images"), "{refused:?}");
        let listed = cluster.run(&["srun", "--vm-image=list"]).ok();
        assert!(!listed.contains("./my.qcow2"), "{listed}");
    });
}

fn of_user(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let mine = dir.join(&cluster.user);
    fs::create_dir(&mine).unwrap();
    for name in ["tiny", "mine"] {
        fs::copy(tiny_disk(cluster), mine.join("disk")).unwrap();
        let entry = "disk = 'disk'\nformat = 'squashfs'\ndescription = 'of the user'\n";
        fs::write(mine.join(format!("{name}.toml")), entry).unwrap();
    }
    let dirs = format!("['{}/images', '{}/%u', '{}/of-%g']", cluster.dir.display(), dir.display(), dir.display());
    cluster.with_config(&format!("image_dirs = {dirs}\n"), || {
        let listed = cluster.run(&["srun", "--vm-image=list"]).ok();
        let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(line("tiny ").contains(" site ") && !line("tiny ").contains("of the user"), "{listed}");
        assert!(line("mine ").contains(" user ") && line("mine ").contains(" yes "), "{listed}");
        assert_eq!(cluster.srun(&["--vm-image=mine", "echo", "fine"]).ok(), "fine\n");
        let mut others = cluster.command_as("nobody", Path::new("/"), &["srun", "--vm-image=mine", "true"]);
        ran(others.output().unwrap()).fails_with_one_line(&["no image 'mine'"]);
    });
}

fn closed_directory(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::create_dir(dir.join("closed")).unwrap();
    fs::write(dir.join("closed/secret.toml"), "disk = 'd'\nformat = 'squashfs'\n").unwrap();
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let dirs = format!("['{}/closed', '{}/images']", dir.display(), cluster.dir.display());
    cluster.with_config(&format!("image_dirs = {dirs}\n"), || {
        assert_eq!(cluster.srun(&["--vm-image=tiny", "echo", "fine"]).ok(), "fine\n");
        let listed = cluster.run(&["srun", "--vm-image=list"]);
        assert!(listed.stdout.contains("\ntiny ") && !listed.stdout.contains("secret"), "{listed:?}");
        assert!(listed.stderr.contains("closed are not shown: Permission denied"), "{listed:?}");
        cluster.srun(&["--vm-image=secret", "true"]).fails_with_one_line(&[
            "no image 'secret'",
            "cannot look into",
            "closed",
        ]);
    });
}

/// Runs `work` with a second entry beside the tiny one: image "ruled", which has this rule.
fn with_rule(cluster: &Cluster, rule: &str, work: impl FnOnce()) {
    let tiny = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let entry = cluster.dir.join("images/ruled.toml");
    let _entry = with_text(&entry, &format!("{tiny}\n[allow]\n{rule}\n"));
    work();
}

fn for_others(cluster: &Cluster) {
    with_rule(cluster, "users = ['ada']\ngroups = ['physics']", || {
        let refusal = ["'ruled'", "for the users ada and the groups physics only"];
        cluster.srun(&["--vm-image=ruled", "true"]).fails_with_one_line(&refusal);
        cluster.run(&["sbatch", "--vm-image=ruled", "--wrap", "true"]).fails_with_one_line(&refusal);
        let listed = cluster.run(&["srun", "--vm-image=list"]).ok();
        let line = listed.lines().find(|line| line.starts_with("ruled ")).unwrap_or_default();
        assert!(line.contains(" no ") && line.contains("for the users ada"), "{listed}");
    });
    with_rule(cluster, &format!("users = ['{}']", cluster.user), || {
        assert_eq!(cluster.srun(&["--vm-image=ruled", "echo", "fine"]).ok(), "fine\n");
    });
}

fn for_other_jobs(cluster: &Cluster) {
    let partition = cluster.run(&["sinfo", "-h", "-o", "%R"]).ok().trim().to_owned();
    with_rule(cluster, "partitions = ['other']", || {
        let refusal = ["'ruled'", "the partition other only", &format!("'{partition}'")];
        cluster.srun(&["--vm-image=ruled", "true"]).fails_with_one_line(&refusal);
        // Neither srun's own variables nor another job's number help to get around it.
        let forge =
            "export SLURM_JOB_PARTITION=other SLURM_JOB_ACCOUNT=other SLURM_CONF_X=1; exec srun --vm-image=ruled true";
        cluster.run(&["sh", "-c", forge]).fails_with_one_line(&refusal);
        let dir = cluster.work_dir();
        let script = "#!/bin/sh\n#SBATCH --vm-image=ruled --job-name='x other (null)'\necho ran\n";
        fs::write(dir.join("job.sh"), script).unwrap();
        let ran = cluster.run_in(&dir, &["sbatch", "--wait", "--array=1-2", "-o", "out-%a", "job.sh"]);
        assert_ne!(ran.code, 0);
        let out = fs::read_to_string(dir.join("out-1")).unwrap();
        assert!(out.contains("the partition other only") && !out.contains("ran"), "{out}");
    });
    with_rule(cluster, &format!("partitions = ['other', '{partition}']"), || {
        assert_eq!(cluster.srun(&["--vm-image=ruled", "echo", "fine"]).ok(), "fine\n");
        let outside = cluster.tool(&cluster.user, &["run", "--image", "ruled", "--", "true"]);
        assert!(outside.code == 125 && outside.stderr.contains("a job without one"), "{outside:?}");
    });
    with_rule(cluster, "accounts = ['p1']", || {
        let forge = "SLURM_JOB_ACCOUNT=p1 srun --vm-image=ruled true";
        cluster.run(&["sh", "-c", forge]).fails_with_one_line(&["'ruled'", "the account p1 only", "--account"]);
    });
}

fn bad_disks(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let tiny = fs::read(tiny_disk(cluster)).unwrap();
    let mut luks = vec![0; 1 << 20];
    luks[..6].copy_from_slice(b"LUKS\xba\xbe");
    for (name, bytes) in [("cut", &tiny[..tiny.len() / 2]), ("luks", &luks), ("empty", b""), ("text", b"hello")] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    let base = dir.join("base.qcow2");
    run(&["qemu-img", "convert", "-O", "qcow2", text(&tiny_disk(cluster)), text(&base)]);
    let layer = dir.join("layer");
    run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&layer)]);
    run(&["tar", "-cf", text(&dir.join("archive")), "-C", text(&dir), "text"]);
    for (name, words) in [
        ("cut", ["truncated", "bytes are missing"]),
        ("luks", ["encrypted", "LUKS"]),
        ("empty", ["holds nothing", "squashfs"]),
        ("text", ["nothing that is known", "squashfs"]),
        ("layer", ["layer over another file", "qemu-img convert"]),
        ("archive", ["a tar archive", "spank-vm image import"]),
        ("gone", ["gone", "No such file"]),
    ] {
        let option = format!("--vm-image=./{name}");
        cluster.run_in(&dir, &["srun", &option, "true"]).fails_with_one_line(&words);
    }
    // An entry that does not fit its disk.
    let text = format!("disk = '{}'\nformat = 'qcow2'\n", tiny_disk(cluster).display());
    let entry = cluster.dir.join("images/lying.toml");
    let _entry = with_text(&entry, &text);
    let refusal = ["'lying'", "holds a squashfs file system", "format = 'qcow2'"];
    cluster.srun(&["--vm-image=lying", "true"]).fails_with_one_line(&refusal);
}

fn tools(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let mine = dir.join(&cluster.user);
    fs::create_dir(&mine).unwrap();
    run(&["chown", &cluster.user, text(&mine)]);
    fs::write(dir.join("disk"), fs::read(tiny_disk(cluster)).unwrap()).unwrap();
    let dirs = format!("['{}/images', '{}/%u']", cluster.dir.display(), dir.display());
    cluster.with_config(&format!("image_dirs = {dirs}\n"), || {
        let own = |words: &[&str]| cluster.tool(&cluster.user, words);
        let shown = own(&["image", "show", "tiny"]).ok();
        for word in
            ["from = \"site\"", "content = \"a squashfs file system\"", "on_this_node = \"read in place:", "sha256 ="]
        {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(own(&["image", "verify", "tiny"]).ok().starts_with("tiny: ok, "));
        let refused = own(&["image", "remove", "tiny"]);
        assert!(refused.code == 1 && refused.stderr.contains("belongs to root"), "{refused:?}");
        assert!(tiny_disk(cluster).exists());

        // Two entries of one disk: the disk is removed with the second.
        fs::copy(dir.join("disk"), mine.join("disk")).unwrap();
        for name in ["a", "b"] {
            fs::write(mine.join(format!("{name}.toml")), "disk = 'disk'\nformat = 'squashfs'\n").unwrap();
        }
        let verified = own(&["image", "verify", "a"]).ok();
        assert!(verified.contains("adds it: sha256 = \""), "{verified}");
        own(&["image", "remove", "a"]).ok();
        assert!(mine.join("disk").exists());
        own(&["image", "remove", "b"]).ok();
        assert_eq!(fs::read_dir(&mine).unwrap().count(), 0);
        let gone = own(&["image", "show", "b"]);
        assert!(gone.code == 1 && gone.stderr.contains("no image 'b'"), "{gone:?}");
        let report = cluster.tool("root", &["check"]).ok();
        assert!(report.contains("copies    ok") && report.contains("images (site)"), "{report}");
    });
}

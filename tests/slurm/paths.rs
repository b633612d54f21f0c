//! Which directories of the host a step sees, where, and under which names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Cluster, Ran, ran, system};

use crate::Case;

pub const CASES: &[Case] = &[
    ("sixty_mounts_with_long_paths_are_all_there", long_paths),
    ("a_home_below_var_and_one_behind_a_link_are_the_user_s_own", homes),
    ("a_home_that_is_missing_or_closed_is_told_in_one_line_and_none_is_invented", no_home),
    ("a_working_directory_that_cannot_be_there_is_an_error_before_the_command", hidden_work),
    ("mounts_have_names_with_any_character_and_may_be_single_files", names_and_files),
    ("a_mount_over_the_home_wins_and_one_within_a_share_leaves_nothing_on_the_host", over_and_within),
    ("mounts_that_cannot_be_are_refused_in_one_line_each", refused),
    ("an_image_whose_directories_are_links_or_closed_shows_shares_and_is_saved_as_it_was", odd_images),
];

/// An account that exists as long as this value.
struct Account {
    name: String,
}

impl Account {
    fn with_home(home: &Path) -> Self {
        let name = format!("vmpaths{}", std::process::id());
        system(&["useradd", "-M", "-d", home.to_str().unwrap(), "-s", "/bin/sh", &name]);
        Self { name }
    }

    fn moves_to(&self, home: &Path) {
        system(&["usermod", "-d", home.to_str().unwrap(), &self.name]);
    }

    fn own(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        system(&["chown", &self.name, dir.to_str().unwrap()]);
    }

    /// Runs `script` in a VM, from `cwd`.
    fn step(&self, cluster: &Cluster, cwd: &Path, options: &[&str], script: &str) -> Ran {
        // A shell enters the directory by this name, as a login would.
        let enter = ["bash", "-c", "cd \"$0\" && exec srun --vm-image=tiny \"$@\"", cwd.to_str().unwrap()];
        let argv = [&enter[..], options, &["sh", "-c", script]].concat();
        ran(cluster.command_as(&self.name, Path::new("/"), &argv).env_remove("HOME").output().unwrap())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg(&self.name).output();
    }
}

/// A directory outside of the cluster's that is removed with this value.
fn dir_in(parent: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("spank-vm-paths").tempdir_in(parent).unwrap();
    system(&["chmod", "755", dir.path().to_str().unwrap()]);
    dir
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn homes(cluster: &Cluster) {
    let var = dir_in("/var/lib");
    let home = var.path().join("ci");
    let account = Account::with_home(&home);
    account.own(&home);
    let work = cluster.work_dir();
    account.own(&work);
    let write = "eval cd ~$(id -un) && pwd && pwd -P && echo result > file";
    let stdout = account.step(cluster, &work, &[], write).ok();
    assert_eq!(stdout, format!("{0}\n{0}\n", home.display()));
    assert_eq!(read(home.join("file")), "result\n");

    // Now the account's home is a link to it, and the working directory has a name with a link in it too.
    let link = var.path().join("name");
    symlink("ci", &link).unwrap();
    account.moves_to(&link);
    account.own(&home.join("project"));
    let script = format!("pwd; pwd -P; echo here > here; {write}2");
    let stdout = account.step(cluster, &link.join("project"), &[], &script).ok();
    let (link, home) = (link.display(), home.display());
    assert_eq!(stdout, format!("{link}/project\n{home}/project\n{link}\n{home}\n"));
    assert_eq!(read(PathBuf::from(format!("{home}/file2"))), "result\n");
    assert_eq!(read(PathBuf::from(format!("{home}/project/here"))), "here\n");
}

fn no_home(cluster: &Cluster) {
    let place = dir_in("/var/lib");
    let home = place.path().join("gone");
    let account = Account::with_home(&home);
    let work = cluster.work_dir();
    account.own(&work);
    let told = |why: &str| {
        let said = account.step(cluster, &work, &["-n2", "-N1"], "eval ls -d ~$(id -un) 2> /dev/null || echo none");
        let lines: Vec<&str> = said.stderr.lines().filter(|line| line.contains("your home")).collect();
        assert_eq!(lines.len(), 1, "{}", said.stderr);
        assert!(lines[0].contains(home.to_str().unwrap()) && lines[0].contains(why), "{}", lines[0]);
        assert_eq!(said.ok(), "none\nnone\n");
    };
    told("No such file or directory");
    fs::create_dir(&home).unwrap();
    system(&["chmod", "700", home.to_str().unwrap()]);
    told("may not");
    cluster.with_config("share_home = false\n", || {
        // The site does not want to share it: then the VM has one of its own.
        let said = account.step(cluster, &work, &[], "eval cd ~$(id -un) && : > file && ls");
        assert_eq!((said.stderr.contains("your home"), said.ok().as_str()), (false, "file\n"));
    });
}

fn hidden_work(cluster: &Cluster) {
    let work = cluster.work_dir();
    fs::create_dir(work.join("sub")).unwrap();
    fs::create_dir(work.join("other")).unwrap();
    let (top, other) = (work.display(), work.join("other"));
    let mount = format!("--vm-mount={}:{top}", other.display());
    let here = work.join("sub");
    let step = || cluster.run_in(&here, &["srun", "--vm-image=tiny", &mount, "sh", "-c", "pwd; : > file"]);
    step().fails_with_one_line(&["working directory", "sub", "mkdir -p"]);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "nothing was made on the host");
    fs::create_dir(other.join("sub")).unwrap();
    system(&["chown", &cluster.user, here.to_str().unwrap()]);
    assert_eq!(step().ok(), format!("{}\n", here.display()));
    assert!(here.join("file").exists());
}

fn names_and_files(cluster: &Cluster) {
    let work = cluster.work_dir();
    let odd = work.join(r#"a,b:c d\e"#);
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("f"), "odd\n").unwrap();
    for (name, text) in [("one.conf", "one\n"), ("two.conf", "two\n")] {
        fs::write(work.join(name), text).unwrap();
        system(&["chown", &cluster.user, work.join(name).to_str().unwrap()]);
    }
    let top = work.display();
    let mount = format!(
        r"--vm-mount={top}/a\,b\:c d\e:/mnt/x\:y\, z,{top}/one.conf:/etc/deep/one.conf:ro,{top}/two.conf:/etc/hostname"
    );
    let script = "cat '/mnt/x:y, z/f' /etc/deep/one.conf /etc/hostname; echo 2 > /etc/hostname; \
                  sh -c 'echo 1 > /etc/deep/one.conf' 2>&1 | grep -o 'Read-only file system'; ls /etc/deep";
    let argv = ["srun", "--vm-image=tiny", &mount, "sh", "-c", script];
    let stdout = cluster.run_in(&cluster.work_dir(), &argv).ok();
    assert_eq!(stdout, "odd\none\ntwo\nRead-only file system\none.conf\n");
    assert_eq!((read(work.join("one.conf")), read(work.join("two.conf"))), ("one\n".into(), "2\n".into()));
    // The VM's own name was written to its own file and not to the host's.
    assert_eq!(fs::read_dir(&work).unwrap().count(), 3);
}

fn over_and_within(cluster: &Cluster) {
    let work = cluster.work_dir();
    fs::create_dir(work.join("fake")).unwrap();
    fs::write(work.join("fake/in-fake"), "").unwrap();
    fs::create_dir(work.join("there")).unwrap();
    let top = work.display();
    let script = "eval cd ~$(id -un) && ls; cd - > /dev/null; ls there";
    // In a shell: the home is what the account's entry says.
    let mount = format!("--vm-mount=$PWD/fake:$(getent passwd $(id -u) | cut -d: -f6),{top}/fake:{top}/there:ro");
    let line = format!("srun --vm-image=tiny \"{mount}\" sh -c '{script}'");
    assert_eq!(cluster.run_in(&work, &["bash", "-c", &line]).ok(), "in-fake\nin-fake\n");
    let missing = format!("--vm-mount={top}/fake:{top}/new/place");
    let ran = cluster.run_in(&work, &["srun", "--vm-image=tiny", &missing, "true"]);
    ran.fails_with_one_line(&["--vm-mount=", "nothing is made on the host", "mkdir -p", "new/place"]);
    assert!(!work.join("new").exists() && fs::read_dir(work.join("there")).unwrap().count() == 0);
}

fn refused(cluster: &Cluster) {
    let refused = |mount: &str, words: &[&str]| {
        cluster.srun(&["--vm-image=tiny", &format!("--vm-mount={mount}"), "true"]).fails_with_one_line(words);
    };
    for place in ["/proc", "/sys/fs", "/dev", "/bin", "/lib", "/usr", "/etc", "/run", "/"] {
        refused(&format!("/tmp:{place}"), &["--vm-mount", place, "guest's"]);
    }
    refused("/tmp:/mnt/../usr", &["--vm-mount", ".."]);
    refused("/root:/mnt", &["--vm-mount", "may not read /root"]);
    refused("/dev/null:/mnt", &["--vm-mount", "/dev/null", "neither a directory nor a file"]);
    let many: Vec<String> = (0..65).map(|number| format!("/tmp:/mnt/{number}")).collect();
    refused(&many.join(","), &["--vm-mount", "65", "64"]);
}

/// Directories that are links or closed, as in images made for other purposes.
const ODD: &str = "rm -rf home tmp root srv && ln -s data/homes home && ln -s /var/volatile/tmp tmp && \
                   ln -s /data/root root && ln -s nowhere/at/all srv && mkdir -p mnt && chmod 0700 mnt . && \
                   mkdir -p closed && chmod 0700 closed";

fn odd_images(cluster: &Cluster) {
    let (place, work) = (cluster.work_dir(), cluster.work_dir());
    let top = place.display();
    fs::copy(testkit::place::output("rootfs").join("tiny.tar"), place.join("tiny.tar")).unwrap();
    let make = format!("mkdir r images && tar -xf tiny.tar -C r && cd r && {ODD} && tar -cf ../odd.tar .");
    cluster.run_in(&place, &["bash", "-c", &make]).ok();
    let import = ["image", "import", &format!("{top}/odd.tar"), "--name", "odd", "--dir", &format!("{top}/images")]
        .map(String::from);
    cluster.tool(&cluster.user, &import.each_ref().map(String::as_str)).ok();
    fs::write(work.join("f"), "data\n").unwrap();
    let here = work.display();
    let mount = format!("--vm-mount={here}:/srv/data,{here}:/root/data,{here}:/mnt/d,{here}:/closed/d,{here}/f:/srv/f");
    let image = format!("--vm-image={top}/images/odd.toml");
    let script =
        "cat /srv/data/f /root/data/f /mnt/d/f /closed/d/f /srv/f; : > /tmp/x && eval cd ~$(id -un) && echo home";
    let stdout = cluster.run_in(&work, &["srun", &image, &mount, "sh", "-c", script]).ok();
    assert_eq!(stdout, "data\ndata\ndata\ndata\ndata\nhome\n");

    let save = format!("--vm-save={top}/saved");
    cluster.run_in(&work, &["srun", &image, &mount, &save, "true"]).ok();
    let listing = |dir: &Path, name: &str| {
        let entry: toml::Table = read(dir.join(name)).parse().unwrap();
        let disk = dir.join(entry["disk"].as_str().unwrap());
        let listed = Command::new("unsquashfs").arg("-lln").arg(&disk).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines = text.lines().filter(|line| {
            ["/home", "/root", "/srv", "/mnt", "/closed", "/tmp", "/nowhere", "/data"]
                .iter()
                .any(|name| line.contains(&format!("squashfs-root{name}")))
        });
        // Mode and name.
        lines
            .map(|line| (line[..10].to_owned(), line[line.find("squashfs-root").unwrap()..].to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(listing(&place, "saved.toml"), listing(&place.join("images"), "odd.toml"));
}

/// All paths together are more than a socket holds.
fn long_paths(cluster: &Cluster) {
    let deep = (0..14).fold(cluster.work_dir(), |dir, _| dir.join("d".repeat(250)));
    let mut words = vec![cluster.program().display().to_string(), "--config".into()];
    words.extend([cluster.config_file().display().to_string(), "run".into(), "--image=tiny".into()]);
    for number in 0..60 {
        let dir = deep.join(number.to_string());
        fs::create_dir_all(&dir).unwrap();
        words.push(format!("--mount={}:/mnt/{number}", dir.display()));
    }
    words.extend(["--", "sh", "-c", "ls /mnt | wc -l"].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = cluster.command_as(&cluster.user, Path::new("/"), &words).output().unwrap();
    assert_eq!(ran(output).ok(), "60\n");
}

//! The directories of tasks and users: who owns them, and what root does with what a user left there.

use super::stand_in::{INIT, Node, Slurm, after};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

/// The job's user if root runs the tests; anybody else can only use their own account.
fn user_of_job(node: &Node) -> u32 {
    let me = fs::metadata(node.root.path()).unwrap().uid();
    if me == 0 { 65534 } else { me }
}

#[test]
fn what_the_node_notes_of_a_task_is_root_s_and_is_swept_without_following_links() {
    let node = Node::new();
    let me = fs::metadata(node.root.path()).unwrap().uid();
    let user = user_of_job(&node);
    let script = after(INIT, &format!("option vm-image debian12\nset uid {user}\nset tasks 2\ntask\n"));
    node.play(Slurm::Old, "stepd", &script);
    let dir = node.path("state/7.0.0");
    for (path, mode) in [(dir.clone(), 0o755), (dir.join("status.toml"), 0o644)] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (me, mode));
    }
    let status = fs::read_to_string(dir.join("status.toml")).unwrap();
    assert!(status.starts_with(&format!("image = \"debian12\"\nvms = 1\nuid = {user}\nrunner = \"")), "{status}");

    let precious = node.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "").unwrap();
    symlink(&precious, dir.join("link")).unwrap();
    symlink(&precious, node.path("state/7.0.1")).unwrap();
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    let sweep = after(INIT, "option vm-image debian12\nset tasks 2\nhook task_exit\nhook exit\nhook exit\nunload\n");
    let answer = node.play(Slurm::Old, "stepd", &sweep);
    assert!(answer.ends_with("task_exit = 0\nexit = 0\nexit = 0\nalive\n"), "{answer}");
    assert_eq!(fs::read_dir(node.path("state")).unwrap().count(), 0);
    assert!(precious.join("file").exists());
}

/// Between two jobs the user tries everything possible with their own directory.
#[test]
fn root_follows_nothing_that_a_user_puts_into_the_place_of_his_own_files() {
    let node = Node::new();
    fs::set_permissions(node.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = user_of_job(&node);
    let job = after(
        INIT,
        &format!("option vm-image debian12\nset uid {user}\nset gid {user}\ntask\nhook task_exit\nhook exit\n"),
    );
    if fs::metadata(node.root.path()).unwrap().uid() != 0 {
        // Only root can make a directory for another user.
        return assert!(node.play(Slurm::New, "stepd", &job).ends_with("alive\n"));
    }
    node.play(Slurm::New, "stepd", &job);
    let (own, precious) = (node.path(&format!("templates/users/{user}")), node.path("precious"));
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    let before = fs::metadata(&precious).unwrap();
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let tricks = format!(
        "mkfifo ram .x.1; ln -s {0} site; ln -s {0}/file x.lock; ln {0}/file hard; mkdir -p deep/er; ln -s / deep/er/root; \
         cd ..; mv {user} other; rmdir {user}; ln -s {0} {user}; rm -rf ../users; touch ../../state/mine ../mine mine; true",
        precious.display()
    );
    let mut shell = Command::new("setpriv");
    shell.args(ids).args(["sh", "-c", &tricks]).current_dir(&own).stderr(Stdio::null());
    assert!(shell.status().unwrap().success());
    let answer = node.play(Slurm::New, "stepd", &job);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step") && answer.ends_with("alive\n"), "{answer}");
    let meta = fs::symlink_metadata(&own).unwrap();
    assert!(meta.is_dir() && meta.uid() == user && !own.with_file_name("mine").exists());
    assert!(!node.path("state/mine").exists() && !node.path("templates/mine").exists());
    let now = fs::metadata(&precious).unwrap();
    assert_eq!((now.uid(), now.mode(), now.nlink()), (before.uid(), before.mode(), before.nlink()));
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
}

#[test]
fn the_umask_of_the_first_job_decides_nothing_and_no_directory_need_be_there() {
    let node = Node::new();
    let start = INIT.replace("LIBEXEC/templates", "LIBEXEC/var/cache/spank-vm/templates");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
    let output = node.run_by(shell, Slurm::New, "stepd", &after(&start, "option vm-image debian12\ntask\n"), &[]);
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.contains("execve") && !answer.contains("no template"), "{answer}");
    let users = node.path("var/cache/spank-vm/templates/users");
    for dir in users.ancestors().take_while(|dir| *dir != node.root.path()) {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o755, "{}", dir.display());
    }
    let uid = fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(fs::metadata(users.join(uid.to_string())).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_cache_that_no_user_gets_to_is_told_in_slurmd_s_log_and_the_step_starts() {
    let node = Node::new();
    fs::create_dir(node.path("templates")).unwrap();
    fs::set_permissions(node.path("templates"), fs::Permissions::from_mode(0o700)).unwrap();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    let told = answer.lines().find(|line| line.starts_with("info: vm: every VM of user ")).unwrap_or_default();
    assert!(
        told.ends_with("LIBEXEC/templates is closed to users (mode 700): 'chmod 755 LIBEXEC/templates' opens it"),
        "{answer}"
    );
    assert!(answer.contains("execve"), "{answer}");
}

use super::*;
use crate::process::Process;
use crate::shelf::{ImageCopy, TemplateDir, of_this_boot};
use crate::status::Status;
use std::fs::FileTimes;
use std::os::unix::fs::{PermissionsExt, symlink};

fn plenty() -> Bounds {
    Bounds::new(Duration::from_secs(60), 100_000)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A task's directory as slurmstepd left it, for a process that runs or does not.
fn task(parent: &Path, name: &str, alive: bool) -> PathBuf {
    let this = Process::this().unwrap().to_string();
    let runner = if alive { this } else { this.replacen('-', "0-", 1) }.parse().unwrap();
    let status = Status { image: "tiny".into(), vms: 1, uid: 1, runner };
    let dir = parent.join(name);
    task_dir::create(&dir, &status.to_string()).unwrap();
    dir
}

/// A cache directory with the shelf of user 1000.
fn cache_with_shelf() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let shelf = layout::user_shelf(root.path(), 1000);
    fs::create_dir_all(&shelf).unwrap();
    (root, shelf)
}

fn set_used(path: &Path, days_ago: u64) {
    let then = SystemTime::now() - Duration::from_secs(days_ago * 24 * 3600);
    let times = FileTimes::new().set_accessed(then).set_modified(then);
    File::open(path).unwrap().set_times(times).unwrap();
}

/// A copy of this many KiB, last used this long ago.
fn copy(cache: &Path, uid: u32, name: &str, kib: usize, days_ago: u64) -> PathBuf {
    let shelf = layout::user_shelf(cache, uid);
    fs::create_dir_all(&shelf).unwrap();
    let path = shelf.join(name);
    fs::write(&path, vec![7; kib << 10]).unwrap();
    set_used(&path, days_ago);
    path
}

#[test]
fn an_epilog_takes_what_its_job_left_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    for (name, alive) in [("7.0.0", false), ("7.batch.0", false), ("7.1.0", true), ("8.0.0", false), ("77.0.0", false)]
    {
        task(root.path(), name, alive);
    }
    fs::write(root.path().join("kvm.verdict"), "").unwrap();
    assert_eq!(tasks(root.path(), Some(7), &mut plenty()).removed, 2);
    assert_eq!(names(root.path()), ["7.1.0", "77.0.0", "8.0.0", "kvm.verdict"]);
    assert_eq!(tasks(root.path(), Some(7), &mut plenty()).removed, 0);
}

#[test]
fn the_start_of_slurmd_takes_all_that_no_process_uses() {
    let root = tempfile::tempdir().unwrap();
    task(root.path(), "7.0.0", true);
    task(root.path(), "8.0.0", false);
    fs::write(root.path().join("kvm.verdict"), "").unwrap();
    fs::create_dir(root.path().join("of-the-site")).unwrap();
    assert_eq!(tasks(root.path(), None, &mut plenty()).removed, 1);
    assert_eq!(names(root.path()), ["7.0.0", "kvm.verdict", "of-the-site"]);
    assert!(tasks(root.path(), None, &mut Bounds::new(Duration::ZERO, 100)).is_unfinished);
}

#[test]
fn a_directory_that_others_can_write_to_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    task(&state, "8.0.0", false);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(tasks(&state, None, &mut plenty()).error.is_some());
    assert_eq!(names(&state), ["8.0.0"]);
    assert!(cache::<TemplateDir>(&state, Which::All, &mut plenty()).error.is_some());
    let nothing = tasks(&root.path().join("none"), None, &mut plenty());
    assert!(nothing.error.is_none() && nothing.removed == 0, "that there is none is fine");
}

#[test]
fn drafts_that_nobody_works_on_go_with_their_locks_and_what_is_in_use_stays() {
    let (root, shelf) = cache_with_shelf();
    let current = of_this_boot("1").unwrap();
    for dir in [".tiny-1.50", ".tiny-2.51", ".tiny-3.52.old", &current] {
        fs::create_dir_all(shelf.join(dir).join("empty")).unwrap();
    }
    for file in ["tiny-1.lock", "tiny-2.lock", "tiny-4.failed"] {
        fs::write(shelf.join(file), "").unwrap();
    }
    let held = File::open(shelf.join("tiny-2.lock")).unwrap();
    assert!(try_lock(&held).unwrap());
    let swept = cache::<TemplateDir>(root.path(), Which::All, &mut plenty());
    assert!(swept.removed == 3 && swept.error.is_none() && !swept.is_unfinished, "{swept:?}");
    assert_eq!(names(&shelf), [".tiny-2.51".to_owned(), current, "tiny-2.lock".into(), "tiny-4.failed".into()]);
    assert_eq!(names(root.path()), ["users"]);
}

#[test]
fn the_draft_of_a_copy_that_a_killed_runner_left_goes_too() {
    let (root, shelf) = cache_with_shelf();
    for file in [".0a1b.123", "0a1b.lock", "2c3d", ".2c3d.77", "2c3d.lock"] {
        fs::write(shelf.join(file), "half").unwrap();
    }
    let held = File::open(shelf.join("2c3d.lock")).unwrap();
    assert!(try_lock(&held).unwrap());
    assert_eq!(cache::<ImageCopy>(root.path(), Which::User(1000), &mut plenty()).removed, 2);
    assert_eq!(names(&shelf), [".2c3d.77", "2c3d", "2c3d.lock"]);
}

#[test]
fn templates_of_another_boot_are_garbage_also_on_the_site_s_shelf() {
    let (root, shelf) = cache_with_shelf();
    let site = layout::site_shelf(root.path());
    let current = of_this_boot("9").unwrap();
    for dir in [&shelf, &site] {
        for name in ["00000000-9", "0123456789abcdef", &current] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
    }
    assert_eq!(cache::<TemplateDir>(root.path(), Which::All, &mut plenty()).removed, 4);
    assert_eq!((names(&shelf), names(&site)), (vec![current.clone()], vec![current]));
}

#[test]
fn what_a_user_has_not_used_for_a_month_goes_and_the_site_s_stays() {
    let root = tempfile::tempdir().unwrap();
    copy(root.path(), 1000, "0a", 4, 40);
    copy(root.path(), 1000, "0b", 4, 20);
    copy(root.path(), 1001, "junk.of.theirs", 4, 40);
    set_used(&layout::user_shelf(root.path(), 1001), 40);
    let site = layout::site_shelf(root.path());
    fs::create_dir(&site).unwrap();
    fs::write(site.join("0c"), "x").unwrap();
    set_used(&site.join("0c"), 40);
    assert_eq!(cache::<ImageCopy>(root.path(), Which::All, &mut plenty()).removed, 2);
    assert_eq!(names(&layout::user_shelf(root.path(), 1000)), ["0b"]);
    assert_eq!(names(&site), ["0c"]);
    let empty = layout::user_shelf(root.path(), 1001);
    assert_eq!(names(&empty), [""; 0]);
    set_used(&empty, 40);
    cache::<ImageCopy>(root.path(), Which::All, &mut plenty());
    assert!(!empty.exists(), "the shelf of who left goes last");
}

#[test]
fn all_users_and_the_site_have_one_budget_and_what_was_used_longest_ago_makes_way() {
    let root = tempfile::tempdir().unwrap();
    for (uid, name, days_ago) in [(1000, "0a", 3), (1001, "0b", 9), (1001, "0c", 1), (1002, "0d", 5)] {
        copy(root.path(), uid, name, 100, days_ago);
    }
    let left = || {
        let all = [1000, 1001, 1002].map(|uid| names(&layout::user_shelf(root.path(), uid)));
        all.concat().join(" ")
    };
    let roomy = Space { bytes: 1000 << 20, free: 900 << 20, is_own: false };
    cache_in::<ImageCopy>(root.path(), Which::All, &mut plenty(), &|| Some(roomy));
    assert_eq!(left(), "0a 0b 0c 0d");
    // Three of the four fit into a quarter of it.
    let small = Space { bytes: 1300 << 10, free: 900 << 10, is_own: false };
    cache_in::<ImageCopy>(root.path(), Which::All, &mut plenty(), &|| Some(small));
    assert_eq!(left(), "0a 0c 0d");
    // Somebody else fills the file system: the epilog of any user's job sees that.
    let full = Space { bytes: 2000 << 10, free: 0, is_own: true };
    assert_eq!(full.lacks(), 100 << 10);
    cache_in::<ImageCopy>(root.path(), Which::User(1000), &mut plenty(), &|| Some(full));
    assert_eq!(left(), "0a 0c");
}

#[test]
fn a_time_of_use_that_is_yet_to_come_keeps_nothing_for_ever() {
    let root = tempfile::tempdir().unwrap();
    let path = copy(root.path(), 1000, "0a", 4, 0);
    let year = Duration::from_secs(365 * 24 * 3600);
    File::open(path).unwrap().set_times(FileTimes::new().set_accessed(SystemTime::now() + year)).unwrap();
    assert_eq!(cache::<ImageCopy>(root.path(), Which::All, &mut plenty()).removed, 1);
}

#[test]
fn a_sweep_keeps_to_its_bounds_and_the_next_one_goes_on() {
    let (root, shelf) = cache_with_shelf();
    for number in 0..100 {
        fs::write(shelf.join(format!(".k{number}.5")), "").unwrap();
    }
    let late = cache::<ImageCopy>(root.path(), Which::All, &mut Bounds::new(Duration::ZERO, 1000));
    assert!(late.is_unfinished && late.removed == 0 && names(&shelf).len() == 100, "{late:?}");
    let mut sweeps = 0;
    while !names(&shelf).is_empty() {
        let some = cache::<ImageCopy>(root.path(), Which::All, &mut Bounds::new(Duration::from_secs(60), 40));
        assert!(some.removed <= 40, "{some:?}");
        sweeps += 1;
        assert!(sweeps < 10, "{some:?}");
    }
    assert!(sweeps >= 3, "{sweeps}");
}

#[test]
fn a_shelf_with_more_than_anybody_needs_goes_as_a_whole() {
    let (root, shelf) = cache_with_shelf();
    for number in 0..=SHELF_MOST {
        fs::write(shelf.join(format!("{number}.mine")), "").unwrap();
    }
    let swept = cache::<ImageCopy>(root.path(), Which::All, &mut plenty());
    assert!(swept.removed == 1 && !shelf.exists(), "{swept:?}");
    assert_eq!(names(root.path()), ["users"]);
}

#[test]
fn each_shelf_gets_its_turn_also_when_only_jobs_end() {
    let root = tempfile::tempdir().unwrap();
    for uid in 1000..1010 {
        let shelf = layout::user_shelf(root.path(), uid);
        fs::create_dir_all(&shelf).unwrap();
        fs::write(shelf.join(".0a.1"), "").unwrap();
    }
    let left = || (1000..1010).filter(|uid| !names(&layout::user_shelf(root.path(), *uid)).is_empty()).count();
    assert_eq!(cache::<ImageCopy>(root.path(), Which::User(1000), &mut plenty()).removed, 2);
    let deadline = Instant::now() + Duration::from_secs(20);
    while left() > 0 {
        cache::<ImageCopy>(root.path(), Which::User(1000), &mut plenty());
        assert!(Instant::now() < deadline, "{} are never swept", left());
    }
}

#[test]
fn what_a_user_puts_in_the_place_of_a_draft_leads_nowhere() {
    let (root, shelf) = cache_with_shelf();
    let precious = root.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    symlink(&precious, shelf.join(".tiny-1.50")).unwrap();
    symlink(precious.join("file"), shelf.join("tiny-2.lock")).unwrap();
    symlink(&precious, shelf.join("00000000-1")).unwrap();
    symlink(&precious, layout::user_shelf(root.path(), 1001)).unwrap();
    let pipe = shelf.join("tiny-3.lock");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _ = cache::<TemplateDir>(root.path(), Which::All, &mut plenty());
    assert!(precious.join("file").exists());
    assert_eq!(names(&shelf), ["tiny-2.lock", "tiny-3.lock"]);
}

#[test]
fn a_shelf_in_which_its_user_has_mounted_something_is_not_entered() {
    let (root, shelf) = cache_with_shelf();
    let other = layout::user_shelf(root.path(), 1001);
    for dir in [shelf.join(".tiny-1.50"), shelf.join("mounted"), other.join(".tiny-1.50")] {
        fs::create_dir_all(dir).unwrap();
    }
    let is_mounted = crate::sys::with_mount(&shelf.join("mounted"), || {
        // Who waited for the user's program would get an error of its end.
        let swept = cache::<TemplateDir>(root.path(), Which::All, &mut plenty());
        assert_eq!(swept.removed, 1, "{swept:?}");
        let error = swept.error.unwrap().to_string();
        assert!(error.contains("mounted") && error.contains(&shelf.display().to_string()), "{error}");
        let error = crate::dir::make_user_shelf(root.path(), (1000, 1000)).unwrap_err().to_string();
        assert!(error.contains("mounted"), "{error}");
        assert_eq!(crate::shelf::Shelf::<TemplateDir>::all(root.path()).len(), 2, "the site's and the other user's");
        assert_eq!((names(&other).len(), shelf.join(".tiny-1.50").exists()), (0, true));
    });
    assert_eq!(is_mounted, crate::dir::own_uid().unwrap() == 0, "root can, where there is FUSE");
    cache::<TemplateDir>(root.path(), Which::All, &mut plenty());
    assert_eq!(names(&shelf).len(), 0);
}

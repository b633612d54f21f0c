use super::*;
use crate::space::Space;
use std::fs::FileTimes;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const READERS: Readers = Readers { group: None, others: true };

/// Nobody sends signals.
struct Quiet(std::os::unix::net::UnixStream, #[allow(dead_code)] std::os::unix::net::UnixStream);

impl Interrupt for Quiet {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn next_fatal(&self) -> Option<u8> {
        None
    }
}

fn me() -> u32 {
    dir::own_uid().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// An empty cache directory that users can enter.
fn cache() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// A shelf of this user, ready to be filled.
fn shelf<I: Item>(cache: &Path) -> Shelf<I> {
    let shelf = Shelf::of_user(cache, me());
    dir::make(&shelf.dir, 0o700).unwrap();
    shelf
}

fn add_copy(shelf: &Shelf<ImageCopy>, name: &str, kib: usize, hours_ago: u64) {
    let draft = shelf.begin(name).unwrap();
    draft.file().unwrap().write_all(&vec![7; kib << 10]).unwrap();
    let copy = draft.publish(Readers::NOBODY).unwrap();
    let then = SystemTime::now() - Duration::from_secs(hours_ago * 3600);
    copy.into_file().set_times(FileTimes::new().set_accessed(then)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_item_appears_complete_under_its_name_and_a_draft_that_is_given_up_disappears() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    drop(copies.begin("0a").unwrap());
    assert_eq!(names(&copies.dir), [""; 0]);
    let draft = copies.begin("0a").unwrap();
    draft.file().unwrap().write_all(b"content").unwrap();
    assert!(copies.find("0a").unwrap().is_none());
    draft.publish(READERS).unwrap();
    let mut text = String::new();
    copies.find("0a").unwrap().unwrap().into_file().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), names(&copies.dir)), ("content", vec!["0a".to_owned()]));
    assert_eq!(mode(&copies.dir.join("0a")), 0o600, "a user's is that user's alone");

    let templates = shelf::<TemplateDir>(cache.path());
    for content in ["one", "two"] {
        let draft = templates.begin("1b").unwrap();
        fs::write(draft.path().join("ram"), content).unwrap();
        draft.publish(READERS).unwrap();
        let template = templates.find("1b").unwrap().unwrap();
        let found = io::read_to_string(template.open_file("ram", me(), false).unwrap()).unwrap();
        assert_eq!(found, content, "one that is in the way is replaced");
    }
}

#[test]
fn the_draft_of_a_killed_maker_goes_when_the_next_begins() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    for other in [".0a.123", ".0a.77.old", ".0b.5"] {
        fs::write(copies.dir.join(other), "half").unwrap();
    }
    copies.begin("0a").unwrap().publish(READERS).unwrap();
    assert_eq!(names(&copies.dir), [".0b.5", "0a"]);
}

#[test]
fn a_copy_that_was_written_to_or_that_others_may_write_counts_as_none() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    add_copy(&copies, "0a", 4, 0);
    let path = copies.dir.join("0a");
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"damage").unwrap();
    assert!(matches!(copies.find("0a"), Err(Distrust::Changed)));
    add_copy(&copies, "0a", 4, 0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(copies.find("0a"), Err(Distrust::Writable { .. })));
    fs::rename(&path, copies.dir.join("0b")).unwrap();
    symlink("0b", &path).unwrap();
    copies.find("0a").unwrap_err();
    assert!(matches!(Shelf::<ImageCopy> { owner: me() + 1, ..copies }.find("0b"), Err(Distrust::Owner { .. })));
}

#[test]
fn files_of_a_template_are_plain_names_and_ordinary_files_and_nothing_waits_for_a_pipe() {
    let cache = cache();
    let templates = shelf::<TemplateDir>(cache.path());
    let draft = templates.begin("1b").unwrap();
    fs::write(draft.path().join("ram"), "x").unwrap();
    symlink("/etc/passwd", draft.path().join("link")).unwrap();
    fs::create_dir(draft.path().join("dir")).unwrap();
    let pipe = draft.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let template = draft.publish(READERS).unwrap();
    template.open_file("ram", me(), true).unwrap();
    for name in ["link", "dir", "pipe", "none", "", ".", "..", "dir/../ram", "/etc/passwd"] {
        assert!(template.open_file(name, me(), false).is_err(), "{name}");
    }
}

#[test]
fn what_is_made_for_the_site_can_be_read_by_whom_the_original_allows_it() {
    let cache = cache();
    // Only root's items are trusted there; the modes are the same.
    let site = |dir: &str| Shelf::<TemplateDir> { owner: me(), ..Shelf::of_site(&cache.path().join(dir)) };
    for (number, readers) in [READERS, Readers::NOBODY].into_iter().enumerate() {
        let shelf = site(&number.to_string());
        dir::make(&shelf.dir, TemplateDir::SITE_MODE).unwrap();
        let draft = shelf.begin("1b").unwrap();
        fs::write(draft.path().join("ram"), "x").unwrap();
        draft.publish(readers).unwrap();
        let item = shelf.dir.join("1b");
        assert_eq!((mode(&item), mode(&item.join("ram"))), (readers.dir_mode(), readers.file_mode()));
    }
}

#[test]
fn a_failure_is_remembered_until_the_item_is_made() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    assert_eq!(copies.recent_failure("0a"), None);
    copies.note_failure("0a", "first");
    copies.note_failure("0a", "the disk is full");
    assert_eq!(copies.recent_failure("0a").as_deref(), Some("the disk is full"));
    copies.begin("0a").unwrap().publish(READERS).unwrap();
    assert_eq!(copies.recent_failure("0a"), None);
    copies.note_failure("0a", "again");
    let note = copies.dir.join("0a.failed");
    let long_ago = SystemTime::now() - FAILURE_HOLDS - Duration::from_secs(1);
    File::open(&note).unwrap().set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    assert_eq!((copies.recent_failure("0a"), note.exists()), (None, false));
    // A user's pipe of that name blocks nobody.
    assert!(std::process::Command::new("mkfifo").arg(&note).status().unwrap().success());
    assert_eq!(copies.recent_failure("0a").unwrap_or_default(), "");
}

#[test]
fn a_long_reason_is_remembered_as_far_as_there_is_room_for_it() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    // The limit is in the middle of a letter.
    copies.note_failure("0a", &format!("x{}", "\u{e9}".repeat(NOTE_MOST as usize)));
    let found = copies.recent_failure("0a").unwrap();
    assert!(found.starts_with("x\u{e9}") && found.len() <= NOTE_MOST as usize + 2, "{}", found.len());
}

#[test]
fn a_template_that_became_a_link_is_not_measured() {
    let cache = cache();
    let (here, elsewhere) = (cache.path().join("1b"), cache.path().join("elsewhere"));
    for dir in [&here, &elsewhere] {
        fs::create_dir(dir).unwrap();
    }
    let meta = fs::symlink_metadata(&here).unwrap();
    assert!(TemplateDir::measure(&here, &meta).is_some());
    fs::remove_dir(&here).unwrap();
    symlink(&elsewhere, &here).unwrap();
    assert_eq!(TemplateDir::measure(&here, &meta), None);
}

#[test]
fn the_least_recently_used_make_room_within_the_limit() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    for (name, hours_ago) in [("0a", 3), ("0b", 9), ("0c", 1)] {
        add_copy(&copies, name, 100, hours_ago);
    }
    let order: Vec<String> = copies.list().into_iter().map(|item| item.name).collect();
    assert_eq!(order, ["0b", "0a", "0c"]);
    let space = |free| move |_: &Path| Some(Space { bytes: 100 << 20, free, is_own: true });
    copies.make_room_in(90 << 10, 400 << 10, &space(50 << 20)).unwrap();
    assert_eq!(names(&copies.dir), ["0a", "0b", "0c"], "it fits");
    copies.make_room_in(150 << 10, 400 << 10, &space(50 << 20)).unwrap();
    assert_eq!(names(&copies.dir), ["0a", "0c"]);
    let error = copies.make_room_in(500 << 10, 400 << 10, &space(50 << 20)).unwrap_err();
    assert!(error.to_string().contains("'image_cache_mib'"), "{error}");
    assert_eq!(copies.evict(100 << 10, Some("0a")), [copies.dir.join("0c")], "what is kept stays");
}

#[test]
fn a_user_never_fills_the_file_system_and_loses_nothing_in_vain() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    add_copy(&copies, "0a", 100, 3);
    // 5 MiB of it stay free.
    let space = |free: u64| move |_: &Path| Some(Space { bytes: 100 << 20, free, is_own: true });
    copies.make_room_in(1 << 20, u64::MAX, &space(6 << 20)).unwrap();
    let error = copies.make_room_in(1 << 20, u64::MAX, &space((6 << 20) - (200 << 10))).unwrap_err();
    assert!(matches!(error, NoRoom::Full { reserve, .. } if reserve == 5 << 20), "{error}");
    assert!(error.to_string().contains("of which 5 MiB stay free"), "{error}");
    assert_eq!(names(&copies.dir), ["0a"], "what would not be enough is not removed");
    // On a file system that others use too, one user gets no more than all caches together may have.
    let shared = |_: &Path| Some(Space { bytes: 100 << 20, free: 90 << 20, is_own: false });
    assert!(matches!(copies.make_room_in(26 << 20, u64::MAX, &shared), Err(NoRoom::OverLimit { .. })));
    copies.make_room_in(24 << 20, u64::MAX, &shared).unwrap();
}

#[test]
fn room_is_made_when_what_is_removed_frees_it() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    add_copy(&copies, "0a", 2048, 3);
    add_copy(&copies, "0b", 2048, 1);
    let dir = copies.dir.clone();
    let space = move |_: &Path| {
        let gone = 2 - names(&dir).len() as u64;
        Some(Space { bytes: 100 << 20, free: (5 << 20) + gone * (2 << 20), is_own: true })
    };
    copies.make_room_in(1 << 20, u64::MAX, &space).unwrap();
    assert_eq!(names(&copies.dir), ["0b"]);
}

#[test]
fn a_user_s_shelf_in_memory_is_not_filled_and_root_s_may_be() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = shelf::<TemplateDir>(memory.path()).prepare().unwrap_err();
    assert!(matches!(error, ShelfError::InMemory(_)), "{error}");
    assert!(error.to_string().contains("charged to the job"), "{error}");
    assert_eq!(Shelf::<TemplateDir>::of_site(memory.path()).prepare().is_ok(), me() == 0);
}

#[test]
fn root_s_shelves_are_made_with_their_parents_and_exact_modes() {
    let root = cache();
    let cache = root.path().join("var/cache/spank-vm/templates");
    let made = crate::sys::with_umask(0o077, || {
        let templates = Shelf::<TemplateDir>::of_site(&cache).prepare().is_ok();
        [templates, Shelf::<ImageCopy>::of_site(&cache.join("i")).prepare().is_ok()]
    });
    assert_eq!(made, [me() == 0; 2]);
    if me() != 0 {
        return assert!(!cache.join("site").exists(), "only root makes it");
    }
    assert_eq!(mode(&cache.join("site")), 0o755);
    assert_eq!(mode(&cache.join("i/site")), 0o711);
    for above in [&cache, cache.parent().unwrap(), &root.path().join("var")] {
        assert_eq!(mode(above), 0o755, "{}", above.display());
    }
}

#[test]
fn templates_of_earlier_boots_are_removed() {
    let cache = cache();
    let templates = shelf::<TemplateDir>(cache.path());
    let current = of_this_boot("1b").unwrap();
    for name in ["00000000-1b", "1b", &current] {
        templates.begin(name).unwrap().publish(READERS).unwrap();
    }
    assert_eq!(templates.remove_of_other_boots(), 2);
    assert_eq!(names(&templates.dir), [current]);
}

#[test]
fn the_lock_of_an_item_is_held_by_one() {
    let cache = cache();
    let copies = shelf::<ImageCopy>(cache.path());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let quiet = Quiet(ours, theirs);
    let at_once = || copies.lock("0a", Instant::now(), &quiet, || None::<()>).unwrap();
    let held = at_once();
    assert!(matches!(held, Waited::Locked(_)));
    assert!(matches!(at_once(), Waited::TimedOut(_)));
    assert_eq!(names(&copies.dir), ["0a.lock"]);
}

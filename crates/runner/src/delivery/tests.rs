use super::*;
use crate::config::Delivery;
use crate::signals::Signals;
use image::digest;
use image::{DiskFormat, ImageEntry};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// An image of one MiB and a bit, with a hole, in a directory of its own, and a place for copies.
struct Site {
    root: tempfile::TempDir,
    signals: Signals,
}

impl Site {
    fn new() -> Self {
        let site = Self { root: tempfile::tempdir().unwrap(), signals: Signals::watch().unwrap() };
        fs::create_dir(site.root.path().join("central")).unwrap();
        // For root the copier makes it; for a user the plugin does.
        let shelf = site.shelf();
        fs::create_dir_all(&shelf.dir).unwrap();
        site
    }

    fn shelf(&self) -> Shelf<ImageCopy> {
        Shelf::for_process(&self.root.path().join("cache"))
    }

    fn image(&self, name: &str, mark: u8) -> Image {
        let disk = self.root.path().join("central").join(name);
        let mut bytes = vec![0; (3 << 20) + 5];
        bytes[..4].copy_from_slice(b"hsqs");
        *bytes.last_mut().unwrap() = mark;
        let file = File::create(&disk).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let sha256 = Some(digest::of_bytes(&bytes));
        let entry = ImageEntry { sha256, ..ImageEntry::new(disk.clone(), DiskFormat::Squashfs) };
        Image { name: name.parse().unwrap(), entry, entry_path: disk.with_extension("toml"), disk }
    }

    fn terms(&self) -> CopyTerms<'_> {
        CopyTerms {
            delivery: Delivery::Cache,
            cache_dir: self.root.path().join("cache"),
            most_bytes: 1 << 30,
            patience: Duration::from_secs(60),
            signals: &self.signals,
            notice_at: None,
        }
    }

    fn deliver(&self, image: &Image) -> Result<Disk, RunError> {
        self.deliver_on(image, &self.terms())
    }

    fn deliver_on(&self, image: &Image, terms: &CopyTerms<'_>) -> Result<Disk, RunError> {
        match deliver(image, terms)? {
            Delivered::Disk(disk) => Ok(disk),
            Delivered::Interrupted(signal) => panic!("signal {signal}"),
        }
    }

    /// The names on the shelf, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.shelf().dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn content(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.file().metadata().unwrap().len() as usize];
    disk.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn sha256(image: &Image) -> String {
    image.entry.sha256.clone().unwrap()
}

#[test]
fn an_image_is_copied_once_and_its_copy_outlives_it() {
    let site = Site::new();
    let image = site.image("a", 7);
    let disk = site.deliver(&image).unwrap();
    assert_eq!(disk.identity(), format!("sha256 {}", sha256(&image)));
    assert_eq!(site.names(), [sha256(&image)]);
    assert_eq!(content(&disk), fs::read(&image.disk).unwrap());
    let meta = disk.file().metadata().unwrap();
    assert!(meta.blocks() * 512 < 3 << 20, "zeros take no room: {} blocks", meta.blocks());
    // A second start does not read the image: it would find the change.
    File::options().write(true).open(&image.disk).unwrap().write_all_at(b"x", 100).unwrap();
    assert_eq!(content(&site.deliver(&image).unwrap()), content(&disk));
    fs::remove_file(site.shelf().dir.join(sha256(&image))).unwrap();
    assert_eq!(content(&disk).last(), Some(&7), "who has it open keeps it");
}

#[test]
fn a_warm_start_takes_no_lock() {
    let site = Site::new();
    let image = site.image("a", 7);
    site.deliver(&image).unwrap();
    let soon = Instant::now() + Duration::from_secs(5);
    let held = site.shelf().lock(&sha256(&image), soon, &site.signals, || None::<()>).unwrap();
    assert!(matches!(held, Waited::Locked(_)));
    let impatient = CopyTerms { patience: Duration::ZERO, ..site.terms() };
    let disk = site.deliver_on(&image, &impatient).unwrap();
    assert!(disk.identity().starts_with("sha256 "), "{disk}");
}

#[test]
fn who_waits_longer_than_the_site_wants_reads_in_place() {
    let site = Site::new();
    let image = site.image("a", 7);
    let soon = Instant::now() + Duration::from_secs(5);
    let held = site.shelf().lock(&sha256(&image), soon, &site.signals, || None::<()>).unwrap();
    assert!(matches!(held, Waited::Locked(_)));
    let impatient = CopyTerms { patience: Duration::from_millis(20), ..site.terms() };
    assert!(site.deliver_on(&image, &impatient).unwrap().to_string().contains("in place"));
}

#[test]
fn a_wrong_digest_is_an_error_with_both_and_is_computed_once() {
    let site = Site::new();
    let mut image = site.image("a", 7);
    let right = sha256(&image);
    let wrong = "0".repeat(64);
    image.entry.sha256 = Some(wrong.clone());
    for _ in 0..2 {
        let error = site.deliver(&image).unwrap_err().to_string();
        assert!(error.contains(&right) && error.contains(&wrong) && error.contains("'a'"), "{error}");
        assert_eq!(site.names(), [format!("{wrong}.failed")], "no copy and no draft");
    }
    // The note is about this one file: when it is replaced, the copy is tried again.
    let mended = site.image("b", 9);
    fs::rename(&mended.disk, &image.disk).unwrap();
    image.entry.sha256 = Some(sha256(&mended));
    assert_eq!(content(&site.deliver(&image).unwrap()).last(), Some(&9));
}

#[test]
fn a_copy_that_was_written_to_is_made_again() {
    let site = Site::new();
    let image = site.image("a", 7);
    site.deliver(&image).unwrap();
    let path = site.shelf().dir.join(sha256(&image));
    for damage in [|file: &File| file.write_all_at(b"damage", 9).unwrap(), |file: &File| file.set_len(77).unwrap()] {
        damage(&File::options().write(true).open(&path).unwrap());
        assert_eq!(content(&site.deliver(&image).unwrap()), fs::read(&image.disk).unwrap());
    }
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    site.deliver(&image).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o022, 0, "one that others may write is replaced");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&image.disk, &path).unwrap();
    site.deliver(&image).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file(), "a link is replaced");
}

#[test]
fn the_least_recently_wanted_copy_makes_room_and_who_reads_it_goes_on() {
    let site = Site::new();
    let images = [site.image("a", 1), site.image("b", 2), site.image("c", 3)];
    let open = site.deliver(&images[0]).unwrap();
    site.deliver(&images[1]).unwrap();
    // Access times are only as exact as the kernel's clock.
    std::thread::sleep(Duration::from_millis(20));
    site.deliver(&images[0]).unwrap();
    let used: u64 = site.shelf().list().iter().map(|copy| copy.bytes).sum();
    let length = open.file().metadata().unwrap().len();
    let too_little = CopyTerms { most_bytes: length + used - 1, ..site.terms() };
    site.deliver_on(&images[2], &too_little).unwrap();
    let mut left = [sha256(&images[0]), sha256(&images[2])];
    left.sort();
    assert_eq!(site.names(), left);
    let only_one = CopyTerms { most_bytes: length, ..site.terms() };
    site.deliver_on(&images[1], &only_one).unwrap();
    assert_eq!(site.names(), [sha256(&images[1])]);
    assert_eq!(content(&open).last(), Some(&1));
}

#[test]
fn what_cannot_be_kept_is_read_in_place() {
    let site = Site::new();
    let mut image = site.image("a", 7);
    let small = CopyTerms { most_bytes: 1 << 20, ..site.terms() };
    assert!(site.deliver_on(&image, &small).unwrap().to_string().contains("in place"));
    let by_choice = CopyTerms { delivery: Delivery::InPlace, ..site.terms() };
    assert!(site.deliver_on(&image, &by_choice).unwrap().to_string().contains("in place"));
    let local = CopyTerms { delivery: Delivery::Auto, ..site.terms() };
    assert!(site.deliver_on(&image, &local).unwrap().to_string().contains("in place"));
    image.entry.sha256 = None;
    assert!(site.deliver(&image).unwrap().to_string().contains("in place"));
}

#[test]
fn the_draft_of_a_killed_maker_is_removed() {
    let site = Site::new();
    let image = site.image("a", 7);
    fs::write(site.shelf().dir.join(format!(".{}.123", sha256(&image))), "half").unwrap();
    site.deliver(&image).unwrap();
    assert_eq!(site.names(), [sha256(&image)]);
}

#[test]
fn a_disk_that_is_replaced_after_it_was_opened_is_another_one() {
    let site = Site::new();
    let in_place = CopyTerms { delivery: Delivery::InPlace, ..site.terms() };
    let image = site.image("a", 1);
    let before = site.deliver_on(&image, &in_place).unwrap();
    fs::rename(site.image("b", 2).disk, &image.disk).unwrap();
    let after = site.deliver_on(&image, &in_place).unwrap();
    assert_ne!(before.identity(), after.identity());
    assert_eq!((content(&before).last(), content(&after).last()), (Some(&1), Some(&2)));
}

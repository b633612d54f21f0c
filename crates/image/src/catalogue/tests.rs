//! Directories, precedence, entries and paths.

use super::*;

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[test]
fn the_first_directory_wins_and_a_typing_error_gets_a_suggestion() {
    let (site, user) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entry = |disk: &str| format!("disk = '{disk}'\nformat = 'squashfs'\n");
    std::fs::write(site.path().join("debian12.toml"), entry("site.sqfs")).unwrap();
    std::fs::write(user.path().join("debian12.toml"), entry("user.sqfs")).unwrap();
    std::fs::write(user.path().join("tiny.toml"), entry("/abs/tiny.sqfs")).unwrap();
    let dirs = [site.path().to_owned(), user.path().to_owned()];
    let catalogue = Catalogue::new(&dirs);
    assert_eq!(catalogue.find(&name("debian12")).unwrap().disk, site.path().join("site.sqfs"));
    assert_eq!(catalogue.find(&name("tiny")).unwrap().disk, Path::new("/abs/tiny.sqfs"));
    let error = catalogue.find(&name("debain12")).unwrap_err().to_string();
    assert_eq!(error, "no image 'debain12'; did you mean 'debian12'? (--vm-image=list shows all)");
    let error = catalogue.find(&name("windows")).unwrap_err().to_string();
    assert_eq!(error, "no image 'windows' (--vm-image=list shows all)");
}

#[test]
fn a_broken_entry_is_one_line_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.toml"), "disk = 'a'\nformat = 'floppy'\n").unwrap();
    let dirs = [dir.path().to_owned()];
    let error = Catalogue::new(&dirs).find(&name("x")).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("floppy") && !error.contains('\n'), "{error}");
}

#[test]
fn a_catalogue_that_does_not_exist_is_not_an_empty_one() {
    let dirs = [PathBuf::from("/nonexistent/images")];
    let error = Catalogue::new(&dirs).find(&name("x")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/images"), "{error}");
}

#[test]
fn a_host_without_the_site_s_directories_knows_that_it_cannot_tell() {
    let (site, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ada = Person { name: "ada".into(), home: Some(home.path().into()), ..Person::default() };
    let is_here = |patterns: &[&str]| {
        Catalogue::of(&patterns.iter().map(PathBuf::from).collect::<Vec<_>>(), ada.clone(), true).is_here()
    };
    assert!(!is_here(&["/nonexistent/images", "~"]));
    let error = Catalogue::of(&["/nonexistent/images".into(), "~".into()], ada.clone(), true).find(&name("x"));
    assert!(matches!(error, Err(ImageError::Directory { .. })), "not the user's mistake: {error:?}");
    assert!(is_here(&["/nonexistent/images", site.path().to_str().unwrap()]));
    assert!(is_here(&["~"]), "a site that has no directory of its own");
}

#[test]
fn what_is_in_the_way_of_one_directory_does_not_hide_the_others() {
    let (site, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(site.path().join("x.toml"), "disk = 'd'\nformat = 'squashfs'\n").unwrap();
    // Root, who runs tests too, may look into every directory; nobody can look into a file.
    let catalogue = Catalogue::new(&[file.path().to_owned(), site.path().to_owned()]);
    assert_eq!(catalogue.names().unwrap(), [name("x")]);
    catalogue.find(&name("x")).unwrap();
    assert_eq!(catalogue.unread().map(|(dir, _)| dir.to_owned()).collect::<Vec<_>>(), [file.path()]);
    let error = Catalogue::new(&[file.path().to_owned()]).names().unwrap_err().to_string();
    assert!(error.contains("Not a directory") && !error.contains('\n'), "{error}");
}

#[test]
fn a_users_images_are_found_unless_the_site_has_them_or_wants_none() {
    let (site, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entry = |disk: &str| format!("disk = '{disk}'\nformat = 'squashfs'\n");
    std::fs::write(site.path().join("both.toml"), entry("site")).unwrap();
    std::fs::write(home.path().join("both.toml"), entry("mine")).unwrap();
    std::fs::write(home.path().join("mine.toml"), entry("mine")).unwrap();
    let ada = Person { name: "ada".into(), home: Some(home.path().into()), ..Person::default() };
    let patterns = [site.path().to_owned(), "/nonexistent/%u".into(), "~".into()];
    let catalogue = Catalogue::of(&patterns, ada.clone(), true);
    assert_eq!(catalogue.find(&name("both")).unwrap().disk, site.path().join("site"));
    let mine = catalogue.find(&name("mine")).unwrap();
    assert_eq!(
        (mine.disk.as_path(), catalogue.owner_of(&mine)),
        (home.path().join("mine").as_path(), Some(Owner::User))
    );
    assert_eq!(catalogue.names().unwrap(), [name("both"), name("mine")]);
    assert_eq!(catalogue.dir_for_new(), Some(Path::new("/nonexistent/ada")));
    let strict = Catalogue::of(&patterns, ada, false);
    assert_eq!(strict.names().unwrap(), [name("both")]);
    assert_eq!(strict.dir_for_new(), None);
}

#[test]
fn a_path_is_a_disk_or_an_entry_if_the_site_allows_paths() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let reference = |name: &str| path(name).to_str().unwrap().parse::<ImageRef>().unwrap();
    let mut squashfs = vec![0; 4096];
    squashfs[..4].copy_from_slice(b"hsqs");
    squashfs[40..48].copy_from_slice(&4096_u64.to_le_bytes());
    std::fs::write(path("my disk.img"), &squashfs).unwrap();
    std::fs::write(path("e.toml"), "disk = 'my disk.img'\nformat = 'squashfs'\n[allow]\nusers = ['ada']\n").unwrap();
    std::fs::write(path("cut"), &squashfs[..4095]).unwrap();
    std::fs::write(path("notes.txt"), "hello").unwrap();
    std::fs::write(path("long.toml"), "#".repeat(1 << 20)).unwrap();
    nix::unistd::mkfifo(&path("pipe.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let catalogue =
        |name: &str, allowed| Catalogue::of(&[], Person { name: name.into(), ..Person::default() }, allowed);
    let image = catalogue("bob", true).resolve(&reference("my disk.img")).unwrap();
    assert_eq!((image.name.as_str(), image.entry.format), ("my_disk", DiskFormat::Squashfs));
    image.check_disk(&image.open_disk().unwrap()).unwrap();
    assert_eq!(catalogue("ada", true).resolve(&reference("e.toml")).unwrap().disk, path("my disk.img"));
    for (person, allowed, file, words) in [
        ("bob", false, "my disk.img", "user_images"),
        ("bob", true, "e.toml", "image 'e' is for the users ada only"),
        ("bob", true, "notes.txt", "nothing that is known here"),
        ("bob", true, "gone", "No such file"),
        ("bob", true, "pipe.toml", "not a regular file"),
        ("bob", true, "long.toml", "longer than"),
        ("bob", true, ".", "not a regular file"),
    ] {
        let error = catalogue(person, allowed).resolve(&reference(file)).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{file}: {error}");
    }
    let cut = catalogue("bob", true).resolve(&reference("cut")).unwrap();
    let error = cut.check_disk(&cut.open_disk().unwrap()).unwrap_err().to_string();
    assert!(error.contains("truncated") && error.contains("1 byte"), "{error}");
}

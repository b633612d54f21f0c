//! Whole imports, of honest and of hostile files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use archive::{Writer, Xattr};

/// A directory with a catalogue in it and files around that no import may touch.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("victim")).unwrap();
        fs::write(dir.path().join("victim/passwd"), "theirs").unwrap();
        Self { dir }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn options(&self) -> ImportOptions {
        ImportOptions {
            name: "new".parse().unwrap(),
            dir: self.dir.path().join("images"),
            description: String::new(),
            append: String::new(),
            replace: false,
            inherits: None,
            arch: None,
            max_bytes: 1 << 20,
        }
    }

    fn import(&self, source: &Path) -> anyhow::Result<Imported> {
        import_path(source, &self.options(), &mut |_, _, _| bail!("no helper VM here"))
    }

    /// Imports an archive of these entries.
    fn import_entries(&self, entries: &[(Entry, &[u8])]) -> anyhow::Result<Imported> {
        let source = self.file("archive.tar", &archive(entries));
        let result = self.import(&source);
        fs::remove_file(source).unwrap();
        result
    }

    /// The error of an import that must not change anything.
    #[track_caller]
    fn refusal(&self, entries: &[(Entry, &[u8])]) -> String {
        let before = self.names();
        let error = self.import_entries(entries).unwrap_err();
        assert_eq!(self.names(), before);
        format!("{error:#}")
    }

    /// All files of the site with their content; an empty catalogue does not count.
    fn names(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for file in fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
                match file.is_dir() {
                    true => walk(&file, found),
                    false => _ = found.insert(file.clone(), fs::read(file).unwrap()),
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.dir.path(), &mut found);
        found
    }
}

/// The content of an image: mode, owner and size of each path, as `unsquashfs` lists them.
fn listing(imported: &Imported) -> BTreeMap<String, String> {
    let output = Command::new("unsquashfs").arg("-lln").arg(&imported.image.disk).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(" squashfs-root"));
    lines
        .map(|(facts, path)| {
            let words: Vec<&str> = facts.split_whitespace().collect();
            (path.to_owned(), format!("{} {}", words[0], words[1]))
        })
        .collect()
}

fn content(imported: &Imported, path: &str) -> String {
    let output = Command::new("unsquashfs").arg("-cat").arg(&imported.image.disk).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: 1, xattrs: Vec::new() }
}

fn file<'a>(path: &str, text: &'a str) -> (Entry, &'a [u8]) {
    (entry(path, Kind::File(text.len() as u64)), text.as_bytes())
}

fn other(path: &str, kind: Kind) -> (Entry, &'static [u8]) {
    (entry(path, kind), b"")
}

fn symlink(path: &str, target: &str) -> (Entry, &'static [u8]) {
    other(path, Kind::Symlink(target.into()))
}

fn link(path: &str, target: &str) -> (Entry, &'static [u8]) {
    other(path, Kind::HardLink(target.into()))
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn blob(files: &mut Vec<(String, Vec<u8>)>, bytes: Vec<u8>) -> String {
    let hex = crate::digest::of_bytes(&bytes);
    files.push((format!("blobs/sha256/{hex}"), bytes));
    format!("sha256:{hex}")
}

/// A container image of these layers, which has two tags: the files of an OCI layout.
fn oci_layout(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), b"{}".to_vec())];
    let layers: Vec<_> =
        layers.iter().map(|layer| serde_json::json!({ "digest": blob(&mut files, layer.clone()) })).collect();
    let manifest = serde_json::json!({ "schemaVersion": 2, "layers": layers });
    let digest = blob(&mut files, manifest.to_string().into_bytes());
    let tags = ["12", "latest"].map(
        |tag| serde_json::json!({ "digest": digest, "annotations": { "org.opencontainers.image.ref.name": tag } }),
    );
    let index = serde_json::json!({ "manifests": tags });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files
}

fn archive_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> =
        files.iter().map(|(name, bytes)| (entry(name, Kind::File(bytes.len() as u64)), bytes.as_slice())).collect();
    archive(&entries)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), bytes).unwrap();
    Command::new("gzip").arg("-c").arg(dir.path().join("f")).output().unwrap().stdout
}

/// Two layers: the upper one removes, replaces and links files.
fn two_layers() -> [Vec<u8>; 2] {
    let lower = [
        file("etc/gone", "x"),
        file("etc/changed", "old"),
        file("etc/kept", "kept"),
        link("etc/also-gone", "etc/gone"),
        file("var/cache/a", "a"),
        file("var/cache/b", "b"),
        file("opt/deep/lower", "l"),
        symlink("bin", "usr/bin"),
    ];
    let upper = [
        other("etc/.wh.gone", Kind::File(0)),
        file("etc/changed", "new"),
        file("var/cache/c", "c"),
        other("var/cache/.wh..wh..opq", Kind::File(0)),
        other("opt/.wh.deep", Kind::File(0)),
        file("opt/deep/upper", "u"),
        file("bin/tool", "#!"),
    ];
    [archive(&lower), archive(&upper)]
}

#[track_caller]
fn has_two_layers(imported: &Imported) {
    let names: Vec<String> =
        listing(imported).into_iter().filter(|(_, f)| !f.starts_with('d')).map(|(n, _)| n).collect();
    let expected = [
        "/bin -> usr/bin",
        "/etc/also-gone",
        "/etc/changed",
        "/etc/kept",
        "/opt/deep/upper",
        "/usr/bin/tool",
        "/var/cache/c",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (content(imported, "etc/changed"), content(imported, "etc/also-gone")),
        ("new".to_owned(), "x".to_owned())
    );
}

#[test]
fn a_root_keeps_owners_modes_devices_and_links_and_the_last_of_two_files_wins() {
    let site = Site::new();
    let mut program = entry("./bin/su", Kind::File(2));
    (program.mode, program.uid, program.gid) = (0o4755, 4711, 100_000);
    program.xattrs = vec![Xattr { name: b"user.k".to_vec(), value: b"v".to_vec() }];
    let imported = site
        .import_entries(&[
            (Entry { mode: 0o700, ..entry("./", Kind::Directory) }, b""),
            (program, b"su"),
            link("/bin/su2", "./bin/su"),
            other("dev/null", Kind::CharDevice(1, 3)),
            other("run/pipe", Kind::Fifo),
            file("etc/twice", "first"),
            link("etc/of-first", "etc/twice"),
            file("etc/twice", "second"),
        ])
        .unwrap();
    let found = listing(&imported);
    assert_eq!(found[""], "drwx------ 0/0");
    assert_eq!((&*found["/bin/su"], &*found["/bin/su2"]), ("-rwsr-xr-x 4711/100000", "-rwsr-xr-x 4711/100000"));
    assert!(found["/dev/null"].starts_with('c') && found["/run/pipe"].starts_with('p'), "{found:?}");
    assert_eq!(content(&imported, "etc/twice"), "second");
    assert_eq!(content(&imported, "etc/of-first"), "first");
    assert!(imported.notes[0].contains("no program was found"), "{:?}", imported.notes);
}

#[test]
fn names_that_lead_out_of_an_archive_are_refused_or_stay_inside() {
    let site = Site::new();
    let victim = site.dir.path().join("victim").to_str().unwrap().to_owned();
    let root = file("etc/os-release", "ID=x");
    for path in ["../victim/passwd", "etc/../../victim/passwd", "/../victim/passwd", ".."] {
        let error = site.refusal(&[root.clone(), file(path, "ours")]);
        assert!(error.contains(path) && error.contains("leads out of it"), "{error}");
    }
    let error = site.refusal(&[root.clone(), link("etc/x", "../victim/passwd")]);
    assert!(error.contains("leads out of it"), "{error}");
    let error = site.refusal(&[root.clone(), link("etc/x", &format!("{victim}/passwd"))]);
    assert!(error.contains("which is no file of it"), "{error}");
    // Absolute names and links to the outside stay inside the root.
    let imported = site
        .import_entries(&[
            root,
            file(&format!("{victim}/passwd"), "ours"),
            symlink("out", &victim),
            file("out/more", "ours too"),
            symlink("up", "../../../../../../.."),
            file("up/top", "here"),
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(format!("{victim}/passwd")).unwrap(), "theirs");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(content(&imported, &format!("{}/more", &victim[1..])), "ours too");
    assert_eq!(content(&imported, "top"), "here");
}

#[test]
fn links_in_circles_and_names_too_long_are_refused() {
    let site = Site::new();
    let circle = [symlink("etc/a", "b"), symlink("etc/b", "a"), file("etc/a/x", "")];
    assert!(site.refusal(&circle).contains("lead in a circle"));
    assert!(site.refusal(&[file("etc/x", ""), file("etc/x/y", "")]).contains("below what is no directory"));
    assert!(site.refusal(&[link("etc/self", "etc/self")]).contains("no file of it"));
    assert!(site.refusal(&[file(&format!("etc/{}", "n".repeat(256)), "")]).contains("longer than Linux allows"));
    assert!(site.refusal(&[file(&"d/".repeat(2100), "")]).contains("longer than Linux allows"));
    assert!(site.refusal(&[file(&format!("etc/{}\0b", "n".repeat(120)), "")]).contains("a zero byte"));
    assert!(site.refusal(&[symlink("etc/long", &"d/".repeat(2100))]).contains("longer than Linux allows"));
}

#[test]
fn bombs_are_refused_before_anything_is_written() {
    let site = Site::new();
    let zeros = vec![0; 1 << 20];
    let error = site.refusal(&[file("etc/a", "x"), (entry("big", Kind::File(1 << 20)), &zeros)]);
    assert!(error.contains("more than 1 MiB; --max-size allows more"), "{error}");
    // The file is small, but it claims a large content.
    let packed = gzip(&archive(&[(entry("etc/zeros", Kind::File(40 << 20)), &vec![0; 40 << 20])]));
    assert!(packed.len() < 100_000);
    let source = site.file("bomb.tgz", &packed);
    let error = format!("{:#}", site.import(&source).unwrap_err());
    assert!(error.contains("more than 1 MiB"), "{error}");
}

#[test]
fn archives_that_are_cut_off_damaged_empty_or_no_root_are_told_apart() {
    let site = Site::new();
    let whole = archive(&[file("etc/a", "x"), file("etc/b", "y")]);
    let mut damaged = whole.clone();
    damaged[1024] ^= 1;
    let cases: [(&[u8], &str); 6] = [
        (&whole[..1400], "is cut off"),
        (&damaged, "wrong check sum"),
        (&gzip(&whole)[..60], "cut off"),
        (b"", "is empty"),
        (b"just some text", "is nothing that can be imported"),
        (&gzip(b"just some text"), "holds no tar archive"),
    ];
    for (bytes, expected) in cases {
        let source = site.file("source", bytes);
        let before = site.names();
        let error = format!("{:#}", site.import(&source).unwrap_err());
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
        assert_eq!(site.names(), before);
    }
    let error = site.refusal(&[file("debian/etc/a", ""), file("debian/bin/sh", "")]);
    assert!(error.contains("everything lies in 'debian'"), "{error}");
    assert!(site.refusal(&[]).contains("nothing that can be imported"));
}

#[test]
fn a_container_s_layers_lie_over_each_other_whichever_way_it_was_saved() {
    let [lower, upper] = two_layers();
    let layout = oci_layout(&[gzip(&lower), upper.clone()]);
    let site = Site::new();
    has_two_layers(&site.import(&site.file("oci.tar", &archive_of(&layout))).unwrap());

    let site = Site::new();
    has_two_layers(&site.import(&site.file("oci.tgz", &gzip(&archive_of(&layout)))).unwrap());

    let site = Site::new();
    let dir = site.dir.path().join("layout");
    for (name, bytes) in &layout {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
    has_two_layers(&site.import(&dir).unwrap());

    let site = Site::new();
    let tagged =
        |tag| format!(r#"{{"Config":"c.json","RepoTags":["{tag}"],"Layers":["l1/layer.tar","l2/layer.tar"]}}"#);
    let manifest = format!("[{},{}]", tagged("a:1"), tagged("a:latest")).into_bytes();
    let docker = [
        ("l1/layer.tar".to_owned(), lower),
        ("l2/layer.tar".to_owned(), upper),
        ("manifest.json".to_owned(), manifest),
    ];
    has_two_layers(&site.import(&site.file("docker.tar", &archive_of(&docker))).unwrap());
}

#[test]
fn a_container_with_a_missing_or_changed_layer_is_refused() {
    let mut layout = oci_layout(&[two_layers()[0].clone()]);
    let site = Site::new();
    let at = layout.iter().position(|(name, _)| name.starts_with("blobs")).unwrap();
    layout[at].1[600] ^= 1;
    let error = format!("{:#}", site.import(&site.file("x.tar", &archive_of(&layout))).unwrap_err());
    assert!(error.contains("are not those that the manifest names"), "{error}");
    layout.remove(at);
    let error = format!("{:#}", site.import(&site.file("x.tar", &archive_of(&layout))).unwrap_err());
    assert!(error.contains("layer sha256:") && error.contains("is not in it"), "{error}");
    assert!(!site.dir.path().join("images").exists(), "nothing was begun");
}

#[test]
fn a_directory_is_imported_with_its_links_unfollowed_and_the_user_s_files_as_root_s() {
    let site = Site::new();
    let root = site.dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/a"), "a").unwrap();
    std::os::unix::fs::symlink(site.dir.path().join("victim/passwd"), root.join("etc/link")).unwrap();
    let imported = site.import(&root).unwrap();
    let found = listing(&imported);
    assert!(found.keys().any(|name| name.starts_with("/etc/link -> ")), "{found:?}");
    assert!(found["/etc/a"].ends_with(" 0/0"), "{found:?}");
}

#[test]
fn a_taken_name_is_refused_and_replaced_on_demand_and_a_full_catalogue_is_said() {
    let site = Site::new();
    let old = site.import_entries(&[file("etc/a", "old")]).unwrap();
    assert!(site.refusal(&[file("etc/a", "new")]).contains("--replace overwrites it"));
    let source = site.file("new.tar", &archive(&[file("etc/a", "new")]));
    let options = ImportOptions { replace: true, ..site.options() };
    let new = import_path(&source, &options, &mut |_, _, _| bail!("no")).unwrap();
    assert_eq!(content(&new, "etc/a"), "new");
    assert!(old.image.disk != new.image.disk && !old.image.disk.exists(), "nothing uses it any more");
    let options = ImportOptions { dir: "/proc/nowhere".into(), ..site.options() };
    let error = format!("{:#}", import_path(&source, &options, &mut |_, _, _| bail!("no")).unwrap_err());
    assert!(error.contains("/proc/nowhere"), "{error}");
}

#[test]
fn what_comes_by_a_pipe_is_recognised_too_and_the_architecture_is_that_of_its_shell() {
    let site = Site::new();
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1];
    elf.resize(18, 0);
    elf.extend([3, 0]);
    let text = String::from_utf8(elf).unwrap();
    let mut arm = text.clone().into_bytes();
    arm[18] = 40;
    let arm = String::from_utf8(arm).unwrap();
    let executable = |(entry, content)| (Entry { mode: 0o755, ..entry }, content);
    let packed = gzip(&archive(&[
        executable(file("a-first-program", &arm)),
        file("usr/bin/dash", &text),
        symlink("bin", "usr/bin"),
        symlink("usr/bin/sh", "dash"),
    ]));
    let imported = import(&mut &packed[..], &site.options()).unwrap();
    assert_eq!((&*imported.image.entry.arch, imported.notes.len()), ("i386", 0));
    assert_eq!(runs_here("i386"), std::env::consts::ARCH == "x86_64");
    let options = ImportOptions { name: "arm".parse().unwrap(), ..site.options() };
    let imported = import(&mut &archive(&[executable(file("bin/sh", &arm))])[..], &options).unwrap();
    assert!(imported.notes[0].contains("its programs are for arm"), "{:?}", imported.notes);
}

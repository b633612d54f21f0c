use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A host: directories below a temporary one, whose path has no links.
struct Host {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Host {
    fn with(directories: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for directory in directories {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        Self { _dir: dir, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A mount with `@` for the host's root.
    fn spec(&self, text: &str) -> ShareSpec {
        text.replace('@', self.root.to_str().unwrap()).parse().unwrap()
    }

    fn own(&self, role: Role, path: &str) -> Own {
        Own { role, path: self.at(path) }
    }

    fn choose(&self, asked: &[&str], own: &[Own]) -> Result<Chosen, String> {
        let asked: Vec<ShareSpec> = asked.iter().map(|text| self.spec(text)).collect();
        choose(&asked, &[], own).map_err(|error| error.to_string())
    }

    fn view(chosen: &Chosen) -> View<'_> {
        View { shares: &chosen.shares, aliases: &chosen.aliases }
    }

    /// What is seen, with `@` for the host's root.
    fn shown(&self, chosen: &Chosen) -> Vec<String> {
        let text = |share: &Share| {
            let (source, target) = (share.source.display(), share.target.display());
            let kind = if share.is_file { " file" } else { "" };
            let mode = if share.read_only { " ro" } else { "" };
            format!("{source}>{target}{kind}{mode}").replace(self.root.to_str().unwrap(), "@")
        };
        chosen.shares.iter().map(text).collect()
    }
}

#[test]
fn directories_inside_others_are_shared_once() {
    let host = Host::with(&["home/project"]);
    let (home, work) = (host.own(Role::Home, "home"), host.own(Role::Work, "home/project"));
    for own in [[home.clone(), work.clone()], [work, home]] {
        assert_eq!(host.shown(&host.choose(&[], &own).unwrap()), ["@/home>@/home"]);
    }
}

#[test]
fn the_operating_system_is_never_covered() {
    let places = ["/", "/usr", "/etc", "/usr/lib", "/proc/self", "/nonexistent", "/tmp/../usr"];
    let own: Vec<Own> = places.map(|path| Own { role: Role::Submit, path: path.into() }).to_vec();
    assert_eq!(choose(&[], &[], &own).unwrap(), Chosen::default());
    let none = ["/", "/nonexistent", "/dev/null", ""].map(|path| Own { role: Role::Home, path: path.into() });
    assert_eq!(choose(&[], &[], &none).unwrap(), Chosen::default(), "accounts without a home hear nothing of it");
}

#[test]
fn a_home_below_a_directory_of_the_system_is_shared() {
    let dir = tempfile::Builder::new().prefix("spank-vm-home").tempdir_in("/var/lib").unwrap();
    let own = [Own { role: Role::Home, path: dir.path().to_owned() }];
    let chosen = choose(&[], &[], &own).unwrap();
    assert_eq!((chosen.shares[0].target.as_path(), chosen.shares.len()), (dir.path(), 1));
}

#[test]
fn a_home_that_is_missing_is_told_and_a_working_directory_that_cannot_be_there_is_refused() {
    let host = Host::with(&["x"]);
    let chosen = host.choose(&[], &[host.own(Role::Home, "gone"), host.own(Role::Submit, "gone")]).unwrap();
    assert!(chosen.shares.is_empty());
    let [warning] = &chosen.warnings[..] else { panic!("{chosen:?}") };
    assert!(warning.contains("your home") && warning.contains("gone") && warning.contains("No such file"), "{warning}");
    let error = host.choose(&[], &[host.own(Role::Work, "gone")]).unwrap_err();
    assert!(error.contains("working directory") && error.contains("--chdir"), "{error}");
}

#[test]
fn a_directory_behind_links_is_at_its_real_place_and_has_its_other_names() {
    let host = Host::with(&["lustre/ada/project"]);
    symlink("lustre", host.at("fast")).unwrap();
    symlink(host.at("fast/ada"), host.at("home")).unwrap();
    let own = [
        host.own(Role::Home, "home"),
        host.own(Role::Work, "lustre/ada/project"),
        host.own(Role::Name, "home/project"),
        host.own(Role::Name, "fast"),
    ];
    let chosen = host.choose(&["@/home:/mnt/home", "@/home:@/home:ro"], &own).unwrap();
    assert_eq!(host.shown(&chosen), ["@/lustre/ada>/mnt/home", "@/lustre/ada>@/lustre/ada ro"]);
    let alias = |path: &str, target: &Path| Alias { path: host.at(path), target: target.to_owned() };
    let expected = [
        alias("home", &host.at("fast/ada")),
        alias("fast", Path::new("lustre")),
        alias("home/project", &host.at("lustre/ada/project")),
    ];
    assert_eq!(chosen.aliases, expected);
    let view = Host::view(&chosen);
    for there in ["home/x", "lustre/ada", "fast/ada/lib"] {
        assert!(view.shows(&host.at(there)), "{there}");
    }
    assert!(!view.shows(&host.at("lustre")) && !view.shows(&host.at("home2")));
}

#[test]
fn what_was_asked_for_wins_over_the_user_s_own_directories() {
    let host = Host::with(&["home/work/fake", "data"]);
    let (home, work) = (host.own(Role::Home, "home"), host.own(Role::Work, "home/work"));
    let chosen = host.choose(&["@/data:@/home"], std::slice::from_ref(&home)).unwrap();
    assert_eq!(host.shown(&chosen), ["@/data>@/home"]);
    // The working directory would be hidden, and with it what the command writes.
    let error = host.choose(&["@/data:@/home"], &[home.clone(), work.clone()]).unwrap_err();
    assert!(error.contains("working directory") && error.contains("mkdir -p '"), "{error}");
    assert!(error.contains("data/work'"), "{error}");
    fs::create_dir(host.at("data/work")).unwrap();
    let chosen = host.choose(&["@/data:@/home"], &[home, work.clone()]).unwrap();
    assert_eq!(host.shown(&chosen), ["@/data>@/home", "@/home/work>@/home/work"]);
    let chosen = host.choose(&["@/data:@/home/work"], &[work]).unwrap();
    assert_eq!(host.shown(&chosen), ["@/data>@/home/work"]);
}

#[test]
fn a_place_in_a_share_must_be_there_already() {
    let host = Host::with(&["home/in", "data"]);
    fs::write(host.at("home/file"), "").unwrap();
    fs::write(host.at("data/file"), "").unwrap();
    let home = [host.own(Role::Home, "home")];
    let chosen = host.choose(&["@/data:@/home/in", "@/data/file:@/home/file:ro"], &home).unwrap();
    assert_eq!(host.shown(&chosen), ["@/home>@/home", "@/data>@/home/in", "@/data/file>@/home/file file ro"]);
    assert_eq!(chosen.shares[2].served(), (host.at("data").as_path(), std::ffi::OsStr::new("file")));
    for (mount, remedy) in [
        ("@/data:@/home/new", "mkdir -p '"),
        ("@/data:@/home/file", "mkdir -p '"),
        ("@/data/file:@/home/in", "touch '"),
        ("@/data/file:@/home/in/new", "touch '"),
    ] {
        let error = host.choose(&[mount], &home).unwrap_err();
        assert!(error.starts_with("--vm-mount=") && error.contains(remedy), "{error}");
        assert!(error.contains("nothing is made on the host") && !error.contains('\n'), "{error}");
    }
    assert_eq!(fs::read_dir(host.at("home")).unwrap().count(), 2);
}

#[test]
fn sources_that_are_missing_or_no_files_are_named() {
    let host = Host::with(&[]);
    nix::unistd::mkfifo(&host.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (mount, why) in [("@/gone:/x", "No such file or directory"), ("@/fifo:/x", "neither a directory nor a file")] {
        let error = host.choose(&[mount], &[]).unwrap_err();
        assert!(error.starts_with("--vm-mount=") && error.contains(why), "{error}");
    }
}

#[test]
fn site_shares_come_with_their_mode_and_missing_ones_are_left_out() {
    let site =
        ["/usr:/sw:ro", "/nonexistent", "/usr:/tmp/no-such-place-in-the-share"].map(|text| text.parse().unwrap());
    let own = [Own { role: Role::Work, path: "/tmp".into() }];
    let chosen = choose(&[], &site, &own).unwrap();
    let targets: Vec<&Path> = chosen.shares.iter().map(|share| share.target.as_path()).collect();
    assert_eq!(targets, [Path::new("/sw"), Path::new("/tmp")]);
    assert!(chosen.shares[0].read_only && !chosen.shares[1].read_only);
    assert!(Host::view(&chosen).shows(Path::new("/tmp/x")) && !Host::view(&chosen).shows(Path::new("/sw/x")));
}

#[test]
fn more_shares_than_can_be_are_refused_with_their_number() {
    let host = Host::with(&["a"]);
    let mounts: Vec<String> = (0..=MOST).map(|number| format!("@/a:/mnt/{number}")).collect();
    let mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    assert_eq!(host.choose(&mounts[1..], &[]).unwrap().shares.len(), 128);
    let error = host.choose(&mounts, &[]).unwrap_err();
    assert!(error.contains("129 places") && error.contains("128 can be"), "{error}");
}

#[test]
fn a_name_longer_than_any_system_call_takes_is_none_of_the_guest_s() {
    let deep = vec!["d".repeat(200); 15].join("/");
    let host = Host::with(&["home", &deep]);
    symlink(&host.root, host.at(&deep).join("up")).unwrap();
    let long = format!("{deep}/up/").repeat(30) + "home";
    let own = [host.own(Role::Home, "home"), host.own(Role::Name, &long)];
    let chosen = host.choose(&[], &own).unwrap();
    assert_eq!(host.shown(&chosen), ["@/home>@/home"]);
    let longest = chosen.aliases.iter().map(|alias| alias.path.as_os_str().len()).max();
    assert!(longest.is_some_and(|longest| longest < 4096), "{longest:?}");
}

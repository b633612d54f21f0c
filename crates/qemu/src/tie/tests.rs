//! What is left of a program when the process that has started it is killed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use nix::unistd::{Uid, setgid, setuid};

use crate::confine::{Confine, Confinement};
use crate::{Files, Host, QemuProcess};

/// An ordinary user and its group.
const USER: u32 = 65534;

/// Tells a test that it is the process that will be killed, and which program it is to start.
const PROGRAM: &str = "SPANK_VM_TEST_IS_RUNNER_OF";

/// How long the kernel and a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program in QEMU's place, in a directory of everybody's.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::set_permissions(place.dir.path(), Permissions::from_mode(0o777)).unwrap();
        let source = place.program().with_extension("c");
        fs::write(&source, "#include <unistd.h>\nint main(void) { sleep(1000); return 0; }\n").unwrap();
        // It takes whatever QEMU is told.
        let made = Command::new("gcc").args(["-o"]).args([place.program(), source]).status().unwrap();
        assert!(made.success());
        fs::set_permissions(place.program(), Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("qemu")
    }

    /// The program is a script that tells its number itself.
    fn of_script() -> Self {
        let place = Self::new();
        node::testing::program(&place.program(), "#!/bin/sh\necho $$ >\"$0.pid\"\nexec sleep 1000\n").unwrap();
        place
    }

    /// The program has been given a capability, as an administrator can.
    fn with_capability(self) -> Self {
        const CAP_NET_RAW: u32 = 1 << 13;
        // Revision 2 of the structure, and "effective": the permitted ones, the inheritable ones, and both once more for the rest.
        let words = [0x0200_0001, CAP_NET_RAW, 0, 0, 0];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let path = std::ffi::CString::new(self.program().into_os_string().into_encoded_bytes()).unwrap();
        let name = c"security.capability";
        // SAFETY: two strings that end with zero and bytes of this length, all of which live until the call returns.
        let rc = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(rc == 0, Uid::effective().is_root(), "{}", std::io::Error::last_os_error());
        self
    }

    /// The program has the rights of another user, if this process may give them to it.
    fn of_another_user(self) -> Self {
        assert_eq!(chown(self.program(), Some(USER - 1), None).is_ok(), Uid::effective().is_root());
        fs::set_permissions(self.program(), Permissions::from_mode(0o4755)).unwrap();
        self
    }
}

fn unconfined() -> Host<'static> {
    let confinement = Confinement { how: Confine::Off, dirs: &[] };
    let blocked = SigSet::all();
    Host { blocked, ran_out_of_memory: || false, file_server: None, small_pages: false, confinement }
}

/// Where the number of a program that was started is told.
fn told_in(program: &Path) -> PathBuf {
    program.with_extension("pid")
}

/// Is the process that a test will kill, if it is: starts the program.
fn be_the_runner(start: fn(&Path)) {
    let Some(program) = std::env::var_os(PROGRAM) else { return };
    if Uid::effective().is_root() {
        // As a job's: exec changes no rights of root.
        setgid(USER.into()).unwrap();
        setuid(USER.into()).unwrap();
    }
    start(Path::new(&program));
    panic!("nobody has killed this process");
}

/// Starts this test once more as a runner, kills it when its program runs, and returns the program's number if it goes on.
fn survivor(test: &str, program: &Path) -> Option<String> {
    let mut runner = Command::new(std::env::current_exe().unwrap());
    runner.args(["--exact", &format!("tie::tests::{test}"), "--nocapture"]).env(PROGRAM, program);
    let mut runner = runner.spawn().unwrap();
    let told = || fs::read_to_string(told_in(program)).ok().filter(|told| told.ends_with('\n'));
    assert!(within_patience(|| told().is_some()), "no program was started");
    let number = told().unwrap().trim().to_owned();
    assert!(goes_on(&number), "it has ended before");
    runner.kill().unwrap();
    runner.wait().unwrap();
    if within_patience(|| !goes_on(&number)) {
        return None;
    }
    let _ = Command::new("kill").args(["-KILL", &number]).status();
    Some(number)
}

fn within_patience(is_reached: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_reached() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
    true
}

/// Whether this process is there, and not only its number, which its new parent will take away.
fn goes_on(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}

#[test]
fn a_qemu_does_not_outlive_its_runner_whatever_rights_its_file_gives() {
    be_the_runner(|program| {
        let qemu = QemuProcess::spawn(program, unconfined(), Files::default(), |_| Vec::new()).unwrap();
        fs::write(told_in(program), format!("{}\n", qemu.id())).unwrap();
        sleep(Duration::from_secs(600));
    });
    for (rights, place) in [
        ("its user's", Place::new()),
        ("a capability", Place::new().with_capability()),
        ("another user's", Place::new().of_another_user()),
    ] {
        let test = "a_qemu_does_not_outlive_its_runner_whatever_rights_its_file_gives";
        assert_eq!(survivor(test, &place.program()), None, "{rights}");
    }
}

#[test]
fn a_qemu_that_is_only_asked_does_not_outlive_who_asks() {
    be_the_runner(|program| drop(crate::ask::print(program, &[])));
    let place = Place::of_script();
    assert_eq!(survivor("a_qemu_that_is_only_asked_does_not_outlive_who_asks", &place.program()), None);
}

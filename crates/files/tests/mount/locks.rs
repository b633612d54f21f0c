//! Locks between the guest, the host and other guests.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::Test;
use super::mounted::Mounted;
use super::pair::{Pair, errno};
use super::processes::{Flock, lock_in_the_way, posix_lock};

pub const TESTS: &[Test] = &[
    ("posix_locks_hold_between_guest_and_host_both_ways", posix_locks_hold_between_guest_and_host_both_ways),
    ("posix_locks_hold_between_processes_of_a_guest", posix_locks_hold_between_processes_of_a_guest),
    ("posix_locks_go_with_the_first_close", posix_locks_go_with_the_first_close),
    ("a_file_that_may_no_longer_be_opened_is_locked", a_file_that_may_no_longer_be_opened_is_locked),
    ("flock_holds_between_two_guests_and_the_host", flock_holds_between_two_guests_and_the_host),
    ("a_process_that_waits_for_a_lock_gets_it", a_process_that_waits_for_a_lock_gets_it),
    ("a_process_that_waits_for_a_lock_can_be_killed", a_process_that_waits_for_a_lock_can_be_killed),
    ("locks_die_with_the_server", locks_die_with_the_server),
];

const ALL: (i64, i64) = (0, 0);
const UNTIL: Duration = Duration::from_secs(20);

fn open(path: impl AsRef<std::path::Path>) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Locks of the host are those of open files: POSIX locks of one process would not be in its own way.
fn host_lock(file: &File, kind: i32, (start, len): (i64, i64)) -> i32 {
    let lock = libc::flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 };
    errno(nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).map_err(Into::into))
}

fn posix_locks_hold_between_guest_and_host_both_ways() {
    let pair = Pair::new();
    let (guest, host) = (open(pair.guest().join("f")), open(pair.host.join("f")));
    posix_lock(&guest, libc::F_WRLCK, (10, 10), false).unwrap();
    assert_eq!(host_lock(&host, libc::F_RDLCK, (15, 1)), libc::EAGAIN);
    assert_eq!(host_lock(&host, libc::F_WRLCK, (20, 5)), 0);
    assert_eq!(errno(posix_lock(&guest, libc::F_RDLCK, (24, 1), false)), libc::EAGAIN);
    assert_eq!(lock_in_the_way(&guest, libc::F_WRLCK), (libc::F_WRLCK, 20, 5, 0));
    posix_lock(&guest, libc::F_UNLCK, ALL, false).unwrap();
    assert_eq!(host_lock(&host, libc::F_WRLCK, ALL), 0);
    assert_eq!(host_lock(&host, libc::F_UNLCK, ALL), 0);
    assert_eq!(lock_in_the_way(&guest, libc::F_WRLCK).0, libc::F_UNLCK);
}

/// Runs the python program `code` with the path as its argument: a process with locks of its own.
fn python(code: &str, path: &std::path::Path) -> String {
    let output = Command::new("python3").arg("-c").arg(code).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const TRY: &str = "import fcntl,sys\nf=open(sys.argv[1],'r+')\ntry:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n print('got')\nexcept OSError as e:\n print(e.errno)";

fn posix_locks_hold_between_processes_of_a_guest() {
    let pair = Pair::new();
    pair.both(|dir| {
        let file = open(dir.join("f"));
        posix_lock(&file, libc::F_WRLCK, (5, 1), false).unwrap();
        let pid = "import fcntl,struct,sys,os\nf=open(sys.argv[1])\nl=fcntl.fcntl(f,fcntl.F_GETLK,struct.pack('hhqqi4x',fcntl.F_WRLCK,0,0,0,0))\nt,w,s,n,p=struct.unpack('hhqqi4x',l)\nprint(t,s,n,p==os.getppid())";
        let held = (python(TRY, &dir.join("f")), python(pid, &dir.join("f")));
        posix_lock(&file, libc::F_UNLCK, (5, 1), false).unwrap();
        (held, python(TRY, &dir.join("f")))
    });
}

fn posix_locks_go_with_the_first_close() {
    let pair = Pair::new();
    pair.both(|dir| {
        let (file, other) = (open(dir.join("f")), open(dir.join("f")));
        posix_lock(&file, libc::F_WRLCK, ALL, false).unwrap();
        let held = python(TRY, &dir.join("f"));
        drop(other);
        (held, python(TRY, &dir.join("f")))
    });
}

fn a_file_that_may_no_longer_be_opened_is_locked() {
    let pair = Pair::new();
    let guest = open(pair.guest().join("f"));
    fs::set_permissions(pair.host.join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    posix_lock(&guest, libc::F_WRLCK, ALL, false).unwrap();
    let host = open(pair.host.join("f"));
    assert_eq!(host_lock(&host, libc::F_RDLCK, ALL), libc::EAGAIN);
    drop(guest);
    assert_eq!(host_lock(&host, libc::F_WRLCK, ALL), 0);
}

fn flock_holds_between_two_guests_and_the_host() {
    let pair = Pair::new();
    let second = Mounted::directory(&pair.host);
    let files = [open(pair.guest().join("f")), open(second.path.join("f")), open(pair.host.join("f"))];
    for holder in &files {
        holder.try_exclusive().unwrap();
        let others = files.iter().filter(|file| file.as_raw_fd() != holder.as_raw_fd());
        assert!(others.clone().all(|other| other.try_exclusive().is_err() && other.try_shared().is_err()));
        holder.release().unwrap();
    }
    files.iter().for_each(|file| file.try_shared().unwrap());
    assert!(files[0].try_exclusive().is_err());
}

fn a_process_that_waits_for_a_lock_gets_it() {
    let pair = Pair::new();
    let host = open(pair.host.join("f"));
    for flock in [true, false] {
        if flock {
            host.try_exclusive().unwrap();
        } else {
            assert_eq!(host_lock(&host, libc::F_WRLCK, ALL), 0);
        }
        let (path, (begins, got)) = (pair.guest().join("f"), mpsc::channel());
        let waiting = std::thread::spawn(move || {
            let file = open(path);
            begins.send("begins").unwrap();
            if flock {
                file.exclusive().unwrap();
            } else {
                posix_lock(&file, libc::F_WRLCK, ALL, true).unwrap();
            }
            begins.send("has it").unwrap();
        });
        assert_eq!(got.recv_timeout(UNTIL), Ok("begins"));
        assert!(got.recv_timeout(Duration::from_millis(200)).is_err(), "it has a lock that the host holds");
        // Others go on in the meantime.
        fs::write(pair.guest().join("other"), b"x").unwrap();
        if flock {
            host.release().unwrap();
        } else {
            assert_eq!(host_lock(&host, libc::F_UNLCK, ALL), 0);
        }
        assert_eq!(got.recv_timeout(UNTIL), Ok("has it"));
        waiting.join().unwrap();
    }
}

fn a_process_that_waits_for_a_lock_can_be_killed() {
    let pair = Pair::new();
    let host = open(pair.host.join("f"));
    host.try_exclusive().unwrap();
    assert_eq!(host_lock(&host, libc::F_WRLCK, ALL), 0);
    for how in ["flock", "lockf"] {
        let code = format!(
            "import fcntl,sys\nf=open(sys.argv[1],'r+')\nprint('begins',flush=True)\nfcntl.{how}(f,fcntl.LOCK_EX)"
        );
        let mut waits = Command::new("python3")
            .args(["-c", &code])
            .arg(pair.guest().join("f"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(waits.stdout.take().unwrap()), &mut line).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        nix::sys::signal::kill(Pid::from_raw(waits.id() as i32), Signal::SIGKILL).unwrap();
        assert!(!waits.wait().unwrap().success());
    }
    host.release().unwrap();
    assert_eq!(host_lock(&host, libc::F_UNLCK, ALL), 0);
    // What was killed has taken no lock behind everybody's back.
    assert_eq!(python(TRY, &pair.guest().join("f")), "got");
    open(pair.guest().join("f")).try_exclusive().unwrap();
    let file = open(pair.guest().join("f"));
    file.write_all_at(b"x", 0).unwrap();
}

fn locks_die_with_the_server() {
    let mut pair = Pair::new();
    let guest = open(pair.guest().join("f"));
    posix_lock(&guest, libc::F_WRLCK, ALL, false).unwrap();
    guest.try_exclusive().unwrap();
    let host = open(pair.host.join("f"));
    assert!(host.try_exclusive().is_err());
    pair.mounted.kill_server();
    host.try_exclusive().unwrap();
    assert_eq!(host_lock(&host, libc::F_WRLCK, ALL), 0);
    // The mount is dead, and says so at once.
    let dead = errno(fs::metadata(pair.guest().join("other")));
    assert!([libc::ENOTCONN, libc::ECONNABORTED].contains(&dead), "{dead}");
}

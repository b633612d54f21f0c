//! The file server as others see it on a node.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The runner starts it by a path whose last word is "exe", and then the kernel calls it so.
#[test]
fn its_name_tells_that_it_is_no_vm_of_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("exe");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_spank-vm"), &exe).unwrap();
    // It ends soon, for it gets nothing to serve. Until it is waited for, its name can be read.
    let mut command = Command::new(exe);
    command.arg("file-server").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = command.spawn().unwrap();
    let name = || fs::read_to_string(format!("/proc/{}/comm", server.id())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !name().starts_with("spank-vm") && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let found = name();
    // It may have ended by itself.
    let _ = server.kill();
    server.wait().unwrap();
    assert_eq!(found, "spank-vm-files\n");
}

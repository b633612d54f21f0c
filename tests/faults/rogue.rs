//! This program in the place of QEMU, as a hostile guest.

#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use proto::{BootTimes, Decoder, ToGuest, ToHost, VERSION};

use testkit::Cluster;

/// Says nothing at all.
pub const SILENT: &str = "rogue-silent";
/// Sends nonsense instead of its HELLO.
pub const NOISE: &str = "rogue-noise";
/// Starts the command correctly and then sends nonsense.
pub const GARBAGE: &str = "rogue-garbage";
/// Starts the command and exits.
pub const FAREWELL: &str = "rogue-farewell";

/// Longest life of such a process; the runner kills it earlier.
const LIFE: Duration = Duration::from_secs(300);

/// Puts this program where job users may execute it, under the name of its role.
pub fn install(cluster: &Cluster, role: &str) -> PathBuf {
    let path = cluster.dir.join(role);
    // Not by its name: who builds meanwhile puts another program there.
    fs::copy("/proc/self/exe", &path).unwrap();
    path
}

/// Plays the role that this program's name says, if it is one.
pub fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args();
    let name = arguments.next()?;
    let role = Path::new(&name).file_name()?.to_str()?.to_owned();
    role.starts_with("rogue-").then(|| as_guest(&role, arguments.collect()))
}

fn as_guest(role: &str, arguments: Vec<String>) -> ExitCode {
    let channel = arguments.iter().find_map(|word| word.strip_prefix("socket,id=channel,fd="));
    // SAFETY: QEMU was started with this descriptor for this purpose; nothing else here uses it.
    let mut channel = unsafe { UnixStream::from_raw_fd(channel.expect("a channel").parse().unwrap()) };
    let noise = [0xa5; 4096];
    match role {
        SILENT => {}
        NOISE => channel.write_all(&noise).unwrap(),
        _ => {
            start_command(&mut channel);
            if role == FAREWELL {
                return ExitCode::from(7);
            }
            channel.write_all(&noise).unwrap();
        }
    }
    std::thread::sleep(LIFE);
    ExitCode::FAILURE
}

/// Sends HELLO like an agent, and reports that the command runs.
fn start_command(channel: &mut UnixStream) {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 65536];
    loop {
        let n = channel.read(&mut buffer).unwrap();
        assert!(n > 0, "the runner has gone");
        decoder.push(&buffer[..n]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            let mut answer = Vec::new();
            match ToGuest::parse(frame).unwrap() {
                ToGuest::Hello { nonce, .. } => {
                    ToHost::Hello { version: VERSION, nonce, times: BootTimes::default() }.encode(0, &mut answer);
                }
                ToGuest::Start => {
                    ToHost::Started(2).encode(0, &mut answer);
                    channel.write_all(&answer).unwrap();
                    return;
                }
                _ => {}
            }
            channel.write_all(&answer).unwrap();
        }
    }
}

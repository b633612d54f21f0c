//! The server behind real mounts of this host's kernel, compared with the same operations on a plain directory.
//!
//! Needs root and /dev/fuse: mounts are made in a private mount namespace of each test and end with it. The server
//! runs as in production, as a confined process; a small pump stands in for the one in the guest.

mod attributes;
mod basics;
mod errors;
mod hostile;
mod labels;
mod links;
mod locks;
mod mounted;
mod names;
mod pair;
mod processes;
mod pump;
mod random;
mod raw;
mod sharing;
mod times;
mod walking;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// What a test is: its name and what it does.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => return processes::serve(),
        Some("pump") => return pump::run(),
        _ => {}
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        needs();
    }
    let groups: [(&str, &[Test]); 11] = [
        ("attributes", attributes::TESTS),
        ("basics", basics::TESTS),
        ("errors", errors::TESTS),
        ("hostile", hostile::TESTS),
        ("labels", labels::TESTS),
        ("links", links::TESTS),
        ("locks", locks::TESTS),
        ("names", names::TESTS),
        ("random", random::TESTS),
        ("sharing", sharing::TESTS),
        ("walking", walking::TESTS),
    ];
    let trial = |group: &str, (name, test): Test| {
        Trial::test(format!("{group}::{name}"), move || {
            test();
            Ok(())
        })
    };
    let all = groups.iter().flat_map(|(group, tests)| tests.iter().map(|test| trial(group, *test)));
    libtest_mimic::run(&arguments, all.collect()).exit_code()
}

/// Ends with one line where these tests cannot run.
fn needs() {
    let lacks = match (nix::unistd::geteuid().is_root(), std::fs::File::open("/dev/fuse")) {
        (false, _) => "root: they mount".to_owned(),
        (_, Err(error)) => format!("/dev/fuse: {error}"),
        _ => return,
    };
    panic!("the tests of the file server's mounts need {lacks}");
}

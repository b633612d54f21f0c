//! The lab's suite: what only a node with KVM, systemd and cgroup v2 can show, on Debian's own releases of Slurm.
//!
//! One node VM for each release, one after the other; all tests of a release run on the same one, in their order, as
//! an ordinary user. Each ends with a look at what is left in the node, which must be nothing.
//! `SPANK_VM_LAB_RELEASES="bookworm trixie"` chooses the releases (Debian 12 and 13 without it).
//!
//! A test with `lacks` shows something that does not work yet: it must fail, with that reason. Once it passes, remove
//! the reason.

mod closed;
mod files;
mod guests;
mod jobs;
mod node;
mod packages;
mod reboot;
mod report;
mod streams;

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use testkit::lab::Lab;

use report::Release;

/// A test: a sentence and a function of the lab.
struct Case {
    name: &'static str,
    run: fn(&Lab),
    /// Why it must fail, if it shows something that does not work yet.
    lacks: Option<&'static str>,
    /// The only release on which it must fail; none means all.
    only_on: Option<&'static str>,
}

impl Case {
    /// Why it must fail on this release, if it must.
    fn lacks_on(&self, release: &str) -> Option<&'static str> {
        self.lacks.filter(|_| self.only_on.is_none_or(|only| only == release))
    }
}

const fn case(name: &'static str, run: fn(&Lab)) -> Case {
    Case { name, run, lacks: None, only_on: None }
}

#[expect(dead_code, reason = "nothing is lacking now")]
const fn lacking(name: &'static str, run: fn(&Lab), why: &'static str) -> Case {
    Case { name, run, lacks: Some(why), only_on: None }
}

#[expect(dead_code, reason = "nothing is lacking now")]
const fn lacking_on(release: &'static str, name: &'static str, run: fn(&Lab), why: &'static str) -> Case {
    Case { name, run, lacks: Some(why), only_on: Some(release) }
}

/// The reboot is nearly last: it loses templates and earlier lines of the journal. Packages are: in the end they take the
/// boot kit with them.
const CASES: &[&[Case]] = &[
    guests::CASES,
    jobs::CASES,
    streams::CASES,
    files::CASES,
    node::CASES,
    closed::CASES,
    reboot::CASES,
    packages::CASES,
];

/// The releases if none are chosen.
const RELEASES: &str = "bookworm trixie";

/// Where and why the last assertion failed: printed with the result of the test and not in the middle of the list.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// The lab that is up, or why it is not, and which release it is.
type Shared = Arc<Mutex<Option<(String, Result<Lab, String>)>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // In this thread: the lab ends when the thread ends.
    arguments.test_threads = Some(1);
    let releases = std::env::var("SPANK_VM_LAB_RELEASES").unwrap_or_else(|_| RELEASES.to_owned());
    let lab = Shared::default();
    let seen: Arc<Mutex<Vec<Release>>> = Arc::default();
    let mut trials = Vec::new();
    for release in releases.split_whitespace() {
        for case in CASES.iter().copied().flatten() {
            let (release, lab, seen) = (release.to_owned(), Arc::clone(&lab), Arc::clone(&seen));
            trials.push(Trial::test(format!("{release}: {}", case.name), move || run(&release, case, &lab, &seen)));
        }
    }
    panic::set_hook(Box::new(|what| *LAST_PANIC.lock().unwrap() = what.to_string()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    report::print(&seen.lock().unwrap());
    // A run of a few chosen cases is no report.
    if conclusion.num_filtered_out == 0 && !arguments.list {
        report::write(&seen.lock().unwrap());
    }
    let ended = lab.lock().unwrap().take().map_or(Ok(()), |(_, lab)| lab.map_or(Ok(()), Lab::stop));
    if let Err(why) = ended {
        eprintln!("after the last test: {why}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Runs a case in a lab of its release, which is started for the first of them.
fn run(release: &str, case: &'static Case, shared: &Shared, seen: &Mutex<Vec<Release>>) -> Result<(), Failed> {
    let mut shared = shared.lock().unwrap();
    if shared.as_ref().is_none_or(|(up, _)| up != release) {
        if let Some((_, Ok(former))) = shared.take() {
            former.stop()?;
        }
        let began = Instant::now();
        let lab = Lab::start(release, 1);
        let versions = lab.as_ref().map(Lab::versions).unwrap_or_default();
        seen.lock().unwrap().push(Release::new(release, versions, began.elapsed()));
        *shared = Some((release.to_owned(), lab));
    }
    let lab = shared.as_ref().expect("it was started above").1.as_ref()?;
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(lab)));
    let outcome = outcome.map_err(|_| std::mem::take(&mut *LAST_PANIC.lock().unwrap()));
    let outcome = outcome.and_then(|()| nothing_is_left(lab));
    let works = outcome.is_ok();
    seen.lock().unwrap().last_mut().expect("it was added above").add(case, began.elapsed(), works);
    match (outcome, case.lacks_on(release)) {
        (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
        (Err(why), None) => Err(why.into()),
        (Ok(()), Some(why)) => Err(format!("it works now; take the reason away: {why}").into()),
    }
}

/// Checks that the node is as before the test: no VM, no task's directory, nothing in the queue, ready for work.
fn nothing_is_left(lab: &Lab) -> Result<(), String> {
    let script = r#"
        for try in $(seq 60); do
            left=$(pgrep -a qemu-system; ls -A /run/spank-vm | grep "^[0-9]"; squeue -h; sinfo -hN -o "%N %T" | grep -v " idle$")
            [ -n "$left" ] || exit 0
            sleep 0.5
        done
        echo "$left"; exit 1"#;
    let looked = lab.sh("root", script);
    if looked.code == 0 { Ok(()) } else { Err(format!("left behind: {looked:?}")) }
}

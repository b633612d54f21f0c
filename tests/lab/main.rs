//! The lab's suite: what only a node with KVM, systemd and cgroup v2 can show, on Debian's own releases of Slurm.
//!
//! One node VM for each release, one after the other; all tests of a release run on the same one, in their order, as
//! an ordinary user. Each ends with a look at what is left in the node, which must be nothing. The last group has a
//! cluster of two node VMs, of one release.
//!
//! `SPANK_VM_LAB_RELEASES="bookworm trixie"` chooses the releases (Debian 12 and 13 without it). Debian 13 runs all
//! tests. Others leave out those that show the same on every release (`once`), unless `SPANK_VM_LAB_WHOLE` is set.

mod case;
mod closed;
mod files;
mod guests;
mod jobs;
mod mpi;
mod network;
mod node;
mod packages;
mod reboot;
mod report;
mod streams;
mod two;
mod ways;

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use testkit::lab::{Lab, Losses};

use case::{Case, case};
use report::Release;

/// On one node. The reboot is nearly last: it loses templates and earlier lines of the journal. Packages are: in the
/// end they take the boot kit with them.
const CASES: &[&[Case]] = &[
    guests::CASES,
    ways::CASES,
    jobs::CASES,
    streams::CASES,
    mpi::CASES,
    files::CASES,
    node::CASES,
    closed::CASES,
    reboot::CASES,
    packages::CASES,
];

/// The release that runs the whole suite, and the cases on two nodes. Others leave out what one release is enough for.
const WHOLE: &str = "trixie";

/// The releases if none are chosen.
const RELEASES: &str = "bookworm trixie";

/// Where and why the last assertion failed: printed with the result of the test and not in the middle of the list.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Guests that the emulated processor lost, of several hundred starts: docs/lab.md. Of a fault of ours there would be more.
static LOSSES: Mutex<Losses> = Mutex::new(Losses::at_most(3));

/// A lab: a release, and how many nodes.
type Kind = (String, u8);

/// The lab that is up, or why it is not.
type Shared = Arc<Mutex<Option<(Kind, Result<Lab, String>)>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // In this thread: the lab ends when the thread ends.
    arguments.test_threads = Some(1);
    let releases = std::env::var("SPANK_VM_LAB_RELEASES").unwrap_or_else(|_| RELEASES.to_owned());
    let lab = Shared::default();
    let seen: Arc<Mutex<Vec<Release>>> = Arc::default();
    let mut trials = Vec::new();
    let mut add = |release: &str, nodes: u8, case: &'static Case| {
        let (kind, lab, seen) = ((release.to_owned(), nodes), Arc::clone(&lab), Arc::clone(&seen));
        let title = if nodes == 1 { release.to_owned() } else { format!("{release}, {nodes} nodes") };
        trials.push(Trial::test(format!("{title}: {}", case.name), move || run(&kind, case, &lab, &seen)));
    };
    for release in releases.split_whitespace() {
        let is_whole = release == WHOLE || std::env::var_os("SPANK_VM_LAB_WHOLE").is_some();
        for case in CASES.iter().copied().flatten().filter(|case| is_whole || !case.once) {
            add(release, 1, case);
        }
    }
    if releases.split_whitespace().any(|release| release == WHOLE) {
        for case in [two::CASES, network::CASES].into_iter().flatten() {
            add(WHOLE, 2, case);
        }
    }
    panic::set_hook(Box::new(|what| *LAST_PANIC.lock().unwrap() = what.to_string()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    report::print(&seen.lock().unwrap());
    if let Some(summary) = LOSSES.lock().unwrap().summary() {
        println!("{summary}");
    }
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

/// Runs a case in a lab of its kind, which is started for the first of them.
fn run(kind: &Kind, case: &'static Case, shared: &Shared, seen: &Mutex<Vec<Release>>) -> Result<(), Failed> {
    let mut shared = shared.lock().unwrap();
    if shared.as_ref().is_none_or(|(up, _)| up != kind) {
        if let Some((_, Ok(former))) = shared.take() {
            former.stop()?;
        }
        let began = Instant::now();
        let lab = Lab::start(&kind.0, kind.1);
        let versions = lab.as_ref().map(Lab::versions).unwrap_or_default();
        seen.lock().unwrap().push(Release::new(kind, versions, began.elapsed()));
        *shared = Some((kind.clone(), lab));
    }
    let lab = shared.as_ref().expect("it was started above").1.as_ref()?;
    let began = Instant::now();
    let mut lost = 0;
    let outcome = loop {
        let tried = Instant::now();
        let Err(why) = once(case, lab) else { break Ok(()) };
        // What a job in the background says is in the journal alone.
        let told = format!("{why}\n{}", lab.told_since(tried.elapsed()));
        let is_excused = LOSSES.lock().unwrap().excuse(case.name, &told);
        if !is_excused {
            break Err(why);
        }
        lost += 1;
        eprintln!("\nthe emulated processor lost a guest, which may happen; once more:\n{told}");
        lab.forget_failed_templates();
    };
    let works = outcome.is_ok();
    seen.lock().unwrap().last_mut().expect("it was added above").add(case, began.elapsed(), works, lost);
    outcome.map_err(|why| {
        // The suite's own report comes an hour later, or never if the run is ended.
        eprintln!("\n{why}");
        why.into()
    })
}

/// Runs a case, and looks at what it leaves.
fn once(case: &Case, lab: &Lab) -> Result<(), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(lab)));
    outcome.map_err(|_| std::mem::take(&mut *LAST_PANIC.lock().unwrap()))?;
    nothing_is_left(lab)
}

/// Checks that the nodes are as before the test: no VM, no task's directory, no network of a step's own, nothing in the queue, ready for
/// work.
fn nothing_is_left(lab: &Lab) -> Result<(), String> {
    let script = r#"
        for try in $(seq 300); do
            left=$(pgrep -a qemu-system; ls -A /run/spank-vm | grep "^[0-9]"; squeue -h; sinfo -hN -o "%N %T" | grep -v " idle$"
                ss -Hlun 'sport = :4789'; find /proc/[0-9]*/fd -lname /dev/net/tun 2>/dev/null)
            [ -n "$left" ] || exit 0
            sleep 0.1
        done
        echo "$left"; exit 1"#;
    for node in 1..=lab.nodes() {
        let looked = lab.sh_on(node, "root", script);
        if looked.code != 0 {
            return Err(format!("left behind on node{node}: {looked:?}"));
        }
    }
    Ok(())
}

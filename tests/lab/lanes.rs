//! Labs of several kinds, side by side: a node VM keeps only one of the machine's processors busy (docs/lab.md).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

use testkit::lab::Lab;

use crate::Case;
use crate::kind::Kind;
use crate::report::Release;

/// How many labs are up at once where [`ENOUGH_MIB`] of memory are free; otherwise it is one.
const LANES: usize = 2;

/// Free memory for two labs at once, of which one may have two nodes of 6 GiB. None of them ever touches all of that.
const ENOUGH_MIB: u64 = 18 * 1024;

thread_local! {
    /// Where and why this lane's last assertion failed: printed with the result of the test and not in the middle of the list.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// How a case ended: why it failed, if it did.
pub type Outcome = Result<(), String>;

/// The cases that share a lab, in their order, and where each one's outcome is waited for.
pub struct Group {
    pub kind: Kind,
    pub cases: Vec<(&'static Case, Sender<Outcome>)>,
}

/// Runs all groups, and returns what they showed in their order, and whether every lab ended.
pub fn run(groups: Vec<Group>) -> (Vec<Release>, Outcome) {
    panic::set_hook(Box::new(|what| LAST_PANIC.with_borrow_mut(|last| *last = what.to_string())));
    let lanes = if free_mib() < ENOUGH_MIB { 1 } else { LANES };
    let waiting: Mutex<VecDeque<_>> = Mutex::new(groups.into_iter().enumerate().collect());
    let seen = Mutex::new(Vec::new());
    let ended = Mutex::new(Ok(()));
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap().pop_front();
                    let Some((place, group)) = next else { break };
                    if group.cases.is_empty() {
                        continue;
                    }
                    let (release, stopped) = run_group(group);
                    seen.lock().unwrap().push((place, release));
                    if stopped.is_err() {
                        *ended.lock().unwrap() = stopped;
                    }
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_by_key(|(place, _)| *place);
    (seen.into_iter().map(|(_, release)| release).collect(), ended.into_inner().unwrap())
}

fn free_mib() -> u64 {
    let known = std::fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let line = known.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).expect("a number of KiB") / 1024
}

/// Runs all cases of a group in a lab of their own. The lab ends with this thread.
fn run_group(group: Group) -> (Release, Outcome) {
    let began = Instant::now();
    let lab = Lab::start(&group.kind.release, group.kind.nodes);
    let versions = lab.as_ref().map(Lab::versions).unwrap_or_default();
    let mut release = Release::new(&group.kind, versions, began.elapsed());
    for (case, result) in group.cases {
        let began = Instant::now();
        let outcome = lab.as_ref().map_err(Clone::clone).and_then(|lab| run_case(case, lab));
        release.add(case, began.elapsed(), outcome.is_ok());
        if let Err(why) = &outcome {
            // The suite's own report comes later, or never if the run is ended.
            eprintln!("\n{}: {}: {why}", group.kind.title(), case.name);
        }
        // Who waited for it may have been ended.
        let _ = result.send(outcome);
    }
    (release, lab.map_or(Ok(()), Lab::stop))
}

/// Runs a case, and looks at what it leaves. A failed one must not fail those that come after it.
fn run_case(case: &Case, lab: &Lab) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(lab)));
    let outcome = outcome.map_err(|_| LAST_PANIC.take()).and_then(|()| nothing_is_left(lab));
    if outcome.is_err() {
        lab.forget_jobs();
    }
    outcome
}

/// Checks that the nodes are as before the test: no VM, no task's directory, no network of a step's own, nothing in the queue, ready for
/// work.
fn nothing_is_left(lab: &Lab) -> Outcome {
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

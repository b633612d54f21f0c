//! On which processor the courier runs.
//!
//! Who asks waits, and the courier works meanwhile: on another processor, both wake each other across processors, which in a
//! VM are two or three exits each time. The kernel puts them there, because it takes a processor that idles for better
//! than one whose process is about to wait. So where one task asks and nothing else runs, the courier goes to that task's
//! processor, and the port's interrupt with it. There it does not interrupt the task when it is woken (`SCHED_BATCH`), and
//! when it answers, it does so as a process that runs only where nothing else does (`SCHED_IDLE`): then the kernel wakes
//! the task on this processor, and lets it go first.
//!
//! # Failure modes
//! - Others run, or several tasks ask in turn: the courier is left to the kernel, on all processors.
//! - The task's processor is given other work: the courier waits for its turn there, until a look at it a few questions later.
//! - The task moves: the same look finds it elsewhere, and the courier follows.
//! - The kernel refuses, or wakes the task elsewhere all the same (before Linux 5.4): then it is as without this.
//! - The task computes after its answer: the courier has its turn when the task's time slice ends, a few milliseconds later at
//!   most, and whoever asks meanwhile waits as long once: their question ends the arrangement.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::stat::{fstat, major, minor};
use nix::unistd::{Pid, geteuid};

use super::held::lock;
use crate::sys::{self, Turn};

/// So many questions in a row of one task begin it. After so many more, or so long, is looked whether it still holds.
const ENOUGH: u32 = 4;
const LOOK: u32 = 16;
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// Questions that lie so far apart are not in a row.
const SOON: Duration = Duration::from_secs(1);

/// The interrupt is not moved more often.
const MOVES_AGAIN: Duration = Duration::from_millis(200);

/// Everywhere.
const ALL: i32 = -1;

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    /// The kernel does as it is told.
    works: AtomicBool,
    /// The processor of the courier, or [`ALL`].
    here: AtomicI32,
    /// Answers let the task go first.
    yields: AtomicBool,
    /// Threads of the courier that have answered so, and are not back yet.
    waiting: AtomicU32,
    state: Mutex<State>,
    /// Files that say where the port's interrupts go.
    interrupts: Mutex<Interrupts>,
}

#[derive(Debug, Default)]
struct State {
    /// The task that asked last, and when.
    asks: u32,
    last: Option<Instant>,
    /// How many questions it will have asked at the next look, and since when.
    left: u32,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Interrupts {
    /// The port's device, as the kernel calls it.
    device: Option<String>,
    /// Where they go, and since when.
    at: Option<(usize, Instant)>,
}

/// A thread's own idea of where it is.
#[derive(Debug)]
pub(super) struct Seat(i32);

impl Seat {
    /// Of a thread that may run everywhere.
    pub fn new() -> Self {
        Self(ALL)
    }
}

impl Place {
    pub fn new(port: impl AsFd) -> Self {
        Self {
            works: AtomicBool::new(geteuid().is_root()),
            here: AtomicI32::new(ALL),
            yields: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            state: Mutex::default(),
            interrupts: Mutex::new(Interrupts { device: device_of(port), at: None }),
        }
    }

    /// A task has asked; it `waits` unless it may have other work meanwhile: then the courier works better elsewhere.
    pub fn asked(&self, pid: u32, waits: bool, seat: &mut Seat) {
        if pid != 0 && self.works.load(Ordering::Relaxed) {
            let looks = self.note(pid, waits, Instant::now());
            if looks {
                self.look(pid, seat);
            }
        }
        self.settle(seat);
    }

    /// Whether it is time to look where the task is.
    fn note(&self, pid: u32, waits: bool, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let gap = |since: Option<Instant>| since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if state.asks != pid || !waits || gap(state.last) >= SOON {
            *state = State { asks: pid, left: ENOUGH, ..State::default() };
            self.yields.store(false, Ordering::Relaxed);
            self.here.store(ALL, Ordering::Relaxed);
        }
        state.last = Some(now);
        state.left = state.left.saturating_sub(1);
        let looks = state.left == 0 || state.since.is_some() && gap(state.since) >= LOOK_AFTER;
        if looks {
            (state.left, state.since) = (LOOK, Some(now));
        }
        looks
    }

    /// Takes the task's processor if nothing else runs.
    fn look(&self, pid: u32, seat: &Seat) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let cpu = processor_of(pid, waiting).filter(|_| seat.0 != ALL || has_several());
        self.yields.store(cpu.is_some(), Ordering::Relaxed);
        self.here.store(cpu.map_or(ALL, |cpu| cpu as i32), Ordering::Relaxed);
        match cpu {
            Some(cpu) => lock(&self.interrupts).follow(cpu, Instant::now()),
            // Perhaps what runs is short.
            None => lock(&self.state).left = ENOUGH,
        }
    }

    /// Takes this thread to where the courier is.
    pub fn settle(&self, seat: &mut Seat) {
        let here = self.here.load(Ordering::Relaxed);
        if here == seat.0 {
            return;
        }
        let done = match usize::try_from(here) {
            Ok(cpu) => sys::keep_to(cpu).and_then(|()| sys::take_turn(Turn::Waits)),
            Err(_) => sys::keep_to_first(u16::MAX).and_then(|()| sys::take_turn(Turn::Usual)),
        };
        if done.is_err() {
            self.give_up();
        }
        seat.0 = here;
    }

    /// Answers, and lets the task go first where nothing else runs.
    pub fn answer<T>(&self, seat: &Seat, give: impl FnOnce() -> T) -> T {
        let yields = seat.0 != ALL && self.yields.load(Ordering::Relaxed);
        if !yields || sys::take_turn(Turn::Last).is_err() {
            return give();
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let given = give();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if sys::take_turn(Turn::Waits).is_err() {
            self.give_up();
        }
        given
    }

    fn give_up(&self) {
        self.works.store(false, Ordering::Relaxed);
        self.yields.store(false, Ordering::Relaxed);
        self.here.store(ALL, Ordering::Relaxed);
    }
}

impl Interrupts {
    fn follow(&mut self, cpu: usize, now: Instant) {
        let Some(device) = &self.device else { return };
        let is_early = |(at, since): (usize, Instant)| at == cpu || now.saturating_duration_since(since) < MOVES_AGAIN;
        if self.at.is_some_and(is_early) {
            return;
        }
        self.at = Some((cpu, now));
        for number in interrupts_of(device, &fs::read_to_string("/proc/interrupts").unwrap_or_default()) {
            // Where it cannot be moved, it stays.
            let _ = fs::write(format!("/proc/irq/{number}/smp_affinity_list"), cpu.to_string());
        }
    }
}

/// Whether this thread, which may run everywhere, has several processors.
fn has_several() -> bool {
    let set = sched_getaffinity(Pid::from_raw(0));
    set.is_ok_and(|set| (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count() > 1)
}

/// The processor on which a task waits, if nothing runs but this thread and so many of the courier's that wait for their turn.
fn processor_of(pid: u32, waiting: u32) -> Option<usize> {
    let (cpu, runs) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let running = running(&fs::read_to_string("/proc/loadavg").ok()?)?;
    (running <= 1 + waiting + u32::from(runs)).then_some(cpu)
}

/// How many threads run or could.
fn running(loadavg: &str) -> Option<u32> {
    loadavg.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

/// A task's last processor, and whether it runs.
fn parse_stat(stat: &str) -> Option<(usize, bool)> {
    // The name, in brackets, may have blanks and brackets.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let runs = fields.next()? == "R";
    // Of all fields the 39th.
    Some((fields.nth(35)?.parse().ok()?, runs))
}

/// Numbers of a device's interrupts.
fn interrupts_of<'a>(device: &'a str, interrupts: &'a str) -> impl Iterator<Item = &'a str> {
    interrupts.lines().filter_map(move |line| {
        let name = line.split_ascii_whitespace().next_back()?;
        let is_its = name.strip_prefix(device).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        let number = line.split(':').next()?.trim();
        (is_its && !name.ends_with("-config")).then_some(number)
    })
}

/// The virtio device of a port.
fn device_of(port: impl AsFd) -> Option<String> {
    let number = fstat(port.as_fd()).ok()?.st_rdev;
    let place: PathBuf = fs::read_link(format!("/sys/dev/char/{}:{}", major(number), minor(number))).ok()?;
    let is_device =
        |part: &&Path| part.to_str().is_some_and(|part| part.starts_with("virtio") && part != "virtio-ports");
    let name = place.iter().map(Path::new).find(is_device)?;
    name.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_that_asks_again_and_again_is_looked_for() {
        let (port, now) = (tempfile::tempfile().unwrap(), Instant::now());
        let place = Place::new(&port);
        let looks = |pid, waits| place.note(pid, waits, now);
        assert!(!looks(7, true) && !looks(7, true) && !looks(7, true) && looks(7, true));
        place.here.store(1, Ordering::Relaxed);
        let later = (1..=LOOK).map(|_| looks(7, true)).filter(|looks| *looks).count();
        assert_eq!((later, place.here.load(Ordering::Relaxed)), (1, 1));
        assert!(!looks(8, true), "another one begins anew");
        assert_eq!(place.here.load(Ordering::Relaxed), ALL);
        assert!(!looks(8, true) && !looks(8, true) && looks(8, true));
        assert!(!looks(8, false) && !looks(8, true), "who reads much is left alone");
        assert!(!place.note(8, true, now + SOON), "and who has not asked for long");
        assert!(!looks(9, true) && !looks(9, true) && !looks(9, true) && looks(9, true));
        assert!(place.note(9, true, now + LOOK_AFTER), "it may have moved");
    }

    #[test]
    fn what_the_kernel_says_of_a_task_is_understood() {
        let stat = "71 (a) R b) S 1 71 71 0 -1 4194560 23 0 0 0 0 0 0 0 20 0 1 0 5 8 1 9 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0";
        assert_eq!(parse_stat(stat), Some((3, false)));
        assert_eq!(parse_stat(&stat.replace(") S", ") R")), Some((3, true)));
        assert_eq!(parse_stat("71 (a"), None);
        assert_eq!(running("0.00 0.01 0.05 2/97 1234\n"), Some(2));
        let own = fs::read_to_string("/proc/thread-self/stat").unwrap();
        assert_eq!(parse_stat(&own).map(|(_, runs)| runs), Some(true));
    }

    #[test]
    fn the_interrupts_of_one_device_are_found() {
        let list = "           CPU0       CPU1\n  25:   0   7   PCI-MSI 16385-edge      virtio1-virtqueues\n \
                    24:  0  0   PCI-MSI 16384-edge   virtio1-config\n 26: 0 0 PCI-MSI 3-edge virtio10-req.0\n \
                    5:  9  9  IO-APIC   5-edge  virtio1\nRES:  1 2 Rescheduling interrupts\n";
        assert_eq!(interrupts_of("virtio1", list).collect::<Vec<_>>(), ["25", "5"]);
    }
}

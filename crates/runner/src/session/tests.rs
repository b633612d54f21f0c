//! A stand-in for a guest, and time.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::signals::Signals;
use crate::timing::Moments;
use proto::ToHost;

/// Set in the process that is stopped.
const IS_CHILD: &str = "SPANK_VM_TEST_IS_STOPPED";

/// How long the guest may take, and after how many sleeps of a tenth of a second it answers.
const PATIENCE: Duration = Duration::from_secs(3);
const NAPS: u32 = 10;

struct Nobody;

impl Listener for Nobody {
    fn hear(&mut self, _: Address, _: ToHost<'_>, _: &mut Outgoing) -> Result<(), Refusal> {
        Ok(())
    }
}

fn wait_for_a_slow_guest() -> Result<(), String> {
    let (process, mut peer) = play();
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    let signals = Signals::none().unwrap();
    let mut events = Events::new(&signals);
    vm.greet(1, Wait::answer(&events.clock, PATIENCE, ""));
    let guest = std::thread::spawn(move || {
        (0..NAPS).for_each(|_| std::thread::sleep(Duration::from_millis(100)));
        peer.answer(1);
        peer
    });
    while !vm.is_up() && !vm.is_over() {
        events.turn(&mut vm, &mut Nobody, None).unwrap();
    }
    guest.join().unwrap();
    vm.failure().map_or(Ok(()), |failure| Err(failure.why().to_owned()))
}

#[test]
fn time_in_which_a_job_was_suspended_is_not_the_guest_s() {
    if std::env::var_os(IS_CHILD).is_some() {
        return wait_for_a_slow_guest().unwrap();
    }
    let this = std::env::current_exe().unwrap();
    let test = "session::tests::time_in_which_a_job_was_suspended_is_not_the_guest_s";
    let mut child =
        Command::new(this).args(["--exact", test]).env(IS_CHILD, "1").stdout(Stdio::null()).spawn().unwrap();
    let signal = |name| {
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, name).unwrap();
    };
    std::thread::sleep(Duration::from_millis(300));
    signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(PATIENCE);
    signal(nix::sys::signal::Signal::SIGCONT);
    assert!(child.wait().unwrap().success(), "the guest had more than a second left");
}

#[test]
fn a_disk_that_failed_between_two_sessions_ends_the_next_one_with_its_reason() {
    let (process, mut peer) = play();
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    let clock = AwakeClock::new();
    vm.greet(1, Wait::answer(&clock, PATIENCE, ""));
    vm.pause();
    let full =
        r#"{"event": "BLOCK_IO_ERROR", "data": {"node-name": "scratch", "operation": "write", "nospace": true}}"#;
    peer.monitor.write_all(format!("{full}\n").as_bytes()).unwrap();
    vm.read_texts();
    assert_eq!(vm.failure(), None, "that session was over");
    vm.greet(2, Wait::answer(&clock, PATIENCE, ""));
    let why = "no space is left for the VM's private disk in 'scratch_dir'; the VM was ended";
    assert_eq!(vm.failure(), Some(&Failure::Broken(why.to_owned())));
}

#[test]
fn a_guest_that_kvm_cannot_run_any_further_does_not_stay_for_ever() {
    kvm_stops(true, Failure::Broken);
    // Without an answer KVM may be broken, as if there had been no answer in time.
    kvm_stops(false, Failure::TimedOut);
}

fn kvm_stops(has_answered: bool, expected: fn(String) -> Failure) {
    let (process, mut peer) = play();
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    let clock = AwakeClock::new();
    vm.greet(1, Wait::answer(&clock, PATIENCE, ""));
    if has_answered {
        peer.answer(1);
        vm.receive(&mut [0; 4096], &mut Nobody);
        vm.look_after(&clock, None);
    }
    peer.stderr.write_all(b"KVM internal error. Suberror: 1\nRIP=0000000000401000 RFL=00000246\n").unwrap();
    vm.read_texts();
    let why = "the node's KVM could not run the guest any further (\"KVM internal error. Suberror: 1, \
               RIP=0000000000401000\"); the VM was ended";
    assert_eq!(vm.failure(), Some(&expected(why.to_owned())));
}

#[test]
fn each_sign_of_life_is_answered_with_the_time() {
    let (process, mut peer) = play();
    let signals = Signals::none().unwrap();
    let mut events = Events::new(&signals);
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    vm.greet(1, Wait::answer(&events.clock, PATIENCE, ""));
    peer.answer(1);
    while !vm.is_up() {
        events.turn(&mut vm, &mut Nobody, None).unwrap();
    }
    vm.look_after(&events.clock, None);
    assert!(!vm.wants_to_send(), "the command that starts is not disturbed");
    events.clock.pass(std::time::Duration::from_secs(2));
    vm.look_at_the_time(&events.clock, &mut Nobody);
    peer.say(&ToHost::Pong);
    events.turn(&mut vm, &mut Nobody, None).unwrap();
    vm.flush();
    let mut heard = vec![0; 4096];
    let n = peer.channel.read(&mut heard).unwrap();
    let mut decoder = proto::Decoder::new();
    decoder.push(&heard[..n]);
    let mut last = None;
    while let Some(frame) = decoder.next_frame().unwrap() {
        last = proto::ToGuest::parse(frame).ok().map(|message| format!("{message:?}"));
    }
    assert!(last.as_ref().is_some_and(|last| last.starts_with("Clock(")), "{last:?}");
    // What nobody asked for is answered with nothing.
    peer.say(&ToHost::Pong);
    events.turn(&mut vm, &mut Nobody, None).unwrap();
    assert!(!vm.wants_to_send());
}

#[test]
fn a_guest_that_asks_for_the_time_is_answered_a_few_times() {
    let (process, mut peer) = play();
    let signals = Signals::none().unwrap();
    let mut events = Events::new(&signals);
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    let mut asks = |vm: &mut Vm, nonce| {
        vm.greet(nonce, Wait::answer(&events.clock, PATIENCE, ""));
        peer.answer(nonce);
        let mut answers = 0;
        for _ in 0..100 {
            peer.say(&ToHost::AskClock);
            events.turn(vm, &mut Nobody, None).unwrap();
            answers += u32::from(vm.wants_to_send());
            vm.flush();
            peer.drain();
        }
        answers
    };
    let answers = asks(&mut vm, 1);
    assert!((5..20).contains(&answers), "{answers}");
    assert_eq!(asks(&mut vm, 2), answers, "another session");
}

#[test]
fn what_is_awaited_is_named_when_it_does_not_come() {
    let (process, mut peer) = play();
    let signals = Signals::none().unwrap();
    let mut events = Events::new(&signals);
    let mut vm = Vm::new(0, process, None, Moments::begin(Instant::now()));
    vm.greet(1, Wait::answer(&events.clock, PATIENCE, "; look there"));
    // The rest of an earlier session.
    peer.answer(7);
    peer.say(&ToHost::Synced);
    events.turn(&mut vm, &mut Nobody, None).unwrap();
    assert!(!vm.is_up() && !vm.is_over());
    events.clock.pass(PATIENCE);
    events.turn(&mut vm, &mut Nobody, None).unwrap();
    let why = "no answer within 3 s; its console is empty; look there";
    assert_eq!(vm.failure(), Some(&Failure::TimedOut(why.to_owned())));
    assert!(!vm.has_answered());
}

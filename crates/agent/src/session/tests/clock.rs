//! A runner whose first word about the time was long on its way.

use std::time::Instant;

use super::*;
use crate::clock::PATIENCE;

/// A session whose command waits for the time, which must be asked for so often.
fn late(questions: u32, args: &[&str]) -> Runner {
    let mut runner = Runner::start(StandIn { late_clocks: questions, ..StandIn::default() });
    runner.hello(1);
    runner.send(&[ToGuest::Clock(1)]);
    runner.describe(args);
    runner.send(&[ToGuest::Start]);
    runner
}

fn hear_question(runner: &mut Runner) {
    runner.listen(|_, message| {
        assert_eq!(message, ToHost::AskClock, "before the command starts");
        Some(())
    });
}

#[test]
fn a_command_starts_when_the_time_is_known_well_enough() {
    let mut runner = late(2, &["true"]);
    hear_question(&mut runner);
    runner.send(&[ToGuest::Clock(2)]);
    hear_question(&mut runner);
    runner.send(&[ToGuest::Clock(3)]);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Code(0)));
    let calls = runner.leave().calls;
    let clocks: Vec<_> = calls.iter().filter(|call| call.starts_with("clock")).collect();
    assert_eq!(clocks, ["clock 1", "clock 2", "clock 3"]);
}

#[test]
fn a_runner_that_does_not_tell_the_time_does_not_keep_the_command_for_ever() {
    let begin = Instant::now();
    let mut runner = late(1, &["true"]);
    hear_question(&mut runner);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Code(0)));
    assert!(begin.elapsed() >= PATIENCE);
}

#[test]
fn what_is_said_to_a_command_that_waits_for_the_time_reaches_it() {
    let mut runner = late(1, &["sleep", "1000"]);
    hear_question(&mut runner);
    runner.send(&[ToGuest::Resize { rows: 1, cols: 1 }, ToGuest::Signal(9), ToGuest::Clock(2)]);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Signal(9)));
}

#[test]
fn all_tasks_of_a_guest_wait_for_the_same_answer() {
    let mut runner = late(1, &["true"]);
    hear_question(&mut runner);
    runner.send(&[ToGuest::Tasks(2)]);
    runner.send_to(7, &[ToGuest::Arg(b"true"), ToGuest::Env(b"PATH=/usr/bin:/bin")]);
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    runner.send_to(7, &[ToGuest::Credentials { uid, gid, umask: 0o22, groups: vec![gid] }, ToGuest::Start]);
    runner.send(&[ToGuest::Ping]);
    runner.listen(|_, message| {
        assert_eq!(message, ToHost::Pong, "none has started");
        Some(())
    });
    runner.send(&[ToGuest::Clock(2)]);
    let mut started = 0;
    runner.listen(|_, message| {
        started += u32::from(matches!(message, ToHost::Started(_)));
        (started == 2).then_some(())
    });
}

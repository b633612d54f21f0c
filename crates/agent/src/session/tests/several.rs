//! Several tasks in one session.

use std::collections::BTreeMap;
use std::io::Read;

use super::*;
use nix::errno::Errno;
use nix::sys::signal::kill;

/// What was said of each task, as text.
type Said = BTreeMap<u16, String>;

impl Runner {
    fn of_tasks(count: u16) -> Self {
        let mut runner = Self::start(StandIn::default());
        runner.hello(1);
        runner.send(&[ToGuest::Hostname(b"vm"), ToGuest::Tasks(count)]);
        runner
    }

    fn begin(&mut self, task: u16, script: &str, more: &[ToGuest<'_>]) {
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        self.send_to(
            task,
            &[
                ToGuest::Credentials { uid, gid, umask: 0o22, groups: vec![gid] },
                ToGuest::Env(b"PATH=/usr/bin:/bin"),
                ToGuest::Arg(b"sh"),
                ToGuest::Arg(b"-c"),
                ToGuest::Arg(script.as_bytes()),
            ],
        );
        self.send_to(task, more);
        self.send_to(task, &[ToGuest::Start]);
    }

    /// Reads until what was said of this task ends so. Output comes as it is; an end as `exit(0)`.
    fn hear(&mut self, said: &mut Said, task: u16, end: &str) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            while let Some(frame) = self.decoder.next_frame().unwrap() {
                let text = said.entry(frame.task).or_default();
                match ToHost::parse(frame).unwrap() {
                    ToHost::Data(_, bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
                    ToHost::Exit(ExitStatus::Code(code)) => text.push_str(&format!("exit({code})")),
                    ToHost::Exit(ExitStatus::Signal(signo)) => text.push_str(&format!("signal({signo})")),
                    ToHost::Failed(_, why) => text.push_str(&format!("failed({})", String::from_utf8_lossy(why))),
                    ToHost::Started(_) | ToHost::Eof(_) | ToHost::Window(..) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
            if said.get(&task).is_some_and(|text| text.ends_with(end)) {
                return;
            }
            let n = self.socket.read(&mut buffer).expect("an answer within the time limit");
            assert!(n > 0, "the agent has gone: {said:?}");
            self.decoder.push(&buffer[..n]);
        }
    }
}

fn lives(pid: &str) -> bool {
    kill(Pid::from_raw(pid.trim().parse().unwrap()), None) != Err(Errno::ESRCH)
}

#[test]
fn each_task_has_its_own_streams_signals_and_end() {
    let (mut runner, mut said) = (Runner::of_tasks(3), Said::new());
    runner.begin(0, "cat; exit 3", &[]);
    runner.begin(7, "trap 'echo caught; exit 4' USR1; echo ready; while :; do sleep 0.02; done", &[]);
    runner.hear(&mut said, 7, "ready\n");
    runner.send_to(0, &[ToGuest::Data(Stream::Stdin, b"for 0\n"), ToGuest::Eof(Stream::Stdin)]);
    runner.hear(&mut said, 0, "exit(3)");
    runner.send_to(0, &[ToGuest::Signal(9)]);
    runner.send_to(7, &[ToGuest::Signal(10)]);
    runner.hear(&mut said, 7, "exit(4)");
    // Late.
    runner.begin(300, "no-such-command", &[]);
    runner.hear(&mut said, 300, "exit(127)");
    assert_eq!((said[&0].as_str(), said[&7].as_str()), ("for 0\nexit(3)", "ready\ncaught\nexit(4)"));
    assert!(runner.leave().calls.contains(&"sync shares".to_owned()));
}

#[test]
fn what_a_task_leaves_in_the_background_goes_on_until_the_last_one_has_ended() {
    let (mut runner, mut said) = (Runner::of_tasks(2), Said::new());
    // It holds the output, and goes on to write there.
    runner.begin(0, "(while :; do echo more; sleep 0.01; done) & echo $! >&2; exec sleep 0", &[ToGuest::MergeStderr]);
    runner.hear(&mut said, 0, "exit(0)");
    let pid = said[&0].lines().find(|line| line.parse::<i32>().is_ok()).unwrap().to_owned();
    runner.begin(1, &format!("sleep 0.3; kill -0 {pid} && echo alive; kill {pid}"), &[]);
    runner.hear(&mut said, 1, "exit(0)");
    assert_eq!(said[&1], "alive\nexit(0)");
    runner.leave();
}

#[test]
fn all_output_that_waits_when_a_task_ends_is_sent_and_no_more() {
    let (mut runner, mut said) = (Runner::of_tasks(2), Said::new());
    runner.begin(1, "head -c 60000 /dev/zero | tr '\\0' x; sleep 100 & echo; exit 5", &[]);
    runner.hear(&mut said, 1, "exit(5)");
    assert_eq!(said[&1].len(), 60_000 + "\nexit(5)".len());
    runner.leave();
}

#[test]
fn the_last_task_s_end_is_the_session_s_also_if_fewer_tasks_come() {
    for fewer in [false, true] {
        let (mut runner, mut said) = (Runner::of_tasks(if fewer { 2 } else { 1 }), Said::new());
        if fewer {
            runner.send(&[ToGuest::Tasks(1)]);
        }
        runner.begin(0, "sleep 1000 & echo $!; exit 6", &[]);
        runner.hear(&mut said, 0, "exit(6)");
        let pid = said[&0].lines().next().unwrap().to_owned();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while lives(&pid) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!lives(&pid));
        runner.leave();
    }
}

#[test]
fn what_is_wrong_with_the_machine_keeps_every_task_from_starting() {
    let (mut runner, mut said) = (Runner::of_tasks(2), Said::new());
    runner.send(&[ToGuest::Hostname(b"refuse")]);
    for task in [0, 1] {
        runner.begin(task, "true", &[]);
        runner.hear(&mut said, task, "failed(the stand-in refuses)");
    }
    runner.leave();
}

#[test]
fn a_task_runs_on_its_own_processors() {
    let (mut runner, mut said) = (Runner::of_tasks(1), Said::new());
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    let last = (0..nix::sched::CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut mask = vec![0; last / 8 + 1];
    mask[last / 8] |= 1 << (last % 8);
    runner.begin(0, "grep Cpus_allowed_list /proc/self/status", &[ToGuest::CpuSet(&mask)]);
    runner.hear(&mut said, 0, "exit(0)");
    assert_eq!(said[&0], format!("Cpus_allowed_list:\t{last}\nexit(0)"));
    runner.leave();
}

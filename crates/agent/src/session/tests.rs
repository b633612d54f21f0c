//! Whole sessions over a socket pair, with commands of this host, run as the user who runs the test.

mod clock;
mod several;
mod sockets;
mod stand_in;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{Pid, getgid, getuid};

use super::*;
use crate::pump::output_index;
use crate::sys;
use proto::{DATA_CHUNK, Decoder, ExitStatus, RecvWindow, SendWindow, Stream, WINDOW};
use stand_in::{StandIn, TIMES};

/// What a command left.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    exit: Option<ExitStatus>,
    failed: Option<(FailKind, String)>,
    out: Vec<u8>,
    err: Vec<u8>,
    logs: Vec<String>,
}

/// The runner's side.
struct Runner {
    socket: UnixStream,
    decoder: Decoder,
    /// Outputs of the running command that have ended.
    ends: u32,
    agent: Option<JoinHandle<StandIn>>,
}

impl Runner {
    fn start(mut machine: StandIn) -> Self {
        let (socket, agent) = UnixStream::pair().unwrap();
        agent.set_nonblocking(true).unwrap();
        // A session that hangs fails its test instead of hanging it.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let agent = std::thread::spawn(move || {
            let mut port = Port::new(OwnedFd::from(agent));
            Session::new(&mut port, &mut machine).serve().unwrap();
            machine
        });
        Self { socket, decoder: Decoder::new(), ends: 0, agent: Some(agent) }
    }

    fn send(&mut self, messages: &[ToGuest<'_>]) {
        self.send_to(0, messages);
    }

    fn send_to(&mut self, task: u16, messages: &[ToGuest<'_>]) {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(task, &mut bytes);
        }
        self.socket.write_all(&bytes).unwrap();
    }

    /// Reads until `take` has what it wants; it gets each message, and `self` to answer.
    fn listen<T>(&mut self, mut take: impl FnMut(&mut Self, ToHost<'_>) -> Option<T>) -> T {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut decoder = std::mem::take(&mut self.decoder);
            while let Some(frame) = decoder.next_frame().unwrap() {
                let message = ToHost::parse(frame).unwrap();
                self.ends += u32::from(matches!(message, ToHost::Eof(_)));
                let found = take(self, message);
                if let Some(found) = found {
                    self.decoder = decoder;
                    return found;
                }
            }
            let n = self.socket.read(&mut buffer).expect("an answer within the time limit");
            assert!(n > 0, "the agent has gone");
            decoder.push(&buffer[..n]);
            self.decoder = decoder;
        }
    }

    fn hello(&mut self, nonce: u64) {
        self.send(&[ToGuest::Hello { version: VERSION, nonce }]);
        self.ends = 0;
        let answered = |_: &mut Self, message: ToHost<'_>| match message {
            ToHost::Hello { nonce: found, times, .. } => Some((found, times)),
            _ => None,
        };
        assert_eq!(self.listen(answered), (nonce, TIMES));
    }

    fn describe(&mut self, args: &[&str]) {
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        self.send(&[
            ToGuest::Credentials { uid, gid, umask: 0o22, groups: vec![gid] },
            ToGuest::Env(b"PATH=/usr/bin:/bin"),
        ]);
        for arg in args {
            self.send(&[ToGuest::Arg(arg.as_bytes())]);
        }
    }

    /// Feeds `input` and collects everything until the command has ended.
    fn finish(&mut self, input: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut window = SendWindow::default();
        let mut windows = [RecvWindow::default(); 2];
        let (mut rest, mut running, mut ended) = (input, false, false);
        loop {
            while running && !rest.is_empty() && window.available() > 0 {
                let (now, later) = rest.split_at(rest.len().min(window.available()).min(DATA_CHUNK));
                window.spend(now.len());
                self.send(&[ToGuest::Data(Stream::Stdin, now)]);
                rest = later;
            }
            if running && rest.is_empty() && !std::mem::replace(&mut ended, true) {
                self.send(&[ToGuest::Eof(Stream::Stdin)]);
            }
            let done = self.listen(|runner, message| {
                match message {
                    ToHost::Started(_) => running = true,
                    ToHost::Data(stream, bytes) => {
                        let index = output_index(stream).unwrap();
                        windows[index].receive(stream.number(), bytes.len()).unwrap();
                        [&mut outcome.out, &mut outcome.err][index].extend_from_slice(bytes);
                        if let Some(credit) = windows[index].consume(bytes.len()) {
                            runner.send(&[ToGuest::Window(stream, credit)]);
                        }
                    }
                    ToHost::Window(Stream::Stdin, credit) => window.refill(credit).unwrap(),
                    ToHost::Eof(_) => {}
                    ToHost::Warning(text) => outcome.logs.push(String::from_utf8_lossy(text).into_owned()),
                    ToHost::Failed(kind, why) => {
                        outcome.failed = Some((kind, String::from_utf8_lossy(why).into_owned()));
                        return Some(true);
                    }
                    ToHost::Exit(status) => {
                        assert_eq!(runner.ends, 2, "EXIT before the end of both outputs");
                        outcome.exit = Some(status);
                        return Some(true);
                    }
                    other => panic!("unexpected {other:?}"),
                }
                Some(false)
            });
            if done {
                return outcome;
            }
        }
    }

    fn run(&mut self, args: &[&str], input: &[u8]) -> Outcome {
        self.hello(7);
        self.describe(args);
        self.send(&[ToGuest::Start]);
        self.finish(input)
    }

    /// Disconnects and returns the machine as the agent left it.
    fn leave(mut self) -> StandIn {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.agent.take().unwrap().join().unwrap()
    }
}

fn run(args: &[&str], input: &[u8]) -> Outcome {
    Runner::start(StandIn::default()).run(args, input)
}

fn shell(script: &str) -> Outcome {
    run(&["sh", "-c", script], b"")
}

#[test]
fn exit_codes_and_signals_arrive_as_they_were() {
    for code in [0, 1, 42, 255] {
        assert_eq!(shell(&format!("exit {code}")).exit, Some(ExitStatus::Code(code)));
    }
    assert_eq!(shell("kill -SEGV $$").exit, Some(ExitStatus::Signal(11)));
    assert_eq!(shell("kill -40 $$").exit, Some(ExitStatus::Signal(40)));
}

#[test]
fn whoever_asks_while_a_command_runs_is_answered() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["cat"]);
    runner.send(&[ToGuest::Start, ToGuest::Ping, ToGuest::Ping]);
    let (mut answers, mut started) = (0, false);
    runner.listen(|_, message| {
        answers += u32::from(message == ToHost::Pong);
        started |= matches!(message, ToHost::Started(_));
        (answers == 2 && started).then_some(())
    });
    runner.send(&[ToGuest::Eof(Stream::Stdin)]);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Code(0)));
}

#[test]
fn both_outputs_are_kept_apart_or_merged_in_order() {
    let outcome = shell("echo one; echo two >&2; echo three");
    assert_eq!((outcome.out.as_slice(), outcome.err.as_slice()), (b"one\nthree\n".as_slice(), b"two\n".as_slice()));
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "echo one; echo two >&2; echo three"]);
    runner.send(&[ToGuest::MergeStderr, ToGuest::Start]);
    assert_eq!(runner.finish(b"").out, b"one\ntwo\nthree\n");
}

#[test]
fn ten_megabytes_come_back_through_cat_unchanged() {
    let input: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let outcome = run(&["cat"], &input);
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)));
    assert!(outcome.out == input);
}

#[test]
fn a_command_that_does_not_want_its_input_never_blocks_the_runner() {
    let input = vec![b'x'; 5_000_000];
    assert_eq!(run(&["head", "-c", "3"], &input).out, b"xxx");
    assert_eq!(run(&["sh", "-c", "exec <&-; sleep 0.2; echo done"], &input).out, b"done\n");
}

#[test]
fn a_stalled_output_stops_at_its_window_and_nothing_else_stops() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "yes & sleep 0.3; echo still here >&2; sleep 60"]);
    runner.send(&[ToGuest::Start]);
    let (mut out, mut err) = (0, Vec::new());
    // No credit is returned for stdout. So stderr must arrive while exactly one window of stdout is unacknowledged.
    runner.listen(|_, message| {
        match message {
            ToHost::Data(Stream::Stdout, bytes) => out += bytes.len(),
            ToHost::Data(Stream::Stderr, bytes) => err.extend_from_slice(bytes),
            _ => {}
        }
        err.ends_with(b"\n").then_some(())
    });
    assert_eq!(out, WINDOW as usize);
    assert_eq!(err, b"still here\n");
    runner.leave();
}

#[test]
fn what_the_command_leaves_in_the_background_neither_delays_nor_survives_its_end() {
    let outcome = shell("sleep 1000 & echo $!");
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)));
    let pid: i32 = String::from_utf8(outcome.out).unwrap().trim().parse().unwrap();
    // It is not our child, so we did not reap it, and its death takes a moment. ESRCH: gone already.
    if let Ok(pidfd) = sys::pidfd(Pid::from_raw(pid)) {
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut set, 10_000u16), Ok(1), "it still runs");
    }
}

#[test]
fn an_output_that_a_stranger_holds_open_does_not_keep_a_command_from_ending() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "echo first; read word; echo last"]);
    runner.send(&[ToGuest::Start]);
    let mut started = 0;
    runner.listen(|_, message| {
        if let ToHost::Started(pid) = message {
            started = pid;
        }
        matches!(message, ToHost::Data(..)).then_some(())
    });
    // As a service of the guest does that a command has handed its output to.
    let held = std::fs::OpenOptions::new().write(true).open(format!("/proc/{started}/fd/1")).unwrap();
    runner.send(&[ToGuest::Data(Stream::Stdin, b"go\n")]);
    let outcome = runner.finish(b"");
    assert_eq!((outcome.exit, outcome.out.as_slice()), (Some(ExitStatus::Code(0)), b"last\n".as_slice()));
    // It does not notice the end of the command.
    (&held).write_all(b"more").unwrap();
}

#[test]
fn commands_that_cannot_start_say_why_as_a_shell_does() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    node::testing::program(&script, "echo no interpreter line\n").unwrap();
    let path = script.to_str().unwrap();
    let cases = [
        ("no-such-command", FailKind::NotFound, "no-such-command: No such file or directory"),
        ("/", FailKind::NotExecutable, "/: Is a directory"),
        (
            path,
            FailKind::NotExecutable,
            &format!("{path}: Exec format error (a script needs a first line with #! and its interpreter)"),
        ),
    ];
    for (command, kind, text) in cases {
        assert_eq!(run(&[command], b"").failed, Some((kind, text.to_owned())));
    }
}

#[test]
fn directory_limits_umask_and_files_reach_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("deep/job");
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&[script.to_str().unwrap()]);
    runner.send(&[
        ToGuest::Cwd(b"/nonexistent"),
        ToGuest::Rlimit { resource: nix::libc::RLIMIT_NOFILE as u8, soft: 99, hard: 100 },
        ToGuest::File { mode: 0o755, path: script.as_os_str().as_bytes() },
        ToGuest::FileData(b"#!/bin/sh\npwd; ulimit -n; "),
        ToGuest::FileData(b"umask; ls /proc/self/fd | wc -l\n"),
        ToGuest::Start,
    ]);
    let outcome = runner.finish(b"");
    // 0, 1, 2 and the one that ls reads the directory with: nothing of the agent's leaks.
    assert_eq!(String::from_utf8_lossy(&outcome.out), "/tmp\n99\n0022\n4\n");
    assert!(outcome.logs[0].contains("'/nonexistent'"), "{:?}", outcome.logs);
}

#[test]
fn signals_reach_the_whole_process_group() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "trap 'exit 7' USR1; echo ready; sleep 60 & wait"]);
    runner.send(&[ToGuest::Start]);
    runner.listen(|_, message| matches!(message, ToHost::Data(..)).then_some(()));
    runner.send(&[ToGuest::Signal(10)]);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Code(7)));
}

#[test]
fn a_terminal_has_its_size_takes_input_and_outlives_its_inputs_end() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "stty -echo; stty size; read word; stty size; test -t 2 && echo $word; exit 3"]);
    runner.send(&[ToGuest::Pty { rows: 33, cols: 111 }, ToGuest::Start]);
    runner.listen(|_, message| matches!(message, ToHost::Data(_, bytes) if bytes.ends_with(b"\n")).then_some(()));
    runner.send(&[ToGuest::Resize { rows: 50, cols: 132 }, ToGuest::Data(Stream::Stdin, b"hello\n")]);
    let outcome = runner.finish(b"");
    assert_eq!(String::from_utf8_lossy(&outcome.out), "50 132\r\nhello\r\n");
    assert_eq!(outcome.exit, Some(ExitStatus::Code(3)));
}

#[test]
fn a_terminal_that_a_stranger_holds_open_does_not_keep_a_command_from_ending() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sh", "-c", "tty; read word; echo last; exit 3"]);
    runner.send(&[ToGuest::Pty { rows: 24, cols: 80 }, ToGuest::Start]);
    let tty = runner.listen(|_, message| match message {
        ToHost::Data(_, bytes) => Some(String::from_utf8_lossy(bytes).trim().to_owned()),
        _ => None,
    });
    // As a service of the guest that writes to the terminals of its users.
    let stranger = std::fs::OpenOptions::new().write(true).open(&tty).expect(&tty);
    runner.send(&[ToGuest::Data(Stream::Stdin, b"go\n")]);
    let outcome = runner.finish(b"");
    assert_eq!((outcome.exit, outcome.logs), (Some(ExitStatus::Code(3)), vec![]));
    assert!(outcome.out.ends_with(b"last\r\n"), "{:?}", String::from_utf8_lossy(&outcome.out));
    drop(stranger);
}

#[test]
fn a_second_hello_ends_the_first_session_and_its_task() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sleep", "1000"]);
    runner.send(&[ToGuest::Start]);
    let pid = runner.listen(|_, message| match message {
        ToHost::Started(pid) => Some(pid),
        _ => None,
    });
    runner.hello(2);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(runner.run(&["echo", "new"], b"").out, b"new\n");
    assert!(runner.leave().calls.iter().filter(|call| *call == "forget").count() >= 3);
}

#[test]
fn garbage_before_and_between_sessions_is_survived() {
    let mut runner = Runner::start(StandIn::default());
    runner.socket.write_all(&[0xee; 3000]).unwrap();
    assert_eq!(runner.run(&["echo", "a"], b"").out, b"a\n");
    runner.socket.write_all(&[0xee; 3000]).unwrap();
    assert_eq!(runner.run(&["echo", "b"], b"").out, b"b\n");
}

#[test]
fn the_machine_is_set_up_in_the_order_of_the_messages() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.send(&[
        ToGuest::Clock(5),
        ToGuest::Hostname(b"vm1"),
        ToGuest::Entropy(&[1; 32]),
        ToGuest::Cpus(2),
        ToGuest::Share { number: 0, path: b"/data", file: b"", read_only: true },
        ToGuest::Alias { path: b"/w", target: b"d" },
        ToGuest::Zone { name: b"Europe/Berlin", data: b"TZif2" },
        ToGuest::User { gid: 100, name: b"ada", gecos: b"", home: b"/home/ada", shell: b"/bin/sh" },
        ToGuest::Group { gid: 7, name: b"proj" },
    ]);
    runner.describe(&["true"]);
    runner.send(&[ToGuest::Start]);
    assert_eq!(runner.finish(b"").exit, Some(ExitStatus::Code(0)));
    runner.send(&[ToGuest::Settle]);
    runner.listen(|_, message| (message == ToHost::Synced).then_some(()));
    let calls = runner.leave().calls;
    let user = format!("user ada {} of 1 groups", getuid());
    let expected = [
        "forget",
        "meet",
        "clock 5",
        "hostname vm1",
        "entropy 32",
        "cpus 2",
        "share /data true",
        "alias /w d",
        "zone Europe/Berlin",
        &user,
    ];
    assert_eq!(&calls[..10], expected);
    assert_eq!(&calls[10..], ["sync shares", "settle", "forget"]);
}

#[test]
fn what_goes_wrong_in_the_guest_is_told_at_start() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.send(&[ToGuest::Hostname(b"refuse"), ToGuest::Hostname(b"fine")]);
    runner.describe(&["true"]);
    runner.send(&[ToGuest::Start]);
    assert_eq!(runner.finish(b"").failed, Some((FailKind::Setup, "the stand-in refuses".to_owned())));

    let broken = StandIn { boot_error: Some(AgentError::Unfit("no root".to_owned())), ..StandIn::default() };
    let mut runner = Runner::start(broken);
    runner.hello(1);
    runner.describe(&["true"]);
    assert_eq!(runner.finish(b"").failed, Some((FailKind::Setup, "no root".to_owned())));
}

#[test]
fn a_runner_that_leaves_takes_its_task_along() {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["sleep", "1000"]);
    runner.send(&[ToGuest::Start]);
    let pid = runner.listen(|_, message| match message {
        ToHost::Started(pid) => Some(pid),
        _ => None,
    });
    runner.leave();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

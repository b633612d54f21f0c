//! The loop with stand-ins for VMs: what reaches their commands, and what happens to the task's streams.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as Name, raise};

use super::*;
use crate::session::{Peer, play};
use crate::task::{Output, Task};
use crate::timing::Moments;
use image::Links;
use proto::{Decoder, FailKind, ToGuest, ToHost};

/// How long guests may take until the first has answered.
const TRIAL: Duration = Duration::from_secs(10);

/// The parts of a relay in a test.
struct Stage {
    signals: Signals,
    task: Task,
    links: Links,
    attempt: Attempt<'static>,
    /// Both ends of a pipe without a writer.
    stdin: (OwnedFd, OwnedFd),
}

/// Runs a test in a thread of its own, whose signals it takes.
fn on_stage(test: impl FnOnce(&Stage) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let task = Task::of_helper(vec!["true".into()]);
        let (signals, links, stdin) = (Signals::watch().unwrap(), Links::default(), nix::unistd::pipe().unwrap());
        let attempt = Attempt::on_trial(TRIAL, Duration::from_secs(60));
        test(&Stage { signals, task, links, attempt, stdin });
    });
    thread.join().unwrap();
}

impl Stage {
    /// A relay of as many VMs as there are peers, whose outputs are these files.
    fn relay(&self, vms: usize, stdout: impl AsFd, stderr: impl AsFd) -> (Relay<'_>, Vec<Peer>) {
        self.relay_in_turns(vms, vms, stdout, stderr)
    }

    /// The same, and only so many come up at a time.
    fn relay_in_turns(
        &self,
        vms: usize,
        at_once: usize,
        stdout: impl AsFd,
        stderr: impl AsFd,
    ) -> (Relay<'_>, Vec<Peer>) {
        let (vms, peers): (Vec<Vm>, Vec<Peer>) = (0..vms)
            .map(|number| {
                let (mut process, peer) = play();
                if number >= at_once {
                    process.hold();
                    process.load(qemu::StateUri::FdSet(2), None, None);
                }
                (Vm::new(number, process, None, Moments::begin(Instant::now())), peer)
            })
            .unzip();
        let output = |fd| Output::new(fd, vms.len()).unwrap();
        let streams = Streams::new(self.stdin.0.as_fd(), output(stdout.as_fd()), output(stderr.as_fd())).unwrap();
        let guest = Guest {
            task: &self.task,
            shares: &[],
            aliases: &[],
            links: &self.links,
            network: None,
            processors: 1,
            cpus: None,
            memory: None,
            is_described: false,
        };
        let answer_within = self.attempt.answer_within();
        let patience =
            Patience { attempt: &self.attempt, answer_within, advice: "", silence_limit: None, notice: None };
        let mut relay = Relay::new(vms, streams, &self.signals, guest, patience);
        relay.greet();
        (relay, peers)
    }
}

/// Lets a VM come up and its command start.
fn start(relay: &mut Relay<'_>, peers: &mut [Peer], vm: usize) {
    peers[vm].answer(nonce(vm as u32));
    while !relay.vms[vm].is_up() {
        assert!(relay.turn().unwrap().is_continue());
    }
    relay.describe_to_those_that_are_up().unwrap();
    peers[vm].say(&ToHost::Started(7));
    while !relay.commands.list[vm].is_running() {
        assert!(relay.turn().unwrap().is_continue());
    }
}

/// The messages that a guest got after START: all of them, as text.
fn after_start(relay: &mut Relay<'_>, peer: &mut Peer) -> Vec<String> {
    assert_eq!(relay.write_outputs(), None);
    relay.return_credit();
    let (mut decoder, mut buffer) = (Decoder::new(), [0; 65536]);
    let n = peer.channel.read(&mut buffer).unwrap();
    decoder.push(&buffer[..n]);
    let mut seen = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        match ToGuest::parse(frame).unwrap() {
            ToGuest::Start => seen = vec!["START".to_owned()],
            // The first question is for the guest's clock.
            ToGuest::Clock(_) | ToGuest::Ping => {}
            message => seen.push(format!("{message:?}")),
        }
    }
    let start = seen.iter().position(|message| message == "START").expect("a START");
    seen.split_off(start + 1)
}

fn null() -> File {
    File::create("/dev/null").unwrap()
}

#[test]
fn guests_that_are_held_come_up_one_for_each_whose_command_runs_or_that_has_failed() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay_in_turns(5, 2, null(), null());
        let is_loaded = |peer: &mut Peer| {
            let mut said = [0; 4096];
            let n = peer.monitor.read(&mut said).unwrap_or(0);
            String::from_utf8_lossy(&said[..n]).contains("migrate-incoming")
        };
        assert!(relay.vms[2].is_held() && !is_loaded(&mut peers[2]));
        start(&mut relay, &mut peers, 0);
        assert!(relay.turn().unwrap().is_continue());
        assert!(is_loaded(&mut peers[2]) && !relay.vms[2].is_held());
        assert!(relay.vms[3].is_held() && !is_loaded(&mut peers[3]));
        // Another whose QEMU ends while two come up.
        peers.remove(1);
        while !relay.commands.list[1].has_ended() || relay.vms[3].is_held() {
            assert!(relay.turn().unwrap().is_continue());
        }
        assert!(is_loaded(&mut peers[2]), "the fourth");
        assert!(relay.vms[4].is_held() && !is_loaded(&mut peers[3]));
        // One that fails before its turn takes nobody's.
        drop(peers.pop());
        while !relay.commands.list[4].has_ended() {
            assert!(relay.turn().unwrap().is_continue());
        }
        assert!(!relay.vms[4].is_held());
    });
}

#[test]
fn a_signal_that_comes_while_a_vm_boots_reaches_its_command_once_that_runs() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay(2, null(), null());
        start(&mut relay, &mut peers, 0);
        for signal in [Name::SIGURG, Name::SIGWINCH, Name::SIGCONT] {
            raise(signal).unwrap();
            assert!(relay.turn().unwrap().is_continue());
        }
        let sent = ["Signal(23)", "Signal(28)", "Signal(18)"];
        assert_eq!(after_start(&mut relay, &mut peers[0]), sent);
        start(&mut relay, &mut peers, 1);
        assert_eq!(after_start(&mut relay, &mut peers[1]), sent);
    });
}

#[test]
fn a_signal_ends_the_vms_whose_command_has_not_started_and_leaves_the_others_to_theirs() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay(3, null(), null());
        start(&mut relay, &mut peers, 0);
        raise(Name::SIGTERM).unwrap();
        while !relay.commands.list[2].has_ended() {
            assert!(relay.turn().unwrap().is_continue());
        }
        let died = Some(End::Exited(ExitStatus::Signal(15)));
        assert_eq!([relay.commands.end(1), relay.commands.end(2)], [died.clone(), died]);
        assert!(relay.vms[1].is_over() && !relay.vms[0].is_over());
        assert_eq!(after_start(&mut relay, &mut peers[0]), ["Signal(15)"]);
        peers[0].say(&ToHost::Exit(ExitStatus::Code(3)));
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(relay.turn().unwrap(), ControlFlow::Break(None));
        assert_eq!(relay.commands.end(0), Some(End::Exited(ExitStatus::Code(3))));
    });
}

#[test]
fn a_task_that_has_not_begun_dies_by_a_signal() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay(2, null(), null());
        peers[0].answer(nonce(0));
        assert!(relay.turn().unwrap().is_continue());
        raise(Name::SIGHUP).unwrap();
        let died = std::iter::from_fn(|| Some(relay.turn().unwrap())).find_map(ControlFlow::break_value);
        assert_eq!(died, Some(Some(1)));
    });
}

#[test]
fn a_command_that_starts_after_the_reader_left_is_told_of_it() {
    on_stage(|stage| {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let (mut relay, mut peers) = stage.relay(2, writer, null());
        start(&mut relay, &mut peers, 0);
        drop(reader);
        peers[0].say(&ToHost::Data(Stream::Stdout, b"for nobody\n"));
        assert!(relay.turn().unwrap().is_continue());
        start(&mut relay, &mut peers, 1);
        for peer in &mut peers {
            assert_eq!(after_start(&mut relay, peer), ["Eof(Stdout)"]);
        }
        peers[0].say(&ToHost::Exit(ExitStatus::Code(0)));
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(relay.commands.end(0), Some(End::Exited(ExitStatus::Code(0))), "nobody lost anything");
    });
}

#[test]
fn output_that_cannot_be_written_is_told_closes_the_command_s_stream_and_is_no_success() {
    on_stage(|stage| {
        let mut told = tempfile::tempfile().unwrap();
        let (mut relay, mut peers) = stage.relay(1, File::create("/dev/full").unwrap(), &told);
        start(&mut relay, &mut peers, 0);
        peers[0].say(&ToHost::Data(Stream::Stdout, b"much\n"));
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(after_start(&mut relay, &mut peers[0]), Vec::<String>::new(), "the command goes on");
        peers[0].say(&ToHost::Data(Stream::Stderr, b"its own words\n"));
        peers[0].say(&ToHost::Exit(ExitStatus::Code(0)));
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(relay.turn().unwrap(), ControlFlow::Break(None));
        assert_eq!(relay.commands.end(0), Some(End::Exited(ExitStatus::Code(1))));
        let mut text = String::new();
        told.seek(SeekFrom::Start(0)).unwrap();
        told.read_to_string(&mut text).unwrap();
        let line =
            "vm: error: the task's stdout cannot be written: No space left on device; what does not fit is lost\n";
        assert_eq!(text, format!("{line}its own words\n"));
    });
}

/// A full pipe, by both ends.
fn stalled() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
    while nix::unistd::write(&writer, &[b'x'; 4096]).is_ok() {}
    (reader, writer)
}

#[test]
fn a_reader_that_stalls_keeps_neither_the_other_stream_nor_a_signal_from_its_way() {
    on_stage(|stage| {
        let (_reader, writer) = stalled();
        let mut stderr = tempfile::tempfile().unwrap();
        let (mut relay, mut peers) = stage.relay(1, writer, &stderr);
        start(&mut relay, &mut peers, 0);
        peers[0].say(&ToHost::Data(Stream::Stdout, b"stalls\n"));
        peers[0].say(&ToHost::Warning(b"a warning"));
        peers[0].say(&ToHost::Data(Stream::Stderr, b"goes on\n"));
        assert!(relay.turn().unwrap().is_continue());
        raise(Name::SIGUSR1).unwrap();
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(after_start(&mut relay, &mut peers[0]), ["Signal(10)"]);
        let mut text = String::new();
        stderr.seek(SeekFrom::Start(0)).unwrap();
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(text, "vm: warning: a warning\ngoes on\n");
        // No command is left to handle the signal, so it ends the wait for the reader.
        peers[0].say(&ToHost::Exit(ExitStatus::Code(0)));
        assert!(relay.turn().unwrap().is_continue());
        raise(Name::SIGTERM).unwrap();
        let died = std::iter::from_fn(|| Some(relay.turn().unwrap())).find_map(ControlFlow::break_value);
        assert_eq!(died, Some(Some(15)));
    });
}

#[test]
fn a_command_and_the_server_of_its_task_s_socket_talk_through_the_relay() {
    on_stage(|stage| {
        let (mut server, task) = UnixStream::pair().unwrap();
        let (mut relay, mut peers) = stage.relay(1, null(), null());
        relay.commands.connect_to(task);
        server.write_all(b"early").unwrap();
        start(&mut relay, &mut peers, 0);
        let init = b"cmd=init pmi_version=1 pmi_subversion=1\n";
        peers[0].say(&ToHost::Data(Stream::Socket(0), init));
        assert!(relay.turn().unwrap().is_continue());
        let mut heard = [0; 40];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, init);
        // Nothing is read of it before the command runs.
        assert_eq!(after_start(&mut relay, &mut peers[0]), ["Data(Socket(0), [101, 97, 114, 108, 121])"]);
        peers[0].say(&ToHost::Eof(Stream::Socket(0)));
        assert!(relay.turn().unwrap().is_continue());
        // slurmstepd sees no end on bare metal either.
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.read(&mut heard).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // A socket that it does not have.
        peers[0].say(&ToHost::Data(Stream::Socket(1), b"x"));
        assert!(relay.turn().unwrap().is_continue());
        assert!(matches!(relay.commands.end(0), Some(End::Broken(why)) if why.contains("does not have")));
    });
}

#[test]
fn a_task_number_that_no_command_has_ends_the_vm() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay(1, null(), null());
        start(&mut relay, &mut peers, 0);
        let mut frame = Vec::new();
        ToHost::Exit(ExitStatus::Code(0)).encode(1, &mut frame);
        peers[0].channel.write_all(&frame).unwrap();
        assert!(relay.turn().unwrap().is_continue());
        assert!(matches!(relay.commands.end(0), Some(End::Broken(why)) if why.contains("task 1")));
    });
}

#[test]
fn a_command_that_cannot_start_and_a_guest_that_does_not_answer_end_in_their_own_ways() {
    on_stage(|stage| {
        let (mut relay, mut peers) = stage.relay(2, null(), null());
        peers[0].answer(nonce(0));
        assert!(relay.turn().unwrap().is_continue());
        peers[0].say(&ToHost::Failed(FailKind::NotFound, b"no such thing"));
        assert!(relay.turn().unwrap().is_continue());
        assert_eq!(relay.commands.end(0), Some(End::NotStarted(FailKind::NotFound, "no such thing".to_owned())));
        relay.events.clock.pass(Duration::from_secs(61));
        while !relay.commands.have_ended() {
            assert!(relay.turn().unwrap().is_continue());
        }
        assert!(matches!(relay.commands.end(1), Some(End::NeverUp(why)) if why.starts_with("no answer within 60 s")));
    });
}

#[test]
fn a_trial_is_short_until_a_guest_answers_and_then_no_matter_for_the_others() {
    on_stage(|stage| {
        let (mut relay, _peers) = stage.relay(1, null(), null());
        relay.events.clock.pass(TRIAL + Duration::from_secs(1));
        while !relay.commands.have_ended() {
            assert!(relay.turn().unwrap().is_continue());
        }
        assert!(matches!(relay.commands.end(0), Some(End::NeverUp(why)) if why.starts_with("no answer within 10 s")));

        let (mut relay, mut peers) = stage.relay(2, null(), null());
        peers[0].answer(nonce(0));
        while !relay.commands.has_begun() {
            assert!(relay.turn().unwrap().is_continue());
            relay.describe_to_those_that_are_up().unwrap();
            peers[0].say(&ToHost::Started(7));
        }
        relay.events.clock.pass(TRIAL + Duration::from_secs(1));
        assert!(relay.turn().unwrap().is_continue());
        assert!(!relay.vms[1].is_over());
        assert!(!stage.attempt.is_on_trial());
    });
}

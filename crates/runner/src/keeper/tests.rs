//! The keeper's side with tasks and a guest that are played.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::meeting::attach;
use super::members::Members;
use crate::session::{Address, Attach, Listener, Outgoing, Word};
use proto::{DATA_CHUNK, Decoder, ExitStatus, Stream, ToGuest, ToHost, WINDOW};
use qemu::VmSize;

const SIZE: VmSize = VmSize { memory_mib: 512, cpus: 2 };

/// A keeper's members, the door to them, and what this process says.
struct Node {
    members: Members,
    door: UnixStream,
    said: OwnedFd,
    out: Outgoing,
}

/// A task.
struct Played {
    socket: UnixStream,
    decoder: Decoder,
}

impl Node {
    fn of_tasks(expected: u32) -> Self {
        let (door, hall) = UnixStream::pair().unwrap();
        hall.set_nonblocking(true).unwrap();
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        let (reader, said) = nix::unistd::pipe2(flags).unwrap();
        Self { members: Members::new(hall, reader, expected), door, said, out: Outgoing::default() }
    }

    fn attached(&mut self, task: u16, processors: u64) -> Played {
        let mut played = Played { socket: attach(&self.door).unwrap(), decoder: Decoder::new() };
        played.say(&ToGuest::Hello { version: proto::VERSION, nonce: task.into() });
        let mut frame = Vec::new();
        Attach { task, processors: vec![processors] }.encode(&mut frame);
        played.socket.write_all(&frame).unwrap();
        self.turn();
        played
    }

    /// One turn, without the VM.
    fn turn(&mut self) {
        self.members.receive(true, &mut self.out);
        self.members.flush();
    }

    /// What the guest was told since the last time, by task.
    fn told(&mut self) -> Vec<String> {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let mut hello = Vec::new();
        ToGuest::Hello { version: 1, nonce: 1 }.encode(0, &mut hello);
        ours.write_all(&hello).unwrap();
        self.out.flush(&mut ours);
        drop(ours);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        let mut seen = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            seen.push(format!("{} {:?}", frame.task, ToGuest::parse(frame).unwrap()));
        }
        seen.split_off(1)
    }

    fn guest_says(&mut self, task: u16, message: &ToHost<'_>) -> Result<(), String> {
        let mut nothing = Outgoing::default();
        let heard = self.members.hear(Address { vm: 0, task }, message.clone(), &mut nothing);
        self.members.flush();
        heard.map_err(|refusal| format!("{refusal:?}"))
    }
}

impl Played {
    fn say(&mut self, message: &ToGuest<'_>) {
        let mut frame = Vec::new();
        message.encode(0, &mut frame);
        self.socket.write_all(&frame).unwrap();
    }

    fn hears(&mut self) -> Vec<String> {
        let mut buffer = vec![0; DATA_CHUNK];
        let n = self.socket.read(&mut buffer).unwrap_or(0);
        self.decoder.push(&buffer[..n]);
        let mut heard = Vec::new();
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            heard.push(match Word::parse(&frame) {
                Some(word) => format!("{word:?}"),
                None => format!("{} {:?}", frame.task, ToHost::parse(frame).unwrap()),
            });
        }
        heard
    }

    fn is_dropped(&mut self) -> bool {
        matches!(self.socket.read(&mut [0; 1]), Ok(0))
    }
}

#[test]
fn each_task_speaks_to_the_guest_under_its_own_number_and_is_bound_to_its_processors() {
    let mut node = Node::of_tasks(2);
    let (mut first, mut second) = (node.attached(0, 0b01), node.attached(7, 0b10));
    node.members.gather();
    assert!(first.hears().is_empty(), "the VM is not there");
    node.members.begin(SIZE, &mut node.out);
    node.turn();
    assert_eq!(node.told(), ["0 Tasks(2)"]);
    for task in [&mut first, &mut second] {
        let heard = task.hears();
        assert!(heard[0].starts_with("0 Hello") && heard[1].starts_with("Size"), "{heard:?}");
    }
    second.say(&ToGuest::Arg(b"x"));
    second.say(&ToGuest::Start);
    node.turn();
    assert_eq!(node.told(), ["7 Arg([120])", "7 CpuSet([2])", "7 Start"]);
    assert!(!node.members.has_begun, "what a clone writes until its first command runs is not known yet");
    node.guest_says(7, &ToHost::Started(5)).unwrap();
    assert!(node.members.has_begun);
    node.guest_says(7, &ToHost::Exit(ExitStatus::Code(3))).unwrap();
    assert_eq!(second.hears(), ["0 Started(5)", "0 Exit(Code(3))"]);
    assert!(first.hears().is_empty());
    assert!(node.guest_says(0, &ToHost::Started(5)).is_err(), "it was not told to start it");
    assert!(node.guest_says(1, &ToHost::Started(5)).is_err(), "there is no such task");
}

#[test]
fn a_task_whose_process_is_gone_is_killed_and_one_that_has_not_started_is_not_waited_for() {
    let mut node = Node::of_tasks(3);
    let (mut first, second) = (node.attached(0, 1), node.attached(1, 1));
    node.members.begin(SIZE, &mut node.out);
    node.turn();
    first.say(&ToGuest::Start);
    node.turn();
    node.told();
    drop(second);
    node.turn();
    assert_eq!((node.members.coming(), node.told()), (2, vec![]));
    drop(first);
    node.turn();
    assert_eq!(node.told(), ["0 Signal(9)"]);
    assert!(!node.members.are_busy() && !node.members.are_done(), "one may come");
    drop(node.door.try_clone());
    let late = node.attached(2, 1);
    assert!(node.members.are_busy());
    drop(late);
    node.turn();
    assert!(node.members.are_done());
}

#[test]
fn nobody_comes_any_more_when_slurmstepd_is_gone() {
    let mut node = Node::of_tasks(2);
    let (door, _) = UnixStream::pair().unwrap();
    node.door = door;
    node.turn();
    assert!(node.members.are_done());
}

#[test]
fn a_task_that_describes_the_machine_or_says_another_s_number_is_dropped() {
    let mut node = Node::of_tasks(2);
    let mut good = node.attached(0, 1);
    let mut double = node.attached(0, 1);
    assert!(double.is_dropped());
    node.members.begin(SIZE, &mut node.out);
    node.turn();
    node.told();
    good.hears();
    good.say(&ToGuest::Hostname(b"evil"));
    node.turn();
    assert!(node.told().is_empty() && good.is_dropped());
}

#[test]
fn a_task_s_questions_are_answered_without_the_guest() {
    let mut node = Node::of_tasks(1);
    let mut task = node.attached(0, 1);
    node.members.begin(SIZE, &mut node.out);
    node.turn();
    task.hears();
    node.told();
    task.say(&ToGuest::Ping);
    task.say(&ToGuest::Clock(1));
    task.say(&ToGuest::Clock(2));
    node.turn();
    assert_eq!((task.hears(), node.told()), (vec!["0 Pong".to_owned()], vec!["0 Clock(2)".to_owned()]));
}

#[test]
fn a_guest_that_ignores_a_stopped_task_s_windows_is_ended() {
    let mut node = Node::of_tasks(1);
    let mut task = node.attached(0, 1);
    node.members.begin(SIZE, &mut node.out);
    node.turn();
    task.say(&ToGuest::Start);
    node.turn();
    let chunk = vec![0; DATA_CHUNK];
    let mut sent = 0;
    while node.guest_says(0, &ToHost::Data(Stream::Stdout, &chunk)).is_ok() {
        sent += chunk.len();
        assert!(sent < 16 * WINDOW as usize);
    }
    assert!(sent >= 2 * WINDOW as usize, "a guest that keeps to its windows has room");
}

#[test]
fn what_the_keeper_says_reaches_the_first_task_also_before_there_is_a_vm() {
    let mut node = Node::of_tasks(2);
    let (mut first, mut second) = (node.attached(0, 1), node.attached(1, 1));
    nix::unistd::write(&node.said, b"vm: warning: slow\nhalf").unwrap();
    node.turn();
    assert_eq!(first.hears().last().unwrap(), "Notice(\"warning: slow\")");
    node.members.tell_all(&Word::Ended(crate::error::Fault::Node, "no room".into()));
    node.members.flush();
    for task in [&mut first, &mut second] {
        assert_eq!(task.hears().last().unwrap(), "Ended(Node, \"no room\")");
    }
}

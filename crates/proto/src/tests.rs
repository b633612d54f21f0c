//! Every message is encoded and decoded again; and input that is no message.

use super::message::kind;
use super::*;

/// Encodes after a HELLO, decodes, and hands the last frame to `check`.
fn roundtrip(encode: impl Fn(&mut Vec<u8>), check: impl Fn(Frame<'_>)) {
    let mut bytes = Vec::new();
    ToGuest::Hello { version: 1, nonce: 1 }.encode(0, &mut bytes);
    encode(&mut bytes);
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    decoder.next_frame().unwrap().unwrap();
    check(decoder.next_frame().unwrap().unwrap());
    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn every_message_to_the_guest_arrives_as_it_was_sent() {
    let messages = [
        ToGuest::Hello { version: 3, nonce: u64::MAX },
        ToGuest::Clock(1_700_000_000_000_000_000),
        ToGuest::Hostname(b"vm12-0"),
        ToGuest::Entropy(&[1; 64]),
        ToGuest::Share { number: 300, path: b"/home/a b", file: b"", read_only: true },
        ToGuest::Share { number: 1, path: b"/etc/x", file: b"x:1", read_only: false },
        ToGuest::Alias { path: b"/home/a", target: b"../lustre/a" },
        ToGuest::Home(b"/home/a"),
        ToGuest::Link { path: b"/usr/lib/libx.so.1", target: b"/sw/x/lib/libx.so.1" },
        ToGuest::TakeBack,
        ToGuest::Cpus(16),
        ToGuest::Tasks(128),
        ToGuest::Memory(3 << 30),
        ToGuest::Zone { name: b"Europe/Berlin", data: b"TZif2\0" },
        ToGuest::Network(Interface {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1450,
            v4: Some(Inet { address: [100, 80, 0, 1], prefix: 16, gateway: Some([100, 80, 0, 254]) }),
            v6: Some(Inet { address: [0xfd; 16], prefix: 64, gateway: None }),
        }),
        ToGuest::Network(Interface { mac: [6; 6], mtu: 0, v4: None, v6: None }),
        ToGuest::Address(MoreAddresses {
            v4: Inet { address: [100, 80, 0, 2], prefix: 16, gateway: None },
            v6: Inet { address: [0xfd; 16], prefix: 64, gateway: None },
        }),
        ToGuest::Hosts(b"100.80.0.1 vm-0\n"),
        ToGuest::Resolver(b"nameserver 10.0.2.3\n"),
        ToGuest::User { gid: 100, name: b"ada", gecos: b"Ada,,,", home: b"/home/ada", shell: b"/bin/sh" },
        ToGuest::Group { gid: 3_000_000_000, name: b"proj" },
        ToGuest::Credentials { uid: 1000, gid: 100, umask: 0o27, groups: vec![4, 5] },
        ToGuest::Cwd(b"/"),
        ToGuest::Arg(b""),
        ToGuest::Env(b"A=b\nc=\xff"),
        ToGuest::Rlimit { resource: 7, soft: 1024, hard: u64::MAX },
        ToGuest::Priority { nice: -20, io: 0x4007 },
        ToGuest::CpuSet(&[0b1010, 1]),
        ToGuest::Pty { rows: 24, cols: 80 },
        ToGuest::File { mode: 0o700, path: b"/var/spool/x" },
        ToGuest::FileData(b"#!/bin/sh\n"),
        ToGuest::MergeStderr,
        ToGuest::Socket(1017),
        ToGuest::Listener { address: [127, 80, 0, 1], port: 40_000, connections: 4 },
        ToGuest::Start,
        ToGuest::Data(Stream::Stdin, b"in"),
        ToGuest::Data(Stream::Socket(SOCKETS_MAX - 1), b"cmd="),
        ToGuest::Eof(Stream::Socket(0)),
        ToGuest::Eof(Stream::Stdin),
        ToGuest::Window(Stream::Stdout, 65536),
        ToGuest::Signal(15),
        ToGuest::Resize { rows: 50, cols: 132 },
        ToGuest::Settle,
        ToGuest::Ping,
    ];
    for message in messages {
        roundtrip(|out| message.encode(2, out), |frame| assert_eq!(ToGuest::parse(frame), Ok(message.clone())));
    }
}

#[test]
fn a_name_that_no_system_has_is_cut_off_and_ends_nobody() {
    let long = vec![b'x'; 70_000];
    let user = ToGuest::User { gid: 1, name: b"ada", gecos: &long, home: b"/home/ada", shell: b"/bin/sh" };
    let cut = &long[..usize::from(u16::MAX)];
    let arrives = ToGuest::User { gid: 1, name: b"ada", gecos: cut, home: b"/home/ada", shell: b"/bin/sh" };
    roundtrip(|out| user.encode(0, out), |frame| assert_eq!(ToGuest::parse(frame), Ok(arrives.clone())));
}

#[test]
fn every_message_to_the_host_arrives_as_it_was_sent() {
    let messages = [
        ToHost::Hello { version: 1, nonce: 9, times: BootTimes { agent_ms: 1, modules_ms: 2, ready_ms: 3 } },
        ToHost::Started(77),
        ToHost::Failed(FailKind::NotFound, b"no such file"),
        ToHost::Data(Stream::Stderr, b"\0\x01"),
        ToHost::Eof(Stream::Stdout),
        ToHost::Window(Stream::Socket(1), 70_000),
        ToHost::Window(Stream::Stdin, 1),
        ToHost::Exit(ExitStatus::Code(255)),
        ToHost::Synced,
        ToHost::Pong,
        ToHost::AskClock,
        ToHost::Exit(ExitStatus::Signal(11)),
        ToHost::Warning(b"hm"),
    ];
    for message in messages {
        roundtrip(|out| message.encode(0, out), |frame| assert_eq!(ToHost::parse(frame), Ok(message.clone())));
    }
}

#[test]
fn every_truncation_and_every_kind_byte_gets_an_answer() {
    let mut bytes = Vec::new();
    ToHost::Exit(ExitStatus::Signal(9)).encode(0, &mut bytes);
    for kind in 0..=255u8 {
        for stream in [0, 1, 2, 3, 10, 11, 255] {
            for len in 0..40 {
                let payload = [0xa5u8; 40];
                let frame = Frame { kind, stream, task: 0, payload: &payload[..len] };
                let _ = ToHost::parse(frame);
                let _ = ToGuest::parse(frame);
            }
        }
    }
}

#[test]
fn an_address_of_no_family_is_refused() {
    let mut good = Vec::new();
    let v4 = Some(Inet { address: [10, 0, 0, 1], prefix: 8, gateway: None });
    Interface { mac: [2; 6], mtu: 1500, v4, v6: None }.encode(&mut good);
    let is_good = |payload: &[u8]| ToGuest::parse(Frame { kind: kind::NETWORK, stream: 0, task: 0, payload }).is_ok();
    assert!(is_good(&good));
    for (place, byte) in [(8, 2), (9 + 4, 33), (9 + 4, 0), (9 + 5, 2)] {
        let mut bad = good.clone();
        bad[place] = byte;
        assert!(!is_good(&bad), "{place} {byte}");
    }
    assert!(!is_good(&good[..good.len() - 1]));
}

#[test]
fn an_exit_by_signal_0_or_65_is_refused() {
    for signo in [0u8, 65, 255] {
        let frame = Frame { kind: kind::EXIT, stream: 0, task: 0, payload: &[1, signo] };
        assert!(ToHost::parse(frame).is_err());
    }
}

//! Sockets that a command has besides its streams.

use super::*;
use proto::SOCKETS_MAX;

/// A runner whose command, a script of bash, has these sockets.
fn with_sockets(numbers: &[u32], script: &str) -> Runner {
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["bash", "-c", script]);
    let sockets: Vec<ToGuest<'_>> = numbers.iter().map(|&number| ToGuest::Socket(number)).collect();
    runner.send(&sockets);
    runner.send(&[ToGuest::Start]);
    runner
}

/// What the command said on each socket until EXIT, its output, and how often a socket ended.
fn hear(runner: &mut Runner, sockets: usize) -> (Vec<String>, String, usize) {
    let (mut said, mut output, mut ends) = (vec![String::new(); sockets], String::new(), 0);
    runner.listen(|_, message| {
        match message {
            ToHost::Data(Stream::Socket(place), bytes) => {
                said[usize::from(place)] += str::from_utf8(bytes).unwrap();
            }
            ToHost::Data(_, bytes) => output += str::from_utf8(bytes).unwrap(),
            ToHost::Eof(Stream::Socket(_)) => ends += 1,
            ToHost::Exit(_) => return Some(()),
            _ => {}
        }
        None
    });
    (said, output, ends)
}

#[test]
fn a_command_and_its_children_have_their_sockets_under_the_numbers_they_were_promised() {
    // Numbers that the agent itself, its report and the shell use.
    let script = "for fd in 3 10 11 40; do read -r word <&$fd; bash -c \"echo $fd:$word >&$fd\"; done";
    let mut runner = with_sockets(&[40, 3, 11, 10], script);
    for place in 0..4 {
        runner.send(&[ToGuest::Data(Stream::Socket(place), format!("w{place}\n").as_bytes())]);
    }
    let (said, _, ends) = hear(&mut runner, 4);
    assert_eq!(said, ["40:w0\n", "3:w1\n", "11:w2\n", "10:w3\n"]);
    assert_eq!(ends, 4);
}

#[test]
fn what_a_command_says_last_arrives_before_its_end() {
    let mut runner = with_sockets(&[9], "echo cmd=abort >&9; kill -KILL $$");
    assert_eq!(hear(&mut runner, 1), (vec!["cmd=abort\n".to_owned()], String::new(), 1));
}

#[test]
fn a_socket_that_the_host_closes_is_closed_after_what_came_before() {
    let mut runner = with_sockets(&[9], "read -r a <&9; read -r b <&9 || echo \"$a, then the end\"");
    runner.send(&[ToGuest::Data(Stream::Socket(0), b"last\n"), ToGuest::Eof(Stream::Socket(0))]);
    let (_, output, ends) = hear(&mut runner, 1);
    assert_eq!((output.as_str(), ends), ("last, then the end\n", 1));
}

#[test]
fn a_socket_that_nobody_reads_stops_at_its_window_and_nothing_else_stops() {
    let script = "head -c 5000000 /dev/zero >&9 & sleep 0.3; echo still here; sleep 60";
    let mut runner = with_sockets(&[9], script);
    let mut said = 0;
    runner.listen(|_, message| match message {
        ToHost::Data(Stream::Socket(0), bytes) => {
            said += bytes.len();
            None
        }
        ToHost::Data(_, bytes) => bytes.ends_with(b"here\n").then_some(()),
        _ => None,
    });
    assert_eq!(said, WINDOW as usize);
    runner.leave();
}

#[test]
fn bytes_that_the_command_does_not_read_neither_block_nor_stay_uncredited() {
    let mut runner = with_sockets(&[9], "exec 9>&-; read -r word; echo $word");
    let piece = [b'x'; 64 * 1024];
    let (mut credit, mut ended) = (0, false);
    runner.send(&[ToGuest::Data(Stream::Socket(0), &piece), ToGuest::Data(Stream::Socket(0), &piece)]);
    runner.listen(|_, message| {
        match message {
            ToHost::Window(Stream::Socket(0), bytes) => credit += bytes as usize,
            ToHost::Eof(Stream::Socket(0)) => ended = true,
            _ => {}
        }
        (ended && credit == 2 * piece.len()).then_some(())
    });
    runner.send(&[ToGuest::Data(Stream::Stdin, b"done\n")]);
    assert_eq!(hear(&mut runner, 1).1, "done\n");
}

#[test]
fn a_number_that_no_program_can_have_is_told_at_start() {
    for number in [u32::MAX, 2] {
        let mut runner = with_sockets(&[number], "true");
        let (kind, why) = runner.finish(b"").failed.unwrap();
        assert_eq!(kind, FailKind::Setup);
        assert!(why.contains(&number.to_string()), "{why}");
    }
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.send(&vec![ToGuest::Socket(9); usize::from(SOCKETS_MAX) + 1]);
    assert_eq!(runner.run(&["echo", "new"], b"").out, b"new\n", "too many are no description");
}

#[test]
fn a_command_connects_to_its_listener_again_and_again_through_places_that_are_used_again() {
    let free = std::net::TcpListener::bind("127.80.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    let script = format!(
        "for i in 1 2 3 4 5; do exec 7<>/dev/tcp/127.80.0.1/{port}; echo ask$i >&7; read -r answer <&7; echo $answer; \
         exec 7>&-; done"
    );
    runner.describe(&["bash", "-c", &script]);
    runner.send(&[ToGuest::Listener { address: [127, 80, 0, 1], port, connections: 2 }, ToGuest::Start]);
    let (mut output, mut ends) = (String::new(), 0);
    runner.listen(|runner, message| {
        match message {
            ToHost::Data(stream @ Stream::Socket(_), bytes) => {
                let answer = format!("heard {}", str::from_utf8(bytes).unwrap());
                runner.send(&[ToGuest::Data(stream, answer.as_bytes())]);
            }
            ToHost::Data(_, bytes) => output += str::from_utf8(bytes).unwrap(),
            ToHost::Eof(stream @ Stream::Socket(_)) => {
                ends += 1;
                runner.send(&[ToGuest::Eof(stream)]);
            }
            ToHost::Exit(_) => return Some(()),
            _ => {}
        }
        None
    });
    assert_eq!(output, (1..=5).map(|i| format!("heard ask{i}\n")).collect::<String>());
    assert_eq!(ends, 5);
}

#[test]
fn an_address_that_cannot_be_listened_at_is_told_at_start() {
    let taken = std::net::TcpListener::bind("127.80.0.2:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut runner = Runner::start(StandIn::default());
    runner.hello(1);
    runner.describe(&["true"]);
    runner.send(&[ToGuest::Listener { address: [127, 80, 0, 2], port, connections: 1 }, ToGuest::Start]);
    let (kind, why) = runner.finish(b"").failed.unwrap();
    assert_eq!(kind, FailKind::Setup);
    assert!(why.contains("127.80.0.2") && why.contains("Address already in use"), "{why}");
}

//! The timing logger on the launch host: each guest's result comes over a socket and is time-stamped on arrival.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What a guest sends: its first computation.
const RESULT: &str = "sum 42";

/// A listener on this host alone, with a thread for each connection.
pub struct Logger {
    /// Where it listens.
    pub port: u16,
    arrivals: Receiver<Instant>,
}

impl Logger {
    /// Listens on a free port.
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (sender, arrivals) = channel();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || listen(connection, &sender));
            }
        });
        Ok(Self { port, arrivals })
    }

    /// Forgets what has arrived.
    pub fn forget(&self) {
        while self.arrivals.try_recv().is_ok() {}
    }

    /// When the next result arrived, if one does within `patience`.
    pub fn next(&self, patience: Duration) -> Option<Instant> {
        match self.arrivals.recv_timeout(patience) {
            Ok(moment) => Some(moment),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the logger ended"),
        }
    }
}

/// One connection carries the results of one VM, or of all VMs of a slot.
fn listen(connection: TcpStream, arrivals: &Sender<Instant>) {
    for line in BufReader::new(connection).lines().map_while(Result::ok) {
        let now = Instant::now();
        if line.trim() == RESULT {
            let _ = arrivals.send(now);
        } else {
            eprintln!("figure4: a guest sent '{}' instead of '{RESULT}'", line.escape_debug());
        }
    }
}

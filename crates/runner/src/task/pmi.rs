//! What a guest may say to Slurm's PMI server (`mpi/pmi2`, which speaks the wires of PMI-1 and PMI-2).
//!
//! The server is a part of slurmstepd and trusts its tasks: one that asks it to *spawn* gets any command executed by srun, on
//! the host. And it reads a whole request from each task in turn, so one that sends half a request keeps all others waiting.
//! So the guest's bytes are not passed on as they come: only whole requests, and only those of a list.
//!
//! - The first request says the version, in a fixed line; the server's answer says which one it speaks.
//! - PMI-1: a request is a line. The server takes whatever one read gives it, up to 1024 bytes, as one request, so there is never
//!   a second one on its way: the next follows the answer. Only an abort does not wait.
//! - PMI-2: six characters say a request's length, so requests may follow each other.

use std::collections::VecDeque;

/// Longest line of PMI-1, with its end; the server's own limit.
const LINE_MAX: usize = 1024;

/// Longest request of PMI-2; values have 1024 bytes at most.
const REQUEST_MAX: usize = 16 * 1024;

/// Characters of a request's length.
const LENGTH_LEN: usize = 6;

/// The two ways to begin.
const BEGINNINGS: [&[u8]; 2] =
    [b"cmd=init pmi_version=1 pmi_subversion=1\n", b"cmd=init pmi_version=2 pmi_subversion=0\n"];

/// Requests of PMI-1 that stay within the step.
const LINES: [&str; 15] = [
    "get_maxes",
    "get_universe_size",
    "get_appnum",
    "barrier_in",
    "finalize",
    "abort",
    "get_my_kvsname",
    "create_kvs",
    "destroy_kvs",
    "put",
    "get",
    "getbyidx",
    "publish_name",
    "unpublish_name",
    "lookup_name",
];

/// Those of PMI-2.
const REQUESTS: [&str; 16] = [
    "fullinit",
    "finalize",
    "abort",
    "job-getid",
    "job-connect",
    "job-disconnect",
    "ring",
    "kvs-put",
    "kvs-fence",
    "kvs-get",
    "info-getnodeattr",
    "info-putnodeattr",
    "info-getjobattr",
    "name-publish",
    "name-unpublish",
    "name-lookup",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// Nothing was said.
    Silent,
    /// The version was asked for.
    Asked,
    /// PMI-1; a request may wait for its answer.
    Lines { waits: bool },
    /// PMI-2.
    Counted,
}

/// One task's conversation with the server.
#[derive(Debug)]
pub(super) struct Pmi {
    wire: Wire,
    /// Of the guest, not yet passed on.
    said: VecDeque<u8>,
    /// The server's line, until its end.
    answer: Vec<u8>,
}

impl Pmi {
    /// Nothing was said.
    pub fn new() -> Self {
        Self { wire: Wire::Silent, said: VecDeque::new(), answer: Vec::new() }
    }

    /// Takes bytes of the guest.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.said.extend(bytes);
    }

    /// The next whole request that may be passed on now.
    ///
    /// # Errors
    /// What the guest said that is not passed on. The conversation is over then.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self.wire {
            Wire::Silent => self.beginning(),
            Wire::Asked => Ok(None),
            Wire::Lines { waits } => self.line(waits),
            Wire::Counted => self.counted(),
        }
    }

    fn beginning(&mut self) -> Result<Option<Vec<u8>>, String> {
        let said = self.said.make_contiguous();
        if BEGINNINGS.iter().any(|line| said.len() < line.len() && line.starts_with(said)) {
            return Ok(None);
        }
        let line = BEGINNINGS.iter().find(|line| said.starts_with(line));
        let line = line.ok_or_else(|| not_understood(said))?;
        self.wire = Wire::Asked;
        Ok(Some(self.said.drain(..line.len()).collect()))
    }

    fn line(&mut self, waits: bool) -> Result<Option<Vec<u8>>, String> {
        let said = self.said.make_contiguous();
        let Some(end) = said.iter().take(LINE_MAX).position(|&byte| byte == b'\n') else {
            return if said.len() < LINE_MAX { Ok(None) } else { Err(not_understood(said)) };
        };
        let line = &said[..end];
        let (command, rest) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(end));
        let command = allowed(command, &LINES)?;
        // Behind a request that the server has not read, it could be cut in two, and the rest taken for a request.
        let is_abort = command == "abort" && !rest.windows(3).any(|part| part == b"cmd");
        if waits && !is_abort {
            return Ok(None);
        }
        self.wire = Wire::Lines { waits: true };
        Ok(Some(self.said.drain(..=end).collect()))
    }

    fn counted(&mut self) -> Result<Option<Vec<u8>>, String> {
        let said = self.said.make_contiguous();
        let Some((length, rest)) = said.split_at_checked(LENGTH_LEN) else { return Ok(None) };
        // Slurm's own library writes it at the left, others at the right.
        let length = str::from_utf8(length).ok().map(|text| text.trim_matches(' '));
        let length = length.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = length.and_then(|text| text.parse::<usize>().ok()).filter(|length| *length <= REQUEST_MAX);
        let Some(length) = length else { return Err(not_understood(said)) };
        let Some(request) = rest.get(..length) else { return Ok(None) };
        let end = request.iter().position(|&byte| byte == b';').unwrap_or(0);
        allowed(&request[..end], &REQUESTS)?;
        Ok(Some(self.said.drain(..LENGTH_LEN + length).collect()))
    }

    /// Notes what the server said.
    pub fn answered(&mut self, bytes: &[u8]) {
        match self.wire {
            Wire::Asked => {
                self.answer.extend(bytes.iter().take(LINE_MAX));
                if self.answer.ends_with(b"\n") {
                    let speaks = |version: &[u8]| self.answer.windows(version.len()).any(|part| part == version);
                    self.wire = match speaks(b" pmi_version=1 ") {
                        true => Wire::Lines { waits: false },
                        false => Wire::Counted,
                    };
                    self.answer = Vec::new();
                }
            }
            Wire::Lines { .. } if bytes.ends_with(b"\n") => self.wire = Wire::Lines { waits: false },
            _ => {}
        }
    }
}

/// The name of a request that is on the list.
fn allowed<'a>(request: &'a [u8], list: &[&str]) -> Result<&'a str, String> {
    let name = request.strip_prefix(b"cmd=").and_then(|name| str::from_utf8(name).ok());
    match name.filter(|name| list.contains(name)) {
        Some(name) => Ok(name),
        None if [b"mcmd=spawn".as_slice(), b"cmd=spawn"].contains(&request) => Err(
            "the command asks Slurm to start more processes (MPI_Comm_spawn), which would run outside of VMs: it gets no \
             answer, and MPI does not go on"
                .to_owned(),
        ),
        None => Err(not_understood(request)),
    }
}

fn not_understood(said: &[u8]) -> String {
    let said = crate::notice::printable(&said[..said.len().min(60)]);
    format!("the command says '{said}' to Slurm's PMI server, which is not passed on, and MPI does not go on")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PMI1: &[u8] = BEGINNINGS[0];
    const PMI2: &[u8] = BEGINNINGS[1];

    /// A conversation that has begun, and the server speaks this version.
    fn begun(beginning: &[u8], version: &str) -> Pmi {
        let mut pmi = Pmi::new();
        pmi.hear(beginning);
        assert_eq!(pmi.next().unwrap().as_deref(), Some(beginning));
        let answer = format!("cmd=response_to_init rc=0 pmi_version={version}\n");
        let (first, rest) = answer.as_bytes().split_at(20);
        pmi.answered(first);
        assert_eq!(pmi.next(), Ok(None));
        pmi.answered(rest);
        pmi
    }

    fn line(pmi: &mut Pmi, text: &str) -> Result<Option<Vec<u8>>, String> {
        pmi.hear(text.as_bytes());
        pmi.next()
    }

    fn counted(text: &str) -> String {
        format!("{:>6}{text}", text.len())
    }

    #[test]
    fn requests_pass_whole_and_one_after_the_other() {
        let mut pmi = begun(PMI1, "1 pmi_subversion=1");
        assert_eq!(line(&mut pmi, "cmd=put kvsname=a key=b val"), Ok(None));
        assert_eq!(line(&mut pmi, "ue=c\ncmd=barrier_in\n"), Ok(Some(b"cmd=put kvsname=a key=b value=c\n".into())));
        assert_eq!(pmi.next(), Ok(None), "the server reads what it gets as one request");
        pmi.answered(b"cmd=put_result rc=0\n");
        assert_eq!(pmi.next(), Ok(Some(b"cmd=barrier_in\n".into())));
        // A process that waits in a barrier can still end the step.
        assert_eq!(line(&mut pmi, "cmd=abort exitcode=3\n"), Ok(Some(b"cmd=abort exitcode=3\n".into())));

        let mut pmi = begun(PMI2, "2 pmi_subversion=0");
        assert_eq!(line(&mut pmi, "16    cmd=fullinit;a=b"), Ok(Some(b"16    cmd=fullinit;a=b".into())));
        let both = counted("cmd=kvs-put;key=a;value=b;") + &counted("cmd=kvs-fence;");
        pmi.hear(&both.as_bytes()[..10]);
        assert_eq!(pmi.next(), Ok(None));
        pmi.hear(&both.as_bytes()[10..]);
        assert_eq!(pmi.next(), Ok(Some(counted("cmd=kvs-put;key=a;value=b;").into())));
        assert_eq!(pmi.next(), Ok(Some(counted("cmd=kvs-fence;").into())));
        assert_eq!(pmi.next(), Ok(None));
    }

    #[test]
    fn nobody_starts_processes_on_the_host() {
        for text in ["mcmd=spawn\nnprocs=1\nexecname=/bin/sh\n", "mcmd=spawn\n"] {
            assert!(
                line(&mut begun(PMI1, "1 pmi_subversion=1"), text).unwrap_err().contains("MPI_Comm_spawn"),
                "{text}"
            );
        }
        let spawn = counted("cmd=spawn;ncmds=1;preputcount=0;subcmd=/bin/sh;maxprocs=1;argc=0;");
        assert!(line(&mut begun(PMI2, "2 pmi_subversion=0"), &spawn).unwrap_err().contains("MPI_Comm_spawn"));
        // Nor by a request that the server would cut in two.
        let long = format!("cmd=put key={}mcmd=spawn\n", "x".repeat(LINE_MAX - 12));
        assert!(line(&mut begun(PMI1, "1 pmi_subversion=1"), &long).is_err());
        let mut pmi = begun(PMI1, "1 pmi_subversion=1");
        assert!(line(&mut pmi, "cmd=barrier_in\n").unwrap().is_some());
        assert_eq!(line(&mut pmi, "cmd=abort exitcode=mcmd=spawn\n"), Ok(None), "not behind another one");
    }

    #[test]
    fn the_server_decides_the_version_and_a_guest_that_speaks_another_is_stopped() {
        let lines = &mut begun(PMI2, "1 pmi_subversion=1");
        assert!(line(lines, &counted("cmd=kvs-put;key=\nmcmd=spawn\n;")).is_err());
        assert!(line(&mut begun(PMI1, "2 pmi_subversion=0"), "cmd=get_maxes\n").is_err());
    }

    #[test]
    fn what_is_no_request_is_shown_and_goes_nowhere() {
        for text in ["GET / HTTP/1.1\r\n", "cmd=init pmi_version=9 pmi_subversion=0\n", "\0\0\0\0"] {
            assert!(line(&mut Pmi::new(), text).is_err(), "{text}");
        }
        for text in ["cmd=mcmd \n", "thrid=0;cmd=spawn;\n", " cmd=get\n", "cmd=get", "cmd=getx\n"] {
            let outcome = line(&mut begun(PMI1, "1 pmi_subversion=1"), text);
            assert_eq!(outcome.is_ok(), text == "cmd=get", "{text}: {outcome:?}");
        }
        let long = format!("{:6}cmd=kvs-put;", REQUEST_MAX + 1);
        for text in [
            "-00001",
            "     0",
            "    12",
            "0x0010",
            "1 2   ",
            "      ",
            &long,
            &counted("cmd=spawn"),
            &counted("mcmd=spawn\n;"),
        ] {
            let outcome = line(&mut begun(PMI2, "2 pmi_subversion=0"), text);
            assert_eq!(outcome.is_ok(), text == "    12", "{text}: {outcome:?}");
        }
        let shown = line(&mut Pmi::new(), "\x1b[31mred").unwrap_err();
        assert!(shown.contains("red") && !shown.contains('\x1b'), "{shown}");
    }
}

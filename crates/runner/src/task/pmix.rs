//! What a guest may say to Slurm's PMIx server (`mpi/pmix`), and how the server is asked.
//!
//! The server is a library in slurmstepd, which is root, and trusts its clients. One that asks for it gets files of the user
//! removed from the node at the end (*job control*; Open MPI asks that for its own temporary files), files looked at with root's
//! rights (*monitor*), lines in the node's log. It reads a client's first message in one piece, while everybody else waits. So the
//! guest's bytes are not passed on as they come:
//!
//! - The first message is passed on when all of it is there, and only that of a plain client with this task's name and rank. Who
//!   connects is the runner, so the credential in it is the runner's own user and group, whoever the command is in the guest.
//! - Each later message begins with its tag, its length and the number of a request. Requests of a list are passed on. All others
//!   are answered here, as servers answer what they cannot do; the answer is put between two of the server's.
//!
//! This is the wire of clients since PMIx 4.1 (`v41`, without descriptions of types). Others are told so.

use std::collections::VecDeque;

use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::notice::printable;

/// Bytes before each message: the sender's index, a tag, the length, and four that mean nothing.
const HEADER_LEN: usize = 16;

/// Longest first message, without its header; a name has 255 bytes at most.
const GREETING_MAX: usize = 4096;

/// Longest later one. A task's addresses are a few thousand bytes.
const MESSAGE_MAX: usize = 4 << 20;

/// The server's answer to the first message: a status, and the client's index.
const ANSWER_LEN: usize = 8;

/// Tags below it are for what is no request.
const FIRST_TAG: u32 = 100;

/// The kind of a client that Slurm has started; others would be tools.
const PLAIN_CLIENT: u8 = 0;

/// The kind of its buffers: types are not described.
const PLAIN_BUFFER: u8 = 1;

/// One value follows.
const ONE: u8 = 2;

/// "Not supported" (-47) as a message holds it.
const NOT_SUPPORTED: u8 = 93;

/// Requests that stay within the step: job information, abort, commit, fence, get, finalize; notify, and the two about events.
const REQUESTS: [u8; 9] = [0, 1, 2, 3, 4, 5, 12, 13, 14];

/// The request to start more processes.
const SPAWN: u8 = 9;

/// Own answers that wait for the guest to read them; it has no need to ask more before.
const UNREAD_MAX: usize = 4096;

/// Who a task is for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub namespace: Vec<u8>,
    pub rank: u32,
}

/// One connection's conversation with the server.
#[derive(Debug)]
pub(super) struct Pmix {
    name: Name,
    has_greeted: bool,
    /// Of the guest, not yet passed on.
    said: VecDeque<u8>,
    /// Bytes of the message that is being passed on, and of the one that is not.
    passing: usize,
    dropping: usize,
    answers: Answers,
    /// A line for the user.
    line: Option<String>,
    has_told: bool,
}

impl Pmix {
    /// Nothing was said.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            has_greeted: false,
            said: VecDeque::new(),
            passing: 0,
            dropping: 0,
            answers: Answers::default(),
            line: None,
            has_told: false,
        }
    }

    /// Takes bytes of the guest.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.said.extend(bytes);
    }

    /// Bytes of the guest that are kept.
    pub fn kept(&self) -> usize {
        self.said.len()
    }

    /// What may be passed on now.
    ///
    /// # Errors
    /// What the guest said that is not passed on. The conversation is over then.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        if !self.has_greeted {
            return self.greeting();
        }
        loop {
            let dropped = self.dropping.min(self.said.len());
            self.said.drain(..dropped);
            self.dropping -= dropped;
            let passed = self.passing.min(self.said.len());
            self.passing -= passed;
            if passed > 0 {
                return Ok(Some(self.said.drain(..passed).collect()));
            }
            if self.dropping + self.passing > 0 || !self.begin()? {
                return Ok(None);
            }
        }
    }

    fn greeting(&mut self) -> Result<Option<Vec<u8>>, String> {
        let said = self.said.make_contiguous();
        let Some((header, rest)) = said.split_at_mut_checked(HEADER_LEN) else { return Ok(None) };
        // It and the user are in the node's own order, all other numbers in that of networks.
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if length > GREETING_MAX {
            return Err(not_understood("with a first message that is too long"));
        }
        let Some(greeting) = rest.get_mut(..length) else { return Ok(None) };
        check_greeting(greeting, &self.name)?;
        self.has_greeted = true;
        Ok(Some(self.said.drain(..HEADER_LEN + length).collect()))
    }

    /// Begins with the next message, if its beginning is there.
    fn begin(&mut self) -> Result<bool, String> {
        let said = self.said.make_contiguous();
        let Some((header, &[count, request, ..])) = said.split_first_chunk::<HEADER_LEN>() else { return Ok(false) };
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (tag, length) = (number(4), number(8) as usize);
        if tag < FIRST_TAG || !(2..=MESSAGE_MAX).contains(&length) || count != ONE {
            return Err(not_understood(&format!("with {length} bytes and the tag {tag}, which are no request")));
        }
        if REQUESTS.contains(&request) {
            self.passing = HEADER_LEN + length;
            return Ok(true);
        }
        if self.answers.unread() > UNREAD_MAX {
            return Ok(false);
        }
        self.dropping = HEADER_LEN + length;
        self.answers.insert(tag);
        if request == SPAWN && !self.has_told {
            self.has_told = true;
            self.line = Some(
                "the command asks Slurm to start more processes (MPI_Comm_spawn), which would run outside of VMs: it is \
                 refused"
                    .to_owned(),
            );
        }
        Ok(true)
    }

    /// Takes what the server said.
    pub fn answered(&mut self, bytes: &[u8]) {
        self.answers.take(bytes);
    }

    /// What the guest is told.
    pub fn for_guest(&mut self) -> &mut Vec<u8> {
        &mut self.answers.ready
    }

    /// Whether nothing waits for the guest.
    pub fn has_told_all(&self) -> bool {
        self.answers.ready.is_empty()
    }

    /// A line for the user, once.
    pub fn line(&mut self) -> Option<String> {
        self.line.take()
    }
}

/// What goes to the guest: the server's messages, with own ones between them.
#[derive(Debug, Default)]
struct Answers {
    /// Bytes of the first answer that came.
    first: usize,
    /// The header of the next message, as far as it came.
    header: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    own: Vec<u8>,
    ready: Vec<u8>,
}

impl Answers {
    fn unread(&self) -> usize {
        self.own.len() + self.ready.len()
    }

    /// Answers the request with this tag.
    fn insert(&mut self, tag: u32) {
        let message: [&[u8]; 5] = [&[0; 4], &tag.to_be_bytes(), &2_u32.to_be_bytes(), &[0; 4], &[ONE, NOT_SUPPORTED]];
        self.own.extend(message.concat());
        self.insert_own();
    }

    fn insert_own(&mut self) {
        if self.first == ANSWER_LEN && self.header.is_empty() && self.left == 0 {
            self.ready.append(&mut self.own);
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match (self.first, self.left) {
                (ANSWER_LEN, 0) => HEADER_LEN - self.header.len(),
                (ANSWER_LEN, left) => left,
                (first, _) => ANSWER_LEN - first,
            };
            let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.first < ANSWER_LEN {
                self.first += piece.len();
                self.ready.extend(piece);
            } else if self.left > 0 {
                self.left -= piece.len();
                self.ready.extend(piece);
            } else {
                self.header.extend(piece);
                if let [.., a, b, c, d, _, _, _, _] = self.header[..]
                    && self.header.len() == HEADER_LEN
                {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.ready.append(&mut self.header);
                }
            }
            self.insert_own();
        }
    }
}

/// Checks a client's first message, and puts this process's user and group into it.
fn check_greeting(greeting: &mut [u8], name: &Name) -> Result<(), String> {
    let mut rest = &mut *greeting;
    let security = word(&mut rest)?;
    if security != b"native" || number(&mut rest)? != 8 {
        return Err(not_understood("and proves who it is in another way than 'native'"));
    }
    let (credential, mut rest) = rest.split_at_mut_checked(8).ok_or_else(too_short)?;
    credential.copy_from_slice(&own_credential(geteuid(), getegid()));
    if byte(&mut rest)? != PLAIN_CLIENT {
        return Err(not_understood("as a tool and not as a task"));
    }
    if word(&mut rest)? != name.namespace || number(&mut rest)? != name.rank {
        return Err(not_understood("in the name of another task"));
    }
    let version = word(&mut rest)?.to_vec();
    // The server reads another message if it is 2.0.
    let is_later = matches!(version[..], [b'4'..=b'9', b'.', ..]);
    if !is_later || word(&mut rest)? != b"v41" || byte(&mut rest)? != PLAIN_BUFFER {
        let version = printable(&version);
        return Err(not_understood(&format!("with PMIx '{version}', and needs 4.1 or later")));
    }
    if word(&mut rest)? != b"hash" {
        return Err(not_understood("and wants its memory (PMIX_MCA_gds), which no VM has"));
    }
    Ok(())
}

/// A process' user and group, as they are in its memory.
fn own_credential(user: Uid, group: Gid) -> [u8; 8] {
    let [user, group] = [user.as_raw(), group.as_raw()].map(u32::to_ne_bytes);
    let mut both = [0; 8];
    both[..4].copy_from_slice(&user);
    both[4..].copy_from_slice(&group);
    both
}

fn word<'a>(rest: &mut &'a mut [u8]) -> Result<&'a [u8], String> {
    let end = rest.iter().position(|&byte| byte == 0).ok_or_else(too_short)?;
    let (word, after) = std::mem::take(rest).split_at_mut(end + 1);
    *rest = after;
    Ok(&word[..end])
}

fn number(rest: &mut &mut [u8]) -> Result<u32, String> {
    let (number, after) = std::mem::take(rest).split_first_chunk_mut::<4>().ok_or_else(too_short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn byte(rest: &mut &mut [u8]) -> Result<u8, String> {
    let (byte, after) = std::mem::take(rest).split_first_mut().ok_or_else(too_short)?;
    *rest = after;
    Ok(*byte)
}

fn too_short() -> String {
    not_understood("with no message of PMIx")
}

fn not_understood(what: &str) -> String {
    format!("the command speaks to Slurm's PMIx server {what}: this is not passed on, and MPI does not go on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { namespace: b"slurm.pmix.7.0".to_vec(), rank: 3 }
    }

    fn begun() -> Pmix {
        let mut pmix = Pmix::new(name());
        pmix.hear(&greeting(&name(), "4.2.2", "hash"));
        assert!(pmix.next().unwrap().is_some());
        pmix.answered(&[0; ANSWER_LEN]);
        pmix.for_guest().clear();
        pmix
    }

    /// A client's first message, as root of a guest says it.
    fn greeting(name: &Name, version: &str, memory: &str) -> Vec<u8> {
        let rank = name.rank.to_be_bytes();
        let parts: [&[u8]; 10] = [
            b"native\0\0\0\0\x08\0\0\0\0\0\0\0\0\0",
            &name.namespace,
            b"\0",
            &rank,
            version.as_bytes(),
            b"\0v41\0\x01",
            memory.as_bytes(),
            b"\0",
            b"\0",
            b"",
        ];
        let body = parts.concat();
        let length = (body.len() as u32).to_le_bytes();
        let parts: [&[u8]; 4] = [&[0xff; 8], &length, &[0; 4], &body];
        parts.concat()
    }

    fn request(tag: u32, number: u8, more: usize) -> Vec<u8> {
        let length = (2 + more as u32).to_be_bytes();
        let (tag, more) = (tag.to_be_bytes(), vec![7; more]);
        let parts: [&[u8]; 6] = [&[0, 0, 0, 1], &tag, &length, &[0; 4], &[ONE, number], &more];
        parts.concat()
    }

    #[test]
    fn a_task_greets_in_its_own_name_with_the_runner_s_user() {
        let said = greeting(&name(), "4.2.2", "hash");
        let mut pmix = Pmix::new(name());
        // Nothing is passed on before all is there: the server would wait for the rest while all others wait.
        for byte in &said[..said.len() - 1] {
            pmix.hear(&[*byte]);
            assert_eq!(pmix.next(), Ok(None));
        }
        pmix.hear(&said[said.len() - 1..]);
        let passed = pmix.next().unwrap().unwrap();
        assert_eq!(passed.len(), said.len());
        let credential = own_credential(geteuid(), getegid());
        let at = HEADER_LEN + "native\0".len() + 4;
        assert_eq!(passed[at..at + 8], credential[..]);
        assert_eq!((&passed[..at], &passed[at + 8..]), (&said[..at], &said[at + 8..]));
    }

    #[test]
    fn users_other_than_root_are_in_the_order_of_the_node_s_memory() {
        let credential = own_credential(Uid::from_raw(1000), Gid::from_raw(0x0102_0304));
        assert_eq!(
            credential.map(u32::from),
            if cfg!(target_endian = "little") { [0xe8, 3, 0, 0, 4, 3, 2, 1] } else { [0, 0, 3, 0xe8, 1, 2, 3, 4] }
        );
    }

    #[test]
    fn another_task_a_tool_an_older_library_and_nonsense_do_not_reach_the_server() {
        let other = |namespace: &[u8], rank| Name { namespace: namespace.to_vec(), rank };
        let good = greeting(&name(), "4.2.2", "hash");
        let flag = HEADER_LEN + "native\0".len() + 4 + 8;
        let tool = [&good[..flag], &[3], &good[flag + 1..]].concat();
        let long = [&good[..8], &5000_u32.to_le_bytes()[..], &good[12..]].concat();
        let cut = [&good[..8], &20_u32.to_le_bytes()[..], &good[12..]].concat();
        for (said, why) in [
            (greeting(&other(b"slurm.pmix.7.0", 2), "4.2.2", "hash"), "another task"),
            (greeting(&other(b"slurm.pmix.8.0", 3), "4.2.2", "hash"), "another task"),
            (greeting(&name(), "2.0.3", "hash"), "PMIx '2.0.3'"),
            (greeting(&name(), "4.2.2", "ds21"), "PMIX_MCA_gds"),
            (tool, "tool"),
            (long, "too long"),
            (cut, "no message of PMIx"),
            (b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_vec(), "too long"),
        ] {
            let mut pmix = Pmix::new(name());
            pmix.hear(&said);
            let line = pmix.next().unwrap_err();
            assert!(line.contains(why) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn requests_of_the_list_pass_in_pieces_and_others_are_answered_here() {
        let mut pmix = begun();
        let fence = request(101, 3, 30_000);
        pmix.hear(&fence[..20]);
        assert_eq!(pmix.next().unwrap().unwrap(), fence[..20]);
        assert_eq!(pmix.next(), Ok(None));
        // Job control, and the words behind it, which are nothing to the server.
        pmix.hear(&[&fence[20..], &request(102, 18, 500), &request(103, 5, 0)].concat());
        assert_eq!(pmix.next().unwrap().unwrap(), fence[20..]);
        assert_eq!(pmix.next().unwrap().unwrap(), request(103, 5, 0));
        assert_eq!((pmix.kept(), pmix.next()), (0, Ok(None)));
        let answer = b"\0\0\0\0\0\0\0\x66\0\0\0\x02\0\0\0\0\x02\x5d";
        assert_eq!(pmix.for_guest()[..], answer[..]);
        assert_eq!(pmix.line(), None);
    }

    #[test]
    fn own_answers_go_between_two_of_the_server() {
        let mut pmix = begun();
        let said = request(101, 0, 100);
        pmix.answered(&said[..40]);
        pmix.hear(&request(102, SPAWN, 9));
        pmix.hear(&request(103, SPAWN, 9));
        assert_eq!(pmix.next(), Ok(None));
        assert!(pmix.line().unwrap().contains("MPI_Comm_spawn"));
        assert_eq!(pmix.line(), None, "once");
        assert_eq!(pmix.for_guest()[..], said[..40]);
        let all = [&said[40..], &said[..7]].concat();
        pmix.answered(&all);
        let heard = std::mem::take(pmix.for_guest());
        assert_eq!((&heard[..40], heard.len()), (&said[..40], said.len() + 2 * 18));
        assert_eq!(heard[said.len() + 4..said.len() + 8], 102_u32.to_be_bytes());
        pmix.answered(&said[7..]);
        assert_eq!(pmix.for_guest()[..], said[..]);
    }

    #[test]
    fn a_guest_that_asks_and_never_reads_is_not_answered_without_end() {
        let mut pmix = begun();
        for _ in 0..1000 {
            pmix.hear(&request(200, SPAWN, 0));
            assert_eq!(pmix.next(), Ok(None));
        }
        assert!(pmix.for_guest().len() < UNREAD_MAX + 100 && pmix.kept() > 1000);
    }

    #[test]
    fn what_is_no_request_ends_the_conversation() {
        let long = request(101, 2, MESSAGE_MAX);
        for said in [request(1, 0, 0), request(0, 12, 4), long, vec![b'x'; 30], vec![0; 18]] {
            let mut pmix = begun();
            pmix.hear(&said[..18]);
            let line = pmix.next().unwrap_err();
            assert!(line.contains("no request"), "{line}");
        }
    }
}

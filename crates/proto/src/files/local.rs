//! Requests that the guest answers itself, because the host's answer is known. Courier and tests share it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::fuse::{IN_HEADER, OUT_HEADER, long, op, word};
use super::messages::Absent;
use super::{PROBED, is_label};

/// In the number of a handle, which the server chooses: closing a descriptor of it says nothing, on this file system no
/// error comes up there.
pub const QUIET_CLOSE: u64 = 1 << 63;

/// The ioctls that are about a file and not about a device: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR,
/// FS_IOC_FSSETXATTR. The server knows no others.
pub const FILE_IOCTLS: [u32; 4] = [0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820];

/// Not a typewriter.
const ENOTTY: i32 = 25;
/// There is no attribute of this name, or none at all.
const ENODATA: i32 = 61;
/// There are no attributes of this kind. Who asks each file of a directory, as `ls -l` does, stops asking.
const EOPNOTSUPP: i32 = 95;

/// Owners of locks and written handles are remembered up to so many; beyond, the host is asked each time.
const REMEMBERED_MAX: usize = 4096;

/// Absent attributes that are remembered, at most.
const ABSENT_MAX: usize = 8192;

/// How long an absence is believed: as long as attributes are.
const BELIEVED: Duration = Duration::from_secs(1);

/// What the guest has asked one share for so far, as far as later answers depend on it.
#[derive(Debug, Default)]
pub struct Asked {
    /// Handles whose next close may report an error of writing.
    written: HashSet<u64>,
    /// Processes that may have POSIX locks: a close gives them back.
    owners: HashSet<u64>,
    /// There were too many of either.
    is_full: bool,
}

impl Asked {
    /// The answer to a request, as an error number or 0, if the host need not be asked. `head` is the request's beginning:
    /// its header and at least the next 40 bytes, if it has as many. It must see every request.
    pub fn answer(&mut self, head: &[u8]) -> Option<i32> {
        let handle = long(head, IN_HEADER);
        match word(head, 4) {
            op::WRITE | op::FALLOCATE => self.note(handle, true),
            op::COPY_FILE_RANGE => self.note(long(head, IN_HEADER + 24), true),
            op::GETLK | op::SETLK | op::SETLKW => self.note(long(head, IN_HEADER + 8), false),
            op::RELEASE => {
                self.written.remove(&handle);
            }
            op::FLUSH => {
                let was_written = self.written.remove(&handle) && handle & QUIET_CLOSE == 0;
                let has_locks = self.owners.contains(&long(head, IN_HEADER + 16));
                return (!was_written && !has_locks && !self.is_full).then_some(0);
            }
            op::IOCTL if !FILE_IOCTLS.contains(&word(head, IN_HEADER + 12)) => return Some(ENOTTY),
            op::GETXATTR | op::SETXATTR | op::REMOVEXATTR if is_label(attribute(head)) => return Some(EOPNOTSUPP),
            _ => {}
        }
        None
    }

    fn note(&mut self, number: u64, is_handle: bool) {
        let set = if is_handle { &mut self.written } else { &mut self.owners };
        if set.len() < REMEMBERED_MAX {
            set.insert(number);
        } else if !set.contains(&number) {
            self.is_full = true;
        }
    }
}

/// The attribute that a GETXATTR, SETXATTR or REMOVEXATTR is about.
fn attribute(head: &[u8]) -> &[u8] {
    let at = if word(head, 4) == op::REMOVEXATTR { IN_HEADER } else { IN_HEADER + 8 };
    head.get(at..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default()
}

/// Extended attributes that files of one share do not have.
#[derive(Debug, Default)]
pub struct Absences {
    known: HashMap<(u64, usize), (i32, Instant)>,
    /// Changes of attributes that the host has not answered yet. Meanwhile nothing is believed.
    changing: HashSet<u64>,
}

impl Absences {
    /// The host says what is absent.
    pub fn learn(&mut self, absent: &Absent, now: Instant) {
        if !self.changing.is_empty() {
            return;
        }
        for node in &absent.nodes {
            if self.known.len() >= ABSENT_MAX {
                self.known.clear();
            }
            self.known.insert((*node, absent.name as usize), (absent.errno as i32, now));
        }
    }

    /// The reply to a request, if it is known. It must see every request that [`Asked::answer`] does not answer, with its
    /// beginning as there.
    pub fn answer(&mut self, head: &[u8], now: Instant) -> Option<Vec<u8>> {
        match word(head, 4) {
            op::GETXATTR => self.error(head, attribute(head), now).map(|errno| local_reply(head, errno).to_vec()),
            op::LISTXATTR => Some(match self.error(head, b"", now)? {
                ENODATA => empty_list(head),
                errno => local_reply(head, errno).to_vec(),
            }),
            op::SETXATTR | op::REMOVEXATTR => {
                self.changing.insert(long(head, 8));
                self.known.clear();
                None
            }
            _ => None,
        }
    }

    /// Why the file that is asked about does not have this attribute.
    fn error(&self, head: &[u8], name: &[u8], now: Instant) -> Option<i32> {
        let name = PROBED.iter().position(|probed| *probed == name)?;
        let (errno, since) = self.known.get(&(long(head, 16), name))?;
        (now.saturating_duration_since(*since) < BELIEVED).then_some(*errno)
    }

    /// The host has answered this request.
    pub fn answered(&mut self, unique: u64) {
        if !self.changing.is_empty() {
            self.changing.remove(&unique);
        }
    }
}

/// The reply to a request that begins with `head`: success without a body, or this error.
#[must_use]
pub fn local_reply(head: &[u8], errno: i32) -> [u8; OUT_HEADER] {
    let mut reply = [0; OUT_HEADER];
    reply[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
    reply[4..8].copy_from_slice(&(-errno).to_le_bytes());
    reply[8..].copy_from_slice(&long(head, 8).to_le_bytes());
    reply
}

/// The reply to a LISTXATTR: no names, or that they need no room.
fn empty_list(head: &[u8]) -> Vec<u8> {
    let mut reply = local_reply(head, 0).to_vec();
    if word(head, IN_HEADER) == 0 {
        reply.extend_from_slice(&[0; 8]);
        reply[0] = reply.len() as u8;
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request with these words of 8 bytes behind its header.
    fn request(op: u32, words: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER];
        bytes[4..8].copy_from_slice(&op.to_le_bytes());
        bytes[8..16].copy_from_slice(&77_u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&5_u64.to_le_bytes());
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    fn getxattr(name: &[u8]) -> Vec<u8> {
        [&request(op::GETXATTR, &[0]), name, b"\0"].concat()
    }

    #[test]
    fn a_close_is_the_host_s_matter_only_after_writing_or_with_locks() {
        let mut asked = Asked::default();
        let flush = |handle, owner| request(op::FLUSH, &[handle, 0, owner]);
        assert_eq!(asked.answer(&flush(1, 9)), Some(0));
        for write in
            [request(op::WRITE, &[1]), request(op::FALLOCATE, &[1]), request(op::COPY_FILE_RANGE, &[2, 0, 0, 1])]
        {
            assert_eq!(asked.answer(&write), None);
            assert_eq!(asked.answer(&flush(2, 9)), Some(0));
            assert_eq!(asked.answer(&flush(1, 9)), None, "errors of writing");
            assert_eq!(asked.answer(&flush(1, 9)), Some(0), "nothing was written since");
        }
        asked.answer(&request(op::WRITE, &[1 | QUIET_CLOSE]));
        assert_eq!(asked.answer(&flush(1 | QUIET_CLOSE, 9)), Some(0));
        for lock in [op::GETLK, op::SETLK, op::SETLKW] {
            asked.answer(&request(lock, &[1, u64::from(lock)]));
            assert_eq!(asked.answer(&flush(1 | QUIET_CLOSE, lock.into())), None);
            assert_eq!(asked.answer(&flush(1, lock.into())), None, "it may have more locks");
        }
        assert_eq!(asked.answer(&flush(1, 9)), Some(0));
        (0..=REMEMBERED_MAX as u64)
            .for_each(|owner| assert_eq!(asked.answer(&request(op::SETLK, &[1, 1000 + owner])), None));
        assert_eq!(asked.answer(&flush(1, 9)), None, "too many to know all");
    }

    #[test]
    fn a_file_is_no_terminal() {
        let ioctl = |command: u32| Asked::default().answer(&request(op::IOCTL, &[1, u64::from(command) << 32]));
        assert_eq!((ioctl(0x5401), ioctl(FILE_IOCTLS[0])), (Some(ENOTTY), None));
    }

    #[test]
    fn labels_of_the_host_are_not_supported_and_nobody_is_asked() {
        let asked = |request: Vec<u8>| Asked::default().answer(&request);
        let about = |op, words: &[u64], name: &[u8]| [&request(op, words), name, b"\0value"].concat();
        for label in [&b"security.selinux"[..], b"security.apparmor", b"security.SMACK64TRANSMUTE"] {
            assert_eq!(asked(getxattr(label)), Some(EOPNOTSUPP));
            assert_eq!(asked(about(op::SETXATTR, &[5], label)), Some(EOPNOTSUPP));
            assert_eq!(asked(about(op::REMOVEXATTR, &[], label)), Some(EOPNOTSUPP));
        }
        for other in [&b"security.capability"[..], b"security.selinux2", b"user.security.selinux", b"security.ima", b""]
        {
            assert_eq!(asked(getxattr(other)), None);
            assert_eq!(asked(about(op::SETXATTR, &[5], other)), None);
            assert_eq!(asked(about(op::REMOVEXATTR, &[], other)), None);
        }
        assert_eq!(asked(request(op::REMOVEXATTR, &[])), None, "without a name");
    }

    #[test]
    fn a_file_without_attributes_has_an_empty_list() {
        let (mut absences, now) = (Absences::default(), Instant::now());
        let list = |size| request(op::LISTXATTR, &[size]);
        absences.learn(&Absent { name: 1, errno: ENODATA as u32, nodes: vec![5] }, now);
        assert_eq!(absences.answer(&list(100), now), Some(local_reply(&list(100), 0).to_vec()));
        let length = absences.answer(&list(0), now).unwrap();
        assert_eq!((length.len(), length[0], &length[16..]), (24, 24, &[0; 8][..]));
        absences.learn(&Absent { name: 1, errno: EOPNOTSUPP as u32, nodes: vec![5] }, now);
        assert_eq!(absences.answer(&list(0), now), Some(local_reply(&list(0), EOPNOTSUPP).to_vec()));
        assert_eq!(absences.answer(&list(0), now + BELIEVED), None);
    }

    #[test]
    fn what_is_absent_is_believed_for_a_second_and_not_across_a_change() {
        let (mut absences, now) = (Absences::default(), Instant::now());
        let absent = Absent { name: 2, errno: 61, nodes: vec![4, 5] };
        let asked = getxattr(b"system.posix_acl_access");
        let none = Some(local_reply(&asked, ENODATA).to_vec());
        assert_eq!(absences.answer(&asked, now), None);
        absences.learn(&absent, now);
        assert_eq!(absences.answer(&asked, now), none);
        assert_eq!(absences.answer(&getxattr(b"system.posix_acl_acces"), now), None);
        assert_eq!(absences.answer(&getxattr(b"security.capability"), now), None);
        assert_eq!(absences.answer(&asked, now + BELIEVED), None);
        assert_eq!(absences.answer(&request(op::SETXATTR, &[]), now), None);
        absences.learn(&absent, now);
        assert_eq!(absences.answer(&asked, now), None, "learnt while it changed");
        absences.answered(77);
        assert_eq!(absences.answer(&asked, now), None);
        absences.learn(&absent, now);
        assert_eq!(absences.answer(&asked, now), none);
        assert_eq!(local_reply(&asked, 61)[4..8], (-61_i32).to_le_bytes());
        for node in 0..ABSENT_MAX as u64 {
            absences.learn(&Absent { name: 0, errno: 61, nodes: vec![node] }, now);
        }
        assert!(absences.known.len() <= ABSENT_MAX);
    }
}

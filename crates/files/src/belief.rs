//! What the guest's kernel believes of a file, and whether it may go on using the data that it has.

/// What the guest was told last of a file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    version: Option<Version>,
    /// The file was read so soon after its last change that another change may have left the same time.
    is_racy: bool,
    /// The guest has read it since it was told to drop what it had.
    was_read: bool,
    /// Up to this second the guest may have something that was sent ahead and has not been shown to its kernel yet.
    ahead_until: i64,
}

/// By what a change of a file is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Version {
    fn of(stat: &libc::stat) -> Self {
        let (mtime, ctime) = ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
        Self { size: stat.st_size, mtime, ctime }
    }
}

/// How a file is, compared with what the guest believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// True, and so is the data that it has.
    True,
    /// The attributes are true; the data may be old.
    Doubtful,
    /// Not true.
    False,
}

/// Changes within this many seconds may leave the same time: the coarsest clock of a file system in use.
pub(crate) const GRAIN: i64 = 2;

/// Seconds for which something that was sent ahead is kept at most, rounded up.
const AHEAD: i64 = 2;

impl Told {
    /// Remembers what the guest is told.
    pub(crate) fn tell(&mut self, stat: &libc::stat) {
        let version = Some(Version::of(stat));
        // A guest that is told of a change drops its data.
        self.is_racy &= self.version == version;
        self.was_read &= self.version == version;
        self.version = version;
    }

    /// Whether the guest may still have data that it has read. What it has written it may have or not.
    pub(crate) fn was_read(&self) -> bool {
        self.was_read
    }

    /// Something is sent ahead of what is told now. It is kept for a second.
    pub(crate) fn sent_ahead(&mut self, now: i64) {
        self.ahead_until = now + AHEAD;
    }

    /// Whether that may still be there.
    pub(crate) fn is_ahead(&self, now: i64) -> bool {
        self.ahead_until >= now
    }

    /// Whether it may be there and is not as the file is now: the guest has to drop it before it is told that. Says so once.
    pub(crate) fn casts_doubt(&mut self, stat: &libc::stat, now: i64) -> bool {
        let doubt = self.is_ahead(now) && self.version != Some(Version::of(stat));
        if doubt {
            self.ahead_until = 0;
        }
        doubt
    }

    /// Nothing that the guest believes is sure.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes that the guest reads data at the time `now`, in seconds. What it reads after a change that it was not told of
    /// needs no note. The time of change of the attributes counts too: who sets the other one moves it.
    pub(crate) fn read_at(&mut self, now: i64) {
        self.was_read = true;
        self.is_racy |= self.version.is_none_or(|version| now - version.mtime.0.max(version.ctime.0) < GRAIN);
    }

    /// Compares, and takes what is now as told: the guest drops what it has if the answer is not `True`.
    pub(crate) fn compare(&mut self, stat: &libc::stat) -> Belief {
        let version = Some(Version::of(stat));
        let belief = match (self.version == version, self.is_racy) {
            (true, false) => Belief::True,
            (true, true) => Belief::Doubtful,
            (false, _) => Belief::False,
        };
        (self.version, self.is_racy) = (version, false);
        self.was_read &= belief == Belief::True;
        belief
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn cached_data_is_believed_only_if_no_change_can_hide() {
        let file = tempfile::tempfile().unwrap();
        let mut stat = super::super::sys::fstat(file.as_fd()).unwrap();
        let mut told = Told::default();
        assert_eq!(told.compare(&stat), Belief::False, "nothing was told");
        assert_eq!(told.compare(&stat), Belief::True);
        told.read_at(stat.st_ctime + GRAIN);
        assert!(told.was_read());
        assert_eq!(told.compare(&stat), Belief::True, "read long after the last change");
        assert!(told.was_read());
        stat.st_mtime -= 100;
        told.compare(&stat);
        told.read_at(stat.st_ctime + GRAIN - 1);
        told.tell(&stat);
        assert!(told.was_read(), "nothing is new");
        assert_eq!(told.compare(&stat), Belief::Doubtful);
        assert!(!told.was_read(), "the guest drops it");
        assert_eq!(told.compare(&stat), Belief::True, "the guest has dropped its data");
        told.read_at(stat.st_mtime);
        stat.st_size += 1;
        told.tell(&stat);
        assert_eq!(told.compare(&stat), Belief::True, "it drops its data when it is told of a change");
        stat.st_ctime_nsec += 1;
        assert_eq!(told.compare(&stat), Belief::False);
        told.forget();
        assert_eq!(told.compare(&stat), Belief::False);
    }

    #[test]
    fn a_change_behind_what_was_sent_ahead_is_noticed_once() {
        let file = tempfile::tempfile().unwrap();
        let mut stat = super::super::sys::fstat(file.as_fd()).unwrap();
        let mut told = Told::default();
        told.tell(&stat);
        told.sent_ahead(100);
        assert!(!told.casts_doubt(&stat, 100));
        stat.st_size += 1;
        assert!(!told.casts_doubt(&stat, 101 + AHEAD), "nobody has it any more");
        assert!(told.casts_doubt(&stat, 101) && !told.casts_doubt(&stat, 101));
    }
}

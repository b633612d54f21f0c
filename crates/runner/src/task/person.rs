//! Who the user is on this host: what a guest must know so that programs name the same user, groups and time zone.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

use proto::ToGuest;

/// The host's time zone.
const LOCALTIME: &str = "/etc/localtime";

/// Longest data of a time zone that is sent, in bytes; the longest zones have 4 KiB.
const ZONE_MOST: u64 = 32 << 10;

/// Longest field of an account that is sent, in bytes; a directory service may have longer notes on a person.
const FIELD_MOST: usize = 4095;

/// The number of a user who is nobody's.
const SOMEBODY: u32 = 60_000;

/// How long to look for the names of further groups: a directory service far away may take long for many large ones.
const NAMES_WITHIN: Duration = Duration::from_millis(500);

/// A user, and those of the user's groups that have names.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub user: User,
    groups: Vec<(u32, Vec<u8>)>,
}

impl Person {
    /// The user of this process, with this primary group and these others.
    ///
    /// # Errors
    /// The system's account database does not answer.
    pub(super) fn of_this_process(own: Gid, others: &[Gid]) -> nix::Result<Self> {
        let user = account(Uid::current())?;
        let mut gids = vec![own];
        gids.extend(others.iter().filter(|gid| **gid != own));
        let begin = Instant::now();
        // A group that the database does not know, or does not tell in time, has no name.
        let in_time = gids.into_iter().take_while(|_| begin.elapsed() < NAMES_WITHIN);
        let named = |gid: Gid| Some((gid.as_raw(), Group::from_gid(gid).ok().flatten()?.name.into_bytes()));
        Ok(Self { user, groups: in_time.filter_map(named).collect() })
    }

    /// The user of this process with the account's group alone.
    ///
    /// # Errors
    /// The system's account database does not answer.
    pub(super) fn without_job() -> nix::Result<Self> {
        Self::of_this_process(account(Uid::current())?.gid, &[])
    }

    /// Root of a guest.
    pub(super) fn root() -> Self {
        let root = nameless(Uid::from_raw(0));
        let user = User { name: "root".into(), dir: "/root".into(), gid: Gid::from_raw(0), ..root };
        Self { user, groups: Vec::new() }
    }

    /// An ordinary user whom neither host nor image knows.
    pub(super) fn somebody(home: &Path) -> Self {
        let gid = Gid::from_raw(SOMEBODY);
        let user = User { name: "somebody".into(), dir: home.to_owned(), gid, ..nameless(Uid::from_raw(SOMEBODY)) };
        Self { user, groups: vec![(SOMEBODY, b"somebody".to_vec())] }
    }

    /// The messages that make user and groups known, to be sent before the credentials.
    pub(super) fn introduce(&self, mut send: impl FnMut(ToGuest<'_>)) {
        let User { gid, name, gecos, dir, shell, .. } = &self.user;
        let fields = [name.as_bytes(), gecos.as_bytes(), dir.as_os_str().as_bytes(), shell.as_os_str().as_bytes()];
        let [name, gecos, home, shell] = fields.map(|field| if field.len() > FIELD_MOST { b"" } else { field });
        send(ToGuest::User { gid: gid.as_raw(), name, gecos, home, shell });
        for (gid, name) in &self.groups {
            send(ToGuest::Group { gid: *gid, name });
        }
    }
}

fn account(uid: Uid) -> nix::Result<User> {
    Ok(User::from_uid(uid)?.unwrap_or_else(|| nameless(uid)))
}

/// A uid without an account still runs jobs.
fn nameless(uid: Uid) -> User {
    User {
        name: format!("uid{uid}"),
        passwd: c"x".to_owned(),
        uid,
        gid: Gid::current(),
        gecos: c"".to_owned(),
        dir: "/".into(),
        shell: "/bin/sh".into(),
    }
}

/// The host's time zone, by name and by its data.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    name: Vec<u8>,
    data: Vec<u8>,
}

impl Zone {
    /// The zone that programs of this host find without `TZ`; `None` where there is no file, which means UTC.
    pub(super) fn of_host() -> Option<Self> {
        let mut data = Vec::new();
        File::open(LOCALTIME).ok()?.take(ZONE_MOST).read_to_end(&mut data).ok()?;
        let name = Path::new(LOCALTIME).canonicalize().ok().map(|path| name_of(&path)).unwrap_or_default();
        data.starts_with(b"TZif").then_some(Self { name, data })
    }

    /// The message that makes it the guest's.
    pub(super) fn message(&self) -> ToGuest<'_> {
        ToGuest::Zone { name: &self.name, data: &self.data }
    }
}

/// The name of a zone whose data are in this file; empty for a file that is not in the database.
fn name_of(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let database = b"/zoneinfo/";
    let at = bytes.windows(database.len()).position(|window| window == database);
    at.map(|at| bytes[at + database.len()..].to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_named_by_its_place_in_the_database() {
        assert_eq!(name_of(Path::new("/usr/share/zoneinfo/Europe/Berlin")), b"Europe/Berlin");
        assert_eq!(name_of(Path::new("/etc/localtime")), b"");
    }

    #[test]
    fn notes_of_an_account_that_no_guest_could_take_are_left_out() {
        let mut person = Person::root();
        person.user.gecos = std::ffi::CString::new(vec![b'x'; 100_000]).unwrap();
        let mut out = Vec::new();
        person.introduce(|message| message.encode(0, &mut out));
        assert!((10..1000).contains(&out.len()), "{}", out.len());
    }

    #[test]
    fn the_primary_group_is_introduced_once_and_first() {
        let own = Gid::current();
        let person = Person::of_this_process(own, &[own, Gid::from_raw(4_000_000_000)]).unwrap();
        let mut gids = Vec::new();
        person.introduce(|message| {
            if let ToGuest::Group { gid, .. } = message {
                gids.push(gid);
            }
        });
        assert_eq!(gids, [own.as_raw()], "a group that nobody knows has no name");
    }
}

//! Entries of `/etc/passwd`, `/etc/group` and `/etc/hosts`, as pure functions on their text.
//!
//! An image does not know the cluster's users, or knows other people by their names and numbers. Nothing of the image
//! is removed: the user's entries are put before all others, and the first entry of a number or a name is the one that
//! counts. So they also come before a line `+::::::`, which asks a name service for all that follows.

/// The user of a task as the host's databases describe them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Account {
    pub gid: u32,
    pub name: Vec<u8>,
    pub gecos: Vec<u8>,
    pub home: Vec<u8>,
    pub shell: Vec<u8>,
    /// The groups that have a name on the host, the primary one among them.
    pub groups: Vec<(u32, Vec<u8>)>,
}

/// The line that must come first in the passwd file `text`; `None` when the user is there as on the host, and for root,
/// who is the image's own.
pub(super) fn passwd_line(text: &[u8], account: &Account, uid: u32) -> Option<Vec<u8>> {
    let (name, gecos) = (field(&account.name)?, field(&account.gecos).unwrap_or_default());
    let (home, shell) = (field(&account.home)?, field(&account.shell)?);
    let (uid, gid) = (uid.to_string(), account.gid.to_string());
    let by_id = first(text, 2, uid.as_bytes());
    let is_known = |entry: &[&[u8]]| {
        entry.len() == 7 && entry[0] == name && entry[3] == gid.as_bytes() && entry[5] == home && entry[6] == shell
    };
    let is_first = || first(text, 0, name) == by_id;
    if name.is_empty() || by_id.as_deref().is_some_and(|entry| uid == "0" || is_known(entry) && is_first()) {
        return None;
    }
    // An 'x' would mean a password in the image's shadow file; where that has no such user, sudo and su refuse to act.
    let fields = [name, b"*", uid.as_bytes(), gid.as_bytes(), gecos, home, shell];
    Some([fields.join(&b':'), b"\n".to_vec()].concat())
}

/// The lines that must come first in the group file `text`, for the user's groups: `own` is the primary one, `others`
/// are the rest. They name the user as a member, for programs that look groups up by their members. A primary group
/// without a name on the host gets the user's, or its number if the image has another group of that name.
pub(super) fn group_lines(text: &[u8], account: &Account, own: u32, others: &[u32]) -> Vec<u8> {
    let user = field(&account.name).unwrap_or_default();
    let of_host = |gid: u32| {
        let name = account.groups.iter().find(|(number, _)| *number == gid).and_then(|(_, name)| field(name));
        name.filter(|name| !name.is_empty())
    };
    let mut lines = Vec::new();
    let mut put = |name: &[u8], gid: u32, member: &[u8]| {
        let number = gid.to_string();
        let by_id = first(text, 2, number.as_bytes());
        let is_known = |entry: &[&[u8]]| {
            let members = entry.get(3).copied().unwrap_or_default();
            entry[0] == name && (member.is_empty() || members.split(|&byte| byte == b',').any(|one| one == member))
        };
        let is_first = || first(text, 0, name) == by_id;
        if !by_id.as_deref().is_some_and(|entry| is_known(entry) && is_first()) {
            lines.extend([name, b"x", number.as_bytes(), member].join(&b':'));
            lines.push(b'\n');
        }
    };
    let numbered = format!("g{own}");
    match of_host(own) {
        Some(name) => put(name, own, b""),
        None if first(text, 2, own.to_string().as_bytes()).is_some() => {}
        None if user.is_empty() || first(text, 0, user).is_some() => put(numbered.as_bytes(), own, b""),
        None => put(user, own, b""),
    }
    for &gid in others.iter().filter(|&&gid| gid != own) {
        if let Some(name) = of_host(gid) {
            put(name, gid, user);
        }
    }
    lines
}

/// The hosts line that makes the VM's own name resolve; `None` when it already does. An empty file gets
/// `localhost` too.
pub(super) fn missing_hosts_entry(text: &[u8], hostname: &[u8]) -> Option<Vec<u8>> {
    let known = lines(text)
        .map(|line| line.split(|&byte| byte == b'#').next().unwrap_or_default())
        .any(|line| line.split(u8::is_ascii_whitespace).skip(1).any(|word| word == hostname));
    if known || hostname.is_empty() || hostname.iter().any(|byte| byte.is_ascii_whitespace() || *byte == b'#') {
        return None;
    }
    let mut line = separator(text);
    if text.is_empty() {
        line.extend_from_slice(b"127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    }
    line.extend_from_slice(b"127.0.1.1\t");
    line.extend_from_slice(hostname);
    line.push(b'\n');
    Some(line)
}

/// If the last line has no newline, one is needed before our line.
fn separator(text: &[u8]) -> Vec<u8> {
    if text.last().is_some_and(|&last| last != b'\n') { b"\n".to_vec() } else { Vec::new() }
}

/// A value that is allowed in a colon-separated line.
fn field(value: &[u8]) -> Option<&[u8]> {
    (!value.iter().any(|byte| matches!(byte, b':' | b'\n' | 0))).then_some(value)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// The first entry whose field of that number (0 is the name, 2 the id, in passwd and group alike) has this value.
fn first<'a>(text: &'a [u8], number: usize, value: &[u8]) -> Option<Vec<&'a [u8]>> {
    let mut entries = lines(text).map(|line| line.split(|&byte| byte == b':').collect::<Vec<_>>());
    entries.find(|entry| entry.len() > 2 && entry[number] == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nold:x:1000:1000::/home/old:/bin/sh\nada:x:7:7::/:/bin/sh";

    fn ada() -> Account {
        let [name, gecos, home, shell] =
            ["ada", "Ada L.,,,", "/home/ada", "/bin/bash"].map(|text| text.as_bytes().to_vec());
        Account { gid: 100, name, gecos, home, shell, groups: vec![(100, b"staff".to_vec()), (4711, b"proj".to_vec())] }
    }

    /// The file after the line was put before it.
    fn passwd(text: &[u8], account: &Account, uid: u32) -> Vec<u8> {
        [passwd_line(text, account, uid).unwrap_or_default(), text.to_vec()].concat()
    }

    #[test]
    fn the_host_s_account_wins_whatever_the_image_has_by_its_name_and_number() {
        let line = b"ada:*:1000:100:Ada L.,,,:/home/ada:/bin/bash\n";
        for text in [PASSWD, b"", b"+::::::\n"] {
            let after = passwd(text, &ada(), 1000);
            assert!(after.starts_with(line) && after.ends_with(text), "{}", String::from_utf8_lossy(&after));
            assert_eq!(passwd(&after, &ada(), 1000), after, "once is enough");
        }
        // The uid and the name are each somebody else's.
        let after = passwd(b"ada:x:5:5::/:/bin/sh\nada:x:1000:100::/home/ada:/bin/bash\n", &ada(), 1000);
        assert!(after.starts_with(line));
    }

    #[test]
    fn an_account_that_is_there_as_on_the_host_keeps_its_line_and_its_password() {
        let own = b"ada:$6$x:3000000000:100::/home/ada:/bin/bash\n";
        assert_eq!(passwd_line(own, &ada(), 3_000_000_000), None);
        for differs in [Account { home: b"/h".to_vec(), ..ada() }, Account { shell: b"/bin/sh".to_vec(), ..ada() }] {
            assert!(passwd_line(own, &differs, 3_000_000_000).is_some());
        }
    }

    #[test]
    fn root_is_the_image_s_own() {
        let root = Account { name: b"root".to_vec(), home: b"/root".to_vec(), ..Account::default() };
        assert_eq!(passwd_line(PASSWD, &root, 0), None);
        assert!(passwd_line(b"", &root, 0).is_some());
    }

    #[test]
    fn a_name_that_would_forge_a_line_adds_nothing() {
        let forged = Account { name: b"x\nroot2:x:0:0".to_vec(), ..ada() };
        assert_eq!(passwd_line(PASSWD, &forged, 4711), None);
        let forged = Account { groups: vec![(5, b"x:x:0:".to_vec())], ..ada() };
        assert_eq!(group_lines(b"ada:x:100:\n", &forged, 100, &[5]), b"");
    }

    #[test]
    fn groups_have_the_host_s_names_and_the_user_as_a_member() {
        let lines =
            |text: &[u8], own, others: &[u32]| String::from_utf8(group_lines(text, &ada(), own, others)).unwrap();
        let image = b"root:x:0:\nusers:x:100:\nproj:x:5:\n";
        assert_eq!(lines(image, 100, &[100, 4711, 9]), "staff:x:100:\nproj:x:4711:ada\n");
        assert_eq!(lines(b"staff:x:100:\nproj:x:4711:bob,ada\n", 100, &[4711]), "");
        assert_eq!(lines(b"staff:x:100:\nproj:x:4711:bob\n", 100, &[4711]), "proj:x:4711:ada\n");
    }

    #[test]
    fn a_primary_group_without_a_name_on_the_host_gets_one() {
        let lines = |text: &[u8], own| String::from_utf8(group_lines(text, &ada(), own, &[])).unwrap();
        assert_eq!(lines(b"root:x:0:\n", 8), "ada:x:8:\n");
        assert_eq!(lines(b"ada:x:5:\n", 8), "g8:x:8:\n");
        assert_eq!(lines(b"mail:x:8:\n", 8), "");
    }

    #[test]
    fn the_own_name_resolves_once() {
        let hosts = b"127.0.0.1 localhost vm1 # vm2\n";
        assert_eq!(missing_hosts_entry(hosts, b"vm1"), None);
        assert_eq!(missing_hosts_entry(hosts, b"vm2").unwrap(), b"127.0.1.1\tvm2\n");
        assert_eq!(missing_hosts_entry(hosts, b"a b"), None);
        assert!(missing_hosts_entry(b"", b"vm2").unwrap().starts_with(b"127.0.0.1\tlocalhost\n"));
    }
}

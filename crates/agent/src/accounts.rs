//! Entries of `/etc/passwd`, `/etc/group` and `/etc/hosts`, as pure functions on their text.
//!
//! An image does not know the cluster's users. Its own entries stay: entries are only added, and
//! only when the number (or the host's name) has none yet.

/// The user of a task as the host's passwd describes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Account {
    pub name: Vec<u8>,
    pub home: Vec<u8>,
    pub shell: Vec<u8>,
}

/// The passwd line that `text` lacks for this user; `None` when the uid has an entry.
pub(super) fn missing_passwd_entry(text: &[u8], account: &Account, uid: u32, gid: u32) -> Option<Vec<u8>> {
    if has_id(text, uid) {
        return None;
    }
    let (name, home, shell) = (field(&account.name)?, field(&account.home)?, field(&account.shell)?);
    let mut line = separator(text);
    line.extend_from_slice(name);
    line.extend_from_slice(format!(":x:{uid}:{gid}::").as_bytes());
    line.extend_from_slice(home);
    line.push(b':');
    line.extend_from_slice(shell);
    line.push(b'\n');
    Some(line)
}

/// The group line that `text` lacks for this gid. The group gets the name of its user; if the image
/// has another group of that name, it gets its number as name.
pub(super) fn missing_group_entry(text: &[u8], user: &[u8], gid: u32) -> Option<Vec<u8>> {
    if has_id(text, gid) {
        return None;
    }
    let numbered = format!("g{gid}");
    let name = field(user).filter(|name| !name.is_empty() && !has_name(text, name)).unwrap_or(numbered.as_bytes());
    let mut line = separator(text);
    line.extend_from_slice(name);
    line.extend_from_slice(format!(":x:{gid}:\n").as_bytes());
    Some(line)
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

/// Whether the third field of any line is `id`: true of passwd and group alike.
fn has_id(text: &[u8], id: u32) -> bool {
    let wanted = id.to_string();
    lines(text).any(|line| line.split(|&byte| byte == b':').nth(2) == Some(wanted.as_bytes()))
}

fn has_name(text: &[u8], name: &[u8]) -> bool {
    lines(text).any(|line| line.split(|&byte| byte == b':').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nold:x:1000:1000::/home/old:/bin/sh";

    fn ada() -> Account {
        Account { name: b"ada".to_vec(), home: b"/home/ada".to_vec(), shell: b"/bin/bash".to_vec() }
    }

    #[test]
    fn an_unknown_uid_gets_a_line_of_its_own_even_after_a_file_without_final_newline() {
        let line = missing_passwd_entry(PASSWD, &ada(), 4711, 100).unwrap();
        assert_eq!(line, b"\nada:x:4711:100::/home/ada:/bin/bash\n");
        assert_eq!(missing_passwd_entry(b"", &ada(), 4711, 100).unwrap()[0], b'a');
    }

    #[test]
    fn a_known_uid_keeps_the_images_entry() {
        assert_eq!(missing_passwd_entry(PASSWD, &ada(), 1000, 100), None);
        // 100 is a gid and part of other numbers here, never a uid.
        assert!(missing_passwd_entry(PASSWD, &ada(), 100, 100).is_some());
    }

    #[test]
    fn a_name_that_would_forge_a_line_adds_nothing() {
        let forged = Account { name: b"x\nroot2:x:0:0".to_vec(), ..ada() };
        assert_eq!(missing_passwd_entry(PASSWD, &forged, 4711, 100), None);
    }

    #[test]
    fn a_group_is_named_after_its_user_unless_that_name_is_taken() {
        let group = b"root:x:0:\nada:x:5:\n";
        assert_eq!(missing_group_entry(group, b"bob", 4711).unwrap(), b"bob:x:4711:\n");
        assert_eq!(missing_group_entry(group, b"ada", 4711).unwrap(), b"g4711:x:4711:\n");
        assert_eq!(missing_group_entry(group, b"bob", 5), None);
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

//! The meaning of the names on a shelf. No other names are used; an item's own name has no dot.

use std::io;

use crate::process;

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A complete item.
    Item,
    /// The lock for making the item of that name.
    Lock(&'a str),
    /// A note that the item could not be made.
    Failed,
    /// An item of that name while it is made or removed.
    Draft(&'a str),
    /// Nothing that we put there.
    Other,
}

/// Reads a name.
pub fn kind(name: &str) -> Kind<'_> {
    if !name.contains('.') {
        return Kind::Item;
    }
    if let Some(item) = name.strip_suffix(".lock").filter(|item| is_item(item)) {
        return Kind::Lock(item);
    }
    if name.strip_suffix(".failed").is_some_and(is_item) {
        return Kind::Failed;
    }
    match name.strip_prefix('.').and_then(|rest| rest.split_once('.')) {
        Some((item, _)) if is_item(item) => Kind::Draft(item),
        _ => Kind::Other,
    }
}

fn is_item(name: &str) -> bool {
    !name.is_empty() && !name.contains('.')
}

/// Name of the lock for making `item`.
pub fn lock(item: &str) -> String {
    format!("{item}.lock")
}

/// Name of the note that `item` cannot be made.
pub fn failed(item: &str) -> String {
    format!("{item}.failed")
}

/// Name of `item` while this process makes it.
pub fn draft(item: &str) -> String {
    format!(".{item}.{}", std::process::id())
}

/// Name of `item` while this process removes it.
pub fn doomed(item: &str) -> String {
    format!("{}.old", draft(item))
}

/// The name of an item that is useless after the next boot of this node. It begins with the boot's mark, so that
/// a sweep knows without looking inside.
///
/// # Errors
/// When the kernel does not give the boot id.
pub fn of_this_boot(item: &str) -> io::Result<String> {
    Ok(format!("{}-{item}", mark(&process::boot()?)))
}

/// Whether an item of that name is useless because the node was booted again. `boot` is the current boot.
pub fn is_of_another_boot(name: &str, boot: &str) -> bool {
    !name.strip_prefix(mark(boot)).is_some_and(|rest| rest.starts_with('-'))
}

fn mark(boot: &str) -> &str {
    boot.get(..8).unwrap_or(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_given_is_read_as_what_it_is() {
        assert_eq!(kind("0a-1b"), Kind::Item);
        assert_eq!(kind(&lock("1b")), Kind::Lock("1b"));
        assert_eq!(kind(&failed("1b")), Kind::Failed);
        assert_eq!(kind(&draft("1b")), Kind::Draft("1b"));
        assert_eq!(kind(&doomed("1b")), Kind::Draft("1b"));
        for other in [".hidden", "a.b", ".lock", ".a.lock.failed", "...", "a.b.lock"] {
            assert!(matches!(kind(other), Kind::Other | Kind::Draft("a")), "{other}");
        }
    }

    #[test]
    fn an_item_of_another_boot_shows_by_its_name() {
        let boot = process::boot().unwrap();
        let name = of_this_boot("1b").unwrap();
        assert!(!is_of_another_boot(&name, &boot), "{name}");
        for other in ["00000000-1b", "1b", &name[1..], "", &boot[..8]] {
            assert!(is_of_another_boot(other, &boot), "{other}");
        }
    }
}

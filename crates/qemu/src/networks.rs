//! Which networks one QEMU has: this differs between distributions.

use std::path::Path;

use crate::ask::print;
use crate::error::QemuError;

/// Whether this QEMU has a user network.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub fn has_user_network(qemu: &Path) -> Result<bool, QemuError> {
    Ok(lists_user(&print(qemu, &["-netdev", "help"])?.lines))
}

/// Whether the list, a line of text and then a word on each line, has `user`.
fn lists_user(list: &str) -> bool {
    list.lines().any(|line| line.trim() == "user")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vhost_user_is_another_network() {
        assert!(lists_user("Available netdev backend types:\nsocket\nuser\nvhost-user\n"));
        assert!(!lists_user("Available netdev backend types:\nsocket\nvhost-user\ntap\n"));
    }
}

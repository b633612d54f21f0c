//! Which networks one QEMU has: this differs between distributions.

use std::path::Path;
use std::process::Command;

use crate::error::{QemuError, WantedFor};

/// Whether this QEMU has a user network.
///
/// # Errors
/// When it cannot be started.
pub fn has_user_network(qemu: &Path) -> Result<bool, QemuError> {
    let output = Command::new(qemu).args(["-netdev", "help"]).env_clear().output();
    let output = output.wanted_for(|| format!("{} cannot be started", qemu.display()))?;
    Ok(lists_user(&String::from_utf8_lossy(&output.stdout)))
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

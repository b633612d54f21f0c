//! `--vm-root`: whether the command is root inside the VM.

use crate::values::{switch, switch_text};
use crate::{About, Asked, RequestError, VmOption};

/// `--vm-root`.
#[derive(Debug)]
pub struct VmRoot;

impl VmOption for VmRoot {
    const ABOUT: About = About {
        name: "vm-root",
        argument: None,
        is_list: false,
        help: "[vm] run the command as root inside the virtual machine; on the host's directories it acts as you",
        readme: "run the command as root inside the VM; on the host's directories it acts as you",
        run_name: "root",
        run_help: "Run the command as root inside the VMs",
    };

    type Value = bool;

    fn parse(text: &str) -> Result<bool, RequestError> {
        switch(Self::ABOUT.name, text)
    }

    fn text(value: &bool) -> String {
        switch_text(*value)
    }
}

impl Asked {
    /// Whether the command runs as root inside the guest.
    pub fn as_root(&self) -> bool {
        self.vm_root.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_can_be_switched_off() {
        let asked = |text: &str| {
            let mut asked = Asked::default();
            asked.set("vm-root", text).unwrap().map(|()| asked.as_root())
        };
        assert!(!Asked::default().as_root());
        assert_eq!((asked(""), asked("0")), (Ok(true), Ok(false)));
        assert!(asked("2").is_err());
    }
}

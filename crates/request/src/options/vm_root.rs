//! `--vm-root`: whether the command is root inside the VM.

use crate::error::RequestError;
use crate::values::{switch, switch_text};
use crate::vm_option::{About, VmOption};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_by_its_name_alone_and_a_default_can_be_switched_off() {
        assert_eq!((VmRoot::parse(""), VmRoot::parse("0")), (Ok(true), Ok(false)));
        let error = VmRoot::parse("2").unwrap_err().to_string();
        assert!(error.starts_with("--vm-root='2': '1' or '0' is needed"), "{error}");
    }
}

//! `--vm-cpus`: processors of a VM.

use crate::error::RequestError;
use crate::values::number;
use crate::vm_option::{About, VmOption};

/// Most processors of a VM: what the largest machine of any QEMU has. A node's may have fewer.
pub(crate) const MAX_CPUS: u32 = 4096;

/// `--vm-cpus`.
#[derive(Debug)]
pub struct VmCpus;

impl VmOption for VmCpus {
    const ABOUT: About = About {
        name: "vm-cpus",
        argument: Some("N"),
        is_list: false,
        help: "[vm] processors of each virtual machine (default: the task's, divided by the VMs)",
        readme: "processors of each VM; default: the task's, divided by the VMs",
        run_name: "vm-cpus",
        run_help: "Processors of each VM",
    };

    type Value = u32;

    fn parse(text: &str) -> Result<u32, RequestError> {
        number(Self::ABOUT.name, text, MAX_CPUS)
    }

    fn text(value: &u32) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_from_1_to_4096_and_the_error_names_the_value() {
        assert_eq!(VmCpus::parse("4096"), Ok(4096));
        for bad in ["0", "4097", "two", ""] {
            let error = VmCpus::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--vm-cpus='{bad}': a whole number from 1 to 4096")), "{error}");
        }
    }
}

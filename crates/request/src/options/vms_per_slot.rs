//! `--vms-per-slot`: how many VMs each task gets.

use crate::error::RequestError;
use crate::values::number;
use crate::vm_option::{About, VmOption};

/// Largest number of VMs in one slot, even if the site allows more.
pub const MAX_VMS_PER_SLOT: u32 = 64;

/// `--vms-per-slot`.
#[derive(Debug)]
pub struct VmsPerSlot;

impl VmOption for VmsPerSlot {
    const ABOUT: About = About {
        name: "vms-per-slot",
        argument: Some("N"),
        is_list: false,
        help: "[vm] start N virtual machines per task, each runs the command (SLURM_VM_INDEX tells them apart)",
        readme: "N VMs (1–64) for each task, each running the command; the highest exit code wins",
        run_name: "vms",
        run_help: "Number of VMs, each running the command [default: 1]",
    };

    type Value = u32;

    fn parse(text: &str) -> Result<u32, RequestError> {
        number(Self::ABOUT.name, text, MAX_VMS_PER_SLOT)
    }

    fn text(value: &u32) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_from_1_to_64_and_the_error_names_the_value() {
        assert_eq!(VmsPerSlot::parse("1"), Ok(1));
        assert_eq!(VmsPerSlot::parse("64"), Ok(64));
        for bad in ["0", "65", "-1", "+4", "4 ", "", "abc", "1e1", "99999999999999999999"] {
            let error = VmsPerSlot::parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("--vms-per-slot='{bad}': a whole number from 1 to 64")), "{error}");
        }
    }
}

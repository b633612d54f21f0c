//! `--vm-label`: whether output says which VM it is from.

use crate::error::RequestError;
use crate::values::{switch, switch_text};
use crate::vm_option::{About, VmOption};

/// `--vm-label`.
#[derive(Debug)]
pub struct VmLabel;

impl VmOption for VmLabel {
    const ABOUT: About = About {
        name: "vm-label",
        argument: None,
        is_list: false,
        help: "[vm] put the number of the virtual machine within its slot before each line of its output",
        readme: "put the VM's number within its slot before each line of its output, as `srun --label` does with tasks",
        run_name: "label",
        run_help: "Put the number of its VM before each line of output",
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
        assert_eq!((VmLabel::parse(""), VmLabel::parse("0")), (Ok(true), Ok(false)));
        let error = VmLabel::parse("2").unwrap_err().to_string();
        assert!(error.starts_with("--vm-label='2': '1' or '0' is needed"), "{error}");
    }
}

//! `--vm-label`: whether output says which VM it is from.

use crate::values::{switch, switch_text};
use crate::{About, Asked, RequestError, VmOption};

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

impl Asked {
    /// Whether every line of output is preceded by its VM's number.
    pub fn labels(&self) -> bool {
        self.vm_label.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_can_be_switched_off() {
        let asked = |text: &str| {
            let mut asked = Asked::default();
            asked.set("vm-label", text).unwrap().map(|()| asked.labels())
        };
        assert!(!Asked::default().labels());
        assert_eq!((asked(""), asked("0")), (Ok(true), Ok(false)));
        assert!(asked("2").is_err());
    }
}

//! `--vm-scope`: whether each task has a VM, or the tasks of a node have one together.

use crate::error::RequestError;
use crate::values::shown;
use crate::vm_option::{About, VmOption};

/// What has a VM of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each task.
    Slot,
    /// All tasks of the step on a node together.
    Node,
}

impl Scope {
    /// All values as they are written.
    pub const WORDS: [(&'static str, Self); 2] = [("slot", Self::Slot), ("node", Self::Node)];

    /// The value as it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Node => "node",
        }
    }
}

/// `--vm-scope`.
#[derive(Debug)]
pub struct VmScope;

impl VmOption for VmScope {
    const ABOUT: About = About {
        name: "vm-scope",
        argument: Some("slot|node"),
        is_list: false,
        help: "[vm] slot: a virtual machine for each task (default); node: one for all tasks of the step on a node",
        readme: "`slot`: a VM for each task (default); `node`: one VM for all tasks of the step on a node ([parallel jobs](docs/parallel.md))",
        run_name: "scope",
        run_help: "What has a VM; without Slurm there is one task, and both values mean the same",
    };

    type Value = Scope;

    fn parse(text: &str) -> Result<Scope, RequestError> {
        let found = Scope::WORDS.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, scope)| *scope)
            .ok_or_else(|| RequestError(format!("--vm-scope='{}': 'slot' or 'node' is needed", shown(text))))
    }

    fn text(value: &Scope) -> String {
        value.word().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_slot_or_node_and_the_error_names_the_value() {
        assert_eq!((VmScope::parse("slot"), VmScope::parse("node")), (Ok(Scope::Slot), Ok(Scope::Node)));
        for bad in ["", "task", "Node", "node ", "1"] {
            let error = VmScope::parse(bad).unwrap_err().to_string();
            assert_eq!(error, format!("--vm-scope='{bad}': 'slot' or 'node' is needed"));
        }
    }
}

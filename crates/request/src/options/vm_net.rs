//! `--vm-net`: the network of the virtual machines.

use crate::error::RequestError;
use crate::values::shown;
use crate::vm_option::{About, VmOption};

/// `--vm-net`.
#[derive(Debug)]
pub struct VmNet;

/// What a VM's network reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// Nothing: the VM has no network device.
    None,
    /// All VMs of the step, and nothing else.
    Job,
    /// Outwards, what the user reaches on the node; inwards only published ports.
    User,
}

impl Network {
    /// All values as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [("none", Self::None), ("user", Self::User), ("job", Self::Job)];

    /// The value as it is written.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl VmOption for VmNet {
    const ABOUT: About = About {
        name: "vm-net",
        argument: Some("none|user|job"),
        is_list: false,
        help: "[vm] network of the virtual machines: 'none', 'user' for connections out of the VM, 'job' for a private network of all VMs \
               of the step",
        readme: "the VMs' network: `none`, `user` for connections out of the VM, or `job` for a private one of all VMs of the step \
                 ([docs/parallel.md](docs/parallel.md))",
        run_name: "net",
        run_help: "Network of the VM: 'none', or 'user' for connections out of it; 'job' needs Slurm [default: the site's]",
    };

    type Value = Network;

    fn parse(text: &str) -> Result<Network, RequestError> {
        let found = Network::WORDS.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| RequestError(format!("--vm-net='{}': 'none', 'user' or 'job' is needed", shown(text))))
    }

    fn text(value: &Network) -> String {
        value.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_of_its_words_and_the_error_names_them() {
        for (word, value) in Network::WORDS {
            assert_eq!(VmNet::parse(word), Ok(value));
            assert_eq!(VmNet::text(&value), word);
        }
        for bad in ["", "None", "bridge", "user "] {
            let error = VmNet::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--vm-net='{bad}': 'none'")), "{error}");
        }
    }
}

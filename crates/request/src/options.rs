//! The options, each in one file, and the list of them that everything else is made from.
//!
//! # How to add an option
//!
//! 1. A file in `options/`, best a copy of a similar one: a type that implements [`VmOption`], and its tests.
//! 2. A line in the list below.
//!
//! That makes it an option of srun, sbatch, salloc and `spank-vm run`, with a default variable; it is carried to
//! the runner, which finds its value in [`Asked`] under the name that the line gives it. The runner then does
//! what the option asks for. A test fails until README.md has its row, and says how to write it.
//!
//! rustfmt does not find the files through the list: `make lint` names them to it.

mod vm_image;

pub use self::vm_image::*;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::RequestError;
use crate::vm_option::{About, VmOption};

options! {
    vms_per_slot: VmsPerSlot,
    vm_mem: VmMem,
    vm_cpus: VmCpus,
    vm_mount: VmMount,
    vm_root: VmRoot,
    vm_env: VmEnv,
    vm_label: VmLabel,
    vm_scope: VmScope,
    vm_save: VmSave,
    vm_net: VmNet,
    vm_publish: VmPublish,
}

/// Number of `--vm-image` in [`OPTIONS`].
pub const IMAGE: usize = 0;

/// A row of [`OPTIONS`]: an option whose values are text.
#[derive(Debug, Clone, Copy)]
pub struct OptionRow {
    /// Name and texts.
    pub about: About,
    /// Reports what is wrong with a value.
    pub check: fn(&str) -> Result<(), RequestError>,
}

impl OptionRow {
    const fn of<O: VmOption>() -> Self {
        Self { about: O::ABOUT, check: |text| O::parse(text).map(drop) }
    }

    /// The value as text.
    ///
    /// # Errors
    /// When it is not UTF-8: a value that cannot arrive unchanged is refused.
    pub fn text<'a>(&self, value: &'a OsStr) -> Result<&'a str, RequestError> {
        value.to_str().ok_or_else(|| {
            let bytes = value.as_bytes();
            let shown = bytes[..bytes.len().min(80)].escape_ascii();
            RequestError(format!("--{}='{shown}': UTF-8 is needed", self.about.name))
        })
    }

    /// The variable in which users and sites set a default: `SPANK_VM_IMAGE` for `--vm-image`.
    pub fn default_variable(&self) -> String {
        format!("SPANK_{}", self.about.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The variable from which Slurm's clients take the option, and by which sbatch and salloc pass
    /// it on to the srun inside (plugstack.c: `spank_process_env_options`, `_opt_env_name`).
    pub fn slurm_variable(&self) -> String {
        format!("SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_{}", self.about.name.replace('-', "_"))
    }
}

impl Asked {
    /// VMs for each task.
    pub fn vms(&self) -> u32 {
        self.vms_per_slot.unwrap_or(1)
    }

    /// What has a VM of its own: what was asked for, else what the site prefers. Where the site's preference does not fit
    /// the other options, it gives way.
    pub fn scope(&self, of_site: Scope) -> Scope {
        let is_for_a_slot = self.vms() > 1 || self.vm_save.is_some();
        self.vm_scope.unwrap_or(if is_for_a_slot { Scope::Slot } else { of_site })
    }

    /// Refuses options that contradict each other.
    ///
    /// # Errors
    /// Names both.
    pub fn check(&self) -> Result<(), RequestError> {
        let other = match (self.vms(), &self.vm_save) {
            _ if self.vm_scope != Some(Scope::Node) => return Ok(()),
            (2.., _) => format!("--vms-per-slot={}", self.vms()),
            (_, Some(path)) => format!("--vm-save={}", VmSave::text(path)),
            _ => return Ok(()),
        };
        Err(RequestError(format!(
            "--vm-scope=node: the tasks of a node have one VM together, which does not go with {other}: leave one of them out"
        )))
    }
}

/// Makes the modules, [`OPTIONS`] and [`Asked`] from the list. `vm-image` is not in the list: without it there
/// is no VM for the other options, so a request always has it.
macro_rules! options {
    ($($field:ident: $option:ident,)*) => {
        $(mod $field; pub use self::$field::*;)*

        /// Every option; its place is the number Slurm hands to the plugin's callback.
        pub static OPTIONS: [OptionRow; 1 + [$(stringify!($field)),*].len()] =
            [OptionRow::of::<VmImage>(), $(OptionRow::of::<$option>()),*];

        /// What a user asks for besides the image; `None` is an option that was not given.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Asked {
            $(
                #[doc = concat!("The value of [`", stringify!($option), "`].")]
                pub $field: Option<<$option as VmOption>::Value>,
            )*
        }

        impl Asked {
            /// Takes a value of the option called `name`; `None` if there is no such option beside the image.
            ///
            /// # Errors
            /// When the value is bad.
            pub fn set(&mut self, name: &str, text: &str) -> Option<Result<(), RequestError>> {
                $(
                    if name == $option::ABOUT.name {
                        return Some($option::parse(text).map(|value| self.$field = Some(value)));
                    }
                )*
                None
            }

            /// Name and text of every option that was given.
            pub fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
                let texts = [$(($option::ABOUT.name, self.$field.as_ref().map($option::text)),)*];
                texts.into_iter().filter_map(|(name, text)| Some((name, text?)))
            }
        }
    };
}
use options;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_after_the_option() {
        assert_eq!(OPTIONS[IMAGE].default_variable(), "SPANK_VM_IMAGE");
        assert_eq!(OPTIONS[1].default_variable(), "SPANK_VMS_PER_SLOT");
        assert_eq!(OPTIONS[1].slurm_variable(), "SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vms_per_slot");
    }

    #[test]
    fn every_option_keeps_to_the_limits_of_slurm_and_the_house() {
        assert_eq!(OPTIONS[IMAGE].about.name, "vm-image");
        for (number, row) in OPTIONS.iter().enumerate() {
            let About { name, argument, is_list, help, readme, run_name, run_help } = row.about;
            assert!(name.len() <= 75 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            // No other key of the request begins like this.
            assert!(name.starts_with("vm"), "{name}");
            assert!(help.starts_with("[vm] ") && !readme.is_empty() && !run_help.is_empty(), "{name}");
            assert!(argument.is_some() || !is_list, "{name}");
            let same_name = |other: &OptionRow| other.about.name == name || other.about.run_name == run_name;
            assert!(!OPTIONS[..number].iter().any(same_name), "{name}");
        }
    }

    #[test]
    fn an_option_without_an_argument_is_given_by_its_name_alone() {
        for row in OPTIONS.iter().filter(|row| row.about.argument.is_none()) {
            assert_eq!((row.check)(""), Ok(()), "{}", row.about.name);
        }
    }

    #[test]
    fn every_error_names_its_option_and_is_one_line() {
        for row in &OPTIONS {
            let name = row.about.name;
            for bad in ["\u{1b}[2J", "\n,=:"] {
                let error = (row.check)(bad).unwrap_err().to_string();
                assert!(error.starts_with(&format!("--{name}")) && !error.contains(char::is_control), "{error}");
            }
            assert!(name == "vm-image" || Asked::default().set(name, "\n").unwrap().is_err(), "{name}");
        }
        assert_eq!(Asked::default().set("vm-image", "a"), None);
    }
}

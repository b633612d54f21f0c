//! The options users see, and the wish that their values add up to.

#![forbid(unsafe_code)]

use super::component::Asked;
use super::error::Error;
use crate::request::{
    EnvEntry, ImageRef, RequestError, SaveSpec, ShareSpec, VmRequest, parse_cpus, parse_memory, parse_mounts,
    parse_switch, parse_variables, parse_vms_per_slot,
};
use crate::spank::CliOption;
use std::ffi::{CStr, OsString};

/// One option: how Slurm shows it and what its value does. A new option is one more row of
/// [`TABLE`], a field of [`Wish`] and a key of [`crate::request::VmRequest`].
#[derive(Debug)]
pub struct VmOption {
    /// What is registered with Slurm.
    pub cli: CliOption,
    /// Name as text.
    pub name: &'static str,
    store: fn(&mut Wish, &str) -> Result<(), RequestError>,
}

impl VmOption {
    const fn new(
        name: &'static CStr,
        arginfo: Option<&'static CStr>,
        usage: &'static CStr,
        store: fn(&mut Wish, &str) -> Result<(), RequestError>,
    ) -> Self {
        let Ok(text) = name.to_str() else { panic!("option names are ASCII") };
        Self { cli: CliOption { name, arginfo, usage }, name: text, store }
    }

    /// The variable in which users and sites set a default: `SPANK_VM_IMAGE` for `--vm-image`.
    pub fn default_variable(&self) -> String {
        format!("SPANK_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The variable from which Slurm's clients take the option, and by which sbatch and salloc pass
    /// it on to the srun inside (plugstack.c: `spank_process_env_options`, `_opt_env_name`).
    pub fn slurm_variable(&self) -> String {
        format!("SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_{}", self.name.replace('-', "_"))
    }
}

/// Switches an inherited image off.
pub const NONE: &str = "none";

/// Prints the catalogue instead of a submission.
pub const LIST: &str = "list";

/// Number of `--vm-image` in [`TABLE`].
pub const IMAGE: usize = 0;

/// Every option; its place is the number Slurm hands to the callback.
pub static TABLE: [VmOption; 9] = [
    VmOption::new(
        c"vm-image",
        Some(c"NAME|PATH"),
        c"[vm] run in a virtual machine with this image, by its name or as a file (./my.qcow2); 'list' prints \
          the images, 'none' switches an inherited value off",
        Wish::store_image,
    ),
    VmOption::new(
        c"vms-per-slot",
        Some(c"N"),
        c"[vm] start N virtual machines per task, each runs the command (SLURM_VM_INDEX tells them apart)",
        Wish::store_vms_per_slot,
    ),
    VmOption::new(
        c"vm-mem",
        Some(c"SIZE"),
        c"[vm] guest memory of each virtual machine, in MiB or with K, M, G, T (default: the task's share)",
        Wish::store_memory,
    ),
    VmOption::new(
        c"vm-cpus",
        Some(c"N"),
        c"[vm] processors of each virtual machine (default: the task's, divided by the VMs)",
        Wish::store_cpus,
    ),
    VmOption::new(
        c"vm-mount",
        Some(c"SRC[:DST][:ro|rw],..."),
        c"[vm] more host directories that the virtual machine sees",
        Wish::store_mounts,
    ),
    VmOption::new(
        c"vm-root",
        None,
        c"[vm] run the command as root inside the virtual machine; on the host's directories it acts as you",
        Wish::store_root,
    ),
    VmOption::new(
        c"vm-env",
        Some(c"NAME[=VALUE],..."),
        c"[vm] variables for the command: with this value, or NAME alone as it is on the host",
        Wish::store_variables,
    ),
    VmOption::new(
        c"vm-label",
        None,
        c"[vm] put the number of the virtual machine within its slot before each line of its output",
        Wish::store_label,
    ),
    VmOption::new(
        c"vm-save",
        Some(c"NAME|/PATH[,replace]"),
        c"[vm] if the command succeeds, keep the disk of the first virtual machine as a new image",
        Wish::store_save,
    ),
];

/// What the options given so far ask for.
///
/// Slurm calls the callback for each source of a value in turn (script, environment, command line;
/// in slurmstepd the message and the environment, hence the same value twice): the last one wins,
/// and a bad value counts only if it is the last.
#[derive(Debug, Default)]
pub struct Wish {
    image: Option<ImageRef>,
    vms_per_slot: Option<u32>,
    memory_mib: Option<u64>,
    cpus: Option<u32>,
    mounts: Vec<ShareSpec>,
    as_root: bool,
    variables: Vec<EnvEntry>,
    label: bool,
    save: Option<SaveSpec>,
    /// Per option the last value, and whether it was good.
    given: [Option<(String, Result<(), RequestError>)>; TABLE.len()],
    /// Every value in its turn.
    history: Vec<(usize, String)>,
    /// What this component of a heterogeneous step asked for, whatever values Slurm has brought.
    asked: Option<Asked>,
}

impl Wish {
    /// Takes the value of option number `option`. Slurm has no value (a null pointer, and when that
    /// is inherited the text "(null)") only for options that need none.
    pub fn set(&mut self, option: usize, value: Option<&str>) {
        let value = value.filter(|&text| text != "(null)").unwrap_or_default();
        let result = (TABLE[option].store)(self, value);
        self.history.push((option, value.to_owned()));
        self.given[option] = Some((value.to_owned(), result));
    }

    /// Whether option number `option` was given.
    pub fn has(&self, option: usize) -> bool {
        self.given[option].is_some()
    }

    /// The value of each option that was given.
    pub fn given(&self) -> [Option<String>; TABLE.len()] {
        std::array::from_fn(|option| self.given[option].as_ref().map(|(value, _)| value.clone()))
    }

    /// The same without what sbatch and salloc brought of an earlier component's: once its options are known they put
    /// them into their own environment, for the steps within the job, where they find them again for the next
    /// component. `now` is a variable as it is, `before` as the user left it. When a value is there more than once, the last
    /// one is taken for Slurm's: that may find a difference that is none, but misses none.
    pub fn without_inherited(
        &self,
        now: impl Fn(&str) -> Option<OsString>,
        before: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let mut own = Self::default();
        for (number, option) in TABLE.iter().enumerate() {
            let variable = option.slurm_variable();
            let (now, before) = (now(&variable), before(&variable));
            let mut values: Vec<&str> =
                self.history.iter().filter(|(option, _)| *option == number).map(|(_, value)| &**value).collect();
            let text = |value: &OsString| value.to_string_lossy().into_owned();
            let default = before.as_ref().map(text);
            if now != before {
                let inherited = now.as_ref().map(text);
                if let Some(place) = values.iter().rposition(|value| Some(*value) == inherited.as_deref()) {
                    values.remove(place);
                }
            }
            if let Some(value) = values.last().copied().or(default.as_deref()) {
                own.set(number, Some(value));
            }
        }
        own
    }

    /// From now on what the component asked for counts, and not the values that Slurm brought for all.
    pub fn decide(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    /// Whether [`Wish::decide`] was called.
    pub fn is_decided(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the step must not run on the bare host: an image was asked for, well or badly.
    pub fn wants_vm(&self) -> bool {
        match &self.asked {
            Some(asked) => *asked != Asked::Host,
            None => self.image.is_some() || matches!(self.given[IMAGE], Some((_, Err(_)))),
        }
    }

    /// Sums up what the user asks for; `None` is a bare-metal step, whatever the other options say.
    ///
    /// # Errors
    /// The first bad value.
    pub fn vms(&self) -> Result<Option<VmRequest>, Error> {
        match &self.asked {
            Some(Asked::Lost) => return Err(Error::LostOption),
            Some(Asked::Vms(request)) => return Ok(Some((**request).clone())),
            Some(Asked::Host) => return Ok(None),
            None if !self.wants_vm() => return Ok(None),
            None => {}
        }
        for (_, result) in self.given.iter().flatten() {
            result.clone().map_err(Error::Request)?;
        }
        Ok(self.image.clone().map(|image| VmRequest {
            vms_per_slot: self.vms_per_slot.unwrap_or(1),
            vm_memory_mib: self.memory_mib,
            vm_cpus: self.cpus,
            mounts: self.mounts.clone(),
            as_root: self.as_root,
            variables: self.variables.clone(),
            label: self.label,
            save: self.save.clone(),
            ..VmRequest::new(image)
        }))
    }

    /// Refuses options that do nothing without an image. To be asked at submission, with the
    /// environment of the client: a value from there is a default that the user keeps for the steps
    /// that do have an image, and `--vm-image=none` says that it is not meant now.
    ///
    /// # Errors
    /// Names the first such option.
    pub fn refuse_strays(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Error> {
        if self.has(IMAGE) {
            return Ok(());
        }
        for (option, given) in TABLE.iter().zip(&self.given) {
            let Some((value, _)) = given else { continue };
            let is_default = env(&option.slurm_variable()).is_some_and(|text| text.to_str() == Some(value));
            if !is_default {
                return Err(Error::NoImage { option: option.name, value: value.clone() });
            }
        }
        Ok(())
    }

    fn store_image(&mut self, value: &str) -> Result<(), RequestError> {
        self.image = None;
        if value != NONE {
            self.image = Some(value.parse()?);
        }
        Ok(())
    }

    fn store_vms_per_slot(&mut self, value: &str) -> Result<(), RequestError> {
        self.vms_per_slot = None;
        self.vms_per_slot = Some(parse_vms_per_slot(value)?);
        Ok(())
    }

    fn store_memory(&mut self, value: &str) -> Result<(), RequestError> {
        self.memory_mib = None;
        self.memory_mib = Some(parse_memory(value)?);
        Ok(())
    }

    fn store_cpus(&mut self, value: &str) -> Result<(), RequestError> {
        self.cpus = None;
        self.cpus = Some(parse_cpus(value)?);
        Ok(())
    }

    fn store_mounts(&mut self, value: &str) -> Result<(), RequestError> {
        self.mounts.clear();
        self.mounts = parse_mounts(value)?;
        Ok(())
    }

    fn store_root(&mut self, value: &str) -> Result<(), RequestError> {
        self.as_root = false;
        self.as_root = parse_switch("--vm-root", value)?;
        Ok(())
    }

    fn store_variables(&mut self, value: &str) -> Result<(), RequestError> {
        self.variables.clear();
        self.variables = parse_variables(value)?;
        Ok(())
    }

    fn store_label(&mut self, value: &str) -> Result<(), RequestError> {
        self.label = false;
        self.label = parse_switch("--vm-label", value)?;
        Ok(())
    }

    fn store_save(&mut self, value: &str) -> Result<(), RequestError> {
        self.save = None;
        self.save = Some(value.parse()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMS_PER_SLOT: usize = 1;

    fn no_env(_: &str) -> Option<OsString> {
        None
    }

    fn wish(values: &[(usize, &str)]) -> Wish {
        let mut wish = Wish::default();
        for &(option, value) in values {
            wish.set(option, Some(value));
        }
        wish
    }

    #[test]
    fn no_option_is_a_bare_metal_step() {
        assert_eq!(wish(&[]).vms().unwrap(), None);
        wish(&[]).refuse_strays(no_env).unwrap();
    }

    #[test]
    fn the_last_value_wins_and_repeating_it_changes_nothing() {
        let wish = wish(&[(IMAGE, "a"), (IMAGE, "b"), (IMAGE, "b"), (VMS_PER_SLOT, "4"), (VMS_PER_SLOT, "4")]);
        let vms = wish.vms().unwrap().unwrap();
        assert_eq!((vms.image.as_str(), vms.vms_per_slot), ("b", 4));
    }

    #[test]
    fn a_bad_default_is_forgiven_when_the_command_line_overrides_it() {
        assert!(wish(&[(IMAGE, "a;b"), (IMAGE, "a")]).vms().unwrap().is_some());
        let error = wish(&[(IMAGE, "a"), (IMAGE, "a;b")]).vms().unwrap_err();
        assert!(error.to_string().contains("'a;b'"), "{error}");
    }

    #[test]
    fn none_switches_an_inherited_image_and_all_that_belongs_to_it_off() {
        for rest in ["4", "nonsense"] {
            let wish = wish(&[(IMAGE, "a"), (VMS_PER_SLOT, rest), (IMAGE, NONE)]);
            assert_eq!(wish.vms().unwrap(), None);
            wish.refuse_strays(no_env).unwrap();
        }
        assert!(wish(&[(IMAGE, NONE), (IMAGE, "a")]).vms().unwrap().is_some());
    }

    #[test]
    fn a_missing_value_never_means_the_bare_host() {
        for value in [None, Some(""), Some("(null)"), Some("list")] {
            let mut wish = Wish::default();
            wish.set(IMAGE, value);
            assert!(wish.wants_vm());
            assert!(wish.vms().is_err(), "{value:?}");
        }
    }

    #[test]
    fn vms_per_slot_alone_is_an_error_that_names_both_options() {
        let error = wish(&[(VMS_PER_SLOT, "4")]).refuse_strays(no_env).unwrap_err().to_string();
        assert!(error.contains("--vms-per-slot=4") && error.contains("--vm-image"), "{error}");
    }

    #[test]
    fn vms_per_slot_as_a_personal_default_does_not_hurt_bare_metal_jobs() {
        for value in ["4", "nonsense"] {
            let env = |name: &str| (name == TABLE[VMS_PER_SLOT].slurm_variable()).then(|| value.into());
            wish(&[(VMS_PER_SLOT, value)]).refuse_strays(env).unwrap();
            assert_eq!(wish(&[(VMS_PER_SLOT, value)]).vms().unwrap(), None);
            wish(&[(VMS_PER_SLOT, value), (VMS_PER_SLOT, "5")]).refuse_strays(env).unwrap_err();
        }
    }

    #[test]
    fn variables_are_named_after_the_option() {
        assert_eq!(TABLE[IMAGE].default_variable(), "SPANK_VM_IMAGE");
        assert_eq!(TABLE[VMS_PER_SLOT].default_variable(), "SPANK_VMS_PER_SLOT");
        assert_eq!(TABLE[VMS_PER_SLOT].slurm_variable(), "SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vms_per_slot");
    }

    #[test]
    fn the_table_keeps_to_the_limits_of_slurm_and_the_house() {
        assert_eq!(TABLE[IMAGE].name, "vm-image");
        for option in &TABLE {
            assert!(option.name.len() <= 75);
            assert!(option.cli.usage.to_str().unwrap().starts_with("[vm] "), "{}", option.name);
        }
    }
}

//! The request that the options given so far make together. The options themselves are in [`request::OPTIONS`].

use super::component;
use super::error::Error;
use request::{Asked, IMAGE, NONE, OPTIONS, RequestError, VmRequest};
use std::ffi::{OsStr, OsString};

/// What the options given so far ask for.
///
/// Slurm calls the callback for each source of a value in turn (script, environment, command line;
/// in slurmstepd the message and the environment, hence the same value twice): the last one wins,
/// and a bad value counts only if it is the last.
#[derive(Debug, Default)]
pub struct Given {
    /// Per option the last value.
    values: [Option<OsString>; OPTIONS.len()],
    /// Every value in its turn.
    history: Vec<(usize, OsString)>,
    /// What this component of a heterogeneous step asked for; it overrides the values from Slurm.
    decided: Option<component::Decision>,
}

impl Given {
    /// Takes the value of option number `option`. Only for options without a value, Slurm passes a
    /// null pointer, or the text "(null)" if that was inherited.
    pub fn set(&mut self, option: usize, value: Option<impl AsRef<OsStr>>) {
        let value = value.map(|value| value.as_ref().to_owned()).filter(|value| value != "(null)");
        let value = value.unwrap_or_default();
        self.history.push((option, value.clone()));
        self.values[option] = Some(value);
    }

    /// The value of each option that was given.
    pub fn values(&self) -> &[Option<OsString>; OPTIONS.len()] {
        &self.values
    }

    /// The same without values of an earlier component. sbatch and salloc put the options of a component into their own
    /// environment, for the steps within the job, and find them there again for the next component. `now` is a
    /// variable's current value, `before` the one that the user set. If a value is there more than once, the last one
    /// counts as Slurm's: that may report a difference where there is none, but never misses one.
    pub fn without_inherited(
        &self,
        now: impl Fn(&str) -> Option<OsString>,
        before: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let mut own = Self::default();
        for (number, option) in OPTIONS.iter().enumerate() {
            let variable = option.slurm_variable();
            let (now, before) = (now(&variable), before(&variable));
            let mut values: Vec<&OsString> =
                self.history.iter().filter(|(option, _)| *option == number).map(|(_, value)| value).collect();
            if now != before
                && let Some(place) = values.iter().rposition(|value| Some(*value) == now.as_ref())
            {
                values.remove(place);
            }
            if let Some(value) = values.last().copied().or(before.as_ref()) {
                own.set(number, Some(value));
            }
        }
        own
    }

    /// From now on the component's own request counts, not the values that Slurm sends for all.
    pub fn decide(&mut self, asked: component::Decision) {
        self.decided = Some(asked);
    }

    /// Whether [`Given::decide`] was called.
    pub fn is_decided(&self) -> bool {
        self.decided.is_some()
    }

    /// Whether option number `option` was given.
    pub fn has(&self, option: usize) -> bool {
        self.values[option].is_some()
    }

    /// Whether the step must not run on the bare host: an image was asked for, valid or not.
    pub fn wants_vm(&self) -> bool {
        match &self.decided {
            Some(asked) => *asked != component::Decision::Host,
            None => self.image().is_some(),
        }
    }

    fn image(&self) -> Option<&OsStr> {
        self.values[IMAGE].as_deref().filter(|&image| image != NONE)
    }

    /// Combines the options into one request; `None` is a bare-metal step, with any other options.
    ///
    /// # Errors
    /// The first bad value.
    pub fn vms(&self) -> Result<Option<VmRequest>, Error> {
        match &self.decided {
            Some(component::Decision::Lost) => Err(Error::LostOption),
            Some(component::Decision::Vms(request)) => Ok(Some((**request).clone())),
            Some(component::Decision::Host) => Ok(None),
            None => self.image().map(|image| self.request(image).map_err(Error::Request)).transpose(),
        }
    }

    fn request(&self, image: &OsStr) -> Result<VmRequest, RequestError> {
        let image = OPTIONS[IMAGE].text(image)?.parse()?;
        let mut asked = Asked::default();
        for (option, value) in OPTIONS.iter().zip(&self.values) {
            let Some(value) = value else { continue };
            asked.set(option.about.name, option.text(value)?).transpose()?;
        }
        asked.check()?;
        let request = VmRequest { asked, ..VmRequest::new(image) };
        request.check_length()?;
        Ok(request)
    }

    /// Refuses options that do nothing without an image. Call it at submission, with the client's
    /// environment. A value from the environment is allowed, because it is a default for the user's
    /// other steps, those with an image; so is any value with `--vm-image=none`.
    ///
    /// # Errors
    /// Names the first such option.
    pub fn refuse_strays(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Error> {
        if self.has(IMAGE) {
            return Ok(());
        }
        for (option, value) in OPTIONS.iter().zip(&self.values) {
            let Some(value) = value else { continue };
            let is_default = env(&option.slurm_variable()).as_ref() == Some(value);
            if !is_default {
                return Err(Error::NoImage { option: option.about.name, value: value.to_string_lossy().into_owned() });
            }
        }
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

    fn given(values: &[(usize, &str)]) -> Given {
        let mut given = Given::default();
        for &(option, value) in values {
            given.set(option, Some(value));
        }
        given
    }

    #[test]
    fn no_option_is_a_bare_metal_step() {
        assert_eq!(given(&[]).vms().unwrap(), None);
        given(&[]).refuse_strays(no_env).unwrap();
    }

    #[test]
    fn the_last_value_wins_and_repeating_it_changes_nothing() {
        let given = given(&[(IMAGE, "a"), (IMAGE, "b"), (IMAGE, "b"), (VMS_PER_SLOT, "4"), (VMS_PER_SLOT, "4")]);
        let vms = given.vms().unwrap().unwrap();
        assert_eq!((vms.image.as_str(), vms.asked.vms()), ("b", 4));
    }

    #[test]
    fn a_bad_default_is_forgiven_when_the_command_line_overrides_it() {
        assert!(given(&[(IMAGE, "a;b"), (IMAGE, "a")]).vms().unwrap().is_some());
        let error = given(&[(IMAGE, "a"), (IMAGE, "a;b")]).vms().unwrap_err();
        assert!(error.to_string().contains("'a;b'"), "{error}");
    }

    #[test]
    fn none_switches_an_inherited_image_and_all_that_belongs_to_it_off() {
        for rest in ["4", "nonsense"] {
            let given = given(&[(IMAGE, "a"), (VMS_PER_SLOT, rest), (IMAGE, NONE)]);
            assert_eq!(given.vms().unwrap(), None);
            given.refuse_strays(no_env).unwrap();
        }
        assert!(given(&[(IMAGE, NONE), (IMAGE, "a")]).vms().unwrap().is_some());
    }

    #[test]
    fn a_missing_value_never_means_the_bare_host() {
        for value in [None, Some(""), Some("(null)"), Some("list")] {
            let mut given = Given::default();
            given.set(IMAGE, value);
            assert!(given.wants_vm());
            assert!(given.vms().is_err(), "{value:?}");
        }
    }

    #[test]
    fn vms_per_slot_alone_is_an_error_that_names_both_options() {
        let error = given(&[(VMS_PER_SLOT, "4")]).refuse_strays(no_env).unwrap_err().to_string();
        assert!(error.contains("--vms-per-slot=4") && error.contains("--vm-image"), "{error}");
    }

    #[test]
    fn vms_per_slot_as_a_personal_default_does_not_hurt_bare_metal_jobs() {
        for value in ["4", "nonsense"] {
            let env = |name: &str| (name == OPTIONS[VMS_PER_SLOT].slurm_variable()).then(|| value.into());
            given(&[(VMS_PER_SLOT, value)]).refuse_strays(env).unwrap();
            assert_eq!(given(&[(VMS_PER_SLOT, value)]).vms().unwrap(), None);
            given(&[(VMS_PER_SLOT, value), (VMS_PER_SLOT, "5")]).refuse_strays(env).unwrap_err();
        }
    }
}

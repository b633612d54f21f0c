//! The shell of salloc on a node (`LaunchParameters=use_interactive_step`).
//!
//! salloc then starts `srun --interactive --pty $SHELL` in its allocation, which inherits the job's image like any srun
//! within. But this step is the place where the user types srun, and Slurm's commands are not in the VM. So the shell
//! runs on the node, as it would run on the login node without that setting, and every srun in it gets the image. A
//! user who wants the shell itself in a VM says `srun --vm-image=NAME --pty bash` in it.
//!
//! The image is taken back before Slurm reads it, and returned before srun sends its environment to the node.

use super::error::Error;
use super::variables::JOB_IMAGE_ENV;
use crate::spank::{Context, Host, Step};
use request::{IMAGE, NONE, OPTIONS};
use std::ffi::{OsStr, OsString};

/// In srun, before Slurm reads its variables: the image that salloc's shell inherited and does not use.
pub fn take_image_of_shell(host: &mut dyn Host) -> Option<OsString> {
    let of_job = host.own_env(JOB_IMAGE_ENV).filter(|image| !image.is_empty());
    if host.context() != Context::Srun || of_job.is_none() || !is_interactive(&host.command_line()) {
        return None;
    }
    let variable = OPTIONS[IMAGE].slurm_variable();
    let image = host.own_env(&variable).filter(|image| image != NONE)?;
    host.set_own_env(&variable, OsStr::new(NONE));
    Some(image)
}

/// When all options are known: the shell's environment names the image again, for each srun in it.
pub fn return_image(host: &mut dyn Host, image: &OsStr) {
    host.set_own_env(&OPTIONS[IMAGE].slurm_variable(), image);
}

/// When the step exists: it must be that shell. Words of a command line can mean something else.
///
/// # Errors
/// It is another step, which must not lose its VM.
pub fn must_be_shell(host: &dyn Host, image: &OsStr) -> Result<(), Error> {
    match host.step()? {
        Step::Interactive => Ok(()),
        _ => Err(Error::ForgottenByJob(image.to_string_lossy().into_owned())),
    }
}

/// Whether srun's options begin with those of salloc's shell. The first word that may be a command ends the search: if
/// in doubt, the step runs in a VM.
fn is_interactive(command_line: &[OsString]) -> bool {
    let options = command_line.iter().skip(1).take_while(|word| word.as_encoded_bytes().starts_with(b"-"));
    options.into_iter().take_while(|word| *word != "--").any(|word| word == "--interactive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spank::testing::FakeHost;

    fn srun(words: &[&str]) -> FakeHost {
        let mut host = FakeHost::new(Context::Srun);
        host.command_line = words.iter().map(OsString::from).collect();
        host.own_env.insert(JOB_IMAGE_ENV.into(), "debian12".into());
        host.own_env.insert(OPTIONS[IMAGE].slurm_variable(), "debian12".into());
        host
    }

    #[test]
    fn the_shell_of_salloc_leaves_the_image_to_the_steps_in_it() {
        let mut host = srun(&["srun", "--interactive", "--preserve-env", "--pty", "bash"]);
        let image = take_image_of_shell(&mut host).unwrap();
        assert_eq!(host.own_env[&OPTIONS[IMAGE].slurm_variable()], NONE);
        return_image(&mut host, &image);
        assert_eq!(host.own_env[&OPTIONS[IMAGE].slurm_variable()], "debian12");
        host.step = Step::Interactive;
        must_be_shell(&host, &image).unwrap();
    }

    #[test]
    fn no_other_step_is_taken_for_it() {
        for words in [
            &["srun", "tool", "--interactive"][..],
            &["srun", "-n", "1", "--interactive"],
            &["srun", "--", "--interactive"],
        ] {
            assert_eq!(take_image_of_shell(&mut srun(words)), None, "{words:?}");
        }
        // Here it is the value of an option.
        let mut named = srun(&["srun", "-J", "--interactive", "tool"]);
        let image = take_image_of_shell(&mut named).unwrap();
        let error = must_be_shell(&named, &image).unwrap_err().to_string();
        assert!(error.contains("--vm-image=debian12"), "{error}");
        let mut by_default = srun(&["srun", "--interactive", "bash"]);
        by_default.own_env.remove(JOB_IMAGE_ENV);
        assert_eq!(take_image_of_shell(&mut by_default), None, "no salloc asked for it");
    }
}

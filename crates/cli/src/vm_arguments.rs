//! The options of a VM on the command line of `spank-vm run`, made from the same list that Slurm gets.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use request::{Asked, ImageRef, OPTIONS, OptionRow, VmImage, VmOption};

/// What the options ask for.
#[derive(Debug)]
pub struct VmArguments {
    pub image: ImageRef,
    pub asked: Asked,
}

impl clap::Args for VmArguments {
    fn augment_args(command: Command) -> Command {
        let image = VmImage::ABOUT.name;
        command.args(OPTIONS.iter().map(argument)).mut_arg(image, |image| image.required(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(option: &'static OptionRow) -> Arg {
    let about = &option.about;
    let mut argument = Arg::new(about.name).long(about.run_name).help(about.run_help);
    if about.run_name != about.name {
        // In the form that people know from srun.
        argument = argument.alias(about.name);
    }
    let Some(words) = about.argument else { return argument.action(ArgAction::SetTrue) };
    let action = if about.is_list { ArgAction::Append } else { ArgAction::Set };
    let checked = |text: &str| (option.check)(text).map(|()| text.to_owned());
    argument.value_name(words).value_parser(checked).action(action)
}

impl clap::FromArgMatches for VmArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let wrong = |error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n"));
        let mut asked = Asked::default();
        for OptionRow { about, .. } in &OPTIONS {
            let text = match about.argument {
                Some(_) => {
                    matches.get_many::<String>(about.name).map(|texts| texts.cloned().collect::<Vec<_>>().join(","))
                }
                None => matches.get_flag(about.name).then(String::new),
            };
            text.and_then(|text| asked.set(about.name, &text)).transpose().map_err(wrong)?;
        }
        let image = matches.get_one::<String>(VmImage::ABOUT.name).expect("clap requires it");
        Ok(Self { image: VmImage::parse(image).map_err(wrong)?, asked })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parse(words: &[&str]) -> Result<VmArguments, String> {
        let command = VmArguments::augment_args(Command::new("run").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        VmArguments::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    fn lists(asked: &Asked) -> (usize, usize) {
        (asked.vm_mount.as_ref().map_or(0, Vec::len), asked.vm_env.as_ref().map_or(0, Vec::len))
    }

    #[test]
    fn an_image_is_all_that_is_needed() {
        let arguments = parse(&["--image", "tiny"]).unwrap();
        assert_eq!((arguments.image.as_str(), arguments.asked), ("tiny", Asked::default()));
        assert!(parse(&[]).unwrap_err().contains("--image"));
    }

    #[test]
    fn every_option_is_known_by_its_name_here_and_in_srun() {
        let here = "--image=a --vms=2 --vm-mem=1G --vm-cpus=2 --mount=/a,/b:/c:ro --root --env=A=1,B --label --save=x";
        let in_srun = "--vm-image=a --vms-per-slot=2 --vm-mem=1G --vm-cpus=2 --vm-mount=/a,/b:/c:ro --vm-root \
                       --vm-env=A=1,B --vm-label --vm-save=x";
        let [here, in_srun] = [here, in_srun].map(|line| parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
        assert_eq!(here.asked, in_srun.asked);
        assert_eq!((here.asked.vms(), here.asked.vm_mem, here.asked.vm_cpus), (2, Some(1024), Some(2)));
        assert_eq!((here.asked.vm_root, here.asked.vm_label), (Some(true), Some(true)));
        assert_eq!(lists(&here.asked), (2, 2));
        assert!(here.asked.vm_save.is_some());
    }

    #[test]
    fn a_list_grows_when_its_option_is_given_again_and_other_options_are_given_once() {
        let asked = parse(&["--image=a", "--mount=/a", "--mount=/b,/c", "--env=A=1"]).unwrap().asked;
        assert_eq!(lists(&asked), (3, 1));
        assert!(parse(&["--image=a", "--vm-mem=128", "--vm-mem=256"]).unwrap_err().contains("multiple times"));
    }

    #[test]
    fn a_bad_value_is_refused_in_the_words_of_the_option() {
        for (bad, words) in [
            ("--vms=0", "--vms-per-slot='0': a whole number from 1 to 64"),
            ("--vm-mem=lots", "--vm-mem='lots': a size is needed"),
            ("--image=none", "--vm-image=none is a word of its own"),
            ("--root=1", "--root"),
            ("--mount=/a:/x --image=a --mount=/b:/x", "--vm-mount: share '/b:/x:rw': '/a:/x:rw' is already at"),
        ] {
            let error = parse(&bad.split(' ').collect::<Vec<_>>()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}

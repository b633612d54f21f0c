//! `spank-vm run`: a VM without Slurm, for trying, debugging and measuring.

use std::ffi::OsString;
use std::time::Instant;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::vm_arguments::VmArguments;
use proto::ExitStatus;
use runner::config::{AccelChoice, Config, MachineChoice};
use runner::error::{Blame, Context, Fault, RunError};
use runner::limits::{self, Memory};
use runner::{self, SaveAs, Slot};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    vm: VmArguments,
    /// Memory for all VMs and their overhead together, in MiB [default: per VM, from the configuration]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Accelerator, instead of the configured one
    #[arg(long, value_parser = choice(AccelChoice::WORDS))]
    accel: Option<AccelChoice>,
    /// Virtual hardware, instead of the configured one
    #[arg(long, value_parser = choice(MachineChoice::WORDS))]
    machine: Option<MachineChoice>,
    /// Print where the time went
    #[arg(long)]
    timing: bool,
    /// Explain what is done
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments
    // Hyphens are the command's from its first word on; before it, a mistyped option is a mistake and no command.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// One of these words; the configuration uses the same ones.
fn choice<T: Copy + Send + Sync + 'static, const N: usize>(
    words: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(words.map(|(word, _)| word));
    names.map(move |name| words.iter().find(|(word, _)| *word == name).expect("a possible value").1)
}

/// Runs the command and exits as it did.
pub fn run(mut config: Config, arguments: Arguments) -> Result<ExitStatus, RunError> {
    let begin = Instant::now();
    limits::take()?;
    runner::log::init(arguments.verbose);
    config.accel = arguments.accel.unwrap_or(config.accel);
    config.machine = arguments.machine.unwrap_or(config.machine);
    let VmArguments { image, mut asked } = arguments.vm;
    let save = asked.vm_save.take();
    let save = save.map(|spec| SaveAs::new(&spec, None, &config).with_context(|| format!("--save={spec}")));
    let slot = Slot {
        config,
        image: super::working_dir::from_here(image).blame(Fault::User)?,
        job: None,
        job_network: None,
        asked,
        wants_mpi: false,
        memory: arguments.memory.map(|mib| Memory { mib, because: String::new() }),
        save: save.transpose()?,
        command: arguments.command.into(),
        timing: arguments.timing,
        begin,
    };
    runner::run(&slot)
}

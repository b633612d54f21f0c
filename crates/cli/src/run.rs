//! `spank-vm run`: a VM without Slurm, for trying, debugging and measuring.

use std::ffi::OsString;
use std::time::Instant;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use proto::ExitStatus;
use request::{
    EnvEntry, ImageRef, MAX_VMS_PER_SLOT, RequestError, SaveSpec, ShareSpec, parse_cpus, parse_memory, parse_variables,
};
use runner::config::{AccelChoice, Config, MachineChoice};
use runner::error::{Blame, Context, Fault, RunError};
use runner::limits::Memory;
use runner::{self, SaveAs, Slot};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Image to run the command in: a name ('spank-vm image list' shows all) or a path with a slash
    #[arg(long)]
    image: ImageRef,
    /// Number of VMs, each running the command
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_VMS_PER_SLOT as i64))]
    vms: u32,
    /// Memory for all VMs and their overhead together, in MiB [default: per VM, from the configuration]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Guest memory of each VM, in MiB or with K, M, G, T
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    vm_mem: Option<u64>,
    /// Processors of each VM
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    vm_cpus: Option<u32>,
    /// More host directories that the VMs see (repeatable)
    #[arg(long, value_name = "SRC[:DST][:ro|rw]")]
    mount: Vec<ShareSpec>,
    /// Run the command as root inside the VMs
    #[arg(long)]
    root: bool,
    /// Variables for the command: with this value, or NAME alone as it is here
    #[arg(long, value_name = "NAME[=VALUE],...", value_parser = variables)]
    env: Option<Variables>,
    /// Keep the first VM's disk as an image if its command succeeds
    #[arg(long, value_name = "NAME|/PATH[,replace]")]
    save: Option<SaveSpec>,
    /// Put the number of its VM before each line of output
    #[arg(long)]
    label: bool,
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
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A name of its own, because clap takes a `Vec` for a repeatable option.
type Variables = Vec<EnvEntry>;

fn variables(text: &str) -> Result<Variables, RequestError> {
    parse_variables(text)
}

/// One of these words, which the configuration has too.
fn choice<T: Copy + Send + Sync + 'static, const N: usize>(
    words: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(words.map(|(word, _)| word));
    names.map(move |name| words.iter().find(|(word, _)| *word == name).expect("a possible value").1)
}

/// Runs the command and ends as it ends.
pub fn run(mut config: Config, arguments: Arguments) -> Result<ExitStatus, RunError> {
    let begin = Instant::now();
    runner::log::init(arguments.verbose);
    config.accel = arguments.accel.unwrap_or(config.accel);
    config.machine = arguments.machine.unwrap_or(config.machine);
    let save_as =
        |spec: SaveSpec| SaveAs::new(&spec, None, &config).blame(Fault::User).with_context(|| format!("--save={spec}"));
    let save = arguments.save.map(save_as);
    let slot = Slot {
        config,
        image: super::image::from_here(arguments.image).blame(Fault::User)?,
        job: None,
        vms: arguments.vms,
        memory: arguments.memory.map(|mib| Memory { mib, because: String::new() }),
        vm_memory_mib: arguments.vm_mem,
        vm_cpus: arguments.vm_cpus,
        mounts: arguments.mount,
        as_root: arguments.root,
        variables: arguments.env.unwrap_or_default(),
        save: save.transpose()?,
        label: arguments.label,
        argv: arguments.command,
        batch_script: false,
        script_path: None,
        timing: arguments.timing,
        begin,
    };
    runner::run(&slot)
}

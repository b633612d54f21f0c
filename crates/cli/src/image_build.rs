//! `spank-vm image build`: boot, run a script as root, save.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};

use proto::ExitStatus;
use request::{Asked, ImageName, ImageRef, SaveSpec, VmCpus, VmMem, VmMount, VmOption};
use runner::config::Config;
use runner::error::{EXIT_VM_FAILED, chain};
use runner::notice;
use runner::{self, Command, SaveAs, Slot};

/// Path of the script in the guest: in memory, so that it gets into no image.
const SCRIPT: &str = "/run/spank-vm/build";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the new image
    name: ImageName,
    /// Image to start from
    #[arg(long, value_name = "BASE")]
    from: ImageRef,
    /// Script that is run as root in a VM of the base; its first line names the interpreter
    #[arg(long, value_name = "SCRIPT")]
    run: PathBuf,
    /// Host directories that the script sees beside your home and the working directory (repeatable)
    #[arg(long, value_name = VmMount::ABOUT.argument, value_parser = VmMount::parse)]
    mount: Vec<Mounts>,
    /// Guest memory, in MiB or with K, M, G, T
    #[arg(long, value_name = "SIZE", value_parser = VmMem::parse)]
    memory: Option<u64>,
    /// Processors of the VM
    #[arg(long, value_name = "N", value_parser = VmCpus::parse)]
    cpus: Option<u32>,
    /// Directory for disk and entry [default: root's is the site's, the first of 'image_dirs'; a user's the first with '~' or '%u']
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One line for people [default: that of the base]
    #[arg(long)]
    description: Option<String>,
    /// Replace an image of that name
    #[arg(long)]
    replace: bool,
}

/// A name of its own, because clap takes a `Vec` for a repeatable option.
type Mounts = <VmMount as VmOption>::Value;

/// Builds the image; ends as the script ends, or with [`EXIT_VM_FAILED`].
pub fn run(config: &Config, arguments: Arguments) -> ExitStatus {
    build(config, arguments).unwrap_or_else(|error| {
        notice::line(&format!("error: {}", chain(error.as_ref())));
        ExitStatus::Code(EXIT_VM_FAILED)
    })
}

fn build(config: &Config, arguments: Arguments) -> anyhow::Result<ExitStatus> {
    let begin = Instant::now();
    runner::log::init(false);
    let script = &arguments.run;
    let mut first = [0; 2];
    let read = File::open(script).and_then(|mut file| file.read_exact(&mut first));
    read.with_context(|| format!("the script {} cannot be read", script.display()))?;
    ensure!(first == *b"#!", "the script {} must begin with a line such as '#!/bin/sh'", script.display());
    let Arguments { name, dir, replace, .. } = arguments;
    let save = SaveAs::new(&SaveSpec { name, dir, replace }, arguments.description, config)?;
    let image = super::working_dir::from_here(arguments.from)?;
    let asked = Asked {
        vm_mem: arguments.memory,
        vm_cpus: arguments.cpus,
        vm_mount: Some(VmMount::agreeing(arguments.mount.concat())?),
        vm_root: Some(true),
        ..Asked::default()
    };
    let slot = Slot {
        asked,
        save: Some(save),
        command: Command { argv: vec![script.into()], batch_script: true, script_path: Some(SCRIPT.into()) },
        begin,
        ..Slot::plain(config.clone(), image, Vec::new())
    };
    Ok(runner::run(&slot)?)
}

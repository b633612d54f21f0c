//! `spank-vm kit`: the guest kernel and agent that every kit-booted image uses.

use std::path::PathBuf;

use clap::Subcommand;

use super::output::print;
use image::kit::{self, BuildOptions, DEFAULT_SCRATCH_BYTES, KernelSource, Kit};
use runner::config::Config;

/// Largest private disk: what an ext4 with blocks of 4 KiB can have.
const SCRATCH_MIB_MOST: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a kit from Debian's kernel package, which is unpacked and not installed
    Build {
        /// Directory of the kit [default: 'kit' of the configuration]
        #[arg(long)]
        output: Option<PathBuf>,
        /// The guest agent
        #[arg(long, default_value = "/usr/libexec/spank-vm/spank-vm-agent")]
        agent: PathBuf,
        /// Kernel: the path of a linux-image .deb, or the name of a package to download
        #[arg(long, default_value = "linux-image-amd64")]
        kernel: String,
        /// Where downloaded packages are kept
        #[arg(long, default_value = "/var/cache/spank-vm")]
        cache: PathBuf,
        /// Size of the private disk of each VM, in MiB; it is sparse
        #[arg(long, value_name = "MIB", default_value_t = DEFAULT_SCRATCH_BYTES >> 20, value_parser = clap::value_parser!(u64).range(16..=SCRATCH_MIB_MOST))]
        scratch: u64,
        /// A kernel module that every VM loads, beside those that the kit always has; may be given more than once
        #[arg(long, value_name = "NAME")]
        module: Vec<String>,
    },
    /// Check every file of the kit against its digest and show what it holds
    Show,
}

/// Carries out `command`.
pub fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Build { output, agent, kernel, cache, scratch, module: modules } => {
            let output = output.unwrap_or_else(|| config.kit.clone());
            let kernel = KernelSource::from(kernel.as_str());
            let options = BuildOptions { kernel, agent, output, cache, scratch_bytes: scratch << 20, modules };
            let kit = kit::build(&options)?;
            describe("built", &kit)
        }
        Command::Show => {
            let kit = Kit::load(&config.kit)?;
            kit.verify()?;
            describe("verified", &kit)
        }
    }
}

fn describe(done: &str, kit: &Kit) -> anyhow::Result<()> {
    let manifest = kit.manifest();
    let mut text = format!(
        "kit {done}: {}\nkernel {} from {}\nroot file systems: {}\nmodules for programs: {}\n",
        kit.dir().display(),
        manifest.kernel_release,
        manifest.kernel_package,
        manifest.filesystems.join(" "),
        manifest.modules.join(" ")
    );
    manifest.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    print(&text)
}

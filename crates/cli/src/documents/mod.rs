//! `spank-vm documents`: the manual pages and the completion of the shells, for whoever makes a package.
//!
//! Each is made from what the programs themselves use: the definition of the command line, the list of the options of
//! srun, and the sample configuration. So they cannot say anything else than `--help`.

mod command;
mod configuration;
mod plugin;
mod roff;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory that gets them, in the layout of /usr/share
    directory: PathBuf,
}

/// Writes all documents of `program`.
pub fn run(program: Command, arguments: &Arguments) -> anyhow::Result<()> {
    for (name, bytes) in all(program) {
        let path = arguments.directory.join(name);
        write(&path, &bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}

/// Each document by its place below /usr/share.
fn all(mut program: Command) -> Vec<(&'static str, Vec<u8>)> {
    program.build();
    let mut completion = |shell| {
        let mut bytes = Vec::new();
        clap_complete::generate(shell, &mut program, "spank-vm", &mut bytes);
        bytes
    };
    let mut all = vec![
        ("bash-completion/completions/spank-vm", completion(Shell::Bash)),
        ("zsh/site-functions/_spank-vm", completion(Shell::Zsh)),
        ("fish/vendor_completions.d/spank-vm.fish", completion(Shell::Fish)),
    ];
    all.push(("man/man1/spank-vm.1", command::page(&program).into_bytes()));
    all.push(("man/man5/spank-vm.toml.5", configuration::page().into_bytes()));
    all.push(("man/man8/spank_vm.8", plugin::page().into_bytes()));
    all
}

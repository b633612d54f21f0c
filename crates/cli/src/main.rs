//! The program `spank-vm`: the task that Slurm starts, and the administrator's command line.

// println! and eprintln! panic when the reader has left.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![forbid(unsafe_code)]

mod catalogue;
mod check;
mod documents;
mod file_server;
mod image;
mod image_build;
mod kit;
mod metrics;
mod optimise;
mod output;
mod ps;
mod run;
mod step;
mod step_network;
mod template;
mod vm_arguments;
mod working_dir;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use proto::ExitStatus;
use request::STEP_PROGRAM;
use runner::config::Config;
use runner::error::{RunError, chain};
use runner::{KEEPER_PROGRAM, die_by, notice};

#[derive(Debug, Parser)]
#[command(name = "spank-vm", version, about = "Run commands and Slurm job steps inside virtual machines")]
struct Arguments {
    /// Site configuration [default: /etc/slurm/spank-vm.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a virtual machine, without Slurm
    Run(run::Arguments),
    /// List, inspect, import and remove images
    #[command(subcommand)]
    Image(image::Command),
    /// Build and inspect the boot kit
    #[command(subcommand)]
    Kit(kit::Command),
    /// List, make, verify and remove the templates that VMs are cloned from
    #[command(subcommand)]
    Template(template::Command),
    Check(check::Arguments),
    /// List the VMs that Slurm runs on this node
    Ps,
    Metrics(metrics::Arguments),
    /// Write the manual pages and the completion of the shells
    #[command(hide = true)]
    Documents(documents::Arguments),
    /// Answer a VM's file requests; started by the runner
    #[command(hide = true)]
    FileServer,
    #[command(hide = true)]
    StepNetwork(step_network::Arguments),
}

/// Runs the program by the name it was started with and its arguments.
fn main() -> ExitCode {
    let mut argv = std::env::args_os();
    let name = argv.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new(STEP_PROGRAM)) {
        return finish(step::run(argv.collect()));
    }
    if Path::new(&name).file_name() == Some(OsStr::new(KEEPER_PROGRAM)) {
        return finish(step::keep(argv.collect()));
    }
    let arguments = Arguments::parse();
    let load = || Config::load(arguments.config.as_deref());
    let config = || load().map_err(anyhow::Error::from);
    let done = |result: anyhow::Result<()>| result.map(|()| ExitStatus::Code(0));
    match arguments.command {
        Command::Run(arguments) => finish(load().and_then(|config| run::run(config, arguments))),
        Command::Image(command) => finish_plain(config().and_then(|config| image::run(&config, command))),
        Command::Kit(command) => finish_plain(done(config().and_then(|config| kit::run(&config, command)))),
        Command::Template(command) => finish_plain(done(config().and_then(|config| template::run(&config, command)))),
        Command::Check(check) => {
            let file = arguments.config.as_deref();
            finish_plain(config().and_then(|config| check::run(file, &config, &check)))
        }
        Command::Documents(arguments) => finish_plain(done(documents::run(Arguments::command(), &arguments))),
        Command::Metrics(arguments) => {
            finish_plain(done(config().and_then(|config| metrics::run(&config, &arguments))))
        }
        Command::StepNetwork(arguments) => {
            let config = load().map_err(|error| format!("{error:#}"));
            finish_plain(done(step_network::run(config, &arguments)))
        }
        Command::FileServer => finish_plain(done(file_server::run())),
        Command::Ps => finish_plain(done(config().and_then(|config| ps::run(&config)))),
    }
}

/// Ends as the command in the VM ended.
fn finish(result: Result<ExitStatus, RunError>) -> ExitCode {
    match result {
        Ok(ExitStatus::Code(code)) => ExitCode::from(code),
        Ok(ExitStatus::Signal(signo)) => {
            die_by(signo);
            ExitCode::from(128_u8.saturating_add(signo))
        }
        Err(error) => {
            notice::line(&format!("error: {error:#}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Ends as an ordinary tool: 0 or 1, the error printed once; as a shell does if what it ran was killed.
fn finish_plain(result: anyhow::Result<ExitStatus>) -> ExitCode {
    match result {
        Ok(ExitStatus::Code(code)) => ExitCode::from(code),
        Ok(ExitStatus::Signal(signo)) => ExitCode::from(128_u8.saturating_add(signo)),
        Err(error) => {
            output::complain(&chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

//! Why a step or a submission with VMs fails: what, why, and what helps, in one line.

use super::args::ArgsError;
use super::network_error::NetworkError;
use crate::spank::SpankError;
use node::text::reason;
use request::{EXIT_NODE_FAILED, RequestError, STEP_PROGRAM};
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// An error that a user or administrator reads.
#[derive(Debug)]
pub enum Error {
    /// A bad option value.
    Request(RequestError),
    /// A bad plugstack.conf.
    Args(ArgsError),
    /// Slurm did not do what the plugin needs.
    Slurm(SpankError),
    /// Options that need an image, without one.
    NoImage {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// The option in a crontab, where Slurm drops it.
    Scrontab,
    /// `spank-vm image check` failed; its message.
    ImageRefused(String),
    /// A program of this package cannot be run.
    NoProgram {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `srun --multi-prog` on a release where the plugin cannot change the tasks' commands.
    MultiProg,
    /// An interface for MPI programs that these VMs do not have; the text says what they have.
    Mpi(String),
    /// `srun --bcast` on a release where the command could not be hidden.
    Bcast,
    /// A component of a heterogeneous step says nothing about VMs, another one does.
    SilentComponent {
        /// Number of the component.
        index: usize,
        /// What the other one says.
        image: String,
    },
    /// srun sends another command than the one on its command line.
    OpenCommand,
    /// The command of this component of a heterogeneous step cannot be hidden.
    OpenComponent(usize),
    /// A step in a job that asked for this image, but the step's environment no longer says so.
    ForgottenByJob(String),
    /// The components of a job ask for different VMs.
    ComponentsDiffer {
        /// What the first one says.
        first: String,
        /// Number of the component that says something else.
        index: usize,
        /// What that is.
        other: String,
    },
    /// The placeholder arrived without the user's command.
    LostCommand,
    /// The placeholder arrived without the option.
    LostOption,
    /// One of the other errors, found on a node that is at fault.
    Node(Box<Error>),
    /// A relative path without a directory to start in.
    NoWorkDir {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A relative path arrived without the directory it starts at.
    LostImageDir(String),
    /// The step has no network of its own.
    Network(NetworkError),
    /// The task could not be noted in the state directory.
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the tasks of a node find each other by could not be handed over.
    Meeting(io::Error),
    /// A bug kept root from making what the task needs; the line before this one says which.
    Unprepared,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Args(error) => error.fmt(f),
            Self::Slurm(error) => error.fmt(f),
            Self::NoImage { option, value } => {
                write!(f, "--{option}={value} needs an image: add --vm-image=NAME (--vm-image=list shows all)")
            }
            Self::Scrontab => f.write_str(
                "scrontab does not pass --vm-image on and the job would run without a VM: \
                 put srun --vm-image=NAME into its command instead",
            ),
            Self::ImageRefused(why) | Self::Mpi(why) => f.write_str(why),
            Self::NoProgram { path, source } => write!(
                f,
                "cannot run {}: {}; is spank-vm installed here, and does libexec= in plugstack.conf name its directory?",
                path.display(),
                reason(source)
            ),
            Self::Node(error) => write!(f, "this node cannot run VMs: {error}"),
            Self::MultiProg => f.write_str(
                "--multi-prog with --vm-image needs Slurm 23.11 or later on the nodes: \
                 start one srun per program instead",
            ),
            Self::Bcast => f.write_str(
                "--bcast with --vm-image could run the copied program without a VM: \
                 copy it with sbcast before, and start the copy by its name",
            ),
            Self::SilentComponent { index, image } => write!(
                f,
                "component {index} of this step has no --vm-image and another one has {image}: \
                 say {image} or --vm-image=none for each component"
            ),
            Self::OpenCommand => f.write_str(
                "srun sends something else than its own command line, which cannot be kept from running without a VM \
                 (for --multi-prog, give it a file that can be read twice)",
            ),
            Self::OpenComponent(index) => write!(
                f,
                "the command of component {index} of this step cannot be kept from running without a VM: \
                 give each component a command of its own, or start one srun per component"
            ),
            Self::ForgottenByJob(image) => write!(
                f,
                "this job asked for --vm-image={image}, but the variables SLURM_SPANK_... that say so to its steps are \
                 gone: say --vm-image={image} or --vm-image=none"
            ),
            Self::ComponentsDiffer { first, index, other } => write!(
                f,
                "component 0 of this job has {first} and component {index} has {other}, but a job has one value for all: \
                 say the same for each component, and give each srun inside the job its own"
            ),
            Self::LostCommand => write!(
                f,
                "the command of this step was replaced by '{STEP_PROGRAM}' at submission and did not arrive with it; \
                 nothing was run"
            ),
            Self::LostOption => write!(
                f,
                "this step was submitted for a VM, but its --vm-image did not arrive; nothing was run. \
                 ('{STEP_PROGRAM}' is not a command of its own)"
            ),
            Self::NoWorkDir { path, source } => {
                write!(f, "--vm-image={path}: the working directory is not known: {}", reason(source))
            }
            Self::LostImageDir(path) => {
                write!(f, "--vm-image={path}: the directory of the submission did not arrive; give the path from / on")
            }
            Self::Meeting(error) => write!(f, "the tasks of this node cannot find each other: {}", reason(error)),
            Self::Unprepared => {
                f.write_str("this task could not be prepared, because of the internal error above; nothing was run")
            }
            Self::Network(error) => error.fmt(f),
            Self::StateDir { path, source } => {
                write!(f, "cannot make the task's directory {}: {}", path.display(), reason(source))
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The error of a task; the text says if the node is at fault.
    #[must_use]
    pub fn of_task(self) -> Self {
        match self {
            Self::Args(_)
            | Self::NoProgram { .. }
            | Self::StateDir { .. }
            | Self::Meeting(_)
            | Self::Network(NetworkError::Node(_)) => Self::Node(Box::new(self)),
            other => other,
        }
    }

    /// Exit status of the task: it differs if another node may do better.
    pub fn task_status(&self) -> c_int {
        match self {
            Self::Node(_) => c_int::from(EXIT_NODE_FAILED),
            // The same status that slurmstepd uses when a hook fails.
            _ => 1,
        }
    }
}

impl From<SpankError> for Error {
    fn from(error: SpankError) -> Self {
        Self::Slurm(error)
    }
}

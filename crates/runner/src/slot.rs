//! What is asked for: a slot, its image and its command.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::limits::Memory;
use crate::save::SaveAs;
use crate::task::Command;
use request::{Asked, ImageRef, JobRef, NetworkPart};

/// If a start takes longer than this, a person who waits at a terminal is told.
pub(crate) const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// A slot and the command to run in it.
#[derive(Debug)]
pub struct Slot {
    /// The site's configuration.
    pub config: Config,
    /// The image asked for.
    pub image: ImageRef,
    /// The job, where there is one.
    pub job: Option<JobRef>,
    /// The task's part of a network of its step, where the plugin made one.
    pub job_network: Option<NetworkPart>,
    /// The options besides the image. Its `vm_save` has become [`Slot::save`].
    pub asked: Asked,
    /// The user asked for one of Slurm's interfaces for MPI programs.
    pub wants_mpi: bool,
    /// Memory of the whole slot, where it is limited.
    pub memory: Option<Memory>,
    /// The image to make from the first VM's root if its command succeeds.
    pub save: Option<SaveAs>,
    /// What runs in its VMs.
    pub command: Command,
    /// Print the phases of each VM to stderr at the end.
    pub timing: bool,
    /// When the work for this slot began.
    pub begin: Instant,
}

impl Slot {
    /// One VM of this image for this command, with the site's defaults; its work begins now.
    pub fn plain(config: Config, image: ImageRef, argv: Vec<OsString>) -> Self {
        Self {
            config,
            image,
            job: None,
            job_network: None,
            asked: Asked::default(),
            wants_mpi: false,
            memory: None,
            save: None,
            command: argv.into(),
            timing: false,
            begin: Instant::now(),
        }
    }
}

//! What the plugin remembers from one hook to the next.

use super::args::{Args, ArgsError};
use super::component::{self, Component};
use super::error::Error;
use super::given::Given;
use super::meeting::MeetingPlace;
use super::network::StepNetwork;
use crate::spank::{Context, Host};
use request::{OPTIONS, OptionRow, VmRequest};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What the plugin remembers from one hook to the next.
#[derive(Debug)]
pub struct Plugin {
    /// The arguments in plugstack.conf. Wrong arguments matter to VM steps only.
    pub args: Result<Args, ArgsError>,
    /// The options given so far; in clients those of the last component.
    pub given: Given,
    /// In clients: the components whose options are complete.
    pub components: Vec<Component>,
    /// In sbatch and salloc: the variables that pass options on, as they were before these programs set them
    /// themselves.
    pub inherited: BTreeMap<String, OsString>,
    /// Whether the options in `given` are those of the last one of `components`: the next value begins a new one.
    pub complete: bool,
    /// An error from a hook that must not fail.
    pub deferred: Option<Error>,
    /// This node's directory for copies of images.
    pub image_cache_dir: Option<PathBuf>,
    /// Where the tasks of the step meet, if they may share a VM.
    pub meeting: Option<MeetingPlace>,
    /// In the srun of salloc's shell: the image that the shell leaves to the steps in it.
    pub image_of_job: Option<OsString>,
    /// The last image that passed the check, since clients ask once per component of a
    /// heterogeneous job.
    pub checked: Option<String>,
    /// srun's variable for `--mpi` as the user set it: later srun puts its own variables beside it.
    pub mpi: Option<OsString>,
    /// In slurmstepd: the step's own network.
    pub network: Option<StepNetwork>,
}

impl Plugin {
    /// The state at `slurm_spank_init`.
    pub fn new(arguments: &[OsString]) -> Self {
        Self {
            args: Args::parse(arguments),
            given: Given::default(),
            components: Vec::new(),
            inherited: BTreeMap::new(),
            complete: false,
            deferred: None,
            image_cache_dir: None,
            meeting: None,
            image_of_job: None,
            checked: None,
            mpi: None,
            network: None,
        }
    }

    /// Takes the value of option number `option`.
    pub fn take(&mut self, option: usize, value: Option<impl AsRef<OsStr>>) {
        self.begin_component();
        self.given.set(option, value);
    }

    /// Forgets what belongs to the last component. Slurm does not: it would pass it on to the next one.
    pub fn begin_component(&mut self) {
        if std::mem::take(&mut self.complete) {
            self.given = Given::default();
        }
    }

    /// Whether any part of this submission must not run on the bare host.
    pub fn wants_vm(&self) -> bool {
        self.given.wants_vm() || self.components.iter().any(Component::wants_vm)
    }

    /// The most VMs that a task of this step has.
    pub fn most_vms(&self) -> u32 {
        self.components.iter().map(Component::vms_per_slot).max().unwrap_or(1)
    }

    /// Whether components' commands were hidden one by one.
    pub fn are_hidden(&self) -> bool {
        self.components.iter().any(Component::is_hidden)
    }

    /// The arguments, for a VM step.
    pub fn args(&self) -> Result<&Args, Error> {
        self.args.as_ref().map_err(|error| Error::Args(error.clone()))
    }

    /// In sbatch and salloc, from the second component on: keeps only the values that this component itself was
    /// given.
    pub fn forget_inherited(&mut self, host: &dyn Host) {
        if host.context() != Context::Allocator {
            return;
        }
        if self.components.is_empty() {
            let variables = OPTIONS.iter().map(OptionRow::slurm_variable);
            self.inherited = variables.filter_map(|name| Some((name.clone(), host.own_env(&name)?))).collect();
        } else {
            let before = |name: &str| self.inherited.get(name).cloned();
            self.given = self.given.without_inherited(|name| host.own_env(name), before);
        }
    }

    /// A client has read all options of a component, which ask for these VMs.
    ///
    /// # Errors
    /// When this component and the earlier ones do not fit together.
    pub fn add_component(&mut self, host: &mut dyn Host, vms: Option<VmRequest>) -> Result<(), Error> {
        component::add(&mut self.components, Component::new(self.given.values().clone(), vms), host)
    }
}

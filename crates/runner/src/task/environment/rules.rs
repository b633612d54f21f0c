//! Which variables have a rule. docs/environment.md explains them to users; a test compares the two.

/// What happens to a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It names what no VM has.
    Drop,
    /// It speaks of the task's place in Slurm's PMI, and is dropped unless the socket is there too.
    Pmi,
    /// It speaks of the task's place in Slurm's PMIx, and is dropped unless the way to its server is there too.
    Pmix,
    /// The same, and of what the server offers only this passes into a VM.
    PmixOnly(&'static str),
    /// The same; it names the server's port.
    PmixServer,
    /// It names a file, and is dropped unless a share contains that.
    File,
    /// It lists processors by number, and is dropped unless the VM has them all.
    Places,
    /// A list of libraries, separated by these bytes: entries of the host alone are removed.
    Libraries(&'static [u8]),
    /// A directory for temporary files: programs rely on it.
    Temporary,
    /// A list of directories with programs: the standard ones are added.
    Search,
}

/// Names, each with its rule. A `*` at the end stands for any rest.
pub(super) const RULES: &[(&str, Rule)] = &[
    // The plugin's and the runner's own.
    ("SPANK_VM*", Rule::Drop),
    // Sockets and directories of a login, and of the host's services.
    ("XDG_RUNTIME_DIR", Rule::Drop),
    ("XDG_SESSION_ID", Rule::Drop),
    ("DBUS_*", Rule::Drop),
    ("SSH_AUTH_SOCK", Rule::Drop),
    ("SSH_AGENT_PID", Rule::Drop),
    ("GPG_AGENT_INFO", Rule::Drop),
    ("DISPLAY", Rule::Drop),
    ("XAUTHORITY", Rule::Drop),
    ("WAYLAND_DISPLAY", Rule::Drop),
    ("WAYLAND_SOCKET", Rule::Drop),
    ("SESSION_MANAGER", Rule::Drop),
    ("PULSE_SERVER", Rule::Drop),
    ("TMUX", Rule::Drop),
    ("TMUX_PANE", Rule::Drop),
    ("STY", Rule::Drop),
    ("NOTIFY_SOCKET", Rule::Drop),
    ("LISTEN_PID", Rule::Drop),
    ("LISTEN_FDS", Rule::Drop),
    ("LISTEN_FDNAMES", Rule::Drop),
    ("JOURNAL_STREAM", Rule::Drop),
    // The ways to srun and to slurmstepd.
    ("PMI_FD", Rule::Pmi),
    ("PMI_RANK", Rule::Pmi),
    ("PMI_SIZE", Rule::Pmi),
    ("PMI_JOBID", Rule::Pmi),
    ("PMI_SPAWNED", Rule::Pmi),
    ("PMI_*", Rule::Drop),
    ("PMI2_*", Rule::Drop),
    ("PMIX_NAMESPACE", Rule::Pmix),
    ("PMIX_RANK", Rule::Pmix),
    ("PMIX_ID", Rule::Pmix),
    ("PMIX_HOSTNAME", Rule::Pmix),
    ("PMIX_VERSION", Rule::Pmix),
    ("PMIX_BFROP_BUFFER_TYPE", Rule::Pmix),
    ("PMIX_GDS_MODULE", Rule::PmixOnly("hash")),
    ("PMIX_SECURITY_MODE", Rule::PmixOnly("native")),
    ("PMIX_SERVER_URI41", Rule::PmixServer),
    // By these an older library finds the way too, and is told that it is too old.
    ("PMIX_SERVER_URI4", Rule::PmixServer),
    ("PMIX_SERVER_URI3", Rule::PmixServer),
    ("PMIX_SERVER_URI21", Rule::PmixServer),
    ("PMIX_SERVER_URI2", Rule::PmixServer),
    ("PMIX_*", Rule::Drop),
    ("SLURM_PMI*", Rule::Drop),
    ("SLURM_SRUN_COMM_*", Rule::Drop),
    ("SLURM_STEP_LAUNCHER_PORT", Rule::Drop),
    // Graphics processors.
    ("CUDA_VISIBLE_DEVICES", Rule::Drop),
    ("CUDA_MPS_*", Rule::Drop),
    ("NVIDIA_VISIBLE_DEVICES", Rule::Drop),
    ("GPU_DEVICE_ORDINAL", Rule::Drop),
    ("HIP_VISIBLE_DEVICES", Rule::Drop),
    ("ROCR_VISIBLE_DEVICES", Rule::Drop),
    ("ZE_AFFINITY_MASK", Rule::Drop),
    ("ONEAPI_DEVICE_SELECTOR", Rule::Drop),
    // The host's processors and memory nodes.
    ("SLURM_CPU_BIND*", Rule::Drop),
    ("SLURM_MEM_BIND*", Rule::Drop),
    ("SBATCH_CPU_BIND*", Rule::Drop),
    ("SBATCH_MEM_BIND*", Rule::Drop),
    ("GOMP_CPU_AFFINITY", Rule::Places),
    ("KMP_AFFINITY", Rule::Places),
    ("OMP_PLACES", Rule::Places),
    ("MV2_CPU_MAPPING", Rule::Places),
    ("I_MPI_PIN_PROCESSOR_LIST", Rule::Places),
    // Files with credentials.
    ("KRB5CCNAME", Rule::File),
    ("X509_USER_PROXY", Rule::File),
    // Directories.
    ("LD_LIBRARY_PATH", Rule::Libraries(b":;")),
    ("LD_PRELOAD", Rule::Libraries(b": ")),
    ("LD_AUDIT", Rule::Libraries(b":")),
    ("TMPDIR", Rule::Temporary),
    ("TMP", Rule::Temporary),
    ("TEMP", Rule::Temporary),
    ("TEMPDIR", Rule::Temporary),
    ("PATH", Rule::Search),
];

/// Variables that a command gets unless it has them: by them `mpirun` of Open MPI (4, 5), MPICH and Intel MPI starts
/// its processes in the VM itself. Without them it would find a job in `SLURM_*` and look for srun.
pub(super) const LAUNCHERS: [(&str, &str); 7] = [
    ("OMPI_MCA_plm", "^slurm"),
    ("OMPI_MCA_ras", "^slurm"),
    ("PRTE_MCA_plm", "^slurm"),
    ("PRTE_MCA_ras", "^slurm"),
    ("HYDRA_LAUNCHER", "fork"),
    ("HYDRA_RMK", "user"),
    ("I_MPI_HYDRA_BOOTSTRAP", "fork"),
];

/// What a command gets, unless it has it, whose rank is alone in its VM: by the server's word Open MPI takes all ranks of a node
/// for neighbours in one memory.
pub(super) const APART: (&str, &str) = ("OMPI_MCA_btl", "self,tcp");

/// The rule for the variable of this name; most have none.
pub(super) fn rule_for(name: &str) -> Option<Rule> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    RULES.iter().find(|(pattern, _)| matches(pattern)).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_users_names_every_variable_with_a_rule() {
        let page = include_str!("../../../../../docs/environment.md");
        let launchers = LAUNCHERS.iter().chain([&APART]).map(|(name, value)| format!("`{name}={value}`"));
        for name in RULES.iter().map(|(name, _)| format!("`{name}`")).chain(launchers) {
            assert!(page.contains(&name), "{name} is not in docs/environment.md");
        }
    }
}

//! This node.

/// Its name: Slurm's for it in a job or a prolog, else the host's.
pub fn name() -> String {
    let is_plain = |name: &String| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let of_slurm = std::env::var("SLURMD_NODENAME").ok().filter(is_plain);
    let of_host = || nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    of_slurm.unwrap_or_else(|| of_host().split('.').next().unwrap_or_default().to_owned())
}

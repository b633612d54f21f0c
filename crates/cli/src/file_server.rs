//! The process that answers a VM's file requests. The runner starts it; the crate `files` says what it must get.

/// Serves until QEMU is gone.
pub fn run() -> anyhow::Result<()> {
    Ok(files::run()?)
}

//! The process that answers a VM's file requests. The runner starts it; the crate `files` says what it must get.

use nix::sys::prctl::set_name;

/// Serves until QEMU is gone.
pub fn run() -> anyhow::Result<()> {
    // Started through /proc/self/exe it would be called "exe". What counts the VMs of a task knows this program by its
    // name, and so does who reads a list of processes.
    set_name(c"spank-vm-files")?;
    Ok(files::run()?)
}

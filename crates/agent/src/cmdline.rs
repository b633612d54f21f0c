//! The keys of the kernel command line that are for the agent.

use super::error::AgentError;
use super::rootfs::FsType;

/// What the runner decided before the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BootOptions {
    /// File system of the image; `None`: recognise it by its super block.
    pub rootfs: Option<FsType>,
    /// No image: the kit's own files stay the root, for work on whole disks.
    pub without_image: bool,
    /// MiB of memory that the kernel was told to hold back.
    pub held_mib: u64,
}

impl BootOptions {
    /// Reads `spank_vm.*` from a kernel command line and ignores all other words.
    ///
    /// # Errors
    /// An unknown `spank_vm.` key or value: the runner and this agent are not of one release.
    pub fn parse(cmdline: &str) -> Result<Self, AgentError> {
        let mut options = Self::default();
        for (key, value) in cmdline.split_whitespace().filter_map(|word| word.split_once('=')) {
            match (key, value) {
                ("spank_vm.rootfs", "auto") => options.rootfs = None,
                ("spank_vm.rootfs", name) => {
                    options.rootfs = Some(FsType::from_name(name).ok_or_else(|| {
                        AgentError::Unfit(format!("spank_vm.rootfs={name}: this kit knows no such file system"))
                    })?);
                }
                ("spank_vm.root", "none") => options.without_image = true,
                ("spank_vm.held", mib) => {
                    options.held_mib = mib.parse().map_err(|_| AgentError::Unfit(format!("spank_vm.held={mib}")))?;
                }
                (key, _) if key.starts_with("spank_vm.") => {
                    return Err(AgentError::Unfit(format!(
                        "{key} on the kernel command line: this kit knows no such key"
                    )));
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_own_keys_and_ignores_the_kernels() {
        let line =
            "console=ttyS0 quiet panic=-1 crashkernel=256M spank_vm.held=256 spank_vm.rootfs=erofs vsyscall=emulate\n";
        let expected = BootOptions { rootfs: Some(FsType::Erofs), without_image: false, held_mib: 256 };
        assert_eq!(BootOptions::parse(line), Ok(expected));
        assert_eq!(BootOptions::parse("quiet"), Ok(BootOptions::default()));
        assert_eq!(BootOptions::parse("spank_vm.rootfs=auto"), Ok(BootOptions::default()));
    }

    #[test]
    fn what_it_does_not_know_is_an_error_that_names_it() {
        for line in ["spank_vm.rootfs=ntfs", "quiet spank_vm.colour=red", "spank_vm.held=all"] {
            let error = BootOptions::parse(line).unwrap_err().to_string();
            assert!(error.contains("spank_vm."), "{error}");
        }
    }
}

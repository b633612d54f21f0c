//! The ways of starting VMs that are compared, each as the batch script of a job array.

use std::path::Path;

use testkit::measure::setting;

/// Guest memory of a clone or a kit boot, in MiB: eight VMs in each of two slots fit a node.
const GUEST_MIB: u32 = 128;

/// A way of starting VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// No VMs: as many tasks on bare metal; shows the time that Slurm itself takes.
    Bare,
    /// spank-vm as it is: clones of a template.
    Clone,
    /// spank-vm without templates.
    KitBoot,
    /// Each VM copies a full disk and boots it.
    Paper,
}

/// Values that a job's script needs.
pub struct Site<'a> {
    /// Where the logger listens.
    pub port: u16,
    /// The full disk's directory.
    pub full_images: &'a Path,
    /// The script that starts VMs the paper's way.
    pub paper_way: &'a Path,
    /// Where copies of the full disk may be made.
    pub scratch: &'a Path,
}

impl Series {
    /// In the order in which they are measured: quick ones first.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Clone, Self::KitBoot, Self::Paper];

    /// Its name in the CSV.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Clone => "clone",
            Self::KitBoot => "kit-boot",
            Self::Paper => "paper",
        }
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Bare => "no VM: as many tasks on bare metal",
            Self::Clone => "clone of a template (spank-vm's default)",
            Self::KitBoot => "kit boot (optimised boot, no template)",
            Self::Paper => "full copy and full boot (as in the paper)",
        }
    }

    /// Keys of the site's configuration that differ.
    pub fn config(self) -> &'static str {
        match self {
            Self::Bare | Self::Clone | Self::Paper => "",
            Self::KitBoot => "start = 'boot'\n",
        }
    }

    /// Whether all of its cells may take an hour and more.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::KitBoot | Self::Paper)
    }

    /// How often each cell is measured.
    pub fn repeats(self) -> usize {
        match self {
            Self::Bare | Self::Clone => setting("REPEATS", 10),
            Self::KitBoot => setting("KIT_REPEATS", 2),
            Self::Paper => setting("PAPER_REPEATS", 1),
        }
    }

    /// Cells with more VMs are left out, because emulating their boots would take hours.
    pub fn most_vms(self) -> u32 {
        match self {
            Self::Bare | Self::Clone => u32::MAX,
            Self::KitBoot => setting("KIT_MAX_VMS", 64),
            Self::Paper => setting("PAPER_MAX_VMS", 16),
        }
    }

    /// Memory of a job that starts `vms` VMs, in MiB.
    pub fn job_mib(self, vms: u32) -> u32 {
        match self {
            // The guest, 128 MiB for QEMU, and a part of the memory for the job's own processes.
            Self::Bare | Self::Clone | Self::KitBoot => vms * (GUEST_MIB + 128 + 32),
            // 256 MiB for the guest; the rest is QEMU's, 64 MiB of it for translated code.
            Self::Paper => vms * 368,
        }
    }

    /// The batch script of such a job.
    pub fn script(self, vms: u32, site: &Site<'_>) -> String {
        let Site { port, full_images, paper_way, scratch } = site;
        let what = match self {
            Self::Bare => {
                format!("exec srun -Q --overcommit -n{vms} sh -c 'echo sum $((40 + 2))' >/dev/tcp/127.0.0.1/{port}")
            }
            Self::Clone | Self::KitBoot => format!(
                "exec srun -Q --vm-image=debian12 --vms-per-slot={vms} --vm-mem={GUEST_MIB}M \
                 sh -c 'echo sum $((40 + 2))' >/dev/tcp/127.0.0.1/{port}"
            ),
            Self::Paper => format!(
                "exec {} {} {} {vms} tcp:127.0.0.1:{port}",
                paper_way.display(),
                full_images.display(),
                scratch.display()
            ),
        };
        format!("#!/bin/bash\n{what}\n")
    }
}

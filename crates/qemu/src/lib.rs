//! QEMU: what its command line says, its process, its monitor, and the private disks of VMs. Nothing here knows
//! about tasks, jobs or the agent; the caller decides what a VM is made of.

// println! and eprintln! panic if the reader has closed the pipe.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod abilities;
mod ask;
mod boot;
mod command_line;
mod confine;
mod cpu_model;
mod descriptors;
mod detach;
mod elf;
mod error;
mod helper_disk;
mod largest;
mod machine;
mod monitor;
mod networks;
mod nic;
pub mod overlay;
mod process;
pub mod program;
mod sandbox;
pub mod scratch;
mod shape;
mod tail;
mod tie;
mod way;
mod written;

pub use abilities::Abilities;
pub use boot::{BootSource, FullBoot, KitFiles};
pub use command_line::{Ends, Hardware, Start, System, TemplateFds, VmSpec};
pub use confine::{Confine, Confinement, Unconfined};
pub use cpu_model::CpuModel;
pub use descriptors::ImageFds;
pub use error::QemuError;
pub use helper_disk::HelperDisk;
pub use largest::most_cpus;
pub use machine::{Accel, MachineType};
pub use monitor::{DiskError, MemoryRegion, Monitor, Shutdown, StateUri, TURN, Transfer};
pub use networks::has_user_network;
pub use nic::{Nic, Peer, Tap, TapFds};
pub use process::{Files, GUEST_SAYS, Host, Inherited, QemuProcess, TemplateFiles};
pub use shape::{BLOCK_MIB, EMULATED_MIB, MIN_GUEST_MIB, PLAIN_CPUS, Shape, VmSize};
pub use way::{Need, Way};
pub use written::{MOST as WRITTEN_MOST, Written};

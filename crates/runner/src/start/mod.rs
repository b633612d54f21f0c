//! How VMs start: with which kernel and accelerator, as clones of a template or by a boot.
//!
//! ```text
//! policy ─► attempt (KVM) ─► way: template? ─► clone ─► no answer ─► the next way … ─► boot ─► no answer ─► attempt (emulated)
//! ```

mod attempt;
mod cloning;
pub(crate) mod counter;
mod fit;
mod kvm;
mod policy;
mod prebuild;
mod processor;
pub(crate) mod source;
mod training;
mod verdict;
mod ways;

pub(crate) use attempt::Outcome;
pub(crate) use attempt::run;
pub use kvm::limits_of_users;
pub(crate) use kvm::{usable as kvm_usable, usable_for_users as kvm_usable_for_users};
pub(crate) use policy::{Attempt, Policy, Started, Timeouts};
pub use prebuild::{Prebuilt, prebuild, useless_for_users};
pub use processor::try_processor;
pub(crate) use ways::Ways;
pub use ways::{WayHere, ways_here};

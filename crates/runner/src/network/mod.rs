//! The network of a slot's VMs: which one, what is behind their devices, and what their guests are told.
//!
//! What can go wrong is found before QEMU starts: a network that the site does not allow, a QEMU that has none, a port that is
//! taken.

mod job;
mod user;

use crate::config::Config;
use crate::error::{Fault, RunError, ensure};
use crate::slot::Slot;
use image::Image;
use proto::ToGuest;
use qemu::{Accel, BootSource, Nic, Tap, TapFds};
use request::Network as Wanted;

use self::job::JobNetwork;
use self::user::UserNetwork;

/// The network of a slot's VMs, ready for use.
#[derive(Debug)]
pub(crate) enum Network {
    /// Out of the VM with the user's rights.
    User(UserNetwork),
    /// All VMs of the step.
    Job(JobNetwork),
}

impl Network {
    /// The network that was asked for; `None` for none.
    ///
    /// # Errors
    /// Why the VMs cannot have it.
    pub(crate) fn of(
        slot: &Slot,
        image: &Image,
        source: &BootSource,
        qemu: &std::path::Path,
    ) -> Result<Option<Self>, RunError> {
        let published = slot.asked.vm_publish.as_deref().unwrap_or_default();
        let wanted = wanted(&slot.config, slot.asked.vm_net)?;
        ensure!(
            published.is_empty() || wanted == Wanted::User,
            Fault::User,
            "--vm-publish={}: only VMs with --vm-net=user have ports to publish: add it, or leave this out",
            slot.asked.texts().find(|(name, _)| *name == "vm-publish").map_or_else(String::new, |(_, text)| text)
        );
        if wanted == Wanted::None {
            return Ok(None);
        }
        ensure!(
            matches!(source, BootSource::Kit(_)),
            Fault::User,
            "--vm-net={}: image '{}' boots its own kernel (boot = \"full\"), and its services would configure the network",
            wanted.as_str(),
            image.name
        );
        Ok(Some(match wanted {
            Wanted::Job => Self::Job(JobNetwork::take(slot)?),
            Wanted::User | Wanted::None => Self::User(UserNetwork::prepare(published, slot.asked.vms(), qemu)?),
        }))
    }

    /// The network of a task whose VM another process has; that process has checked it.
    ///
    /// # Errors
    /// When the plugin's part of it did not arrive.
    pub(crate) fn of_member(slot: &Slot) -> Result<Option<Self>, RunError> {
        slot.job_network.as_ref().map(|_| JobNetwork::of_member(slot).map(Self::Job)).transpose()
    }

    /// That of a VM in which nobody works: a guest's part of it is as always, and nothing is behind the device.
    pub(crate) fn of_nobody() -> Self {
        Self::User(UserNetwork::without_host())
    }

    /// The VM's end of the network, if it is a file.
    ///
    /// # Errors
    /// When the node has no room for it.
    pub(crate) fn open(&self, index: usize, accel: Accel) -> Result<Option<Tap>, RunError> {
        match self {
            Self::User(_) => Ok(None),
            Self::Job(job) => job.open(index, accel).map(Some),
        }
    }

    /// The device of a VM; `tap` is what [`Network::open`] returned.
    pub(crate) fn nic(&self, index: usize, tap: Option<TapFds>) -> Nic<'_> {
        match self {
            Self::User(user) => user.nic(),
            Self::Job(job) => job.nic(index, tap),
        }
    }

    /// Whether every QEMU that may start the VMs has it: the small one has no user network.
    pub(crate) fn is_for_every_way(&self) -> bool {
        matches!(self, Self::Job(_))
    }

    /// The messages that tell a guest about it.
    pub(crate) fn introduce(&self, index: usize, send: impl FnMut(ToGuest<'_>)) {
        match self {
            Self::User(user) => user.introduce(send),
            Self::Job(job) => job.introduce(index, send),
        }
    }

    /// The host name that a VM has by its network.
    pub(crate) fn own_name(&self) -> Option<String> {
        match self {
            Self::User(_) => None,
            Self::Job(job) => job.own_name(),
        }
    }

    /// Whether ranks of one node are in VMs of their own and see each other by it.
    pub(crate) fn separates_ranks(&self) -> bool {
        matches!(self, Self::Job(job) if job.own_name().is_none())
    }

    /// The names of all VMs of the network, in the order of their ranks; `None` where they do not see each other.
    pub(crate) fn hosts(&self) -> Option<String> {
        match self {
            Self::User(_) => None,
            Self::Job(job) => job.hosts(),
        }
    }
}

/// The network that the user wants or the site gives.
fn wanted(config: &Config, asked: Option<Wanted>) -> Result<Wanted, RunError> {
    let wanted = asked.unwrap_or(config.default_network);
    let allowed: Vec<&str> = config.allowed_networks.iter().map(|network| network.as_str()).collect();
    ensure!(
        wanted == Wanted::None || config.allowed_networks.contains(&wanted),
        Fault::User,
        "--vm-net={}: this site allows {} ('allowed_networks')",
        wanted.as_str(),
        if allowed.is_empty() { "no network".to_owned() } else { allowed.join(", ") }
    );
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_site_has_a_default_and_a_list_and_none_is_always_allowed() {
        let site = Config { default_network: Wanted::User, allowed_networks: vec![Wanted::User], ..Config::default() };
        assert_eq!(wanted(&site, None).unwrap(), Wanted::User);
        assert_eq!(wanted(&site, Some(Wanted::None)).unwrap(), Wanted::None);
        let closed = Config { allowed_networks: Vec::new(), ..Config::default() };
        assert_eq!(wanted(&closed, None).unwrap(), Wanted::None);
        let error = wanted(&closed, Some(Wanted::User)).unwrap_err();
        assert_eq!((error.fault(), error.exit_code()), (Fault::User, 125));
        assert_eq!(error.to_string(), "--vm-net=user: this site allows no network ('allowed_networks')");
    }
}

//! What a system that boots its own kernel has and a VM that lives for one job does not need.
//!
//! The list is short on purpose. A unit on it waits for hardware, a network or a cloud that a VM does not have, or does
//! from time to time what a machine that lives for years needs. Services that a user may want (ssh, cron, databases) are
//! not on it.

/// Files and bytes of one kind that were taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The kind, for people.
    pub what: &'static str,
    /// Files, links and devices.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

struct Kind {
    what: &'static str,
    documents: bool,
    directories: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    Kind { what: "firmware", documents: false, directories: &["lib/firmware", "usr/lib/firmware"] },
    Kind {
        what: "package caches",
        documents: false,
        directories: &[
            "var/cache/apt",
            "var/lib/apt/lists",
            "var/cache/dnf",
            "var/cache/yum",
            "var/cache/zypp",
            "var/cache/PackageKit",
            "var/lib/snapd/cache",
        ],
    },
    Kind {
        what: "documents and translations",
        documents: true,
        directories: &["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/cache/man"],
    },
];

/// Units of systemd that are masked.
pub const UNITS: &[&str] = &[
    // Wait for a network that is not there.
    "systemd-networkd-wait-online.service",
    "NetworkManager-wait-online.service",
    "ifupdown-wait-online.service",
    // Look for a cloud that says what to do.
    "cloud-init-local.service",
    "cloud-init-main.service",
    "cloud-init-network.service",
    "cloud-init.service",
    "cloud-config.service",
    "cloud-final.service",
    "cloud-init-hotplugd.socket",
    // Wait for hardware, or look after it.
    "systemd-udev-settle.service",
    "lvm2-monitor.service",
    "multipathd.service",
    "mdmonitor.service",
    "smartd.service",
    "smartmontools.service",
    "irqbalance.service",
    "thermald.service",
    "ModemManager.service",
    "bluetooth.service",
    "wpa_supplicant.service",
    "fwupd.service",
    "systemd-rfkill.socket",
    // A keyboard and a screen, and logins on them.
    "keyboard-setup.service",
    "console-setup.service",
    "plymouth-start.service",
    "plymouth-quit-wait.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    // The guest's clock follows the host's.
    "systemd-timesyncd.service",
    "chrony.service",
    "chronyd.service",
    "ntp.service",
    "ntpd.service",
    // Look after a system that lives for years.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "unattended-upgrades.service",
    "dnf-makecache.timer",
    "packagekit.service",
    "fwupd-refresh.timer",
    "snapd.service",
    "snapd.socket",
    "snapd.seeded.service",
    "motd-news.timer",
    "ua-timer.timer",
    "update-notifier-download.timer",
    "update-notifier-motd.timer",
    "man-db.timer",
    "logrotate.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];

/// The directories whose content goes.
pub fn directories(documents: bool) -> impl Iterator<Item = &'static str> {
    kinds(documents).flat_map(|kind| kind.directories.iter().copied())
}

/// Sums by kind, from lines of `FILES BYTES DIRECTORY`; other lines are not believed.
pub fn sums<'a>(lines: impl Iterator<Item = &'a str>, documents: bool) -> Vec<Dropped> {
    let mut all: Vec<Dropped> = Vec::new();
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(files), Some(bytes)) = (number(), number()) else { continue };
        let Some(directory) = words.next() else { continue };
        let Some(kind) = kinds(documents).find(|kind| kind.directories.contains(&directory)) else { continue };
        match all.iter_mut().find(|dropped| dropped.what == kind.what) {
            Some(dropped) => {
                dropped.files = dropped.files.saturating_add(files);
                dropped.bytes = dropped.bytes.saturating_add(bytes);
            }
            None => all.push(Dropped { what: kind.what, files, bytes }),
        }
    }
    all
}

fn kinds(documents: bool) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| documents || !kind.documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_by_kind_and_of_what_was_asked_for() {
        let lines = [
            "2 300 usr/lib/firmware",
            "1 10 var/cache/apt",
            "1 5 var/lib/apt/lists",
            "x y var/cache/apt",
            "7 7 usr/share/doc",
        ];
        let sums = sums(lines.into_iter(), false);
        let dropped = |what, files, bytes| Dropped { what, files, bytes };
        assert_eq!(sums, [dropped("firmware", 2, 300), dropped("package caches", 2, 15)]);
    }

    #[test]
    fn documents_go_only_if_they_are_asked_for() {
        assert!(!directories(false).any(|directory| directory == "usr/share/doc"));
        assert!(directories(true).any(|directory| directory == "usr/share/doc"));
    }

    #[test]
    fn each_unit_is_named_once() {
        let mut units = UNITS.to_vec();
        units.sort_unstable();
        units.dedup();
        assert_eq!(units.len(), UNITS.len());
    }
}

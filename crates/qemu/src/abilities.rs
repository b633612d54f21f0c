//! What one QEMU can do: this differs between releases.

use std::os::fd::AsRawFd;
use std::path::Path;

use crate::ask::print;
use crate::descriptors::STATE_SET;
use crate::error::QemuError;
use crate::monitor::StateUri;

/// The first QEMU that maps a read-only file privately and reads states from `file:`.
const READ_ONLY_TEMPLATES_SINCE: (u32, u32) = (8, 2);

/// The first QEMU whose machine can do without a controller for keyboard and mouse.
const WITHOUT_KEYBOARD_SINCE: (u32, u32) = (7, 0);

/// What differs between QEMU releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A private mapping of a read-only memory file (`rom=off`), and `file:` to read and write device
    /// states: QEMU 8.2 and newer. Older ones need a file that the user can write to.
    pub read_only_templates: bool,
    /// A machine without a controller for keyboard and mouse (`i8042=off`): QEMU 7.0 and newer. Older ones end when they
    /// are told so.
    pub without_keyboard: bool,
}

impl Abilities {
    /// Those of the newest release.
    pub const ALL: Self = Self { read_only_templates: true, without_keyboard: true };

    /// What this QEMU can do, from its version.
    ///
    /// # Errors
    /// When it cannot be started or prints no version.
    pub fn of(qemu: &Path) -> Result<Self, QemuError> {
        Ok(Self::of_version(version_of(qemu)?))
    }

    fn of_version(version: (u32, u32)) -> Self {
        Self {
            read_only_templates: version >= READ_ONLY_TEMPLATES_SINCE,
            without_keyboard: version >= WITHOUT_KEYBOARD_SINCE,
        }
    }

    /// How the monitor gets the device state. This process must keep it open until QEMU has it.
    pub fn state_uri(self, state: &impl AsRawFd) -> StateUri {
        match self.read_only_templates {
            true => StateUri::FdSet(STATE_SET),
            false => StateUri::Fd(state.as_raw_fd()),
        }
    }
}

/// The release of this QEMU.
pub(crate) fn version_of(qemu: &Path) -> Result<(u32, u32), QemuError> {
    let said = print(qemu, &["--version"])?;
    version(&said.lines).ok_or_else(|| {
        let text = [&said.lines, &said.complaints].map(|text| text.trim()).join(" ");
        QemuError::new(format!("{} --version says '{}'", qemu.display(), text.trim()))
    })
}

/// Major and minor number in `QEMU emulator version 10.0.2 (Debian …)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split("version ").nth(1)?.split_whitespace().next()?;
    let mut numbers = word.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_distributions_are_understood() {
        let read = |text| version(text).map(Abilities::of_version);
        let able = |read_only_templates, without_keyboard| Some(Abilities { read_only_templates, without_keyboard });
        assert_eq!(read("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some(Abilities::ALL));
        assert_eq!(read("QEMU emulator version 8.2.0 (qemu-kvm-8.2.0-11.el9)"), Some(Abilities::ALL));
        assert_eq!(read("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), able(false, true));
        assert_eq!(read("QEMU emulator version 6.2.0 (qemu-kvm-6.2.0-53.module+el8.10.0)"), able(false, false));
        assert_eq!(read("no such thing"), None);
    }
}

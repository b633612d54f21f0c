//! File systems an image can have.

/// Type of the image's root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FsType {
    Squashfs,
    Erofs,
    Ext4,
    Xfs,
    Btrfs,
}

/// Bytes from the start of a disk that hold every super block.
pub(super) const SUPER_BLOCK_AREA: usize = 0x10400;

impl FsType {
    const ALL: [Self; 5] = [Self::Squashfs, Self::Erofs, Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The type the kernel calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Recognises a file system by its magic number.
    pub fn detect(start: &[u8]) -> Option<Self> {
        let has_magic =
            |kind: Self| start.get(kind.magic_offset()..).is_some_and(|rest| rest.starts_with(kind.magic()));
        Self::ALL.into_iter().find(|&kind| has_magic(kind))
    }

    fn magic_offset(self) -> usize {
        match self {
            Self::Squashfs | Self::Xfs => 0,
            Self::Erofs => 1024,
            Self::Ext4 => 1024 + 56,
            Self::Btrfs => 0x10040,
        }
    }

    fn magic(self) -> &'static [u8] {
        match self {
            Self::Squashfs => b"hsqs",
            Self::Erofs => b"\xe2\xe1\xf5\xe0",
            Self::Ext4 => b"\x53\xef",
            Self::Xfs => b"XFSB",
            Self::Btrfs => b"_BHRfS_M",
        }
    }

    /// Mount options that stop a file system from replaying its log if it was not cleanly
    /// unmounted. The disk is read-only, and a VM must not fail because of how its image was made.
    pub fn read_only_options(self) -> Option<&'static str> {
        match self {
            Self::Squashfs | Self::Erofs => None,
            Self::Ext4 => Some("noload"),
            Self::Xfs => Some("norecovery,nouuid"),
            Self::Btrfs => Some("rescue=nologreplay"),
        }
    }

    /// The UUID as fstab writes it, from the bytes of [`SUPER_BLOCK_AREA`].
    pub fn uuid(self, start: &[u8]) -> Option<String> {
        let at = match self {
            Self::Ext4 => 1024 + 0x68,
            Self::Xfs => 32,
            Self::Btrfs => 0x10020,
            Self::Squashfs | Self::Erofs => return None,
        };
        let digits: String = start.get(at..at + 16)?.iter().map(|byte| format!("{byte:02x}")).collect();
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
        Some(groups.join("-"))
    }

    /// The label, from the bytes of [`SUPER_BLOCK_AREA`].
    pub fn label(self, start: &[u8]) -> Option<String> {
        let (at, len) = match self {
            Self::Ext4 => (1024 + 0x78, 16),
            Self::Xfs => (108, 12),
            Self::Btrfs => (0x1012b, 256),
            Self::Squashfs | Self::Erofs => return None,
        };
        let field = start.get(at..at + len)?;
        let name = field.split(|&byte| byte == 0).next().unwrap_or_default();
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_recognised_by_its_magic_alone() {
        for kind in FsType::ALL {
            let mut disk = vec![0; SUPER_BLOCK_AREA];
            disk[kind.magic_offset()..][..kind.magic().len()].copy_from_slice(kind.magic());
            assert_eq!(FsType::detect(&disk), Some(kind));
            assert_eq!(FsType::from_name(kind.name()), Some(kind));
        }
        assert_eq!(FsType::detect(&[0; SUPER_BLOCK_AREA]), None);
        assert_eq!(FsType::detect(b"hs"), None);
    }
}

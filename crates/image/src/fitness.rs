//! Whether a VM can start from a disk: its content must fit the entry and must not lead QEMU to other files.

use super::entry::ImageEntry;
use super::format::DiskFormat;
use super::probe::{Content, Probe, Qcow2, Vmdk};

/// Why no VM can start from this disk, as the end of the sentence "the disk …"; `None` if a VM can.
pub fn objection(entry: &ImageEntry, probe: &Probe) -> Option<String> {
    if let Some(missing) = probe.missing_bytes() {
        let bytes = if missing == 1 { "byte is" } else { "bytes are" };
        return Some(format!("is truncated: {missing} {bytes} missing at its end; copy or import it again"));
    }
    if let Content::Qcow2(header) = &probe.content
        && let Some(why) = dangerous(header)
    {
        return Some(why);
    }
    let format = entry.format;
    let is_it = match (format, &probe.content) {
        // If a disk boots by itself, its content is a matter for its boot loader.
        (DiskFormat::Raw, content) if entry.boot != super::entry::BootMode::Kit => {
            !matches!(content, Content::Empty | Content::Qcow2(_) | Content::Vdi | Content::Vmdk(_) | Content::Luks)
        }
        // A file system is a raw disk too.
        (DiskFormat::Raw, content) => DiskFormat::of(content).is_some_and(|found| found != DiskFormat::Qcow2),
        (_, content) => DiskFormat::of(content) == Some(format),
    };
    match is_it {
        true => None,
        false if DiskFormat::of(&probe.content).is_some() => {
            Some(format!("holds {} and not what its entry says (format = '{}')", probe.content, format.name()))
        }
        false => Some(no_disk(probe)),
    }
}

/// Why QEMU must not open this disk.
fn dangerous(header: &Qcow2) -> Option<String> {
    let why = if header.has_backing_file {
        "is a layer over another file, which is not allowed: 'qemu-img convert -O qcow2' makes one file of them"
    } else if header.has_data_file {
        "keeps its data in another file, which is not allowed: 'qemu-img convert -O qcow2' makes one file of them"
    } else if header.is_encrypted {
        "is encrypted: 'qemu-img convert' makes an unencrypted copy"
    } else if header.is_corrupt {
        "is marked as damaged: 'qemu-img check -r all' may repair it"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Why a file cannot be the disk of an image, as the end of the sentence "the disk …".
pub fn no_disk(probe: &Probe) -> String {
    let remedy = match probe.content {
        Content::Partitioned(_) => {
            "'spank-vm image import' makes an image of it; or an entry with boot = 'full' boots it as it is"
        }
        Content::Vhd => "'qemu-img convert -O qcow2' makes a disk of it that 'spank-vm image import' takes",
        Content::Luks => "an encrypted disk cannot be used",
        Content::Vmdk(Vmdk::Descriptor) => "the file it names holds the data",
        Content::Qcow2(_) | Content::Vdi | Content::Vmdk(_) | Content::Tar | Content::Sif | Content::Compressed(_) => {
            "'spank-vm image import' makes an image of it"
        }
        _ => "an image is a squashfs, erofs, ext2/3/4, xfs or btrfs file system, raw or as qcow2",
    };
    format!("holds {}: {remedy}", probe.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection_to(format: DiskFormat, head: &[(usize, &[u8])]) -> Option<String> {
        let mut bytes = vec![0; 8192];
        for (at, piece) in head {
            bytes[*at..at + piece.len()].copy_from_slice(piece);
        }
        objection(&ImageEntry::new("x".into(), format), &Probe::of_head(&bytes, bytes.len() as u64))
    }

    #[test]
    fn a_disk_must_be_what_its_entry_says() {
        let squashfs: (usize, &[u8]) = (0, b"hsqs");
        assert_eq!(objection_to(DiskFormat::Squashfs, &[squashfs]), None);
        assert_eq!(objection_to(DiskFormat::Raw, &[squashfs]), None);
        let why = objection_to(DiskFormat::Erofs, &[squashfs]).unwrap();
        assert_eq!(why, "holds a squashfs file system and not what its entry says (format = 'erofs')");
        let why = objection_to(DiskFormat::Raw, &[(0, b"LUKS\xba\xbe")]).unwrap();
        assert_eq!(why, "holds an encrypted disk (LUKS): an encrypted disk cannot be used");
        let why = objection_to(DiskFormat::Raw, &[(512, b"EFI PART")]).unwrap();
        assert!(why.contains("partition table (GPT)") && why.contains("import"), "{why}");
        let why = objection_to(DiskFormat::Raw, &[(0, b"vhdxfile")]).unwrap();
        assert!(why.contains("qemu-img convert"), "import does not take it as it is: {why}");
    }

    #[test]
    fn a_qcow2_disk_that_leads_elsewhere_is_refused() {
        let header: (usize, &[u8]) = (0, b"QFI\xfb\0\0\0\x03");
        assert_eq!(objection_to(DiskFormat::Qcow2, &[header]), None);
        assert!(objection_to(DiskFormat::Raw, &[header]).unwrap().contains("(format = 'raw')"));
        let cases: [((usize, &[u8]), &str); 4] = [
            ((15, b"\x68"), "a layer over another file"),
            ((79, b"\x04"), "data in another file"),
            ((35, b"\x02"), "encrypted"),
            ((79, b"\x02"), "damaged"),
        ];
        for (piece, word) in cases {
            let why = objection_to(DiskFormat::Qcow2, &[header, piece]).unwrap();
            assert!(why.contains(word), "{why}");
        }
    }
}

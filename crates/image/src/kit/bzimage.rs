//! Extracts the kernel from a bzImage.
//!
//! A bzImage unpacks itself when it starts, which costs a guest more than anything else it does
//! under emulation. Its payload is an ELF file that QEMU can start directly, if the kernel was
//! built with a PVH entry.

use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::tool;

/// Magic numbers of the compressions a kernel may use, and the program that undoes each.
const COMPRESSIONS: [(&[u8], &[&str]); 6] = [
    (b"\xfd7zXZ\0", &["xz", "-dc", "--single-stream"]),
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dcq"]),
    (b"\x1f\x8b", &["gzip", "-dcq"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dcq"]),
    (b"BZh", &["bzip2", "-dcq"]),
    (b"\x5d\0\0", &["xz", "--format=lzma", "-dc"]),
];

/// The uncompressed kernel inside a bzImage.
///
/// # Errors
/// The file is no bzImage, its decompressor is missing, or the result cannot be started by PVH.
pub(super) fn extract_vmlinux(image: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (payload, unpacked_len) = payload(image)?;
    let tool = COMPRESSIONS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, tool)| tool);
    let kernel = match tool {
        Some([program, args @ ..]) => tool::filter(Command::new(program).args(args.iter()), payload)?,
        _ if payload.starts_with(b"\x7fELF") => payload.to_vec(),
        _ => bail!("the kernel is compressed in a way this program does not know"),
    };
    ensure!(
        kernel.len() == unpacked_len,
        "the kernel unpacks to {} bytes instead of {unpacked_len}: is the package damaged?",
        kernel.len()
    );
    ensure!(has_pvh_entry(&kernel), "the kernel has no PVH entry (CONFIG_PVH), by which QEMU starts it");
    Ok(kernel)
}

/// The compressed kernel and the length it unpacks to, by the boot protocol's setup header.
fn payload(image: &[u8]) -> anyhow::Result<(&[u8], usize)> {
    let byte = |at: usize| image.get(at).copied().map(usize::from);
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let header = || {
        let is_bzimage = image.get(0x202..0x206)? == b"HdrS" && word(0x206)? & 0xffff >= 0x0208;
        // 0 means 4, for compatibility with boot sectors of the nineties.
        let setup_sectors = byte(0x1f1).filter(|&count| count > 0).unwrap_or(4);
        let start = (setup_sectors + 1) * 512 + word(0x248)?;
        let payload = image.get(start..)?.get(..word(0x24c)?)?;
        // The kernel's own build appends the unpacked length.
        let len = payload.last_chunk().map(|len| u32::from_le_bytes(*len) as usize)?;
        is_bzimage.then_some((payload, len))
    };
    header().context("the kernel is not an x86 bzImage")
}

/// Whether a note of the Xen kind gives an entry point: owner "Xen", type 18 (PHYS32_ENTRY).
fn has_pvh_entry(kernel: &[u8]) -> bool {
    let note: Vec<u8> =
        [4u32.to_le_bytes(), 8u32.to_le_bytes(), 18u32.to_le_bytes(), *b"Xen\0"].into_iter().flatten().collect();
    let short: Vec<u8> =
        [4u32.to_le_bytes(), 4u32.to_le_bytes(), 18u32.to_le_bytes(), *b"Xen\0"].into_iter().flatten().collect();
    kernel.starts_with(b"\x7fELF") && kernel.windows(note.len()).any(|window| window == note || window == short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.resize(5000, 0x90);
        kernel.extend([4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]);
        kernel.extend(b"Xen\0");
        kernel
    }

    fn bzimage(packed: &[u8], unpacked_len: usize) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(packed);
        image.extend((unpacked_len as u32).to_le_bytes());
        image.extend(b"signature");
        image
    }

    #[test]
    fn a_kernel_comes_out_as_it_went_in() {
        let packed = tool::filter(Command::new("gzip").arg("-c"), &kernel()).unwrap();
        assert_eq!(extract_vmlinux(&bzimage(&packed, kernel().len())).unwrap(), kernel());
    }

    #[test]
    fn what_is_no_kernel_or_not_whole_is_refused() {
        let told = |image: &[u8]| extract_vmlinux(image).unwrap_err().to_string();
        assert!(told(b"MZ").contains("not an x86 bzImage"));
        assert!(told(&bzimage(b"?!", 2)).contains("compressed in a way"));
        let packed = tool::filter(Command::new("gzip").arg("-c"), &kernel()).unwrap();
        assert!(told(&bzimage(&packed, 7)).contains("instead of 7"));
        let without_entry = tool::filter(Command::new("gzip").arg("-c"), b"\x7fELF").unwrap();
        assert!(told(&bzimage(&without_entry, 4)).contains("PVH"));
    }
}

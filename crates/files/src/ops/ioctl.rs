//! The few ioctls that are about a file and not about a device: its flags (`lsattr`, `chattr`), and its project.

use proto::files::FILE_IOCTLS;

use super::super::share::Share;
use super::super::sys::{Errno, Result, io};
use super::super::wire::{Args, Reply};

/// The command, what it takes and what it gives, in bytes, and whether it changes the file.
const KNOWN: [(u32, usize, usize, bool); 4] = [
    // FS_IOC_GETFLAGS. The number says 8 bytes, but 4 are meant.
    (FILE_IOCTLS[0], 0, 4, false),
    // FS_IOC_SETFLAGS
    (FILE_IOCTLS[1], 4, 0, true),
    // FS_IOC_FSGETXATTR
    (FILE_IOCTLS[2], 0, 28, false),
    // FS_IOC_FSSETXATTR
    (FILE_IOCTLS[3], 28, 0, true),
];

/// IOCTL.
pub(crate) fn ioctl(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let handle = share.handles.get(args.u64()?, node)?;
    args.skip(4)?;
    let command = args.u32()?;
    args.skip(8)?;
    let (in_size, out_size) = (args.u32()? as usize, args.u32()? as usize);
    let known = KNOWN.iter().find(|known| known.0 == command).ok_or(Errno(libc::ENOTTY))?;
    let (_, takes, gives, changes) = *known;
    if changes {
        share.writable()?;
    }
    // The guest may give or want more, as the number of the command says.
    if in_size < takes || out_size < gives || out_size > size_of::<[u64; 4]>() {
        return Err(Errno(libc::EINVAL));
    }
    let mut bytes = [0; size_of::<[u64; 4]>()];
    bytes[..takes].copy_from_slice(args.data(takes)?);
    let mut data = [0; 4];
    for (word, bytes) in data.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    let result = io::ioctl(handle.fd(), command, &mut data)?;
    reply.u32(result as u32);
    [0; 3].iter().for_each(|word| reply.u32(*word));
    let start = reply.len();
    data.iter().for_each(|word| reply.push(&word.to_ne_bytes()));
    reply.truncate(start + out_size);
    Ok(())
}

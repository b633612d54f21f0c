//! What the runner tells the server. Both are one program: there is no version.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::error::ServeError;

const SHARES: u8 = 1;
const MEMORY: u8 = 2;

/// Largest message in bytes.
const MESSAGE_MAX: usize = 1024 * 1024;

/// One share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The directory or file on the host. Links in it are followed as the user.
    pub path: PathBuf,
    /// Whether everything that writes is refused.
    pub read_only: bool,
}

/// All shares of the VM. A share's number on the wire is its place here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares(
    /// In the order of their numbers.
    pub Vec<Share>,
);

/// A part of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where the guest sees it: a guest-physical address.
    pub guest: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where QEMU has it: an address in its process.
    pub host: u64,
}

/// Where the guest's memory is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// QEMU's process.
    pub pid: u32,
    /// Its memory that is the guest's RAM, and nothing else of it.
    pub regions: Vec<Region>,
}

impl Shares {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for share in &self.0 {
            let path = share.path.as_os_str().as_bytes();
            body.push(u8::from(share.read_only));
            body.extend_from_slice(&(path.len() as u32).to_le_bytes());
            body.extend_from_slice(path);
        }
        message(SHARES, &body)
    }

    /// Reads the first message.
    ///
    /// # Errors
    /// [`ServeError::Control`] if there is none or it is another.
    pub fn read(from: &mut impl Read) -> Result<Self, ServeError> {
        let (kind, body) = read(from).map_err(ServeError::Control)?;
        let shares = if kind == SHARES { Self::parse(&body) } else { None };
        shares.ok_or_else(|| ServeError::Control(io::ErrorKind::InvalidData.into()))
    }

    fn parse(mut body: &[u8]) -> Option<Self> {
        let mut shares = Vec::new();
        while let Some(([read_only, l0, l1, l2, l3], rest)) = body.split_first_chunk() {
            let (path, rest) = rest.split_at_checked(u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize)?;
            shares.push(Share { path: OsString::from_vec(path.to_vec()).into(), read_only: *read_only != 0 });
            body = rest;
        }
        body.is_empty().then_some(Self(shares))
    }
}

impl Memory {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.pid.to_le_bytes().to_vec();
        for region in &self.regions {
            body.extend([region.guest, region.len, region.host].iter().flat_map(|word| word.to_le_bytes()));
        }
        message(MEMORY, &body)
    }

    /// Waits for the second message; `None` when the runner has closed its end.
    ///
    /// # Errors
    /// [`ServeError::Control`] if it is another message.
    pub fn read(from: &mut impl Read) -> Result<Option<Self>, ServeError> {
        let (kind, body) = match read(from) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(ServeError::Control)?,
        };
        let memory = if kind == MEMORY { Self::parse(&body) } else { None };
        memory.map(Some).ok_or_else(|| ServeError::Control(io::ErrorKind::InvalidData.into()))
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (pid, body) = body.split_first_chunk::<4>()?;
        let (regions, rest) = body.as_chunks::<24>();
        let word = |region: &[u8; 24], at: usize| region[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
        let region = |r: &[u8; 24]| Some(Region { guest: word(r, 0)?, len: word(r, 8)?, host: word(r, 16)? });
        let regions = regions.iter().map(region).collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Self { pid: u32::from_le_bytes(*pid), regions })
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], &[kind], body].concat()
}

fn read(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [l0, l1, l2, l3, kind] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body)?;
    Ok((kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_memory_survive_the_way_to_the_server() {
        let share = |path: &[u8], read_only| Share { path: OsString::from_vec(path.to_vec()).into(), read_only };
        let shares = Shares(vec![share(b"/home/\xff,:\n u", false), share(b"/", true)]);
        let region = |guest| Region { guest, len: 1 << 20, host: 0x7f00_0000_0000 };
        let memory = Memory { pid: 42, regions: vec![region(0), region(1 << 32)] };
        let bytes = [shares.encode(), memory.encode()].concat();
        let mut from = &bytes[..];
        assert_eq!(Shares::read(&mut from).unwrap(), shares);
        assert_eq!(Memory::read(&mut from).unwrap(), Some(memory));
        assert_eq!(Memory::read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_message_that_is_cut_or_of_another_kind_is_an_error() {
        let shares = Shares(vec![Share { path: "/home".into(), read_only: true }]).encode();
        assert!(Shares::read(&mut &shares[..shares.len() - 1]).is_err());
        assert!(Memory::read(&mut &shares[..]).is_err());
        assert!(Shares::read(&mut &[][..]).is_err());
        assert!(Shares::read(&mut &message(SHARES, &[0, 9, 0, 0, 0, 1])[..]).is_err());
        assert!(Shares::read(&mut &[0xff; 64][..]).is_err());
    }
}

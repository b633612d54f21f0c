//! What a guest must know of its network device.

use super::ProtoError;
use super::payload::Reader;

/// The network device of a VM and its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Longest packet in bytes; 0 leaves it to the guest.
    pub mtu: u16,
    /// IPv4.
    pub v4: Option<Inet<4>>,
    /// IPv6.
    pub v6: Option<Inet<16>>,
}

/// One more address of a VM whose network device is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoreAddresses {
    /// IPv4.
    pub v4: Inet<4>,
    /// IPv6.
    pub v6: Inet<16>,
}

/// An address of a family whose addresses have `N` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inet<const N: usize> {
    /// The address.
    pub address: [u8; N],
    /// Bits of it that name the network: 1 to `8 * N`.
    pub prefix: u8,
    /// Who leads to all other networks.
    pub gateway: Option<[u8; N]>,
}

impl Interface {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.mac);
        out.extend(self.mtu.to_le_bytes());
        put_inet(self.v4.as_ref(), out);
        put_inet(self.v6.as_ref(), out);
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        Ok(Self { mac: r.array()?, mtu: r.u16()?, v4: inet(r)?, v6: inet(r)? })
    }
}

impl MoreAddresses {
    pub(super) fn encode<'a>(&self, out: &'a mut Vec<u8>) -> &'a [u8] {
        put_inet(Some(&self.v4), out);
        put_inet(Some(&self.v6), out);
        out
    }

    pub(super) fn parse(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        match (inet(r)?, inet(r)?) {
            (Some(v4), Some(v6)) => Ok(Self { v4, v6 }),
            _ => Err(r.wrong("an address is missing")),
        }
    }
}

fn put_inet<const N: usize>(inet: Option<&Inet<N>>, out: &mut Vec<u8>) {
    out.push(u8::from(inet.is_some()));
    let Some(inet) = inet else { return };
    out.extend(inet.address);
    out.push(inet.prefix);
    out.push(u8::from(inet.gateway.is_some()));
    out.extend(inet.gateway.into_iter().flatten());
}

fn inet<const N: usize>(r: &mut Reader<'_>) -> Result<Option<Inet<N>>, ProtoError> {
    if !flag(r)? {
        return Ok(None);
    }
    let (address, prefix) = (r.array()?, r.u8()?);
    if !(1..=8 * N).contains(&usize::from(prefix)) {
        return Err(r.wrong("no such prefix length"));
    }
    let gateway = if flag(r)? { Some(r.array()?) } else { None };
    Ok(Some(Inet { address, prefix, gateway }))
}

fn flag(r: &mut Reader<'_>) -> Result<bool, ProtoError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.wrong("a flag is 0 or 1")),
    }
}

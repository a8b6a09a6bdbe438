//! A checked view of an IPv4 packet (RFC 791).

use std::net::Ipv4Addr;

use super::checksum::Sum;

/// The length of a header without options.
pub const IPV4_HEADER_LEN: usize = 20;

/// A transport that the data plane looks into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Icmp,
    Tcp,
    Udp,
    Other(u8),
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            other => Self::Other(other),
        }
    }
}

impl From<Protocol> for u8 {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Other(other) => other,
        }
    }
}

/// Why bytes are no IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4Error {
    #[error("IP version {0}")]
    Version(u8),
    #[error("the header is cut short")]
    Header,
    #[error("the total length is {total} in {have} bytes")]
    Length { total: usize, have: usize },
}

/// A packet whose version, header length and total length are right for the bytes that hold it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<'a> {
    /// Exactly the packet: what follows its total length is cut off.
    packet: &'a [u8],
    header_len: usize,
}

impl<'a> Ipv4View<'a> {
    /// Checks `bytes`, which may be longer than the packet in them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => {}
            Some(version) => return Err(Ipv4Error::Version(version)),
            None => return Err(Ipv4Error::Header),
        }
        let header_len = usize::from(bytes[0] & 0x0f) * 4;
        if header_len < IPV4_HEADER_LEN || bytes.len() < header_len {
            return Err(Ipv4Error::Header);
        }
        let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if total < header_len || total > bytes.len() {
            return Err(Ipv4Error::Length { total, have: bytes.len() });
        }
        Ok(Self { packet: &bytes[..total], header_len })
    }

    /// The whole packet.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The header with its options.
    pub fn header(&self) -> &'a [u8] {
        &self.packet[..self.header_len]
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_len..]
    }

    /// The packet's total length.
    pub fn total_len(&self) -> usize {
        self.packet.len()
    }

    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.packet[12], self.packet[13], self.packet[14], self.packet[15])
    }

    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.packet[16], self.packet[17], self.packet[18], self.packet[19])
    }

    pub fn protocol(&self) -> Protocol {
        self.packet[9].into()
    }

    /// Whether it is a part of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & 0x3fff != 0
    }

    /// Whether it is a fragment other than the first, so that it holds no transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.flags_and_offset() & 0x1fff != 0
    }

    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & 0x4000 != 0
    }

    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.packet[6], self.packet[7]])
    }
}

/// Writes a header without options at the beginning of `out`: no fragment, TTL 64.
pub(super) fn write_header(out: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol, total: usize) {
    let header = &mut out[..IPV4_HEADER_LEN];
    header.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol.into(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    refresh_checksum(header);
}

/// The source and destination in a header that has been checked.
pub(super) fn addresses(header: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    (
        Ipv4Addr::new(header[12], header[13], header[14], header[15]),
        Ipv4Addr::new(header[16], header[17], header[18], header[19]),
    )
}

/// Computes a header's checksum anew.
pub(super) fn refresh_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = Sum::default().add(header).finish();
    header[10..12].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(total: u16, first: u8) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        write_header(&mut bytes, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Protocol::Udp, usize::from(total));
        bytes[0] = first;
        bytes
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert_eq!(Ipv4View::parse(&packet(41, 0x45)).err(), Some(Ipv4Error::Length { total: 41, have: 40 }));
        assert_eq!(Ipv4View::parse(&packet(19, 0x45)).err(), Some(Ipv4Error::Length { total: 19, have: 40 }));
        assert_eq!(Ipv4View::parse(&packet(40, 0x44)).err(), Some(Ipv4Error::Header));
        assert_eq!(Ipv4View::parse(&packet(40, 0x4f)).err(), Some(Ipv4Error::Header));
        assert_eq!(Ipv4View::parse(&packet(40, 0x65)).err(), Some(Ipv4Error::Version(6)));
        assert_eq!(Ipv4View::parse(&[]).err(), Some(Ipv4Error::Header));
    }

    #[test]
    fn what_follows_the_total_length_is_no_part_of_the_packet() {
        let bytes = packet(30, 0x45);
        let view = Ipv4View::parse(&bytes).expect("a packet");
        assert_eq!((view.total_len(), view.payload().len(), view.protocol()), (30, 10, Protocol::Udp));
        assert_eq!((view.source(), view.destination()), (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST));
        assert!(view.dont_fragment() && !view.is_fragment());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), forced: bool) {
            let mut bytes = bytes;
            if let (true, Some(first)) = (forced, bytes.first_mut()) {
                *first = 0x40 | *first & 0x0f;
            }
            if let Ok(view) = Ipv4View::parse(&bytes) {
                prop_assert_eq!(view.header().len() + view.payload().len(), view.total_len());
                let _ = (view.source(), view.destination(), view.protocol(), view.is_fragment(), view.is_later_fragment());
            }
        }
    }
}

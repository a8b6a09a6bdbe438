//! UDP over IPv4 (RFC 768), as far as the resolver needs it.

use std::net::SocketAddrV4;

use super::checksum::Sum;
use super::ipv4::{self, IPV4_HEADER_LEN, Ipv4View, Protocol};

/// The IPv4 and the UDP header in front of a payload.
pub const UDP_HEADERS_LEN: usize = IPV4_HEADER_LEN + 8;

/// A UDP datagram in an IPv4 packet.
#[derive(Debug, Clone, Copy)]
pub struct UdpView<'a> {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub payload: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// The datagram in `packet`, if it is one whole datagram with a right length. Its checksum is not looked at.
    pub fn parse(packet: &Ipv4View<'a>) -> Option<Self> {
        if packet.protocol() != Protocol::Udp || packet.is_fragment() {
            return None;
        }
        let (&[s0, s1, d0, d1, l0, l1, _, _], _) = packet.payload().split_first_chunk()?;
        let payload = packet.payload().get(8..usize::from(u16::from_be_bytes([l0, l1])))?;
        Some(Self {
            source: SocketAddrV4::new(packet.source(), u16::from_be_bytes([s0, s1])),
            destination: SocketAddrV4::new(packet.destination(), u16::from_be_bytes([d0, d1])),
            payload,
        })
    }
}

/// Writes a whole packet into `out` and returns its length; `None` if it does not fit there or in 65,535 bytes.
pub fn write_udp(out: &mut [u8], source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Option<usize> {
    let total = UDP_HEADERS_LEN + payload.len();
    let len = u16::try_from(total).ok()? - IPV4_HEADER_LEN as u16;
    let out = out.get_mut(..total)?;
    ipv4::write_header(out, *source.ip(), *destination.ip(), Protocol::Udp, total);
    let datagram = &mut out[IPV4_HEADER_LEN..];
    datagram[..2].copy_from_slice(&source.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
    datagram[8..].copy_from_slice(payload);
    let sum = Sum::pseudo_header(*source.ip(), *destination.ip(), Protocol::Udp.into(), usize::from(len))
        .add(datagram)
        .finish_for(Protocol::Udp);
    datagram[6..8].copy_from_slice(&sum);
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends() -> (SocketAddrV4, SocketAddrV4) {
        (SocketAddrV4::new([169, 254, 240, 53].into(), 53), SocketAddrV4::new([10, 240, 0, 7].into(), 40_000))
    }

    #[test]
    fn a_length_beyond_the_packet_is_no_datagram() {
        let (mut bytes, (from, to)) = ([0; 64], ends());
        let len = write_udp(&mut bytes, from, to, b"hello").expect("fits");
        bytes[25] += 1;
        assert!(UdpView::parse(&Ipv4View::parse(&bytes[..len]).expect("a packet")).is_none());
        assert_eq!(write_udp(&mut bytes, from, to, &[0; 40]), None);
    }

    proptest! {
        #[test]
        fn a_written_datagram_reads_back_with_a_right_checksum(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (mut bytes, (from, to)) = ([0; 200], ends());
            let len = write_udp(&mut bytes, from, to, &payload).expect("fits");
            let packet = Ipv4View::parse(&bytes[..len]).expect("a packet");
            let view = UdpView::parse(&packet).expect("a datagram");
            prop_assert_eq!((view.source, view.destination, view.payload), (from, to, &payload[..]));
            let sum = Sum::pseudo_header(*from.ip(), *to.ip(), 17, len - 20).add(packet.payload());
            prop_assert_eq!(sum.finish(), [0, 0]);
        }
    }
}

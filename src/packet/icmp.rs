//! ICMP errors to a container (RFC 792, RFC 1812 §4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::checksum::Sum;
use super::ipv4::{self, IPV4_HEADER_LEN, Ipv4View, Protocol, addresses};

/// The longest error: the header of the packet at fault with options, and 8 bytes of what follows (RFC 792).
pub const ICMP_ERROR_LEN_MAX: usize = IPV4_HEADER_LEN + 8 + 60 + 8;

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreachable {
    Net,
    Host,
    Port,
    /// It is longer than the path's MTU (RFC 1191).
    FragmentationNeeded {
        mtu_bytes: u16,
    },
    /// A rule forbids it (RFC 1812 §5.2.7.1).
    Prohibited,
}

impl Unreachable {
    fn code_and_mtu(self) -> (u8, u16) {
        match self {
            Self::Net => (0, 0),
            Self::Host => (1, 0),
            Self::Port => (3, 0),
            Self::FragmentationNeeded { mtu_bytes } => (4, mtu_bytes),
            Self::Prohibited => (13, 0),
        }
    }
}

/// Writes the error about `original`, from `source`, into `out`, and returns its length.
///
/// `None` where no error may be sent (RFC 1122 §3.2.2): about an ICMP error, a later fragment, or a packet whose source or
/// destination is no single host.
pub fn write_unreachable(
    out: &mut [u8; ICMP_ERROR_LEN_MAX],
    why: Unreachable,
    original: &Ipv4View<'_>,
    source: Ipv4Addr,
) -> Option<usize> {
    if original.is_later_fragment() || !is_host(original.source()) || !is_host(original.destination()) {
        return None;
    }
    if original.protocol() == Protocol::Icmp && !is_icmp_query(original.payload()) {
        return None;
    }
    let quoted = &original.packet()[..original.total_len().min(original.header().len() + 8)];
    let total = IPV4_HEADER_LEN + 8 + quoted.len();
    ipv4::write_header(out, source, original.source(), Protocol::Icmp, total);
    let message = &mut out[IPV4_HEADER_LEN..total];
    let (code, mtu) = why.code_and_mtu();
    let [m0, m1] = mtu.to_be_bytes();
    message[..8].copy_from_slice(&[3, code, 0, 0, 0, 0, m0, m1]);
    message[8..].copy_from_slice(quoted);
    let sum = Sum::default().add(message).finish();
    message[2..4].copy_from_slice(&sum);
    Some(total)
}

/// What an error says of a packet that its receiver had sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    pub why: Unreachable,
    pub protocol: Protocol,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    /// What follows the ports: TCP's sequence number.
    pub sequence: u32,
}

/// Reads an error about a packet with ports; `None` if it is none, is cut short, or its checksum is wrong.
///
/// Anybody may have made up what it quotes.
pub fn read_unreachable(packet: &Ipv4View<'_>) -> Option<Reported> {
    let message = packet.payload();
    if packet.protocol() != Protocol::Icmp || packet.is_fragment() || Sum::default().add(message).finish() != [0, 0] {
        return None;
    }
    let (&[kind, code, _, _, _, _, m0, m1], quoted) = message.split_first_chunk()?;
    let why = match (kind, code) {
        (3, 0) => Unreachable::Net,
        (3, 1) => Unreachable::Host,
        (3, 2 | 3) => Unreachable::Port,
        (3, 4) => Unreachable::FragmentationNeeded { mtu_bytes: u16::from_be_bytes([m0, m1]) },
        (3, 9 | 10 | 13) => Unreachable::Prohibited,
        _ => return None,
    };
    let header = quoted.get(..IPV4_HEADER_LEN)?;
    let (source, destination) = addresses(header);
    let transport = quoted.get(usize::from(header[0] & 0x0f) * 4..)?;
    let &[s0, s1, d0, d1, q0, q1, q2, q3] = transport.first_chunk()?;
    (header[0] >> 4 == 4).then_some(Reported {
        why,
        protocol: header[9].into(),
        source: SocketAddrV4::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddrV4::new(destination, u16::from_be_bytes([d0, d1])),
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
    })
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_multicast() || address.is_broadcast() || address.is_unspecified() || address.is_loopback())
}

/// Echo, timestamp and their replies: everything else may be an error, about which no error is sent.
fn is_icmp_query(message: &[u8]) -> bool {
    matches!(message.first(), Some(0 | 8 | 13 | 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: Protocol, destination: Ipv4Addr, icmp_type: u8) -> Vec<u8> {
        let mut bytes = vec![icmp_type; 60];
        ipv4::write_header(&mut bytes, Ipv4Addr::new(10, 240, 0, 1), destination, protocol, 60);
        bytes
    }

    fn error(bytes: &[u8], why: Unreachable) -> Option<Vec<u8>> {
        let mut out = [0; ICMP_ERROR_LEN_MAX];
        let original = Ipv4View::parse(bytes).expect("a packet");
        write_unreachable(&mut out, why, &original, crate::model::RESOLVER).map(|len| out[..len].to_vec())
    }

    #[test]
    fn an_error_quotes_the_header_and_eight_bytes_and_goes_to_the_sender() {
        let original = packet(Protocol::Udp, Ipv4Addr::new(10, 240, 0, 9), 5);
        let bytes = error(&original, Unreachable::FragmentationNeeded { mtu_bytes: 1300 }).expect("an error");
        let view = Ipv4View::parse(&bytes).expect("a packet");
        assert_eq!((view.destination(), view.protocol()), (Ipv4Addr::new(10, 240, 0, 1), Protocol::Icmp));
        assert_eq!(&view.payload()[..2], [3, 4]);
        assert_eq!(&view.payload()[6..8], 1300u16.to_be_bytes());
        assert_eq!(&view.payload()[8..], &original[..28]);
        assert_eq!(Sum::default().add(view.payload()).finish(), [0, 0]);
        assert_eq!(Sum::default().add(view.header()).finish(), [0, 0]);
    }

    #[test]
    fn an_error_reads_back_and_one_that_is_damaged_does_not() {
        let mut original = packet(Protocol::Tcp, Ipv4Addr::new(10, 240, 0, 9), 0);
        original[20..28].copy_from_slice(&[0x9c, 0x40, 0, 80, 1, 2, 3, 4]);
        let why = Unreachable::FragmentationNeeded { mtu_bytes: 1300 };
        let bytes = error(&original, why).expect("an error");
        let read = |bytes: &[u8]| read_unreachable(&Ipv4View::parse(bytes).expect("a packet"));
        let reported = Reported {
            why,
            protocol: Protocol::Tcp,
            source: SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 1), 40_000),
            destination: SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 9), 80),
            sequence: 0x0102_0304,
        };
        assert_eq!(read(&bytes), Some(reported));
        for at in IPV4_HEADER_LEN..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), None);
        }
    }

    #[test]
    fn no_error_answers_an_error_a_broadcast_or_a_later_fragment() {
        let host = Ipv4Addr::new(10, 240, 0, 9);
        assert_eq!(error(&packet(Protocol::Icmp, host, 3), Unreachable::Host), None);
        assert!(error(&packet(Protocol::Icmp, host, 8), Unreachable::Host).is_some());
        assert_eq!(error(&packet(Protocol::Udp, Ipv4Addr::BROADCAST, 0), Unreachable::Host), None);
        assert_eq!(error(&packet(Protocol::Udp, Ipv4Addr::new(224, 0, 0, 1), 0), Unreachable::Host), None);
        let mut later = packet(Protocol::Udp, host, 0);
        later[7] = 9;
        assert_eq!(error(&later, Unreachable::Host), None);
    }
}

//! Partial checksums: what a kernel leaves in a TCP or UDP header for whoever passes the packet on to complete.
//!
//! The field then holds the sum of the pseudo header, and what is left is to add the rest of the packet to it. A partial
//! checksum is wrong as it stands, and whatever completes it makes it right; so that this is done must never be somebody's
//! bare claim. [`partial_checksum`] is the test that both ends of a tunnel put a packet to.

use super::checksum::Sum;
use super::ipv4::{Ipv4View, Protocol};
use super::offload::{Gso, Offload};

const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;

/// Where the checksum stands in a transport's header.
pub(super) fn checksum_offset(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::Tcp => Some(16),
        Protocol::Udp => Some(6),
        Protocol::Icmp | Protocol::Other(_) => None,
    }
}

/// The work that is undone in a packet whose checksum is partial; `None` if it is not.
///
/// It is only in a whole TCP segment or UDP datagram, whose field holds exactly the pseudo header's sum. That is never 0,
/// so a datagram without a checksum has no partial one.
pub(crate) fn partial_checksum(packet: &Ipv4View<'_>) -> Option<Offload> {
    if packet.is_fragment() {
        return None;
    }
    let (start, transport, protocol) = (packet.header().len(), packet.payload(), packet.protocol());
    let (offset, header_len) = (checksum_offset(protocol)?, header_len(protocol, transport)?);
    let sum = Sum::pseudo_header(packet.source(), packet.destination(), protocol.into(), transport.len()).fold();
    (transport[offset..offset + 2] == sum).then_some(Offload {
        gso: Gso::None,
        checksum: Some((start as u16, offset as u16)),
        headers_len: (start + header_len) as u16,
    })
}

/// The length of the header that a whole segment or datagram begins with.
fn header_len(protocol: Protocol, transport: &[u8]) -> Option<usize> {
    if protocol == Protocol::Tcp {
        let len = usize::from(transport.get(..TCP_HEADER_LEN)?[12] >> 4) * 4;
        return (TCP_HEADER_LEN..=transport.len()).contains(&len).then_some(len);
    }
    let header = transport.get(..UDP_HEADER_LEN)?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (len == transport.len()).then_some(UDP_HEADER_LEN)
}

/// Adds what begins at `start` to the sum that the field at `offset` of it holds already.
///
/// Both places have been checked, and so has the IPv4 header in front of them.
pub(crate) fn complete_checksum(packet: &mut [u8], start: u16, offset: u16) {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let sum = Sum::default().add(&packet[start..]).finish_for(packet[9].into());
    packet[start + offset..][..2].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::super::ipv4;
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const HOSTS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 240, 0, 1), Ipv4Addr::new(10, 240, 0, 2));

    /// A packet without IP options, whose checksum is partial if its transport has one.
    fn packet(protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let header_len = if protocol == Protocol::Udp { UDP_HEADER_LEN } else { TCP_HEADER_LEN };
        let total = 20 + header_len + payload.len();
        let mut bytes = vec![0; total];
        ipv4::write_header(&mut bytes, HOSTS.0, HOSTS.1, protocol, total);
        bytes[20 + header_len..].copy_from_slice(payload);
        let len = total - 20;
        if protocol == Protocol::Udp {
            bytes[24..26].copy_from_slice(&(len as u16).to_be_bytes());
        } else {
            bytes[32] = 0x50;
        }
        if let Some(at) = checksum_offset(protocol) {
            let sum = Sum::pseudo_header(HOSTS.0, HOSTS.1, protocol.into(), len).fold();
            bytes[20 + at..22 + at].copy_from_slice(&sum);
        }
        bytes
    }

    fn undone(bytes: &[u8]) -> Option<Offload> {
        partial_checksum(&Ipv4View::parse(bytes).expect("a packet"))
    }

    #[test]
    fn only_a_whole_segment_or_datagram_has_a_partial_checksum() {
        for (protocol, place, headers_len) in [(Protocol::Tcp, (20, 16), 40), (Protocol::Udp, (20, 6), 28)] {
            let work = Offload { gso: Gso::None, checksum: Some(place), headers_len };
            assert_eq!(undone(&packet(protocol, b"payload")), Some(work));
            assert_eq!(undone(&packet(protocol, b"")), Some(work));
            let mut fragment = packet(protocol, b"payload");
            fragment[6] = 0x20;
            assert_eq!(undone(&fragment), None);
        }
        for protocol in [Protocol::Icmp, Protocol::Other(132)] {
            assert_eq!(undone(&packet(protocol, b"payload")), None);
        }
        let mut none = packet(Protocol::Udp, b"payload");
        none[26..28].fill(0);
        assert_eq!(undone(&none), None);
        let mut shorter = packet(Protocol::Udp, b"payload");
        shorter[25] -= 1;
        assert_eq!(undone(&shorter), None);
        for data_offset in [0x40, 0x80] {
            let mut header = packet(Protocol::Tcp, b"payload");
            header[32] = data_offset;
            assert_eq!(undone(&header), None);
        }
    }

    #[test]
    fn ip_options_move_the_place() {
        let mut bytes = packet(Protocol::Tcp, b"payload");
        bytes.splice(20..20, [1; 4]);
        bytes[0] = 0x46;
        bytes[3] += 4;
        let work = undone(&bytes).expect("partial");
        assert_eq!((work.checksum, work.headers_len), (Some((24, 16)), 44));
    }

    proptest! {
        #[test]
        fn a_completed_checksum_is_right_and_partial_no_more_but_for_a_payload_that_sums_up_to_nothing(
            tcp: bool, payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mut bytes = packet(protocol, &payload);
            let (start, offset) = undone(&bytes).and_then(|work| work.checksum).expect("partial");
            complete_checksum(&mut bytes, start, offset);
            let transport = &bytes[20..];
            let sum = Sum::pseudo_header(HOSTS.0, HOSTS.1, protocol.into(), transport.len()).add(transport);
            prop_assert_eq!(sum.finish(), [0, 0]);
            // Then completing it once more changes nothing.
            if undone(&bytes).is_some() {
                let before = bytes.clone();
                complete_checksum(&mut bytes, start, offset);
                prop_assert_eq!(bytes, before);
            }
        }

        #[test]
        fn a_field_that_holds_anything_else_is_not_partial(tcp: bool, change in 1u16..) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mut bytes = packet(protocol, b"payload");
            let at = 20 + checksum_offset(protocol).expect("it has one");
            let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]) ^ change;
            bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
            prop_assert_eq!(undone(&bytes), None);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 20..80), udp: bool) {
            let len = bytes.len() as u16;
            (bytes[0], bytes[9]) = (0x45 + (bytes[0] & 1), if udp { 17 } else { 6 });
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6..8].fill(0);
            if let Ok(view) = Ipv4View::parse(&bytes) {
                partial_checksum(&view);
            }
        }
    }
}

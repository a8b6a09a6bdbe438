//! TCP over IPv4 (RFC 9293), as far as a gateway writes it itself.

use std::net::SocketAddrV4;

use super::checksum::Sum;
use super::ipv4::{self, IPV4_HEADER_LEN, Ipv4View, Protocol};
use super::offload::{Gso, Offload};

const TCP_HEADER_LEN: usize = 20;
const CHECKSUM_AT: usize = 16;
const FLAG_ACK: u8 = 0x10;

/// The IPv4 and the TCP header in front of a payload, both without options.
pub const TCP_HEADERS_LEN: usize = IPV4_HEADER_LEN + TCP_HEADER_LEN;

/// Leaves the checksum of a whole TCP packet, and its cutting into segments of `segment_bytes`, to whoever passes it on.
///
/// `None` if it is no TCP packet.
pub fn defer_tcp(packet: &mut [u8], segment_bytes: u16) -> Option<Offload> {
    let view = Ipv4View::parse(packet).ok()?;
    let (ip_len, transport) = (view.header().len(), view.payload());
    let tcp_len = usize::from(transport.get(..TCP_HEADER_LEN)?[12] >> 4) * 4;
    if view.protocol() != Protocol::Tcp || tcp_len > transport.len() || tcp_len < TCP_HEADER_LEN {
        return None;
    }
    let sum = Sum::pseudo_header(view.source(), view.destination(), Protocol::Tcp.into(), transport.len()).fold();
    let cut = transport.len() - tcp_len > usize::from(segment_bytes);
    packet[ip_len + CHECKSUM_AT..][..2].copy_from_slice(&sum);
    Some(Offload {
        gso: if cut { Gso::Tcp { segment_bytes, ecn: false } } else { Gso::None },
        checksum: Some((ip_len as u16, CHECKSUM_AT as u16)),
        headers_len: (ip_len + tcp_len) as u16,
    })
}

/// Writes a segment that says nothing but what has come: no bytes, no room for any.
pub fn write_tcp_ack(
    out: &mut [u8; TCP_HEADERS_LEN],
    source: SocketAddrV4,
    destination: SocketAddrV4,
    sequence: u32,
    acknowledged: u32,
) {
    ipv4::write_header(out, *source.ip(), *destination.ip(), Protocol::Tcp, TCP_HEADERS_LEN);
    let tcp = &mut out[IPV4_HEADER_LEN..];
    tcp.fill(0);
    tcp[..2].copy_from_slice(&source.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&destination.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    tcp[12] = (TCP_HEADER_LEN as u8 / 4) << 4;
    tcp[13] = FLAG_ACK;
    let sum = Sum::pseudo_header(*source.ip(), *destination.ip(), Protocol::Tcp.into(), TCP_HEADER_LEN);
    let sum = sum.add(tcp).finish();
    tcp[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Superpacket;

    fn ack() -> [u8; TCP_HEADERS_LEN] {
        let mut packet = [0; TCP_HEADERS_LEN];
        let (from, to) = ("169.254.241.1:40000".parse().expect("one"), "10.240.0.7:80".parse().expect("one"));
        write_tcp_ack(&mut packet, from, to, 7, 9);
        packet
    }

    fn sum_is_right(packet: &[u8]) -> bool {
        let view = Ipv4View::parse(packet).expect("a packet");
        let sum = Sum::pseudo_header(view.source(), view.destination(), 6, view.payload().len());
        sum.add(view.payload()).finish() == [0, 0]
    }

    #[test]
    fn what_is_deferred_comes_out_cut_and_with_right_checksums() {
        assert!(sum_is_right(&ack()));
        let mut packet = [&ack()[..], &[5; 2500]].concat();
        let total = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        let offload = defer_tcp(&mut packet, 1000).expect("TCP");
        let mut packet = Superpacket::new(offload, &mut packet);
        let mut segments = packet.segments().expect("can be cut");
        let mut lens = Vec::new();
        while let Some(segment) = segments.next() {
            assert!(sum_is_right(segment));
            lens.push(segment.len() - TCP_HEADERS_LEN);
        }
        assert_eq!(lens, [1000, 1000, 500]);
    }

    #[test]
    fn what_is_short_is_not_cut_and_what_is_no_tcp_not_deferred() {
        let mut packet = ack();
        packet[36..38].fill(0);
        let offload = defer_tcp(&mut packet, 1000).expect("TCP");
        assert_eq!(offload.gso, Gso::None);
        let mut packet = Superpacket::new(offload, &mut packet);
        assert!(sum_is_right(packet.segments().expect("whole").next().expect("one")));
        let mut udp = ack();
        udp[9] = 17;
        assert_eq!(defer_tcp(&mut udp, 1000), None);
        assert_eq!(defer_tcp(&mut ack()[..30], 1000), None);
        let mut long_header = ack();
        long_header[32] = 0xf0;
        assert_eq!(defer_tcp(&mut long_header, 1000), None);
    }
}

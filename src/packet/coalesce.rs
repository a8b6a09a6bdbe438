//! Joins packets of one flow into one superpacket for a device: the reverse of [`super::split`], and no less exact.
//!
//! A packet is joined only if cutting the superpacket gives its bytes back: same headers, consecutive TCP sequence numbers,
//! payloads of one size but for the last, and a checksum that was right or is partial, since the kernel computes it anew.
//! What a receiver may tell apart (flags, window, options, ECN, TTL) keeps packets apart. Only the identification of a packet
//! that may not be fragmented is free to change: it means nothing then (RFC 6864 §4.1).

use super::checksum::Sum;
use super::ipv4::{self, IPV4_HEADER_LEN, Ipv4View, Protocol};
use super::offload::{Gso, Offload};

const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;
/// The longest packet that IPv4 knows.
const TOTAL_LEN_MAX: usize = 65_535;
/// The most segments in a superpacket: what one vectored write takes.
pub(crate) const SEGMENTS_MAX: usize = 128;

/// What packets must share to be kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    /// Source and destination, in the order of the header.
    addresses: [u8; 8],
    /// The protocol and both ports; `None` for fragments and transports without ports, which may be of any flow.
    transport: Option<(u8, [u8; 4])>,
}

impl Flow {
    /// The flow of a packet.
    pub(crate) fn of(packet: &Ipv4View<'_>) -> Self {
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&packet.packet()[12..IPV4_HEADER_LEN]);
        let transport = match (packet.protocol(), packet.payload().first_chunk()) {
            (Protocol::Tcp | Protocol::Udp, Some(ports)) if !packet.is_fragment() => {
                Some((packet.protocol().into(), *ports))
            }
            _ => None,
        };
        Self { addresses, transport }
    }

    /// Whether packets of the two may belong together, so that one must not overtake the other.
    pub(crate) fn may_be(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && (self.transport == other.transport || self.transport.is_none() || other.transport.is_none())
    }
}

/// Which superpackets a device takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepts {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

/// A packet that others may follow in one superpacket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    protocol: Protocol,
    headers_len: usize,
    /// The payload of every packet but the last.
    segment_len: usize,
    /// Headers and all payloads.
    total_len: usize,
    count: usize,
    /// What was undone in the first packet.
    work: Offload,
    /// Whether the first packet's checksums are known to be right, or partial.
    verified: bool,
    push: bool,
}

/// What became of a packet that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// It is not a continuation. Nothing has changed.
    No,
    /// It was joined, and more may follow.
    More,
    /// It was joined, as the last one.
    Last,
}

impl Joined {
    /// A superpacket of one, if `packet` is one that others may follow on a device that `accepts` them. `work`: what is undone
    /// in it, as [`super::partial_checksum`] says.
    pub(crate) fn begin(packet: &Ipv4View<'_>, work: Offload, accepts: Accepts) -> Option<Self> {
        let (headers_len, payload_len) = measure(packet, accepts)?;
        let protocol = packet.protocol();
        // A pushed segment is the end of what its sender had to say.
        if protocol == Protocol::Tcp && packet.packet()[IPV4_HEADER_LEN + 13] & TCP_PSH != 0 {
            return None;
        }
        Some(Self {
            protocol,
            headers_len,
            segment_len: payload_len,
            total_len: headers_len + payload_len,
            count: 1,
            work,
            verified: false,
            push: false,
        })
    }

    /// How many packets there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The length of the headers, which every packet has and the superpacket has once.
    pub(crate) fn headers_len(&self) -> usize {
        self.headers_len
    }

    /// Takes one more packet with the work that is undone in it, if it continues those before. `first` is the first packet as
    /// it was.
    pub(crate) fn join(&mut self, first: &[u8], packet: &Ipv4View<'_>, work: Offload) -> Join {
        let next = packet.packet();
        let both = Accepts { tcp: true, udp: true };
        let Some((headers_len, payload_len)) = measure(packet, both) else { return Join::No };
        let fits = headers_len == self.headers_len
            && payload_len <= self.segment_len
            && self.total_len + payload_len <= TOTAL_LEN_MAX
            && self.count < SEGMENTS_MAX;
        if !fits || !self.continues(first, next) {
            return Join::No;
        }
        if !self.verified {
            self.verified = checksums_hold(first, self.work);
        }
        if !self.verified || !checksums_hold(next, work) {
            return Join::No;
        }
        self.count += 1;
        self.total_len += payload_len;
        self.push = self.protocol == Protocol::Tcp && next[IPV4_HEADER_LEN + 13] & TCP_PSH != 0;
        let full = payload_len < self.segment_len
            || self.push
            || self.count == SEGMENTS_MAX
            || self.total_len + self.segment_len > TOTAL_LEN_MAX;
        if full { Join::Last } else { Join::More }
    }

    /// Whether the headers of `next` are what cutting would make of the first packet's.
    fn continues(&self, first: &[u8], next: &[u8]) -> bool {
        let identification = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        let dont_fragment = first[6] & 0x40 != 0;
        let ip = first[..2] == next[..2]
            && first[6..10] == next[6..10]
            && first[12..IPV4_HEADER_LEN] == next[12..IPV4_HEADER_LEN]
            && (dont_fragment || identification(next) == identification(first).wrapping_add(self.count as u16));
        if !ip || self.protocol == Protocol::Udp {
            return ip && first[20..24] == next[20..24];
        }
        let (first, next) = (&first[IPV4_HEADER_LEN..self.headers_len], &next[IPV4_HEADER_LEN..self.headers_len]);
        let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let carried = (self.total_len - self.headers_len) as u32;
        first[..4] == next[..4]
            && sequence(next) == sequence(first).wrapping_add(carried)
            && first[8..13] == next[8..13]
            && first[13] == next[13] & !TCP_PSH
            && first[14..16] == next[14..16]
            && first[18..] == next[18..]
    }

    /// Makes the first packet's headers those of the superpacket, and says what is left to the kernel. One packet alone
    /// stays as it is.
    pub(crate) fn finish(&self, headers: &mut [u8]) -> Offload {
        if self.count == 1 {
            return self.work;
        }
        let segment_bytes = self.segment_len as u16;
        headers[2..4].copy_from_slice(&(self.total_len as u16).to_be_bytes());
        let (source, destination) = ipv4::addresses(headers);
        let transport_len = self.total_len - IPV4_HEADER_LEN;
        // What is left in the field is the sum to which the kernel adds the rest.
        let sum = Sum::pseudo_header(source, destination, self.protocol.into(), transport_len).fold();
        let (ip, transport) = headers.split_at_mut(IPV4_HEADER_LEN);
        ipv4::refresh_checksum(ip);
        let (gso, checksum_at) = if self.protocol == Protocol::Tcp {
            transport[13] |= if self.push { TCP_PSH } else { 0 };
            (Gso::Tcp { segment_bytes, ecn: false }, 16)
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            (Gso::Udp { segment_bytes }, 6)
        };
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum);
        let checksum = Some((IPV4_HEADER_LEN as u16, checksum_at as u16));
        Offload { gso, checksum, headers_len: self.headers_len as u16 }
    }
}

/// The lengths of headers and payload of a packet that may be part of a superpacket.
fn measure(packet: &Ipv4View<'_>, accepts: Accepts) -> Option<(usize, usize)> {
    if packet.header().len() != IPV4_HEADER_LEN || packet.is_fragment() {
        return None;
    }
    let transport = packet.payload();
    let transport_len = match packet.protocol() {
        Protocol::Tcp if accepts.tcp => {
            let header = transport.get(..TCP_HEADER_LEN)?;
            // What begins, ends, interrupts or slows down a connection is for its receiver to see alone.
            if header[13] & !(TCP_PSH | TCP_ECE) != TCP_ACK {
                return None;
            }
            Some(usize::from(header[12] >> 4) * 4).filter(|len| *len >= TCP_HEADER_LEN)?
        }
        Protocol::Udp if accepts.udp => {
            let header = transport.get(..UDP_HEADER_LEN)?;
            let whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == transport.len();
            // A datagram without a checksum would get one.
            if !whole || header[6..8] == [0, 0] {
                return None;
            }
            UDP_HEADER_LEN
        }
        _ => return None,
    };
    if transport_len >= transport.len() {
        return None;
    }
    Some((IPV4_HEADER_LEN + transport_len, transport.len() - transport_len))
}

/// Whether the checksums of a TCP or UDP packet without IP options are right, as far as they are not left undone.
fn checksums_hold(packet: &[u8], work: Offload) -> bool {
    let (ip, transport) = packet.split_at(IPV4_HEADER_LEN);
    let transport_holds = || {
        let (source, destination) = ipv4::addresses(ip);
        let sum = Sum::pseudo_header(source, destination, packet[9], transport.len()).add(transport);
        sum.finish() == [0, 0]
    };
    Sum::default().add(ip).finish() == [0, 0] && (work.checksum.is_some() || transport_holds())
}

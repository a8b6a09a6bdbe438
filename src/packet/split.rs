//! Does what the kernel left undone in a packet from a device: completes its checksum, cuts it into segments. The checksums of
//! the segments may be left undone once more, for who comes next ([`super::partial`]).
//!
//! A superpacket is cut in place. Each segment's headers are written in front of its payload, over the tail of the segment
//! before, so a segment is gone when the next one is asked for: whoever wants it encrypts it, or copies it, at once.

use std::ops::Range;

use super::checksum::Sum;
use super::gather::Gather;
use super::ipv4::{self, Ipv4Error, Ipv4View, Protocol};
use super::offload::{Gso, Offload};
use super::partial::{checksum_offset, complete_checksum, partial_checksum};

const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
/// An IPv4 and a TCP header with all their options.
const HEADERS_LEN_MAX: usize = 60 + 60;

/// Both bits: congestion was met. Either of them: the ends understand it.
const ECN_CE: u8 = 0x03;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// A packet as a device gave it: possibly longer than any MTU, possibly without its checksum.
#[derive(Debug)]
pub struct Superpacket<'a> {
    offload: Offload,
    bytes: &'a mut [u8],
}

/// Why a superpacket cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error(transparent)]
    Ipv4(#[from] Ipv4Error),
    #[error("segmentation of kind {0} was never offered")]
    Kind(u8),
    #[error("the packet is not of the transport that is to be cut, or its header is cut short")]
    Transport,
    #[error("segments of no bytes")]
    SegmentLength,
    #[error("the checksum lies outside of the payload")]
    Checksum,
}

impl<'a> Superpacket<'a> {
    /// A packet with the work that `offload` says is undone.
    pub fn new(offload: Offload, bytes: &'a mut [u8]) -> Self {
        Self { offload, bytes }
    }

    /// A whole packet.
    pub fn complete(bytes: &'a mut [u8]) -> Self {
        Self::new(Offload::NONE, bytes)
    }

    /// The undone work.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The bytes as they are.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The packet as it is, to be written to another device. `whole` is the range of all its bytes.
    pub fn gather<'b>(&'b self, whole: &'b Range<u32>) -> Gather<'b> {
        Gather::new(self.offload, self.bytes, std::slice::from_ref(whole))
    }

    /// The packet, checked.
    pub fn view(&self) -> Result<Ipv4View<'_>, Ipv4Error> {
        Ipv4View::parse(self.bytes)
    }

    /// Checks that the undone work fits the packet, and returns the length of the longest segment.
    pub fn check(&self) -> Result<usize, SplitError> {
        let (headers_len, segment_len, total) = self.measure()?;
        Ok(total.min(headers_len + segment_len))
    }

    /// Into how many segments it is cut; 1 if it is not to be cut, or cannot be.
    pub fn segment_count(&self) -> usize {
        if self.offload.gso == Gso::None {
            return 1;
        }
        self.measure().map_or(1, |(headers_len, segment_len, total)| count(headers_len, segment_len, total))
    }

    /// Says in the packet that its flow meets congestion (RFC 3168 §5); `false` if its ends do not understand that.
    pub fn mark_congestion(&mut self) -> bool {
        let Ok(view) = self.view() else { return false };
        let (header_len, capable) = (view.header().len(), view.header()[1] & ECN_CE != 0);
        if capable {
            self.bytes[1] |= ECN_CE;
            ipv4::refresh_checksum(&mut self.bytes[..header_len]);
        }
        capable
    }

    /// Gives up the last segment, if there are others; whether it did.
    ///
    /// Its sender hears of congestion from one loss as from fifty, and repeats one.
    pub fn shed_segment(&mut self) -> bool {
        let Ok((headers_len, segment_len, total)) = self.measure() else { return false };
        if self.offload.gso == Gso::None || total <= headers_len + segment_len {
            return false;
        }
        let rest = (total - headers_len) % segment_len;
        let total = total - if rest == 0 { segment_len } else { rest };
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = &mut bytes[..total];
        let ip_len = usize::from(self.bytes[0] & 0x0f) * 4;
        let (ip, transport) = self.bytes.split_at_mut(ip_len);
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        ipv4::refresh_checksum(ip);
        // What is left to the kernel begins with the pseudo header, in which the length stands.
        let (source, destination) = ipv4::addresses(ip);
        let sum = Sum::pseudo_header(source, destination, ip[9], transport.len()).fold();
        if ip[9] == u8::from(Protocol::Udp) {
            let len = (transport.len() as u16).to_be_bytes();
            transport[4..6].copy_from_slice(&len);
        } else {
            // The end of the data was in what is given up: its sender says so again when it repeats that.
            transport[13] &= !(TCP_FIN | TCP_PSH);
        }
        if let Some(at) = checksum_offset(ip[9].into()) {
            transport[at..at + 2].copy_from_slice(&sum);
        }
        true
    }

    /// The segments with complete headers and checksums.
    pub fn segments(&mut self) -> Result<Segments<'_>, SplitError> {
        self.cut(false)
    }

    /// The segments with complete headers, whose TCP or UDP checksums are partial if [`Segments::are_partial`] says so.
    ///
    /// They are so only where the kernel has left them undone: what came with a checksum keeps the one that it came with.
    pub fn partial_segments(&mut self) -> Result<Segments<'_>, SplitError> {
        self.cut(true)
    }

    fn cut(&mut self, may_be_partial: bool) -> Result<Segments<'_>, SplitError> {
        let (headers_len, segment_len, total) = self.measure()?;
        if self.offload.gso == Gso::None {
            let partial = may_be_partial && self.is_partial();
            let bytes = &mut self.bytes[..total];
            if let (false, Some((start, offset))) = (partial, self.offload.checksum) {
                complete_checksum(bytes, start, offset);
            }
            return Ok(Segments { bytes, cut: None, partial, next: 0, count: 1 });
        }
        let bytes = &mut self.bytes[..total];
        let cut = Cut::new(bytes, headers_len, segment_len);
        let count = count(headers_len, segment_len, total);
        Ok(Segments { bytes, cut: Some(cut), partial: may_be_partial, next: 0, count })
    }

    /// Whether all that the kernel left undone is a partial checksum where one belongs.
    fn is_partial(&self) -> bool {
        let undone = self.view().ok().and_then(|view| partial_checksum(&view)?.checksum);
        undone.is_some() && undone == self.offload.checksum
    }

    /// The lengths of the headers, of a segment's payload and of the whole packet. A packet that is not to be cut has no
    /// headers here.
    fn measure(&self) -> Result<(usize, usize, usize), SplitError> {
        let view = Ipv4View::parse(self.bytes)?;
        let (ip_len, total, protocol) = (view.header().len(), view.total_len(), view.protocol());
        if let Some((start, offset)) = self.offload.checksum {
            // The place is the sender's claim, and the IP header has been checked already: it must stay as it is.
            if usize::from(start) < ip_len || usize::from(start) + usize::from(offset) + 2 > total {
                return Err(SplitError::Checksum);
            }
        }
        let (headers_len, segment_len) = match self.offload.gso {
            Gso::None => return Ok((0, total, total)),
            Gso::Other(kind) => return Err(SplitError::Kind(kind)),
            _ if view.is_fragment() => return Err(SplitError::Transport),
            Gso::Tcp { segment_bytes, .. } => {
                let header = view.payload().get(..TCP_HEADER_LEN).ok_or(SplitError::Transport)?;
                let tcp_len = usize::from(header[12] >> 4) * 4;
                if protocol != Protocol::Tcp || tcp_len < TCP_HEADER_LEN || tcp_len > view.payload().len() {
                    return Err(SplitError::Transport);
                }
                (ip_len + tcp_len, usize::from(segment_bytes))
            }
            Gso::Udp { segment_bytes } => {
                if protocol != Protocol::Udp || view.payload().len() < UDP_HEADER_LEN {
                    return Err(SplitError::Transport);
                }
                (ip_len + UDP_HEADER_LEN, usize::from(segment_bytes))
            }
        };
        if segment_len == 0 {
            return Err(SplitError::SegmentLength);
        }
        Ok((headers_len, segment_len, total))
    }
}

/// A superpacket without payload is one segment.
fn count(headers_len: usize, segment_len: usize, total: usize) -> usize {
    (total - headers_len).div_ceil(segment_len).max(1)
}

/// The segments of a superpacket, one at a time.
#[derive(Debug)]
pub struct Segments<'a> {
    bytes: &'a mut [u8],
    cut: Option<Cut>,
    partial: bool,
    next: usize,
    count: usize,
}

/// How to cut, and the headers as they were.
#[derive(Debug)]
struct Cut {
    template: [u8; HEADERS_LEN_MAX],
    ip_len: usize,
    headers_len: usize,
    segment_len: usize,
    protocol: Protocol,
    /// The pseudo header's sum but for the length.
    pseudo_header: Sum,
}

impl Segments<'_> {
    /// How many segments there are in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether their checksums are partial.
    pub fn are_partial(&self) -> bool {
        self.partial
    }

    /// The next segment. It overwrites the end of the one before.
    // Not an iterator: each item borrows what the next one overwrites.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<&[u8]> {
        if self.next == self.count {
            return None;
        }
        let (index, last) = (self.next, self.next + 1 == self.count);
        self.next += 1;
        let Some(cut) = &self.cut else { return Some(self.bytes) };
        let start = index * cut.segment_len;
        let end = self.bytes.len().min(start + cut.headers_len + cut.segment_len);
        let segment = &mut self.bytes[start..end];
        cut.write_headers(segment, index, last, self.partial);
        Some(segment)
    }
}

impl Cut {
    /// How a packet is cut whose headers have been checked.
    fn new(packet: &[u8], headers_len: usize, segment_len: usize) -> Self {
        let mut template = [0; HEADERS_LEN_MAX];
        template[..headers_len].copy_from_slice(&packet[..headers_len]);
        let (ip_len, protocol) = (usize::from(packet[0] & 0x0f) * 4, packet[9].into());
        let (source, destination) = ipv4::addresses(packet);
        let pseudo_header = Sum::pseudo_header(source, destination, packet[9], 0);
        Self { template, ip_len, headers_len, segment_len, protocol, pseudo_header }
    }

    fn write_headers(&self, segment: &mut [u8], index: usize, last: bool, partial: bool) {
        let total = segment.len();
        segment[..self.headers_len].copy_from_slice(&self.template[..self.headers_len]);
        let (ip, transport) = segment.split_at_mut(self.ip_len);
        ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ipv4::refresh_checksum(ip);
        let transport_len = (transport.len() as u16).to_be_bytes();
        let at = if self.protocol == Protocol::Tcp {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            let sequence = sequence.wrapping_add((index * self.segment_len) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            // CWR is for the first segment (RFC 3168 §6.1.2); the end of the data is in the last.
            transport[13] &= !(if index > 0 { TCP_CWR } else { 0 } | if last { 0 } else { TCP_FIN | TCP_PSH });
            16
        } else {
            transport[4..6].copy_from_slice(&transport_len);
            6
        };
        let pseudo_header = self.pseudo_header.add(&transport_len);
        let sum = if partial {
            pseudo_header.fold()
        } else {
            transport[at..at + 2].fill(0);
            pseudo_header.add(transport).finish_for(self.protocol)
        };
        transport[at..at + 2].copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const HOSTS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 240, 0, 1), Ipv4Addr::new(10, 240, 0, 2));

    fn superpacket(protocol: Protocol, options: usize, payload: &[u8]) -> Vec<u8> {
        let transport_len = if protocol == Protocol::Tcp { 20 + options } else { 8 };
        let total = 20 + transport_len + payload.len();
        let mut bytes = vec![0; total];
        ipv4::write_header(&mut bytes, HOSTS.0, HOSTS.1, protocol, total);
        bytes[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
        ipv4::refresh_checksum(&mut bytes[..20]);
        if protocol == Protocol::Tcp {
            bytes[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
            bytes[32] = (transport_len as u8 / 4) << 4;
            bytes[33] = TCP_CWR | TCP_PSH | 0x10;
            bytes[40..40 + options].fill(1);
        }
        bytes[20 + transport_len..].copy_from_slice(payload);
        bytes
    }

    fn cut(bytes: &mut [u8], gso: Gso) -> Result<Vec<Vec<u8>>, SplitError> {
        let offload = Offload { gso, checksum: None, headers_len: 0 };
        let mut packet = Superpacket::new(offload, bytes);
        let (longest, count) = (packet.check()?, packet.segment_count());
        let mut segments = packet.segments()?;
        let mut all = Vec::new();
        assert_eq!(segments.count(), count);
        while let Some(segment) = segments.next() {
            all.push(segment.to_vec());
        }
        assert_eq!((all.len(), all.iter().map(Vec::len).max()), (count, Some(longest)));
        Ok(all)
    }

    fn checksum_holds(packet: &[u8]) -> bool {
        let view = Ipv4View::parse(packet).expect("a packet");
        let sum = Sum::pseudo_header(view.source(), view.destination(), packet[9], view.payload().len());
        sum.add(view.payload()).finish() == [0, 0] && Sum::default().add(view.header()).finish() == [0, 0]
    }

    #[test]
    fn cwr_is_in_the_first_segment_alone_and_psh_in_the_last() {
        let mut bytes = superpacket(Protocol::Tcp, 12, &[9; 25]);
        let flags: Vec<u8> = cut(&mut bytes, Gso::Tcp { segment_bytes: 10, ecn: true })
            .expect("segments")
            .iter()
            .map(|segment| segment[33])
            .collect();
        assert_eq!(flags, [TCP_CWR | 0x10, 0x10, TCP_PSH | 0x10]);
    }

    #[test]
    fn a_claimed_checksum_cannot_reach_into_the_ip_header() {
        let mut bytes = superpacket(Protocol::Tcp, 0, &[1; 30]);
        let before = bytes.clone();
        for checksum in [(0, 12), (12, 0), (19, 0), (60, 10), (0xffff, 0xffff)] {
            let offload = Offload { gso: Gso::None, checksum: Some(checksum), headers_len: 0 };
            assert_eq!(Superpacket::new(offload, &mut bytes).segments().err(), Some(SplitError::Checksum));
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_missing_checksum_is_completed() {
        let mut bytes = superpacket(Protocol::Udp, 0, &[3; 31]);
        let partial = Sum::pseudo_header(HOSTS.0, HOSTS.1, 17, 39).fold();
        bytes[24..26].copy_from_slice(&39u16.to_be_bytes());
        bytes[26..28].copy_from_slice(&partial);
        let offload = Offload { gso: Gso::None, checksum: Some((20, 6)), headers_len: 28 };
        let mut packet = Superpacket::new(offload, &mut bytes);
        let mut segments = packet.segments().expect("a packet");
        assert!(checksum_holds(segments.next().expect("one")));
        assert_eq!(segments.next(), None);
    }

    #[test]
    fn what_came_complete_stays_so_and_what_is_undone_elsewhere_is_done() {
        let mut bytes = superpacket(Protocol::Tcp, 0, &[3; 31]);
        bytes[36..38].copy_from_slice(&[0xba, 0xad]);
        let before = bytes.clone();
        let partial = Sum::pseudo_header(HOSTS.0, HOSTS.1, 6, 51).fold();
        for field in [[0xba, 0xad], partial] {
            // However wrong it is, and even where it looks like a partial one.
            bytes[36..38].copy_from_slice(&field);
            let mut packet = Superpacket::complete(&mut bytes);
            let mut segments = packet.partial_segments().expect("a packet");
            assert!(!segments.are_partial());
            assert_eq!(segments.next().map(|segment| segment[36..38].to_vec()), Some(field.to_vec()));
        }
        for (place, field) in [((20, 16), [0xba, 0xad]), ((20, 18), partial), ((40, 4), partial)] {
            bytes.copy_from_slice(&before);
            bytes[36..38].copy_from_slice(&field);
            let offload = Offload { gso: Gso::None, checksum: Some(place), headers_len: 0 };
            let mut both = [bytes.clone(), bytes.clone()];
            let [complete, perhaps] = &mut both;
            let mut packet = Superpacket::new(offload, perhaps);
            assert!(!packet.partial_segments().expect("a packet").are_partial());
            Superpacket::new(offload, complete).segments().expect("a packet");
            assert_eq!(both[0], both[1]);
        }
    }

    #[test]
    fn what_is_not_what_it_claims_to_be_is_refused() {
        let tcp = Gso::Tcp { segment_bytes: 10, ecn: false };
        assert_eq!(cut(&mut superpacket(Protocol::Udp, 0, &[0; 50]), tcp), Err(SplitError::Transport));
        let mut bytes = superpacket(Protocol::Tcp, 0, &[0; 50]);
        assert_eq!(cut(&mut bytes, Gso::Udp { segment_bytes: 10 }), Err(SplitError::Transport));
        assert_eq!(cut(&mut bytes, Gso::Tcp { segment_bytes: 0, ecn: false }), Err(SplitError::SegmentLength));
        assert_eq!(cut(&mut bytes, Gso::Other(4)), Err(SplitError::Kind(4)));
        bytes[6] = 0x20;
        assert_eq!(cut(&mut bytes, tcp), Err(SplitError::Transport));
    }

    #[test]
    fn congestion_is_marked_where_it_is_understood() {
        for (ecn, marked) in [(0, false), (1, true), (2, true), (3, true)] {
            let mut bytes = superpacket(Protocol::Tcp, 0, &[1; 30]);
            bytes[1] = 0x28 | ecn;
            let mut packet = Superpacket::complete(&mut bytes);
            assert_eq!(packet.mark_congestion(), marked);
            assert_eq!(packet.bytes()[1], if marked { 0x2b } else { 0x28 });
        }
    }

    #[test]
    fn a_superpacket_gives_up_its_last_segment_and_the_others_are_right() {
        for (protocol, gso) in [
            (Protocol::Tcp, Gso::Tcp { segment_bytes: 10, ecn: false }),
            (Protocol::Udp, Gso::Udp { segment_bytes: 10 }),
        ] {
            for (payload, left) in [(25, vec![10, 10]), (30, vec![10, 10]), (11, vec![10])] {
                let payload: Vec<u8> = (0..payload).collect();
                let mut bytes = superpacket(protocol, 0, &payload);
                let headers_len = bytes.len() - payload.len();
                let field = if protocol == Protocol::Tcp { 16 } else { 6 };
                if protocol == Protocol::Tcp {
                    bytes[33] |= TCP_FIN;
                }
                let offload = Offload { gso, checksum: Some((20, field)), headers_len: 0 };
                let mut packet = Superpacket::new(offload, &mut bytes);
                assert!(packet.shed_segment());
                let partial = Sum::pseudo_header(HOSTS.0, HOSTS.1, protocol.into(), packet.bytes().len() - 20).fold();
                let at = 20 + usize::from(field);
                assert_eq!(packet.bytes()[at..at + 2], partial);
                let ends = |packet: &[u8]| protocol == Protocol::Tcp && packet[33] & (TCP_FIN | TCP_PSH) != 0;
                // As another container of the node gets it.
                assert!(!ends(packet.bytes()));
                let mut segments = packet.segments().expect("segments");
                let mut together = Vec::new();
                while let Some(segment) = segments.next() {
                    assert!(checksum_holds(segment) && !ends(segment));
                    together.push(segment[headers_len..].to_vec());
                }
                assert_eq!(together.iter().map(Vec::len).collect::<Vec<_>>(), left);
                assert_eq!(together.concat(), payload[..left.iter().sum()]);
            }
            let mut bytes = superpacket(protocol, 0, &[1; 10]);
            assert!(!Superpacket::new(Offload { gso, checksum: None, headers_len: 0 }, &mut bytes).shed_segment());
            assert!(!Superpacket::complete(&mut bytes).shed_segment());
        }
    }

    proptest! {
        #[test]
        fn the_segments_carry_every_byte_once_with_right_checksums(
            tcp: bool,
            options in 0usize..11,
            payload in proptest::collection::vec(any::<u8>(), 1..5000),
            segment_bytes in 1u16..1500,
        ) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mut bytes = superpacket(protocol, options * 4, &payload);
            let headers_len = bytes.len() - payload.len();
            let gso = if tcp { Gso::Tcp { segment_bytes, ecn: false } } else { Gso::Udp { segment_bytes } };
            let segments = cut(&mut bytes, gso).expect("segments");
            let mut together = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                prop_assert!(checksum_holds(segment));
                let view = Ipv4View::parse(segment).expect("a packet");
                prop_assert_eq!(view.total_len(), segment.len());
                prop_assert_eq!(u16::from_be_bytes([segment[4], segment[5]]), 0xfffeu16.wrapping_add(i as u16));
                if tcp {
                    let sequence = u32::from_be_bytes([segment[24], segment[25], segment[26], segment[27]]);
                    prop_assert_eq!(sequence, u32::MAX.wrapping_add(together.len() as u32));
                } else {
                    prop_assert_eq!(usize::from(u16::from_be_bytes([segment[24], segment[25]])), segment.len() - 20);
                }
                together.extend_from_slice(&segment[headers_len..]);
            }
            prop_assert_eq!(together, payload);
        }

        #[test]
        fn partial_segments_are_the_segments_once_their_checksums_are_completed(
            tcp: bool,
            options in 0usize..11,
            payload in proptest::collection::vec(any::<u8>(), 1..5000),
            segment_bytes in 1u16..1500,
        ) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let bytes = superpacket(protocol, options * 4, &payload);
            let gso = if tcp { Gso::Tcp { segment_bytes, ecn: false } } else { Gso::Udp { segment_bytes } };
            let complete = cut(&mut bytes.clone(), gso).expect("segments");
            let mut bytes = bytes;
            let mut packet = Superpacket::new(Offload { gso, checksum: None, headers_len: 0 }, &mut bytes);
            let mut segments = packet.partial_segments().expect("segments");
            prop_assert!(segments.are_partial());
            for expected in complete {
                let mut segment = segments.next().expect("as many").to_vec();
                let work = partial_checksum(&Ipv4View::parse(&segment).expect("a packet")).expect("partial");
                prop_assert_eq!(usize::from(work.headers_len), segment.len().min(20 + if tcp { 20 + options * 4 } else { 8 }));
                let (start, offset) = work.checksum.expect("undone");
                complete_checksum(&mut segment, start, offset);
                prop_assert_eq!(segment, expected);
            }
            prop_assert_eq!(segments.next(), None);
        }

        #[test]
        fn no_bytes_and_no_claims_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            header: [u8; 10],
            like_ipv4: bool,
            partial: bool,
        ) {
            let mut bytes = bytes;
            if like_ipv4 && bytes.len() > 20 {
                let total = bytes.len() as u16;
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[9] = if bytes[9] & 1 == 0 { 6 } else { 17 };
            }
            let addresses = bytes.get(12..20).map(<[u8]>::to_vec);
            let mut packet = Superpacket::new(Offload::decode(&header), &mut bytes);
            let segments = if partial { packet.partial_segments() } else { packet.segments() };
            if let Ok(mut segments) = segments {
                let are_partial = segments.are_partial();
                while let Some(segment) = segments.next() {
                    prop_assert_eq!(Some(&segment[12..20]), addresses.as_deref());
                    let view = Ipv4View::parse(segment).expect("a packet");
                    prop_assert!(!are_partial || partial_checksum(&view).is_some(), "the other end would refuse it");
                }
            }
        }
    }
}

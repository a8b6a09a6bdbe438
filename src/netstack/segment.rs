//! What of a TCP segment is looked at before, or after, smoltcp does.

use std::net::SocketAddrV4;

use crate::packet::{Ipv4View, Protocol};

const TCP_HEADER_LEN: usize = 20;
const FLAG_FIN: u8 = 0x01;
const FLAG_SYN: u8 = 0x02;
const FLAG_ACK: u8 = 0x10;
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_SEGMENT_BYTES: u8 = 2;

/// The fields that decide whose a segment is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    flags: u8,
}

impl Segment {
    /// The segment in a packet; `None` if it holds no whole one.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        Self::of(&Ipv4View::parse(packet).ok()?)
    }

    pub(super) fn of(view: &Ipv4View<'_>) -> Option<Self> {
        if view.protocol() != Protocol::Tcp || view.is_fragment() {
            return None;
        }
        let header: &[u8; TCP_HEADER_LEN] = view.payload().first_chunk()?;
        let &[f0, f1, t0, t1, s0, s1, s2, s3, a0, a1, a2, a3, _, flags, ..] = header;
        Some(Self {
            from: SocketAddrV4::new(view.source(), u16::from_be_bytes([f0, f1])),
            to: SocketAddrV4::new(view.destination(), u16::from_be_bytes([t0, t1])),
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledged: u32::from_be_bytes([a0, a1, a2, a3]),
            flags,
        })
    }

    /// Whether it asks for a new stream.
    pub(super) fn begins(&self) -> bool {
        self.flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN
    }

    /// Whether it takes a stream that was asked for.
    pub(super) fn accepts(&self) -> bool {
        self.flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN | FLAG_ACK
    }

    /// Whether its sender will send no more.
    pub(super) fn ends(&self) -> bool {
        self.flags & FLAG_FIN != 0
    }
}

/// How long the other end says that segments may be, in bytes of payload; `instead` is written in its place.
///
/// `packet` has been parsed as a [`Segment`]. Its checksum is wrong afterwards.
pub(super) fn replace_segment_bytes(packet: &mut [u8], instead: u16) -> Option<u16> {
    let ip_len = usize::from(packet[0] & 0x0f) * 4;
    let tcp = packet.get_mut(ip_len..)?;
    let tcp_len = usize::from(tcp.get(12)? >> 4) * 4;
    let mut options = tcp.get_mut(TCP_HEADER_LEN..tcp_len)?;
    loop {
        let len = match *options.first()? {
            OPTION_END => return None,
            OPTION_NOTHING => 1,
            kind => {
                let len = usize::from(*options.get(1)?).max(2);
                if kind == OPTION_SEGMENT_BYTES && len == 4 {
                    let value = options.get_mut(2..4)?;
                    let said = u16::from_be_bytes([value[0], value[1]]);
                    value.copy_from_slice(&instead.to_be_bytes());
                    return Some(said);
                }
                len
            }
        };
        options = options.get_mut(len..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40 + options.len()];
        bytes[0] = 0x45;
        bytes[32] = ((20 + options.len()) as u8 / 4) << 4;
        bytes[40..].copy_from_slice(options);
        bytes
    }

    #[test]
    fn the_length_is_found_behind_other_options_and_replaced() {
        let mut bytes = packet(&[1, 3, 3, 7, 2, 4, 5, 0x58, 4, 2, 0, 0]);
        assert_eq!(replace_segment_bytes(&mut bytes, 0x1234), Some(0x558));
        assert_eq!(bytes[40..], [1, 3, 3, 7, 2, 4, 0x12, 0x34, 4, 2, 0, 0]);
        assert_eq!(replace_segment_bytes(&mut packet(&[0, 2, 4, 5]), 1), None);
        assert_eq!(replace_segment_bytes(&mut packet(&[]), 1), None);
    }

    proptest! {
        #[test]
        fn no_options_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 40..100)) {
            bytes[0] = 0x45;
            let _ = replace_segment_bytes(&mut bytes, 1);
        }
    }
}

//! The header that a TUN device with IFF_VNET_HDR puts before each packet (virtio 1.2 §5.1.6, `linux/virtio_net.h`).
//!
//! It carries work that was left undone: a checksum still to be computed, or a packet still to be cut into segments.

/// The length of the header, the device's default.
pub const OFFLOAD_HEADER_LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How a packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    None,
    /// TCP over IPv4, in segments with this many bytes of payload. `ecn`: the flag CWR is for the first segment alone.
    Tcp { segment_bytes: u16, ecn: bool },
    /// UDP, in datagrams with this many bytes of payload.
    Udp { segment_bytes: u16 },
    /// A kind that is not offered to the kernel; such a packet cannot be sent.
    Other(u8),
}

/// A packet's undone work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    pub gso: Gso,
    /// Where the checksum is to be computed from and where in that part it goes; there it holds the pseudo header's sum.
    pub checksum: Option<(u16, u16)>,
    /// How long the packet's headers are; a hint to the kernel.
    pub headers_len: u16,
}

impl Offload {
    /// Nothing is undone.
    pub const NONE: Self = Self { gso: Gso::None, checksum: None, headers_len: 0 };

    /// Reads the header. Every value is somebody's claim: whoever uses it checks it against the packet.
    pub fn decode(header: &[u8; OFFLOAD_HEADER_LEN]) -> Self {
        let &[flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = header;
        let segment_bytes = u16::from_ne_bytes([s0, s1]);
        let gso = match kind & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP_V4 => Gso::Tcp { segment_bytes, ecn: kind & GSO_ECN != 0 },
            GSO_UDP_L4 => Gso::Udp { segment_bytes },
            other => Gso::Other(other),
        };
        let checksum =
            (flags & NEEDS_CHECKSUM != 0).then(|| (u16::from_ne_bytes([c0, c1]), u16::from_ne_bytes([o0, o1])));
        Self { gso, checksum, headers_len: u16::from_ne_bytes([h0, h1]) }
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; OFFLOAD_HEADER_LEN] {
        let (kind, segment_bytes) = match self.gso {
            Gso::None => (GSO_NONE, 0),
            Gso::Tcp { segment_bytes, ecn } => (GSO_TCP_V4 | if ecn { GSO_ECN } else { 0 }, segment_bytes),
            Gso::Udp { segment_bytes } => (GSO_UDP_L4, segment_bytes),
            Gso::Other(kind) => (kind, 0),
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let mut header = [0; OFFLOAD_HEADER_LEN];
        header[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        header[1] = kind;
        header[2..4].copy_from_slice(&self.headers_len.to_ne_bytes());
        header[4..6].copy_from_slice(&segment_bytes.to_ne_bytes());
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&offset.to_ne_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_survives_the_device() {
        for gso in
            [Gso::None, Gso::Tcp { segment_bytes: 1356, ecn: true }, Gso::Udp { segment_bytes: 1 }, Gso::Other(4)]
        {
            for checksum in [None, Some((20, 16))] {
                let offload = Offload { gso, checksum, headers_len: 40 };
                assert_eq!(Offload::decode(&offload.encode()), offload);
            }
        }
        assert_eq!(Offload::NONE.encode(), [0; OFFLOAD_HEADER_LEN]);
    }
}

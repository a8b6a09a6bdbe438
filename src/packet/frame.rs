//! The VNI header, 8 bytes in front of every WireGuard message between nodes. Shaped after RFC 7348 §5.
//!
//! ```text
//!  0               1               2               3
//! +---------------+-------+-------+-------------------------------+
//! | 0x08 (I flag) | ver 1 | type  | low 16 bits of the inner      |
//! |               |       |       | destination address           |
//! +---------------+-------+-------+---------------+---------------+
//! |  VNI, 24 bits                                 | generation    |
//! +-----------------------------------------------+---------------+
//! ```
//!
//! The header proves nothing: it selects the tunnel or the attachment whose keys then do, and what its type says of a packet
//! is held against the packet.

use std::net::Ipv4Addr;

use crate::model::{Generation, Vni};

/// The length of the header.
pub const FRAME_HEADER_LEN: usize = 8;

const FLAGS: u8 = 0x08;
const VERSION: u8 = 1;

/// What a frame says of the packet in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameType {
    /// Type 0: nothing.
    Plain = 0,
    /// Type 1: its TCP or UDP checksum is partial, and to be completed by whoever needs it complete.
    PartialChecksum = 1,
}

/// The VNI header of version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameType,
    /// The low 16 bits of the address of the attachment that the message is for; 0 in a cookie reply, whose sender does not know it.
    pub destination: u16,
    pub vni: Vni,
    pub generation: Generation,
}

/// Why bytes are no frame that this version reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{0} bytes are too short for a frame")]
    Short(usize),
    #[error("the flags are {0:#04x}")]
    Flags(u8),
    #[error("version {0} is not known")]
    Version(u8),
    #[error("type {0} is not known")]
    Type(u8),
    #[error("VNI 0 is given to no network")]
    Vni,
}

impl FrameHeader {
    /// The plain header of a message for the attachment at `destination`.
    pub fn new(destination: Ipv4Addr, vni: Vni, generation: Generation) -> Self {
        Self { kind: FrameType::Plain, destination: low_bits(destination), vni, generation }
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; FRAME_HEADER_LEN] {
        let ([d0, d1], [_, v0, v1, v2]) = (self.destination.to_be_bytes(), self.vni.get().to_be_bytes());
        [FLAGS, VERSION << 4 | self.kind as u8, d0, d1, v0, v1, v2, self.generation.0]
    }

    /// Reads the header, and returns what follows it.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let Some((&[flags, version_type, d0, d1, v0, v1, v2, generation], rest)) = frame.split_first_chunk() else {
            return Err(FrameError::Short(frame.len()));
        };
        let kind = match (flags, version_type >> 4, version_type & 0x0f) {
            (FLAGS, VERSION, 0) => FrameType::Plain,
            (FLAGS, VERSION, 1) => FrameType::PartialChecksum,
            (FLAGS, VERSION, kind) => return Err(FrameError::Type(kind)),
            (FLAGS, version, _) => return Err(FrameError::Version(version)),
            (flags, ..) => return Err(FrameError::Flags(flags)),
        };
        let vni = Vni::try_from(u32::from_be_bytes([0, v0, v1, v2])).map_err(|_| FrameError::Vni)?;
        Ok((Self { kind, destination: u16::from_be_bytes([d0, d1]), vni, generation: Generation(generation) }, rest))
    }
}

/// What of an address stands in the header. Within a network no two attachments share it.
pub(crate) fn low_bits(address: Ipv4Addr) -> u16 {
    address.to_bits() as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CONTAINERS, EXTRAS};
    use proptest::prelude::*;

    fn header() -> FrameHeader {
        FrameHeader::new(Ipv4Addr::new(10, 240, 3, 9), Vni::try_from(0x01_02_03).expect("a VNI"), Generation(7))
    }

    #[test]
    fn the_bytes_stand_as_drawn() {
        assert_eq!(header().encode(), [0x08, 0x10, 3, 9, 1, 2, 3, 7]);
        let marked = FrameHeader { kind: FrameType::PartialChecksum, ..header() };
        assert_eq!(marked.encode(), [0x08, 0x11, 3, 9, 1, 2, 3, 7]);
    }

    #[test]
    fn unknown_versions_types_and_flags_are_told_apart() {
        let with = |at: usize, value| {
            let mut bytes = header().encode();
            bytes[at] = value;
            FrameHeader::decode(&bytes).map(|_| ())
        };
        assert_eq!(with(1, 0x20), Err(FrameError::Version(2)));
        assert_eq!([0x12, 0x18, 0x1f].map(|byte| with(1, byte)), [2, 8, 15].map(|kind| Err(FrameError::Type(kind))));
        assert_eq!(with(0, 0x09), Err(FrameError::Flags(9)));
        assert_eq!(FrameHeader::decode(&[0x08, 0x10, 0, 0, 0, 0, 0, 0]), Err(FrameError::Vni));
        assert_eq!(FrameHeader::decode(&[0x08; 7]), Err(FrameError::Short(7)));
    }

    #[test]
    fn the_low_bits_name_one_address_of_a_network() {
        let mut seen = std::collections::HashSet::new();
        assert!(CONTAINERS.iter().chain(EXTRAS.iter()).all(|address| seen.insert(low_bits(address))));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes: [u8; 12]) {
            if let Ok((header, rest)) = FrameHeader::decode(&bytes) {
                prop_assert_eq!(&header.encode()[..], &bytes[..8]);
                prop_assert_eq!(rest, &bytes[8..]);
            }
        }

        #[test]
        fn every_header_survives_the_wire(marked: bool, destination: u16, vni in 1u32..1 << 24, generation: u8) {
            let vni = Vni::try_from(vni).expect("a VNI");
            let kind = if marked { FrameType::PartialChecksum } else { FrameType::Plain };
            let header = FrameHeader { kind, destination, vni, generation: Generation(generation) };
            let bytes = header.encode();
            prop_assert_eq!(FrameHeader::decode(&bytes), Ok((header, &[][..])));
        }
    }
}

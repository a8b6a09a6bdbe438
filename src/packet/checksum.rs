//! The internet checksum (RFC 1071).

use std::net::Ipv4Addr;

use super::ipv4::Protocol;

/// Words that are added side by side.
const LANES: usize = 8;
const BLOCK_LEN: usize = LANES * 8;

/// A running ones' complement sum of 16-bit words, in network order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of the pseudo header that TCP and UDP are checked with (RFC 9293 §3.1).
    pub(super) fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> Self {
        Self::default()
            .add(&source.octets())
            .add(&destination.octets())
            .add(&[0, protocol])
            .add(&(len as u16).to_be_bytes())
    }

    /// Adds bytes. All but the last call need an even number of them.
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        // The sum is the same in either byte order (RFC 1071 §2 B), so words of the machine are added.
        let (blocks, rest) = bytes.as_chunks::<BLOCK_LEN>();
        let mut sum = self.0 + if blocks.is_empty() { 0 } else { add_blocks(blocks) };
        let (words, rest) = rest.as_chunks();
        sum += words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        let mut tail = [0; 4];
        tail[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_ne_bytes(tail)))
    }

    /// The folded sum before it is complemented: what a partial checksum field holds.
    pub(super) fn fold(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum.
    pub(super) fn finish(self) -> [u8; 2] {
        let [a, b] = self.fold();
        [!a, !b]
    }

    /// The checksum as a transport's header holds it: for UDP 0 would mean that there is none, and all ones are the same
    /// number (RFC 768).
    pub(super) fn finish_for(self, protocol: Protocol) -> [u8; 2] {
        match (protocol, self.finish()) {
            (Protocol::Udp, [0, 0]) => [0xff, 0xff],
            (_, sum) => sum,
        }
    }
}

/// The sum of a payload's words, their halves apart: 65,535 bytes cannot overflow that, and lanes that do not carry into each
/// other become vector instructions. Headers are shorter than what that takes to set up.
fn add_blocks(blocks: &[[u8; BLOCK_LEN]]) -> u64 {
    let (mut low, mut high) = ([0u64; LANES], [0u64; LANES]);
    for block in blocks {
        for (lane, word) in block.as_chunks().0.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            low[lane] += word & 0xffff_ffff;
            high[lane] += word >> 32;
        }
    }
    low.iter().sum::<u64>() + high.iter().sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum as RFC 1071 spells it.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071_holds() {
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn it_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            prop_assert_eq!(Sum::default().add(&bytes).finish(), plain(&bytes));
            let cut = (cut * 2).min(bytes.len() & !1);
            prop_assert_eq!(Sum::default().add(&bytes[..cut]).add(&bytes[cut..]).finish(), plain(&bytes));
        }
    }
}

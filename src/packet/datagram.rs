//! What arrives at the shared port, told apart by its first byte.

use super::batch::Batch;

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// QUIC: the fixed bit 0x40 or the long header's 0x80 is set (RFC 9000 §17).
    Quic,
    /// A frame of ours: the VNI header's I flag (RFC 7348 §5).
    Frame,
    /// A stock WireGuard client: a message type and three reserved zeros.
    WireguardClient,
    /// None of them.
    Unknown,
}

impl Class {
    /// The class of one datagram, which is one segment of a received buffer, never the whole buffer.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram {
            [0x40..=0xff, ..] => Self::Quic,
            [0x08, ..] => Self::Frame,
            [1..=4, 0, 0, 0, ..] => Self::WireguardClient,
            _ => Self::Unknown,
        }
    }
}

/// Cuts a batch where the class of its segments changes.
///
/// The kernel joins datagrams of one 4-tuple and one size, and the frames and the QUIC packets of two nodes share both.
pub fn runs<'a>(batch: Batch<'a>) -> impl Iterator<Item = (Class, Batch<'a>)> {
    let (count, mut first) = (batch.count(), 0);
    std::iter::from_fn(move || {
        if first == count {
            return None;
        }
        let mut classes = batch.slice(first, count).iter().map(Class::of);
        let class = classes.next()?;
        let end = first + 1 + classes.take_while(|next| *next == class).count();
        let run = batch.slice(first, end);
        first = end;
        Some((class, run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_buffer_of_mixed_segments_is_cut_where_the_class_changes() {
        let bytes = [0x40, 0, 0xc3, 0, 0x08, 0, 0x41, 0, 0x07, 0, 0x08];
        let cut: Vec<_> = runs(Batch::new(&bytes, 2)).map(|(class, run)| (class, run.count())).collect();
        assert_eq!(
            cut,
            [(Class::Quic, 2), (Class::Frame, 1), (Class::Quic, 1), (Class::Unknown, 1), (Class::Frame, 1)]
        );
    }

    #[test]
    fn a_wireguard_message_needs_its_three_zeros() {
        assert_eq!(Class::of(&[4, 0, 0, 0]), Class::WireguardClient);
        for near in [&[4, 0, 0, 1][..], &[5, 0, 0, 0], &[0, 0, 0, 0], &[1, 0, 0], &[]] {
            assert_eq!(Class::of(near), Class::Unknown);
        }
    }

    proptest! {
        #[test]
        fn the_runs_hold_every_segment_once_and_in_order(bytes in proptest::collection::vec(0u8..0x60, 0..200), len in 1usize..9) {
            let batch = Batch::new(&bytes, len);
            let parts: Vec<_> = runs(batch).collect();
            let again: Vec<_> = parts.iter().flat_map(|(_, run)| run.iter()).collect();
            prop_assert_eq!(again, batch.iter().collect::<Vec<_>>());
            for (class, run) in parts {
                prop_assert!(run.iter().all(|segment| Class::of(segment) == class));
            }
        }
    }
}

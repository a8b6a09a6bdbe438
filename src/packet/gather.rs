//! A packet for a device, in pieces.

use std::ops::Range;

use super::offload::Offload;

/// One packet, whose bytes lie in several places of one buffer, and the work that is left to the kernel.
///
/// Several received TCP segments become one such packet without being copied: the headers of the first, the payload of each.
#[derive(Debug, Clone, Copy)]
pub struct Gather<'a> {
    offload: Offload,
    arena: &'a [u8],
    pieces: &'a [Range<u32>],
}

impl<'a> Gather<'a> {
    /// A packet of the `pieces` of `arena`, all within it.
    pub(crate) fn new(offload: Offload, arena: &'a [u8], pieces: &'a [Range<u32>]) -> Self {
        Self { offload, arena, pieces }
    }

    /// What the kernel shall do with it.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The pieces, to be written one after another.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let arena = self.arena;
        self.pieces.iter().map(move |piece| &arena[piece.start as usize..piece.end as usize])
    }

    /// The length of the packet.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| (piece.end - piece.start) as usize).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first piece.
    pub(crate) fn first(&self) -> &'a [u8] {
        self.pieces.first().map_or(&[], |piece| &self.arena[piece.start as usize..piece.end as usize])
    }

    /// The packet in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}

//! Packets for devices, in one arena; those of one flow are joined where they lie.

use std::ops::Range;

use super::ARENA_LEN;
use crate::model::AttachmentId;
use crate::packet::{Accepts, Flow, Gather, Ipv4View, Join, Joined, Offload};

/// Flows that are joined at once; the one that has waited longest for its next packet gives way.
const OPEN_MAX: usize = 16;

pub(super) struct DeviceArena {
    bytes: Vec<u8>,
    len: usize,
    /// The first `count` are in use; the others are kept for their memory.
    packets: Vec<DevicePacket>,
    count: usize,
    next: usize,
    /// The packets that others may join, the latest last.
    open: Vec<(Flow, usize)>,
}

pub(super) struct DevicePacket {
    attachment: AttachmentId,
    use_: Use,
    offload: Offload,
    joined: Option<Joined>,
    pieces: Vec<Range<u32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Device,
    Resolver,
}

impl DeviceArena {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; ARENA_LEN],
            len: 0,
            packets: Vec::new(),
            count: 0,
            next: 0,
            open: Vec::with_capacity(OPEN_MAX),
        }
    }

    pub(super) fn room_len(&self) -> usize {
        ARENA_LEN - self.len
    }

    /// The free part, where the next packet is to be written from the beginning.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// What stands in the spare part, before it is committed.
    pub(super) fn written(&self, len: usize) -> &[u8] {
        &self.bytes[self.len..self.len + len]
    }

    /// Copies a packet in, if there is room.
    pub(super) fn push(&mut self, attachment: AttachmentId, use_: Use, offload: Offload, packet: &[u8]) -> bool {
        let Some(out) = self.spare().get_mut(..packet.len()) else { return false };
        out.copy_from_slice(packet);
        if use_ == Use::Device
            && let Ok(view) = Ipv4View::parse(packet)
        {
            self.close(Flow::of(&view));
        }
        let piece = self.take(packet.len());
        self.append(attachment, use_, offload, None, piece);
        true
    }

    /// The first `len` bytes of the spare part are a checked packet for an attachment, with no more than a checksum undone,
    /// which its device takes; and superpackets as `accepts` says.
    pub(super) fn commit(&mut self, attachment: AttachmentId, accepts: Accepts, work: Offload, len: usize) {
        let piece = self.take(len);
        let (before, bytes) = self.bytes.split_at(piece.start as usize);
        let view = Ipv4View::parse(&bytes[..len]).expect("whoever commits a packet has checked it");
        let flow = Flow::of(&view);
        if let Some(at) =
            self.open.iter().rposition(|(open, index)| *open == flow && self.packets[*index].attachment == attachment)
        {
            let packet = &mut self.packets[self.open[at].1];
            let first = packet.pieces[0].clone();
            if let Some(joined) = &mut packet.joined {
                let headers_len = joined.headers_len() as u32;
                let join = joined.join(&before[first.start as usize..first.end as usize], &view, work);
                if join != Join::No {
                    packet.pieces.push(piece.start + headers_len..piece.end);
                    if join == Join::Last {
                        self.open.remove(at);
                    }
                    return;
                }
            }
        }
        let joined = Joined::begin(&view, work, accepts);
        self.close(flow);
        if joined.is_some() {
            if self.open.len() == OPEN_MAX {
                self.open.remove(0);
            }
            self.open.push((flow, self.count));
        }
        self.append(attachment, Use::Device, work, joined, piece);
    }

    /// The next packet. When there is none, the arena is empty again.
    pub(super) fn poll(&mut self) -> Option<(AttachmentId, Use, Gather<'_>)> {
        // What has been handed out does not grow.
        self.open.clear();
        if self.next == self.count {
            (self.len, self.count, self.next) = (0, 0, 0);
            return None;
        }
        let packet = &mut self.packets[self.next];
        self.next += 1;
        if let Some(joined) = packet.joined.filter(|joined| joined.count() > 1) {
            let start = packet.pieces[0].start as usize;
            packet.offload = joined.finish(&mut self.bytes[start..start + joined.headers_len()]);
        }
        Some((packet.attachment, packet.use_, Gather::new(packet.offload, &self.bytes, &packet.pieces)))
    }

    /// Nothing more is joined to packets that a packet of this flow must not overtake, or be overtaken by.
    fn close(&mut self, flow: Flow) {
        self.open.retain(|(open, _)| !open.may_be(&flow));
    }

    fn take(&mut self, len: usize) -> Range<u32> {
        let start = self.len as u32;
        self.len += len;
        start..self.len as u32
    }

    fn append(
        &mut self,
        attachment: AttachmentId,
        use_: Use,
        offload: Offload,
        joined: Option<Joined>,
        piece: Range<u32>,
    ) {
        if self.count == self.packets.len() {
            self.packets.push(DevicePacket { attachment, use_, offload, joined, pieces: Vec::new() });
        }
        let packet = &mut self.packets[self.count];
        packet.pieces.clear();
        packet.pieces.push(piece);
        (packet.attachment, packet.use_, packet.offload, packet.joined) = (attachment, use_, offload, joined);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests;

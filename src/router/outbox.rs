//! What the router has made and nobody has taken yet: two arenas and a list.
//!
//! Both arenas are of fixed size and empty at the beginning of a turn. Messages are encrypted, and packets decrypted, into
//! their final place; nothing is allocated for a packet and nothing copied twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use crate::model::AttachmentId;
use crate::packet::{Batch, Gather, Offload};

use super::{Event, Output};

/// How long an arena is: four of the largest packets, with what the frames add.
const ARENA_LEN: usize = 320 * 1024;
/// What one packet may need of an arena: 64 KiB, twice for headers when it is cut small.
const ROOM_LEN: usize = 128 * 1024;
/// The most that the kernel cuts into datagrams in one call.
const RUN_SEGMENTS_MAX: usize = 64;
/// The longest UDP payload over IPv4, which bounds the sum of the segments as well.
const RUN_LEN_MAX: usize = 65_507;
const EVENTS_MAX: usize = 64;

/// Everything that waits for [`super::Router::poll_output`].
pub(super) struct Outbox {
    wire: Vec<u8>,
    wire_len: usize,
    runs: Vec<Run>,
    device: Vec<u8>,
    device_len: usize,
    pieces: Vec<Range<u32>>,
    packets: Vec<DevicePacket>,
    events: VecDeque<Event>,
    next_run: usize,
    next_packet: usize,
}

/// Datagrams to one address, in one place of the wire arena.
struct Run {
    to: SocketAddr,
    start: usize,
    end: usize,
    segment_len: usize,
    segments: usize,
    /// A shorter segment is the last one of its batch.
    closed: bool,
}

struct DevicePacket {
    attachment: AttachmentId,
    use_: Use,
    offload: Offload,
    pieces: Range<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Device,
    Resolver,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            wire: vec![0; ARENA_LEN],
            wire_len: 0,
            runs: Vec::with_capacity(64),
            device: vec![0; ARENA_LEN],
            device_len: 0,
            pieces: Vec::with_capacity(256),
            packets: Vec::with_capacity(256),
            events: VecDeque::new(),
            next_run: 0,
            next_packet: 0,
        }
    }

    /// Whether one more packet of any size fits.
    pub(super) fn has_room(&self) -> bool {
        ARENA_LEN - self.wire_len >= ROOM_LEN && ARENA_LEN - self.device_len >= ROOM_LEN
    }

    /// The free part of the wire arena, where the next frame is to be written from the beginning.
    pub(super) fn wire_spare(&mut self) -> &mut [u8] {
        &mut self.wire[self.wire_len..]
    }

    /// The first `len` bytes of the spare part are a frame for `to`.
    pub(super) fn commit_wire(&mut self, to: SocketAddr, len: usize) {
        let start = self.wire_len;
        self.wire_len += len;
        if let Some(run) = self.runs.last_mut()
            && run.to == to
            && !run.closed
            && len <= run.segment_len
            && run.segments < RUN_SEGMENTS_MAX
            && self.wire_len - run.start <= RUN_LEN_MAX
        {
            run.end = self.wire_len;
            run.segments += 1;
            run.closed = len < run.segment_len;
            return;
        }
        self.runs.push(Run { to, start, end: self.wire_len, segment_len: len, segments: 1, closed: false });
    }

    /// The free part of the device arena, where the next packet is to be written from the beginning.
    pub(super) fn device_spare(&mut self) -> &mut [u8] {
        &mut self.device[self.device_len..]
    }

    /// What stands in the spare part, before it is committed.
    pub(super) fn device_written(&self, len: usize) -> &[u8] {
        &self.device[self.device_len..self.device_len + len]
    }

    /// The first `len` bytes of the spare part are a packet for an attachment.
    pub(super) fn commit_device(&mut self, attachment: AttachmentId, offload: Offload, len: usize) {
        self.commit_packet(attachment, Use::Device, offload, len);
    }

    /// Copies a packet in, if there is room.
    pub(super) fn push_device(&mut self, attachment: AttachmentId, offload: Offload, packet: &[u8]) -> bool {
        self.push_packet(attachment, Use::Device, offload, packet)
    }

    /// Copies a packet for the resolver in, if there is room.
    pub(super) fn push_resolver(&mut self, attachment: AttachmentId, packet: &[u8]) -> bool {
        self.push_packet(attachment, Use::Resolver, Offload::NONE, packet)
    }

    /// Keeps an event; an older one of the same content is enough.
    pub(super) fn push_event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX && !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }

    /// The next output. When there is none, the arenas are empty again.
    pub(super) fn poll(&mut self) -> Option<Output<'_>> {
        if let Some(run) = self.runs.get(self.next_run) {
            self.next_run += 1;
            let batch = Batch::new(&self.wire[run.start..run.end], run.segment_len);
            return Some(Output::Wire { to: run.to, batch });
        }
        if let Some(packet) = self.packets.get(self.next_packet) {
            self.next_packet += 1;
            let pieces = &self.pieces[packet.pieces.start as usize..packet.pieces.end as usize];
            let gather = Gather::new(packet.offload, &self.device, pieces);
            return Some(match packet.use_ {
                Use::Device => Output::Device { attachment: packet.attachment, packet: gather },
                Use::Resolver => Output::Resolver { attachment: packet.attachment, packet: gather.first() },
            });
        }
        self.wire_len = 0;
        self.runs.clear();
        self.device_len = 0;
        self.pieces.clear();
        self.packets.clear();
        (self.next_run, self.next_packet) = (0, 0);
        self.events.pop_front().map(Output::Event)
    }

    fn push_packet(&mut self, attachment: AttachmentId, use_: Use, offload: Offload, packet: &[u8]) -> bool {
        let Some(out) = self.device_spare().get_mut(..packet.len()) else { return false };
        out.copy_from_slice(packet);
        self.commit_packet(attachment, use_, offload, packet.len());
        true
    }

    fn commit_packet(&mut self, attachment: AttachmentId, use_: Use, offload: Offload, len: usize) {
        let (start, first) = (self.device_len, self.pieces.len() as u32);
        self.device_len += len;
        self.pieces.push(start as u32..self.device_len as u32);
        self.packets.push(DevicePacket { attachment, use_, offload, pieces: first..first + 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox) -> Vec<(u16, usize, usize)> {
        let mut all = Vec::new();
        while let Some(output) = outbox.poll() {
            if let Output::Wire { to, batch } = output {
                all.push((to.port(), batch.segment_len(), batch.count()));
            }
        }
        all
    }

    fn to(port: u16) -> SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, port).into()
    }

    #[test]
    fn a_batch_ends_with_a_shorter_frame_a_longer_one_and_another_address() {
        let mut outbox = Outbox::new();
        for (port, len) in [(1, 100), (1, 100), (1, 60), (1, 60), (1, 100), (2, 100), (1, 100)] {
            outbox.commit_wire(to(port), len);
        }
        assert_eq!(drain(&mut outbox), [(1, 100, 3), (1, 60, 1), (1, 100, 1), (2, 100, 1), (1, 100, 1)]);
        assert_eq!(drain(&mut outbox), []);
    }

    #[test]
    fn a_batch_is_never_more_than_the_kernel_takes() {
        let mut outbox = Outbox::new();
        (0..100).for_each(|_| outbox.commit_wire(to(1), 10));
        assert_eq!(drain(&mut outbox), [(1, 10, 64), (1, 10, 36)]);
        (0..60).for_each(|_| outbox.commit_wire(to(1), 1448));
        assert_eq!(drain(&mut outbox), [(1, 1448, 45), (1, 1448, 15)]);
    }
}

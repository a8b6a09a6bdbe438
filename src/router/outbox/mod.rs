//! What the router has made and nobody has taken yet: two arenas and a list.
//!
//! Both arenas are of fixed size and empty at the beginning of a turn. Messages are encrypted, and packets decrypted, into
//! their final place; nothing is allocated for a packet and nothing copied twice.

mod device;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::model::AttachmentId;
use crate::packet::{Accepts, Offload};

use super::{Event, Output};
use device::{DeviceArena, Use};
use wire::WireArena;

/// How long an arena is: four of the largest packets, with what the frames add.
const ARENA_LEN: usize = 192 * 1024;
/// What one packet may need of an arena: 64 KiB, twice for headers when it is cut small.
const ROOM_LEN: usize = 128 * 1024;
const EVENTS_MAX: usize = 64;

/// Everything that waits for [`super::Router::poll_output`].
pub(super) struct Outbox {
    wire: WireArena,
    device: DeviceArena,
    events: VecDeque<Event>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { wire: WireArena::new(), device: DeviceArena::new(), events: VecDeque::new() }
    }

    /// Whether one more packet from a device fits, of any size.
    pub(super) fn has_room_outbound(&self) -> bool {
        self.wire.has_room() && self.has_room_inbound()
    }

    /// Whether one more received buffer fits.
    pub(super) fn has_room_inbound(&self) -> bool {
        self.device.room_len() >= ROOM_LEN
    }

    /// The free part of the wire arena, where the next frame is to be written from the beginning.
    pub(super) fn wire_spare(&mut self) -> &mut [u8] {
        self.wire.spare()
    }

    /// The first `len` bytes of the spare part are a frame for `to`.
    pub(super) fn commit_wire(&mut self, to: SocketAddr, len: usize) {
        self.wire.commit(to, len);
    }

    /// Of the last batch only `sent` datagrams went: no more is handed out until [`Self::release_wire`].
    pub(super) fn hold_wire(&mut self, sent: usize) {
        self.wire.hold(sent);
    }

    pub(super) fn release_wire(&mut self) {
        self.wire.release();
    }

    pub(super) fn is_wire_held(&self) -> bool {
        self.wire.is_held()
    }

    /// The free part of the device arena, where the next packet is to be written from the beginning.
    pub(super) fn device_spare(&mut self) -> &mut [u8] {
        self.device.spare()
    }

    /// What stands in the spare part, before it is committed.
    pub(super) fn device_written(&self, len: usize) -> &[u8] {
        self.device.written(len)
    }

    /// The first `len` bytes of the spare part are a checked packet for an attachment, in which no more than a checksum is
    /// left undone.
    pub(super) fn commit_device(&mut self, attachment: AttachmentId, accepts: Accepts, work: Offload, len: usize) {
        self.device.commit(attachment, accepts, work, len);
    }

    /// Copies a packet in, if there is room.
    pub(super) fn push_device(&mut self, attachment: AttachmentId, offload: Offload, packet: &[u8]) -> bool {
        self.device.push(attachment, Use::Device, offload, packet)
    }

    /// Copies a packet for the resolver in, if there is room.
    pub(super) fn push_resolver(&mut self, attachment: AttachmentId, packet: &[u8]) -> bool {
        self.device.push(attachment, Use::Resolver, Offload::NONE, packet)
    }

    /// Keeps an event; an older one of the same content is enough.
    pub(super) fn push_event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX && !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }

    /// The next output. When there is none, the arenas are empty again, but for what is held.
    pub(super) fn poll(&mut self) -> Option<Output<'_>> {
        if let Some((to, batch)) = self.wire.poll() {
            return Some(Output::Wire { to, batch });
        }
        if let Some((attachment, use_, packet)) = self.device.poll() {
            return Some(match use_ {
                Use::Device => Output::Device { attachment, packet },
                Use::Resolver => Output::Resolver { attachment, packet: packet.first() },
            });
        }
        self.events.pop_front().map(Output::Event)
    }
}

//! What containers have sent and the router has not had yet: buffers, and whose turn it is.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Instant;

use super::devices::Devices;
use crate::model::AttachmentId;
use crate::packet::{Flow, Offload, Superpacket};
use crate::router::{DropReason, FairQueue, Router};
use crate::sys::tun_io::{Gone, READ_LEN, TunDevice};

/// Packets that may wait, of up to 64 KiB each. One device gets two thirds of them: more than a TCP window, so that it is empty
/// when its container's packets wait for their turn, and none of them waits behind the others where nobody can tell them apart.
const PACKETS_MAX: usize = 112;

type Buffer = Box<[u8; READ_LEN]>;

/// A packet as it was read.
struct Waiting {
    id: AttachmentId,
    /// Its device's place among the devices.
    device: usize,
    offload: Offload,
    /// Where it stands in the buffer.
    start: usize,
    end: usize,
    buffer: Buffer,
}

/// The packets that wait, and the buffers for others.
#[derive(Default)]
pub(super) struct Backlog {
    queue: FairQueue<Waiting>,
    /// The one that was used last is used next: it is in the cache.
    free: Vec<Buffer>,
    made: usize,
    /// How many packets of each device wait, by its place.
    waiting: Vec<usize>,
    hasher: RandomState,
}

/// What reading a device came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Packet,
    Empty,
    /// Too many packets wait, in all or of this device.
    Full,
}

/// What routing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routed {
    /// A packet of so many bytes had its turn.
    Packet(usize),
    /// Packets wait, and all of them for nodes that have asked for a pause. The first ends then.
    Paused(Instant),
    /// Nothing waits.
    Empty,
}

impl Backlog {
    /// How many packets wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Reads one packet of an attachment's device, which stands at `place` among the devices.
    pub(super) fn read(
        &mut self,
        now: Instant,
        place: usize,
        id: AttachmentId,
        device: &TunDevice,
    ) -> Result<Read, Gone> {
        if self.waiting.len() <= place {
            self.waiting.resize(place + 1, 0);
        }
        // As much as twice of what is left: so one device gets most of it when it is alone, and there is always some for
        // another (dynamic thresholds, Choudhury and Hahne 1998).
        if self.waiting[place] >= 2 * (PACKETS_MAX - self.queue.len()) {
            return Ok(Read::Full);
        }
        let Some(mut buffer) = self.free.pop().or_else(|| self.make()) else { return Ok(Read::Full) };
        let (offload, start, end, flow) = match device.read(&mut buffer) {
            Ok(Some(packet)) => {
                let (len, offload) = (packet.bytes().len(), packet.offload());
                let start = device.header_len();
                (offload, start, start + len, packet.view().ok().map(|view| Flow::of(&view)))
            }
            Ok(None) => {
                self.free.push(buffer);
                return Ok(Read::Empty);
            }
            Err(gone) => {
                self.free.push(buffer);
                return Err(gone);
            }
        };
        let hash = self.hasher.hash_one((id, flow));
        self.waiting[place] += 1;
        self.queue.push(now, hash, end - start, Waiting { id, device: place, offload, start, end, buffer });
        Ok(Read::Packet)
    }

    /// Gives the router the packet whose turn it is.
    pub(super) fn route_next(&mut self, now: Instant, router: &mut Router, devices: &Devices) -> Routed {
        let may_go = |waiting: &mut Waiting| {
            let Waiting { id, offload, start, end, .. } = *waiting;
            !router.is_paused(now, id, &Superpacket::new(offload, &mut waiting.buffer[start..end]))
        };
        let Some(popped) = self.queue.pop(now, may_go) else {
            return router.next_resume(now).filter(|_| !self.queue.is_empty()).map_or(Routed::Empty, Routed::Paused);
        };
        let Waiting { id, device, offload, start, end, mut buffer } = popped.item;
        self.waiting[device] -= 1;
        let mut packet = Superpacket::new(offload, &mut buffer[start..end]);
        let lossy = popped.congested && !packet.mark_congestion();
        router.count_drops(DropReason::StandingQueue, u64::from(lossy));
        if lossy && !packet.shed_segment() {
            // It is one segment, and the one that is lost.
        } else if let Some(neighbour) = router.handle_device(now, id, &mut packet) {
            let written = devices.by_id(neighbour).is_some_and(|device| device.pass(&packet).is_ok());
            router.count_drops(DropReason::DeviceBusy, u64::from(!written));
        }
        self.free.push(buffer);
        Routed::Packet(end - start)
    }

    fn make(&mut self) -> Option<Buffer> {
        if self.made == PACKETS_MAX {
            return None;
        }
        self.made += 1;
        // Zeroed memory of this size is untouched until it is written to: small packets take a page.
        Some(vec![0; READ_LEN].into_boxed_slice().try_into().expect("it is made of that length"))
    }
}

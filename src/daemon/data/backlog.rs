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

/// What each segment counts for: a small one takes as much work as so many bytes of a long one.
const COST_BYTES_PER_SEGMENT: usize = 1024;
/// More than that is never done for one packet: the router's arenas have no room for it.
const COST_BYTES_MAX: usize = 2 << 20;

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
    /// A packet had its turn that took as much work as so many bytes of bulk traffic do.
    Packet(usize),
    /// Packets wait, and all of them for nodes that have asked for a pause. The first ends then.
    Paused(Instant),
    /// Nothing waits, or nothing that can do without the socket, which is full.
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
        let (offload, start, end, cost, flow) = match device.read(&mut buffer) {
            Ok(Some(packet)) => {
                let (len, offload) = (packet.bytes().len(), packet.offload());
                let start = device.header_len();
                (offload, start, start + len, cost_bytes(&packet), packet.view().ok().map(|view| Flow::of(&view)))
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
        self.queue.push(now, hash, cost, Waiting { id, device: place, offload, start, end, buffer });
        Ok(Read::Packet)
    }

    /// Gives the router the packet whose turn it is; while the socket is full, among those that stay on the node.
    pub(super) fn route_next(&mut self, now: Instant, router: &mut Router, devices: &Devices) -> Routed {
        let held = router.is_wire_held();
        let may_go = |waiting: &mut Waiting, is_fresh: bool| {
            let Waiting { id, offload, start, end, .. } = *waiting;
            let packet = Superpacket::new(offload, &mut waiting.buffer[start..end]);
            // A pause is for bulk traffic, and not for a lone packet.
            if held { router.is_local(id, &packet) } else { is_fresh || !router.is_paused(now, id, &packet) }
        };
        let Some(popped) = self.queue.pop(now, may_go) else {
            if held {
                return Routed::Empty;
            }
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
        Routed::Packet(popped.cost_bytes)
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

/// The work that a packet is: whatever its length, each of its segments is encrypted and sent by itself.
fn cost_bytes(packet: &Superpacket<'_>) -> usize {
    let segments = packet.segment_count() * COST_BYTES_PER_SEGMENT;
    segments.max(packet.bytes().len()).min(COST_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::os::unix::net::UnixDatagram;

    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::model::{RESOLVER, Vni, WgSecret};
    use crate::packet::{Gso, UDP_HEADERS_LEN, write_udp};
    use crate::router::{AttachmentSpec, Config, DeviceKind, Output};
    use crate::sys::clock;

    /// A device with offloads, and its container's end.
    fn device() -> (TunDevice, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        (TunDevice::new(ours.into(), true, true).expect("a descriptor"), theirs)
    }

    fn superpacket(payload_len: usize, segment_bytes: u16) -> Vec<u8> {
        let at = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 1), 1000);
        let mut packet = vec![0; UDP_HEADERS_LEN + payload_len];
        write_udp(&mut packet, at, at, &vec![7; payload_len]).expect("it fits");
        let work = Offload { gso: Gso::Udp { segment_bytes }, checksum: Some((20, 6)), headers_len: 28 };
        [&work.encode()[..], &packet].concat()
    }

    #[test]
    fn a_container_that_sends_many_small_segments_gets_no_more_of_the_work_than_one_that_sends_long_ones() {
        let (mut backlog, now) = (Backlog::default(), clock::now());
        let (small, long) = (superpacket(128, 1), superpacket(44 * 1400, 1400));
        let flow =
            |packet: &[u8]| Superpacket::complete(&mut packet[10..].to_vec()).view().ok().map(|view| Flow::of(&view));
        let bucket =
            |backlog: &Backlog, last, packet| backlog.hasher.hash_one((AttachmentId([last; 8]), flow(packet))) as u8;
        let taken = bucket(&backlog, 1, &small);
        let other = (2..).find(|last| bucket(&backlog, *last, &long) != taken).expect("not all share a place");
        for (place, last, packet) in [(0, 1, &small), (1, other, &long)] {
            let (device, container) = device();
            for _ in 0..30 {
                container.send(packet).expect("it is read at once");
                assert_eq!(backlog.read(now, place, AttachmentId([last; 8]), &device), Ok(Read::Packet));
            }
        }
        // Nobody is attached: what counts is whose turn it is.
        let (mut router, devices) = (Router::new(Config::default(), [1; 32]), Devices::default());
        let mut segments = [0, 0];
        for _ in 0..30 {
            match backlog.route_next(now, &mut router, &devices) {
                Routed::Packet(cost) if cost == 128 * COST_BYTES_PER_SEGMENT => segments[0] += 128,
                Routed::Packet(cost) if cost == long.len() - 10 => segments[1] += 44,
                other => panic!("{other:?}"),
            }
        }
        assert!(segments[0] < 2 * segments[1] && segments[1] < 2 * segments[0], "{segments:?}");
    }

    #[test]
    fn no_claim_of_a_container_makes_a_packet_cost_more_than_the_work_that_is_done_for_it() {
        let (device, container) = device();
        container.send(&superpacket(60_000, 1)).expect("it is read at once");
        let (mut backlog, now) = (Backlog::default(), clock::now());
        backlog.read(now, 0, AttachmentId([1; 8]), &device).expect("a device");
        let mut router = Router::new(Config::default(), [1; 32]);
        assert_eq!(backlog.route_next(now, &mut router, &Devices::default()), Routed::Packet(COST_BYTES_MAX));
    }

    #[test]
    fn while_the_socket_is_full_what_stays_on_the_node_passes_what_does_not() {
        let (now, vni) = (clock::now(), Vni::try_from(7).expect("a VNI"));
        let address = |last| Ipv4Addr::new(10, 240, 0, last);
        let mut router = Router::new(Config::default(), [1; 32]);
        let [(first, container), (second, neighbour)] = [device(), device()];
        let ids = [1, 2].map(|last| AttachmentId([last; 8]));
        for (last, id) in [1, 2].into_iter().zip(ids) {
            let secret = WgSecret::random(&mut ChaCha20Rng::from_seed([last; 32]));
            let device = DeviceKind::Tun { offload: true, uso: true };
            let spec = AttachmentSpec { id, vni, address: address(last), secret, mtu_bytes: 1408, device };
            router.attach(now, spec).expect("free");
        }
        let poll = mio::Poll::new().expect("epoll");
        let mut devices = Devices::default();
        devices.insert(poll.registry(), ids[1], second).expect("a descriptor");

        let (mut backlog, from) = (Backlog::default(), SocketAddrV4::new(address(1), 1000));
        for to in [(address(3), 2000), (address(2), 2000), (address(4), 2000), (RESOLVER, 53)] {
            let mut packet = [0; UDP_HEADERS_LEN + 5];
            write_udp(&mut packet, from, SocketAddrV4::new(to.0, to.1), b"hello").expect("it fits");
            container.send(&[&Offload::NONE.encode()[..], &packet].concat()).expect("it is read at once");
            assert_eq!(backlog.read(now, 0, ids[0], &first), Ok(Read::Packet));
        }
        router.hold_wire(0);
        let mut routed = |router: &mut Router| {
            std::iter::from_fn(|| match backlog.route_next(now, router, &devices) {
                Routed::Packet(cost) => Some(cost),
                Routed::Paused(_) | Routed::Empty => None,
            })
            .count()
        };
        assert_eq!(routed(&mut router), 2);
        neighbour.set_nonblocking(true).expect("a descriptor");
        assert_eq!(neighbour.recv(&mut [0; 100]).expect("the neighbour's"), 10 + UDP_HEADERS_LEN + 5);
        assert!(matches!(router.poll_output(), Some(Output::Resolver { .. })));
        assert_eq!(router.drops().total(), 0);
        router.release_wire();
        assert_eq!(routed(&mut router), 2);
        assert_eq!(router.drops().of(DropReason::UnknownDestination), 2);
    }
}

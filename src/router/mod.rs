//! Routes every packet between containers, on this node and on others.
//!
//! Feed it: [`Router::handle_device`] with what a container sent, [`Router::handle_wire`] with what came to the port,
//! [`Router::handle_timeout`] when [`Router::next_timeout`] has come. Then drain [`Router::poll_output`] until `None`. Several
//! packets may be fed before, as long as [`Router::has_room_outbound`] and [`Router::has_room_inbound`] say so: what shares
//! a destination leaves in one batch, and what shares a flow reaches a device in one superpacket. When the socket is full,
//! [`Router::hold_wire`] keeps what it did not take; when more is received than is decrypted, [`Router::handle_intake`] slows the
//! senders down, and [`Router::is_paused`] says which packets are to wait because another node has asked for that.
//!
//! A packet from a container is dropped unless its source is exactly the container's address; a packet from a peer unless it
//! came through the tunnel of its frame's VNI and generation, from exactly the remote attachment's address, to exactly ours.
//! Whatever is dropped is counted under a [`DropReason`]. A tunnel is made on the first packet, tried as [`tunnel`] says,
//! and closed when it has been idle. All that grows has a bound.
//!
//! The router opens no socket, reads no clock of its own (boringtun reads one inside, [`noise`] says where), and never sends
//! a packet in the clear to another node. It trusts `membership` for who holds which address and key, and nobody for
//! anything else.

mod attachment;
mod change;
mod drops;
mod fair;
mod gate;
mod handshake;
mod inbound;
mod lifecycle;
mod noise;
mod outbound;
mod outbox;
mod peer;
mod pressure;
mod status;
mod timers;
mod tunnel;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::membership::Membership;
use crate::model::{AttachmentId, Generation, NodeId, Psk, Vni, WgPublicKey};
use crate::packet::{Batch, Gather};

pub use attachment::{AttachError, AttachmentSpec, DeviceKind, Traffic};
pub use drops::{DropReason, Drops};
pub use fair::{FairQueue, Popped};
pub use pressure::{Intake, Pauses};
pub use status::{AttachmentStatus, PeerStatus};

use attachment::Attachments;
use gate::{Pacer, SourceGate};
use handshake::Waiting;
use outbox::Outbox;
use peer::Peers;
use pressure::Pressure;
use timers::Timers;
use tunnel::Tunnels;

/// Handshakes a second from an address that is no member's.
const STRANGER_HANDSHAKES_PER_SECOND: u8 = 20;

/// What bounds the router.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tunnels at once, of about 11 KB each. Beyond it the longest idle of a few gives way, or the new one is refused.
    pub tunnels_max: usize,
    /// A tunnel is closed when no packet has passed it for so long.
    pub idle_timeout: Duration,
    /// Packets that wait for one tunnel.
    pub queue_len_max: usize,
    /// Bytes that wait for tunnels in all.
    pub queue_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tunnels_max: 16_384,
            idle_timeout: Duration::from_secs(180),
            queue_len_max: 64,
            queue_bytes_max: 4 << 20,
        }
    }
}

/// What the router wants done.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send these datagrams.
    Wire { to: SocketAddr, batch: Batch<'a> },
    /// Write this packet to the attachment's device.
    Device { attachment: AttachmentId, packet: Gather<'a> },
    /// A container sent this IPv4 packet, a whole UDP datagram or TCP segment, to the resolver's port 53. What answers it
    /// goes to [`Router::handle_local`].
    Resolver { attachment: AttachmentId, packet: &'a [u8] },
    /// Something the control plane may want to know.
    Event(Event),
}

/// What the control plane may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A handshake by a key that no container of the network has came from a member's address. It waits for up to 1 s for
    /// the container's record.
    UnknownPeer { vni: Vni, key: WgPublicKey, from: SocketAddr },
    /// A frame or a container asks for a network's secret of a generation that this node does not hold.
    MissingKey { vni: Vni, generation: Option<Generation> },
}

/// The machine.
pub struct Router {
    config: Config,
    rng: ChaCha20Rng,
    node: Option<NodeId>,
    membership: Arc<Membership>,
    /// The newest two generations of each network, newest first.
    keys: HashMap<Vni, Vec<(Generation, Psk)>>,
    attachments: Attachments,
    tunnels: Tunnels,
    peers: Peers,
    strangers: SourceGate,
    pacer: Pacer,
    waiting: Waiting,
    timers: Timers,
    pressure: Pressure,
    queued_bytes: usize,
    /// Where a packet is padded.
    padded: Vec<u8>,
    out: Outbox,
    drops: Drops,
}

impl Router {
    /// A router without attachments. `seed` decides indices and jitter.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            config,
            node: None,
            membership: Arc::default(),
            keys: HashMap::new(),
            attachments: Attachments::default(),
            tunnels: Tunnels::new(rng.next_u32()),
            peers: Peers::default(),
            strangers: SourceGate::new(rng.next_u64(), STRANGER_HANDSHAKES_PER_SECOND),
            pacer: Pacer::default(),
            waiting: Waiting::default(),
            timers: Timers::default(),
            pressure: Pressure::default(),
            queued_bytes: 0,
            padded: Vec::new(),
            out: Outbox::new(),
            drops: Drops::default(),
            rng,
        }
    }

    /// The next thing to do; `None` when all is done until something is fed.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        self.out.poll()
    }

    /// Whether one more packet of a device can be fed before the output is drained.
    pub fn has_room_outbound(&self) -> bool {
        self.out.has_room_outbound()
    }

    /// Whether one more received buffer can be fed before the output is drained.
    pub fn has_room_inbound(&self) -> bool {
        self.out.has_room_inbound()
    }

    /// The socket is full, and took only `sent` datagrams of the last batch. The others are kept, and [`Output::Wire`] comes
    /// no more until [`Self::release_wire`]; until then feed no packet of a device but those that [`Self::is_local`] names.
    pub fn hold_wire(&mut self, sent: usize) {
        self.out.hold_wire(sent);
    }

    /// The socket takes datagrams again.
    pub fn release_wire(&mut self) {
        self.out.release_wire();
    }

    /// Whether datagrams are held back.
    pub fn is_wire_held(&self) -> bool {
        self.out.is_wire_held()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.waiting.next_timeout()).min()
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Counts what was dropped on the router's behalf, by whoever owns the socket and the devices.
    pub fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
    }
}

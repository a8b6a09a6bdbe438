//! The data plane: one thread that owns the UDP socket, every TUN and the router, and takes no lock for a packet.
//!
//! [`DataPlane::spawn`] starts it; a [`DataHandle`] tells it what changes and asks it how it is. What it is told is kept until it
//! comes round, the latest of each thing, so a slow turn holds up nobody and nothing grows. What QUIC gets goes through a
//! bounded channel to [`QuicSocket`]; the resolver is called in place, since its answers come from memory.
//!
//! Closing a TUN takes the kernel 17 ms, so this thread never does: it hands devices back, or lets another thread close them.

mod backlog;
mod devices;
mod handle;
mod thread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::quic_socket::{self, QuicSocket};
use crate::model::{AttachmentId, NodeId, Vni, WgPublicKey, WgSecret};
use crate::router::{AttachmentStatus, DropReason, Drops, Pauses, PeerStatus};
use crate::sys::udp::{UdpCapabilities, UdpSocket};

pub use handle::{DataError, DataHandle};

/// Events that may wait for the control plane; what is beyond is lost, and would come again.
const EVENTS_MAX: usize = 64;

/// Packets for containers.
pub type Replies = Vec<(AttachmentId, Vec<u8>)>;

/// What stands at the resolver's address. It is called in place, so it never waits.
pub trait Resolver: Send {
    /// A container sent a UDP datagram or a TCP segment to the DNS port.
    fn handle_packet(&mut self, from: AttachmentId, packet: &[u8], replies: &mut Replies);
    /// Somebody said [`DataHandle::wake`].
    fn handle_wake(&mut self, replies: &mut Replies);
    /// What [`Self::next_timeout`] said has come.
    fn handle_timeout(&mut self, now: Instant, replies: &mut Replies);
    fn next_timeout(&self) -> Option<Instant>;
    /// An attachment is gone.
    fn forget(&mut self, attachment: AttachmentId);
    /// What was dropped or refused there, by reason.
    fn drops(&self) -> Drops;
}

/// What the data plane starts with.
pub struct DataConfig {
    /// The node's one UDP socket.
    pub socket: UdpSocket,
    pub resolver: Box<dyn Resolver>,
    /// Decides indices and jitter.
    pub seed: [u8; 32],
    /// This node: no tunnel leads to itself.
    pub node: NodeId,
}

/// A container that is to be served.
pub struct Attachment {
    pub id: AttachmentId,
    pub vni: Vni,
    pub address: Ipv4Addr,
    pub secret: WgSecret,
    pub mtu_bytes: u16,
}

/// Its TUN.
#[derive(Debug)]
pub struct Device {
    pub fd: OwnedFd,
    /// Whether packets carry a virtio-net header.
    pub vnet_hdr: bool,
    /// Whether the kernel takes UDP superpackets.
    pub uso: bool,
}

/// What the control plane may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataEvent {
    /// The attachment's interface was deleted; its device is closed, the attachment stands.
    DeviceGone(AttachmentId),
    /// A member's node knows a container that this node has no record of; its handshake waits for 1 s.
    UnknownPeer { vni: Vni, key: WgPublicKey },
    /// A network's secret is needed that this node does not hold.
    MissingKey(Vni),
}

/// How the data plane is.
#[derive(Debug, Clone)]
pub struct DataStats {
    /// Dropped packets by reason, those that never occurred included.
    pub drops: BTreeMap<DropReason, u64>,
    pub peers: BTreeMap<NodeId, PeerStatus>,
    pub attachments: BTreeMap<AttachmentId, AttachmentStatus>,
    /// Tunnels, open or opening.
    pub tunnels: usize,
    pub pauses: Pauses,
    pub devices: DeviceOffloads,
}

/// What the containers' devices can do: found out for each when it is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceOffloads {
    /// Devices that exchange TCP and UDP superpackets.
    pub all: usize,
    /// Devices of kernels before 6.2, without UDP superpackets.
    pub tcp_only: usize,
    /// Devices that exchange packets one by one.
    pub none: usize,
}

impl std::fmt::Display for DeviceOffloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.all, "with TCP and UDP superpackets"),
            (self.tcp_only, "with TCP superpackets"),
            (self.none, "without superpackets"),
        ];
        let mut kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
        let Some((count, kind)) = kinds.next() else { return f.write_str("none") };
        write!(f, "{count} {kind}")?;
        kinds.try_for_each(|(count, kind)| write!(f, ", {count} {kind}"))
    }
}

/// What the data plane found on this host, in words, for `status`.
pub type Facts = BTreeMap<String, String>;

/// The data plane, to be started.
#[derive(Debug, Clone, Copy)]
pub struct DataPlane;

impl DataPlane {
    /// Starts the thread. Returns how to talk to it, QUIC's part of the socket, and what it found on this host, for `status`.
    ///
    /// # Errors
    /// When the system gives no epoll, descriptor or thread.
    pub fn spawn(config: DataConfig) -> io::Result<(DataHandle, Arc<QuicSocket>, Facts)> {
        let socket = Arc::new(config.socket);
        let capabilities = socket.capabilities();
        if capabilities.recv_buffer_short {
            let counted_bytes = capabilities.recv_buffer_bytes;
            tracing::warn!(counted_bytes, "the receive buffer is small and bursts are lost: {RAISE_RECV_BUFFER}");
        }
        let facts = facts(capabilities);
        let (quic_sender, quic) = quic_socket::pair(socket.clone());
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let parts = thread::Parts {
            socket,
            resolver: config.resolver,
            seed: config.seed,
            node: config.node,
            quic: quic_sender,
            events,
        };
        let shared = thread::spawn(parts)?;
        Ok((DataHandle::new(shared, inbox), Arc::new(quic), facts))
    }
}

/// What helps a receive buffer that is too small.
const RAISE_RECV_BUFFER: &str = "raise net.core.rmem_max to 4194304";

/// What `status` says of the socket.
fn facts(socket: UdpCapabilities) -> BTreeMap<String, String> {
    let offload = |segments: usize| match segments {
        0 | 1 => "none: a system call for each datagram".to_owned(),
        many => format!("up to {many} datagrams a call"),
    };
    let mut buffers = format!("receive {} bytes, send {} bytes", socket.recv_buffer_bytes, socket.send_buffer_bytes);
    if socket.recv_buffer_short {
        buffers += &format!(": receive is below what bursts need, {RAISE_RECV_BUFFER}");
    }
    BTreeMap::from([
        ("udp send offload".to_owned(), offload(socket.send_segments)),
        ("udp receive offload".to_owned(), offload(socket.recv_segments)),
        ("socket buffers".to_owned(), buffers),
    ])
}

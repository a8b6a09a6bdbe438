//! What the router says of itself.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use crate::model::{AttachmentId, NodeId, Vni};

use super::{Router, Traffic};

/// Another node, as the data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub node: NodeId,
    /// Where packets for it go.
    pub endpoint: Option<SocketAddr>,
    /// When its last authenticated packet came.
    pub last_heard: Option<Instant>,
    /// When a session was last made with one of its containers.
    pub last_handshake: Option<Instant>,
    /// Bytes of packets, without what the tunnels add.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Tunnels to its containers that can encrypt.
    pub tunnels: usize,
}

/// A local attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentStatus {
    pub id: AttachmentId,
    pub vni: Vni,
    pub address: Ipv4Addr,
    pub traffic: Traffic,
}

impl Router {
    /// The other nodes that the router has heard of, by id.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers: BTreeMap<NodeId, PeerStatus> = self
            .peers
            .iter()
            .map(|peer| {
                let status = PeerStatus {
                    node: peer.node,
                    endpoint: peer.endpoint,
                    last_heard: peer.last_heard,
                    last_handshake: peer.last_handshake,
                    rx_bytes: peer.rx_bytes,
                    tx_bytes: peer.tx_bytes,
                    tunnels: 0,
                };
                (peer.node, status)
            })
            .collect();
        for (_, tunnel) in self.tunnels.iter().filter(|(_, tunnel)| tunnel.established) {
            if let Some(status) = peers.get_mut(&self.peers[tunnel.peer].node) {
                status.tunnels += 1;
            }
        }
        peers.into_values().filter(|peer| Some(peer.node) != self.node).collect()
    }

    /// When each node's newest authenticated packet came.
    pub fn heard(&self) -> Vec<(NodeId, Instant)> {
        self.peers.iter().filter_map(|peer| Some((peer.node, peer.last_heard?))).collect()
    }

    /// The local attachments.
    pub fn attachments(&self) -> impl Iterator<Item = AttachmentStatus> + '_ {
        self.attachments.iter().map(|(_, attachment)| AttachmentStatus {
            id: attachment.id,
            vni: attachment.vni,
            address: attachment.address,
            traffic: attachment.traffic,
        })
    }

    /// How many tunnels there are, open or opening.
    pub fn tunnel_count(&self) -> usize {
        self.tunnels.len()
    }
}

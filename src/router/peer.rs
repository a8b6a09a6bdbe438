//! The other nodes, as the data plane knows them: where they are, and when they were last heard.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::membership::Membership;
use crate::model::NodeId;

/// A learned address that has been silent for so long gives way to one that the control plane names.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A node in the table. It stays valid for the table's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerSlot(u32);

/// One other node.
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Whether it is down, as far as this node can tell.
    pub(super) is_down: bool,
    /// Where its newest authenticated packet came from.
    learned: Option<SocketAddr>,
    /// Where the control plane says it is.
    told: Option<SocketAddr>,
    /// Where its own record says it is.
    recorded: Vec<SocketAddr>,
    /// Where packets go.
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) last_heard: Option<Instant>,
    pub(super) last_handshake: Option<Instant>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Peer {
    /// Where the `attempt`-th handshake goes, from 0: to where packets go, and from the second on to one of the other known
    /// addresses as well, each in its turn. So an address where nobody is takes no try from the one that is right.
    pub(super) fn candidates(&self, attempt: u32) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let mut others: Vec<SocketAddr> = Vec::with_capacity(2 + self.recorded.len());
        for address in self.learned.iter().chain(&self.told).chain(&self.recorded) {
            if self.endpoint != Some(*address) && !others.contains(address) {
                others.push(*address);
            }
        }
        let turn = (attempt as usize).checked_sub(1).filter(|_| !others.is_empty());
        (self.endpoint, turn.map(|turn| others[turn % others.len()]))
    }

    fn choose(&mut self) {
        self.endpoint = self.learned.or(self.told).or_else(|| self.recorded.first().copied());
    }
}

/// All other nodes.
#[derive(Default)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    by_node: HashMap<NodeId, PeerSlot>,
    /// Every address at which some member is, or says it is.
    endpoints: HashSet<SocketAddr>,
}

impl std::ops::Index<PeerSlot> for Peers {
    type Output = Peer;

    fn index(&self, slot: PeerSlot) -> &Peer {
        &self.peers[slot.0 as usize]
    }
}

impl std::ops::IndexMut<PeerSlot> for Peers {
    fn index_mut(&mut self, slot: PeerSlot) -> &mut Peer {
        &mut self.peers[slot.0 as usize]
    }
}

impl Peers {
    /// The node's place in the table, made if there is none.
    pub(super) fn slot(&mut self, node: NodeId) -> PeerSlot {
        *self.by_node.entry(node).or_insert_with(|| {
            self.peers.push(Peer {
                node,
                is_down: false,
                learned: None,
                told: None,
                recorded: Vec::new(),
                endpoint: None,
                last_heard: None,
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
            });
            PeerSlot(self.peers.len() as u32 - 1)
        })
    }

    /// Takes the addresses that the nodes' own records name. Nodes that are none any more keep no address.
    pub(super) fn set_membership(&mut self, membership: &Membership) {
        for node in membership.nodes() {
            let slot = self.slot(node.id);
            let peer = &mut self[slot];
            peer.recorded.clear();
            peer.recorded.extend(node.endpoints.iter().copied().map(canonical));
            peer.choose();
        }
        self.endpoints.clear();
        for peer in &mut self.peers {
            peer.is_down = membership.is_silent(peer.node);
            if membership.node(peer.node).is_none() {
                (peer.learned, peer.told, peer.endpoint) = (None, None, None);
                peer.recorded.clear();
            }
            self.endpoints.extend(peer.learned.iter().chain(&peer.told).chain(&peer.recorded));
        }
    }

    /// How surely a node is at this address, from 0 on: by its own packets, by the control plane's connection, by what it says
    /// of itself, or not at all.
    pub(super) fn nearness(&self, node: NodeId, address: SocketAddr) -> u8 {
        let Some(peer) = self.by_node.get(&node).map(|slot| &self[*slot]) else { return 3 };
        let known = [peer.learned == Some(address), peer.told == Some(address), peer.recorded.contains(&address)];
        known.iter().position(|is_there| *is_there).unwrap_or(known.len()) as u8
    }

    /// The control plane knows where the node is.
    pub(super) fn set_endpoint(&mut self, now: Instant, node: NodeId, address: SocketAddr) {
        let (slot, address) = (self.slot(node), canonical(address));
        self.endpoints.insert(address);
        let peer = &mut self[slot];
        peer.told = Some(address);
        if peer.last_heard.is_none_or(|heard| now.saturating_duration_since(heard) > SILENCE_MAX) {
            peer.learned = None;
        }
        peer.choose();
    }

    /// An authenticated packet of the node arrived; `moved_to`, if it is the newest, is where from.
    pub(super) fn heard(&mut self, now: Instant, slot: PeerSlot, moved_to: Option<SocketAddr>) {
        let peer = &mut self.peers[slot.0 as usize];
        peer.last_heard = Some(now);
        if let Some(address) = moved_to
            && peer.learned != Some(address)
        {
            // The address it left is forgotten, else a member could fill the table by moving about.
            if let Some(left) = peer.learned.replace(address)
                && peer.told != Some(left)
                && !peer.recorded.contains(&left)
            {
                self.endpoints.remove(&left);
            }
            peer.endpoint = Some(address);
            self.endpoints.insert(address);
        }
    }

    /// Whether some member is, or says it is, at this address.
    pub(super) fn is_endpoint(&self, address: SocketAddr) -> bool {
        self.endpoints.contains(&address)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }
}

/// An IPv4 address in its own form, however a socket of both families writes it.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::start;

    #[test]
    fn what_the_control_plane_says_wins_over_an_address_that_fell_silent_only() {
        let (mut peers, now, node) = (Peers::default(), start(), NodeId([1; 32]));
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let slot = peers.slot(node);
        peers.set_endpoint(now, node, at(1));
        assert_eq!(peers[slot].endpoint, Some(at(1)));
        peers.heard(now, slot, Some(at(2)));
        peers.set_endpoint(now + Duration::from_secs(1), node, at(3));
        assert_eq!(peers[slot].endpoint, Some(at(2)));
        let (right, other) = (Some(at(2)), Some(at(3)));
        assert_eq!([0, 1, 2].map(|n| peers[slot].candidates(n)), [(right, None), (right, other), (right, other)]);
        peers.set_endpoint(now + Duration::from_secs(9), node, at(3));
        assert_eq!(peers[slot].endpoint, Some(at(3)));
        assert!(peers.is_endpoint(at(2)) && !peers.is_endpoint(at(9)));
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_both_families() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:9".parse().expect("an address");
        assert_eq!(canonical(mapped), "192.0.2.1:9".parse().expect("an address"));
    }
}

//! What [`super::alive`] asks for, as datagrams between members, and what follows when a node is down or back.
//!
//! ```text
//! datagram = [0] are you there | [1] I am | [2, node] I do not hear this node     CBOR, on a QUIC connection of two members
//! ```
//! A question and its answer have the same length, and a datagram is answered by one at most. None is repeated: the next
//! question is its repetition.

use std::collections::BTreeSet;
use std::time::Instant;

use minicbor::{Decode, Encode};
use rand_core::RngCore;

use super::alive::{Liveness, Step};
use super::api::{ConnectionId, Output};
use super::machine::Gossip;
use crate::model::NodeId;

/// No datagram is longer.
pub const DATAGRAM_LEN_MAX: usize = 64;
/// How many are told that a node is down; those of them who find it so tell as many.
const TELL_COUNT: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
enum Datagram {
    #[n(0)]
    AreYouThere,
    #[n(1)]
    IAm,
    #[n(2)]
    Silent(#[n(0)] NodeId),
}

impl Gossip {
    /// A datagram of a peer. Of one whose Hello was not accepted, and one that does not read, it is dropped.
    pub fn handle_datagram(&mut self, connection: ConnectionId, bytes: &[u8], now: Instant) {
        let Some(peer) = self.peers.member(connection) else { return };
        let Ok(datagram) = minicbor::decode::<Datagram>(bytes) else { return };
        self.note_heard(peer, now, now);
        match datagram {
            Datagram::AreYouThere => self.send_datagram(connection, Datagram::IAm),
            Datagram::IAm => {}
            Datagram::Silent(node) => self.alive.rumour(node, now, &mut self.rng),
        }
        self.settle(now);
    }

    /// When the data plane last heard each node: its authenticated frames are life.
    pub fn handle_heard(&mut self, heard: impl IntoIterator<Item = (NodeId, Instant)>, now: Instant) {
        for (node, at) in heard {
            self.note_heard(node, at, now);
        }
        self.settle(now);
    }

    /// How a node is; `None` of one that shares no network with this one.
    pub fn liveness(&self, node: NodeId) -> Option<Liveness> {
        self.alive.state(node)
    }

    /// Whether [`Gossip::handle_heard`] would help: some node is being asked, and does not answer.
    pub fn is_asking(&self) -> bool {
        self.alive.is_asking()
    }

    /// Something authenticated came from this node.
    pub(super) fn note_heard(&mut self, node: NodeId, at: Instant, now: Instant) {
        if self.alive.heard(node, at, now) {
            tracing::info!(%node, "a node is heard again");
            self.show_silence();
        }
    }

    /// Asks whom it is time to ask.
    pub(super) fn tend_alive(&mut self, now: Instant) {
        let near = if self.alive.wants_turns(now) { self.near() } else { Vec::new() };
        for step in self.alive.tick(near, now, &mut self.rng) {
            match step {
                Step::Ask(node) => match self.peers.connection(node) {
                    Some(connection) => self.send_datagram(connection, Datagram::AreYouThere),
                    // A dial that stands is a question that is answered.
                    None => self.dial_if_due(node, now),
                },
                Step::Lost(node) => {
                    tracing::info!(%node, "a node is down: its containers are hidden");
                    self.show_silence();
                    self.tell_silence(node);
                }
            }
        }
    }

    /// Grants have changed: watches whoever shares a network with this node, and nobody else.
    pub(super) fn watch_shared(&mut self, now: Instant) {
        if !std::mem::take(&mut self.shared_changed) {
            return;
        }
        let granted = self.networks.values().flat_map(|network| network.view.grants.keys().copied());
        let shared: BTreeSet<NodeId> = granted.filter(|node| *node != self.me).collect();
        if self.alive.watch(&shared, now) {
            self.show_silence();
        }
    }

    pub(super) fn near(&self) -> Vec<NodeId> {
        let near: BTreeSet<NodeId> = self.peers.members().chain(self.dial_set()).collect();
        near.into_iter().collect()
    }

    fn show_silence(&mut self) {
        std::sync::Arc::make_mut(&mut self.membership).set_silent(self.alive.down());
        self.membership_changed = true;
    }

    /// A few of those who share a network with this node and that one are to look for themselves.
    fn tell_silence(&mut self, node: NodeId) {
        let share = |peer: &NodeId| {
            *peer != node && self.networks.values().any(|network| network.is_granted(*peer) && network.is_granted(node))
        };
        let mut peers: Vec<NodeId> = self.peers.members().filter(share).collect();
        while peers.len() > TELL_COUNT {
            let at = self.rng.next_u64() as usize % peers.len();
            peers.swap_remove(at);
        }
        for peer in peers {
            if let Some(connection) = self.peers.connection(peer) {
                self.send_datagram(connection, Datagram::Silent(node));
            }
        }
    }

    fn send_datagram(&mut self, connection: ConnectionId, datagram: Datagram) {
        let bytes = minicbor::to_vec(datagram).expect("a Vec takes every byte");
        self.outputs.push_back(Output::Datagram { connection, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_long_as_its_answer_and_every_datagram_is_short() {
        let len = |datagram| minicbor::to_vec(datagram).expect("encodes").len();
        assert_eq!(len(Datagram::AreYouThere), len(Datagram::IAm));
        assert!(len(Datagram::Silent(NodeId([255; 32]))) <= DATAGRAM_LEN_MAX);
    }
}

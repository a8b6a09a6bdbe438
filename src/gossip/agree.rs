//! Whether the nodes that are connected hold the same records, as their last comparison said.

use std::collections::BTreeMap;
use std::time::Instant;

use super::exchange::Asked;
use super::machine::Gossip;
use crate::model::NodeId;

/// When each node last held all that it shares with this one, and nothing else.
#[derive(Default)]
pub(super) struct Agreements(BTreeMap<NodeId, Instant>);

impl Agreements {
    pub(super) fn note(&mut self, peer: NodeId, now: Instant) {
        self.0.insert(peer, now);
    }
}

impl Gossip {
    /// Compares all that is shared with every connected node, now instead of when its turn comes.
    pub fn compare_with_all(&mut self, now: Instant) {
        if !self.exchanges.is_asking(&Asked::Sync) {
            let connected: Vec<_> = self.peers.members().collect();
            for peer in connected {
                if let Some(connection) = self.peers.connection(peer) {
                    self.sync_with(connection, peer, now);
                }
            }
        }
        self.settle(now);
    }

    /// The connected nodes that have not been found to hold the same records since then.
    pub fn disagreeing_since(&self, since: Instant) -> Vec<NodeId> {
        let agrees = |peer: &NodeId| self.agreements.0.get(peer).is_some_and(|at| *at >= since);
        self.peers.members().filter(|peer| !agrees(peer)).collect()
    }
}

//! How the addresses of a node that was expelled or ungranted come back: every granted node says that it knows.
//!
//! A node that has not heard of it goes on to believe what the removed one says of its containers. So each granted node puts into
//! its own log a mark of all whom it knows to be removed, for as long as one of them holds addresses; when everybody's mark is
//! the home's, the home takes the addresses back, and they rest. No clock takes part: a node that is away holds the return up until
//! it is back, or is removed itself.

use super::machine::Gossip;
use crate::membership::body::{Ack, Body};
use crate::membership::{Kind, Shard, removal_mark};
use crate::model::{CONTAINERS, EXTRAS, NetworkId, Rev};

impl Gossip {
    /// Says whom this node knows to be removed, or says it no more once that brings nothing back.
    pub(super) fn acknowledge_removals(&mut self, network: &NetworkId) {
        let Some(state) = self.networks.get(network) else { return };
        let mut segments = [CONTAINERS, EXTRAS].into_iter().flat_map(|space| state.holdings.segments(space));
        // What a removed node is home of, nobody else can give out.
        let holds = segments.any(|segment| {
            segment.holder.is_some_and(|node| node != segment.home && state.removed.contains_key(&node))
        });
        drop(segments);
        let known = removal_mark(&state.removed).filter(|_| holds);
        let Some((log, pen)) = self.own(&Shard::Network(network.clone())) else { return };
        let said = log.record(Kind::ACK, &[]).and_then(|record| match record.body() {
            Body::Ack(ack) => Some(ack.removed),
            _ => None,
        });
        match known {
            _ if said == known => {}
            Some(removed) => drop(log.put(pen, &Body::Ack(Ack { removed }), Rev(0))),
            None => drop(log.remove(Kind::ACK, &[])),
        }
    }
}

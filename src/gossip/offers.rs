//! How a grantee learns of a network: whoever holds it and meets the grantee offers it the definition and the grants first.
//!
//! An offer is believed if its records say so; then the network's logs are asked for like any other's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::api::ConnectionId;
use super::machine::{Gossip, Wanted};
use super::message::Message;
use crate::membership::body::Body;
use crate::membership::{NetworkState, Shard, Verified};
use crate::model::{NetworkId, NodeId};

/// How long an offered network may take to arrive.
const WANTED_TIMEOUT: Duration = Duration::from_secs(60);
/// How many offered networks may be arriving.
const WANTED_COUNT_MAX: usize = 256;
/// How many offers wait for what they rest on.
const EARLY_OFFER_COUNT_MAX: usize = 32;
/// How much memory one of them may take: a definition and some grants take a few KiB.
const EARLY_OFFER_LEN_MAX: usize = 64 * 1024;

impl Gossip {
    /// Offers a network to its grantees that are connected.
    pub(super) fn offer_to_grantees(&mut self, network: &NetworkId) {
        let Some(state) = self.networks.get(network) else { return };
        let grantees: Vec<ConnectionId> =
            state.view.grants.keys().filter_map(|grantee| self.peers.connection(*grantee)).collect();
        for connection in grantees {
            if self.peers.note_offer(connection, network) {
                self.offer(connection, network);
            }
        }
    }

    /// Offers a peer all networks that it is granted.
    pub(super) fn offer_all(&mut self, connection: ConnectionId, peer: NodeId) {
        let granted: Vec<NetworkId> =
            self.networks.iter().filter(|(_, state)| state.is_granted(peer)).map(|(id, _)| id.clone()).collect();
        for network in granted {
            if self.peers.note_offer(connection, &network) {
                self.offer(connection, &network);
            }
        }
    }

    /// Sends the network's definition and the grants that make the peer a grantee.
    pub(super) fn offer(&mut self, connection: ConnectionId, network: &NetworkId) {
        let (Some(peer), Some(state)) = (self.peers.member(connection), self.networks.get(network)) else { return };
        if !state.is_granted(peer) {
            return;
        }
        let leads_there = |record: &&Verified| match record.body() {
            Body::NetworkDef(_) => record.origin() == state.view.creator,
            Body::Grant(grant) => {
                let to_peer = grant.node == peer && state.owners.contains(&record.origin());
                let to_owner = record.origin() == state.view.creator && state.owners.contains(&grant.node);
                to_peer || to_owner
            }
            _ => false,
        };
        let records = self.logs.records(&Shard::Network(network.clone())).filter(leads_there).cloned().collect();
        self.push(connection, &Message::Offer(network.clone(), records));
    }

    /// A peer says that it shares a network with this node, which has not got it: the offer was lost. An offer without a record asks
    /// for it again.
    pub(super) fn ask_for_offer(&mut self, connection: ConnectionId, shard: &Shard) {
        let is_here = |id: &NetworkId| self.networks.contains_key(id) || self.wanted.contains_key(id);
        if let Some(network) = shard.network().filter(|id| !is_here(id)) {
            self.push(connection, &Message::Offer(network.clone(), Vec::new()));
        }
    }

    /// Answers a peer that offers a network and is granted it no more: it did not hear of that. It gets what it takes to see
    /// it, and nothing that came since.
    pub(super) fn tell_ungranted(&mut self, connection: ConnectionId, network: &NetworkId, offered: &[Verified]) {
        let (Some(peer), Some(state)) = (self.peers.member(connection), self.networks.get(network)) else { return };
        if state.is_granted(peer) {
            return;
        }
        let about = |record: &Verified| match record.body() {
            Body::Grant(grant) => Some(grant.node),
            Body::Ungrant(ungrant) => Some(ungrant.node),
            _ => None,
        };
        let records = self.logs.records(&Shard::Network(network.clone()));
        let granters = records.clone().filter(|record| about(record) == Some(peer)).map(Verified::origin);
        // Whom it takes for an owner may be none any more.
        let granters: BTreeSet<NodeId> = granters.chain(offered.iter().filter_map(about)).collect();
        let leads_there = |record: &&Verified| match about(record) {
            Some(node) => node == peer || record.origin() == state.view.creator && granters.contains(&node),
            None => matches!(record.body(), Body::NetworkDef(_)) && record.origin() == state.view.creator,
        };
        let records = records.filter(leads_there).cloned().collect();
        self.push(connection, &Message::Offer(network.clone(), records));
    }

    /// Whether these records, beside those that are here, take this node's grant back.
    fn is_ungranted_by(&self, network: &NetworkId, records: &[Verified]) -> bool {
        let shard = Shard::Network(network.clone());
        let said = records.iter().filter(|record| record.record().shard == shard);
        let all = self.logs.records(&shard).chain(said);
        let state = self.state().and_then(|cluster| NetworkState::derive(network, cluster, all));
        state.is_some_and(|state| !state.is_granted(self.me))
    }

    /// A peer says that this node is granted a network, or is granted it no more. It is believed if the records say so.
    pub(super) fn handle_offer(
        &mut self,
        connection: ConnectionId,
        network: NetworkId,
        records: &[Verified],
        now: Instant,
    ) {
        if self.networks.contains_key(&network) {
            if records.is_empty() {
                return self.offer(connection, &network);
            }
            if self.is_ungranted_by(&network, records) {
                return self.lose_network(&network, now);
            }
            return self.tell_ungranted(connection, &network, records);
        }
        if self.wanted.len() >= WANTED_COUNT_MAX {
            return;
        }
        let Some(cluster) = self.state() else { return };
        let shard = Shard::Network(network.clone());
        let of_network: Vec<&Verified> = records.iter().filter(|record| record.record().shard == shard).collect();
        let Some(offered) = NetworkState::derive(&network, cluster, of_network.iter().copied()) else {
            // Perhaps the creator's appointment is on its way.
            let len = records.iter().map(Verified::memory_len).sum::<usize>();
            if self.early_offers.len() < EARLY_OFFER_COUNT_MAX && len <= EARLY_OFFER_LEN_MAX {
                self.early_offers.push((connection, network, records.to_vec()));
            }
            return;
        };
        if !offered.is_granted(self.me) {
            return;
        }
        let until = Some(now + WANTED_TIMEOUT);
        self.wanted.entry(network).or_insert(Wanted { state: None, until });
        self.ask_heads(connection, shard, now);
    }

    /// Looks again at offers that came too early.
    pub(super) fn retry_offers(&mut self, now: Instant) {
        for (connection, network, records) in std::mem::take(&mut self.early_offers) {
            if self.peers.member(connection).is_some() {
                self.handle_offer(connection, network, &records, now);
            }
        }
    }

    /// Gives up offered networks that never arrived.
    pub(super) fn expire_wanted(&mut self, now: Instant) {
        let late: Vec<NetworkId> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| wanted.until.is_some_and(|until| until <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for network in late {
            self.lose_network(&network, now);
        }
    }
}

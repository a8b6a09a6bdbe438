//! Network secrets: in no record, fetched from any holder over mutual TLS, and checked against what an owner published.

use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::Output;
use super::exchange::Asked;
use super::files;
use super::machine::Gossip;
use super::message::{Message, SecretBytes};
use crate::membership::Shard;
use crate::membership::body::{Body, SecretHash};
use crate::model::{Generation, NetworkId, NetworkSecret, NodeId};

/// How many generations are kept: receivers accept the newest two.
const GENERATION_COUNT_MAX: usize = 2;
pub(super) const SEEK_EVERY: Duration = Duration::from_secs(1);

impl Gossip {
    /// Makes the network's next secret and publishes its hash.
    pub(super) fn rotate_secret(&mut self, network: &NetworkId) {
        let newest = self.networks.get(network).map(|state| (state.view.secret, state.next_secret_rev()));
        let (generation, rev) = match newest {
            Some((Some((generation, _)), rev)) => (Generation(generation.0.wrapping_add(1)), rev),
            Some((None, rev)) => (Generation(0), rev),
            None => (Generation(0), crate::model::Rev(1)),
        };
        let secret = NetworkSecret::random(&mut self.rng);
        let body = Body::Secret(SecretHash { generation, hash: secret.hash() });
        self.keep_secret(network, generation, secret);
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            log.put(pen, &body, rev);
        }
    }

    /// Asks a holder for the newest secret, if it is not here.
    pub(super) fn seek_secret(&mut self, network: &NetworkId, now: Instant) {
        let Some(state) = self.networks.get(network) else { return };
        let Some((generation, hash)) = state.view.secret else { return };
        if self.holds(network, generation, hash) {
            return;
        }
        let asked = Asked::Secret(network.clone(), generation);
        let holders: Vec<NodeId> = self.peers.members().filter(|peer| state.is_granted(*peer)).collect();
        if holders.is_empty() || self.exchanges.is_asking(&asked) {
            return;
        }
        let holder = holders[self.rng.next_u64() as usize % holders.len()];
        if let Some(connection) = self.peers.connection(holder) {
            self.ask(connection, &Message::AskSecret(network.clone(), generation), asked, now);
        }
    }

    fn holds(&self, network: &NetworkId, generation: Generation, hash: [u8; 32]) -> bool {
        let held = self.secrets.get(network).into_iter().flatten();
        held.into_iter().any(|(held, secret)| *held == generation && secret.hash() == hash)
    }

    /// Asks again for every secret that is missing.
    pub(super) fn seek_secrets(&mut self, now: Instant) {
        let networks: Vec<NetworkId> = self.networks.keys().cloned().collect();
        for network in networks {
            self.seek_secret(&network, now);
        }
    }

    pub(super) fn answer_secret(&self, peer: NodeId, network: &NetworkId, generation: Generation) -> Message {
        if !self.may_see(peer, &Shard::Network(network.clone())) {
            return Message::Unknown;
        }
        let held = self.secrets.get(network).into_iter().flatten().find(|(held, _)| *held == generation);
        held.map_or(Message::Unknown, |(_, secret)| Message::Secret(SecretBytes(secret.clone())))
    }

    /// A holder's answer: kept if it is the secret that the record's hash names.
    pub(super) fn take_secret(&mut self, network: &NetworkId, generation: Generation, secret: NetworkSecret) {
        let published = self.networks.get(network).and_then(|state| state.view.secret);
        if published == Some((generation, secret.hash())) {
            self.keep_secret(network, generation, secret);
        }
    }

    fn keep_secret(&mut self, network: &NetworkId, generation: Generation, secret: NetworkSecret) {
        let held = self.secrets.entry(network.clone()).or_default();
        held.retain(|(of, _)| *of != generation);
        held.insert(0, (generation, secret));
        held.truncate(GENERATION_COUNT_MAX);
        let held = held.clone();
        self.persister.write(files::write_secrets(network, &held));
        if let Some(state) = self.networks.get(network) {
            self.outputs.push_back(Output::NetworkKeys { vni: state.view.vni, generations: held });
        }
    }

    /// Tells the shell the secrets of a network that it did not know when they were made.
    pub(super) fn tell_keys(&mut self, network: &NetworkId) {
        if let (Some(state), Some(held)) = (self.networks.get(network), self.secrets.get(network)) {
            self.outputs.push_back(Output::NetworkKeys { vni: state.view.vni, generations: held.clone() });
        }
    }
}

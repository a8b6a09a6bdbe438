//! Network secrets: in no record, fetched from any holder over mutual TLS, and checked against what an owner published.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::Output;
use super::exchange::Asked;
use super::files;
use super::machine::Gossip;
use super::message::{Message, SecretBytes};
use crate::membership::body::{Body, SecretHash};
use crate::membership::{SetHash, Shard, removal_mark};
use crate::model::{Generation, NetworkId, NetworkSecret, NodeId, Rev};

/// How many generations are kept: receivers accept the newest two.
const GENERATION_COUNT_MAX: usize = 2;
/// How long the first owner waits: one that was away hears of a revocation before it hears what others did about it.
const ROTATE_FIRST: Duration = Duration::from_secs(1);
/// How long the next owner leaves it to the one before.
const ROTATE_AFTER: Duration = Duration::from_secs(5);
/// How long an owner looks for the newest secret before it takes it for lost: whoever made it has forgotten it.
const ROTATE_LOST: Duration = Duration::from_secs(10);
/// How long a new secret takes to be on disk at most, before another one is made.
const ROTATE_AGAIN: Duration = Duration::from_secs(30);
pub(super) const SEEK_EVERY: Duration = Duration::from_secs(1);

/// When this owner replaces a network's secret, and whom the new one is to keep out.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    at: Instant,
    without: Option<SetHash>,
}

impl Gossip {
    /// Makes the network's next secret and publishes its hash, and that it keeps out `removed`.
    pub(super) fn rotate_secret(&mut self, network: &NetworkId, removed: &BTreeMap<NodeId, Rev>) {
        let newest = self.networks.get(network).map(|state| (state.view.secret, state.next_secret_rev()));
        let (generation, rev) = match newest {
            Some((Some((generation, _)), rev)) => (Generation(generation.0.wrapping_add(1)), rev),
            Some((None, rev)) => (Generation(0), rev),
            None => (Generation(0), Rev(1)),
        };
        let secret = NetworkSecret::random(&mut self.rng);
        let body = Body::Secret(SecretHash { generation, hash: secret.hash(), without: removal_mark(removed) });
        self.keep_secret(network, generation, secret);
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            log.put(pen, &body, rev);
        }
    }

    /// Replaces a secret that somebody knows who is to know it no longer, or that nobody has: the owner with the lowest id does so first, the
    /// next one [`ROTATE_AFTER`] later if it is still due, and so on.
    pub(super) fn tend_rotation(&mut self, network: &NetworkId, now: Instant) {
        let Some(state) = self.networks.get(network) else { return };
        let mut owners = state.owners.iter().filter(|owner| state.is_granted(**owner));
        let is_lost = state.view.secret.is_some_and(|(generation, hash)| !self.holds(network, generation, hash));
        let first = if state.is_secret_stale() { Some(ROTATE_FIRST) } else { is_lost.then_some(ROTATE_LOST) };
        let (Some(rank), Some(first)) = (owners.position(|owner| *owner == self.me), first) else {
            self.rotations.remove(network);
            return;
        };
        let removed = state.removed.clone();
        let wait = first + ROTATE_AFTER.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
        let due = Rotation { at: now + wait, without: removal_mark(&removed) };
        let rotation = self.rotations.entry(network.clone()).or_insert(due);
        if rotation.without != due.without {
            // The one that is being made does not keep out whoever was removed since.
            *rotation = due;
        }
        if rotation.at <= now {
            rotation.at = now + ROTATE_AGAIN;
            tracing::info!(%network, "the network gets a new secret");
            self.rotate_secret(network, &removed);
        }
    }

    /// This node may have forgotten whom it removed from a network, and nobody else need know: an owner makes a new secret.
    pub(super) fn distrust_secret(&mut self, network: &NetworkId) {
        let owned = self.networks.get(network).filter(|state| state.owners.contains(&self.me));
        if let Some(removed) = owned.filter(|state| state.view.secret.is_some()).map(|state| state.removed.clone()) {
            tracing::info!(%network, "the network gets a new secret: who was removed from it may be forgotten");
            self.rotate_secret(network, &removed);
        }
    }

    /// Does so for every network where it is due.
    pub(super) fn tend_rotations(&mut self, now: Instant) {
        for network in self.rotations.keys().cloned().collect::<Vec<_>>() {
            self.tend_rotation(&network, now);
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

    /// A grantee asks for a secret: it gets the newest one and no other. One that keeps out others than this node knows of it gives to
    /// nobody: whoever asks may be one of them, and it hears of that soon, or an owner makes another secret.
    pub(super) fn answer_secret(&self, peer: NodeId, network: &NetworkId, generation: Generation) -> Message {
        let state = self.networks.get(network).filter(|state| state.is_granted(peer));
        let newest = state.filter(|state| !state.is_secret_stale()).and_then(|state| state.view.secret);
        if newest.is_none_or(|(newest, _)| newest != generation) {
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

    /// The newest secret is the one that counts, whatever came after it: an older one that was asked for arrives late.
    pub(super) fn rank_secrets(&mut self, network: &NetworkId) {
        let Some((generation, hash)) = self.networks.get(network).and_then(|state| state.view.secret) else { return };
        let Some(held) = self.secrets.get_mut(network) else { return };
        let counts = held.iter().position(|(of, secret)| *of == generation && secret.hash() == hash);
        if let Some(at) = counts.filter(|at| *at > 0) {
            held[..=at].rotate_right(1);
            self.persister.write(files::write_secrets(network, held));
            self.tell_keys(network);
        }
    }

    /// Tells the shell the secrets of a network that it did not know when they were made.
    pub(super) fn tell_keys(&mut self, network: &NetworkId) {
        if let (Some(state), Some(held)) = (self.networks.get(network), self.secrets.get(network)) {
            self.outputs.push_back(Output::NetworkKeys { vni: state.view.vni, generations: held.clone() });
        }
    }
}

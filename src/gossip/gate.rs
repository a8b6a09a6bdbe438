//! The gate after a rollback: a node whose disk may be older than what it signed signs nothing until the others have said what
//! that was (docs/decisions/0012).
//!
//! Beside its disk a node keeps a [`HeadMark`], where a disk that is set back does not take it along and a reboot of the host
//! loses it. A node that starts with the mark of its disk goes on. Any other
//!
//! - signs under a boot far beyond the last one that it knows of, so that no stamp is used twice;
//! - asks the others for the logs that say what it is and holds: its own, and those of the homes. A shard's gate opens when all
//!   that can be reached were asked and none knows more; and after [`ALONE`] if nobody can be reached.
//!
//! An owner makes the network a new secret then: those who answered may know no more than what this node tells them, and not whom
//! it removed.
//!
//! While a gate is closed nothing is written or published: what this node said anew would take the place of what it forgot,
//! with those who remember it. So operations wait, and no address is given out. What is attached stays attached. The
//! only node of a cluster never waits.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rand_core::RngCore;

use super::lives::Lives;
use super::machine::Gossip;
use super::message::ShardState;
use crate::membership::{Log, Pen, SetHash, Shard};
use crate::model::{Boot, NetworkId, NodeId};

/// How long a node waits where nobody can be reached: long enough for a second dial after one that was given up, and short
/// enough for a cluster to be whole again within 30 s.
pub const ALONE: Duration = Duration::from_secs(20);
/// How long a connection takes at most to whoever can be reached.
const REACH: Duration = Duration::from_secs(3);
/// Boots are skipped by less than this.
const BOOT_SKIP_MAX: u64 = 1 << 16;

/// Names the state of a disk: two that differ in what this node signed, or in its boot, have different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadMark([u8; 32]);

impl fmt::Display for HeadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// It is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a head mark")]
pub struct HeadMarkError;

impl FromStr for HeadMark {
    type Err = HeadMarkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| HeadMarkError)?;
        bytes.try_into().map(Self).map_err(|_| HeadMarkError)
    }
}

/// A closed gate.
pub(super) struct Gate {
    since: Instant,
    /// Who is to be asked, and since when all of them are known.
    asked: BTreeSet<NodeId>,
    asking_since: Instant,
    /// Who knows nothing newer.
    answered: BTreeSet<NodeId>,
}

/// What a node with a closed gate waits for, as a person is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The nodes that have not said yet what they know.
    pub nodes: BTreeSet<NodeId>,
    /// When it goes on if none of them can be reached.
    pub until: Instant,
}

impl Gossip {
    /// The mark of this node's disk, once all that it has signed up to now is there.
    pub(super) fn head_mark(&self, boot: Boot) -> HeadMark {
        let mut hasher = blake3::Hasher::new_derive_key("peerd head mark 1");
        hasher.update(&boot.0.to_be_bytes());
        for ((origin, shard), log) in &self.authors {
            let Some(head) = log.head() else { continue };
            let name = minicbor::to_vec(shard).expect("a Vec takes every byte");
            hasher.update(&origin.0).update(blake3::hash(&name).as_bytes()).update(&head.0);
        }
        HeadMark(*hasher.finalize().as_bytes())
    }

    /// What is on disk is restored, of the boot that `stored` says, and nothing is signed yet: is it the newest there was?
    pub(super) fn check_head(&mut self, stored: Boot, now: Instant) {
        if self.config.kept.contains(&self.head_mark(stored)) {
            return;
        }
        tracing::info!("the state folder may be older than what this node signed: it asks the others");
        self.is_in_doubt = true;
        self.lives.values_mut().for_each(Lives::doubt);
        let skip = 1 + self.rng.next_u64() % BOOT_SKIP_MAX;
        for pen in self.pens.values_mut() {
            pen.skip_past(Boot(pen.boot().0 + skip));
        }
        if let Some(boot) = self.pens.get(&self.me).map(Pen::boot) {
            self.boot.boot = boot;
        }
        self.close_gate(Shard::Cluster, now);
    }

    /// A shard is here: perhaps this node has forgotten what it signed there.
    pub(super) fn close_gate(&mut self, shard: Shard, now: Instant) {
        if self.is_in_doubt {
            self.gates.insert(
                shard,
                Gate { since: now, asked: BTreeSet::new(), asking_since: now, answered: BTreeSet::new() },
            );
        }
    }

    pub(super) fn is_gated(&self, network: &NetworkId) -> bool {
        self.gates.contains_key(&Shard::Network(network.clone()))
    }

    /// What this node waits for before it signs anything; `None` if it does not wait.
    pub fn waiting(&self) -> Option<Waiting> {
        let of = |(shard, gate): (&Shard, &Gate)| {
            let others = self.others(shard).into_iter();
            others.filter(|node| !gate.answered.contains(node)).collect::<Vec<_>>()
        };
        let nodes: BTreeSet<NodeId> = self.gates.iter().flat_map(of).collect();
        let until = self.gates.values().map(|gate| gate.since + ALONE).max()?;
        Some(Waiting { nodes, until })
    }

    /// The networks in which nobody could say, since the start, what this node signed before.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &NetworkId> {
        self.unconfirmed.iter().filter_map(Shard::network)
    }

    /// Who may know: whom this node knows to be granted the network, and whoever is near, since it may have forgotten grants; and
    /// whose addresses it has forgotten with them. Any member where it does not even know where one is.
    fn others(&self, shard: &Shard) -> BTreeSet<NodeId> {
        let mut others: BTreeSet<NodeId> = self.grantees(shard).into_iter().chain(self.near()).collect();
        others.extend(self.membership.nodes().filter(|node| node.endpoints.is_empty()).map(|node| node.id));
        if others.iter().all(|node| *node == self.me) {
            others.extend(self.membership.nodes().map(|node| node.id));
        }
        others.remove(&self.me);
        others
    }

    /// The other nodes that are granted a network, as far as this node remembers.
    fn grantees(&self, shard: &Shard) -> BTreeSet<NodeId> {
        let network = shard.network().and_then(|network| self.networks.get(network));
        let granted = network.into_iter().flat_map(|state| state.view.grants.keys().copied());
        granted.filter(|node| *node != self.me).collect()
    }

    /// Asks whoever has not said what it knows, and opens the gates where that is enough.
    pub(super) fn tend_gates(&mut self, now: Instant) {
        let gated: Vec<Shard> = self.gates.keys().cloned().collect();
        for shard in gated {
            let others = self.others(&shard);
            // Who is not granted a network knows nothing of it.
            let grantees = self.grantees(&shard);
            // Behind the cluster's gate there may be members that this node has forgotten.
            let is_early = shard != Shard::Cluster && self.gates.contains_key(&Shard::Cluster);
            let Some(gate) = self.gates.get_mut(&shard) else { continue };
            if !others.is_subset(&gate.asked) {
                // Members that this node had forgotten: they get their time too.
                (gate.asked, gate.asking_since) = (others.clone(), now);
            }
            let silent: Vec<NodeId> = others.iter().filter(|node| !gate.answered.contains(node)).copied().collect();
            let (connected, away): (Vec<NodeId>, Vec<NodeId>) =
                silent.iter().partition(|node| self.peers.connection(**node).is_some());
            let age = now.saturating_duration_since(gate.since);
            let asking = now.saturating_duration_since(gate.asking_since);
            let is_answered = if grantees.is_empty() {
                !gate.answered.is_empty()
            } else {
                grantees.iter().any(|node| gate.answered.contains(node))
            };
            let enough = connected.is_empty() && is_answered && asking >= REACH;
            if !is_early && (silent.is_empty() || enough) || age >= ALONE {
                let is_confirmed = others.is_empty() || !gate.answered.is_empty();
                self.open_gate(&shard, is_confirmed, now);
                continue;
            }
            for node in connected {
                if let Some(connection) = self.peers.connection(node) {
                    self.sync_with(connection, node, now);
                }
            }
            for node in away {
                self.dial_if_due(node, now);
            }
        }
    }

    fn open_gate(&mut self, shard: &Shard, is_confirmed: bool, now: Instant) {
        self.gates.remove(shard);
        if is_confirmed {
            self.unconfirmed.remove(shard);
        } else {
            tracing::warn!(?shard, "nobody could say what this node signed before: it goes on with what it has");
            self.unconfirmed.insert(shard.clone());
        }
        if let Some(network) = shard.network() {
            self.distrust_secret(network);
            self.do_home_duties(network, now);
            self.retry_attaches(now);
        }
    }

    /// A peer has said how far the logs of a shard go that it has.
    pub(super) fn note_heads(&mut self, peer: NodeId, theirs: &ShardState) {
        let network = theirs.shard.network().and_then(|network| self.networks.get(network));
        let homes = network.map(|state| state.holdings.every_home()).unwrap_or_default();
        let decides = |origin: &NodeId| self.pens.contains_key(origin) || homes.contains(origin);
        let is_newer = theirs.logs.iter().filter(|log| decides(&log.origin)).any(|log| {
            let ours = self.logs.log(&theirs.shard, log.origin).map(Log::stamp);
            self.forgot(&theirs.shard, log.origin, log.stamp) || ours.is_none_or(|ours| log.stamp > ours)
        });
        if !is_newer {
            self.note_answered(peer, &theirs.shard);
        }
    }

    /// A peer has said which shards it shares with this node, and their digests: of one that it does not share, or has the same,
    /// it knows nothing newer.
    pub(super) fn note_shards(&mut self, peer: NodeId, theirs: &[(Shard, SetHash)], now: Instant) {
        for shard in self.gates.keys().chain(&self.unconfirmed).cloned().collect::<Vec<_>>() {
            let told = theirs.iter().find(|(theirs, _)| *theirs == shard);
            if told.is_none_or(|(_, digest)| *digest == self.logs.digest(&shard)) {
                self.note_answered(peer, &shard);
            }
        }
        self.tend_gates(now);
    }

    /// A peer holds the same as this node in all that they share.
    pub(super) fn note_same(&mut self, peer: NodeId, now: Instant) {
        self.note_shards(peer, &[], now);
    }

    /// A peer has no answer for this node any more that it has not got.
    pub(super) fn note_answered(&mut self, peer: NodeId, shard: &Shard) {
        if let Some(gate) = self.gates.get_mut(shard) {
            gate.answered.insert(peer);
        }
        self.unconfirmed.remove(shard);
    }
}

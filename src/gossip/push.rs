//! Rumours: what changed goes to three peers at once, three times, and from them on.
//!
//! A rumour names a log and the state that the change builds on; what is sent is read from the log when it leaves, so
//! changes in quick succession travel together. It goes only to members that may see the shard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::ConnectionId;
use super::machine::Gossip;
use super::message::{Message, RECORDS_LEN_MAX};
use super::settle::Ingested;
use crate::membership::{Delta, Log, Rest, Shard, ShortHash, Stamp, Verified};
use crate::model::NodeId;

/// Changes of this long leave together.
pub(super) const ROUND_EVERY: Duration = Duration::from_millis(100);
const ROUND_COUNT: u8 = 3;
const FAN_OUT: usize = 3;
/// How many removals a rumour names; who needs more pulls the log.
const REMOVED_COUNT_MAX: usize = 1024;

struct Rumour {
    since: Option<Stamp>,
    removed: Vec<ShortHash>,
    rounds: u8,
    /// Who has it, as far as we know.
    told: BTreeSet<NodeId>,
}

/// What is being spread.
#[derive(Default)]
pub(super) struct Rumours {
    by_log: BTreeMap<(Shard, NodeId), Rumour>,
    last_round: Option<Instant>,
}

impl Rumours {
    /// A log went on from `since`, by what `from` told.
    pub(super) fn add(
        &mut self,
        shard: &Shard,
        origin: NodeId,
        since: Option<Stamp>,
        removed: Vec<ShortHash>,
        from: Option<NodeId>,
    ) {
        let rumour = self.by_log.entry((shard.clone(), origin)).or_insert_with(|| Rumour {
            since,
            removed: Vec::new(),
            rounds: ROUND_COUNT,
            told: BTreeSet::new(),
        });
        rumour.rounds = ROUND_COUNT;
        // One more than is ever told says that it is too many.
        rumour.removed.extend(removed.into_iter().take((REMOVED_COUNT_MAX + 1).saturating_sub(rumour.removed.len())));
        rumour.told = from.into_iter().collect();
    }

    /// `peer` told what we knew.
    pub(super) fn knows(&mut self, shard: &Shard, origin: NodeId, peer: NodeId) {
        if let Some(rumour) = self.by_log.get_mut(&(shard.clone(), origin)) {
            rumour.told.insert(peer);
        }
    }

    pub(super) fn forget(&mut self, shard: &Shard) {
        self.by_log.retain(|(of, _), _| of != shard);
    }

    /// When the next round is due.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.by_log.is_empty() { None } else { self.last_round.map(|last| last + ROUND_EVERY) }
    }
}

impl Gossip {
    /// Sends a round of rumours, if there are any and the last round is long enough ago.
    pub(super) fn spread_rumours(&mut self, now: Instant) {
        if self.rumours.by_log.is_empty() || self.rumours.due().is_some_and(|due| due > now) {
            return;
        }
        self.rumours.last_round = Some(now);
        let mut letters: BTreeMap<NodeId, Vec<Delta>> = BTreeMap::new();
        let mut rumours = std::mem::take(&mut self.rumours.by_log);
        rumours.retain(|(shard, origin), rumour| {
            let peers = self.choose_peers(shard, *origin, &rumour.told);
            let Some(log) = self.logs.log(shard, *origin).filter(|_| !peers.is_empty()) else { return false };
            let delta = pushed(log, rumour);
            for peer in peers {
                letters.entry(peer).or_default().push(delta.clone());
                rumour.told.insert(peer);
            }
            rumour.rounds -= 1;
            rumour.rounds > 0
        });
        self.rumours.by_log = rumours;
        for (peer, deltas) in letters {
            self.push_deltas(peer, deltas);
        }
    }

    fn choose_peers(&mut self, shard: &Shard, origin: NodeId, told: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut peers: Vec<NodeId> = self
            .peers
            .members()
            .filter(|peer| *peer != origin && !told.contains(peer) && self.may_see(*peer, shard))
            .collect();
        for chosen in 0..peers.len().min(FAN_OUT) {
            let left = (peers.len() - chosen) as u64;
            peers.swap(chosen, chosen + (self.rng.next_u64() % left) as usize);
        }
        peers.truncate(FAN_OUT);
        peers
    }

    /// Sends deltas to a peer, in as many messages as their size asks for.
    pub(super) fn push_deltas(&mut self, peer: NodeId, deltas: Vec<Delta>) {
        let Some(connection) = self.peers.connection(peer) else { return };
        let mut letter = Vec::new();
        let mut len = 0;
        for delta in deltas {
            let delta_len = delta.wire_len();
            if len + delta_len > RECORDS_LEN_MAX && !letter.is_empty() {
                self.push(connection, &Message::Deltas(std::mem::take(&mut letter)));
                len = 0;
            }
            len += delta_len;
            letter.push(delta);
        }
        if !letter.is_empty() {
            self.push(connection, &Message::Deltas(letter));
        }
    }

    /// A peer wants to know that this node keeps what it tells.
    pub(super) fn keep(&mut self, peer: NodeId, connection: ConnectionId, deltas: &[Delta], now: Instant) -> Message {
        self.handle_deltas(peer, connection, deltas, now);
        let is_here = |delta: &Delta| {
            let log = self.logs.log(&delta.head.head().shard, delta.head.origin());
            log.is_some_and(|log| log.stamp() >= delta.head.stamp())
        };
        if !deltas.iter().all(is_here) {
            return Message::Unknown;
        }
        self.save_foreign_logs();
        Message::Kept
    }

    pub(super) fn handle_deltas(&mut self, peer: NodeId, connection: ConnectionId, deltas: &[Delta], now: Instant) {
        let mut logs = BTreeSet::new();
        let mut parked = false;
        for delta in deltas {
            let (shard, origin) = (&delta.head.head().shard, delta.head.origin());
            if !logs.insert((shard, origin)) {
                // Each costs a look at the whole log: nobody honest tells a log twice in one letter.
                return self.close(connection, "a log stands twice in one letter");
            }
            // Whom we do not see granted has nothing to say about the network.
            if !self.may_see(peer, shard) && !shard.network().is_some_and(|id| self.wanted.contains_key(id)) {
                continue;
            }
            match self.ingest(delta, Some(peer)) {
                Ingested::Mismatch => self.pull(connection, shard, origin, now),
                Ingested::Parked => parked = true,
                Ingested::Changed | Ingested::Known | Ingested::TakenUp => {}
                // The next comparison answers.
                Ingested::RevocationLost | Ingested::Refused => {}
            }
            // What follows depends on what came before: a certificate, then what its node says.
            self.refresh_all(now);
        }
        if parked {
            // What it depends on is where it came from.
            self.sync_with(connection, peer, now);
        }
    }
}

/// What a peer needs that is where the rumour began; too much is left to be pulled.
fn pushed(log: &Log, rumour: &Rumour) -> Delta {
    let mut added = log.records_since(rumour.since);
    let mut removed = rumour.removed.clone();
    if added.iter().map(Verified::wire_len).sum::<usize>() > RECORDS_LEN_MAX || removed.len() > REMOVED_COUNT_MAX {
        added.clear();
        removed.clear();
    }
    Delta { head: log.signed_head().clone(), added, rest: Rest::Removed(removed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_changes_without_end_does_not_grow_its_rumour() {
        let mut rumours = Rumours::default();
        for _ in 0..100 {
            rumours.add(&Shard::Cluster, NodeId([1; 32]), None, vec![ShortHash([0; 8]); 100], None);
        }
        assert!(rumours.by_log.values().all(|rumour| rumour.removed.len() == REMOVED_COUNT_MAX + 1));
    }
}

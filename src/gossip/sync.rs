//! Anti-entropy: every two seconds with one peer, first one hash over all that the two share, then heads, then logs.
//!
//! Who may see what is decided here alone, by [`Gossip::may_see`]. A request about anything else gets the bytes that an id
//! gets which never existed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::ConnectionId;
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::{LogState, Message, RECORDS_LEN_MAX, ShardState};
use super::settle::Ingested;
use super::turns::Turns;
use crate::membership::{Delta, LOG_MEMORY_LEN_MAX, Log, Rest, SetHash, Shard, SignedHash, Stamp, Verified};
use crate::model::{NodeId, Vni};

const SYNC_EVERY: Duration = Duration::from_secs(2);
/// One round in this many goes to a node that is known and down.
const DOWN_ROUND_EVERY: u64 = 4;
/// How many logs are pulled at a time.
const PULL_COUNT_MAX: usize = 512;
/// How many of them from one peer, so that a peer that names logs which are not there leaves room for the others.
const PEER_PULL_COUNT_MAX: usize = 32;
/// How many shards are compared in one round.
const SHARD_COUNT_MAX: usize = 256;

/// A log that is being pulled.
struct Pull {
    connection: ConnectionId,
    staged: Vec<Verified>,
    staged_memory_len: usize,
    /// Whether all of the log was asked for, since the increment did not fit.
    whole: bool,
}

/// Where the rounds are.
pub(super) struct SyncState {
    next_round: Instant,
    rounds: u64,
    /// Who is compared with next: left to chance alone, two nodes may miss each other for a minute.
    turns: Turns,
    pulls: BTreeMap<(Shard, NodeId), Pull>,
}

impl SyncState {
    pub(super) fn new(now: Instant) -> Self {
        Self { next_round: now, rounds: 0, turns: Turns::default(), pulls: BTreeMap::new() }
    }

    /// A pull came to nothing.
    pub(super) fn abandon(&mut self, shard: &Shard, origin: NodeId) {
        self.pulls.remove(&(shard.clone(), origin));
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.pulls.retain(|_, pull| pull.connection != connection);
    }
}

impl Gossip {
    /// Whether `peer` is to learn of this shard's records: every member of the cluster's, grantees alone of a network's.
    pub(super) fn may_see(&self, peer: NodeId, shard: &Shard) -> bool {
        match shard {
            Shard::Cluster => self.state().is_some_and(|state| state.is_member(peer)),
            Shard::Network(id) => self.networks.get(id).is_some_and(|network| network.is_granted(peer)),
        }
    }

    fn shared(&self, peer: NodeId) -> impl Iterator<Item = Shard> {
        let networks = self.networks.iter().filter(move |(_, network)| network.is_granted(peer));
        std::iter::once(Shard::Cluster).chain(networks.map(|(id, _)| Shard::Network(id.clone())))
    }

    fn root(&self, peer: NodeId) -> SetHash {
        let shards = self.shared(peer).map(|shard| {
            let name = minicbor::to_vec(&shard).expect("a Vec takes every byte");
            SignedHash(*blake3::hash(&[&self.logs.digest(&shard).0[..], &name].concat()).as_bytes())
        });
        let unlogged = self.revoked_unlogged();
        SetHash::of(shards.chain(unlogged.into_iter().map(|node| SignedHash(node.0))))
    }

    /// Runs a round if one is due.
    pub(super) fn sync_round(&mut self, now: Instant) {
        if self.sync.next_round > now || self.belonging.is_none() {
            return;
        }
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 200));
        self.sync.next_round = now + SYNC_EVERY + jitter;
        self.sync.rounds += 1;
        let down = self.down_nodes();
        if self.sync.rounds.is_multiple_of(DOWN_ROUND_EVERY) && !down.is_empty() {
            let at = self.rng.next_u64() as usize % down.len();
            return self.dial(down[at], now);
        }
        if self.sync.turns.are_over() {
            self.sync.turns.begin(self.peers.members().collect(), &mut self.rng);
        }
        while let Some(peer) = self.sync.turns.next() {
            if let Some(connection) = self.peers.connection(peer) {
                return self.sync_with(connection, peer, now);
            }
        }
    }

    /// Something of this network is needed that is not here, its secret or a record: asks a node that may have it, now.
    pub fn seek(&mut self, vni: Vni, now: Instant) {
        let Some(network) = self.membership.network_by_vni(vni).map(|network| network.id.clone()) else { return };
        self.seek_secret(&network, now);
        let Some(state) = self.networks.get(&network).filter(|_| !self.exchanges.is_asking(&Asked::Sync)) else {
            return;
        };
        let granted: Vec<NodeId> = self.peers.members().filter(|peer| state.is_granted(*peer)).collect();
        if !granted.is_empty() {
            let peer = granted[self.rng.next_u64() as usize % granted.len()];
            if let Some(connection) = self.peers.connection(peer) {
                self.sync_with(connection, peer, now);
            }
        }
        self.settle(now);
    }

    /// Compares all that is shared with one peer.
    pub(super) fn sync_with(&mut self, connection: ConnectionId, peer: NodeId, now: Instant) {
        let root = self.root(peer);
        self.ask(connection, &Message::Sync(root), Asked::Sync, now);
    }

    pub(super) fn answer_sync(&self, peer: NodeId, root: SetHash) -> Message {
        if root == self.root(peer) {
            return Message::Same;
        }
        let digest = |shard: Shard| {
            let digest = self.logs.digest(&shard);
            (shard, digest)
        };
        Message::Shards(self.shared(peer).map(digest).collect())
    }

    /// The peer's shards differ from ours somewhere.
    pub(super) fn compare_shards(
        &mut self,
        peer: NodeId,
        connection: ConnectionId,
        theirs: Vec<(Shard, SetHash)>,
        now: Instant,
    ) {
        let ours: Vec<Shard> = self.shared(peer).collect();
        for shard in ours.iter().filter(|ours| !theirs.iter().any(|(shard, _)| shard == *ours)) {
            if let Some(id) = shard.network() {
                self.offer(connection, id);
            }
        }
        for (shard, _) in &theirs {
            self.ask_for_offer(connection, shard);
        }
        let differing = theirs.into_iter().filter(|(shard, digest)| {
            let wanted = shard.network().is_some_and(|id| self.wanted.contains_key(id));
            wanted || self.is_claimed(peer, shard) || ours.contains(shard) && self.logs.digest(shard) != *digest
        });
        let differing: Vec<Shard> = differing.map(|(shard, _)| shard).take(SHARD_COUNT_MAX).collect();
        if differing.is_empty() && !self.revoked_unlogged().is_empty() {
            self.tell_revoked(connection, peer);
        }
        for shard in differing {
            self.ask_heads(connection, shard, now);
        }
        self.sync_step();
    }

    pub(super) fn ask_heads(&mut self, connection: ConnectionId, shard: Shard, now: Instant) {
        self.ask(connection, &Message::Heads(shard.clone()), Asked::Heads(shard), now);
    }

    pub(super) fn answer_heads(&self, peer: NodeId, shard: &Shard) -> Message {
        if !self.may_see(peer, shard) {
            return Message::Unknown;
        }
        let logs = self.logs.shard(shard).map(|log| LogState {
            origin: log.origin(),
            stamp: log.stamp(),
            head: log.signed_head().hash(),
        });
        Message::State(ShardState { shard: shard.clone(), logs: logs.collect() })
    }

    /// Pulls what the peer knows later, and pushes what we know later.
    pub(super) fn compare_logs(&mut self, peer: NodeId, connection: ConnectionId, theirs: ShardState, now: Instant) {
        let shard = &theirs.shard;
        if self.is_claimed(peer, shard) {
            return self.compare_claim(connection, &theirs, now);
        }
        let held: BTreeMap<NodeId, &LogState> = theirs.logs.iter().map(|log| (log.origin, log)).collect();
        let mut wanted: Vec<NodeId> = Vec::new();
        for log in &theirs.logs {
            if self.forgot(shard, log.origin, log.stamp) {
                self.pull_from(connection, shard, log.origin, None, now);
                continue;
            }
            let ours = self.logs.log(shard, log.origin);
            if ours.is_none_or(|ours| log.stamp >= ours.stamp() && log.head != ours.signed_head().hash()) {
                wanted.push(log.origin);
            }
        }
        // The creator's log first: it says what the others may write. The root's and the signers' in the cluster's shard.
        let first = |origin: &NodeId| match shard {
            Shard::Cluster => self.state().is_some_and(|s| s.root != *origin && s.signer_number(*origin).is_none()),
            Shard::Network(id) => self.networks.get(id).is_some_and(|network| network.view.creator != *origin),
        };
        wanted.sort_by_key(|origin| (first(origin), *origin));
        if self.may_see(peer, shard) {
            let newer = |log: &&Log| held.get(&log.origin()).is_none_or(|theirs| theirs.stamp < log.stamp());
            let deltas: Vec<Delta> = self
                .logs
                .shard(shard)
                .filter(newer)
                .map(|log| log.delta_since(held.get(&log.origin()).map(|theirs| theirs.stamp), RECORDS_LEN_MAX))
                // A log in parts is for the peer to pull.
                .filter(|delta| delta.rest != Rest::More)
                .collect();
            self.push_deltas(peer, deltas);
        }
        for origin in wanted {
            self.pull(connection, shard, origin, now);
        }
        if *shard == Shard::Cluster && self.announce_at.is_some() && self.sync.pulls.is_empty() {
            self.announce();
        }
    }

    /// Whether a peer knows of something that this node signed before it started and does not remember.
    pub(super) fn forgot(&self, shard: &Shard, origin: NodeId, theirs: Stamp) -> bool {
        let Some(pen) = self.pens.get(&origin) else { return false };
        let lives = self.lives.get(&(origin, shard.clone()));
        theirs.boot < pen.boot() && lives.is_none_or(|lives| !lives.has(theirs))
    }

    /// What this node signed once and forgot, from a peer that remembers.
    fn remember(&mut self, delta: &Delta) {
        let Ok((heard, _)) = Log::first(delta) else { return };
        self.adopt(&delta.head.head().shard, &heard);
        if self.announce_at.is_some() {
            self.announce();
        }
    }

    /// Pulls a log from where ours ends.
    pub(super) fn pull(&mut self, connection: ConnectionId, shard: &Shard, origin: NodeId, now: Instant) {
        let since = self.logs.log(shard, origin).map(Log::stamp);
        self.pull_from(connection, shard, origin, since, now);
    }

    pub(super) fn pull_from(
        &mut self,
        connection: ConnectionId,
        shard: &Shard,
        origin: NodeId,
        since: Option<Stamp>,
        now: Instant,
    ) {
        let at = (shard.clone(), origin);
        let from_peer = self.sync.pulls.values().filter(|pull| pull.connection == connection).count();
        let no_room = self.sync.pulls.len() >= PULL_COUNT_MAX || from_peer >= PEER_PULL_COUNT_MAX;
        if no_room || self.sync.pulls.contains_key(&at) {
            return;
        }
        let pull = Pull { connection, staged: Vec::new(), staged_memory_len: 0, whole: since.is_none() };
        self.sync.pulls.insert(at, pull);
        self.ask_pull(connection, shard, origin, since, now);
    }

    pub(super) fn pull_from_anyone(&mut self, shard: &Shard, origin: NodeId, now: Instant) {
        let peer = self.peers.members().find(|peer| self.may_see(*peer, shard));
        if let Some(connection) = peer.and_then(|peer| self.peers.connection(peer)) {
            self.pull(connection, shard, origin, now);
        }
    }

    fn ask_pull(
        &mut self,
        connection: ConnectionId,
        shard: &Shard,
        origin: NodeId,
        since: Option<Stamp>,
        now: Instant,
    ) {
        let message = Message::Pull { shard: shard.clone(), origin, since };
        if !self.ask(connection, &message, Asked::Pull { shard: shard.clone(), origin }, now) {
            self.sync.abandon(shard, origin);
        }
    }

    pub(super) fn answer_pull(&self, peer: NodeId, shard: &Shard, origin: NodeId, since: Option<Stamp>) -> Message {
        match self.logs.log(shard, origin).filter(|_| self.may_see(peer, shard)) {
            Some(log) => Message::Pulled(Box::new(log.delta_since(since, RECORDS_LEN_MAX))),
            None => Message::Unknown,
        }
    }

    /// A part of a log, or its end.
    pub(super) fn take_pulled(&mut self, peer: NodeId, connection: ConnectionId, mut delta: Delta, now: Instant) {
        let (shard, origin) = (delta.head.head().shard.clone(), delta.head.origin());
        let at = (shard.clone(), origin);
        let Some(mut pull) = self.sync.pulls.remove(&at) else { return };
        let of_log = |record: &Verified| record.origin() == origin && record.record().shard == shard;
        pull.staged_memory_len += delta.added.iter().map(Verified::memory_len).sum::<usize>();
        let staged = self.sync.pulls.values().filter(|other| other.connection == connection);
        let staged_len = pull.staged_memory_len + staged.map(|other| other.staged_memory_len).sum::<usize>();
        if staged_len > LOG_MEMORY_LEN_MAX || !delta.added.iter().all(of_log) {
            return;
        }
        pull.staged.append(&mut delta.added);
        if delta.rest == Rest::More {
            let Some(since) = pull.staged.last().map(Verified::stamp) else { return };
            self.sync.pulls.insert(at, pull);
            return self.ask_pull(connection, &shard, origin, Some(since), now);
        }
        delta.added = pull.staged;
        if self.forgot(&shard, origin, delta.head.stamp()) {
            return self.remember(&delta);
        }
        if self.is_void(peer, &delta) {
            return self.refuse_grant(peer, &delta);
        }
        let ingested = self.ingest(&delta, Some(peer));
        match ingested {
            Ingested::Known => self.refuse_grant(peer, &delta),
            Ingested::TakenUp => self.note_answered(peer, &shard),
            Ingested::RevocationLost => self.tell_revoked(connection, peer),
            _ => {}
        }
        if ingested == Ingested::Mismatch && !pull.whole {
            // Our state is not what the peer's increment builds on.
            self.sync.pulls.insert(at, Pull { connection, staged: Vec::new(), staged_memory_len: 0, whole: true });
            self.ask_pull(connection, &shard, origin, None, now);
        }
        if let Some(network) = shard.network() {
            self.note_fetched(network, origin);
        }
        self.refresh_all(now);
        if ingested == Ingested::Changed && !self.sync.pulls.values().any(|pull| pull.connection == connection) {
            // Where there was more than is pulled at a time, the rest does not wait for the next round.
            self.sync_with(connection, peer, now);
        }
        self.sync_step();
    }

    /// A step of a sync is over; when it was the last one, a join is.
    pub(super) fn sync_step(&mut self) {
        if self.sync.pulls.is_empty() {
            self.join_synced();
        }
    }
}

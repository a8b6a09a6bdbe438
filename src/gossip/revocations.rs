//! Revocations go ahead of the logs that hold them: who is expelled, or has left, is told first on every connection, and passed
//! on at once by whoever did not know.
//!
//! One may be all that is left of a life of its writer, whose disk was copied or set back. Nobody who has it in the writer's log
//! takes in another log without it, so the writer is to know what it said.

use std::collections::BTreeSet;

use super::api::ConnectionId;
use super::machine::Gossip;
use super::message::{Message, RECORDS_LEN_MAX};
use crate::membership::body::Body;
use crate::membership::{Kind, Shard, Verified};
use crate::model::NodeId;

/// How many records told ahead of their logs are kept.
pub(super) const HEARD_COUNT_MAX: usize = 1024;
/// How long a revocation is at most that is told ahead of its log, so that so many fit into one message. An honest one takes 200
/// bytes.
const REVOCATION_LEN_MAX: usize = RECORDS_LEN_MAX / HEARD_COUNT_MAX;

impl Gossip {
    /// Tells a peer whom this node knows to be expelled or gone.
    pub(super) fn tell_revoked(&mut self, connection: ConnectionId, peer: NodeId) {
        let mut known: Vec<&Verified> =
            self.cluster_records().into_iter().filter(|record| revoked(record).is_some() && is_short(record)).collect();
        // Rather what the peer has said itself: it may have forgotten that.
        known.sort_by_key(|record| record.origin() != peer);
        // One for each node, or one that says its own again and again would leave no room for the others'.
        let mut told = BTreeSet::new();
        known.retain(|record| told.insert(revoked(record)));
        let known: Vec<Verified> = known.into_iter().take(HEARD_COUNT_MAX).cloned().collect();
        if !known.is_empty() {
            self.push(connection, &Message::Revocations(known));
        }
    }

    /// Whom this node knows to be expelled or gone though no log says so here: nodes compare that too.
    pub(super) fn revoked_unlogged(&self) -> BTreeSet<NodeId> {
        let heard = self.belonging.iter().flat_map(|belonging| &belonging.heard);
        let mut heard: BTreeSet<NodeId> = heard.filter_map(revoked).collect();
        if !heard.is_empty() {
            for logged in self.logs.records(&Shard::Cluster).filter_map(revoked) {
                heard.remove(&logged);
            }
        }
        heard
    }

    /// Keeps what a peer tells until the logs that hold it are here, and tells the others what was not known.
    pub(super) fn hear_revoked(&mut self, from: ConnectionId, records: Vec<Verified>) {
        let logs = &self.logs;
        let Some(belonging) = &mut self.belonging else { return };
        let state = &belonging.state;
        let mut news = Vec::new();
        for record in records {
            let origin = record.origin();
            let Some(node) = revoked(&record) else { continue };
            let by_office = origin == state.root || state.signer_number(origin).is_some();
            let has_left = node == origin && state.name(origin).is_some();
            let is_heard = belonging.heard.iter().any(|held| held.origin() == origin && revoked(held) == Some(node));
            let log = logs.log(&Shard::Cluster, origin);
            let is_logged = log.is_some_and(|log| log.record(&record.slot()).is_some());
            let has_room = belonging.heard.len() < HEARD_COUNT_MAX && is_short(&record);
            if (by_office || has_left) && has_room && !is_heard && !is_logged {
                belonging.heard.push(record.clone());
                news.push(record);
            }
        }
        if news.is_empty() {
            return;
        }
        self.changed.insert(Shard::Cluster);
        for record in &news {
            self.recall(record);
        }
        let others = self.peers.members().filter_map(|peer| self.peers.connection(peer));
        for connection in others.filter(|connection| *connection != from).collect::<Vec<_>>() {
            self.push(connection, &Message::Revocations(news.clone()));
        }
    }

    /// This node may have said so itself, in a life that it does not remember. Then the log that the others have is asked for,
    /// whatever was taken up before; and should nobody have it any more, the node says so again. The root's word on a signer is
    /// not to be heard without the certificates that stand beside it, so that one is asked for only.
    fn recall(&mut self, record: &Verified) {
        let (origin, key) = (record.origin(), &record.record().key);
        let at = (origin, Shard::Cluster);
        if self.authors.get(&at).is_none_or(|log| log.record(Kind::REVOCATION, key).is_some()) {
            return;
        }
        if let Some(lives) = self.lives.get_mut(&at) {
            lives.miss(record.stamp());
        }
        if origin == self.me {
            self.say_again(record);
        }
    }
}

fn is_short(record: &Verified) -> bool {
    record.wire_len() <= REVOCATION_LEN_MAX
}

/// Whom a record revokes.
fn revoked(record: &Verified) -> Option<NodeId> {
    match record.body() {
        Body::Revocation(revocation) => Some(revocation.node),
        _ => None,
    }
}

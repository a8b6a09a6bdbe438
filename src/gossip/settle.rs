//! What follows from changes: states derived anew, duties done, files written, the shell told.
//!
//! Every `handle_*` and every operation ends in [`Gossip::settle`], so that outputs come in one order: files first, then
//! the new membership, then the operations that it completes.

use std::sync::Arc;
use std::time::Instant;

use super::api::{Output, PersistToken};
use super::files::{self, LogFile};
use super::lives::Lives;
use super::machine::Gossip;
use super::persist::Waiter;
use super::store::Write;
use crate::membership::{
    Applied, ApplyError, ClusterState, Delta, Log, NetworkState, Node, ORIGIN_MEMORY_LEN_MAX, Pen, Shard, Verified,
    definition,
};
use crate::model::{Boot, NetworkId, NodeId};

/// What the receiver of a delta does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Apply,
    /// Its origin's certificate or grant is not here yet.
    Park,
    /// It is about a network that this node does not hold.
    Refuse,
}

/// What became of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ingested {
    Changed,
    Known,
    /// It says what this node said once, and is not to be had as it is.
    TakenUp,
    Parked,
    /// It builds on a state that is not here.
    Mismatch,
    /// It lacks an expulsion that its writer has said: it is refused until that is said again.
    RevocationLost,
    Refused,
}

impl Gossip {
    /// Does what is due after anything happened.
    pub(super) fn settle(&mut self, now: Instant) {
        self.refresh_all(now);
        self.watch_shared(now);
        self.flush(now);
        self.spread_rumours(now);
        self.settle_join();
        if std::mem::take(&mut self.membership_changed) {
            self.outputs.push_back(Output::MembershipChanged(self.membership.clone()));
        }
        for (operation, result) in std::mem::take(&mut self.finished) {
            self.outputs.push_back(Output::Done(operation, result));
        }
    }

    /// Derives what changed until nothing changes any more.
    pub(super) fn refresh_all(&mut self, now: Instant) {
        while let changed @ Some(_) = Some(std::mem::take(&mut self.changed)).filter(|changed| !changed.is_empty()) {
            let mut changed = changed.unwrap_or_default();
            if changed.remove(&Shard::Cluster) && self.refresh_cluster() {
                let networks = self.networks.keys().chain(self.wanted.keys());
                changed.extend(networks.cloned().map(Shard::Network));
                self.retry_offers(now);
            }
            let networks: Vec<NetworkId> = changed.iter().filter_map(|shard| shard.network().cloned()).collect();
            for network in &networks {
                self.refresh_network(network, now);
            }
            self.unpark(now);
            for network in &networks {
                self.do_home_duties(network, now);
                self.offer_to_grantees(network);
            }
            self.retry_attaches(now);
        }
    }

    /// Derives who belongs to the cluster; whether that changed what anybody may do.
    fn refresh_cluster(&mut self) -> bool {
        let Some(belonging) = &self.belonging else { return false };
        let records = self.cluster_records();
        let Some(state) = ClusterState::derive(belonging.id, records.iter().copied()) else { return false };
        let trust_changed = state != belonging.state;
        self.refresh_nodes(&state);
        let revoked: Vec<NodeId> = self.peers.members().filter(|peer| state.is_revoked(*peer)).collect();
        let left: Vec<NodeId> = revoked.iter().copied().filter(|peer| state.has_left(*peer)).collect();
        let unknown = |peer: &NodeId| !state.is_member(*peer) && !state.is_revoked(*peer);
        let unknown: Vec<NodeId> = self.peers.members().filter(unknown).collect();
        if let Some(belonging) = &mut self.belonging {
            belonging.state = state;
        }
        for peer in revoked {
            if left.contains(&peer) {
                // It is to hear that we know: it hangs up itself, and housekeeping does if it does not.
                self.peers.note_left(peer);
            } else {
                self.close_peer(peer, "this node was expelled");
            }
        }
        // Its next Hello brings along what was lost here.
        for peer in unknown {
            self.close_peer(peer, "this node's certificate is not known here any more");
        }
        trust_changed
    }

    fn refresh_nodes(&mut self, state: &ClusterState) {
        let mut membership = (*self.membership).clone();
        let mut changed = false;
        for (id, name) in state.members() {
            let log = self.logs.log(&Shard::Cluster, id);
            let endpoints = log.into_iter().flat_map(|log| log.records()).find_map(|record| match record.body() {
                crate::membership::body::Body::Node(node) => Some(node.endpoints.clone()),
                _ => None,
            });
            let node = Node {
                id,
                name: name.clone(),
                endpoints: endpoints.unwrap_or_default(),
                boot: log.map_or(Boot(0), |log| log.head().boot),
                signer: state.signer_number(id),
            };
            if membership.node(id).is_none_or(|held| **held != node) {
                membership.insert_node(Arc::new(node));
                changed = true;
            }
        }
        let gone: Vec<NodeId> = membership.nodes().map(|node| node.id).filter(|id| !state.is_member(*id)).collect();
        for id in &gone {
            membership.remove_node(*id);
        }
        if changed || !gone.is_empty() {
            self.membership = Arc::new(membership);
            self.membership_changed = true;
        }
    }

    fn refresh_network(&mut self, id: &NetworkId, now: Instant) {
        let held = self.networks.contains_key(id);
        if !held && !self.wanted.contains_key(id) {
            return;
        }
        let shard = Shard::Network(id.clone());
        let Some(state) = self.state().and_then(|state| {
            let records: Vec<&Verified> = self.logs.records(&shard).collect();
            NetworkState::derive(id, state, records.iter().copied())
        }) else {
            return;
        };
        let strangers: Vec<NodeId> =
            self.logs.shard(&shard).map(|log| log.origin()).filter(|origin| !state.may_write(*origin)).collect();
        for origin in strangers {
            self.logs.drop_log(&shard, origin);
            if origin != self.me {
                self.persister.write(Write::remove(files::foreign_log_name(&shard, origin)));
            }
        }
        self.peers.forget_offers(id, |node| state.is_granted(node));
        if state.is_granted(self.me) {
            let mut membership = (*self.membership).clone();
            membership.insert_network(state.view.clone());
            self.membership = Arc::new(membership);
            self.membership_changed = true;
            self.wanted.remove(id);
            self.shared_changed |=
                self.networks.get(id).is_none_or(|old| !old.view.grants.keys().eq(state.view.grants.keys()));
            self.networks.insert(id.clone(), state);
            if !held {
                self.close_gate(Shard::Network(id.clone()), now);
                self.spaces.entry(id.clone()).or_default();
                self.tell_keys(id);
            }
            self.rank_secrets(id);
            self.seek_secret(id, now);
        } else if held {
            self.lose_network(id, now);
        } else if let Some(wanted) = self.wanted.get_mut(id) {
            wanted.state = Some(state);
        }
    }

    /// Forgets a network that this node is not granted any more. Its addresses rest on, should the grant come back.
    pub(super) fn lose_network(&mut self, id: &NetworkId, now: Instant) {
        let shard = Shard::Network(id.clone());
        let hosted = self.authors.get(&(self.me, shard.clone())).into_iter().flat_map(super::attach::containers);
        let hosted: Vec<_> = hosted.map(|container| container.address).collect();
        if let Some(space) = self.spaces.get_mut(id) {
            space.lose(&hosted, now);
            if !space.is_rested(now) {
                self.save_apart(now);
            }
        }
        for origin in self.logs.drop_shard(&shard) {
            if origin != self.me {
                self.persister.write(Write::remove(files::foreign_log_name(&shard, origin)));
            }
        }
        if let Some(log) = self.authors.remove(&(self.me, shard.clone())) {
            // Others may still have it, and tell it again when the grant comes back.
            self.lives.extend(log.stamp().map(|stamp| ((self.me, shard.clone()), Lives::new(stamp, Vec::new()))));
            self.persister.write(Write::remove(files::own_log_name(&shard)));
        }
        // What a disk that refused has not taken yet is not to be heard of once it does.
        self.persister.withdraw(&shard, &[files::own_log_name(&shard), files::secrets_name(id)]);
        self.unsaved.forget(&shard);
        self.rumours.forget(&shard);
        self.rotations.remove(id);
        self.gates.remove(&shard);
        self.unconfirmed.remove(&shard);
        self.wanted.remove(id);
        if self.secrets.remove(id).is_some() {
            self.persister.write(Write::remove(files::secrets_name(id)));
        }
        if let Some(state) = self.networks.remove(id) {
            self.shared_changed = true;
            let mut membership = (*self.membership).clone();
            membership.remove_network(id);
            self.membership = Arc::new(membership);
            self.membership_changed = true;
            self.outputs.push_back(Output::NetworkKeys { vni: state.view.vni, generations: Vec::new() });
        }
    }

    /// Whether a delta's origin may write in its shard, as far as this node knows.
    pub(super) fn admission(&self, delta: &Delta) -> Admission {
        let Some(cluster) = self.state() else { return Admission::Refuse };
        let origin = delta.head.origin();
        let may_write = match &delta.head.head().shard {
            Shard::Cluster => cluster.may_write(origin),
            Shard::Network(id) => match (self.networks.get(id), self.wanted.get(id)) {
                (Some(state), _) | (None, Some(super::machine::Wanted { state: Some(state), .. })) => {
                    state.may_write(origin)
                }
                (None, Some(_)) => delta.added.iter().any(|record| definition(id, cluster, record).is_some()),
                (None, None) => return Admission::Refuse,
            },
        };
        if may_write { Admission::Apply } else { Admission::Park }
    }

    /// Takes a delta in, if its origin may write in its shard.
    pub(super) fn ingest(&mut self, delta: &Delta, from: Option<NodeId>) -> Ingested {
        match self.admission(delta) {
            Admission::Apply => {}
            Admission::Park => {
                self.logs.park(delta.clone());
                return Ingested::Parked;
            }
            Admission::Refuse => return Ingested::Refused,
        }
        let (shard, origin) = (delta.head.head().shard.clone(), delta.head.origin());
        let before = self.logs.log(&shard, origin).map(|log| log.stamp());
        let added = delta.added.iter().map(Verified::memory_len).sum::<usize>();
        let applied = if added + self.logs.memory_len(origin) > ORIGIN_MEMORY_LEN_MAX && origin != self.me {
            Err(ApplyError::TooLong)
        } else {
            self.logs.apply(delta)
        };
        match applied {
            Ok(Applied::Changed { removed }) => {
                self.rumours.add(&shard, origin, before, removed, from);
                if origin == self.me || self.pens.contains_key(&origin) {
                    self.hear_own(&shard, origin);
                } else {
                    self.unsaved.add(delta);
                }
                self.changed.insert(shard);
                Ingested::Changed
            }
            Ok(Applied::Known) => {
                if let Some(from) = from {
                    self.rumours.knows(&shard, origin, from);
                }
                Ingested::Known
            }
            Err(ApplyError::Mismatch) => Ingested::Mismatch,
            // Another life of this node does not know whom it has expelled: what is said next says both. Until then the log that
            // the others have is not to be had here, however often it is asked for.
            Err(ApplyError::Revocation) if self.pens.contains_key(&origin) => match Log::first(delta) {
                Ok((heard, _)) => {
                    self.adopt(&shard, &heard);
                    Ingested::TakenUp
                }
                Err(_) => Ingested::Mismatch,
            },
            Err(error) => {
                tracing::debug!(node = %origin, ?shard, %error, "a log is refused");
                if error == ApplyError::TooLong && from == Some(origin) {
                    self.close_peer(origin, "this node says more than a node may say");
                }
                if error == ApplyError::Revocation { Ingested::RevocationLost } else { Ingested::Refused }
            }
        }
    }

    /// A peer knows a later state of a log of ours than we do: this node was rolled back, or copied.
    fn hear_own(&mut self, shard: &Shard, origin: NodeId) {
        if let Some(heard) = self.logs.log(shard, origin).cloned() {
            self.adopt(shard, &heard);
        }
    }

    /// What this node said once and does not remember it says again, with what it said since on top.
    pub(super) fn adopt(&mut self, shard: &Shard, heard: &Log) {
        let origin = heard.origin();
        let lives = self.lives.get(&(origin, shard.clone())).cloned();
        let Some((log, pen)) = self.author(origin, shard) else { return };
        let boot = pen.boot();
        log.adopt(pen, heard, |stamp| lives.as_ref().is_some_and(|lives| lives.has(stamp)));
        let skipped = pen.boot() > boot;
        // From here on all that was signed up to now is of an earlier boot, and known.
        let said = self.authors.iter().filter(|((by, _), _)| skipped && *by == origin);
        let said = said.filter_map(|(at, log)| Some((at.clone(), log.stamp()?)));
        for (at, stamp) in said {
            let lives = self.lives.entry(at).or_insert_with(|| Lives::new(stamp, Vec::new()));
            lives.go_on(boot, stamp);
        }
        let lives = self.lives.entry((origin, shard.clone())).or_insert_with(|| Lives::new(heard.stamp(), Vec::new()));
        lives.take_up(heard.stamp());
        if let Some(boot) = self.pens.get(&origin).map(Pen::boot).filter(|_| origin == self.me && skipped) {
            self.boot.boot = boot;
            self.persister.write(self.boot.write());
        }
    }

    fn unpark(&mut self, now: Instant) {
        let mut logs = std::mem::take(&mut self.logs);
        let ready = logs.unpark(|delta| self.admission(delta) == Admission::Apply);
        self.logs = logs;
        for delta in ready {
            if self.ingest(&delta, None) == Ingested::Mismatch {
                self.pull_from_anyone(&delta.head.head().shard.clone(), delta.head.origin(), now);
            }
        }
    }

    /// Seals what we wrote and hands it to the disk, unless it is busy or a gate is closed: then a later round takes it.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.persister.is_busy() || !self.gates.is_empty() {
            return;
        }
        let changed: Vec<(NodeId, Shard)> =
            self.authors.iter().filter(|(_, log)| log.is_changed()).map(|(at, _)| at.clone()).collect();
        if !changed.is_empty() {
            self.save_what_carries();
        }
        for (origin, shard) in changed {
            self.seal(origin, &shard, now);
        }
        if self.persister.has_pending() {
            let (token, writes) = self.persister.start();
            let mark = self.head_mark(self.boot.boot);
            self.outputs.push_back(Output::Persist { token, writes, mark });
        }
    }

    fn seal(&mut self, origin: NodeId, shard: &Shard, now: Instant) {
        let Some(cluster) = self.cluster() else { return };
        let (Some(log), Some(pen)) = (self.authors.get_mut(&(origin, shard.clone())), self.pens.get_mut(&origin))
        else {
            return;
        };
        let Some(delta) = log.seal(pen, &mut self.rng) else { return };
        let whole = log.whole(&delta);
        let own = origin == self.me;
        let unix_s = self.wall.unix_s(now);
        let space = shard.network().and_then(|id| self.spaces.get_mut(id));
        let resting = space.map(|space| {
            space.join_log();
            space.stored_resting(unix_s, now)
        });
        let resting = resting.unwrap_or_default();
        let name = if own { files::own_log_name(shard) } else { files::foreign_log_name(shard, origin) };
        let lives = self.lives.get(&(origin, shard.clone()));
        let gaps = lives.map(|lives| lives.gaps_before(delta.head.stamp().boot)).unwrap_or_default();
        self.persister.write(LogFile { delta: whole, resting, gaps }.write(name, cluster, own));
        self.persister.publish(delta);
    }

    /// The files of this token are on disk.
    pub fn handle_persisted(&mut self, token: PersistToken, now: Instant) {
        let Some(batch) = self.persister.finish(token) else { return };
        for delta in batch.deltas {
            let (shard, origin) = (delta.head.head().shard.clone(), delta.head.origin());
            let before = self.logs.log(&shard, origin).map(|log| log.stamp());
            if let Ok(Applied::Changed { removed }) = self.logs.apply(&delta) {
                self.rumours.add(&shard, origin, before, removed, None);
                self.changed.insert(shard);
            }
        }
        self.refresh_all(now);
        for waiter in batch.waiters {
            self.wake(waiter, now);
        }
        self.settle(now);
    }

    fn wake(&mut self, waiter: Waiter, now: Instant) {
        match waiter {
            Waiter::Done(operation, done) => self.finished.push((operation, Ok(done))),
            Waiter::Certify(redemption) => self.certify(redemption, now),
            Waiter::Admit(redemption) => self.admit(redemption),
            Waiter::Joined => self.joined(now),
            Waiter::Reply(connection, exchange, answer) => self.reply(connection, exchange, &answer),
            Waiter::Withdrawn(operation) => self.tell_withdrawals(operation, now),
            Waiter::Revoked => self.tell_revocation(now),
        }
    }
}

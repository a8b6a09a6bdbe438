//! Leaving: a node withdraws all that it hosts, gives its addresses back, and revokes its own key.
//!
//! Each part is on this node's disk before it is told, and another node has it on its own before the next part is done: the
//! networks' records while others still listen to this node there, then the revocation. After that this node forgets the
//! cluster, its own key included: who joins from here again is another node, free to take the same name.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::alive::Liveness;
use super::api::{ConnectionId, Done, OperationError, OperationId};
use super::exchange::Asked;
use super::files;
use super::identity::NODE_KEY;
use super::machine::Gossip;
use super::message::{HelloRefusal, Message, RECORDS_LEN_MAX};
use super::persist::Waiter;
use super::store::Write;
use crate::membership::body::{Body, Revocation, Share, range_key};
use crate::membership::{Kind, Rest, Shard, Stamp, ranges_of};
use crate::model::{CONTAINERS, EXTRAS, Ipv4Range, NetworkId, NodeId, Rev};

/// How long others may take to confirm a part.
const TOLD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often they are told again.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A leave under way.
pub(super) struct Leaving {
    operation: OperationId,
    /// What another node has yet to confirm.
    untold: BTreeSet<Shard>,
    until: Instant,
    tell_at: Instant,
}

impl Gossip {
    /// Leaves the cluster for ever. Done when another node has it on disk, and this one has forgotten the cluster; the last
    /// node of a cluster tells nobody.
    ///
    /// One that timed out goes on where it was when it is called again.
    pub fn leave(&mut self, now: Instant) -> OperationId {
        let operation = self.operation();
        match self.check_leave() {
            Err(error) => self.finished.push((operation, Err(error))),
            Ok(()) => {
                self.withdraw_all(now);
                self.persister.then(Waiter::Withdrawn(operation));
            }
        }
        self.settle(now);
        operation
    }

    /// Whether [`Self::leave`] would begin.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_leave(&self) -> Result<(), OperationError> {
        let state = self.state().ok_or(OperationError::NoCluster)?;
        if self.leaving.is_some() || self.joining.is_some() {
            return Err(OperationError::Busy);
        }
        let others: Vec<NodeId> = state.members().map(|(node, _)| node).filter(|node| *node != self.me).collect();
        if others.is_empty() {
            return Ok(());
        }
        if self.has_root_key() {
            return Err(OperationError::RootKeyHere);
        }
        if state.is_signer(self.me) && !others.iter().any(|node| state.is_signer(*node)) {
            return Err(OperationError::LastSigner);
        }
        // A connection to a node that has gone stands for minutes.
        let hears = |peer| !matches!(self.liveness(peer), Some(Liveness::Down { .. }));
        if !self.peers.members().any(hears) && !state.has_left(self.me) {
            return Err(OperationError::NobodyTold);
        }
        Ok(())
    }

    /// Takes our containers' records out, and makes another node home of what we hold of our own.
    fn withdraw_all(&mut self, now: Instant) {
        for (_, container) in self.attachments() {
            self.remove_container(container.id, now);
        }
        let networks: Vec<NetworkId> = self.networks.keys().cloned().collect();
        for network in networks {
            self.hand_home_over(&network);
        }
    }

    fn hand_home_over(&mut self, network: &NetworkId) {
        let (Some(state), Some(holdings)) = (self.networks.get(network), self.holdings_ahead(network)) else { return };
        if state.view.creator != self.me {
            return;
        }
        // Rather an owner, who goes on granting; and rather one that hears of it at once.
        let heirs = state.view.grants.iter().filter(|(node, _)| **node != self.me);
        let heir = heirs.max_by_key(|(node, role)| (self.peers.connection(**node).is_some(), **role, **node));
        let Some(heir) = heir.map(|(node, _)| *node) else { return };
        let own: Vec<_> =
            [CONTAINERS, EXTRAS].into_iter().flat_map(|space| holdings.addresses_of(self.me, space)).collect();
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            for range in ranges_of(own) {
                log.put(pen, &Body::Share(Share { range, holder: heir, home: true }), Rev(0));
            }
        }
    }

    /// What we withdraw is on disk: others are to have it before they stop to listen.
    pub(super) fn tell_withdrawals(&mut self, operation: OperationId, now: Instant) {
        let mut untold: BTreeSet<Shard> = self.networks.keys().cloned().map(Shard::Network).collect();
        untold.retain(|shard| {
            self.logs.log(shard, self.me).is_some() && self.peers.members().any(|peer| self.may_see(peer, shard))
        });
        self.leaving = Some(Leaving { operation, untold, until: now + TOLD_TIMEOUT, tell_at: now });
        if self.state().is_some_and(|state| state.has_left(self.me)) {
            self.tell_revocation(now);
        } else {
            self.go_on_leaving(now);
        }
    }

    /// Our revocation is on disk: from here on there is no way back.
    pub(super) fn tell_revocation(&mut self, now: Instant) {
        let is_alone = self.state().is_none_or(|state| state.members().all(|(node, _)| node == self.me));
        let Some(leaving) = &mut self.leaving else { return };
        (leaving.until, leaving.tell_at) = (now + TOLD_TIMEOUT, now);
        if !is_alone && !self.leave_is_known {
            leaving.untold.insert(Shard::Cluster);
        }
        self.go_on_leaving(now);
    }

    /// A peer refuses this node: if that is because it has left, it is known.
    pub(super) fn note_refused(&mut self, connection: ConnectionId, refusal: HelloRefusal, now: Instant) {
        if refusal != HelloRefusal::Expelled {
            return;
        }
        if self.state().is_some_and(|state| state.has_left(self.me)) {
            self.leave_is_known = true;
            self.note_kept(&Shard::Cluster, now);
        }
        self.peers.note_refusal(connection);
    }

    /// Tells what is untold, and takes the next step when all is.
    fn go_on_leaving(&mut self, now: Instant) {
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.untold.is_empty() {
            return if self.state().is_some_and(|state| state.has_left(self.me)) {
                self.forget_cluster(now)
            } else {
                self.revoke_self()
            };
        }
        if leaving.tell_at > now {
            return;
        }
        leaving.tell_at = now + TELL_EVERY;
        for shard in leaving.untold.clone() {
            let log = self.logs.log(&shard, self.me).map(|log| log.delta_since(None, RECORDS_LEN_MAX));
            let Some(delta) = log.filter(|delta| delta.rest != Rest::More) else { continue };
            let message = Message::Deltas(vec![delta]);
            let peers: Vec<ConnectionId> =
                self.peers.members().filter_map(|peer| self.peers.connection(peer)).collect();
            let granted = |connection: &ConnectionId| match shard.network() {
                None => true,
                Some(_) => self.peers.member(*connection).is_some_and(|peer| self.may_see(peer, &shard)),
            };
            for connection in peers.into_iter().filter(granted).collect::<Vec<_>>() {
                self.ask(connection, &message, Asked::Keep(shard.clone()), now);
            }
        }
    }

    fn revoke_self(&mut self) {
        let me = self.me;
        if let Some((log, pen)) = self.own(&Shard::Cluster) {
            log.put(pen, &Body::Revocation(Revocation { node: me }), Rev(1));
        }
        // Should this be cut short, a folder without `cluster` is that of a node in no cluster.
        self.boot.member = false;
        self.persister.write(self.boot.write());
        self.persister.then(Waiter::Revoked);
    }

    /// A peer has on disk what it was told.
    pub(super) fn note_kept(&mut self, shard: &Shard, now: Instant) {
        if let Some(leaving) = &mut self.leaving
            && leaving.untold.remove(shard)
        {
            self.go_on_leaving(now);
        }
    }

    /// Tells again, and gives up what nobody confirms.
    pub(super) fn tend_leave(&mut self, now: Instant) {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| !leaving.untold.is_empty()) else { return };
        if leaving.until <= now {
            let operation = leaving.operation;
            self.leave_failed(operation, OperationError::NobodyTold);
        } else {
            self.go_on_leaving(now);
        }
    }

    /// The leave stops where it is. Called again it goes on.
    pub(super) fn leave_failed(&mut self, operation: OperationId, error: OperationError) {
        self.leaving = None;
        self.finished.push((operation, Err(error)));
    }

    pub(super) fn fail_leaving(&mut self, error: OperationError) {
        if let Some(operation) = self.leaving.as_ref().map(|leaving| leaving.operation) {
            self.leave_failed(operation, error);
        }
    }

    /// Whoever is to know knows: this node is in no cluster any more.
    fn forget_cluster(&mut self, now: Instant) {
        let Some(leaving) = self.leaving.take() else { return };
        let networks: Vec<NetworkId> = self.networks.keys().chain(self.wanted.keys()).cloned().collect();
        for network in networks {
            self.lose_network(&network, now);
        }
        // `cluster` first and the key last: a folder that was left half-way starts, as a node in no cluster.
        let others = self.logs.shard(&Shard::Cluster).map(|log| files::foreign_log_name(&Shard::Cluster, log.origin()));
        let mut names = vec![files::CLUSTER.to_owned(), files::own_log_name(&Shard::Cluster)];
        names.extend(others);
        names.extend([files::INVITES, files::RESTING, files::ROOT_KEY, files::BOOT, NODE_KEY].map(ToOwned::to_owned));
        for name in names {
            self.persister.write(Write::remove(name));
        }
        self.forget_membership();
        self.persister.then(Waiter::Done(leaving.operation, Done::Left));
    }

    /// As a home, takes back what nodes held that have left, or are removed as everybody knows. It rests from now on: some of it
    /// was in use.
    pub(super) fn take_back_from_gone(&mut self, network: &NetworkId, now: Instant) {
        let Some(belonging) = &self.belonging else { return };
        let Some(log) = self.authors.get_mut(&(self.me, Shard::Network(network.clone()))) else { return };
        let removed = self.networks.get(network).filter(|state| state.is_removal_known()).map(|state| &state.removed);
        let is_gone =
            |node: NodeId| belonging.state.has_left(node) || removed.is_some_and(|all| all.contains_key(&node));
        let held_by_gone = |share: &Share| !share.home && is_gone(share.holder);
        let gone: Vec<Ipv4Range> = log
            .records()
            .filter_map(|record| match record.body() {
                Body::Share(share) if held_by_gone(share) => Some(share.range),
                _ => None,
            })
            .collect();
        let memory = self.spaces.entry(network.clone()).or_default();
        for range in gone {
            log.remove(Kind::SHARE, &range_key(range));
            range.iter().for_each(|address| memory.free(address, now));
        }
    }

    /// What this node became home of, since its creator has left, rests too: some of it was in use.
    pub(super) fn rest_inherited(&mut self, network: &NetworkId, now: Instant) {
        let (Some(state), Some(cluster)) = (self.networks.get(network), self.state()) else { return };
        let creator = state.view.creator;
        if creator == self.me || !cluster.has_left(creator) {
            return;
        }
        let spaces = [CONTAINERS, EXTRAS].into_iter();
        let segments = spaces.flat_map(|space| state.holdings.segments(space)).filter(|s| s.home == self.me);
        // Our own shares are of later stamps of another node.
        let inherited: Vec<(Stamp, Ipv4Range)> = segments
            .filter(|segment| segment.holder == Some(self.me))
            .filter_map(|segment| Some((segment.share?, segment.range)))
            .collect();
        let memory = self.spaces.entry(network.clone()).or_default();
        let known = memory.inherited.clone();
        for (share, range) in inherited.into_iter().filter(|(share, _)| !known.contains(share)) {
            memory.inherited.insert(share);
            range.iter().for_each(|address| memory.free(address, now));
        }
    }
}

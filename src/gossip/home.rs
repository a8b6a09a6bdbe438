//! What a home does: it shares addresses out, asks for spare ones, and takes back what was released.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::api::Space;
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::{Message, SpaceAnswer};
use super::space::{REST, Reclaim};
use crate::membership::body::{Body, Share};
use crate::membership::{Kind, Shard, Stamp, ranges_of};
use crate::model::{CONTAINERS, EXTRAS, Ipv4Range, NetworkId, NodeId, Rev};

/// How long a holder's answer that it has nothing to spare is believed.
const RECLAIM_MEMORY: Duration = Duration::from_secs(2);
/// How long what a holder gave back takes to arrive, before it is asked again.
const RECLAIM_AGAIN: Duration = Duration::from_millis(400);

impl Gossip {
    /// A grantee asks this home for addresses.
    pub(super) fn answer_space(
        &mut self,
        peer: NodeId,
        network: &NetworkId,
        extras: bool,
        count: u32,
        urgent: bool,
        now: Instant,
    ) -> Message {
        let space = Space::of(extras);
        let is_home =
            self.networks.get(network).is_some_and(|state| state.holdings.homes(space.range()).contains(&self.me));
        if !is_home || !self.may_see(peer, &Shard::Network(network.clone())) {
            return Message::Unknown;
        }
        let spare = self.rested(network, space, now);
        let fair = self.fair(network, space);
        // A home keeps half of its own part, unless somebody waits.
        let kept = if urgent { 0 } else { fair / 2 };
        let given = (count as usize).min(spare.len().saturating_sub(kept));
        if given > 0 {
            self.share_out(network, peer, &spare[spare.len() - given..]);
            return Message::Space(SpaceAnswer::Given);
        }
        let held = self.holdings_ahead(network).and_then(|holdings| holdings.counts(space.range()).get(&peer).copied());
        if urgent {
            Message::Space(self.reclaim(network, space, peer, 0, count, now))
        } else if held.unwrap_or(0) < fair as u64 / 2 {
            // Who has less than half of its part is helped by those who have more than theirs.
            Message::Space(self.reclaim(network, space, peer, fair as u64, count, now))
        } else {
            Message::Space(SpaceAnswer::Asked)
        }
    }

    /// Asks holders with addresses to spare to give `need` back, for `asker`; those with more than `above`.
    pub(super) fn reclaim(
        &mut self,
        network: &NetworkId,
        space: Space,
        asker: NodeId,
        above: u64,
        need: u32,
        now: Instant,
    ) -> SpaceAnswer {
        let Some(holdings) = self.holdings_ahead(network) else { return SpaceAnswer::Full(None) };
        let Some(state) = self.networks.get(network) else { return SpaceAnswer::Full(None) };
        let mut spare: BTreeMap<NodeId, u64> = holdings.counts(space.range());
        spare.retain(|_, count| *count > above);
        for container in state.view.containers().filter(|c| space.range().contains(c.address)) {
            if let Some(count) = spare.get_mut(&container.node) {
                *count = count.saturating_sub(1);
            }
        }
        spare.retain(|node, count| *count > 0 && *node != self.me && *node != asker);
        let memory = self.spaces.entry(network.clone()).or_default();
        memory.reclaims.retain(|_, reclaim| now.saturating_duration_since(reclaim.at) < RECLAIM_MEMORY);
        let reclaims = &memory.reclaims;
        let (mut unreachable, mut waiting, mut ask, mut free_at) = (Vec::new(), false, Vec::new(), Vec::new());
        for (holder, count) in spare {
            match (reclaims.get(&(holder, space)), self.peers.connection(holder)) {
                (Some(Reclaim { given: Some(0), free_at: first, .. }), _) => free_at.extend(*first),
                (Some(reclaim), Some(connection)) => {
                    waiting = true;
                    if reclaim.given.is_some() && now.saturating_duration_since(reclaim.at) >= RECLAIM_AGAIN {
                        ask.push((count, holder, connection));
                    }
                }
                (None, Some(connection)) => ask.push((count, holder, connection)),
                (_, None) => unreachable.push(holder),
            }
        }
        if ask.is_empty() && !waiting {
            let others = free_at.into_iter().map(|at| at.saturating_duration_since(now).as_secs() + 1);
            let first = others.chain(self.free_in_s(network, space, now)).min();
            return if unreachable.is_empty() {
                SpaceAnswer::Full(first)
            } else {
                SpaceAnswer::Unreachable(unreachable)
            };
        }
        ask.sort_unstable_by(|a, b| b.cmp(a));
        let mut need = u64::from(need.max(1));
        for (count, holder, connection) in ask {
            let asked = count.saturating_sub(above).clamp(1, need);
            let message = Message::Reclaim {
                network: network.clone(),
                extras: space == Space::Extras,
                count: u32::try_from(asked).unwrap_or(u32::MAX),
            };
            self.ask(connection, &message, Asked::Reclaim(network.clone(), holder), now);
            if let Some(memory) = self.spaces.get_mut(network) {
                memory.reclaims.insert((holder, space), Reclaim { at: now, given: None, free_at: None });
            }
            need = need.saturating_sub(asked);
            if need == 0 {
                break;
            }
        }
        SpaceAnswer::Asked
    }

    pub(super) fn note_reclaimed(
        &mut self,
        network: &NetworkId,
        holder: NodeId,
        count: u32,
        free_in_s: Option<u64>,
        now: Instant,
    ) {
        let Some(memory) = self.spaces.get_mut(network) else { return };
        // What a peer says is no reason to count past the end of time.
        let free_at = free_in_s.map(|s| now + REST.min(Duration::from_secs(s)));
        for ((of, _), reclaim) in &mut memory.reclaims {
            if *of == holder && reclaim.given.is_none() {
                *reclaim = Reclaim { at: now, given: Some(count), free_at };
            }
        }
    }

    /// Gives addresses of ours to a holder.
    fn share_out(&mut self, network: &NetworkId, holder: NodeId, addresses: &[Ipv4Addr]) {
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            for range in ranges_of(addresses.iter().copied()) {
                log.put(pen, &Body::Share(Share { range, holder, home: false }), Rev(0));
            }
        }
    }

    /// What is due in a network whose records changed: take back what was released, forget releases that are done, give new
    /// grantees their part.
    pub(super) fn do_home_duties(&mut self, network: &NetworkId, now: Instant) {
        if !self.networks.contains_key(network) {
            return;
        }
        self.fold_releases(network);
        self.forget_done_releases(network);
        self.give_new_grantees(network, now);
    }

    fn fold_releases(&mut self, network: &NetworkId) {
        let Some(holdings) = self.holdings_ahead(network) else { return };
        let all = || [CONTAINERS, EXTRAS].into_iter().flat_map(|space| holdings.segments(space));
        let released: BTreeSet<Stamp> = all()
            .filter(|segment| segment.home == self.me && segment.holder.is_none())
            .filter_map(|segment| segment.share)
            .collect();
        if released.is_empty() {
            return;
        }
        let kept: Vec<(Ipv4Range, NodeId)> = all()
            .filter(|segment| segment.home == self.me && segment.share.is_some_and(|share| released.contains(&share)))
            .filter_map(|segment| Some((segment.range, segment.holder?)))
            .collect();
        let Some((log, pen)) = self.own(&Shard::Network(network.clone())) else { return };
        let old: Vec<Vec<u8>> = log
            .records()
            .filter(|r| r.record().kind == Kind::SHARE && released.contains(&r.stamp()))
            .map(|record| record.record().key.clone())
            .collect();
        for key in old {
            log.remove(Kind::SHARE, &key);
        }
        for (range, holder) in kept {
            log.put(pen, &Body::Share(Share { range, holder, home: false }), Rev(0));
        }
    }

    fn give_new_grantees(&mut self, network: &NetworkId, now: Instant) {
        let Some(state) = self.networks.get(network).filter(|state| state.view.creator == self.me) else { return };
        let Some(holdings) = self.holdings_ahead(network) else { return };
        let counts = holdings.counts(CONTAINERS);
        let new: Vec<NodeId> = state.view.grants.keys().filter(|node| !counts.contains_key(node)).copied().collect();
        let fair = self.fair(network, Space::Containers);
        for grantee in new {
            let spare = self.rested(network, Space::Containers, now);
            let given = fair.min((spare.len().saturating_sub(fair)).max(spare.len() / 2));
            self.share_out(network, grantee, &spare[spare.len() - given..]);
        }
    }

    /// A home asks who holds more than twice its part for what is above it.
    pub(super) fn ask_back_surplus(&mut self, network: &NetworkId, fair: u64, now: Instant) {
        let Some(holdings) = self.holdings_ahead(network) else { return };
        for (holder, count) in holdings.counts(CONTAINERS).into_iter().filter(|(_, count)| *count > 2 * fair) {
            let Some(connection) = self.peers.connection(holder) else { continue };
            let count = u32::try_from(count - fair).unwrap_or(u32::MAX);
            let message = Message::Reclaim { network: network.clone(), extras: false, count };
            self.ask(connection, &message, Asked::Reclaim(network.clone(), holder), now);
        }
    }
}

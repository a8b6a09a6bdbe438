//! What a home does: it shares addresses out, asks for spare ones, and takes back what was released.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::api::Space;
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
        if self.is_gated(network) {
            return Message::Space(SpaceAnswer::Asked);
        }
        let Some(holdings) = self.holdings_ahead(network) else { return Message::Unknown };
        let mut spare = self.rested(network, space, now);
        // What another home gave to this node is not this node's to give on.
        spare.retain(|address| holdings.segment(*address).is_some_and(|segment| segment.home == self.me));
        let asker_has = self.spare_in_view(network, space, &holdings).get(&peer).copied().unwrap_or(0);
        let mut given = self.given((network, space), spare.len(), count, asker_has, urgent);
        if !urgent {
            // What it has beyond half of its own part a home gives in any case.
            let beyond = spare.len().saturating_sub(self.fair(network, space) / 2);
            given = given.max(beyond.min(count as usize));
        }
        if given > 0 {
            self.share_out(network, peer, &spare[spare.len() - given..]);
            return Message::Space(SpaceAnswer::Given);
        }
        if urgent {
            return Message::Space(self.reclaim(network, space, peer, count, now));
        }
        self.ask_back(network, space, peer, count, now);
        Message::Space(SpaceAnswer::Asked)
    }

    /// Asks holders with addresses to spare to give `need` back, for `asker`, where an attach waits.
    pub(super) fn reclaim(
        &mut self,
        network: &NetworkId,
        space: Space,
        asker: NodeId,
        need: u32,
        now: Instant,
    ) -> SpaceAnswer {
        let Some(holdings) = self.holdings_ahead(network) else { return SpaceAnswer::Full(None) };
        let mut spare = self.spare_in_view(network, space, &holdings);
        spare.retain(|node, count| *count > 0 && *node != self.me && *node != asker);
        let memory = self.spaces.entry(network.clone()).or_default();
        memory.reclaims.retain(|_, reclaim| now.saturating_duration_since(reclaim.at) < RECLAIM_MEMORY);
        let reclaims = &memory.reclaims;
        let (mut unreachable, mut waiting, mut ask, mut free_at) = (Vec::new(), false, Vec::new(), Vec::new());
        for (holder, count) in spare {
            match (reclaims.get(&(holder, space)), self.peers.connection(holder)) {
                (Some(Reclaim { given: Some(0), free_at: first, .. }), _) => free_at.extend(*first),
                (Some(reclaim), Some(_)) => {
                    waiting = true;
                    if reclaim.given.is_some() && now.saturating_duration_since(reclaim.at) >= RECLAIM_AGAIN {
                        ask.push((count, holder));
                    }
                }
                (None, Some(_)) => ask.push((count, holder)),
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
        for (count, holder) in ask {
            let asked = count.clamp(1, need);
            self.ask_holder(network, space, holder, u32::try_from(asked).unwrap_or(u32::MAX), true, now);
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

    /// A holder's answer. That it has nothing is remembered if it was asked for everything.
    pub(super) fn note_reclaimed(
        &mut self,
        network: &NetworkId,
        (holder, space, urgent): (NodeId, Space, bool),
        (count, free_in_s): (u32, Option<u64>),
        now: Instant,
    ) {
        if count > 0 {
            self.fetch_log(network, holder, now);
        }
        let Some(memory) = self.spaces.get_mut(network).filter(|_| urgent) else { return };
        // What a peer says is no reason to count past the end of time.
        let free_at = free_in_s.map(|s| now + REST.min(Duration::from_secs(s)));
        memory.reclaims.insert((holder, space), Reclaim { at: now, given: Some(count), free_at });
    }

    /// What a holder has given back is here: it may be asked again.
    pub(super) fn note_fetched(&mut self, network: &NetworkId, holder: NodeId) {
        if let Some(memory) = self.spaces.get_mut(network) {
            memory.reclaims.retain(|(of, _), reclaim| *of != holder || reclaim.given.is_none_or(|given| given == 0));
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
        if self.is_gated(network) {
            return;
        }
        self.tend_rotation(network, now);
        self.acknowledge_removals(network);
        self.take_back_from_gone(network, now);
        self.rest_inherited(network, now);
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
        let Some(state) = self.networks.get(network) else { return };
        let Some(holdings) = self.holdings_ahead(network) else { return };
        if !holdings.homes(CONTAINERS).contains(&self.me) {
            return;
        }
        let counts = holdings.counts(CONTAINERS);
        let new: Vec<NodeId> = state.view.grants.keys().filter(|node| !counts.contains_key(node)).copied().collect();
        let fair = self.fair(network, Space::Containers);
        for grantee in new {
            let mut spare = self.rested(network, Space::Containers, now);
            spare.retain(|address| holdings.segment(*address).is_some_and(|segment| segment.home == self.me));
            let given = fair.min((spare.len().saturating_sub(fair)).max(spare.len() / 2));
            self.share_out(network, grantee, &spare[spare.len() - given..]);
        }
    }
}

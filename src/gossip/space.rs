//! Addresses: what this node may use, what it shares out as a home, and what it gives back.
//!
//! All decisions are taken on our own log as it will be once it is on disk, so that nothing is given away twice while the
//! disk is slow; and nothing is used or published before it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::api::{OperationError, Space};
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::{Message, SpaceAnswer};
use crate::membership::body::{Body, Release, Share};
use crate::membership::{Holdings, Kind, Shard, Stamp, Verified, ranges_of};
use crate::model::{CONTAINERS, EXTRAS, Ipv4Range, NetworkId, NodeId, Rev};

/// How long a freed address rests before it is used again.
pub const REST: Duration = Duration::from_secs(60);
/// How long a holder's answer that it has nothing to spare is believed.
const RECLAIM_MEMORY: Duration = Duration::from_secs(2);
/// How long what a holder gave back takes to arrive, before it is asked again.
const RECLAIM_AGAIN: Duration = Duration::from_millis(400);
/// How often a node with less than its fair share asks for more.
const TOP_UP_EVERY: Duration = Duration::from_secs(10);

/// What a node remembers of a network's addresses beside its records.
#[derive(Default)]
pub(super) struct NetworkSpace {
    /// Addresses of ours that were freed: when each has rested enough. They stay listed for the order of reuse.
    resting: BTreeMap<Ipv4Addr, Instant>,
    /// Holders that were asked to give back: when, and how many they gave.
    reclaims: BTreeMap<(NodeId, Space), (Instant, Option<u32>)>,
    next_top_up: Option<Instant>,
    /// How many attaches wait for an address.
    pub(super) waiting: usize,
}

/// What a search for a free address found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pick {
    Free(Ipv4Addr),
    /// None is free here; the first that rests is free then.
    None(Option<Instant>),
}

impl Space {
    pub(super) fn range(self) -> Ipv4Range {
        match self {
            Self::Containers => CONTAINERS,
            Self::Extras => EXTRAS,
        }
    }

    pub(super) fn of(extras: bool) -> Self {
        if extras { Self::Extras } else { Self::Containers }
    }
}

impl NetworkSpace {
    /// What was stored: each address with the Unix time at which it was freed.
    pub(super) fn restored(resting: &[(Ipv4Addr, u64)], unix_s: u64, now: Instant) -> Self {
        let left = |freed: u64| REST.saturating_sub(Duration::from_secs(unix_s.saturating_sub(freed)));
        let resting = resting.iter().map(|(address, freed)| (*address, now + left(*freed))).collect();
        Self { resting, ..Self::default() }
    }

    /// What to store: only what still rests.
    pub(super) fn stored_resting(&self, unix_s: u64, now: Instant) -> Vec<(Ipv4Addr, u64)> {
        let rested =
            |until: Instant| REST.as_secs() - until.saturating_duration_since(now).as_secs().min(REST.as_secs());
        let resting = self.resting.iter().filter(|(_, until)| **until > now);
        resting.map(|(address, until)| (*address, unix_s.saturating_sub(rested(*until)))).collect()
    }

    pub(super) fn free(&mut self, address: Ipv4Addr, now: Instant) {
        self.resting.insert(address, now + REST);
    }

    /// The address to use next: one that was never used, else the longest rested.
    fn pick(&self, free: &[Ipv4Addr], now: Instant) -> Pick {
        if let Some(fresh) = free.iter().find(|address| !self.resting.contains_key(address)) {
            return Pick::Free(*fresh);
        }
        let next = free.iter().filter_map(|address| Some((*self.resting.get(address)?, *address))).min();
        match next {
            Some((until, address)) if until <= now => Pick::Free(address),
            next => Pick::None(next.map(|(until, _)| until)),
        }
    }

    fn is_resting(&self, address: Ipv4Addr, now: Instant) -> bool {
        self.resting.get(&address).is_some_and(|until| *until > now)
    }
}

impl Gossip {
    /// Who holds what, with our own log as it will be.
    pub(super) fn holdings_ahead(&self, network: &NetworkId) -> Option<Holdings> {
        let state = self.networks.get(network)?;
        Some(Holdings::derive(state.view.creator, self.records_ahead(network)))
    }

    /// The addresses that containers have, also those whose records are not on disk yet.
    fn used(&self, network: &NetworkId) -> BTreeSet<Ipv4Addr> {
        let seen = self.networks.get(network).into_iter().flat_map(|state| state.view.containers().map(|c| c.address));
        let own = self.records_ahead(network).filter(|record| record.origin() == self.me);
        let own = own.filter_map(|record| match record.body() {
            Body::Container(container) => Some(container.address),
            _ => None,
        });
        seen.chain(own).collect()
    }

    /// The addresses of ours that no container has, resting or not.
    fn free(&self, network: &NetworkId, space: Space) -> Vec<Ipv4Addr> {
        let used = self.used(network);
        let Some(holdings) = self.holdings_ahead(network) else { return Vec::new() };
        holdings.addresses_of(self.me, space.range()).filter(|address| !used.contains(address)).collect()
    }

    /// The free addresses of ours that rest no more.
    fn rested(&self, network: &NetworkId, space: Space, now: Instant) -> Vec<Ipv4Addr> {
        let mut free = self.free(network, space);
        if let Some(memory) = self.spaces.get(network) {
            free.retain(|address| !memory.is_resting(*address, now));
        }
        free
    }

    /// An address for a new attachment.
    pub(super) fn pick_address(&self, network: &NetworkId, space: Space, now: Instant) -> Pick {
        let free = self.free(network, space);
        self.spaces.get(network).map_or(Pick::None(None), |memory| memory.pick(&free, now))
    }

    /// What a node's part is when the space is divided evenly.
    fn fair(&self, network: &NetworkId, space: Space) -> usize {
        let granted = self.networks.get(network).map_or(1, |state| state.view.grants.len()).max(1);
        space.range().count() as usize / granted
    }

    /// The error for a space without a free address.
    pub(super) fn full(
        &self,
        network: &NetworkId,
        space: Space,
        free_in_s: Option<u64>,
        now: Instant,
    ) -> OperationError {
        let in_range = |address: &Ipv4Addr| space.range().contains(*address);
        let in_use = self.used(network).iter().filter(|address| in_range(address)).count() as u32;
        let own = self.spaces.get(network).map(|memory| {
            memory.resting.iter().filter(|(address, until)| in_range(address) && **until > now).count() as u32
        });
        let total = space.range().count() as u32;
        OperationError::Full { network: network.clone(), in_use, resting: own.unwrap_or(0), total, free_in_s }
    }

    /// Asks the homes of a space for addresses; `false` if none is connected.
    pub(super) fn ask_homes(&mut self, network: &NetworkId, space: Space, urgent: bool, now: Instant) -> bool {
        let Some(state) = self.networks.get(network) else { return false };
        let homes = state.holdings.homes(space.range());
        let connections: Vec<_> = homes.iter().filter_map(|home| self.peers.connection(*home)).collect();
        let asked = Asked::Space(network.clone());
        if self.exchanges.is_asking(&asked) {
            return true;
        }
        let held = state.holdings.counts(space.range()).get(&self.me).copied().unwrap_or(0) as usize;
        let missing = if urgent {
            self.spaces.get(network).map_or(1, |memory| memory.waiting)
        } else {
            self.fair(network, space).saturating_sub(held)
        };
        let count = u32::try_from(missing.max(1)).unwrap_or(u32::MAX);
        let extras = space == Space::Extras;
        for connection in &connections {
            let message = Message::AskSpace { network: network.clone(), extras, count, urgent };
            self.ask(*connection, &message, asked.clone(), now);
        }
        !connections.is_empty()
    }

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
        memory.reclaims.retain(|_, (at, _)| now.saturating_duration_since(*at) < RECLAIM_MEMORY);
        let reclaims = &memory.reclaims;
        let (mut unreachable, mut waiting, mut ask) = (Vec::new(), false, Vec::new());
        for (holder, count) in spare {
            match (reclaims.get(&(holder, space)), self.peers.connection(holder)) {
                (Some((_, Some(0))), _) => {}
                (Some((at, given)), Some(connection)) => {
                    waiting = true;
                    if given.is_some() && now.saturating_duration_since(*at) >= RECLAIM_AGAIN {
                        ask.push((count, holder, connection));
                    }
                }
                (None, Some(connection)) => ask.push((count, holder, connection)),
                (_, None) => unreachable.push(holder),
            }
        }
        if ask.is_empty() && !waiting {
            let own = match self.pick_address(network, space, now) {
                Pick::None(Some(until)) => Some(until.saturating_duration_since(now).as_secs() + 1),
                _ => None,
            };
            return if unreachable.is_empty() { SpaceAnswer::Full(own) } else { SpaceAnswer::Unreachable(unreachable) };
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
                memory.reclaims.insert((holder, space), (now, None));
            }
            need = need.saturating_sub(asked);
            if need == 0 {
                break;
            }
        }
        SpaceAnswer::Asked
    }

    pub(super) fn note_reclaimed(&mut self, network: &NetworkId, holder: NodeId, count: u32, now: Instant) {
        let Some(memory) = self.spaces.get_mut(network) else { return };
        for ((of, _), reclaim) in &mut memory.reclaims {
            if *of == holder && reclaim.1.is_none() {
                *reclaim = (now, Some(count));
            }
        }
    }

    /// A home asks for what this node can spare.
    pub(super) fn answer_reclaim(
        &mut self,
        peer: NodeId,
        network: &NetworkId,
        extras: bool,
        count: u32,
        now: Instant,
    ) -> Message {
        let space = Space::of(extras);
        let Some(holdings) =
            self.holdings_ahead(network).filter(|_| self.may_see(peer, &Shard::Network(network.clone())))
        else {
            return Message::Unknown;
        };
        let mut spare = self.rested(network, space, now);
        let from_peer = |address: &Ipv4Addr| {
            let segment = holdings.segment(*address);
            segment.is_some_and(|segment| segment.home == peer && segment.share.is_some())
        };
        spare.retain(from_peer);
        let given = (count as usize).min(spare.len());
        let released = spare.split_off(spare.len() - given);
        self.release(network, &holdings, &released);
        Message::Reclaimed(given as u32)
    }

    fn release(&mut self, network: &NetworkId, holdings: &Holdings, addresses: &[Ipv4Addr]) {
        let mut by_share: BTreeMap<(NodeId, Stamp), Vec<Ipv4Addr>> = BTreeMap::new();
        for address in addresses {
            if let Some((home, Some(share))) = holdings.segment(*address).map(|segment| (segment.home, segment.share)) {
                by_share.entry((home, share)).or_default().push(*address);
            }
        }
        let Some((log, pen)) = self.own(&Shard::Network(network.clone())) else { return };
        for ((home, share), addresses) in by_share {
            for range in ranges_of(addresses) {
                log.put(pen, &Body::Release(Release { range, home, share }), Rev(0));
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

    fn forget_done_releases(&mut self, network: &NetworkId) {
        let shard = Shard::Network(network.clone());
        let Some(own) = self.authors.get(&(self.me, shard.clone())) else { return };
        let lives = |release: &Release| {
            let share = |record: &Verified| record.origin() == release.home && record.stamp() == release.share;
            self.records_ahead(network).any(share)
        };
        let done: Vec<Vec<u8>> = own
            .records()
            .filter(|record| matches!(record.body(), Body::Release(release) if !lives(release)))
            .map(|record| record.record().key.clone())
            .collect();
        if let Some((log, _)) = self.own(&shard) {
            for key in done {
                log.remove(Kind::RELEASE, &key);
            }
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

    /// Asks for more where this node has less than half of its part free.
    pub(super) fn top_up(&mut self, now: Instant) {
        let networks: Vec<NetworkId> = self.networks.keys().cloned().collect();
        for network in networks {
            let Some(memory) = self.spaces.get_mut(&network) else { continue };
            if memory.next_top_up.is_some_and(|at| at > now) {
                continue;
            }
            memory.next_top_up = Some(now + TOP_UP_EVERY);
            let Some(state) = self.networks.get(&network) else { continue };
            let held = state.holdings.counts(CONTAINERS).get(&self.me).copied().unwrap_or(0) as usize;
            let is_home = state.holdings.homes(CONTAINERS).contains(&self.me);
            let fair = self.fair(&network, Space::Containers);
            if is_home {
                self.ask_back_surplus(&network, fair as u64, now);
            } else if held < fair {
                self.ask_homes(&network, Space::Containers, false, now);
            }
        }
    }

    /// A home asks who holds more than twice its part for what is above it.
    fn ask_back_surplus(&mut self, network: &NetworkId, fair: u64, now: Instant) {
        let Some(holdings) = self.holdings_ahead(network) else { return };
        for (holder, count) in holdings.counts(CONTAINERS).into_iter().filter(|(_, count)| *count > 2 * fair) {
            let Some(connection) = self.peers.connection(holder) else { continue };
            let count = u32::try_from(count - fair).unwrap_or(u32::MAX);
            let message = Message::Reclaim { network: network.clone(), extras: false, count };
            self.ask(connection, &message, Asked::Reclaim(network.clone(), holder), now);
        }
    }
}

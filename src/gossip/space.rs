//! Addresses: what this node may use, what it shares out as a home, and what it gives back.
//!
//! All decisions are taken on our own log as it will be once it is on disk, so that nothing is given away twice while the
//! disk is slow; and nothing is used or published before it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::api::{OperationError, Space};
use super::files::{self, Resting};
use super::machine::Gossip;
use super::message::Message;
use super::store::{FileKind, StoreError, Stored, Write};
use crate::membership::body::{Body, Release};
use crate::membership::{Holdings, Kind, Shard, Stamp, Verified, ranges_of};
use crate::model::{AttachmentId, CONTAINERS, EXTRAS, Ipv4Range, NetworkId, NodeId, Rev};

/// How long a freed address rests before it is used again.
pub const REST: Duration = Duration::from_secs(60);

/// How long a container keeps an address that this node does not hold: logs may be missing for a moment.
const UNHELD_MAX: Duration = Duration::from_secs(5);

/// What a node remembers of a network's addresses beside its records.
#[derive(Default)]
pub(super) struct NetworkSpace {
    /// Addresses of ours that were freed: when each has rested enough. They stay listed for the order of reuse.
    resting: BTreeMap<Ipv4Addr, Instant>,
    /// Holders that were asked to give back, and what they said.
    pub(super) reclaims: BTreeMap<(NodeId, Space), Reclaim>,
    /// Shares of a creator that has left, which made this node the home: what they give has rested since it did.
    pub(super) inherited: BTreeSet<Stamp>,
    pub(super) next_top_up: Option<Instant>,
    pub(super) next_ahead: Option<Instant>,
    /// How many attaches wait for an address.
    pub(super) waiting: usize,
    /// Whether the network was lost, and with it the file that said what rests.
    is_apart: bool,
    /// Containers of ours whose addresses others hold by now, and since when.
    unheld: BTreeMap<AttachmentId, Instant>,
}

/// What a holder said that was asked to give addresses back.
pub(super) struct Reclaim {
    pub at: Instant,
    /// How many it gave; `None` while it has not answered.
    pub given: Option<u32>,
    /// When the first of its resting addresses is free.
    pub free_at: Option<Instant>,
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
    /// What was stored.
    pub(super) fn restored(resting: &[(Ipv4Addr, u64)], unix_s: u64, now: Instant) -> Self {
        let left = |freed: u64| REST.saturating_sub(Duration::from_secs(unix_s.saturating_sub(freed)));
        let resting = resting.iter().map(|(address, freed)| (*address, now + left(*freed))).collect();
        Self { resting, ..Self::default() }
    }

    /// What to store: only what still rests.
    pub(super) fn stored_resting(&self, unix_s: u64, now: Instant) -> Resting {
        // Rounded so that no restart makes a rest shorter, however many there are.
        let left_s = |until: Instant| until.saturating_duration_since(now).as_secs() + 2;
        let resting = self.resting.iter().filter(|(_, until)| **until > now);
        resting.map(|(address, until)| (*address, (unix_s + left_s(*until)).saturating_sub(REST.as_secs()))).collect()
    }

    /// The network is lost, and with it what was hosted there: only what rests is remembered.
    pub(super) fn lose(&mut self, hosted: &[Ipv4Addr], now: Instant) {
        let resting = std::mem::take(&mut self.resting);
        *self = Self { resting, is_apart: true, ..Self::default() };
        hosted.iter().for_each(|address| self.free(*address, now));
    }

    /// Takes up what was stored apart from the network.
    fn take_up(&mut self, apart: Self) {
        self.is_apart = true;
        for (address, until) in apart.resting {
            let known = self.resting.entry(address).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// What rests is stored with our own log of the network.
    pub(super) fn join_log(&mut self) {
        self.is_apart = false;
    }

    /// Whether nothing rests here.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        self.resting.values().all(|until| *until <= now)
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
    /// Stores what rests in networks that this node has lost, should their grants come back; before their own files go.
    pub(super) fn save_apart(&mut self, now: Instant) {
        let unix_s = self.wall.unix_s(now);
        let apart = self.spaces.iter().filter(|(_, space)| space.is_apart && !space.is_rested(now));
        let apart: Vec<(NetworkId, Resting)> =
            apart.map(|(network, space)| (network.clone(), space.stored_resting(unix_s, now))).collect();
        let write = if apart.is_empty() {
            Write::remove(files::RESTING)
        } else {
            files::write(files::RESTING, FileKind::Resting, &apart)
        };
        self.persister.write(write);
    }

    /// What [`Self::save_apart`] stored.
    ///
    /// # Errors
    /// The file is damaged: what it says might be used again.
    pub(super) fn restore_apart(&mut self, stored: &Stored, now: Instant) -> Result<(), StoreError> {
        let apart: Option<Vec<(NetworkId, Resting)>> = files::open(stored, files::RESTING, FileKind::Resting)?;
        let unix_s = self.wall.unix_s(now);
        for (network, resting) in apart.into_iter().flatten() {
            self.spaces.entry(network).or_default().take_up(NetworkSpace::restored(&resting, unix_s, now));
        }
        Ok(())
    }

    /// Forgets networks that were lost, once nothing rests in them any more.
    pub(super) fn forget_rested(&mut self, now: Instant) {
        let (here, coming) = (&self.networks, &self.wanted);
        let is_over = |id: &NetworkId, space: &mut NetworkSpace| {
            !here.contains_key(id) && !coming.contains_key(id) && space.is_rested(now)
        };
        let over: Vec<NetworkSpace> = self.spaces.extract_if(.., is_over).map(|(_, space)| space).collect();
        if over.iter().any(|space| space.is_apart) {
            self.save_apart(now);
        }
    }

    /// Who holds what, with our own log as it will be.
    pub(super) fn holdings_ahead(&self, network: &NetworkId) -> Option<Holdings> {
        let state = self.networks.get(network)?;
        Some(Holdings::derive(state.view.creator, self.records_ahead(network)))
    }

    /// The addresses that containers have, also those whose records are not on disk yet.
    fn used(&self, network: &NetworkId) -> BTreeSet<Ipv4Addr> {
        let seen = self.networks.get(network).into_iter().flat_map(|state| state.view.attachments().map(|c| c.address));
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
    pub(super) fn rested(&self, network: &NetworkId, space: Space, now: Instant) -> Vec<Ipv4Addr> {
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

    /// In how many seconds the first of our resting addresses is free.
    pub(super) fn free_in_s(&self, network: &NetworkId, space: Space, now: Instant) -> Option<u64> {
        match self.pick_address(network, space, now) {
            Pick::None(Some(until)) => Some(until.saturating_duration_since(now).as_secs() + 1),
            _ => None,
        }
    }

    /// The error for a space without a free address. Every holder was asked, so what nobody uses rests with somebody.
    pub(super) fn full(&self, network: &NetworkId, space: Space, free_in_s: Option<u64>) -> OperationError {
        let in_range = |address: &Ipv4Addr| space.range().contains(*address);
        let in_use = self.used(network).iter().filter(|address| in_range(address)).count() as u32;
        let total = space.range().count() as u32;
        OperationError::Full {
            network: network.clone(),
            in_use,
            resting: total.saturating_sub(in_use),
            total,
            free_in_s,
        }
    }

    /// A home asks for what this node can spare.
    pub(super) fn answer_reclaim(
        &mut self,
        peer: NodeId,
        network: &NetworkId,
        extras: bool,
        (count, urgent): (u32, bool),
        now: Instant,
    ) -> Message {
        let space = Space::of(extras);
        let Some(holdings) =
            self.holdings_ahead(network).filter(|_| self.may_see(peer, &Shard::Network(network.clone())))
        else {
            return Message::Unknown;
        };
        if self.is_gated(network) {
            return Message::Reclaimed { count: 0, free_in_s: None };
        }
        let mut spare = self.rested(network, space, now);
        let from_peer = |address: &Ipv4Addr| {
            let segment = holdings.segment(*address);
            segment.is_some_and(|segment| segment.home == peer && segment.share.is_some())
        };
        spare.retain(from_peer);
        let asker_has = self.spare_in_view(network, space, &holdings).get(&peer).copied().unwrap_or(0);
        let given = self.given((network, space), spare.len(), count, asker_has, urgent);
        let released = spare.split_off(spare.len() - given);
        self.release(network, &holdings, &released);
        let free_in_s = if given == 0 { self.free_in_s(network, space, now) } else { None };
        Message::Reclaimed { count: given as u32, free_in_s }
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

    /// Ends containers of ours whose addresses are not ours any more: this node was away when they were taken back, or set back
    /// to before it gave them up. Nobody reaches them, and somebody else may have the address.
    pub(super) fn end_unheld(&mut self, network: &NetworkId, now: Instant) {
        let Some(holdings) = self.holdings_ahead(network).filter(|_| !self.is_gated(network)) else { return };
        let own = self.authors.get(&(self.me, Shard::Network(network.clone())));
        let unheld = own
            .into_iter()
            .flat_map(super::attach::containers)
            .filter(|container| holdings.holder(container.address) != Some(self.me));
        let unheld: BTreeSet<AttachmentId> = unheld.map(|container| container.id).collect();
        let Some(memory) = self.spaces.get_mut(network) else { return };
        memory.unheld.retain(|id, _| unheld.contains(id));
        let late = unheld.into_iter().filter(|id| {
            let since = *memory.unheld.entry(*id).or_insert(now);
            now.saturating_duration_since(since) >= UNHELD_MAX
        });
        for id in late.collect::<Vec<_>>() {
            tracing::warn!(attachment = %id, %network, "another node holds its address by now: it is detached");
            self.remove_container(id, now);
        }
    }

    pub(super) fn forget_done_releases(&mut self, network: &NetworkId) {
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
}

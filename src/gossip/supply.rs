//! How many addresses pass between a home and a holder, and when: ahead of the need, in amounts that last.
//!
//! An attach that leaves this node with less than its reserve has it ask for more, which come while the reserve is used. An
//! asker that only looks ahead is given at most half of the difference, so that addresses settle and do not go to and fro.
//! For an attach that waits everything is given, if need be the last address.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::api::Space;
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::Message;
use crate::membership::Holdings;
use crate::model::{CONTAINERS, NetworkId, NodeId};

/// How often a node with less than its fair part asks for more, and a home for what is far above.
const TOP_UP_EVERY: Duration = Duration::from_secs(10);
/// How often a node asks ahead.
const AHEAD_EVERY: Duration = Duration::from_millis(50);
/// Which part of its fair part a node keeps in reserve.
const RESERVE_DIVISOR: usize = 4;
/// The largest reserve: it lasts while the others are asked, however fast the attaches come.
const RESERVE_COUNT_MAX: usize = 64;

impl Gossip {
    /// What a node's part is when the space is divided evenly.
    pub(super) fn fair(&self, network: &NetworkId, space: Space) -> usize {
        let granted = self.networks.get(network).map_or(1, |state| state.view.grants.len()).max(1);
        space.range().count() as usize / granted
    }

    /// With fewer free addresses than this a node asks for more.
    fn reserve(&self, network: &NetworkId, space: Space) -> usize {
        (self.fair(network, space) / RESERVE_DIVISOR).clamp(1, RESERVE_COUNT_MAX)
    }

    /// How many addresses each node holds that no container has, as far as this one sees. Those that rest count too.
    pub(super) fn spare_in_view(
        &self,
        network: &NetworkId,
        space: Space,
        holdings: &Holdings,
    ) -> BTreeMap<NodeId, u64> {
        let mut spare = holdings.counts(space.range());
        let containers = self.networks.get(network).into_iter().flat_map(|state| state.view.attachments());
        for container in containers.filter(|container| space.range().contains(container.address)) {
            if let Some(count) = spare.get_mut(&container.node) {
                *count = count.saturating_sub(1);
            }
        }
        spare
    }

    /// How many of `spare` addresses go to a node that asks for `count`.
    pub(super) fn given(
        &self,
        (network, space): (&NetworkId, Space),
        spare: usize,
        count: u32,
        asker_has: u64,
        urgent: bool,
    ) -> usize {
        let count = count as usize;
        if urgent {
            // What is waited for, and as much beyond it as leaves half.
            return count.max((spare / 2).min(2 * self.reserve(network, space))).min(spare);
        }
        count.min(spare.saturating_sub(usize::try_from(asker_has).unwrap_or(usize::MAX)) / 2)
    }

    /// Asks for more addresses if an attach has left fewer than the reserve.
    pub(super) fn ask_ahead(&mut self, network: &NetworkId, space: Space, now: Instant) {
        let due = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        if !self.spaces.get(network).is_some_and(|memory| due(memory.next_ahead)) {
            return;
        }
        let reserve = self.reserve(network, space);
        if self.rested(network, space, now).len() >= reserve {
            return;
        }
        if let Some(memory) = self.spaces.get_mut(network) {
            memory.next_ahead = Some(now + AHEAD_EVERY);
        }
        let count = u32::try_from(2 * reserve).unwrap_or(u32::MAX);
        self.ask_back(network, space, self.me, count, now);
        self.ask_homes(network, space, count, false, now);
    }

    /// Asks the homes of a space for addresses; `false` if none but this node is connected.
    pub(super) fn ask_homes(
        &mut self,
        network: &NetworkId,
        space: Space,
        count: u32,
        urgent: bool,
        now: Instant,
    ) -> bool {
        let Some(state) = self.networks.get(network) else { return false };
        let homes = state.holdings.homes(space.range());
        let connections: Vec<_> = homes.iter().filter_map(|home| self.peers.connection(*home)).collect();
        let asked = Asked::Space { network: network.clone(), space, urgent };
        if self.exchanges.is_asking(&asked) {
            return true;
        }
        let extras = space == Space::Extras;
        for connection in &connections {
            let message = Message::AskSpace { network: network.clone(), extras, count, urgent };
            self.ask(*connection, &message, asked.clone(), now);
        }
        !connections.is_empty()
    }

    /// As a home, asks whoever has most addresses to spare for some of them, for `asker`; nobody waits for them.
    pub(super) fn ask_back(&mut self, network: &NetworkId, space: Space, asker: NodeId, count: u32, now: Instant) {
        let Some(holdings) = self.holdings_ahead(network) else { return };
        if !holdings.homes(space.range()).contains(&self.me) {
            return;
        }
        let mut spare = self.spare_in_view(network, space, &holdings);
        spare.retain(|node, _| *node != self.me && *node != asker && self.peers.connection(*node).is_some());
        if let Some((holder, _)) = spare.into_iter().max_by_key(|(node, count)| (*count, *node)) {
            self.ask_holder(network, space, holder, count, false, now);
        }
    }

    /// Asks a holder to give addresses back; `false` if it is not asked.
    pub(super) fn ask_holder(
        &mut self,
        network: &NetworkId,
        space: Space,
        holder: NodeId,
        count: u32,
        urgent: bool,
        now: Instant,
    ) -> bool {
        let Some(connection) = self.peers.connection(holder) else { return false };
        let extras = space == Space::Extras;
        let message = Message::Reclaim { network: network.clone(), extras, count, urgent };
        let asked = Asked::Reclaim { network: network.clone(), space, holder, urgent };
        self.ask(connection, &message, asked, now)
    }

    /// Evens out over time: who has less than its part asks for more, and a home asks who has more than twice its part.
    pub(super) fn top_up(&mut self, now: Instant) {
        self.forget_rested(now);
        let networks: Vec<NetworkId> = self.networks.keys().cloned().collect();
        for network in networks {
            self.end_unheld(&network, now);
            let Some(memory) = self.spaces.get_mut(&network) else { continue };
            if memory.next_top_up.is_some_and(|at| at > now) {
                continue;
            }
            memory.next_top_up = Some(now + TOP_UP_EVERY);
            let Some(state) = self.networks.get(&network) else { continue };
            let counts = state.holdings.counts(CONTAINERS);
            let is_home = state.holdings.homes(CONTAINERS).contains(&self.me);
            let held = counts.get(&self.me).copied().unwrap_or(0);
            let fair = self.fair(&network, Space::Containers) as u64;
            let above = |count: u64| u32::try_from(count.saturating_sub(fair)).unwrap_or(u32::MAX);
            if is_home {
                for (holder, count) in counts.into_iter().filter(|(_, count)| *count > 2 * fair) {
                    self.ask_holder(&network, Space::Containers, holder, above(count), false, now);
                }
            } else if held < fair {
                let missing = u32::try_from(fair - held).unwrap_or(u32::MAX);
                self.ask_homes(&network, Space::Containers, missing, false, now);
            }
        }
    }
}

//! Who holds which address: homes share ranges out, holders use and release them.
//!
//! The creator of a network is home of all. A share with `home` makes its holder home of that range, so two signatures at
//! most prove any address. What a home has not shared it holds itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::body::{Body, Release, Share};
use super::record::Stamp;
use super::signed::Verified;
use super::taken::Taken;
use crate::model::{CONTAINERS, EXTRAS, Ipv4Range, NodeId};

/// Neighbouring addresses of one fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub range: Ipv4Range,
    /// Who may share it out.
    pub home: NodeId,
    /// Who may use it; nobody when it was released and the home has not taken it back.
    pub holder: Option<NodeId>,
    /// The home's record that gave it away.
    pub share: Option<Stamp>,
}

/// The whole of a network's address space, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// By first address; without gaps inside the two spaces.
    segments: BTreeMap<Ipv4Addr, Segment>,
}

impl Holdings {
    /// Divides the space by what the records say; `records` may be all records of the network, in any order.
    pub fn derive<'a>(creator: NodeId, records: impl Iterator<Item = &'a Verified> + Clone) -> Self {
        let whole =
            |range| (Ipv4Range::first(range), Segment { range, home: creator, holder: Some(creator), share: None });
        let mut this = Self { segments: [whole(CONTAINERS), whole(EXTRAS)].into() };

        let mut shares: Vec<(NodeId, Stamp, &Share)> = Vec::new();
        let mut releases: Vec<(NodeId, &Release)> = Vec::new();
        // Only a home's shares are looked at: whoever else writes some costs nothing.
        let mut homes = BTreeSet::from([creator]);
        homes.extend(records.clone().filter(|record| record.origin() == creator).filter_map(|r| match r.body() {
            Body::Share(share) if share.home => Some(share.holder),
            _ => None,
        }));
        for record in records {
            match record.body() {
                Body::Share(share) if homes.contains(&record.origin()) => {
                    shares.push((record.origin(), record.stamp(), share));
                }
                Body::Release(release) => releases.push((record.origin(), release)),
                _ => {}
            }
        }
        // Of two shares of one address the earlier counts: it was the one in use.
        shares.sort_by_key(|(origin, stamp, _)| (*stamp, *origin));
        // What each share gave, by home, record and holder.
        let mut given: BTreeMap<(NodeId, Stamp, NodeId), Vec<Ipv4Range>> = BTreeMap::new();
        let mut shared = Taken::default();
        for (origin, stamp, share) in shares.iter().filter(|(origin, ..)| *origin == creator) {
            let home = if share.home { share.holder } else { *origin };
            let new = shared.take(share.range);
            for range in &new {
                this.change(*range, |segment| {
                    *segment = Segment { home, holder: Some(share.holder), share: Some(*stamp), ..*segment };
                });
            }
            given.entry((home, *stamp, share.holder)).or_default().extend(new);
        }
        let mut shared: BTreeMap<NodeId, Taken> = BTreeMap::new();
        for (origin, stamp, share) in shares.iter().filter(|(origin, _, share)| *origin != creator && !share.home) {
            let new = shared.entry(*origin).or_default().take(share.range);
            for range in &new {
                this.change(*range, |segment| {
                    if segment.home == *origin {
                        *segment = Segment { holder: Some(share.holder), share: Some(*stamp), ..*segment };
                    }
                });
            }
            given.entry((*origin, *stamp, share.holder)).or_default().extend(new);
        }
        let mut released: BTreeMap<(NodeId, Stamp, NodeId), Taken> = BTreeMap::new();
        for (origin, release) in releases {
            // Of its own share, and what that gave.
            let share = (release.home, release.share, origin);
            let Some(parts) = given.get(&share) else { continue };
            for new in released.entry(share).or_default().take(release.range) {
                for part in parts.iter().filter_map(|part| part.overlap(new)) {
                    this.change(part, |segment| {
                        if (segment.home, segment.share, segment.holder) == (share.0, Some(share.1), Some(share.2)) {
                            segment.holder = None;
                        }
                    });
                }
            }
        }
        this
    }

    /// Cuts the segments at the ends of `range` and changes those within.
    fn change(&mut self, range: Ipv4Range, mut change: impl FnMut(&mut Segment)) {
        let touched: Vec<Segment> = self
            .segments
            .range(..=range.last())
            .rev()
            .map(|(_, s)| *s)
            .take_while(|s| s.range.last() >= range.first())
            .collect();
        for segment in touched {
            self.segments.remove(&segment.range.first());
            let before = span(segment.range.first().to_bits(), u64::from(range.first().to_bits()).checked_sub(1));
            let after = span_from(u64::from(range.last().to_bits()) + 1, segment.range.last());
            let within =
                Ipv4Range::new(segment.range.first().max(range.first()), segment.range.last().min(range.last()))
                    .expect("a touched segment has an address in the range");
            for part in [before, after].into_iter().flatten() {
                self.segments.insert(part.first(), Segment { range: part, ..segment });
            }
            let mut changed = Segment { range: within, ..segment };
            change(&mut changed);
            self.segments.insert(within.first(), changed);
        }
    }

    /// Who holds an address.
    pub fn holder(&self, address: Ipv4Addr) -> Option<NodeId> {
        self.segment(address)?.holder
    }

    /// The segment that an address lies in.
    pub fn segment(&self, address: Ipv4Addr) -> Option<&Segment> {
        let (_, segment) = self.segments.range(..=address).next_back()?;
        segment.range.contains(address).then_some(segment)
    }

    /// The segments within `space`, upwards.
    pub fn segments(&self, space: Ipv4Range) -> impl Iterator<Item = &Segment> {
        self.segments.values().filter(move |segment| space.covers(segment.range))
    }

    /// The addresses within `space` that `node` holds, upwards.
    pub fn addresses_of(&self, node: NodeId, space: Ipv4Range) -> impl Iterator<Item = Ipv4Addr> {
        self.segments(space).filter(move |s| s.holder == Some(node)).flat_map(|s| s.range.iter())
    }

    /// How many addresses of `space` each node holds.
    pub fn counts(&self, space: Ipv4Range) -> BTreeMap<NodeId, u64> {
        let mut counts = BTreeMap::new();
        for segment in self.segments(space) {
            if let Some(holder) = segment.holder {
                *counts.entry(holder).or_default() += segment.range.count();
            }
        }
        counts
    }

    /// The nodes that may share any address out.
    pub fn every_home(&self) -> BTreeSet<NodeId> {
        self.segments.values().map(|segment| segment.home).collect()
    }

    /// The nodes that may share addresses of `space` out.
    pub fn homes(&self, space: Ipv4Range) -> BTreeSet<NodeId> {
        self.segments(space).map(|segment| segment.home).collect()
    }
}

fn span(first: u32, last: Option<u64>) -> Option<Ipv4Range> {
    let last = u32::try_from(last?).ok()?;
    Ipv4Range::new(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last)).ok()
}

fn span_from(first: u64, last: Ipv4Addr) -> Option<Ipv4Range> {
    Ipv4Range::new(Ipv4Addr::from_bits(u32::try_from(first).ok()?), last).ok()
}

/// Addresses, upwards, as few ranges.
pub fn ranges_of(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Vec<Ipv4Range> {
    let mut ranges: Vec<Ipv4Range> = Vec::new();
    for address in addresses {
        match ranges.last_mut() {
            Some(last) if last.last().to_bits().checked_add(1) == Some(address.to_bits()) => {
                *last = Ipv4Range::new(last.first(), address).expect("the address comes after the range");
            }
            _ => ranges.push(Ipv4Range::one(address)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;

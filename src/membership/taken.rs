//! Addresses that have been dealt with, so that each is dealt with once, however often and widely somebody speaks of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::model::Ipv4Range;

/// A set of addresses.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The last address of each range by its first one; the ranges do not overlap.
    ranges: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Taken {
    /// Takes `range`; gives what of it was not taken before, upwards.
    pub(super) fn take(&mut self, range: Ipv4Range) -> Vec<Ipv4Range> {
        let overlapping = self.ranges.range(..=range.last()).rev().take_while(|(_, last)| **last >= range.first());
        let mut overlapping: Vec<(Ipv4Addr, Ipv4Addr)> = overlapping.map(|(first, last)| (*first, *last)).collect();
        overlapping.reverse();
        let mut new = Vec::new();
        // Wider than an address: what comes after the last one.
        let mut next = u64::from(range.first().to_bits());
        for (first, last) in &overlapping {
            new.extend(between(next, u64::from(first.to_bits())));
            next = u64::from(last.to_bits()) + 1;
            self.ranges.remove(first);
        }
        new.extend(between(next, u64::from(range.last().to_bits()) + 1));
        let first = overlapping.first().map_or(range.first(), |(first, _)| range.first().min(*first));
        let last = overlapping.last().map_or(range.last(), |(_, last)| range.last().max(*last));
        self.ranges.insert(first, last);
        new
    }
}

/// The addresses from `first` on that come before `end`, if there are any.
fn between(first: u64, end: u64) -> Option<Ipv4Range> {
    let address = |bits: u64| u32::try_from(bits).ok().map(Ipv4Addr::from_bits);
    Ipv4Range::new(address(first)?, address(end.checked_sub(1)?)?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_address_is_new_once(
            ranges in prop::collection::vec((0u32..60, 0u32..60), 0..40),
            base in prop::sample::select(vec![0, 0x0af0_0000, u32::MAX - 59]),
        ) {
            let (mut taken, mut seen) = (Taken::default(), BTreeSet::new());
            for (a, b) in ranges {
                let [first, last] = [a.min(b), a.max(b)].map(|at| Ipv4Addr::from_bits(base + at));
                let range = Ipv4Range::new(first, last).expect("in order");
                let expected: Vec<Ipv4Addr> = range.iter().filter(|address| seen.insert(*address)).collect();
                let new = taken.take(range);
                prop_assert!(new.is_sorted_by(|one, next| one.last() < next.first()));
                prop_assert_eq!(new.iter().flat_map(|range| range.iter()).collect::<Vec<_>>(), expected);
            }
            let held = taken.ranges.iter().map(|(first, last)| u64::from(last.to_bits() - first.to_bits()) + 1);
            prop_assert_eq!(held.sum::<u64>(), seen.len() as u64);
        }
    }
}

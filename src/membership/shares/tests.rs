//! What the division of the addresses costs who derives it.

use std::time::{Duration, Instant};

use super::*;
use crate::membership::Shard;
use crate::membership::testing::{Fixture, node};

fn share(range: Ipv4Range, to: u8, home: bool) -> Body {
    Body::Share(Share { range, holder: node(to), home })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what it costs is what is asked")]
fn to_say_the_same_addresses_over_and_over_costs_the_others_nothing() {
    let mut fixture = Fixture::new(3);
    let (id, def) = fixture.network();
    let shard = Shard::Network(id);
    let mut records = vec![def, fixture.say(1, &shard, share(EXTRAS, 2, true), 1)];
    // Each share gives one address that no earlier one gave, and each of them is released with all the others' addresses.
    let ends: Vec<Ipv4Addr> = EXTRAS.iter().take(3_000).collect();
    for end in &ends {
        let range = Ipv4Range::new(EXTRAS.first(), *end).expect("in order");
        let given = fixture.say(2, &shard, share(range, 3, false), 1);
        let release = Release { range: EXTRAS, home: node(2), share: given.stamp() };
        records.push(given);
        if *end != ends[7] {
            records.push(fixture.say(3, &shard, Body::Release(release), 1));
        }
    }
    let began = Instant::now();
    let holdings = Holdings::derive(node(1), records.iter());
    let took = began.elapsed();
    let holder = |address| holdings.segment(address).map(|segment| (segment.home, segment.holder));
    for address in EXTRAS.iter() {
        let expected = if ends.contains(&address) { (address == ends[7]).then_some(node(3)) } else { Some(node(2)) };
        assert_eq!(holder(address), Some((node(2), expected)), "{address}");
    }
    assert!(took < Duration::from_secs(1), "{took:?}");
}

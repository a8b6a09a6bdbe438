//! Networks end to end: made, granted, attached to, seen by all who may and by nobody else.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::CONTAINERS;

#[test]
fn containers_of_three_nodes_see_each_other() {
    let mut sim = Sim::cluster(20, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Host);
    sim.grant(0, &network, 2, Role::Host);
    sim.until(Duration::from_secs(5), |sim| (0..3).all(|at| sim.network(at, &network).is_some()));
    let attached: Vec<Attached> = (0..3).map(|at| sim.attach(at, &network).expect("attaches")).collect();
    assert!(attached.iter().all(|a| CONTAINERS.contains(a.address)));
    sim.until(Duration::from_secs(3), |sim| {
        sim.agree(&[0, 1, 2], &network) && sim.network(0, &network).is_some_and(|n| n.containers().len() == 3)
    });
    let numbers: std::collections::BTreeSet<u32> = attached.iter().map(|a| a.number).collect();
    assert!(numbers.len() <= 3 && numbers.contains(&1));
    let vni = sim.network(0, &network).expect("held").vni;
    sim.until(Duration::from_secs(3), |sim| {
        (0..3).all(|at| sim.nodes[at].keys.get(&vni).is_some_and(|k| !k.is_empty()))
    });
    let hashes: std::collections::BTreeSet<_> = (0..3).map(|at| sim.nodes[at].keys[&vni][0].1.hash()).collect();
    assert_eq!(hashes.len(), 1);
}

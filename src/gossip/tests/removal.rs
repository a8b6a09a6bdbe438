//! Nodes that are expelled or lose a network, and the secrets that they knew.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::{Generation, NetworkId};

const SOON: Duration = Duration::from_secs(5);

fn newest(sim: &Sim, at: usize, network: &NetworkId) -> Option<(Generation, [u8; 32])> {
    sim.machine(at).network_keys(network).first().map(|(generation, secret)| (*generation, secret.hash()))
}

#[test]
fn an_expelled_nodes_networks_get_one_new_secret_that_it_never_learns() {
    let (mut sim, network) = Sim::networked_by(240, 1, 4);
    let other = sim.create_network(0, "other");
    let before = newest(&sim, 3, &network);
    sim.expel(0, 3);
    sim.until(SOON, |sim| {
        (0..3).all(|at| newest(sim, at, &network).is_some_and(|(generation, _)| generation == Generation(1)))
    });
    assert_eq!(sim.machine(1).network_keys(&network).len(), 2, "the one before is good for a while");
    sim.run(Duration::from_secs(60));
    assert_eq!(newest(&sim, 0, &network).map(|(generation, _)| generation), Some(Generation(1)), "once is enough");
    assert_eq!(newest(&sim, 3, &network), before);
    assert_eq!(
        newest(&sim, 0, &other).map(|(generation, _)| generation),
        Some(Generation(0)),
        "it never knew that one"
    );
    // A restart finds nothing left to do.
    sim.restart(0);
    sim.run(Duration::from_secs(30));
    assert_eq!(newest(&sim, 0, &network).map(|(generation, _)| generation), Some(Generation(1)));
}

#[test]
fn the_next_owner_replaces_the_secret_when_the_first_is_away() {
    let (mut sim, network) = Sim::networked_by(241, 3, 4);
    let mut owners: Vec<usize> = (0..3).collect();
    owners.sort_by_key(|at| sim.id(*at));
    let signer = 0;
    let away = owners.into_iter().find(|at| *at != signer).expect("two others");
    sim.kill(away);
    sim.expel(signer, 3);
    let there: Vec<usize> = (0..3).filter(|at| *at != away).collect();
    let took = sim.until(Duration::from_secs(12), |sim| {
        there.iter().all(|at| newest(sim, *at, &network).is_some_and(|(generation, _)| generation == Generation(1)))
    });
    assert!(took < Duration::from_secs(11), "{took:?}");
    sim.start_node(away).expect("starts");
    sim.until(SOON, |sim| newest(sim, away, &network) == newest(sim, there[0], &network));
    sim.run(Duration::from_secs(30));
    assert_eq!(newest(&sim, signer, &network).map(|(generation, _)| generation), Some(Generation(1)));
}

#[test]
fn a_node_expels_others_only_and_a_creator_keeps_its_network() {
    let (mut sim, network) = Sim::networked_by(242, 2, 2);
    let operation = sim.on(0, |m, now| m.expel(m.node(), now));
    assert_eq!(sim.wait(0, operation).err(), Some(OperationError::Itself));
    let creator = sim.id(0);
    let operation = sim.on(1, |m, now| m.ungrant(&network, creator, now));
    assert_eq!(sim.wait(1, operation).err(), Some(OperationError::Creator(network)));
}

#[test]
fn a_node_with_an_old_disk_or_on_another_host_stays_out() {
    let (mut sim, network) = Sim::networked_by(243, 1, 3);
    sim.attach(2, &network).expect("attaches");
    let snapshot = sim.nodes[2].disk.clone();
    let node = sim.id(2);
    sim.kill(2);
    sim.expel(0, 2);
    for _ in 0..2 {
        sim.nodes[2].disk = snapshot.clone();
        sim.start_node(2).expect("starts");
        let end = sim.now + Duration::from_secs(30);
        while sim.now < end {
            sim.run(Duration::from_millis(100));
            assert!((0..2).all(|at| !sim.machine(at).connected().contains(&node)));
        }
        assert_eq!(sim.network(0, &network).map(|network| network.containers().len()), Some(0));
        // The clone listens elsewhere.
        sim.nodes[2].config.endpoints = vec!["10.9.9.9:51790".parse().expect("an address")];
        sim.kill(2);
    }
}

#[test]
fn an_expelled_nodes_addresses_come_back_when_everybody_knows_and_then_rest() {
    let (mut sim, network) = Sim::networked_by(244, 1, 4);
    let attached = sim.attach(3, &network).expect("attaches");
    sim.until(SOON, |sim| sim.agree(&[0, 1, 2, 3], &network));
    let gone = sim.id(3);
    let held = |sim: &Sim| sim.machine(0).addresses_held(&network).get(&gone).copied().unwrap_or(0);
    assert!(held(&sim) > 0);
    // One that hosts containers does not hear of it.
    sim.partition(&[0, 1, 3], &[2]);
    sim.expel(0, 3);
    let end = sim.now + Duration::from_secs(120);
    while sim.now < end {
        sim.run(Duration::from_secs(1));
        assert!(held(&sim) > 0, "node 2 believes in the old holder");
    }
    sim.heal();
    sim.until(Duration::from_secs(60), |sim| held(sim) == 0);
    // Whoever attaches now gets other addresses, until these have rested.
    for _ in 0..5 {
        assert_ne!(sim.attach(0, &network).expect("attaches").address, attached.address);
    }
    sim.until(Duration::from_secs(10), |sim| sim.agree(&[0, 1, 2], &network));
    // None is lost.
    sim.until(Duration::from_secs(10), |sim| sim.machine(0).addresses_held(&network).values().sum::<u64>() == 1022);
}

#[test]
fn who_is_granted_again_and_expelled_at_once_does_not_keep_the_secret_that_came_in_between() {
    let (mut sim, network) = Sim::networked(246, 3);
    let node = sim.id(2);
    let operation = sim.on(0, |m, now| m.ungrant(&network, node, now));
    assert!(matches!(sim.wait(0, operation), Ok(Done::Ungranted)));
    sim.until(SOON, |sim| sim.network(2, &network).is_none());
    sim.grant(0, &network, 2, Role::Host);
    sim.until(SOON, |sim| newest(sim, 2, &network).is_some());
    let known = newest(&sim, 2, &network);
    assert_eq!(known, newest(&sim, 0, &network));
    sim.expel(0, 2);
    sim.until(SOON, |sim| newest(sim, 0, &network) != known && newest(sim, 0, &network) == newest(sim, 1, &network));
    sim.run(SOON);
    assert_eq!(newest(&sim, 2, &network), known);
}

#[test]
fn a_grant_that_is_taken_back_before_it_is_on_disk_is_gone_for_its_node_too() {
    let (mut sim, network) = Sim::networked(247, 2);
    let node = sim.id(1);
    let (granted, ungranted) = sim.on(0, |m, now| {
        let granted = m.grant(&network, node, Role::Owner, now);
        (granted, m.ungrant(&network, node, now))
    });
    assert!(matches!(sim.wait(0, granted), Ok(Done::Granted)));
    assert!(matches!(sim.wait(0, ungranted), Ok(Done::Ungranted)));
    sim.until(SOON, |sim| sim.network(1, &network).is_none());
    sim.run(SOON);
    assert!(sim.network(1, &network).is_none());
    assert_eq!(sim.network(0, &network).expect("held").grants.len(), 1);
}

#[test]
fn what_a_node_hosted_in_a_network_that_it_lost_rests_over_a_restart() {
    let (mut sim, network) = Sim::networked(248, 2);
    let node = sim.id(1);
    let before = sim.attach(1, &network).expect("attaches").address;
    let operation = sim.on(0, |m, now| m.ungrant(&network, node, now));
    assert!(matches!(sim.wait(0, operation), Ok(Done::Ungranted)));
    sim.until(SOON, |sim| sim.network(1, &network).is_none());
    sim.run(Duration::from_secs(1));
    sim.restart(1);
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    assert_ne!(sim.attach(1, &network).expect("attaches").address, before);
    // Once all has rested nothing is kept of it.
    let operation = sim.on(0, |m, now| m.ungrant(&network, node, now));
    assert!(matches!(sim.wait(0, operation), Ok(Done::Ungranted)));
    sim.run(Duration::from_secs(2));
    assert!(sim.nodes[1].disk.content("resting").is_some());
    sim.run(Duration::from_secs(90));
    assert!(sim.nodes[1].disk.content("resting").is_none());
}

#[test]
fn who_goes_with_the_owner_that_let_it_in_does_not_know_the_newest_secret() {
    let mut sim = Sim::cluster(66, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Owner);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.grant(1, &network, 2, Role::Host);
    sim.until(SOON, |sim| newest(sim, 2, &network).is_some());
    let known = newest(&sim, 2, &network);
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(2, &network).is_none());
    sim.until(SOON, |sim| newest(sim, 1, &network) != known && newest(sim, 1, &network) == newest(sim, 0, &network));
}

/// Node 1 is an owner, and has granted the network to node 3 while both were cut off from nodes 0 and 2.
fn granted_apart(seed: u64) -> (Sim, NetworkId) {
    let mut sim = Sim::cluster(seed, 4);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Owner);
    sim.grant(0, &network, 2, Role::Host);
    sim.until(SOON, |sim| [1, 2].into_iter().all(|at| sim.network(at, &network).is_some()));
    sim.partition(&[1, 3], &[0, 2]);
    sim.grant(1, &network, 3, Role::Host);
    sim.until(SOON, |sim| sim.network(3, &network).is_some());
    sim.kill(1);
    (sim, network)
}

#[test]
fn what_an_owner_that_is_away_has_granted_is_heard_from_whom_it_granted_it() {
    let (mut sim, network) = granted_apart(249);
    sim.heal();
    sim.until(SOON * 2, |sim| sim.agree(&[0, 2, 3], &network));
    assert!(sim.network(0, &network).expect("held").grants.contains_key(&sim.id(3)));
    sim.until(SOON, |sim| newest(sim, 3, &network) == newest(sim, 0, &network));
    sim.attach(3, &network).expect("attaches");
}

#[test]
fn what_an_expelled_owner_granted_and_nobody_had_heard_of_is_taken_back() {
    let (mut sim, network) = granted_apart(250);
    sim.expel(0, 1);
    let before = newest(&sim, 0, &network);
    sim.heal();
    sim.until(SOON * 2, |sim| sim.network(3, &network).is_none());
    assert!(!sim.network(0, &network).expect("held").grants.contains_key(&sim.id(3)));
    sim.until(SOON, |sim| newest(sim, 0, &network) != before && newest(sim, 0, &network) == newest(sim, 2, &network));
    assert!(sim.agree(&[0, 2], &network));
    assert_eq!(newest(&sim, 3, &network), None);
}

//! No address is given twice, all are given in the end, and who gets none is told why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use rand_core::{RngCore, SeedableRng};

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::{AttachmentId, NetworkId};

const SOON: Duration = Duration::from_secs(5);
/// A question, its answer, and what each side writes to disk on the way.
const ROUND_TRIP: Duration = Duration::from_millis(30);

#[test]
fn ten_nodes_that_come_and_go_never_use_an_address_twice() {
    for seed in 0..3 {
        let mut sim = Sim::cluster(100 + seed, 10);
        let network = sim.create_network(0, "demo");
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let mut granted = vec![0];
        let mut live: BTreeMap<Ipv4Addr, (usize, AttachmentId)> = BTreeMap::new();
        for step in 0..150 {
            match rng.next_u32() % 12 {
                0 if granted.len() < 10 => {
                    let to = granted.len();
                    sim.heal();
                    sim.grant(0, &network, to, Role::Host);
                    sim.until(Duration::from_secs(60), |sim| sim.network(to, &network).is_some());
                    granted.push(to);
                }
                1 if !live.is_empty() => {
                    let at = rng.next_u64() as usize % live.len();
                    let (address, (node, id)) = live.iter().nth(at).map(|(a, h)| (*a, *h)).expect("not empty");
                    let operation = sim.on(node, |m, now| m.detach(id, now));
                    assert!(sim.wait(node, operation).is_ok());
                    live.remove(&address);
                }
                2 => sim.run(Duration::from_secs(20)),
                3 => {
                    let at = granted[rng.next_u64() as usize % granted.len()];
                    sim.restart(at);
                }
                4 => sim.partition(&[0, 1, 2, 3, 4], &[5, 6, 7, 8, 9]),
                5 => sim.heal(),
                _ => {
                    let at = granted[rng.next_u64() as usize % granted.len()];
                    if let Ok(attached) = sim.attach(at, &network) {
                        let twice = live.insert(attached.address, (at, attached.id));
                        assert!(twice.is_none(), "seed {seed} step {step}: {} twice", attached.address);
                    }
                }
            }
        }
        sim.heal();
        sim.until(Duration::from_secs(60), |sim| sim.agree(&granted, &network));
        assert_eq!(sim.network(0, &network).expect("held").containers().len(), live.len(), "seed {seed}");
    }
}

#[test]
fn a_network_fills_to_exactly_1022_from_uneven_nodes_and_then_says_full() {
    let (mut sim, network) = Sim::networked(40, 4);
    let mut addresses = BTreeSet::new();
    // Node 3 takes all it can get: its own, the homes', and at last what the others can spare.
    for count in [73; 14] {
        for attached in sim.attach_many(3, &network, count) {
            assert!(addresses.insert(attached.expect("there is room for 1022").address));
        }
    }
    assert_eq!(addresses.len(), 1022);
    for at in [3, 0] {
        match sim.attach(at, &network) {
            Err(OperationError::Full { in_use, resting, total, .. }) => {
                assert_eq!((in_use, resting, total), (1022, 0, 1022))
            }
            other => panic!("not full: {other:?}"),
        }
    }
}

#[test]
fn a_freed_address_rests_a_minute_and_the_error_says_when_it_is_free() {
    let (mut sim, network) = Sim::networked(41, 1);
    let attached: Vec<Attached> = sim.attach_many(0, &network, 1022).into_iter().flatten().collect();
    assert_eq!(attached.len(), 1022);
    let operation = sim.on(0, |m, now| m.detach(attached[7].id, now));
    assert!(sim.wait(0, operation).is_ok());
    sim.run(Duration::from_secs(20));
    let full = |sim: &mut Sim| match sim.attach(0, &network) {
        Err(OperationError::Full { in_use: 1021, resting: 1, free_in_s: Some(s), .. }) => s,
        other => panic!("not full: {other:?}"),
    };
    let left = full(&mut sim);
    assert!((39..=41).contains(&left), "{left}");
    // Nor does a restart let it rest less; a little longer it may.
    sim.restart(0);
    let left = full(&mut sim);
    assert!((39..=43).contains(&left), "{left}");
    sim.run(Duration::from_secs(44));
    assert_eq!(sim.attach(0, &network).expect("rested").address, attached[7].address);
}

#[test]
fn an_address_that_rests_on_another_node_is_told_of_on_every_node() {
    let (mut sim, network) = Sim::networked(47, 3);
    let attached: Vec<Attached> = sim.attach_many(1, &network, 700).into_iter().flatten().collect();
    assert_eq!(attached.len(), 700);
    let others = sim.attach_many(2, &network, 322).into_iter().flatten().count();
    assert_eq!(others, 322);
    for gone in &attached[..3] {
        let operation = sim.on(1, |m, now| m.detach(gone.id, now));
        assert!(sim.wait(1, operation).is_ok());
    }
    sim.run(Duration::from_secs(20));
    for at in 0..3 {
        match sim.attach(at, &network) {
            Err(OperationError::Full { in_use: 1019, resting: 3, total: 1022, free_in_s: Some(35..=41), .. }) => {}
            other => panic!("node {at}: {other:?}"),
        }
    }
    sim.run(Duration::from_secs(42));
    for at in 0..3 {
        sim.attach(at, &network).expect("rested, wherever it was");
    }
}

#[test]
fn the_longest_rested_address_is_used_first_and_fresh_ones_before_all() {
    let (mut sim, network) = Sim::networked(42, 1);
    let attached: Vec<Attached> = sim.attach_many(0, &network, 1021).into_iter().flatten().collect();
    assert_eq!(attached.len(), 1021);
    for at in [500, 100] {
        let operation = sim.on(0, |m, now| m.detach(attached[at].id, now));
        assert!(sim.wait(0, operation).is_ok());
        sim.run(Duration::from_secs(1));
    }
    sim.run(Duration::from_secs(70));
    let next: Vec<Ipv4Addr> = (0..3).map(|_| sim.attach(0, &network).expect("rested").address).collect();
    assert!(attached.iter().all(|a| a.address != next[0]), "the one that was never used");
    assert_eq!(next[1..], [attached[500].address, attached[100].address]);
}

#[test]
fn a_node_cut_off_from_the_free_addresses_is_told_who_holds_them() {
    let (mut sim, network) = Sim::networked(43, 2);
    sim.run(SOON);
    sim.partition(&[0], &[1]);
    let attached = sim.attach_many(1, &network, 512);
    assert_eq!(attached.iter().filter(|result| result.is_ok()).count(), 511, "its own part");
    let error = attached.into_iter().find_map(Result::err);
    assert_eq!(
        error,
        Some(OperationError::AddressesUnreachable { network: network.clone(), holders: vec![sim.id(0)] })
    );
    sim.heal();
    sim.until(Duration::from_secs(40), |sim| sim.machine(1).connected().len() == 1);
    sim.attach(1, &network).expect("the home gives more");
}

#[test]
fn two_nodes_cut_off_can_each_attach_two_hundred() {
    let (mut sim, network) = Sim::networked(44, 2);
    sim.run(SOON);
    sim.partition(&[0], &[1]);
    for at in [0, 1] {
        let attached = sim.attach_many(at, &network, 200);
        assert!(attached.iter().all(Result::is_ok), "its part was given before it was needed");
    }
    sim.heal();
    sim.until(Duration::from_secs(40), |sim| sim.agree(&[0, 1], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 400);
}

#[test]
fn nodes_granted_late_get_a_part_too() {
    let mut sim = Sim::cluster(45, 8);
    let network = sim.create_network(0, "demo");
    for at in 1..8 {
        sim.grant(0, &network, at, Role::Host);
        sim.run(Duration::from_secs(5));
    }
    sim.run(Duration::from_secs(120));
    let state = sim.machine(0).networks.get(&network).expect("held");
    let counts = state.holdings.counts(crate::model::CONTAINERS);
    assert_eq!(counts.len(), 8);
    assert!(counts.values().all(|count| *count >= 1022 / 8 / 2), "{:?}", counts.values().collect::<Vec<_>>());
}

/// How long each of `count` attaches takes, one after the other, as fast as a script makes namespaces.
fn attach_one_by_one(sim: &mut Sim, at: usize, network: &NetworkId, count: usize) -> Vec<Duration> {
    let one = |_| {
        let began = sim.now;
        sim.attach(at, network).expect("there is room for 1022");
        let took = sim.now - began;
        sim.run(Duration::from_millis(5));
        took
    };
    (0..count).map(one).collect()
}

#[test]
fn a_node_that_attaches_beyond_its_own_part_hardly_ever_waits() {
    // The creator, who shares out, and another, beside one node and beside three.
    for (nodes, at, own, others) in [(2, 0, 480, 400), (2, 1, 480, 400), (4, 3, 230, 200)] {
        let (mut sim, network) = Sim::networked(48, nodes);
        sim.run(SOON);
        for node in 0..nodes {
            let count = if node == at { own } else { others };
            assert!(sim.attach_many(node, &network, count).iter().all(Result::is_ok));
        }
        let left = 1022 - own - others * (nodes - 1);
        let mut took = attach_one_by_one(&mut sim, at, &network, left);
        took.sort_unstable();
        // The others' last addresses come one by one; all the rest was asked for ahead of the need.
        let waited = took.iter().filter(|time| **time > ROUND_TRIP).count();
        let slowest = took.last().expect("some");
        println!("{nodes} nodes, node {at}: {waited} waited, {slowest:?} at most");
        assert!(waited <= 12 && *slowest <= Duration::from_millis(300), "{nodes} nodes, node {at}: {took:?}");
        match sim.attach(at, &network) {
            Err(OperationError::Full { in_use: 1022, resting: 0, .. }) => {}
            other => panic!("not full: {other:?}"),
        }
    }
}

#[test]
fn of_two_at_once_that_are_to_be_alone_on_a_node_the_second_is_refused() {
    let (mut sim, network) = Sim::networked(91, 2);
    let spec = AttachSpec { alone: true, ..sim.spec(&network) };
    let again = AttachSpec { id: sim.spec(&network).id, ..spec.clone() };
    let other = AttachSpec { service: "mail".parse().expect("a label"), ..again.clone() };
    let first = sim.on(0, |m, now| m.attach(spec.clone(), now));
    let second = sim.on(0, |m, now| m.attach(again.clone(), now));
    assert!(sim.wait(0, first).is_ok());
    let service = spec.service.clone();
    assert_eq!(sim.wait(0, second).err(), Some(OperationError::NotAlone { service, holder: spec.id }));
    for (at, spec) in [(1, again.clone()), (0, other)] {
        let elsewhere = sim.on(at, |m, now| m.attach(spec, now));
        assert!(sim.wait(at, elsewhere).is_ok(), "on another node, or of another service");
    }
    let detached = sim.on(0, |m, now| m.detach(spec.id, now));
    assert!(sim.wait(0, detached).is_ok());
    let id = sim.spec(&network).id;
    let after = sim.on(0, |m, now| m.attach(AttachSpec { id, ..again }, now));
    assert!(sim.wait(0, after).is_ok());
}

//! A node that leaves: what the others know of it afterwards, and what it knows itself.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::{CONTAINERS, NetworkId};

const SOON: Duration = Duration::from_secs(5);

fn networked(seed: u64, count: usize) -> (Sim, NetworkId) {
    let (mut sim, network) = Sim::networked(seed, count);
    sim.until(SOON, |sim| (0..count).all(|at| sim.machine(at).connected().len() == count - 1));
    (sim, network)
}

fn leave(sim: &mut Sim, at: usize) -> Result<(), OperationError> {
    let operation = sim.on(at, |m, now| m.leave(now));
    sim.wait(at, operation).map(|done| assert!(matches!(done, Done::Left)))
}

#[test]
fn who_left_is_no_member_its_names_are_gone_and_its_addresses_rest_and_return() {
    let (mut sim, network) = networked(60, 3);
    sim.run(SOON);
    for _ in 0..3 {
        sim.attach(2, &network).expect("attaches");
    }
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    let gone = sim.id(2);
    leave(&mut sim, 2).expect("left");
    sim.until(Duration::from_secs(1), |sim| {
        (0..2).all(|at| {
            let known = sim.network(at, &network).expect("held");
            known.containers().len() == 1 && !known.grants.contains_key(&gone)
        })
    });
    assert!((0..2).all(|at| sim.machine(at).membership().node(gone).is_none()));
    // Nothing of the cluster stays on it, and no key: what joins from there again is another node.
    assert!(sim.nodes[2].disk.is_empty() && sim.machine(2).cluster().is_none());
    assert!(sim.machine(2).membership().networks().len() == 0);
    // All 1022 are the others', but for what was in use and rests.
    let counts = sim.machine(0).networks[&network].holdings.counts(CONTAINERS);
    assert_eq!((counts.len(), counts.values().sum::<u64>()), (2, 1022));
    let resting = |sim: &mut Sim| match sim.attach(0, &network) {
        Err(OperationError::Full { resting, free_in_s, .. }) => (resting, free_in_s),
        other => panic!("not full: {other:?}"),
    };
    let free = 1021;
    let attached = sim.attach_many(0, &network, free).iter().filter(|result| result.is_ok()).count();
    assert!(attached < free, "its addresses rest");
    let (left, free_in_s) = resting(&mut sim);
    assert!(left > 0 && free_in_s.is_some_and(|s| s <= 60), "{left} {free_in_s:?}");
    sim.run(Duration::from_secs(61));
    assert!(sim.attach_many(0, &network, free - attached).iter().all(Result::is_ok), "and return");
}

#[test]
fn a_creator_that_leaves_makes_another_the_home() {
    let mut sim = Sim::cluster(61, 1);
    let signer = sim.add("signer");
    let token = sim.invite_signer(0);
    sim.join(signer, &token).expect("joins");
    let host = sim.add("host");
    let token = sim.invite(0, &[], 1);
    sim.join(host, &token).expect("joins");
    sim.until(SOON, |sim| sim.machine(host).connected().len() == 2 && sim.machine(signer).connected().len() == 2);
    let network = sim.create_network(signer, "demo");
    sim.grant(signer, &network, host, Role::Owner);
    sim.grant(signer, &network, 0, Role::Host);
    sim.until(SOON, |sim| sim.network(host, &network).is_some() && sim.network(0, &network).is_some());
    sim.run(SOON);
    let used = sim.attach(signer, &network).expect("attaches").address;
    leave(&mut sim, signer).expect("left");
    sim.run(SOON);
    let holdings = &sim.machine(0).networks[&network].holdings;
    assert_eq!(holdings.holder(used), Some(sim.id(host)), "the owner inherits");
    let attached = sim.attach_many(host, &network, 100);
    assert!(attached.iter().flatten().all(|attached| attached.address != used), "it rests");
    sim.run(Duration::from_secs(61));
    let heir = sim.id(host);
    let holdings = &sim.machine(0).networks[&network].holdings;
    let inherited: u64 = holdings.segments(CONTAINERS).filter(|s| s.home == heir).map(|s| s.range.count()).sum();
    let own = holdings.counts(CONTAINERS)[&sim.id(0)];
    assert!(inherited > 50 && own > 50, "{inherited} {own}");
    let after = sim.attach_many(0, &network, (own + inherited) as usize);
    let refused = after.into_iter().find_map(Result::err);
    assert_eq!(refused, None, "the new home shares out what it inherited");
}

#[test]
fn the_name_of_who_left_is_free_and_its_key_stays_out() {
    let (mut sim, _) = networked(62, 3);
    let before = sim.nodes[2].disk.clone();
    leave(&mut sim, 2).expect("left");
    sim.kill(2);
    sim.nodes[2].disk = before;
    sim.start_node(2).expect("an old copy starts");
    sim.run(Duration::from_secs(20));
    assert!((0..2).all(|at| sim.machine(at).membership().nodes().len() == 2), "an old copy is no member");
    let again = sim.add("n2");
    let token = sim.invite(0, &[], 1);
    sim.join(again, &token).expect("the name is free");
}

#[test]
fn leaving_is_refused_where_it_would_lose_something_and_nothing_is_withdrawn() {
    let (mut sim, network) = networked(63, 2);
    sim.attach(1, &network).expect("attaches");
    assert_eq!(leave(&mut sim, 0), Err(OperationError::RootKeyHere));
    sim.partition(&[0], &[1]);
    sim.run(Duration::from_secs(1));
    assert_eq!(leave(&mut sim, 1), Err(OperationError::NobodyTold));
    assert_eq!(sim.machine(1).attachments().len(), 1);
    let alone = sim.add("alone");
    assert_eq!(leave(&mut sim, alone), Err(OperationError::NoCluster));
    assert_eq!(sim.machine(0).membership().nodes().len(), 2);
}

#[test]
fn a_leave_that_nobody_confirms_fails_in_time_and_goes_on_when_it_is_asked_again() {
    let (mut sim, network) = networked(64, 2);
    sim.run(SOON);
    let operation = sim.on(1, |m, now| m.leave(now));
    sim.partition(&[0], &[1]);
    let began = sim.now;
    assert_eq!(sim.wait(1, operation).err(), Some(OperationError::NobodyTold));
    assert!(sim.now - began <= Duration::from_secs(6));
    sim.heal();
    sim.until(Duration::from_secs(60), |sim| sim.machine(1).connected().len() == 1);
    leave(&mut sim, 1).expect("left");
    sim.until(SOON, |sim| sim.network(0, &network).expect("held").grants.len() == 1);
}

#[test]
fn the_last_node_leaves_without_a_witness() {
    let mut sim = Sim::cluster(65, 1);
    sim.create_network(0, "demo");
    leave(&mut sim, 0).expect("left");
    assert!(sim.nodes[0].disk.is_empty());
    let init = sim.on(0, |m, now| m.init(None, now));
    assert!(sim.wait(0, init).is_ok(), "and may begin anew");
}

#[test]
fn a_leave_that_the_disk_refuses_fails_at_once() {
    let (mut sim, _) = networked(66, 2);
    sim.nodes[1].disk_fails = true;
    assert_eq!(leave(&mut sim, 1), Err(OperationError::NotStored));
    sim.nodes[1].disk_fails = false;
    sim.run(SOON);
    leave(&mut sim, 1).expect("left");
}

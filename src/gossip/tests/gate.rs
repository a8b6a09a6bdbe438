//! What a node does whose disk may be older than what it signed.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::NetworkId;

const SOON: Duration = Duration::from_secs(5);

/// Node 1 has attached `late` containers since its disk was as it is put back.
fn set_back(seed: u64, late: usize) -> (Sim, NetworkId, Vec<Attached>) {
    let (mut sim, network) = Sim::networked(seed, 3);
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    let old = sim.nodes[1].disk.clone();
    let attached = (0..late).map(|_| sim.attach(1, &network).expect("attaches")).collect();
    sim.run(SOON);
    sim.kill(1);
    sim.nodes[1].disk = old;
    (sim, network, attached)
}

#[test]
fn a_node_that_was_set_back_takes_up_what_it_forgot_before_it_gives_an_address_out() {
    let (mut sim, network, attached) = set_back(300, 20);
    sim.start_node(1).expect("starts");
    let waiting = sim.machine(1).waiting().expect("it asks first");
    assert_eq!(waiting.nodes.into_iter().collect::<Vec<_>>(), {
        let mut others = vec![sim.id(0), sim.id(2)];
        others.sort();
        others
    });
    let began = sim.now;
    let next = sim.attach(1, &network).expect("attaches");
    assert!(sim.now - began <= Duration::from_secs(3), "{:?}", sim.now - began);
    assert!(sim.machine(1).waiting().is_none() && sim.machine(1).unconfirmed().next().is_none());
    assert!(attached.iter().all(|old| old.address != next.address && old.number != next.number));
    let there = sim.machine(1).attachments();
    assert!(attached.iter().all(|old| there.iter().any(|(_, c)| (c.id, c.address) == (old.id, old.address))));
    sim.until(SOON, |sim| sim.agree(&[0, 1, 2], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 22);
}

#[test]
fn a_node_that_was_not_set_back_asks_nobody() {
    let (mut sim, network) = Sim::networked(301, 3);
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    sim.partition(&[0, 2], &[1]);
    sim.restart(1);
    assert!(sim.machine(1).waiting().is_none());
    let began = sim.now;
    sim.attach(1, &network).expect("attaches");
    assert!(sim.now - began <= Duration::from_millis(100));
}

#[test]
fn where_nobody_can_be_reached_the_gate_opens_after_a_while_and_says_so_until_somebody_is_heard() {
    let (mut sim, network, attached) = set_back(302, 1);
    sim.partition(&[0, 2], &[1]);
    sim.start_node(1).expect("starts");
    let spec = sim.spec(&network);
    let began = sim.now;
    let attach = sim.on(1, |m, now| m.attach(spec, now));
    sim.run(ALONE - Duration::from_secs(1));
    assert!(sim.machine(1).waiting().is_some() && sim.nodes[1].done.is_empty());
    assert_eq!(sim.machine(1).attachments().len(), 1, "what is attached stays");
    assert!(sim.wait(1, attach).is_ok());
    assert!(sim.now - began <= ALONE + Duration::from_secs(1));
    assert_eq!(sim.machine(1).unconfirmed().collect::<Vec<_>>(), [&network]);
    sim.heal();
    sim.until(Duration::from_secs(40), |sim| sim.machine(1).unconfirmed().next().is_none());
    sim.until(Duration::from_secs(40), |sim| sim.agree(&[0, 1, 2], &network));
    // The one that it forgot had the address first; whatever comes of the other, nobody sees two.
    let seen = sim.network(0, &network).expect("held");
    let holders = seen.containers().filter(|container| container.address == attached[0].address).count();
    assert_eq!(holders, 1);
}

#[test]
fn a_reachable_node_that_knows_is_enough_while_another_is_away() {
    let (mut sim, network, attached) = set_back(303, 5);
    sim.kill(2);
    sim.start_node(1).expect("starts");
    let began = sim.now;
    let next = sim.attach(1, &network).expect("attaches");
    assert!(sim.now - began <= Duration::from_secs(5), "{:?}", sim.now - began);
    assert!(attached.iter().all(|old| old.address != next.address));
}

#[test]
fn an_owner_that_forgot_whom_it_removed_does_not_go_on_with_the_secret_that_they_know() {
    let mut sim = Sim::cluster(306, 3);
    let network = sim.create_network(0, "demo");
    sim.run(SOON);
    let old = sim.nodes[0].disk.clone();
    sim.grant(0, &network, 1, Role::Host);
    let secret = |sim: &Sim, at: usize| sim.machine(at).network_keys(&network).first().map(|(_, secret)| secret.hash());
    sim.until(SOON, |sim| secret(sim, 1).is_some());
    let known = secret(&sim, 1);
    let expelled = sim.id(1);
    sim.expel(0, 1);
    sim.until(SOON, |sim| sim.machine(2).is_expelled(expelled));
    sim.kill(1);
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    assert_eq!(secret(&sim, 0), known);
    sim.until(ALONE + SOON, |sim| sim.machine(0).waiting().is_none());
    sim.until(SOON, |sim| secret(sim, 0) != known);
    sim.until(SOON, |sim| sim.machine(0).is_expelled(expelled));
}

#[test]
fn who_knows_of_a_network_by_its_owner_alone_cannot_say_whom_that_has_forgotten_to_have_removed() {
    let mut sim = Sim::cluster(318, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 2, Role::Host);
    sim.run(SOON);
    let old = sim.nodes[0].disk.clone();
    let secret = |sim: &Sim, at: usize| sim.machine(at).network_keys(&network).first().map(|(_, secret)| secret.hash());
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| secret(sim, 1).is_some());
    let known = secret(&sim, 1);
    let (expelled, ungranted) = (sim.id(1), sim.id(2));
    let ungrant = sim.on(0, |m, now| m.ungrant(&network, ungranted, now));
    assert!(sim.wait(0, ungrant).is_ok());
    sim.expel(0, 1);
    sim.until(SOON, |sim| sim.machine(2).is_expelled(expelled) && sim.network(2, &network).is_none());
    sim.kill(1);
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    assert_eq!(secret(&sim, 0), known);
    sim.until(ALONE + SOON, |sim| sim.machine(0).waiting().is_none());
    sim.until(SOON, |sim| secret(sim, 0) != known);
}

#[test]
fn what_nobody_could_say_is_taken_up_after_another_start_too() {
    let mut sim = Sim::cluster(319, 3);
    let expelled = sim.id(2);
    let old = sim.nodes[0].disk.clone();
    sim.expel(0, 2);
    sim.until(SOON, |sim| sim.machine(1).is_expelled(expelled));
    sim.kill(2);
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.partition(&[0], &[1]);
    sim.start_node(0).expect("starts");
    sim.until(ALONE + SOON, |sim| sim.machine(0).waiting().is_none());
    // What it signs now goes beyond what it forgot, and is on disk.
    let boot = |sim: &Sim, at: usize| sim.machine(at).membership().node(sim.id(0)).map(|node| node.boot);
    let old_boot = boot(&sim, 1);
    sim.until(SOON, |sim| boot(sim, 0) > old_boot);
    sim.restart(0);
    assert!(sim.machine(0).waiting().is_none(), "its disk is the newest");
    assert!(!sim.machine(0).is_expelled(expelled));
    sim.heal();
    sim.until(Duration::from_secs(40), |sim| sim.machine(0).is_expelled(expelled));
    sim.until(SOON, |sim| boot(sim, 1) == boot(sim, 0));
}

#[test]
fn whom_a_node_has_forgotten_to_have_let_in_is_asked_too() {
    for seed in 307..317 {
        let mut sim = Sim::cluster(seed, 2);
        let network = sim.create_network(0, "demo");
        sim.run(SOON);
        let old = sim.nodes[0].disk.clone();
        let token = sim.invite(0, std::slice::from_ref(&network), 1);
        let joiner = sim.add("late");
        sim.join(joiner, &token).expect("joins");
        let attached = sim.attach(0, &network).expect("attaches");
        sim.run(SOON);
        sim.kill(0);
        sim.nodes[0].disk = old;
        sim.start_node(0).expect("starts");
        let next = sim.attach(0, &network).expect("attaches");
        assert_ne!(next.address, attached.address, "seed {seed}");
    }
}

#[test]
fn the_only_node_of_a_cluster_never_waits() {
    let mut sim = Sim::cluster(304, 1);
    let network = sim.create_network(0, "demo");
    sim.attach(0, &network).expect("attaches");
    let old = sim.nodes[0].disk.clone();
    sim.attach(0, &network).expect("attaches");
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    assert!(sim.machine(0).waiting().is_none() && sim.machine(0).unconfirmed().next().is_none());
    sim.attach(0, &network).expect("at once");
}

#[test]
fn a_home_that_was_set_back_shares_nothing_out_that_it_gave_away() {
    let (mut sim, network) = Sim::networked(305, 3);
    sim.run(SOON);
    let old = sim.nodes[0].disk.clone();
    for _ in 0..3 {
        for result in sim.attach_many(1, &network, 200) {
            result.expect("attaches");
        }
        sim.run(SOON);
    }
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    let theirs: Vec<_> = sim.machine(1).attachments().into_iter().map(|(_, container)| container.address).collect();
    for result in sim.attach_many(0, &network, 100).into_iter().chain(sim.attach_many(2, &network, 100)) {
        let address = result.expect("attaches").address;
        assert!(!theirs.contains(&address), "{address} has two holders");
    }
    sim.until(Duration::from_secs(30), |sim| sim.agree(&[0, 1, 2], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 800);
}

#[test]
fn a_mark_reads_what_it_prints_and_nothing_else() {
    let (sim, _) = Sim::networked(306, 1);
    let mark = sim.nodes[0].config.kept[0];
    assert_eq!(mark.to_string().parse(), Ok(mark));
    assert_eq!("".parse::<HeadMark>(), Err(HeadMarkError));
    assert_eq!(mark.to_string()[1..].parse::<HeadMark>(), Err(HeadMarkError));
}

#[test]
fn an_expulsion_that_a_disk_set_back_twice_hides_is_asked_for_and_said_again() {
    let (mut sim, _) = Sim::networked(309, 4);
    sim.run(SOON);
    let old = sim.nodes[0].disk.clone();
    let expelled = sim.id(3);
    sim.partition(&[0, 2], &[1]);
    sim.partition(&[0, 1, 2], &[3]);
    sim.expel(0, 3);
    sim.until(SOON, |sim| sim.machine(2).membership().node(expelled).is_none());
    // The next life hears nothing of that, and tells node 1 what it signs; the one after it hears that, of a later boot than all.
    for _ in 0..2 {
        sim.kill(0);
        sim.nodes[0].disk = old.clone();
        sim.heal();
        sim.partition(&[0, 1], &[2, 3]);
        sim.start_node(0).expect("starts");
        sim.until(SOON * 6, |sim| sim.machine(0).waiting().is_none());
        sim.create_network(0, "other");
        sim.run(SOON);
    }
    assert!(
        sim.machine(0).membership().node(expelled).is_some() && sim.machine(1).membership().node(expelled).is_some()
    );
    sim.heal();
    sim.partition(&[0, 1, 2], &[3]);
    // What node 2 says at the beginning is lost, so it says it again when it refuses what node 0 says without the expulsion.
    sim.push_loss = 1000;
    sim.until(SOON * 2, |sim| sim.connection(0, 2).is_some());
    sim.run(Duration::from_millis(500));
    sim.push_loss = 0;
    sim.until(SOON, |sim| (0..3).all(|at| sim.machine(at).membership().node(expelled).is_none()));
    let boots = |sim: &Sim| -> Vec<_> {
        let node = sim.id(0);
        (0..3).map(|at| sim.machine(at).membership().node(node).map(|node| node.boot)).collect()
    };
    sim.until(SOON, |sim| boots(sim).windows(2).all(|pair| pair[0] == pair[1]));
    sim.partition(&[0], &[1, 2]);
    sim.restart(0);
    assert!(sim.machine(0).is_expelled(expelled), "it is in its own log again");
}

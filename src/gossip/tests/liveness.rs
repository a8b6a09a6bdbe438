//! Nodes that fall silent: who finds out, when, and who is left alone.

use std::sync::Arc;
use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::{Membership, Node, Role};
use crate::model::{Boot, NodeId};

const SOON: Duration = Duration::from_secs(5);
/// A crashed node's names are gone after so long.
const GONE: Duration = Duration::from_secs(10);

fn silent(sim: &Sim, at: usize, of: usize) -> bool {
    sim.machine(at).membership().is_silent(sim.id(of))
}

#[test]
fn a_crashed_node_is_down_for_everybody_within_ten_seconds_and_back_with_its_start() {
    for seed in 0..6 {
        let (mut sim, _) = Sim::networked(200 + seed, 8);
        // It has on disk where the others are.
        sim.run(SOON);
        sim.kill(7);
        let took = sim.until(GONE, |sim| (0..7).all(|at| silent(sim, at, 7)));
        assert!(took >= Duration::from_secs(2), "hidden after {took:?}: too soon to be sure");
        assert!((0..7).all(|at| (0..7).all(|of| !silent(&sim, at, of))), "somebody else is hidden");
        assert_eq!(sim.nodes[0].told.as_ref().map(|told| told.is_silent(sim.id(7))), Some(true), "the shell knows");
        sim.run(Duration::from_secs(60));
        sim.start_node(7).expect("starts");
        sim.until(Duration::from_secs(2), |sim| (0..7).all(|at| !silent(sim, at, 7)));
    }
}

#[test]
fn a_frozen_node_is_hidden_and_hides_nobody_when_it_goes_on() {
    let (mut sim, network) = Sim::networked(230, 4);
    let attached = sim.attach(3, &network).expect("attaches");
    let held = |sim: &Sim| sim.machine(0).addresses_held(&network).get(&sim.id(3)).copied();
    let before = held(&sim);
    for frozen in [5, 30, 120] {
        sim.freeze(3);
        sim.run(Duration::from_secs(frozen));
        assert!(frozen < 10 || (0..3).all(|at| silent(&sim, at, 3)));
        sim.thaw(3);
        sim.until(Duration::from_secs(2), |sim| (0..3).all(|at| !silent(sim, at, 3)));
        let end = sim.now + Duration::from_secs(20);
        while sim.now < end {
            sim.run(Duration::from_millis(100));
            assert!((0..4).all(|at| (0..4).all(|of| !silent(&sim, at, of))), "after {frozen} s");
        }
    }
    assert!(before > Some(0) && held(&sim) >= before, "its shares were touched");
    let view = sim.network(0, &network).expect("held");
    assert_eq!(view.container_at(attached.address).map(|c| c.id), Some(attached.id));
}

#[test]
fn loss_alone_hides_nobody() {
    for seed in 231..239 {
        let (mut sim, _) = Sim::networked(seed, 5);
        // Of a question and its answer 36 in a hundred are lost.
        sim.push_loss = 200;
        let end = sim.now + Duration::from_secs(300);
        while sim.now < end {
            sim.run(Duration::from_millis(500));
            assert!((0..5).all(|at| (0..5).all(|of| !silent(&sim, at, of))), "seed {seed}");
        }
    }
}

#[test]
fn a_liar_hides_nobody_and_who_is_not_asked_for_is_not_heard_of() {
    let (mut sim, _) = Sim::networked(232, 3);
    let victim = sim.id(1);
    let (connection, mut lie) = (sim.connection(0, 2).expect("connected"), vec![0x82, 0x02, 0x58, 0x20]);
    lie.extend(victim.0);
    for _ in 0..200 {
        let before = sim.machine(0).liveness(victim);
        let told = lie.clone();
        sim.on(0, |m, now| m.handle_datagram(connection, &told, now));
        assert_eq!(sim.machine(0).liveness(victim), before);
        for junk in [&[][..], &[0xff; 64], &[0x81], &[0x81, 0x18, 0x63], &lie[..20]] {
            sim.on(0, |m, now| m.handle_datagram(connection, junk, now));
        }
        sim.run(Duration::from_millis(100));
        assert!(!silent(&sim, 0, 1));
    }
}

#[test]
fn who_shares_no_network_is_neither_watched_nor_hidden() {
    let mut sim = Sim::cluster(233, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.kill(2);
    sim.run(Duration::from_secs(30));
    assert_eq!(sim.machine(0).liveness(sim.id(2)), None);
    assert!(!silent(&sim, 0, 2) && sim.machine(0).liveness(sim.id(1)) == Some(Liveness::Heard));
}

#[test]
fn frames_of_the_data_plane_are_life() {
    let (mut sim, _) = Sim::networked(234, 2);
    sim.partition(&[0], &[1]);
    let node = sim.id(1);
    for _ in 0..60 {
        sim.run(Duration::from_millis(500));
        sim.on(0, |m, now| m.handle_heard([(node, now)], now));
        assert!(!silent(&sim, 0, 1));
    }
    sim.until(GONE, |sim| silent(sim, 0, 1));
    sim.on(0, |m, now| m.handle_heard([(node, now)], now));
    assert!(!silent(&sim, 0, 1), "and bring it back");
}

#[test]
fn of_a_large_cluster_a_node_dials_64_and_misses_none_of_the_others() {
    let mut sim = Sim::cluster(97, 1);
    let others = |count: u8| {
        (0..count).map(|last| Node {
            id: NodeId([last; 32]),
            name: format!("n{last}").parse().expect("a label"),
            endpoints: if last == 0 { Vec::new() } else { vec![([192, 0, 2, last], 51790).into()] },
            boot: Boot(1),
            signer: None,
        })
    };
    for (count, undialled) in [(65, 0), (66, 1), (200, 135)] {
        let known = sim.on(0, |m, _| {
            let cluster = m.cluster().expect("a member");
            m.membership = Arc::new(Membership::new(cluster, others(count), []));
            m.undialled()
        });
        assert_eq!(known.len(), undialled, "of {count}");
        assert!(!known.contains(&NodeId([0; 32])), "nobody can dial one without an address, and it is missed");
    }
}

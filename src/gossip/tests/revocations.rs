//! Revocations that no log holds any more.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::message::{Message, VerifiedMessage};
use crate::membership::body::{Body, Revocation};
use crate::membership::{OwnLog, Pen, Shard, Verified};
use crate::model::{Boot, Rev};

const SOON: Duration = Duration::from_secs(5);

/// What a life of node 0 that nobody else remembers said: that node 3 is expelled.
fn forgotten(sim: &Sim) -> Verified {
    let cluster = sim.machine(0).cluster().expect("a member");
    let mut pen = Pen::new(sim.nodes[0].identity.key().clone(), cluster, Boot(60));
    OwnLog::new(Shard::Cluster).put(&mut pen, &Body::Revocation(Revocation { node: sim.id(3) }), Rev(1))
}

#[test]
fn an_expulsion_of_which_no_log_is_left_comes_to_all_and_its_writer_says_it_again() {
    let (mut sim, _) = Sim::networked(320, 4);
    sim.run(SOON);
    let (record, expelled) = (forgotten(&sim), sim.id(3));
    let from = sim.connection(1, 2).expect("they are connected");
    // What node 2 tells the others at once is lost.
    sim.push_loss = 1000;
    sim.on(2, |m, _| m.hear_revoked(from, vec![record]));
    sim.run(Duration::from_millis(100));
    sim.push_loss = 0;
    assert!(sim.machine(2).is_expelled(expelled) && !sim.machine(0).is_expelled(expelled));
    sim.until(SOON * 2, |sim| (0..3).all(|at| sim.machine(at).is_expelled(expelled)));
    sim.run(SOON);
    for at in 0..3 {
        sim.partition(&[at], &[0, 1, 2, 3].into_iter().filter(|other| *other != at).collect::<Vec<_>>());
        sim.restart(at);
        assert!(sim.machine(at).is_expelled(expelled), "node {at} has it on disk");
    }
}

#[test]
fn what_is_news_to_a_node_it_tells_the_others_at_once_and_nobody_tells_it_twice() {
    let (mut sim, _) = Sim::networked(321, 4);
    sim.run(SOON);
    let (record, expelled) = (forgotten(&sim), sim.id(3));
    let from = sim.connection(1, 2).expect("they are connected");
    sim.on(2, |m, _| m.hear_revoked(from, vec![record.clone()]));
    let took = sim.until(SOON, |sim| sim.machine(0).is_expelled(expelled));
    assert!(took <= Duration::from_millis(50), "{took:?}");
    sim.run(SOON);
    let before = sim.nodes[0].received.len();
    sim.on(2, |m, _| m.hear_revoked(from, vec![record]));
    sim.run(Duration::from_millis(50));
    let verifier = sim.machine(0).verifier();
    let is_told = |bytes: &Vec<u8>| matches!(verifier.verify(bytes), Ok(VerifiedMessage(Message::Revocations(_))));
    assert!(sim.nodes[0].received[..before].iter().any(is_told));
    assert!(!sim.nodes[0].received[before..].iter().any(is_told));
}

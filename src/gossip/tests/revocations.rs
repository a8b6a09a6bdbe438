//! Revocations that no log holds any more.

use std::time::Duration;

use rand_core::SeedableRng;

use super::harness::Sim;
use crate::gossip::ConnectionId;
use crate::gossip::message::{MESSAGE_LEN_MAX, Message, VerifiedMessage};
use crate::gossip::settle::Ingested;
use crate::membership::body::{Body, Revocation};
use crate::membership::{Kind, OwnLog, Pen, Shard, Verified};
use crate::model::{Boot, NodeId, Rev};

const SOON: Duration = Duration::from_secs(5);

/// Four nodes, of which node 2 hears from node 1 what a life of node 0 said that nobody else remembers: that node 3 is expelled. Of
/// what node 2 tells then, so much is lost in a thousand.
fn remembered_by_node_2(seed: u64, push_loss: u32) -> (Sim, ConnectionId, Verified) {
    let (mut sim, _) = Sim::networked(seed, 4);
    sim.run(SOON);
    let cluster = sim.machine(0).cluster().expect("a member");
    let mut pen = Pen::new(sim.nodes[0].identity.key().clone(), cluster, Boot(60));
    let expulsion = Body::Revocation(Revocation { node: sim.id(3) });
    let record = OwnLog::new(Shard::Cluster).put(&mut pen, &expulsion, Rev(1));
    let from = sim.connection(1, 2).expect("they are connected");
    sim.push_loss = push_loss;
    sim.on(2, |m, _| m.hear_revoked(from, vec![record.clone()]));
    (sim, from, record)
}

#[test]
fn an_expulsion_of_which_no_log_is_left_comes_to_all_and_its_writer_says_it_again() {
    // What node 2 tells the others at once is lost.
    let (mut sim, ..) = remembered_by_node_2(320, 1000);
    let expelled = sim.id(3);
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
    let (mut sim, from, record) = remembered_by_node_2(321, 0);
    let expelled = sim.id(3);
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

#[test]
fn revocations_that_a_signer_pads_keep_nobody_from_hearing_of_others() {
    let (mut sim, _) = Sim::networked(322, 4);
    sim.run(SOON);
    let (cluster, signer) = (sim.machine(0).cluster().expect("a member"), sim.id(0));
    sim.partition(&[1, 2], &[0]);
    sim.partition(&[2], &[1]);
    // The signer's key expels strangers, at length, and one node in few words.
    let mut pen = Pen::new(sim.nodes[0].identity.key().clone(), cluster, Boot(60));
    let mut log = OwnLog::of(sim.machine(2).logs.log(&Shard::Cluster, signer).expect("held"));
    for stranger in 100..140 {
        let body = minicbor::to_vec(Padded { node: [stranger; 32], padding: vec![0; 60_000] })
            .expect("a Vec takes every byte");
        log.put_raw(&mut pen, Kind::REVOCATION, vec![stranger; 32], Rev(1), body);
    }
    log.put(&mut pen, &Body::Revocation(Revocation { node: sim.id(3) }), Rev(1));
    let sealed = log.seal(&mut pen, &mut rand_chacha::ChaCha20Rng::seed_from_u64(1)).expect("changed");
    let said = log.whole(&sealed);
    sim.on(2, |m, now| {
        assert_eq!(m.ingest(&said, None), Ingested::Changed);
        m.settle(now);
        assert!(m.is_expelled(NodeId([139; 32])), "they count");
    });

    let before = sim.nodes[1].received.len();
    sim.heal();
    sim.partition(&[0], &[1, 2]);
    let verifier = sim.machine(1).verifier();
    let told = |sim: &Sim| {
        sim.nodes[1].received[before..].iter().find_map(|bytes| match verifier.verify(bytes) {
            Ok(VerifiedMessage(Message::Revocations(records))) => Some(records),
            _ => None,
        })
    };
    sim.until(SOON, |sim| told(sim).is_some());
    assert!(sim.machine(1).is_expelled(sim.id(3)), "it is told ahead of the log");
    sim.until(SOON, |sim| sim.machine(1).is_expelled(NodeId([139; 32])));
    assert!(sim.nodes[1].received.iter().all(|bytes| bytes.len() <= MESSAGE_LEN_MAX));
}

/// A revocation with a field that nobody reads.
#[derive(minicbor::Encode)]
#[cbor(map)]
struct Padded {
    #[cbor(n(0), with = "minicbor::bytes")]
    node: [u8; 32],
    #[cbor(n(99), with = "minicbor::bytes")]
    padding: Vec<u8>,
}

//! Hostile bytes, replays, and who gets a connection.

use std::time::Duration;

use proptest::prelude::*;

use super::harness::Sim;
use crate::gossip::files;
use crate::gossip::store::FileKind;
use crate::gossip::*;
use crate::membership::Role;

const SOON: Duration = Duration::from_secs(5);

/// Messages of every sort that a small cluster sends, and a machine that reads them.
fn captured() -> (Sim, Vec<Vec<u8>>) {
    let mut sim = Sim::cluster(60, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.attach(1, &network).expect("attaches");
    sim.restart(1);
    sim.run(Duration::from_secs(10));
    let messages = sim.nodes.iter().flat_map(|node| node.received.iter().cloned()).collect();
    (sim, messages)
}

#[test]
fn no_mutation_of_a_message_makes_the_reader_panic() {
    let (sim, messages) = captured();
    let mut verifier = sim.machine(0).verifier();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let mutated =
        (any::<prop::sample::Index>(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5));
    runner
        .run(&(mutated, any::<prop::sample::Index>()), |((which, flips), cut)| {
            let mut bytes = which.get(&messages).clone();
            for (at, value) in flips {
                *at.get_mut(&mut bytes) ^= value;
            }
            let _ = verifier.verify(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(verifier.verify(&bytes).is_err(), "a message that is cut does not read");
            Ok(())
        })
        .expect("no mutation does");
    verifier.cluster = None;
    let signed = messages.iter().filter(|bytes| verifier.verify(bytes).is_err()).count();
    assert!(signed > 0, "outside a cluster nothing signed reads");
}

proptest! {
    #[test]
    fn no_noise_makes_a_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let verifier = Sim::new(0).with_one().verifier();
        let _ = verifier.verify(&noise);
        let mut stored = Stored::empty();
        for (name, kind) in [("boot", FileKind::Boot), ("cluster", FileKind::Cluster), ("invites", FileKind::Invites), ("secrets-pn-a", FileKind::Secrets), ("own-c", FileKind::OwnLog)] {
            stored.apply(&Write::new(name, kind, &noise));
        }
        let _ = files::open::<files::BootFile>(&stored, "boot", FileKind::Boot);
        let _ = files::open::<Vec<files::Invite>>(&stored, "invites", FileKind::Invites);
        let id = crate::model::ClusterId([0; 32]);
        let _ = files::open_signed::<files::ClusterFile>(&stored, "cluster", FileKind::Cluster, id);
        let _ = files::open_signed::<files::LogFile>(&stored, "own-c", FileKind::OwnLog, id);
        let _ = files::open_secrets(&stored, &"pn-a".parse().expect("an id"));
    }
}

#[test]
fn lengths_that_a_message_claims_allocate_nothing() {
    let verifier = Sim::new(0).with_one().verifier();
    // Deltas, an array of 2^32 - 1 deltas; a Pull with a text of 2^63 bytes.
    for bytes in [
        &[0x82, 0x0b, 0x81, 0x9a, 0xff, 0xff, 0xff, 0xff][..],
        &[0x82, 0x18, 25, 0x83, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert!(verifier.verify(bytes).is_err());
    }
    assert!(verifier.verify(&vec![0; MESSAGE_LEN_MAX + 1]).is_err());
}

#[test]
fn replayed_messages_change_nothing() {
    let (mut sim, messages) = captured();
    let before: Vec<_> = (0..2)
        .map(|at| {
            sim.network(at, sim.machine(0).membership().networks().next().map(|n| &n.id).expect("one"))
                .map(|n| n.containers().len())
        })
        .collect();
    let connection = sim.connection(0, 2).expect("connected");
    for bytes in messages {
        let Ok(message) = sim.machine(0).verifier().verify(&bytes) else { continue };
        let again = sim.machine(0).verifier().verify(&bytes).expect("it read before");
        let request = sim.machine(0).verifier().verify(&bytes).expect("it read before");
        sim.on(0, |m, now| {
            m.handle_push(connection, message, now);
            m.handle_reply(connection, ExchangeId(1), again, now);
            m.handle_request(connection, ExchangeId(77), request, now);
        });
    }
    sim.run(SOON);
    let network = sim.machine(0).membership().networks().next().expect("still one").id.clone();
    let after: Vec<_> = (0..2).map(|at| sim.network(at, &network).map(|n| n.containers().len())).collect();
    assert_eq!(before, after);
    assert!(sim.network(2, &network).is_none());
    assert!(sim.machine(0).equivocators().is_empty());
}

#[test]
fn what_a_stranger_sends_is_dropped_and_its_connection_ends() {
    let (mut sim, messages) = captured();
    let stranger = sim.add("stranger");
    let connection = sim.connect(stranger, 0);
    sim.run(Duration::from_millis(50));
    let told = sim.nodes[stranger].received.len();
    for bytes in messages
        .iter()
        .filter(|bytes| bytes.len() <= sim.machine(0).message_len_max(connection))
        .take(300)
        .cloned()
        .collect::<Vec<_>>()
    {
        if let Ok(message) = sim.machine(0).verifier().verify(&bytes) {
            sim.on(0, |m, now| m.handle_push(connection, message, now));
        }
    }
    sim.run(Duration::from_secs(6));
    assert!(sim.connection(stranger, 0).is_none(), "no Hello came");
    assert_eq!(sim.nodes[stranger].received.len(), told);
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut sim = Sim::cluster(61, 1);
    let other = sim.add("other");
    let init = sim.on(other, |m, now| m.init(None, now));
    assert!(sim.wait(other, init).is_ok());
    sim.connect(other, 0);
    sim.run(SOON);
    assert!(sim.connection(other, 0).is_none());
    assert!(sim.machine(0).connected().is_empty() && sim.machine(other).connected().is_empty());
    assert_eq!(sim.machine(0).membership().nodes().len(), 1);
}

#[test]
fn of_a_double_dial_one_connection_stays() {
    let mut sim = Sim::cluster(62, 2);
    sim.partition(&[0], &[1]);
    sim.run(Duration::from_secs(3));
    sim.heal();
    sim.connect(0, 1);
    sim.connect(1, 0);
    sim.run(Duration::from_millis(500));
    assert_eq!(sim.connection_count(0, 1), 1);
    for at in [0, 1] {
        assert_eq!(sim.machine(at).connected().len(), 1);
    }
    sim.run(Duration::from_secs(60));
    assert_eq!(sim.connection_count(0, 1), 1);
}

#[test]
fn an_expelled_node_is_cut_and_does_not_come_back() {
    let mut sim = Sim::cluster(63, 4);
    let network = sim.create_network(0, "demo");
    for at in 1..4 {
        sim.grant(0, &network, at, Role::Host);
    }
    sim.until(SOON, |sim| (0..4).all(|at| sim.network(at, &network).is_some()));
    sim.attach(3, &network).expect("attaches");
    let node = sim.id(3);
    sim.expel(0, 3);
    let cut = |sim: &Sim| (0..3).all(|at| !sim.machine(at).connected().contains(&node));
    assert!(sim.until(SOON, cut) <= Duration::from_secs(5));
    sim.restart(3);
    let dials = sim.dials;
    sim.run(Duration::from_secs(60));
    assert!(cut(&sim));
    assert!(sim.dials - dials < 40, "it was refused and dialled again {} times", sim.dials - dials);
    for at in 0..3 {
        let view = sim.network(at, &network).expect("held");
        assert!(view.containers().len() == 0 && !view.grants.contains_key(&node));
        assert!(sim.machine(at).membership().node(node).is_none());
    }
    let token = sim.invite(0, &[], 1);
    let fresh = Stored::empty();
    sim.kill(3);
    sim.nodes[3].disk = fresh;
    sim.keep_key(3);
    sim.start_node(3).expect("starts");
    assert_eq!(sim.join(3, &token), Err(OperationError::Join(JoinError::Expelled)));
}

#[test]
fn a_signer_invited_as_such_creates_networks_with_numbers_of_its_own() {
    let mut sim = Sim::cluster(64, 1);
    let token = sim.invite_signer(0);
    let b = sim.add("b");
    sim.join(b, &token).expect("joins");
    let (one, other) = (sim.create_network(0, "one"), sim.create_network(b, "other"));
    let vni = |sim: &Sim, at, id| sim.network(at, id).expect("held").vni.signer();
    assert_eq!((vni(&sim, 0, &one), vni(&sim, b, &other)), (1, 2));
}

//! Networks end to end: made, granted, attached to, seen by all who may and by nobody else.

use std::collections::BTreeSet;
use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::{Role, State};
use crate::model::{CONTAINERS, EXTRAS, Generation, NetworkId, WgSecret};
use rand_core::SeedableRng;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn containers_of_three_nodes_see_each_other() {
    let (mut sim, network) = Sim::networked(20, 3);
    let attached: Vec<Attached> = (0..3).map(|at| sim.attach(at, &network).expect("attaches")).collect();
    assert!(attached.iter().all(|a| CONTAINERS.contains(a.address)));
    sim.until(SOON, |sim| {
        sim.agree(&[0, 1, 2], &network) && sim.network(0, &network).is_some_and(|n| n.containers().len() == 3)
    });
    let vni = sim.network(0, &network).expect("held").vni;
    sim.until(SOON, |sim| (0..3).all(|at| sim.nodes[at].keys.get(&vni).is_some_and(|k| !k.is_empty())));
    let hashes: BTreeSet<_> = (0..3).map(|at| sim.nodes[at].keys[&vni][0].1.hash()).collect();
    assert_eq!(hashes.len(), 1);
    assert_eq!(sim.nodes[0].told.as_ref().map(|told| told.networks().len()), Some(1));
}

#[test]
fn an_attachment_is_in_the_own_view_when_it_is_done_and_no_peer_is_waited_for() {
    let (mut sim, network) = Sim::networked(21, 2);
    sim.kill(1);
    let attached = sim.attach(0, &network).expect("attaches alone");
    let view = sim.network(0, &network).expect("held");
    assert_eq!(view.container_at(attached.address).map(|c| c.id), Some(attached.id));
}

#[test]
fn an_invite_for_a_network_grants_it() {
    let mut sim = Sim::cluster(22, 1);
    let network = sim.create_network(0, "demo");
    let a = sim.add("a");
    let token = sim.invite(0, std::slice::from_ref(&network), 1);
    sim.join(a, &token).expect("joins");
    sim.until(SOON, |sim| sim.network(a, &network).is_some());
    sim.attach(a, &network).expect("has addresses of its own");
}

#[test]
fn a_node_without_a_grant_learns_nothing_of_a_network() {
    let mut sim = Sim::cluster(23, 4);
    let network = sim.create_network(0, "verysecretname");
    sim.grant(0, &network, 1, Role::Owner);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.grant(1, &network, 2, Role::Host);
    sim.until(SOON, |sim| sim.network(2, &network).is_some());
    let id = sim.attach(2, &network).expect("attaches").id;
    sim.restart(1);
    sim.run(Duration::from_secs(60));
    assert!(sim.agree(&[0, 1, 2], &network));

    assert!(sim.network(3, &network).is_none());
    let needles = [b"verysecretname".to_vec(), network.as_str().as_bytes().to_vec(), id.0.to_vec(), b"pn-".to_vec()];
    for bytes in &sim.nodes[3].received {
        for needle in &needles {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "told {needle:?}");
        }
    }
    assert!(!sim.nodes[3].received.is_empty());
}

#[test]
fn asking_for_a_network_without_a_grant_is_answered_like_asking_for_one_that_never_was() {
    use crate::gossip::message::Message;
    use crate::membership::{SetHash, Shard};
    let mut sim = Sim::cluster(24, 2);
    let network = sim.create_network(0, "demo");
    sim.run(SOON);
    let never: NetworkId = "pn-0".parse().expect("an id");
    let (owner, stranger) = (sim.id(0), sim.id(1));
    let machine = sim.machine(0);
    for answer in [
        |m: &Gossip, peer, id: &NetworkId| m.answer_heads(peer, &Shard::Network(id.clone())),
        |m: &Gossip, peer, id: &NetworkId| m.answer_pull(peer, &Shard::Network(id.clone()), m.node(), None),
        |m: &Gossip, peer, id: &NetworkId| m.answer_secret(peer, id, Generation(0)),
    ] {
        let (real, unreal) = (answer(machine, stranger, &network), answer(machine, stranger, &never));
        assert_eq!(real.to_bytes(), unreal.to_bytes());
        assert!(!matches!(answer(machine, owner, &network), Message::Unknown));
    }
    let now = sim.now;
    let machine = sim.nodes[0].machine.as_mut().expect("runs");
    for id in [&network, &never] {
        assert!(matches!(machine.answer_space(stranger, id, false, 1, true, now), Message::Unknown));
        assert!(matches!(machine.answer_reclaim(stranger, id, false, (1, true), now), Message::Unknown));
    }
    match machine.answer_sync(stranger, SetHash([0; 32])) {
        Message::Shards(shards) => assert_eq!(shards.len(), 1),
        _ => panic!("no shards"),
    }
}

#[test]
fn a_partition_works_on_both_sides_and_is_whole_after_it_heals() {
    let (mut sim, network) = Sim::networked(25, 6);
    sim.run(SOON);
    sim.partition(&[0, 1, 2], &[3, 4, 5]);
    for at in 0..6 {
        for _ in 0..3 {
            sim.attach(at, &network).expect("has addresses of its own");
        }
    }
    assert!(!sim.agree(&[0, 1, 2, 3, 4, 5], &network));
    sim.run(Duration::from_secs(60));
    sim.heal();
    let took = sim.until(Duration::from_secs(40), |sim| sim.agree(&[0, 1, 2, 3, 4, 5], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 18, "after {took:?}");
}

#[test]
fn a_record_reaches_twenty_nodes_within_a_second_with_pushes_lost() {
    let (mut sim, network) = Sim::networked(26, 20);
    sim.run(SOON);
    sim.push_loss = 50;
    let id = sim.attach(7, &network).expect("attaches").id;
    let took = sim.until(SOON, |sim| {
        (0..20).all(|at| sim.network(at, &network).is_some_and(|n| n.containers().any(|c| c.id == id)))
    });
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_restarted_node_knows_its_attachments_and_signs_later_than_before() {
    let (mut sim, network) = Sim::networked(27, 3);
    let attached = sim.attach(1, &network).expect("attaches");
    sim.run(Duration::from_secs(2));
    let boot = sim.machine(0).membership().node(sim.id(1)).expect("known").boot;
    sim.restart(1);
    assert_eq!(sim.machine(1).attachments().iter().map(|(_, c)| c.id).collect::<Vec<_>>(), [attached.id]);
    assert!(sim.network(1, &network).is_some(), "known before any peer answers");
    let key = WgSecret::random(&mut rand_chacha::ChaCha20Rng::seed_from_u64(9)).public();
    let operation = sim.on(1, |m, now| m.set_container_key(attached.id, key, now));
    assert!(sim.wait(1, operation).is_ok());
    sim.until(SOON, |sim| {
        let view = sim.network(0, &network).expect("held");
        view.containers_by_key(key).map(|c| c.address).eq([attached.address])
    });
    sim.until(SOON, |sim| sim.machine(0).membership().node(sim.id(1)).is_some_and(|node| node.boot > boot));
    assert!(sim.machine(0).equivocators().is_empty());
}

#[test]
fn a_draining_container_is_seen_draining_and_never_ready_again_and_a_detached_one_is_gone() {
    let (mut sim, network) = Sim::networked(28, 2);
    let attached = sim.attach(0, &network).expect("attaches");
    let operation = sim.on(0, |m, now| m.set_container_state(attached.id, State::Draining, now));
    assert!(sim.wait(0, operation).is_ok());
    let draining = |sim: &Sim| sim.network(1, &network)?.container_at(attached.address).map(|c| c.state);
    sim.until(SOON, |sim| draining(sim) == Some(State::Draining));
    let operation = sim.on(0, |m, now| m.set_container_state(attached.id, State::Ready, now));
    assert!(sim.wait(0, operation).is_ok());
    assert_eq!(sim.machine(0).attachments()[0].1.state, State::Draining);
    let operation = sim.on(0, |m, now| m.detach(attached.id, now));
    assert!(sim.wait(0, operation).is_ok());
    sim.until(SOON, |sim| draining(sim).is_none());
    let again = sim.on(0, |m, now| m.detach(attached.id, now));
    assert_eq!(sim.wait(0, again).err(), Some(OperationError::NoAttachment(attached.id)));
}

#[test]
fn an_ungranted_node_loses_the_network_and_its_secret_is_replaced() {
    let (mut sim, network) = Sim::networked(29, 3);
    sim.attach(2, &network).expect("attaches");
    let vni = sim.network(0, &network).expect("held").vni;
    let node = sim.id(2);
    let operation = sim.on(0, |m, now| m.ungrant(&network, node, now));
    assert!(sim.wait(0, operation).is_ok());
    sim.until(SOON, |sim| sim.nodes[1].keys.get(&vni).is_some_and(|keys| keys[0].0 == Generation(1)));
    sim.until(SOON, |sim| sim.network(1, &network).is_some_and(|n| n.containers().len() == 0));
    assert_eq!(sim.nodes[1].keys[&vni].len(), 2);
    // The new secret stays here, and the node finds out that it is out.
    sim.run(Duration::from_secs(30));
    assert!(sim.network(2, &network).is_none() && sim.machine(2).attachments().is_empty());
    assert!(
        sim.nodes[2].keys.get(&vni).is_none_or(|keys| keys.iter().all(|(generation, _)| *generation == Generation(0)))
    );
}

#[test]
fn a_node_that_was_away_when_its_grant_was_taken_back_loses_the_network_when_it_returns() {
    let (mut sim, network) = Sim::networked(31, 3);
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    sim.partition(&[0], &[1, 2]);
    let node = sim.id(1);
    let operation = sim.on(0, |m, now| m.ungrant(&network, node, now));
    assert!(sim.wait(0, operation).is_ok());
    sim.attach(0, &network).expect("attaches");
    sim.heal();
    sim.until(Duration::from_secs(30), |sim| sim.network(1, &network).is_none());
    assert!(sim.machine(1).attachments().is_empty());
    assert!(sim.nodes[1].disk.names("").all(|name| !name.contains(network.as_str())));
    sim.until(SOON, |sim| sim.agree(&[0, 2], &network));
    // Nor does a node that still has old news bring it back.
    sim.run(Duration::from_secs(10));
    assert!(sim.network(1, &network).is_none());
}

#[test]
fn a_taken_number_is_refused_with_its_holder_and_free_ones_are_lowest_first() {
    let (mut sim, network) = Sim::networked(30, 2);
    let first = sim.attach(0, &network).expect("attaches");
    assert_eq!(first.number, 1);
    sim.until(SOON, |sim| sim.network(1, &network).is_some_and(|n| n.containers().len() == 1));
    let mut spec = sim.spec(&network);
    spec.number = Some(1);
    let operation = sim.on(1, |m, now| m.attach(spec, now));
    match sim.wait(1, operation) {
        Err(OperationError::NumberTaken { holder, number: 1, .. }) => assert_eq!(holder, first.id),
        _ => panic!("the number is taken"),
    }
    assert_eq!(sim.attach(1, &network).expect("attaches").number, 2);
}

#[test]
fn gateways_get_addresses_outside_the_containers_own() {
    let (mut sim, network) = Sim::networked(31, 2);
    for at in [0, 1] {
        let mut spec = sim.spec(&network);
        spec.space = Space::Extras;
        let operation = sim.on(at, |m, now| m.attach(spec, now));
        match sim.wait(at, operation) {
            Ok(Done::Attached(attached)) => assert!(EXTRAS.contains(attached.address)),
            other => panic!("not attached: {:?}", other.err()),
        }
    }
}

#[test]
fn who_may_not_is_refused_with_the_reason() {
    let (mut sim, network) = Sim::networked(32, 3);
    let node = sim.id(2);
    let grant = sim.on(1, |m, now| m.grant(&network, node, Role::Host, now));
    assert_eq!(sim.wait(1, grant).err(), Some(OperationError::NotOwner(network.clone())));
    let create = sim.on(1, |m, now| m.create_network(None, false, now));
    assert_eq!(sim.wait(1, create).err(), Some(OperationError::NotSigner));
    let unknown: NetworkId = "pn-x".parse().expect("an id");
    assert_eq!(sim.attach(1, &unknown).err(), Some(OperationError::NoNetwork("pn-x".into())));
    let creator = sim.id(0);
    let ungrant = sim.on(0, |m, now| m.ungrant(&network, creator, now));
    assert_eq!(sim.wait(0, ungrant).err(), Some(OperationError::Creator(network)));
    let mut alone = Sim::new(33);
    let at = alone.add("alone");
    let create = alone.on(at, |m, now| m.create_network(None, false, now));
    assert_eq!(alone.wait(at, create).err(), Some(OperationError::NoCluster));
}

#[test]
fn an_owner_that_the_creator_made_grants_and_a_host_does_not() {
    let mut sim = Sim::cluster(34, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Owner);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.grant(1, &network, 2, Role::Host);
    sim.until(SOON, |sim| sim.network(2, &network).is_some());
    sim.until(SOON, |sim| sim.agree(&[0, 1, 2], &network));
    let owner = sim.on(1, |m, now| m.grant(&network, m.node(), Role::Owner, now));
    assert_eq!(sim.wait(1, owner).err(), Some(OperationError::NotOwner(network)));
}

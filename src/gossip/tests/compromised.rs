//! A member with a good key and bad intentions: what it can spoil is its own.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_core::SeedableRng;

use super::harness::Sim;
use crate::gossip::exchange::{Asked, Exchanges, PEER_EXCHANGE_COUNT_MAX};
use crate::gossip::message::Message;
use crate::gossip::*;
use crate::membership::body::{Body, ContainerBody, Deploy, Grant, Revocation, Services, Share};
use crate::membership::{
    Delta, Kind, LOG_MEMORY_LEN_MAX, ORIGIN_MEMORY_LEN_MAX, OwnLog, PARKED_COUNT_MAX, Pen, Role, Shard, State,
};
use crate::model::{AttachmentId, Boot, CONTAINERS, NetworkId, NodeId, Rev, WgSecret};

const SOON: Duration = Duration::from_secs(5);

/// A cluster of three with a network of all, of which node 1 says only what the test says with its key.
struct Compromised {
    sim: Sim,
    network: NetworkId,
    connection: ConnectionId,
    pen: Pen,
    rng: rand_chacha::ChaCha20Rng,
}

impl Compromised {
    fn new(seed: u64) -> Self {
        let mut sim = Sim::cluster(seed, 3);
        let network = sim.create_network(0, "demo");
        for at in [1, 2] {
            sim.grant(0, &network, at, Role::Host);
        }
        sim.until(SOON, |sim| (1..3).all(|at| sim.network(at, &network).is_some()));
        sim.run(SOON);
        let connection = sim.connection(0, 1).expect("they are connected");
        let cluster = sim.machine(0).cluster().expect("a member");
        let pen = Pen::new(sim.nodes[1].identity.key().clone(), cluster, Boot(50));
        sim.nodes[1].machine = None;
        Self { sim, network, connection, pen, rng: rand_chacha::ChaCha20Rng::seed_from_u64(seed) }
    }

    fn shard(&self) -> Shard {
        Shard::Network(self.network.clone())
    }

    /// Node 1 pushes these deltas to node 0.
    fn push(&mut self, deltas: Vec<Delta>) {
        let bytes = Message::Deltas(deltas).to_bytes();
        let message = self.sim.machine(0).verifier().verify(&bytes).expect("its signatures hold");
        let connection = self.connection;
        self.sim.on(0, |m, now| m.handle_push(connection, message, now));
    }

    fn seal(&mut self, log: &mut OwnLog) -> Delta {
        log.seal(&mut self.pen, &mut self.rng).expect("something changed")
    }

    /// Node 1 says one thing in the network.
    fn say(&mut self, body: &Body, rev: Rev) {
        let mut log = OwnLog::new(self.shard());
        log.put(&mut self.pen, body, rev);
        let delta = self.seal(&mut log);
        self.push(vec![log.whole(&delta)]);
    }

    fn container(&mut self, address: std::net::Ipv4Addr) -> ContainerBody {
        ContainerBody {
            id: AttachmentId::random(&mut self.rng),
            address,
            app: "shop".parse().expect("a label"),
            kind: "web".parse().expect("a label"),
            number: 1,
            version: None,
            service: "web".parse().expect("a label"),
            server: None,
            public_key: WgSecret::random(&mut self.rng).public(),
            state: State::Ready,
        }
    }

    fn is_connected(&self) -> bool {
        self.sim.machine(0).connected().contains(&self.sim.id(1))
    }

    /// The two others go on as if nothing were.
    fn assert_the_others_live(&mut self) {
        let attached = self.sim.attach(2, &self.network).expect("there is room");
        let network = self.network.clone();
        self.sim.until(SOON, |sim| {
            sim.network(0, &network).is_some_and(|network| network.container_at(attached.address).is_some())
        });
    }
}

#[test]
fn a_peer_that_answers_nothing_leaves_room_for_the_others() {
    let now = Sim::new(0).now;
    let mut exchanges = Exchanges::default();
    let asked = |number: u8| Asked::Pull { shard: Shard::Cluster, origin: NodeId([number; 32]) };
    let silent = (0..=u8::MAX).filter(|n| exchanges.open(ConnectionId(1), asked(*n), now).is_some()).count();
    assert_eq!(silent, PEER_EXCHANGE_COUNT_MAX);
    assert!(exchanges.open(ConnectionId(2), Asked::Sync, now).is_some());
    assert!(exchanges.open(ConnectionId(2), Asked::Sync, now).is_none(), "it is asked already");
}

#[test]
fn logs_of_made_up_nodes_are_parked_within_bounds_and_take_no_room_from_others() {
    let mut bad = Compromised::new(80);
    let cluster = bad.sim.machine(0).cluster().expect("a member");
    let made_up = |number: u16| {
        let mut seed = [9; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let mut pen = Pen::new(SigningKey::from_bytes(&seed), cluster, Boot(1));
        let mut log = OwnLog::new(Shard::Cluster);
        log.put_raw(&mut pen, Kind(900), vec![1], Rev(1), vec![0; 100]);
        log.seal(&mut pen, &mut rand_chacha::ChaCha20Rng::seed_from_u64(1)).expect("something changed")
    };
    let deltas: Vec<Delta> = (0..1000).map(made_up).collect();
    for part in deltas.chunks(100) {
        bad.push(part.to_vec());
    }
    assert!(bad.sim.machine(0).logs.parked().0 <= PARKED_COUNT_MAX);
    assert_eq!(bad.sim.machine(0).membership().nodes().len(), 3);
    bad.assert_the_others_live();
}

#[test]
fn a_log_that_stands_twice_in_one_letter_ends_the_connection() {
    let mut bad = Compromised::new(81);
    let mut log = OwnLog::new(Shard::Cluster);
    let mut deltas = Vec::new();
    for number in 0..2 {
        log.put_raw(&mut bad.pen, Kind(900), vec![number], Rev(1), Vec::new());
        deltas.push(bad.seal(&mut log));
    }
    bad.push(deltas);
    assert!(!bad.is_connected());
    bad.assert_the_others_live();
}

#[test]
fn a_node_that_says_more_than_a_node_may_say_is_disconnected_and_takes_bounded_memory() {
    let mut bad = Compromised::new(82);
    let mut pushed = 0;
    // Two shards, each of whose logs alone would be within bounds.
    'out: for shard in [Shard::Cluster, bad.shard()] {
        let held = bad.sim.machine(0).logs.log(&shard, bad.sim.id(1)).map(OwnLog::of);
        let mut log = held.unwrap_or_else(|| OwnLog::new(shard));
        for number in 0..u8::MAX {
            log.put_raw(&mut bad.pen, Kind(900), vec![number], Rev(1), vec![number; 60_000]);
            let delta = bad.seal(&mut log);
            bad.push(vec![delta]);
            pushed += 120_000;
            if !bad.is_connected() {
                break 'out;
            }
            if pushed > LOG_MEMORY_LEN_MAX - 500_000 {
                pushed = 0;
                break;
            }
        }
    }
    assert!(!bad.is_connected(), "it was listened to without end");
    let id = bad.sim.id(1);
    assert!(bad.sim.machine(0).logs.memory_len(id) <= ORIGIN_MEMORY_LEN_MAX);
    bad.assert_the_others_live();
}

#[test]
fn the_highest_rev_there_is_keeps_nobody_from_attaching() {
    let mut bad = Compromised::new(83);
    let id = bad.sim.id(1);
    let network = bad.network.clone();
    let holdings = bad.sim.machine(0).networks[&network].holdings.clone();
    let own = holdings.addresses_of(id, CONTAINERS).next().expect("it has a part");
    let body = bad.container(own);
    bad.say(&Body::Container(body), Rev(u64::MAX));
    assert!(bad.sim.network(0, &network).expect("held").container_at(own).is_some());
    for at in [0, 2] {
        assert_ne!(bad.sim.attach(at, &network).expect("there is room").address, own);
    }
}

#[test]
fn an_address_outside_of_its_shares_is_nobodys_container() {
    let mut bad = Compromised::new(84);
    let network = bad.network.clone();
    let theirs = bad.sim.attach(0, &network).expect("attaches");
    let free = bad.sim.machine(0).networks[&network].holdings.addresses_of(bad.sim.id(0), CONTAINERS).last();
    for address in [theirs.address, free.expect("it has some")] {
        let body = bad.container(address);
        bad.say(&Body::Container(body), Rev(0));
    }
    let view = bad.sim.network(0, &network).expect("held");
    assert_eq!(view.containers().map(|c| c.id).collect::<Vec<_>>(), [theirs.id]);
}

#[test]
fn a_host_grants_nothing_to_itself_and_shares_nothing_out() {
    let mut bad = Compromised::new(85);
    let network = bad.network.clone();
    let before = bad.sim.machine(0).addresses_held(&network);
    let (id, stranger) = (bad.sim.id(1), NodeId([7; 32]));
    for node in [id, stranger] {
        bad.say(&Body::Grant(Grant { node, role: Role::Owner }), Rev(u64::MAX));
    }
    for home in [false, true] {
        bad.say(&Body::Share(Share { range: CONTAINERS, holder: id, home }), Rev(u64::MAX));
    }
    bad.sim.run(SOON);
    let view = bad.sim.network(0, &network).expect("held");
    assert_eq!(view.grants.get(&id), Some(&Role::Host));
    assert!(!view.grants.contains_key(&stranger));
    assert_eq!(bad.sim.machine(0).addresses_held(&network), before);
    bad.assert_the_others_live();
}

#[test]
fn a_node_that_leaves_a_thousand_times_keeps_nobody_from_hearing_of_an_expulsion() {
    let mut bad = Compromised::new(86);
    let cluster = bad.sim.machine(0).cluster().expect("a member");
    let mut signer = Pen::new(bad.sim.nodes[0].identity.key().clone(), cluster, Boot(60));
    let (id, expelled) = (bad.sim.id(1), NodeId([7; 32]));
    let mut log = OwnLog::new(Shard::Cluster);
    let leaves = (0..2000).map(|_| log.put(&mut bad.pen, &Body::Revocation(Revocation { node: id }), Rev(1)));
    let leaves = leaves.collect();
    let expulsion =
        OwnLog::new(Shard::Cluster).put(&mut signer, &Body::Revocation(Revocation { node: expelled }), Rev(1));
    let from = bad.sim.connection(0, 2).expect("they are connected");
    bad.sim.on(2, |m, _| {
        m.hear_revoked(from, leaves);
        m.hear_revoked(from, vec![expulsion]);
    });
    bad.sim.run(SOON);
    assert!(bad.sim.machine(2).is_expelled(expelled));
}

#[test]
fn what_a_node_that_is_no_owner_says_of_an_application_counts_for_nothing() {
    let mut world = Compromised::new(9);
    let app: crate::model::Label = "shop".parse().expect("a label");
    let def = Some(std::sync::Arc::new(crate::model::AppDef::new(app.clone())));
    world.say(&Body::Services(Services { app: app.clone(), def, since: None }), Rev(99));
    world.say(&Body::Deploy(Deploy { app, version: "v1".to_owned() }), Rev(99));
    world.sim.run(SOON);
    for at in [0, 2] {
        let network = world.sim.network(at, &world.network).expect("held");
        assert!(network.definition("shop").is_none() && network.deploys("shop").is_empty());
    }
    world.assert_the_others_live();
}

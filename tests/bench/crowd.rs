//! Makes the state folder of a node that knows many containers, for the benchmarks of the resolver and of the start.
//!
//! ```text
//! crowd FOLDER NETWORKS CONTAINERS     networks of so many containers each, 511 at most
//! ```
//! The real gossip machines write it, in memory and without a daemon: a signer that makes the networks, and eight nodes that
//! host the containers between them. Every record is signed by who says it and was taken by the signer as any other is. Of
//! them all only the signer's state is kept: a daemon that is started on it knows every container, and reaches none.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, io};

use ed25519_dalek::SigningKey;
use peerd::gossip::{
    AttachSpec, Config, ConnectionId, Done, ExchangeId, Gossip, Identity, InviteSpec, OperationId, Output, Space,
    Stored, Token, Write, identity, store::FileKind,
};
use peerd::membership::{Membership, Role, State};
use peerd::model::{AttachmentId, NetworkId, NodeId, WgSecret};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

/// The node whose state is kept.
const SIGNER: usize = 0;
/// Who hosts the containers: so many that no node has more records than one may have.
const HOSTS: usize = 8;
/// Half of a network: what a node that is granted it has of its own.
const CONTAINERS_MAX: usize = 511;
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_COUNT_MAX: usize = 1000;
/// What a node hears of others is on its disk so soon.
const SAVED_WITHIN: Duration = Duration::from_secs(2);

/// The machines, what they wrote, and what is between them, without delay or loss.
struct Crowd {
    machines: Vec<Gossip>,
    keys: Vec<SigningKey>,
    /// The signer's files.
    files: BTreeMap<String, Vec<u8>>,
    done: BTreeMap<(usize, OperationId), Done>,
    now: Instant,
    /// Whose exchange a number is: every machine counts its own.
    replies: BTreeMap<ExchangeId, (usize, ConnectionId, ExchangeId)>,
    exchanges: u64,
    rng: ChaCha20Rng,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, networks, containers] = arguments.as_slice() else {
        return Err(io::Error::other("usage: crowd FOLDER NETWORKS CONTAINERS"));
    };
    let count = |text: &str| text.parse::<usize>().map_err(io::Error::other);
    let (networks, containers) = (count(networks)?, count(containers)?.min(CONTAINERS_MAX));
    let mut crowd = Crowd::new();
    for number in 0..networks {
        crowd.network(number, containers);
    }
    crowd.pass(SAVED_WITHIN);
    let (started, known) = (crowd.restarted(), crowd.machines[SIGNER].membership());
    assert_eq!(
        count_of(&started),
        count_of(&known),
        "a node that starts on these files knows less than the one that wrote them"
    );
    crowd.write(Path::new(folder))?;
    println!("{} containers in {} networks", count_of(&started), started.networks().len());
    Ok(())
}

fn count_of(membership: &Membership) -> usize {
    membership.networks().map(|network| network.containers().len()).sum()
}

impl Crowd {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
        let (now, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()));
        let mut rng = ChaCha20Rng::seed_from_u64(wall);
        let keys: Vec<_> = (0..=HOSTS)
            .map(|_| {
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                SigningKey::from_bytes(&seed)
            })
            .collect();
        let machine = |(number, key): (usize, &SigningKey)| {
            let endpoint = format!("192.0.2.{}:51790", 100 + number).parse().expect("an address");
            let name = if number == SIGNER { "a".to_owned() } else { format!("host-{number}") };
            let config = Config { name: name.parse().expect("a label"), endpoints: vec![endpoint], kept: Vec::new() };
            let mut stored = Stored::empty();
            stored.apply(&node_key(key));
            let seed = [number as u8; 32];
            Gossip::new(Identity::from_key(key.clone()), &stored, config, now, wall, seed).expect("an empty state")
        };
        let machines = keys.iter().enumerate().map(machine).collect();
        let mut crowd = Self {
            machines,
            files: BTreeMap::new(),
            done: BTreeMap::new(),
            now,
            replies: BTreeMap::new(),
            exchanges: 0,
            rng,
            keys,
        };
        crowd.keep(&node_key(&crowd.keys[SIGNER]));
        crowd.operate(SIGNER, |machine, now| machine.init(None, now));
        for host in 1..=HOSTS {
            let spec = InviteSpec { networks: Vec::new(), ttl: Duration::from_secs(3600), uses: 1, signer: false };
            let Done::Invited(invited) = crowd.operate(SIGNER, |machine, now| machine.invite(spec, now)) else {
                panic!("no invite")
            };
            let token: Token = invited.token.parse().expect("a token");
            crowd.operate(host, |machine, now| machine.join(token, now));
        }
        crowd
    }

    /// Makes a network, and has a host put its containers there.
    fn network(&mut self, number: usize, containers: usize) {
        let name = format!("net-{number}").parse().expect("a label");
        let Done::NetworkCreated { id, .. } =
            self.operate(SIGNER, |machine, now| machine.create_network(Some(name), false, now))
        else {
            panic!("no network")
        };
        let host = 1 + number % HOSTS;
        let node = NodeId(self.keys[host].verifying_key().to_bytes());
        self.operate(SIGNER, |machine, now| machine.grant(&id, node, Role::Host, now));
        self.until("the host's addresses", |crowd| {
            crowd.machines[host].addresses_held(&id).get(&node).is_some_and(|held| *held >= containers as u64)
        });
        let operations: Vec<_> = (0..containers)
            .map(|_| {
                let spec = self.container(&id);
                self.machines[host].attach(spec, self.now)
            })
            .collect();
        self.until("the containers", |crowd| operations.iter().all(|one| crowd.done.contains_key(&(host, *one))));
        self.done.clear();
        self.until("the signer to know them", |crowd| {
            let membership = crowd.machines[SIGNER].membership();
            membership.network(&id).is_some_and(|network| network.containers().len() == containers)
        });
    }

    fn container(&mut self, network: &NetworkId) -> AttachSpec {
        let mut id = [0; 8];
        self.rng.fill_bytes(&mut id);
        AttachSpec {
            id: AttachmentId(id),
            network: network.clone(),
            app: "shop".parse().expect("a label"),
            kind: "web".parse().expect("a label"),
            number: None,
            version: None,
            service: "web".parse().expect("a label"),
            server: None,
            state: State::Ready,
            public_key: WgSecret::random(&mut self.rng).public(),
            space: Space::Containers,
            alone: false,
        }
    }

    fn operate(&mut self, at: usize, begin: impl FnOnce(&mut Gossip, Instant) -> OperationId) -> Done {
        let operation = begin(&mut self.machines[at], self.now);
        self.until("an operation", |crowd| crowd.done.contains_key(&(at, operation)));
        self.done.remove(&(at, operation)).expect("it was just there")
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..PAUSE_COUNT_MAX {
            while self.step() {}
            if condition(self) {
                return;
            }
            self.pause();
        }
        panic!("{what}: never");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.pause();
            while self.step() {}
        }
    }

    fn pause(&mut self) {
        self.now += PAUSE;
        for machine in &mut self.machines {
            machine.handle_timeout(self.now);
        }
    }

    /// What the signer knows when it starts on its files.
    fn restarted(&self) -> Arc<Membership> {
        let mut stored = Stored::empty();
        for (name, content) in &self.files {
            stored.insert(name.clone(), content.clone());
        }
        let identity = Identity::from_key(self.keys[SIGNER].clone());
        let config = Config { name: "a".parse().expect("a label"), endpoints: Vec::new(), kept: Vec::new() };
        Gossip::new(identity, &stored, config, self.now, 0, [0; 32]).expect("its own files").membership()
    }

    /// The node at the other end: each names a connection after it.
    fn connection(to: usize) -> ConnectionId {
        ConnectionId(to as u64)
    }

    /// Carries out one output; whether there was one.
    fn step(&mut self) -> bool {
        let next = self.machines.iter_mut().enumerate().find_map(|(at, machine)| Some((at, machine.poll_output()?)));
        let Some((at, output)) = next else { return false };
        let now = self.now;
        match output {
            Output::Push { connection, bytes } => {
                let to = &mut self.machines[connection.0 as usize];
                let message = to.verifier().verify(&bytes).expect("what a node sends is a message");
                to.handle_push(Self::connection(at), message, now);
            }
            Output::Datagram { connection, bytes } => {
                self.machines[connection.0 as usize].handle_datagram(Self::connection(at), &bytes, now);
            }
            Output::Request { connection, exchange, bytes } => {
                self.exchanges += 1;
                let own = ExchangeId(self.exchanges);
                self.replies.insert(own, (at, connection, exchange));
                let to = &mut self.machines[connection.0 as usize];
                let message = to.verifier().verify(&bytes).expect("what a node sends is a message");
                to.handle_request(Self::connection(at), own, message, now);
            }
            Output::Reply { exchange, bytes, .. } => {
                let (to, connection, asked) = self.replies.remove(&exchange).expect("every request has one reply");
                let to = &mut self.machines[to];
                let message = to.verifier().verify(&bytes).expect("what a node sends is a message");
                to.handle_reply(connection, asked, message, now);
            }
            Output::Dial { node, .. } => {
                let is_it = |key: &SigningKey| key.verifying_key().to_bytes() == node.0;
                let to = self.keys.iter().position(is_it).expect("there is nobody else");
                let from = NodeId(self.keys[at].verifying_key().to_bytes());
                self.machines[to].handle_connected(Self::connection(at), from, false, [0; 32], now);
                self.machines[at].handle_connected(Self::connection(to), node, true, [0; 32], now);
            }
            Output::Persist { token, writes, .. } => {
                if at == SIGNER {
                    writes.iter().for_each(|write| self.keep(write));
                }
                self.machines[at].handle_persisted(token, now);
            }
            Output::Done(operation, result) => {
                let done = result.unwrap_or_else(|error| panic!("node {at}: {error}"));
                self.done.insert((at, operation), done);
            }
            Output::Close { .. } | Output::MembershipChanged(_) | Output::NetworkKeys { .. } | Output::Progress(..) => {
            }
        }
        true
    }

    fn keep(&mut self, write: &Write) {
        match &write.content {
            Some(content) => drop(self.files.insert(write.name.clone(), content.to_vec())),
            None => drop(self.files.remove(&write.name)),
        }
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(folder)?;
        for (name, content) in &self.files {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name))?;
            io::Write::write_all(&mut file, content)?;
        }
        Ok(())
    }
}

fn node_key(key: &SigningKey) -> Write {
    Write::new(identity::NODE_KEY, FileKind::NodeKey, &key.to_bytes())
}

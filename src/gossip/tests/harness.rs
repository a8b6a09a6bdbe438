//! Several machines, their disks, and the wire between them: one event queue, virtual time, a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::gossip::*;
use crate::membership::{Membership, Network, Role, State};
use crate::model::{AttachmentId, Generation, NetworkId, NetworkSecret, NodeId, Vni, WgSecret};

const LATENCY: Duration = Duration::from_millis(5);
const FSYNC: Duration = Duration::from_millis(2);
/// Unix time at the start.
pub const WALL: u64 = 1_800_000_000;

/// A node, its disk, and what it told its shell.
pub struct SimNode {
    pub machine: Option<Gossip>,
    pub disk: Stored,
    pub identity: Identity,
    pub config: Config,
    pub done: BTreeMap<OperationId, Result<Done, OperationError>>,
    pub keys: BTreeMap<Vni, Vec<(Generation, NetworkSecret)>>,
    pub told: Option<Arc<Membership>>,
    /// Every byte that came to this node.
    pub received: Vec<Vec<u8>>,
    pub disk_fails: bool,
    /// Stopped: its timers rest, and what comes waits.
    pub frozen: bool,
}

enum Event {
    Push { to: usize, connection: ConnectionId, bytes: Vec<u8> },
    Datagram { to: usize, connection: ConnectionId, bytes: Vec<u8> },
    Request { to: usize, connection: ConnectionId, exchange: ExchangeId, bytes: Vec<u8> },
    Reply { to: usize, connection: ConnectionId, exchange: ExchangeId, bytes: Vec<u8> },
    Persisted { node: usize, boot: u64, token: PersistToken, ok: bool },
    Connected { node: usize, peer: usize, connection: ConnectionId, dialled: bool },
    Closed { node: usize, connection: ConnectionId },
    DialFailed { node: usize, peer: NodeId },
}

impl Event {
    /// Where it happens.
    fn at(&self) -> usize {
        match self {
            Self::Push { to, .. } | Self::Datagram { to, .. } | Self::Request { to, .. } | Self::Reply { to, .. } => {
                *to
            }
            Self::Persisted { node, .. }
            | Self::Connected { node, .. }
            | Self::Closed { node, .. }
            | Self::DialFailed { node, .. } => *node,
        }
    }
}

/// The cluster.
pub struct Sim {
    pub nodes: Vec<SimNode>,
    pub now: Instant,
    start: Instant,
    rng: ChaCha20Rng,
    queue: BTreeMap<(Instant, u64), Event>,
    events: u64,
    connections: BTreeMap<ConnectionId, (usize, usize)>,
    next_connection: u64,
    cut: BTreeSet<(usize, usize)>,
    boots: Vec<u64>,
    frozen: Vec<Event>,
    /// How often any node dialled another.
    pub dials: u64,
    /// Losses in a thousand, of pushes only: streams repeat what is lost.
    pub push_loss: u32,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
        let start = Instant::now();
        Self {
            nodes: Vec::new(),
            now: start,
            start,
            rng: ChaCha20Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            events: 0,
            connections: BTreeMap::new(),
            next_connection: 0,
            cut: BTreeSet::new(),
            boots: Vec::new(),
            frozen: Vec::new(),
            dials: 0,
            push_loss: 0,
        }
    }

    /// A cluster of `count` members, made by node 0.
    pub fn cluster(seed: u64, count: usize) -> Self {
        let mut sim = Self::new(seed);
        for at in 0..count {
            sim.add(&format!("n{at}"));
        }
        let init = sim.on(0, |m, now| m.init(None, now));
        assert!(matches!(sim.wait(0, init), Ok(Done::Initialised(_))));
        for at in 1..count {
            let token = sim.invite(0, &[], 1);
            sim.join(at, &token).expect("joins");
        }
        sim
    }

    /// A cluster whose nodes are all granted one network, which node 0 made and owns.
    pub fn networked(seed: u64, count: usize) -> (Self, NetworkId) {
        Self::networked_by(seed, 1, count)
    }

    /// The same with the first `owners` nodes as owners of the network.
    pub fn networked_by(seed: u64, owners: usize, count: usize) -> (Self, NetworkId) {
        let mut sim = Self::cluster(seed, count);
        let network = sim.create_network(0, "demo");
        for at in 1..count {
            sim.grant(0, &network, at, if at < owners { Role::Owner } else { Role::Host });
        }
        sim.until(Duration::from_secs(5), |sim| (0..count).all(|at| sim.network(at, &network).is_some()));
        (sim, network)
    }

    pub fn add(&mut self, name: &str) -> usize {
        let at = self.nodes.len();
        let mut disk = Stored::empty();
        let (identity, write) = Identity::load_or_make(&disk, &mut self.rng).expect("an empty disk");
        disk.apply(&write.expect("a new key"));
        let endpoint: SocketAddr = format!("10.0.{}.{}:51790", at / 250, at % 250 + 1).parse().expect("an address");
        let config = Config { name: name.parse().expect("a label"), endpoints: vec![endpoint], kept: Vec::new() };
        self.nodes.push(SimNode {
            machine: None,
            disk,
            identity,
            config,
            done: BTreeMap::new(),
            keys: BTreeMap::new(),
            told: None,
            received: Vec::new(),
            disk_fails: false,
            frozen: false,
        });
        self.boots.push(0);
        self.start_node(at).expect("a fresh node starts");
        at
    }

    pub fn start_node(&mut self, at: usize) -> Result<(), StoreError> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let wall = WALL + (self.now - self.start).as_secs();
        let node = &mut self.nodes[at];
        let machine = Gossip::new(node.identity.clone(), &node.disk, node.config.clone(), self.now, wall, seed)?;
        node.machine = Some(machine);
        node.done.clear();
        node.keys.clear();
        self.boots[at] += 1;
        self.drain(at);
        Ok(())
    }

    /// kill -9: what was not synced is lost.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].machine = None;
        let gone: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, ends)| ends.0 == at || ends.1 == at).map(|(c, _)| *c).collect();
        for connection in gone {
            self.close(at, connection);
        }
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, at: usize) {
        self.nodes[at].frozen = true;
    }

    /// SIGCONT: what came meanwhile comes now.
    pub fn thaw(&mut self, at: usize) {
        self.nodes[at].frozen = false;
        for event in std::mem::take(&mut self.frozen) {
            self.schedule(Duration::ZERO, event);
        }
    }

    pub fn restart(&mut self, at: usize) {
        self.kill(at);
        self.start_node(at).expect("what was stored reads");
    }

    pub fn id(&self, at: usize) -> NodeId {
        self.nodes[at].identity.node()
    }

    pub fn machine(&self, at: usize) -> &Gossip {
        self.nodes[at].machine.as_ref().expect("the node runs")
    }

    /// Calls the machine of a node.
    pub fn on<T>(&mut self, at: usize, call: impl FnOnce(&mut Gossip, Instant) -> T) -> T {
        let now = self.now;
        let result = call(self.nodes[at].machine.as_mut().expect("the node runs"), now);
        self.drain(at);
        result
    }

    /// Cuts two groups apart.
    pub fn partition(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cut.insert((*a.min(b), *a.max(b)));
            }
        }
        let gone: Vec<(ConnectionId, usize)> = self
            .connections
            .iter()
            .filter(|(_, (a, b))| self.cut.contains(&(*a.min(b), *a.max(b))))
            .map(|(connection, (a, _))| (*connection, *a))
            .collect();
        for (connection, at) in gone {
            self.close(at, connection);
            self.schedule(Duration::ZERO, Event::Closed { node: at, connection });
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn invite(&mut self, at: usize, networks: &[NetworkId], uses: u32) -> Token {
        let spec = InviteSpec { networks: networks.to_vec(), ttl: Duration::from_secs(3600), uses, signer: false };
        self.invite_by(at, spec)
    }

    /// A token that makes a signer; where the root key lies.
    pub fn invite_signer(&mut self, at: usize) -> Token {
        self.invite_by(at, InviteSpec { networks: vec![], ttl: Duration::from_secs(60), uses: 1, signer: true })
    }

    fn invite_by(&mut self, at: usize, spec: InviteSpec) -> Token {
        let operation = self.on(at, |m, now| m.invite(spec, now));
        match self.wait(at, operation) {
            Ok(Done::Invited(invited)) => invited.token.parse().expect("a token"),
            _ => panic!("no invite"),
        }
    }

    pub fn expel(&mut self, at: usize, of: usize) {
        let node = self.id(of);
        let operation = self.on(at, |m, now| m.expel(node, now));
        assert!(matches!(self.wait(at, operation), Ok(Done::Expelled)));
    }

    pub fn join(&mut self, at: usize, token: &Token) -> Result<(), OperationError> {
        let token = token.clone();
        let operation = self.on(at, |m, now| m.join(token, now));
        self.wait(at, operation).map(|done| assert!(matches!(done, Done::Joined(_))))
    }

    pub fn create_network(&mut self, at: usize, name: &str) -> NetworkId {
        let name = name.parse().expect("a label");
        let operation = self.on(at, |m, now| m.create_network(Some(name), false, now));
        match self.wait(at, operation) {
            Ok(Done::NetworkCreated { id, .. }) => id,
            _ => panic!("no network"),
        }
    }

    pub fn grant(&mut self, at: usize, network: &NetworkId, to: usize, role: Role) {
        let node = self.id(to);
        let operation = self.on(at, |m, now| m.grant(network, node, role, now));
        assert!(matches!(self.wait(at, operation), Ok(Done::Granted)));
    }

    pub fn spec(&mut self, network: &NetworkId) -> AttachSpec {
        AttachSpec {
            id: AttachmentId::random(&mut self.rng),
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

    pub fn attach(&mut self, at: usize, network: &NetworkId) -> Result<Attached, OperationError> {
        let spec = self.spec(network);
        let operation = self.on(at, |m, now| m.attach(spec, now));
        match self.wait(at, operation)? {
            Done::Attached(attached) => Ok(attached),
            _ => panic!("not an attachment"),
        }
    }

    /// Attaches many at once.
    pub fn attach_many(
        &mut self,
        at: usize,
        network: &NetworkId,
        count: usize,
    ) -> Vec<Result<Attached, OperationError>> {
        let operations: Vec<OperationId> = (0..count)
            .map(|_| {
                let spec = self.spec(network);
                self.on(at, |m, now| m.attach(spec, now))
            })
            .collect();
        operations
            .into_iter()
            .map(|operation| match self.wait(at, operation)? {
                Done::Attached(attached) => Ok(attached),
                _ => panic!("not an attachment"),
            })
            .collect()
    }

    /// Runs until an operation is done; 30 s at most.
    pub fn wait(&mut self, at: usize, operation: OperationId) -> Result<Done, OperationError> {
        let deadline = self.now + Duration::from_secs(30);
        while self.now < deadline {
            if let Some(result) = self.nodes[at].done.remove(&operation) {
                return result;
            }
            self.step();
        }
        panic!("operation {operation:?} of node {at} did not end");
    }

    /// The machine of a single node that is in no cluster.
    pub fn with_one(mut self) -> Gossip {
        let at = self.add("one");
        self.nodes[at].machine.take().expect("it runs")
    }

    /// Puts the node's key on an otherwise empty disk.
    pub fn keep_key(&mut self, at: usize) {
        let key = self.nodes[at].identity.key().to_bytes();
        self.nodes[at].disk.apply(&Write::new(identity::NODE_KEY, store::FileKind::NodeKey, &key));
    }

    /// A connection that nobody's machine asked for.
    pub fn connect(&mut self, from: usize, to: usize) -> ConnectionId {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        self.connections.insert(connection, (from, to));
        self.schedule(LATENCY, Event::Connected { node: to, peer: from, connection, dialled: false });
        self.schedule(2 * LATENCY, Event::Connected { node: from, peer: to, connection, dialled: true });
        connection
    }

    /// A connection between the two.
    pub fn connection(&self, a: usize, b: usize) -> Option<ConnectionId> {
        self.connections
            .iter()
            .find(|(_, ends)| **ends == (a, b) || **ends == (b, a))
            .map(|(connection, _)| *connection)
    }

    pub fn connection_count(&self, a: usize, b: usize) -> usize {
        self.connections.values().filter(|ends| **ends == (a, b) || **ends == (b, a)).count()
    }

    /// Runs until `holds`, `within` at most; how long it took.
    #[track_caller]
    pub fn until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let begin = self.now;
        while !holds(self) {
            assert!(self.now - begin < within, "it did not come true within {within:?}");
            self.step();
        }
        self.now - begin
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    pub fn network(&self, at: usize, id: &NetworkId) -> Option<Arc<Network>> {
        self.machine(at).membership().network(id).cloned()
    }

    /// Whether these nodes know the same of a network.
    pub fn agree(&self, nodes: &[usize], id: &NetworkId) -> bool {
        let known = |at: &usize| {
            let network = self.network(*at, id)?;
            let containers: Vec<_> = network.containers().map(|c| (c.address, c.id, c.public_key, c.state)).collect();
            Some((network.grants.clone(), network.secret, containers))
        };
        let first = known(&nodes[0]);
        first.is_some() && nodes.iter().all(|at| known(at) == first)
    }

    fn index(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|n| n.identity.node() == node)
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + after, self.events), event);
    }

    fn next_at(&self) -> Option<Instant> {
        let timers = self
            .nodes
            .iter()
            .filter(|node| !node.frozen)
            .filter_map(|node| Some(node.machine.as_ref()?.next_timeout()));
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        timers.chain(queued).min()
    }

    fn step(&mut self) {
        let Some(at) = self.next_at() else { panic!("nothing will ever happen") };
        self.now = self.now.max(at);
        if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let event = entry.remove();
            return self.happen(event);
        }
        for at in 0..self.nodes.len() {
            let due =
                !self.nodes[at].frozen && self.nodes[at].machine.as_ref().is_some_and(|m| m.next_timeout() <= self.now);
            if due {
                self.on(at, |m, now| m.handle_timeout(now));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        if self.nodes[event.at()].frozen {
            return self.frozen.push(event);
        }
        match event {
            Event::Push { to, connection, bytes } => {
                if let Some(message) = self.arrive(to, connection, &bytes) {
                    self.on(to, |m, now| m.handle_push(connection, message, now));
                }
            }
            Event::Datagram { to, connection, bytes } => {
                if self.nodes[to].machine.is_some() && self.other_end(to, connection).is_some() {
                    self.on(to, |m, now| m.handle_datagram(connection, &bytes, now));
                }
            }
            Event::Request { to, connection, exchange, bytes } => match self.arrive(to, connection, &bytes) {
                Some(message) => self.on(to, |m, now| m.handle_request(connection, exchange, message, now)),
                None => self.fail_exchange(to, connection, exchange),
            },
            Event::Reply { to, connection, exchange, bytes } => match self.arrive(to, connection, &bytes) {
                Some(message) => self.on(to, |m, now| m.handle_reply(connection, exchange, message, now)),
                None if self.nodes[to].machine.is_some() => {
                    self.on(to, |m, now| m.handle_exchange_failed(connection, exchange, now));
                }
                None => {}
            },
            Event::Persisted { node, boot, token, ok } => {
                if self.boots[node] == boot && self.nodes[node].machine.is_some() {
                    self.on(node, |m, now| {
                        if ok { m.handle_persisted(token, now) } else { m.handle_persist_failed(token, now) }
                    });
                }
            }
            Event::Connected { node, peer, connection, dialled } => {
                let (me, other) = (self.id(node), self.id(peer));
                if self.connections.contains_key(&connection) && self.nodes[node].machine.is_some() {
                    let exporter =
                        *blake3::hash(&[&connection.0.to_be_bytes()[..], &me.min(other).0].concat()).as_bytes();
                    self.on(node, |m, now| m.handle_connected(connection, other, dialled, exporter, now));
                }
            }
            Event::Closed { node, connection } => {
                self.connections.remove(&connection);
                if self.nodes[node].machine.is_some() {
                    self.on(node, |m, now| m.handle_disconnected(connection, now));
                }
            }
            Event::DialFailed { node, peer } => {
                if self.nodes[node].machine.is_some() {
                    self.on(node, |m, now| m.handle_dial_failed(peer, now));
                }
            }
        }
    }

    fn fail_exchange(&mut self, at: usize, connection: ConnectionId, exchange: ExchangeId) {
        if let Some(from) = self.other_end(at, connection) {
            let event = Event::Reply { to: from, connection, exchange, bytes: vec![0xff] };
            self.schedule(LATENCY, event);
        }
    }

    fn arrive(&mut self, at: usize, connection: ConnectionId, bytes: &[u8]) -> Option<VerifiedMessage> {
        self.other_end(at, connection)?;
        let node = &mut self.nodes[at];
        let machine = node.machine.as_ref()?;
        node.received.push(bytes.to_vec());
        assert!(bytes.len() <= MESSAGE_LEN_MAX, "a message of {} bytes was sent", bytes.len());
        if bytes.len() > machine.message_len_max(connection) {
            return None;
        }
        machine.verifier().verify(bytes).ok()
    }

    fn other_end(&self, at: usize, connection: ConnectionId) -> Option<usize> {
        let (a, b) = *self.connections.get(&connection)?;
        Some(if a == at { b } else { a })
    }

    fn close(&mut self, at: usize, connection: ConnectionId) {
        if let Some((a, b)) = self.connections.remove(&connection) {
            let other = if a == at { b } else { a };
            self.schedule(LATENCY, Event::Closed { node: other, connection });
        }
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].machine.as_mut().and_then(Gossip::poll_output) {
            self.put_out(at, output);
        }
    }

    fn put_out(&mut self, at: usize, output: Output) {
        match output {
            Output::Push { connection, bytes } => {
                let lost = self.rng.next_u32() % 1000 < self.push_loss;
                if let Some(to) = self.other_end(at, connection).filter(|_| !lost) {
                    self.schedule(LATENCY, Event::Push { to, connection, bytes: bytes.to_vec() });
                }
            }
            Output::Datagram { connection, bytes } => {
                let lost = self.rng.next_u32() % 1000 < self.push_loss;
                if let Some(to) = self.other_end(at, connection).filter(|_| !lost) {
                    self.schedule(LATENCY, Event::Datagram { to, connection, bytes });
                }
            }
            Output::Request { connection, exchange, bytes } => {
                if let Some(to) = self.other_end(at, connection) {
                    self.schedule(LATENCY, Event::Request { to, connection, exchange, bytes: bytes.to_vec() });
                }
            }
            Output::Reply { connection, exchange, bytes } => {
                if let Some(to) = self.other_end(at, connection) {
                    self.schedule(LATENCY, Event::Reply { to, connection, exchange, bytes: bytes.to_vec() });
                }
            }
            Output::Dial { node, endpoints } => {
                assert!(!endpoints.is_empty());
                self.dials += 1;
                let peer = self.index(node).filter(|peer| {
                    let cut = self.cut.contains(&(at.min(*peer), at.max(*peer)));
                    let listens = self.nodes[*peer].config.endpoints.iter().any(|e| endpoints.contains(e));
                    !cut && listens && self.nodes[*peer].machine.is_some()
                });
                let Some(peer) = peer else {
                    return self.schedule(LATENCY, Event::DialFailed { node: at, peer: node });
                };
                self.next_connection += 1;
                let connection = ConnectionId(self.next_connection);
                self.connections.insert(connection, (at, peer));
                self.schedule(LATENCY, Event::Connected { node: peer, peer: at, connection, dialled: false });
                self.schedule(2 * LATENCY, Event::Connected { node: at, peer, connection, dialled: true });
            }
            // Closing waits for what was sent.
            Output::Close { connection, .. } => {
                if let Some(other) = self.other_end(at, connection) {
                    self.schedule(2 * LATENCY, Event::Closed { node: other, connection });
                }
            }
            Output::Persist { token, writes, mark } => {
                let node = &mut self.nodes[at];
                let ok = !node.disk_fails;
                if ok {
                    node.config.kept = vec![mark];
                }
                for write in writes.iter().filter(|_| ok) {
                    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
                    assert!(write.name.len() <= 160 && write.name.chars().all(sound), "{}", write.name);
                    node.disk.apply(write);
                }
                self.schedule(FSYNC, Event::Persisted { node: at, boot: self.boots[at], token, ok });
            }
            Output::MembershipChanged(membership) => self.nodes[at].told = Some(membership),
            Output::NetworkKeys { vni, generations } => drop(self.nodes[at].keys.insert(vni, generations)),
            Output::Progress(..) => {}
            Output::Done(operation, result) => drop(self.nodes[at].done.insert(operation, result)),
        }
    }
}

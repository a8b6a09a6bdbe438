//! The world: one event queue, virtual time, one source of chance. Nothing else moves anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use peerd::gossip::{
    Config, ConnectionId, DATAGRAM_LEN_MAX, Gossip, Identity, MESSAGE_LEN_MAX, OperationId, Output, Stored,
    VerifiedMessage,
};
use peerd::model::NodeId;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::book::Book;
use crate::checks;
use crate::disk::{Disk, Step};
use crate::node::{Seen, SimNode};
use crate::run::Report;
use crate::signatures::Found;
use crate::wires::{Parcel, Wires, below, chance};
use crate::workload::{self, Intent};

/// Unix time at the start.
const WALL: u64 = 1_800_000_000;
/// How long a dial across a cut takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

enum Event {
    Deliver { to: usize, life: u64, connection: ConnectionId, parcel: Parcel },
    Connected { at: usize, life: u64, peer: usize, connection: ConnectionId, dialled: bool },
    Closed { at: usize, life: u64, connection: ConnectionId },
    DialFailed { at: usize, life: u64, peer: NodeId },
    Disk { at: usize, life: u64 },
}

pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub rng: ChaCha20Rng,
    pub nodes: Vec<SimNode>,
    pub wires: Wires,
    pub book: Book,
    pub report: Report,
    /// The first promise that was broken.
    pub broken: Option<String>,
    /// Signatures that the checks found right.
    pub found: Found,
    queue: BTreeMap<(Instant, u64), Event>,
    events: u64,
    trace: blake3::Hasher,
    /// Whether nodes besides the first are signers.
    pub several_signers: bool,
    /// Whether disks are set back and copied all the time.
    pub old_disks: bool,
    /// Whether to print what happens.
    aloud: bool,
}

impl World {
    pub fn new(seed: u64, aloud: bool) -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
        let start = Instant::now();
        Self {
            now: start,
            start,
            rng: ChaCha20Rng::seed_from_u64(seed),
            nodes: Vec::new(),
            wires: Wires::new(),
            book: Book::default(),
            report: Report::default(),
            broken: None,
            found: Found::default(),
            queue: BTreeMap::new(),
            events: 0,
            trace: blake3::Hasher::new(),
            several_signers: false,
            old_disks: false,
            aloud,
        }
    }

    /// A promise is broken; the first one is told.
    pub fn broken(&mut self, what: String) {
        self.broken.get_or_insert_with(|| format!("at {:?}: {what}", self.now - self.start));
    }

    /// Prints what happens, in a run that somebody looks at.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.aloud {
            println!("{:>12?}  {}", self.now - self.start, what());
        }
    }

    /// What happened, in order, as a number.
    pub fn trace(&self) -> u64 {
        let hash = self.trace.finalize();
        u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }

    /// A node that never started, and starts.
    pub fn add(&mut self) -> usize {
        let at = self.nodes.len();
        let mut files = Stored::empty();
        let (identity, write) = Identity::load_or_make(&files, &mut self.rng).expect("an empty disk");
        files.apply(&write.expect("a new key"));
        let endpoint: SocketAddr = format!("10.0.0.{}:51790", at + 1).parse().expect("an address");
        let config =
            Config { name: format!("n{at}").parse().expect("a label"), endpoints: vec![endpoint], kept: Vec::new() };
        self.push(files, identity, config, None);
        self.start_node(at);
        at
    }

    /// A second machine with a copy of this node's disk.
    pub fn clone_of(&mut self, original: usize) -> usize {
        let node = &self.nodes[original];
        let (files, identity, config) = (node.disk.files.clone(), node.identity.clone(), node.config.clone());
        self.push(files, identity, config, Some(original));
        self.nodes.len() - 1
    }

    fn push(&mut self, files: Stored, identity: Identity, config: Config, clone_of: Option<usize>) {
        self.nodes.push(SimNode {
            machine: None,
            disk: Disk::with(files),
            identity,
            config,
            life: 0,
            intents: BTreeMap::new(),
            seen: Seen::default(),
            tainted: clone_of.is_some(),
            is_set_back: false,
            clone_of,
        });
    }

    /// Starts a node from its disk.
    pub fn start_node(&mut self, at: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let wall = WALL + (self.now - self.start).as_secs();
        self.tell(|| format!("node {at} starts"));
        let node = &mut self.nodes[at];
        node.life += 1;
        node.seen = Seen::default();
        let config = Config { kept: node.disk.kept.clone(), ..node.config.clone() };
        let started = Gossip::new(node.identity.clone(), &node.disk.files, config, self.now, wall, seed);
        match started {
            Ok(machine) => node.machine = Some(machine),
            Err(error) => return self.broken(format!("node {at} does not start after a crash: {error}")),
        }
        checks::started(self, at);
        workload::started(self, at);
        self.drain(at);
    }

    /// Whom a node would take for members if its disk were set back now.
    pub fn members_on_old_disk(&self, at: usize) -> Vec<NodeId> {
        let node = &self.nodes[at];
        let (identity, config) = (node.identity.clone(), node.config.clone());
        let started =
            node.disk.oldest().and_then(|files| Gossip::new(identity, files, config, self.now, WALL, [0; 32]).ok());
        let membership = started.map(|machine| machine.membership());
        membership.iter().flat_map(|membership| membership.nodes()).map(|node| node.id).collect()
    }

    /// The process ends, or its host: what was not synced is lost, and the others learn of it when they do.
    pub fn crash(&mut self, at: usize) {
        let (renamed, host) = (chance(&mut self.rng, 500), chance(&mut self.rng, 300));
        self.tell(|| format!("node {at} crashes{}", if host { " with its host" } else { "" }));
        let node = &mut self.nodes[at];
        node.machine = None;
        node.life += 1;
        node.intents.clear();
        node.disk.crash(renamed, host);
        for connection in self.wires.of(at) {
            self.hang_up(at, connection, 3000);
        }
    }

    /// Has a node's machine do something for somebody who waits for it.
    pub fn ask(&mut self, at: usize, intent: Intent, call: impl FnOnce(&mut Gossip, Instant) -> OperationId) {
        let now = self.now;
        if self.nodes[at].machine.is_some() {
            self.tell(|| format!("node {at} is asked: {intent:?}"));
        }
        let node = &mut self.nodes[at];
        let Some(machine) = &mut node.machine else { return };
        let operation = call(machine, now);
        node.intents.insert(operation, intent);
        self.drain(at);
    }

    fn call(&mut self, at: usize, call: impl FnOnce(&mut Gossip, Instant)) {
        let now = self.now;
        if let Some(machine) = &mut self.nodes[at].machine {
            call(machine, now);
            self.drain(at);
        }
    }

    /// Runs until `holds`, `within` at most; whether it did.
    pub fn until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + within;
        while self.broken.is_none() {
            if holds(self) {
                return true;
            }
            if !self.step(end) {
                return holds(self);
            }
        }
        false
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.broken.is_none() && self.step(end) {}
    }

    /// Does what comes next, if that is before `end`; else it is `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timer = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((node.machine.as_ref()?, at)));
        let timer = timer.map(|(machine, at)| (machine.next_timeout(), at)).min();
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let next = queued.into_iter().chain(timer.map(|(when, _)| when)).min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(next);
        self.report.events += 1;
        match self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            Some(entry) => {
                let event = entry.remove();
                self.happen(event);
            }
            None => {
                let (_, at) = timer.expect("what came next was a timer");
                self.call(at, |machine, now| machine.handle_timeout(now));
            }
        }
        true
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + after, self.events), event);
    }

    /// Notes what happens, for the trace.
    fn note(&mut self, what: u8, at: usize, bytes: &[u8]) {
        let time = (self.now - self.start).as_nanos() as u64;
        self.trace.update(&time.to_be_bytes()).update(&[what, at as u8]).update(bytes);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, life, connection, parcel } if self.lives(to, life) => {
                self.deliver(to, connection, parcel);
            }
            Event::Connected { at, life, peer, connection, dialled } if self.has(at, life, connection) => {
                self.note(1, at, &[peer as u8, u8::from(dialled)]);
                let id = self.nodes[peer].id();
                let exporter = *blake3::hash(&connection.0.to_be_bytes()).as_bytes();
                self.call(at, |machine, now| machine.handle_connected(connection, id, dialled, exporter, now));
            }
            Event::Closed { at, life, connection } if self.has(at, life, connection) => {
                self.note(2, at, &connection.0.to_be_bytes());
                self.wires.close(at, connection);
                self.call(at, |machine, now| machine.handle_disconnected(connection, now));
            }
            Event::DialFailed { at, life, peer } if self.lives(at, life) => {
                self.note(3, at, &peer.0);
                self.call(at, |machine, now| machine.handle_dial_failed(peer, now));
            }
            Event::Disk { at, life } if self.lives(at, life) => self.disk_step(at),
            _ => {}
        }
    }

    fn lives(&self, at: usize, life: u64) -> bool {
        self.nodes[at].life == life && self.nodes[at].machine.is_some()
    }

    fn has(&self, at: usize, life: u64, connection: ConnectionId) -> bool {
        self.lives(at, life) && self.wires.peer(at, connection).is_some()
    }

    fn deliver(&mut self, to: usize, connection: ConnectionId, parcel: Parcel) {
        if self.wires.peer(to, connection).is_none() {
            return;
        }
        match parcel {
            Parcel::Datagram(bytes) => {
                self.note(9, to, &bytes);
                checks::received(self, to, &bytes);
                self.call(to, |machine, now| machine.handle_datagram(connection, &bytes, now));
            }
            Parcel::Push(bytes) => {
                self.note(4, to, &bytes);
                if let Some(message) = self.read(to, connection, &bytes) {
                    self.call(to, |machine, now| machine.handle_push(connection, message, now));
                }
            }
            Parcel::Request(exchange, bytes) => {
                self.note(5, to, &bytes);
                match self.read(to, connection, &bytes) {
                    Some(message) => {
                        self.call(to, |machine, now| machine.handle_request(connection, exchange, message, now));
                    }
                    // The shell ends the stream without an answer.
                    None => self.send(to, connection, Parcel::Reply(exchange, Vec::new())),
                }
            }
            Parcel::Reply(exchange, bytes) => {
                self.note(6, to, &bytes);
                match self.read(to, connection, &bytes) {
                    Some(message) => {
                        self.call(to, |machine, now| machine.handle_reply(connection, exchange, message, now));
                    }
                    None => self.call(to, |machine, now| machine.handle_exchange_failed(connection, exchange, now)),
                }
            }
        }
    }

    fn read(&mut self, at: usize, connection: ConnectionId, bytes: &[u8]) -> Option<VerifiedMessage> {
        checks::received(self, at, bytes);
        let machine = self.nodes[at].machine.as_ref()?;
        if bytes.len() > machine.message_len_max(connection) {
            return None;
        }
        machine.verifier().verify(bytes).ok()
    }

    fn disk_step(&mut self, at: usize) {
        match self.nodes[at].disk.step() {
            Step::Wrote(write) => {
                self.note(7, at, write.name.as_bytes());
                checks::wrote(self, at, &write);
                self.next_disk_step(at);
            }
            Step::Finished(token, true) => self.call(at, |machine, now| machine.handle_persisted(token, now)),
            Step::Finished(token, false) => self.call(at, |machine, now| machine.handle_persist_failed(token, now)),
            Step::Idle => {}
        }
    }

    fn next_disk_step(&mut self, at: usize) {
        let after = Duration::from_micros(100 + below(&mut self.rng, 3000));
        let life = self.nodes[at].life;
        self.schedule(after, Event::Disk { at, life });
    }

    /// Sends something, as far as the wire lets it.
    fn send(&mut self, from: usize, connection: ConnectionId, mut parcel: Parcel) {
        let Some(to) = self.wires.peer(from, connection).filter(|to| !self.wires.is_cut(from, *to)) else { return };
        let mut times = 1;
        if let Parcel::Push(bytes) | Parcel::Datagram(bytes) = &mut parcel {
            if chance(&mut self.rng, self.wires.lost_per_mille) {
                return;
            }
            times += u32::from(chance(&mut self.rng, self.wires.twice_per_mille));
            if chance(&mut self.rng, self.wires.forged_per_mille) && !bytes.is_empty() {
                let bit = below(&mut self.rng, bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let life = self.nodes[to].life;
        for _ in 0..times {
            let delay = self.wires.delay(&mut self.rng);
            self.schedule(delay, Event::Deliver { to, life, connection, parcel: parcel.clone() });
        }
    }

    /// One end lets go of a connection; the other end learns within so long.
    pub fn hang_up(&mut self, at: usize, connection: ConnectionId, within_ms: u64) {
        if let Some(other) = self.wires.close(at, connection) {
            let after = Duration::from_millis(1 + below(&mut self.rng, within_ms));
            let life = self.nodes[other].life;
            self.schedule(after, Event::Closed { at: other, life, connection });
        }
    }

    /// Nothing gets through from one to the other: both ends notice, each in its time.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.wires.cut(from, to);
        self.tell(|| format!("nothing gets through from {from} to {to}"));
        for connection in self.wires.between(from, to) {
            for at in [from, to] {
                let after = Duration::from_millis(200 + below(&mut self.rng, 6000));
                let life = self.nodes[at].life;
                self.schedule(after, Event::Closed { at, life, connection });
            }
        }
    }

    pub fn drain(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].machine.as_mut().and_then(Gossip::poll_output) {
            self.put_out(at, output);
        }
    }

    fn put_out(&mut self, at: usize, output: Output) {
        match output {
            Output::Push { connection, bytes } => self.send(at, connection, Parcel::Push(bounded(&bytes))),
            Output::Request { connection, exchange, bytes } => {
                self.send(at, connection, Parcel::Request(exchange, bounded(&bytes)));
            }
            Output::Reply { connection, exchange, bytes } => {
                self.send(at, connection, Parcel::Reply(exchange, bounded(&bytes)));
            }
            Output::Datagram { connection, bytes } => {
                assert!(bytes.len() <= DATAGRAM_LEN_MAX, "a datagram of {} bytes was sent", bytes.len());
                self.send(at, connection, Parcel::Datagram(bytes));
            }
            Output::Dial { node, endpoints } => self.dial(at, node, &endpoints),
            // Closing waits for what was sent.
            Output::Close { connection, .. } => self.hang_up(at, connection, 600),
            Output::Persist { token, writes, mark } => {
                self.nodes[at].disk.start(token, writes, mark);
                self.next_disk_step(at);
            }
            Output::MembershipChanged(membership) => {
                checks::changed(self, at, membership);
                workload::sweep(self, at);
            }
            Output::Done(operation, result) => {
                if let Some(intent) = self.nodes[at].intents.remove(&operation) {
                    self.note(8, at, &[u8::from(result.is_ok())]);
                    workload::answered(self, at, intent, result);
                }
            }
            Output::NetworkKeys { .. } | Output::Progress(..) => {}
        }
    }

    fn dial(&mut self, at: usize, node: NodeId, endpoints: &[SocketAddr]) {
        let listens = |peer: &SimNode| {
            peer.id() == node && peer.machine.is_some() && peer.config.endpoints.iter().any(|e| endpoints.contains(e))
        };
        let there: Vec<usize> =
            (0..self.nodes.len()).filter(|peer| *peer != at && listens(&self.nodes[*peer])).collect();
        let life = self.nodes[at].life;
        let peer = there.get(below(&mut self.rng, there.len() as u64) as usize).copied();
        match peer.filter(|peer| !self.wires.is_cut(at, *peer) && !self.wires.is_cut(*peer, at)) {
            Some(peer) => {
                let connection = self.wires.open(at, peer);
                let (there, back) = (self.wires.delay(&mut self.rng), self.wires.delay(&mut self.rng));
                let peer_life = self.nodes[peer].life;
                let accepted = Event::Connected { at: peer, life: peer_life, peer: at, connection, dialled: false };
                self.schedule(there, accepted);
                self.schedule(there + back, Event::Connected { at, life, peer, connection, dialled: true });
            }
            None => {
                let after = if there.is_empty() { Duration::from_millis(5) } else { DIAL_TIMEOUT };
                self.schedule(after, Event::DialFailed { at, life, peer: node });
            }
        }
    }
}

fn bounded(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() <= MESSAGE_LEN_MAX, "a message of {} bytes was sent", bytes.len());
    bytes.to_vec()
}

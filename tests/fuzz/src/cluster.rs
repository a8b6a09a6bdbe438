//! Two nodes on one wire: a signer with two networks, and a member that is granted one of them and hostile.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use peerd::gossip::{
    AttachSpec, Config, ConnectionId, Done, ExchangeId, Gossip, HeadMark, Identity, InviteSpec, OperationId, Output,
    Space, Stored, Token, identity,
};
use peerd::membership::{Role, State};
use peerd::model::{AttachmentId, ClusterId, NetworkId, NodeId, WgSecret};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Wall time in the cluster, in Unix seconds.
const WALL: u64 = 1_800_000_000;
const CONNECTION: ConnectionId = ConnectionId(1);

/// Some moment: all is counted from it.
pub fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
    *START.get_or_init(Instant::now)
}

/// The key of the node with this number: 0 is the victim, 1 the hostile member.
pub fn key(number: usize) -> SigningKey {
    SigningKey::from_bytes(&[number as u8 + 1; 32])
}

pub fn node(number: usize) -> NodeId {
    NodeId(key(number).verifying_key().to_bytes())
}

/// What the two nodes have come to, and every message on the way.
pub struct Cluster {
    pub id: ClusterId,
    /// The network that both are granted, and the one that the hostile member is not.
    pub open: NetworkId,
    pub closed: NetworkId,
    pub invite: Token,
    /// What the victim has on disk.
    pub stored: Stored,
    /// What was kept beside it: the victim knows its disk for the newest.
    kept: Vec<HeadMark>,
    /// The names of the files there.
    pub files: Vec<String>,
    /// Every message that either sent, with its sender.
    pub sent: Vec<(usize, Vec<u8>)>,
}

/// The victim as it restarted, with the hostile member on the line.
pub struct Victim {
    pub machine: Gossip,
    pub now: Instant,
    exchanges: u64,
}

impl Cluster {
    /// The one cluster, made on first use.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(Wire::cluster);
        &SHARED
    }

    /// The victim, which has taken the member's Hello.
    pub fn victim(&self) -> Victim {
        let machine = machine(0, &self.stored, self.kept.clone()).expect("what it stored");
        let mut victim = Victim { machine, now: start(), exchanges: 0 };
        victim.machine.handle_connected(CONNECTION, node(1), false, [0; 32], victim.now);
        let hello = self.sent.iter().rev().find(|(from, bytes)| *from == 1 && bytes.starts_with(&[0x82, 0x00]));
        victim.ask(&hello.expect("the member said Hello").1);
        victim
    }
}

impl Victim {
    /// The member pushes these bytes; whether they are a message.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let Ok(message) = self.machine.verifier().verify(bytes) else { return false };
        self.machine.handle_push(CONNECTION, message, self.now);
        true
    }

    /// The member asks with these bytes; whether they are a message.
    pub fn ask(&mut self, bytes: &[u8]) -> bool {
        let Ok(message) = self.machine.verifier().verify(bytes) else { return false };
        self.exchanges += 1;
        self.machine.handle_request(CONNECTION, ExchangeId(self.exchanges), message, self.now);
        true
    }

    /// The member answers everything that the victim asks with these bytes.
    pub fn answer_all(&mut self, bytes: &[u8]) {
        for exchange in 1..16 {
            if let Ok(message) = self.machine.verifier().verify(bytes) {
                self.machine.handle_reply(CONNECTION, ExchangeId(exchange), message, self.now);
            }
        }
    }

    /// Everything that went to the member since the last call; what was to be written is on disk.
    pub fn heard(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Push { bytes, .. } | Output::Request { bytes, .. } => heard.push(bytes.to_vec()),
                Output::Reply { bytes, .. } => heard.push(bytes.to_vec()),
                Output::Persist { token, .. } => self.machine.handle_persisted(token, self.now),
                _ => {}
            }
        }
        heard
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
    }

    /// The victim attaches a container, which has to go well, and at an address that nobody had.
    pub fn attach(&mut self, network: &NetworkId) {
        let before = self.machine.membership();
        let operation = self.machine.attach(container([77; 8], network), self.now);
        let mut done = None;
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Persist { token, .. } => self.machine.handle_persisted(token, self.now),
                Output::Done(of, result) if of == operation => done = Some(result),
                _ => {}
            }
        }
        let Some(Ok(Done::Attached(attached))) = done else { panic!("the victim attaches nothing any more") };
        let held = before.network(network).expect("it is granted").container_at(attached.address);
        assert!(held.is_none(), "an address is held twice");
    }
}

fn container(id: [u8; 8], network: &NetworkId) -> AttachSpec {
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
        public_key: WgSecret::random(&mut ChaCha20Rng::from_seed([id[0]; 32])).public(),
        space: Space::Containers,
        alone: false,
    }
}

/// A node with what it stored, and what it kept beside that.
pub fn machine(number: usize, stored: &Stored, kept: Vec<HeadMark>) -> Result<Gossip, peerd::gossip::StoreError> {
    let config = Config {
        name: format!("n{number}").parse().expect("a label"),
        endpoints: vec![format!("192.0.2.{}:51790", number + 1).parse().expect("an address")],
        kept,
    };
    Gossip::new(Identity::from_key(key(number)), stored, config, start(), WALL, [number as u8; 32])
}

/// Two machines, their disks, and what is between them, without delay or loss.
struct Wire {
    machines: [Gossip; 2],
    disks: [Stored; 2],
    files: [BTreeMap<String, ()>; 2],
    kept: [Vec<HeadMark>; 2],
    done: BTreeMap<(usize, OperationId), Done>,
    sent: Vec<(usize, Vec<u8>)>,
    now: Instant,
    /// Whose exchange a number is: both machines count their own.
    replies: BTreeMap<ExchangeId, ExchangeId>,
    exchanges: u64,
}

impl Wire {
    fn cluster() -> Cluster {
        let disks = [0, 1].map(|number| {
            let mut disk = Stored::empty();
            let seed = key(number).to_bytes();
            disk.apply(&peerd::gossip::Write::new(identity::NODE_KEY, peerd::gossip::store::FileKind::NodeKey, &seed));
            disk
        });
        let machines = [0, 1].map(|number| machine(number, &disks[number], Vec::new()).expect("an empty disk"));
        let mut wire = Self {
            machines,
            disks,
            files: [(); 2].map(|()| BTreeMap::from([(identity::NODE_KEY.to_owned(), ())])),
            kept: Default::default(),
            done: BTreeMap::new(),
            sent: Vec::new(),
            now: start(),
            replies: BTreeMap::new(),
            exchanges: 1000,
        };
        let Done::Initialised(id) = wire.operate(0, |m, now| m.init(None, now)) else { panic!("no cluster") };
        let [open, closed] = ["open", "closed"].map(|name| {
            let name = Some(name.parse().expect("a label"));
            match wire.operate(0, |m, now| m.create_network(name, false, now)) {
                Done::NetworkCreated { id, .. } => id,
                _ => panic!("no network"),
            }
        });
        let spec = InviteSpec { networks: Vec::new(), ttl: Duration::from_secs(3600), uses: 9, signer: false };
        let Done::Invited(invited) = wire.operate(0, |m, now| m.invite(spec, now)) else { panic!("no invite") };
        let invite: Token = invited.token.parse().expect("a token");
        let token = invite.clone();
        wire.operate(1, |m, now| m.join(token, now));
        wire.operate(0, |m, now| m.grant(&open, node(1), Role::Host, now));
        for (number, network, id) in [(0, &open, 1), (0, &closed, 9), (1, &open, 2)] {
            let spec = container([id; 8], network);
            wire.operate(number, |m, now| m.attach(spec, now));
        }
        for _ in 0..100 {
            wire.pass(Duration::from_millis(100));
        }
        let Self { disks: [stored, _], files: [files, _], kept: [kept, _], sent, .. } = wire;
        Cluster { id, open, closed, invite, stored, kept, files: files.into_keys().collect(), sent }
    }

    fn operate(&mut self, at: usize, begin: impl FnOnce(&mut Gossip, Instant) -> OperationId) -> Done {
        let operation = begin(&mut self.machines[at], self.now);
        for _ in 0..300 {
            self.pass(Duration::from_millis(100));
            if let Some(done) = self.done.remove(&(at, operation)) {
                return done;
            }
        }
        panic!("an operation of node {at} did not end");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for machine in &mut self.machines {
            machine.handle_timeout(self.now);
        }
        while self.step() {}
    }

    /// Carries out one output; whether there was one.
    fn step(&mut self) -> bool {
        let Some((at, output)) = (0..2).find_map(|at| Some((at, self.machines[at].poll_output()?))) else {
            return false;
        };
        let (to, now) = (1 - at, self.now);
        match output {
            Output::Push { bytes, .. } => {
                self.sent.push((at, bytes.to_vec()));
                let message = self.machines[to].verifier().verify(&bytes).expect("what a node sends is a message");
                self.machines[to].handle_push(CONNECTION, message, now);
            }
            Output::Datagram { bytes, .. } => self.machines[to].handle_datagram(CONNECTION, &bytes, now),
            Output::Request { exchange, bytes, .. } => {
                self.sent.push((at, bytes.to_vec()));
                self.exchanges += 1;
                self.replies.insert(ExchangeId(self.exchanges), exchange);
                let message = self.machines[to].verifier().verify(&bytes).expect("what a node sends is a message");
                self.machines[to].handle_request(CONNECTION, ExchangeId(self.exchanges), message, now);
            }
            Output::Reply { exchange, bytes, .. } => {
                self.sent.push((at, bytes.to_vec()));
                let asked = self.replies.remove(&exchange).expect("every request has one reply");
                let message = self.machines[to].verifier().verify(&bytes).expect("what a node sends is a message");
                self.machines[to].handle_reply(CONNECTION, asked, message, now);
            }
            Output::Dial { node: dialled, .. } => {
                assert_eq!(dialled, node(to), "there is nobody else");
                self.machines[to].handle_connected(CONNECTION, node(at), false, [0; 32], now);
                self.machines[at].handle_connected(CONNECTION, node(to), true, [0; 32], now);
            }
            Output::Persist { token, writes, mark } => {
                self.kept[at] = vec![mark];
                for write in &writes {
                    self.disks[at].apply(write);
                    match write.content {
                        Some(_) => self.files[at].insert(write.name.clone(), ()),
                        None => self.files[at].remove(&write.name),
                    };
                }
                self.machines[at].handle_persisted(token, now);
            }
            Output::Done(operation, result) => {
                let done = result.unwrap_or_else(|error| panic!("node {at}: {error}"));
                self.done.insert((at, operation), done);
            }
            Output::Close { reason, .. } => panic!("the connection was closed: {reason}"),
            Output::MembershipChanged(_) | Output::NetworkKeys { .. } | Output::Progress(..) => {}
        }
        true
    }
}

//! A compromised member: its bytes are a program, each statement of which is signed with its own good key.
//!
//! Whatever it says, the networks, containers, members and offices that are not its own stay as they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use minicbor::Encoder;
use peerd::membership::body::{
    Body, ContainerBody, Grant, NetworkDef, NodeCert, NodeEndpoints, Release, Revocation, SecretHash, Share, Signer,
    Succession, Ungrant,
};
use peerd::membership::{CheckSignatures, Delta, Kind, Membership, OwnLog, Pen, Role, Shard, SignedRef, Stamp, State};
use peerd::model::{
    AttachmentId, Boot, ClusterId, Generation, Ipv4Range, NetworkId, NodeId, Rev, Seq, Vni, WgPublicKey,
};
use rand_core::SeedableRng;

use super::cluster::{Cluster, Victim, key, node};

/// Statements beyond this many say nothing new.
const STATEMENT_COUNT_MAX: usize = 64;

/// The bytes that are left of the program; zeros follow them.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        [(); N].map(|()| self.byte())
    }

    fn address(&mut self) -> Ipv4Addr {
        match self.byte() {
            byte @ 0..=3 => Ipv4Addr::new(10, 240, byte, self.byte()),
            byte @ 4..=199 => Ipv4Addr::new(169, 254, 240 + byte % 16, self.byte()),
            _ => Ipv4Addr::from(self.bytes::<4>()),
        }
    }

    fn range(&mut self) -> Ipv4Range {
        let (a, b) = (self.address(), self.address());
        Ipv4Range::new(a.min(b), a.max(b)).expect("in order")
    }

    fn node(&mut self) -> NodeId {
        match self.byte() {
            byte @ 0..=1 => node(usize::from(byte)),
            byte => NodeId([byte; 32]),
        }
    }

    fn role(&mut self) -> Role {
        if self.byte() & 1 == 0 { Role::Host } else { Role::Owner }
    }

    fn body(&mut self) -> Option<Body> {
        Some(match self.byte() % 14 {
            0 => Body::Revocation(Revocation { node: self.node() }),
            1 => Body::Signer(Signer { node: self.node(), number: self.byte().max(1) }),
            2 => Body::NodeCert(NodeCert { node: self.node(), name: format!("n{}", self.byte()).parse().ok()? }),
            3 => Body::Node(NodeEndpoints {
                endpoints: (0..self.byte() % 20).map(|_| (self.address(), 51790).into()).collect(),
            }),
            4 => {
                let vni = Vni::of_signer(self.byte().max(1), u16::from(self.byte())).ok()?;
                Body::NetworkDef(NetworkDef { vni, name: None, internal: self.byte() & 1 == 1, nonce: self.bytes() })
            }
            5 | 6 => Body::Grant(Grant { node: self.node(), role: self.role() }),
            7 => Body::Ungrant(Ungrant { node: self.node() }),
            8 | 9 => Body::Share(Share { range: self.range(), holder: self.node(), home: self.byte() & 1 == 1 }),
            10 => {
                let share = Stamp { boot: Boot(self.byte().into()), seq: Seq(self.byte().into()) };
                Body::Release(Release { range: self.range(), home: self.node(), share })
            }
            11 => Body::Secret(SecretHash { generation: Generation(self.byte()), hash: self.bytes(), without: None }),
            12 => Body::Succession(Succession { node: self.node() }),
            _ => Body::Container(ContainerBody {
                id: AttachmentId(self.bytes()),
                address: self.address(),
                app: "shop".parse().ok()?,
                kind: "web".parse().ok()?,
                number: u32::from(self.byte()).max(1),
                version: None,
                service: "web".parse().ok()?,
                server: None,
                public_key: WgPublicKey::try_from([self.byte() | 9; 32]).ok()?,
                state: State::Ready,
            }),
        })
    }
}

/// No signature is checked while writing.
struct Writing;

impl CheckSignatures for Writing {
    fn holds(&self, _: &'static [u8], _: ClusterId, _: SignedRef<'_>) -> bool {
        false
    }

    fn cluster(&self) -> ClusterId {
        ClusterId([0; 32])
    }
}

/// The message with these deltas: `[11, [[delta...]]]`.
fn deltas(deltas: &[Delta]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(2).and_then(|e| e.u8(11)).and_then(|e| e.array(1)).expect("a Vec takes every byte");
    encoder.encode_with(deltas, &mut Writing).expect("a Vec takes every byte");
    encoder.into_writer()
}

/// What is none of the member's business: everything but its own containers and endpoints.
fn others(membership: &Membership) -> Vec<String> {
    let mut lines: Vec<String> = membership
        .nodes()
        .map(|node| format!("{} {} {:?}", node.id, node.name, node.signer))
        .chain(membership.nodes().filter(|n| n.id != node(1)).map(|n| format!("{:?}", n.endpoints)))
        .collect();
    for network in membership.networks() {
        lines.push(format!("{} {} {:?} {:?}", network.id, network.vni, network.grants, network.secret));
        let others = network.attachments().filter(|container| container.node != node(1));
        lines.extend(others.map(|container| format!("{} {container:?}", network.id)));
    }
    lines
}

/// Whether the bytes tell of a network.
pub fn assert_nothing_of(bytes: &[u8], network: &NetworkId) {
    let id = network.as_str().as_bytes();
    assert!(
        !bytes.windows(id.len()).any(|window| window == id),
        "a network's id went to a node that is not granted it"
    );
}

fn say(victim: &mut Victim, message: &[u8], before: &[String], closed: &NetworkId) {
    victim.push(message);
    for heard in victim.heard() {
        assert_nothing_of(&heard, closed);
    }
    assert_eq!(others(&victim.machine.membership()), before, "a member changed what is not its own");
}

/// A program of a compromised member.
pub fn member(bytes: &[u8]) -> bool {
    let cluster = Cluster::shared();
    let mut victim = cluster.victim();
    victim.heard();
    let before = others(&victim.machine.membership());
    let start = format!("{:?}", victim.machine.membership());

    let mut program = Program(bytes);
    let mut pen = Pen::new(key(1), cluster.id, Boot(u64::from(program.byte()) + 9));
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([7; 32]);
    let own = NetworkDef { vni: Vni::of_signer(1, 9).expect("a VNI"), name: None, internal: false, nonce: [1; 16] };
    let shards = [
        Shard::Cluster,
        Shard::Network(cluster.open.clone()),
        Shard::Network(cluster.closed.clone()),
        Shard::Network(own.id(node(1))),
    ];
    let mut logs: BTreeMap<usize, OwnLog> = BTreeMap::new();
    for _ in 0..STATEMENT_COUNT_MAX {
        if program.0.is_empty() {
            break;
        }
        let (what, at) = (program.byte(), usize::from(program.byte()) % shards.len());
        let log = logs.entry(at).or_insert_with(|| OwnLog::new(shards[at].clone()));
        match what % 8 {
            0..=3 => {
                if let Some(body) = program.body() {
                    let rev = program.byte();
                    log.put(&mut pen, &body, Rev(if rev == u8::MAX { u64::MAX } else { rev.into() }));
                }
            }
            4 => {
                let (kind, len) = (Kind(u16::from(program.byte() % 32)), usize::from(program.byte()));
                let body = (0..len).map(|_| program.byte()).collect();
                log.put_raw(&mut pen, kind, vec![program.byte(); 8], Rev(1), body);
            }
            5 => {
                let first = log.records().next().cloned();
                if let Some(record) = first {
                    log.remove(record.record().kind, &record.record().key);
                }
            }
            6 => {
                if let Some(delta) = log.seal(&mut pen, &mut rng) {
                    let delta = if program.byte() & 1 == 0 { log.whole(&delta) } else { delta };
                    say(&mut victim, &deltas(&[delta]), &before, &cluster.closed);
                }
            }
            _ => {
                victim.pass(Duration::from_millis(u64::from(program.byte()) * 20));
                victim.heard();
            }
        }
    }
    for log in logs.values_mut() {
        if let Some(delta) = log.seal(&mut pen, &mut rng) {
            say(&mut victim, &deltas(&[log.whole(&delta)]), &before, &cluster.closed);
        }
    }
    let said_something = format!("{:?}", victim.machine.membership()) != start;
    victim.attach(&cluster.open);
    said_something
}

//! A small cluster's records for the tests of this room, and a container for everybody's.

use std::net::Ipv4Addr;

use ed25519_dalek::SigningKey;

use super::body::{Body, Genesis, Grant, NetworkDef, NodeCert, Signer};
use super::{Container, OwnLog, Pen, Role, Shard, State, Verified};
use crate::model::{AttachmentId, Boot, ClusterId, NetworkId, NodeId, Rev, Vni, WgPublicKey};

/// A ready `web` of application `shop` at this address, whose id, number and key are its own. Tests say what is to be otherwise.
pub fn container(address: Ipv4Addr) -> Container {
    let [a, b, c, d] = address.octets();
    let mut key = [9; 32];
    key[..4].copy_from_slice(&[a, b, c, d]);
    Container {
        id: AttachmentId([a, b, c, d, a, b, c, d]),
        node: NodeId([1; 32]),
        address,
        app: "shop".parse().expect("a label"),
        kind: "web".parse().expect("a label"),
        number: u32::from_be_bytes([0, 0, c, d]),
        version: None,
        service: "web".parse().expect("a label"),
        server: None,
        public_key: WgPublicKey::try_from(key).expect("a key"),
        state: State::Ready,
        rev: Rev(1),
    }
}

/// The key of the node with this number; 0 is the root's.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 1; 32])
}

pub fn node(number: u8) -> NodeId {
    NodeId(key(number).verifying_key().to_bytes())
}

/// Genesis and the pens of the root (0) and of `count` nodes.
pub struct Fixture {
    pub cluster: ClusterId,
    pub genesis: Verified,
    pub pens: Vec<Pen>,
}

impl Fixture {
    pub fn new(count: u8) -> Self {
        let mut nobody = Pen::new(key(0), ClusterId([0; 32]), Boot(1));
        let body = Body::Genesis(Genesis { nonce: [7; 16], created_unix_s: 1 });
        let genesis = OwnLog::new(Shard::Cluster).put(&mut nobody, &body, Rev(0));
        let cluster = genesis.genesis_cluster().expect("a genesis record");
        let pens = (0..=count).map(|number| Pen::new(key(number), cluster, Boot(1))).collect();
        Self { cluster, genesis, pens }
    }

    /// Signs a record.
    pub fn say(&mut self, who: u8, shard: &Shard, body: Body, rev: u64) -> Verified {
        OwnLog::new(shard.clone()).put(&mut self.pens[usize::from(who)], &body, Rev(rev))
    }

    /// Genesis, node 1 as the first signer, and certificates for all.
    pub fn members(&mut self) -> Vec<Verified> {
        let mut records = vec![self.genesis.clone()];
        records.push(self.say(0, &Shard::Cluster, Body::Signer(Signer { node: node(1), number: 1 }), 1));
        for number in 1..self.pens.len() as u8 {
            let name = format!("n{number}").parse().expect("a label");
            records.push(self.say(1, &Shard::Cluster, Body::NodeCert(NodeCert { node: node(number), name }), 1));
        }
        records
    }

    /// A network of node 1.
    pub fn network(&mut self) -> (NetworkId, Verified) {
        let def = NetworkDef { vni: Vni::of_signer(1, 0).expect("a VNI"), name: None, internal: false, nonce: [3; 16] };
        let id = def.id(node(1));
        let record = self.say(1, &Shard::Network(id.clone()), Body::NetworkDef(def), 1);
        (id, record)
    }

    pub fn grant(&mut self, who: u8, network: &NetworkId, to: u8, role: Role, rev: u64) -> Verified {
        self.say(who, &Shard::Network(network.clone()), Body::Grant(Grant { node: node(to), role }), rev)
    }
}

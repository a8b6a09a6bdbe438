//! The cluster as its records say it stands: an immutable value that the router, the resolver and the daemon share.
//!
//! Whoever changes it makes a new one; a change to one network clones that network alone.

mod container;
mod network;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::model::{Boot, ClusterId, Label, NetworkId, NodeId, Vni};

pub use container::{Container, State};
pub use network::{Network, Order};

/// Everything that this node knows of its cluster.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    cluster: Option<ClusterId>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    by_vni: HashMap<Vni, NetworkId>,
    silent: BTreeSet<NodeId>,
}

/// A certified node that is not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub name: Label,
    /// Where it listens, best first; empty until its own record is known.
    pub endpoints: Vec<SocketAddr>,
    pub boot: Boot,
    /// The number that the root gave it, if it is a signer.
    pub signer: Option<u8>,
}

/// What a node may do in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Hosts containers.
    #[n(0)]
    Host,
    /// Hosts containers, and writes the network's definitions and grants.
    #[n(1)]
    Owner,
}

impl Membership {
    /// A membership of these nodes and networks.
    pub fn new(
        cluster: ClusterId,
        nodes: impl IntoIterator<Item = Node>,
        networks: impl IntoIterator<Item = Network>,
    ) -> Self {
        let mut this = Self { cluster: Some(cluster), ..Self::default() };
        for node in nodes {
            this.nodes.insert(node.id, Arc::new(node));
        }
        for network in networks {
            this.insert_network(Arc::new(network));
        }
        this
    }

    /// The cluster, once this node is in one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    /// The networks that this node is granted, by id.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    pub fn network_by_vni(&self, vni: Vni) -> Option<&Arc<Network>> {
        self.networks.get(self.by_vni.get(&vni)?)
    }

    /// The network that a person means by `text`: its id, else its name if only one has it.
    pub fn network_by_text(&self, text: &str) -> Option<&Arc<Network>> {
        if let Some(network) = self.networks.get(&text.parse().ok()?) {
            return Some(network);
        }
        let name: Label = text.parse().ok()?;
        let mut named = self.networks().filter(|network| network.name.as_ref() == Some(&name));
        named.next().filter(|_| named.next().is_none())
    }

    /// The node that a person means by `text`: its name, else its id or the beginning of it if only one begins so.
    pub fn node_by_text(&self, text: &str) -> Option<&Arc<Node>> {
        let text = &text.to_ascii_lowercase();
        let mut named = self.nodes().filter(|node| node.name.as_str() == text);
        if let Some(node) = named.next() {
            return Some(node).filter(|_| named.next().is_none());
        }
        let mut begun = self.nodes().filter(|node| text.len() >= 4 && node.id.to_string().starts_with(text));
        begun.next().filter(|_| begun.next().is_none())
    }

    /// Whether this node has evidence of its own that the other one is down.
    pub fn is_silent(&self, node: NodeId) -> bool {
        self.silent.contains(&node)
    }

    /// These nodes are down, and no others.
    pub fn set_silent(&mut self, nodes: BTreeSet<NodeId>) {
        self.silent = nodes;
    }

    /// Whether names lead to a container: it is ready, and its node is not down.
    pub fn is_found(&self, container: &Container) -> bool {
        container.state == State::Ready && !self.is_silent(container.node)
    }

    /// A number that changes when what the names of a network lead to does; see [`Network::edition`].
    pub fn edition(&self, network: &Network) -> u32 {
        let granted = self.silent.iter().filter(|node| network.grants.contains_key(*node));
        let mark = |node: &NodeId| u32::from_be_bytes([node.0[0], node.0[1], node.0[2], node.0[3] | 1]);
        granted.fold(network.edition(), |sum, node| sum.wrapping_add(mark(node)))
    }

    /// Puts a node in, or in the place of what was known of it.
    pub fn insert_node(&mut self, node: Arc<Node>) {
        self.nodes.insert(node.id, node);
    }

    /// Takes a node out that is no member any more.
    pub fn remove_node(&mut self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// Puts `network` in, or in the place of an older one.
    pub fn insert_network(&mut self, network: Arc<Network>) {
        if let Some(old) = self.networks.get(&network.id) {
            self.by_vni.remove(&old.vni);
        }
        self.by_vni.insert(network.vni, network.id.clone());
        self.networks.insert(network.id.clone(), network);
    }

    /// Takes a network out.
    pub fn remove_network(&mut self, id: &NetworkId) {
        if let Some(old) = self.networks.remove(id) {
            self.by_vni.remove(&old.vni);
        }
    }
}

//! The cluster as its records say it stands: an immutable value that the router, the resolver and the daemon share.
//!
//! Whoever changes it makes a new one; a change to one network clones that network alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::model::{AttachmentId, Boot, ClusterId, Generation, Label, NetworkId, NodeId, Rev, Vni, WgPublicKey};

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

/// A private network that this node is granted.
#[derive(Debug, Clone)]
pub struct Network {
    pub id: NetworkId,
    /// The name that its creator gave it, beside its id.
    pub name: Option<Label>,
    pub vni: Vni,
    /// Whether it forwards no names to the outside.
    pub internal: bool,
    pub creator: NodeId,
    /// The newest generation of its secret, with the secret's hash.
    pub secret: Option<(Generation, [u8; 32])>,
    pub grants: BTreeMap<NodeId, Role>,
    containers: BTreeMap<Ipv4Addr, Arc<Container>>,
    by_key: HashMap<WgPublicKey, Ipv4Addr>,
    by_app: BTreeMap<Label, BTreeMap<Label, BTreeMap<u32, Ipv4Addr>>>,
    edition: u32,
}

/// Whether a container is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    #[n(0)]
    Ready,
    /// On its way out: no name leads to it any more, its connections live.
    #[n(1)]
    Draining,
}

/// A container (or gateway, or stock client) as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: AttachmentId,
    /// The node that hosts it.
    pub node: NodeId,
    pub address: Ipv4Addr,
    pub app: Label,
    /// Its TYPE in names, `web` by default.
    pub kind: Label,
    /// Its N in names, from 1.
    pub number: u32,
    pub version: Option<String>,
    pub service: Label,
    pub public_key: WgPublicKey,
    pub state: State,
    /// Set at attach and kept: of two containers with one number the lower (rev, node) holds it.
    pub rev: Rev,
}

impl Container {
    /// What it adds to its network's edition.
    fn edition(&self) -> u32 {
        // 2^64 divided by the golden ratio: ids that are alike, and the two states of one, lie far apart.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let id = u64::from_be_bytes(self.id.0);
        (id.wrapping_add(self.state as u64).wrapping_mul(SPREAD) >> 32) as u32
    }
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
        let mut named =
            self.networks().filter(|network| network.name.as_ref().is_some_and(|name| name.as_str() == text));
        named.next().filter(|_| named.next().is_none())
    }

    /// The node that a person means by `text`: its name, else its id or the beginning of it if only one begins so.
    pub fn node_by_text(&self, text: &str) -> Option<&Arc<Node>> {
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

impl Network {
    /// A network without containers and grants.
    pub fn new(id: NetworkId, vni: Vni, creator: NodeId) -> Self {
        Self {
            id,
            name: None,
            vni,
            internal: false,
            creator,
            secret: None,
            grants: BTreeMap::new(),
            containers: BTreeMap::new(),
            by_key: HashMap::new(),
            by_app: BTreeMap::new(),
            edition: 0,
        }
    }

    /// What people call it: its name, else its id.
    pub fn display_name(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), Label::as_str)
    }

    /// Puts a container in. Of two with one number the lower (rev, node) holds it.
    pub fn insert_container(&mut self, container: Arc<Container>) {
        self.remove_container(container.address);
        let address = container.address;
        let numbers = self.by_app.entry(container.app.clone()).or_default().entry(container.kind.clone()).or_default();
        let older = numbers.get(&container.number).and_then(|held| self.containers.get(held));
        if older.is_none_or(|held| (container.rev, container.node) < (held.rev, held.node)) {
            numbers.insert(container.number, address);
        }
        self.by_key.insert(container.public_key, address);
        self.edition = self.edition.wrapping_add(container.edition());
        self.containers.insert(address, container);
    }

    /// Takes the container at `address` out.
    pub fn remove_container(&mut self, address: Ipv4Addr) -> Option<Arc<Container>> {
        let old = self.containers.remove(&address)?;
        self.edition = self.edition.wrapping_sub(old.edition());
        if self.by_key.get(&old.public_key) == Some(&address) {
            self.by_key.remove(&old.public_key);
        }
        let kinds = self.by_app.get_mut(&old.app)?;
        let numbers = kinds.get_mut(&old.kind)?;
        if numbers.get(&old.number) == Some(&address) {
            numbers.remove(&old.number);
            let heir = self
                .containers
                .values()
                .filter(|c| c.app == old.app && c.kind == old.kind && c.number == old.number)
                .min_by_key(|c| (c.rev, c.node));
            if let Some(heir) = heir {
                numbers.insert(old.number, heir.address);
            }
        }
        if !self.containers.values().any(|c| c.app == old.app && c.kind == old.kind) {
            kinds.remove(&old.kind);
        }
        if kinds.is_empty() {
            self.by_app.remove(&old.app);
        }
        Some(old)
    }

    /// The containers, by address.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Arc<Container>> {
        self.containers.values()
    }

    pub fn container_at(&self, address: Ipv4Addr) -> Option<&Arc<Container>> {
        self.containers.get(&address)
    }

    pub fn container_by_key(&self, key: WgPublicKey) -> Option<&Arc<Container>> {
        self.containers.get(self.by_key.get(&key)?)
    }

    /// The container that answers to `number` of an application's type.
    pub fn container_numbered(&self, app: &str, kind: &str, number: u32) -> Option<&Arc<Container>> {
        self.containers.get(self.by_app.get(app)?.get(kind)?.get(&number)?)
    }

    /// A number that changes when a container comes, goes or begins to drain, and is the same wherever the same ones are
    /// seen. It need not count upwards.
    pub fn edition(&self) -> u32 {
        self.edition
    }

    /// The application of this name, if it has a container here.
    pub fn app(&self, text: &str) -> Option<&Label> {
        self.by_app.get_key_value(text).map(|(app, _)| app)
    }

    /// The type of this name, if the application has a container of it here.
    pub fn kind(&self, app: &str, text: &str) -> Option<&Label> {
        self.by_app.get(app)?.get_key_value(text).map(|(kind, _)| kind)
    }

    /// The applications that have a container here.
    pub fn apps(&self) -> impl ExactSizeIterator<Item = &Label> {
        self.by_app.keys()
    }

    /// The types of an application that have a container here; none if the application has none.
    pub fn kinds(&self, app: &str) -> impl Iterator<Item = &Label> {
        self.by_app.get(app).into_iter().flat_map(BTreeMap::keys)
    }

    /// The containers of one type of an application, by address.
    pub fn containers_of<'a>(&'a self, app: &'a str, kind: &'a str) -> impl Iterator<Item = &'a Arc<Container>> {
        self.containers.values().filter(move |c| c.app.as_str() == app && c.kind.as_str() == kind)
    }

    /// The lowest number that no container of this type holds in view.
    pub fn free_number(&self, app: &str, kind: &str) -> u32 {
        let held = self.by_app.get(app).and_then(|kinds| kinds.get(kind));
        (1..).find(|n| !held.is_some_and(|held| held.contains_key(n))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WgSecret;
    use rand_core::SeedableRng;

    fn container(last: u8, number: u32, rev: u64) -> Arc<Container> {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(u64::from(last));
        Arc::new(Container {
            id: AttachmentId([last; 8]),
            node: NodeId([last; 32]),
            address: Ipv4Addr::new(10, 240, 0, last),
            app: "shop".parse().expect("a label"),
            kind: "web".parse().expect("a label"),
            number,
            version: None,
            service: "web".parse().expect("a label"),
            public_key: WgSecret::random(&mut rng).public(),
            state: State::Ready,
            rev: Rev(rev),
        })
    }

    fn network() -> Network {
        Network::new("pn-a".parse().expect("a label"), Vni::try_from(7).expect("a VNI"), NodeId([1; 32]))
    }

    #[test]
    fn of_two_holders_of_a_number_the_lower_rev_answers_and_the_other_is_its_heir() {
        for order in [[0, 1], [1, 0]] {
            let both = [container(1, 1, 9), container(2, 1, 4)];
            let mut network = network();
            for i in order {
                network.insert_container(both[i].clone());
            }
            assert_eq!(network.container_numbered("shop", "web", 1), Some(&both[1]));
            network.remove_container(both[1].address);
            assert_eq!(network.container_numbered("shop", "web", 1), Some(&both[0]));
        }
    }

    #[test]
    fn the_edition_follows_the_containers_and_not_their_order() {
        let (mut one, mut other) = (network(), network());
        let empty = one.edition();
        let [a, b] = [container(1, 1, 1), container(2, 2, 2)];
        let draining = Arc::new(Container { state: State::Draining, ..(*b).clone() });
        for container in [&a, &b] {
            one.insert_container(container.clone());
        }
        for container in [&draining, &a, &b] {
            other.insert_container(container.clone());
        }
        let both = one.edition();
        assert_eq!(both, other.edition());
        one.insert_container(draining);
        assert!(one.edition() != both && both != empty);
        one.remove_container(b.address);
        assert!(one.edition() != both);
        one.remove_container(a.address);
        assert_eq!(one.edition(), empty);
    }

    #[test]
    fn an_application_without_containers_is_no_name_any_more() {
        let mut network = network();
        let only = container(1, 1, 1);
        network.insert_container(only.clone());
        assert_eq!((network.apps().len(), network.free_number("shop", "web")), (1, 2));
        network.remove_container(only.address);
        assert_eq!((network.apps().len(), network.kinds("shop").count()), (0, 0));
        assert_eq!(network.container_by_key(only.public_key), None);
    }
}

//! A private network: its containers, and what its owners say of their applications.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Container, Role};
use crate::model::{AppDef, CONTAINERS, Generation, Label, NetworkId, NodeId, Rev, Vni, WgPublicKey};

/// Who said it how late: of definitions the highest counts, of claims the lowest holds.
pub type Order = (Rev, NodeId);

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
    containers: Containers,
    /// Those outside of the containers' prefix: members like the others, but no name leads to them.
    extras: Containers,
    /// What is said to have a key. A record names its key and proves nothing: two may name one.
    by_key: BTreeSet<(WgPublicKey, Ipv4Addr)>,
    apps: BTreeMap<Label, App>,
    /// Whose a namespace is that a service file names.
    namespaces: BTreeMap<Label, Label>,
    edition: u32,
}

/// What is known of an application. It is there as long as one of its parts is.
#[derive(Debug, Clone, Default)]
struct App {
    /// Its definition, with when it was defined first.
    def: Option<(Rev, Arc<AppDef>)>,
    /// The versions that were deployed, with when.
    deploys: BTreeMap<String, Order>,
    types: BTreeMap<Label, Type>,
    services: BTreeMap<Label, Containers>,
}

/// Containers by address. An answer walks over them, so each is here itself and need not be looked up.
type Containers = BTreeMap<Ipv4Addr, Arc<Container>>;

#[derive(Debug, Clone, Default)]
struct Type {
    containers: Containers,
    /// Who answers to a number.
    numbers: BTreeMap<u32, Ipv4Addr>,
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
            extras: BTreeMap::new(),
            by_key: BTreeSet::new(),
            apps: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            edition: 0,
        }
    }

    /// What people call it: its name, else its id.
    pub fn display_name(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), Label::as_str)
    }

    /// A number that changes when a container comes, goes or changes its state, or when a definition or a deploy is said, and
    /// is the same wherever the same ones are seen. It need not count upwards.
    pub fn edition(&self) -> u32 {
        self.edition
    }

    /// Puts a container in. Of two with one number the lower (rev, node) holds it.
    pub fn insert_container(&mut self, container: Arc<Container>) {
        self.remove_container(container.address);
        let address = container.address;
        self.by_key.insert((container.public_key, address));
        if !CONTAINERS.contains(address) {
            self.extras.insert(address, container);
            return;
        }
        let app = self.apps.entry(container.app.clone()).or_default();
        app.services.entry(container.service.clone()).or_default().insert(address, container.clone());
        let kind = app.types.entry(container.kind.clone()).or_default();
        kind.containers.insert(address, container.clone());
        let older = kind.numbers.get(&container.number).and_then(|held| self.containers.get(held));
        if older.is_none_or(|held| (container.rev, container.node) < (held.rev, held.node)) {
            kind.numbers.insert(container.number, address);
        }
        self.edition = self.edition.wrapping_add(container.edition());
        self.containers.insert(address, container);
    }

    /// Takes the container at `address` out.
    pub fn remove_container(&mut self, address: Ipv4Addr) -> Option<Arc<Container>> {
        let old = self.containers.remove(&address).or_else(|| self.extras.remove(&address))?;
        self.by_key.remove(&(old.public_key, address));
        if !CONTAINERS.contains(address) {
            return Some(old);
        }
        self.edition = self.edition.wrapping_sub(old.edition());
        let app = self.apps.get_mut(&old.app)?;
        if let Some(service) = app.services.get_mut(&old.service) {
            service.remove(&address);
            if service.is_empty() {
                app.services.remove(&old.service);
            }
        }
        if let Some(kind) = app.types.get_mut(&old.kind) {
            kind.containers.remove(&address);
            if kind.numbers.get(&old.number) == Some(&address) {
                kind.numbers.remove(&old.number);
                let others = kind.containers.values();
                if let Some(heir) = others.filter(|c| c.number == old.number).min_by_key(|c| (c.rev, c.node)) {
                    kind.numbers.insert(old.number, heir.address);
                }
            }
            if kind.containers.is_empty() {
                app.types.remove(&old.kind);
            }
        }
        self.forget_if_empty(&old.app);
        Some(old)
    }

    /// Defines an application that has no definition yet: said in this order, and defined first at `since`.
    pub fn define_app(&mut self, order: Order, since: Rev, def: Arc<AppDef>) {
        self.edition = self.edition.wrapping_add(mark(&def.id, "", order));
        let holder = self.namespaces.get(&def.namespace).and_then(|app| self.apps.get(app)?.def.as_ref());
        if holder.is_none_or(|(held, other)| (since, &def.id) < (*held, &other.id)) {
            self.namespaces.insert(def.namespace.clone(), def.id.clone());
        }
        let app = def.id.clone();
        self.apps.entry(app).or_default().def = Some((since, def));
    }

    /// A version of an application was deployed, said in this order.
    pub fn deploy(&mut self, app: Label, version: String, order: Order) {
        self.edition = self.edition.wrapping_add(mark(&app, &version, order));
        let deployed = self.apps.entry(app).or_default().deploys.entry(version).or_insert(order);
        *deployed = (*deployed).max(order);
    }

    fn forget_if_empty(&mut self, id: &Label) {
        let is_empty = |app: &App| app.def.is_none() && app.deploys.is_empty() && app.types.is_empty();
        if self.apps.get(id).is_some_and(is_empty) {
            self.apps.remove(id);
        }
    }

    /// The containers, by address.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Arc<Container>> {
        self.containers.values()
    }

    /// All that is attached: the containers, and then the gateways and stock clients.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.containers.values().chain(self.extras.values())
    }

    /// What is attached at an address.
    pub fn container_at(&self, address: Ipv4Addr) -> Option<&Arc<Container>> {
        self.containers.get(&address).or_else(|| self.extras.get(&address))
    }

    /// What is attached with a key, as its records say: one, unless somebody says another's key.
    pub fn containers_by_key(&self, key: WgPublicKey) -> impl Iterator<Item = &Arc<Container>> {
        let said = self.by_key.range((key, Ipv4Addr::UNSPECIFIED)..=(key, Ipv4Addr::BROADCAST));
        said.filter_map(|(_, address)| self.container_at(*address))
    }

    /// The container that answers to `number` of an application's type.
    pub fn container_numbered(&self, app: &str, kind: &str, number: u32) -> Option<&Arc<Container>> {
        self.containers.get(self.apps.get(app)?.types.get(kind)?.numbers.get(&number)?)
    }

    /// The application of this name, if it has a container here or a definition.
    pub fn app(&self, text: &str) -> Option<&Label> {
        self.apps.get_key_value(text).filter(|(_, app)| app.is_declared()).map(|(id, _)| id)
    }

    /// The type of this name, if the application has a container of it here, or defines a service that is called so.
    pub fn kind(&self, app: &str, text: &str) -> Option<&Label> {
        let app = self.apps.get(app)?;
        let attached = app.types.get_key_value(text).map(|(kind, _)| kind);
        attached.or_else(|| Some(app.def()?.services.get_key_value(text)?.0))
    }

    /// The applications that have a container here or a definition.
    pub fn apps(&self) -> impl Iterator<Item = &Label> {
        self.apps.iter().filter(|(_, app)| app.is_declared()).map(|(id, _)| id)
    }

    /// The types of an application that have a container here; none if the application has none.
    pub fn kinds(&self, app: &str) -> impl Iterator<Item = &Label> {
        self.apps.get(app).into_iter().flat_map(|app| app.types.keys())
    }

    /// The services that an application's containers declare, databases' types among them.
    pub fn attached_services(&self, app: &str) -> impl Iterator<Item = &Label> {
        self.apps.get(app).into_iter().flat_map(|app| app.services.keys())
    }

    /// The containers of one type of an application, by address.
    pub fn containers_of(&self, app: &str, kind: &str) -> impl Iterator<Item = &Arc<Container>> {
        let kind = self.apps.get(app).and_then(|app| app.types.get(kind));
        kind.into_iter().flat_map(|kind| kind.containers.values())
    }

    /// The containers of one service of an application, or of a database by its type, by address.
    pub fn containers_serving(&self, app: &str, service: &str) -> impl Iterator<Item = &Arc<Container>> {
        let service = self.apps.get(app).and_then(|app| app.services.get(service));
        service.into_iter().flat_map(BTreeMap::values)
    }

    /// The lowest number that no container of this type holds in view.
    pub fn free_number(&self, app: &str, kind: &str) -> u32 {
        let held = self.apps.get(app).and_then(|app| app.types.get(kind));
        (1..).find(|n| !held.is_some_and(|held| held.numbers.contains_key(n))).unwrap_or(u32::MAX)
    }

    /// What the service file of an application says.
    pub fn definition(&self, app: &str) -> Option<&Arc<AppDef>> {
        self.apps.get(app)?.def.as_ref().map(|(_, def)| def)
    }

    /// The applications' definitions, in the order in which they were defined first; by name where that is the same. Of two that
    /// exclude each other the first one holds.
    pub fn definitions(&self) -> impl Iterator<Item = &Arc<AppDef>> {
        let mut all: Vec<_> = self.apps.values().filter_map(|app| app.def.as_ref()).collect();
        all.sort_by_key(|(since, _)| *since);
        all.into_iter().map(|(_, def)| def)
    }

    /// When an application was defined first, if it is defined.
    pub fn defined_since(&self, app: &str) -> Option<Rev> {
        self.apps.get(app)?.def.as_ref().map(|(since, _)| *since)
    }

    /// The application whose namespace is called so: the one whose definition says it, of several the one that was defined first;
    /// else the application of this id, if it is here without a definition.
    pub fn app_of_namespace(&self, text: &str) -> Option<&Label> {
        let undefined = || self.app(text).filter(|app| self.definition(app.as_str()).is_none());
        self.namespaces.get(text).or_else(undefined)
    }

    /// An application's namespace: what its definition says, else its id; `None` if that is another one's.
    pub fn namespace<'a>(&'a self, app: &'a Label) -> Option<&'a Label> {
        let namespace = self.definition(app.as_str()).map_or(app, |def| &def.namespace);
        (self.app_of_namespace(namespace.as_str()) == Some(app)).then_some(namespace)
    }

    /// When this version of an application was deployed last, if it was.
    pub fn deployed(&self, app: &str, version: &str) -> Option<Order> {
        self.apps.get(app)?.deploys.get(version).copied()
    }

    /// The versions of an application that were deployed, the latest last.
    pub fn deploys(&self, app: &str) -> Vec<(Order, &str)> {
        let deploys = self.apps.get(app).into_iter().flat_map(|app| &app.deploys);
        let mut deploys: Vec<_> = deploys.map(|(version, order)| (*order, version.as_str())).collect();
        deploys.sort_unstable();
        deploys
    }
}

/// What something that is said of an application adds to its network's edition: of one origin no two have one rev, so the
/// order stands for the words, which may be long.
fn mark(app: &Label, version: &str, (rev, origin): Order) -> u32 {
    let mut hasher = blake3::Hasher::new();
    // No label has a NUL.
    hasher.update(app.as_str().as_bytes()).update(&[0]).update(&rev.0.to_be_bytes()).update(&origin.0);
    let hash = hasher.update(version.as_bytes()).finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl App {
    fn def(&self) -> Option<&AppDef> {
        self.def.as_ref().map(|(_, def)| &**def)
    }

    /// Whether names of it exist: that versions of it were deployed once makes none.
    fn is_declared(&self) -> bool {
        self.def.is_some() || !self.types.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{State, testing};
    use crate::model::EXTRAS;

    fn container(last: u8, number: u32, rev: u64) -> Arc<Container> {
        let made = testing::container(Ipv4Addr::new(10, 240, 0, last));
        Arc::new(Container { node: NodeId([last; 32]), number, rev: Rev(rev), ..made })
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
    fn a_gateway_is_a_member_without_a_name() {
        let mut network = network();
        let gateway = Container { address: EXTRAS.first(), ..(*container(1, 1, 1)).clone() };
        let key = gateway.public_key;
        network.insert_container(Arc::new(gateway));
        assert_eq!((network.attachments().count(), network.containers().len(), network.apps().count()), (1, 0, 0));
        assert!(network.containers_by_key(key).map(|gateway| gateway.address).eq([EXTRAS.first()]));
        assert_eq!((network.free_number("shop", "web"), network.edition()), (1, 0));
        assert!(network.remove_container(EXTRAS.first()).is_some());
        assert_eq!((network.attachments().count(), network.containers_by_key(key).count()), (0, 0));
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
        assert_eq!((network.apps().count(), network.free_number("shop", "web")), (1, 2));
        network.remove_container(only.address);
        assert_eq!((network.apps().count(), network.kinds("shop").count()), (0, 0));
        assert_eq!(network.containers_by_key(only.public_key).count(), 0);
    }
}

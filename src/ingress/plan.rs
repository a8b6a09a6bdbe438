//! What is to be reached from outside on one node, and by which containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::membership::{Container, Membership, Network, State};
use crate::model::{AppDef, Label, NetworkId, NodeId, PortDef, ServerPattern, ServiceDef, Vni};
use crate::services::{Asker, Front, Ledger, Service, claims};

/// The addresses of services on loopback: 127.240.0.1 to 127.240.255.254.
const LOOPBACK_FIRST: u32 = Ipv4Addr::new(127, 240, 0, 1).to_bits();
const LOOPBACK_COUNT: u32 = (1 << 16) - 2;
/// Containers that stand in for another one. Each that does not answer costs its time limit.
const SPARES_MAX: usize = 4;

/// A service, wherever it is named to people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub network: NetworkId,
    pub app: Label,
    pub service: Label,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub network: NetworkId,
    pub vni: Vni,
    pub at: SocketAddrV4,
}

/// What nginx speaks to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Web {
    Http,
    Https,
}

/// What a host port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

/// A port of the node on which nginx takes requests for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub service: ServiceKey,
    pub web: Web,
    pub port: NonZeroU16,
    /// For which server names; for all that nobody else has if there are none.
    pub names: Vec<ServerPattern>,
    /// Who gets new requests: the containers of the latest version that has a ready one, by address.
    pub chosen: Vec<Endpoint>,
}

/// A port of the node that leads straight to the one container of a service that this node hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub service: ServiceKey,
    pub transport: Transport,
    pub port: NonZeroU16,
    /// The one, unless none is ready.
    pub to: Vec<Endpoint>,
    /// Those that go on with the datagrams' sessions that they have: they drain, or another version is live.
    pub kept: Vec<Endpoint>,
}

/// A TCP port on loopback that leads to a service's containers on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoopbackPort {
    pub service: ServiceKey,
    /// The service's own.
    pub address: Ipv4Addr,
    pub port: NonZeroU16,
    /// Whether 127.0.0.1 leads there too, as long as nobody else has the port.
    pub on_localhost: bool,
    pub to: Vec<Endpoint>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: Vec<Route>,
    /// The container ports behind the routes, of any version and state: requests may be under way there.
    pub endpoints: BTreeSet<Endpoint>,
    pub host_ports: Vec<HostPort>,
    pub loopback: Vec<LoopbackPort>,
    /// Claims that are not served because another one stands against them, in words.
    pub disputes: Vec<String>,
}

impl Plan {
    /// What `node` serves. Of two claims that exclude each other that of the network with the lower VNI is served, and within a
    /// network that of the application that was defined first: nobody gets before another by saying his anew, and all nodes agree.
    pub fn of(membership: &Membership, node: NodeId) -> Self {
        let mut plan = Self::default();
        // Networks count their definitions each for itself: their counts say nothing about each other.
        let mut networks: Vec<_> = membership.networks().collect();
        networks.sort_by_key(|network| (network.vni, &network.id));
        let defs = || networks.iter().flat_map(|network| network.definitions().map(move |def| (*network, def)));

        let mut ledger = Ledger::default();
        for (network, def) in defs() {
            for claim in claims(def) {
                if let Err(dispute) = ledger.enter(claim, ()) {
                    let of = network.display_name();
                    plan.disputes
                        .push(format!("{dispute}; that of application {} of network {of} is not served", def.id));
                    continue;
                }
                let Some(service) = Of::new(membership, network, def, claim.service) else { continue };
                match claim.front {
                    Front::Http => plan.route(&service, Web::Http, claim.container, claim.port, claim.names),
                    Front::Https => plan.route(&service, Web::Https, claim.container, claim.port, claim.names),
                    Front::Tcp => plan.host_port(&service, node, Transport::Tcp, claim.container, claim.port),
                    Front::Udp => plan.host_port(&service, node, Transport::Udp, claim.container, claim.port),
                }
            }
        }
        plan.put_on_loopback(membership, node, defs());
        plan
    }

    fn route(&mut self, of: &Of<'_>, web: Web, container: NonZeroU16, port: NonZeroU16, names: &[ServerPattern]) {
        let endpoint = |c: &Arc<Container>| of.endpoint(c, container);
        self.endpoints.extend(of.service.containers(of.network).map(endpoint));
        let chosen = of.latest().iter().map(|c| endpoint(c)).collect();
        self.routes.push(Route { service: of.key.clone(), web, port, names: names.to_vec(), chosen });
    }

    /// For each container that gets new requests of a route, who takes one in its place when it does not: some of the others, the
    /// next ones by address.
    pub fn spares(&self) -> BTreeMap<&Endpoint, Vec<&Endpoint>> {
        let mut spares = BTreeMap::new();
        for chosen in self.routes.iter().map(|route| &route.chosen) {
            for (at, endpoint) in chosen.iter().enumerate() {
                let others = || chosen[at + 1..].iter().chain(&chosen[..at]).take(SPARES_MAX).collect();
                spares.entry(endpoint).or_insert_with(others);
            }
        }
        spares
    }

    fn host_port(&mut self, of: &Of<'_>, node: NodeId, transport: Transport, container: NonZeroU16, port: NonZeroU16) {
        let mut here = of.latest();
        here.retain(|container| container.node == node);
        let to: Vec<_> =
            here.iter().min_by_key(|one| one.rev).map(|one| of.endpoint(one, container)).into_iter().collect();
        let had = |one: &&Arc<Container>| one.node == node && one.state != State::Starting;
        let others = of.service.containers(of.network).filter(had);
        let others = others.map(|one| of.endpoint(one, container)).filter(|other| !to.contains(other));
        let kept: Vec<_> = others.filter(|_| transport == Transport::Udp).collect();
        // A stream that is open lives on without a listener; a session does not.
        if !to.is_empty() || !kept.is_empty() {
            self.host_ports.push(HostPort { service: of.key.clone(), transport, port, to, kept });
        }
    }

    /// The ports that services keep to themselves, but for those that are somebody's on all addresses.
    fn put_on_loopback<'a>(
        &mut self,
        membership: &Membership,
        node: NodeId,
        defs: impl Iterator<Item = (&'a Arc<Network>, &'a Arc<AppDef>)>,
    ) {
        let mut addresses: BTreeMap<Ipv4Addr, ServiceKey> = BTreeMap::new();
        let mut localhost: BTreeSet<NonZeroU16> = BTreeSet::new();
        // Who listens on all addresses shares the port with no other one.
        let web = self.routes.iter().map(|route| route.port);
        let tcp = self.host_ports.iter().filter(|port| port.transport == Transport::Tcp).map(|port| port.port);
        let taken: BTreeSet<_> = web.chain(tcp).collect();
        for (network, def) in defs {
            for (name, service) in &def.services {
                let Some(of) = Of::new(membership, network, def, name) else { continue };
                let mut here = of.latest();
                here.retain(|container| container.node == node);
                let is_free = |port: &&PortDef| is_internal(port) && !taken.contains(&port.container);
                let internal: Vec<_> = service.ports.iter().filter(is_free).collect();
                if here.is_empty() || internal.is_empty() {
                    continue;
                }
                let address = free_address(&of.key, &addresses);
                addresses.insert(address, of.key.clone());
                for port in internal {
                    self.loopback.push(LoopbackPort {
                        service: of.key.clone(),
                        address,
                        port: port.container,
                        on_localhost: localhost.insert(port.container),
                        to: here.iter().map(|c| of.endpoint(c, port.container)).collect(),
                    });
                }
            }
        }
    }
}

/// Whether a service has a port of the host, so that a node can host one container of it only.
pub fn holds_host_port(service: &ServiceDef) -> bool {
    service.ports.iter().any(|port| port.tcp.is_some() || port.udp.is_some())
}

/// Whether a port is to be reached on the private network and loopback only.
fn is_internal(port: &PortDef) -> bool {
    let PortDef { container: _, http, https, tcp, udp, name: _ } = port;
    [http, https, tcp, udp].iter().all(|outside| outside.is_none())
}

/// The address on loopback that follows from the service's name, or the next one that nobody has: on one node it stays the same
/// as long as the services before it do.
fn free_address(key: &ServiceKey, taken: &BTreeMap<Ipv4Addr, ServiceKey>) -> Ipv4Addr {
    let hash = blake3::hash(key.to_string().as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    let first = u32::from_be_bytes([a, b, c, d]) % LOOPBACK_COUNT;
    let mut candidates = (0..LOOPBACK_COUNT).map(|n| Ipv4Addr::from(LOOPBACK_FIRST + (first + n) % LOOPBACK_COUNT));
    // Services beyond 65,534 on one node would share the last one.
    candidates.find(|address| !taken.contains_key(address)).unwrap_or(Ipv4Addr::from(LOOPBACK_FIRST))
}

/// A service with its surroundings.
struct Of<'a> {
    membership: &'a Membership,
    network: &'a Network,
    service: Service<'a>,
    key: ServiceKey,
}

impl<'a> Of<'a> {
    fn new(membership: &'a Membership, network: &'a Network, def: &'a AppDef, name: &'a Label) -> Option<Self> {
        let service = Service::find(network, def.id.as_str(), name.as_str())?;
        let key = ServiceKey { network: network.id.clone(), app: def.id.clone(), service: name.clone() };
        Some(Self { membership, network, service, key })
    }

    /// The ready containers of the latest version. The outside has no version, so it gets what one without a version gets.
    fn latest(&self) -> Vec<&'a Arc<Container>> {
        let mut containers = self.service.ready(self.membership, self.network);
        let outside = Asker { node: NodeId([0; 32]), app: self.service.app, version: None };
        self.service.of_version(self.network, outside, &mut containers);
        containers
    }

    fn endpoint(&self, container: &Container, port: NonZeroU16) -> Endpoint {
        let at = SocketAddrV4::new(container.address, port.get());
        Endpoint { network: self.network.id.clone(), vni: self.network.vni, at }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.app, self.service)
    }
}

impl fmt::Display for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Endpoint {
    /// A file name that no other endpoint has.
    pub fn file_name(&self) -> String {
        format!("{:06x}-{:08x}-{}", self.vni.get(), self.at.ip().to_bits(), self.at.port())
    }
}

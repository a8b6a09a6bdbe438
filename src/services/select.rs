//! Which containers a service means to a caller.
//!
//! The steps of a choice are functions of their own, each of which narrows the list that the one before left, and says
//! what it went by: [`Service::find`], [`Service::ready`], [`Service::of_version`], [`Service::close`]. An answer takes them
//! in this order, and so does its explanation. What is left is in the order of the addresses; whose turn it is, is no
//! matter of this room.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::membership::{Container, Membership, Network, Order};
use crate::model::{DEFAULT_SERVER, DatabaseDef, DnsBehaviour, Label, LoadBalancing, NodeId, PortDef, ServiceDef};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Where it runs.
    pub node: NodeId,
    pub app: &'a Label,
    pub version: Option<&'a str>,
}

/// A service of an application, or a server of one of its databases.
#[derive(Debug, Clone, Copy)]
pub struct Service<'n> {
    pub app: &'n Label,
    /// Its name, or the database's type.
    pub name: &'n Label,
    pub what: What<'n>,
}

#[derive(Debug, Clone, Copy)]
pub enum What<'n> {
    /// With what the service file says of it, if that names it.
    Service(Option<&'n ServiceDef>),
    /// A server by its name.
    Database(Option<&'n DatabaseDef>, &'n str),
}

/// By what version the containers were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByVersion<'a> {
    /// The caller's own.
    Own(&'a str),
    /// The latest, which is this one, and why not the caller's.
    Latest(Option<&'a str>, Why),
    /// None is ready.
    None,
}

/// Why a caller gets the latest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NonVersioned,
    Database,
    OtherApp,
    CallerUnversioned,
    NoneOfOwn,
}

/// By what place the containers were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByPlace {
    /// The service does not ask for it.
    Anywhere,
    /// Those on the caller's node.
    Near,
    /// All, since there is none on the caller's node.
    NoneNear,
}

impl<'n> Service<'n> {
    /// The service or database that an application's containers call `name`, if its service file or a container declares it.
    pub fn find(network: &'n Network, app: &str, name: &str) -> Option<Self> {
        let app = network.app(app)?;
        Self::named(network, app, name).or_else(|| {
            // `TYPE-SERVER`; either part may have a hyphen of its own, and the longest type that exists is meant.
            let hyphens = name.rmatch_indices('-').map(|(at, _)| at);
            hyphens.into_iter().find_map(|at| Self::server(network, app, &name[..at], &name[at + 1..]))
        })
    }

    fn named(network: &'n Network, app: &'n Label, name: &str) -> Option<Self> {
        let def = network.definition(app.as_str());
        if let Some((name, database)) = def.and_then(|def| def.databases.get_key_value(name)) {
            return Some(Self { app, name, what: What::Database(Some(database), database.primary.as_str()) });
        }
        if let Some((name, service)) = def.and_then(|def| def.services.get_key_value(name)) {
            return Some(Self { app, name, what: What::Service(Some(service)) });
        }
        let first = network.containers_serving(app.as_str(), name).next()?;
        let what = if first.server.is_some() { What::Database(None, DEFAULT_SERVER) } else { What::Service(None) };
        Some(Self { app, name: &first.service, what })
    }

    fn server(network: &'n Network, app: &'n Label, kind: &str, server: &str) -> Option<Self> {
        let def = network.definition(app.as_str());
        if let Some((name, database)) = def.and_then(|def| def.databases.get_key_value(kind)) {
            let (server, _) = database.servers.get_key_value(server)?;
            return Some(Self { app, name, what: What::Database(Some(database), server.as_str()) });
        }
        let mut containers = network.containers_serving(app.as_str(), kind);
        let one = containers.find(|container| container.server.as_ref().is_some_and(|s| s.as_str() == server))?;
        Some(Self { app, name: &one.service, what: What::Database(None, one.server.as_ref()?.as_str()) })
    }

    /// The services and databases of an application, by the names that they answer to.
    pub fn all(network: &'n Network, app: &str) -> Vec<(String, Self)> {
        let def = network.definition(app);
        let mut names: Vec<String> = network.attached_services(app).map(ToString::to_string).collect();
        let servers = network.attached_services(app).flat_map(|service| {
            let containers = network.containers_serving(app, service.as_str());
            containers.filter_map(move |container| Some(format!("{service}-{}", container.server.as_ref()?)))
        });
        names.extend(servers);
        if let Some(def) = def {
            names.extend(def.services.keys().map(ToString::to_string));
            for (kind, database) in &def.databases {
                names.push(kind.to_string());
                names.extend(database.servers.keys().map(|server| format!("{kind}-{server}")));
            }
        }
        names.sort_unstable();
        names.dedup();
        let found = names.into_iter().filter_map(|name| {
            let service = Self::find(network, app, &name)?;
            Some((name, service))
        });
        found.collect()
    }

    /// Its whole name: a database's server is `TYPE-SERVER`.
    pub fn full_name(&self) -> Cow<'n, str> {
        match self.what {
            What::Service(_) => Cow::Borrowed(self.name.as_str()),
            What::Database(_, server) => Cow::Owned(format!("{}-{server}", self.name)),
        }
    }

    pub fn dns_behaviour(&self) -> DnsBehaviour {
        match self.what {
            What::Service(def) => def.map(|def| def.dns_behaviour).unwrap_or_default(),
            What::Database(..) => DnsBehaviour::NonVersioned,
        }
    }

    pub fn load_balancing(&self) -> LoadBalancing {
        match self.what {
            What::Service(def) => def.map(|def| def.load_balancing).unwrap_or_default(),
            What::Database(..) => LoadBalancing::default(),
        }
    }

    /// The containers that serve it, whatever their state, by address.
    pub fn containers(&self, network: &'n Network) -> impl Iterator<Item = &'n Arc<Container>> + use<'n> {
        let server = match self.what {
            What::Service(_) => None,
            What::Database(_, server) => Some(server),
        };
        let containers = network.containers_serving(self.app.as_str(), self.name.as_str());
        containers.filter(move |container| container.server.as_ref().map(Label::as_str) == server)
    }

    /// Those of them that are to be found.
    pub fn ready(&self, membership: &Membership, network: &'n Network) -> Vec<&'n Arc<Container>> {
        self.containers(network).filter(|container| membership.is_found(container)).collect()
    }

    /// Leaves the containers of one version: the caller's own, or the latest.
    pub fn of_version<'a>(
        &self,
        network: &'n Network,
        asker: Asker<'a>,
        containers: &mut Vec<&'n Arc<Container>>,
    ) -> ByVersion<'a>
    where
        'n: 'a,
    {
        let why = match (asker.version, self.what, self.dns_behaviour()) {
            (_, What::Database(..), _) => Why::Database,
            (_, _, DnsBehaviour::NonVersioned) => Why::NonVersioned,
            _ if asker.app != self.app => Why::OtherApp,
            (None, _, _) => Why::CallerUnversioned,
            (Some(own), _, _) => {
                if containers.iter().any(|container| container.version.as_deref() == Some(own)) {
                    containers.retain(|container| container.version.as_deref() == Some(own));
                    return ByVersion::Own(own);
                }
                Why::NoneOfOwn
            }
        };
        if containers.is_empty() {
            return ByVersion::None;
        }
        let versions: BTreeSet<_> = containers.iter().map(|container| container.version.as_deref()).collect();
        let latest = self.latest(network, &versions);
        containers.retain(|container| container.version.as_deref() == latest);
        ByVersion::Latest(latest, why)
    }

    /// The latest of these versions: the one that was deployed last, else the one whose first container was attached last. Having
    /// none is the earliest.
    fn latest<'v>(&self, network: &Network, versions: &BTreeSet<Option<&'v str>>) -> Option<&'v str> {
        let app = self.app.as_str();
        let mut named = versions.iter().copied().flatten();
        // Most often there is one, and nothing to decide.
        if versions.len() <= 1 {
            return named.next();
        }
        let deployed = named.clone().filter_map(|version| Some((network.deployed(app, version)?, version)));
        if let Some((_, latest)) = deployed.max() {
            return Some(latest);
        }
        // Of the whole application, so that its services agree. In one pass: there may be as many versions as containers.
        let mut first: BTreeMap<&str, Order> = BTreeMap::new();
        for container in network.kinds(app).flat_map(|kind| network.containers_of(app, kind.as_str())) {
            if let Some(version) = container.version.as_deref() {
                let order = (container.rev, container.node);
                first.entry(version).and_modify(|first| *first = order.min(*first)).or_insert(order);
            }
        }
        named.max_by_key(|version| first.get(version))
    }

    /// Leaves the containers on the caller's node, if the service is to be answered so and there are any.
    pub fn close(&self, asker: Asker<'_>, containers: &mut Vec<&'n Arc<Container>>) -> ByPlace {
        if self.load_balancing() != LoadBalancing::Closest {
            return ByPlace::Anywhere;
        }
        if !containers.iter().any(|container| container.node == asker.node) {
            return ByPlace::NoneNear;
        }
        containers.retain(|container| container.node == asker.node);
        ByPlace::Near
    }

    /// The container port behind `_NAME._PROTOCOL`: by the name that the service file gives it; `http` is also the name of what
    /// nginx takes HTTP or HTTPS for; a database's is its type.
    pub fn port(&self, name: &str, protocol: &str) -> Option<NonZeroU16> {
        match self.what {
            What::Database(Some(def), server) => {
                let port = def.servers.get(server)?;
                (name == self.name.as_str() && protocol == "tcp").then_some(*port)
            }
            What::Service(Some(def)) => {
                def.ports.iter().find(|port| answers(port, name, protocol)).map(|p| p.container)
            }
            What::Database(None, _) | What::Service(None) => None,
        }
    }

    /// Whether it declares a named port of this protocol.
    pub fn has_port(&self, protocol: &str) -> bool {
        match self.what {
            What::Database(def, _) => def.is_some() && protocol == "tcp",
            What::Service(def) => def.is_some_and(|def| {
                let named =
                    |port: &PortDef| port.name.as_ref().is_some_and(|name| answers(port, name.as_str(), protocol));
                def.ports.iter().any(|port| answers(port, "http", protocol) || named(port))
            }),
        }
    }
}

/// Whether a port is called so. One that is mapped as UDP alone speaks UDP; any other speaks TCP.
fn answers(port: &PortDef, name: &str, protocol: &str) -> bool {
    let speaks = match protocol {
        "tcp" => port.udp.is_none() || port.tcp.is_some() || port.http.is_some() || port.https.is_some(),
        "udp" => port.udp.is_some(),
        _ => false,
    };
    let is_http = protocol == "tcp" && name == "http" && (port.http.is_some() || port.https.is_some());
    speaks && (is_http || port.name.as_ref().is_some_and(|own| own.as_str() == name))
}

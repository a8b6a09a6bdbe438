//! Addresses and routes.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Existing, Netlink};

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    /// Whether hosts elsewhere can use it: not one of the host's or the link's own.
    pub global: bool,
    /// Whether it is in use: neither still being checked for duplicates, nor found to be one, nor running out.
    pub usable: bool,
    /// Whether it is one of the random ones that change every day (RFC 8981).
    pub temporary: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpAddr,
    pub prefix_len: u8,
    pub to: RouteTo,
    pub metric: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    /// Out of an interface, perhaps to a router there, perhaps with a source address of its own.
    Link { ifindex: u32, gateway: Option<IpAddr>, source: Option<IpAddr> },
    /// Nowhere: senders are told so at once.
    Unreachable,
    /// Something else, which this file only reads.
    Other,
}

impl Netlink {
    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| match message {
            RouteNetlinkMessage::NewAddress(address) => InterfaceAddress::of(&address),
            _ => None,
        })
    }

    /// Puts `address` on an interface. That it is there already is no error.
    pub fn add_address(&mut self, ifindex: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_len;
        message.header.index = ifindex;
        message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
        if address.is_ipv6() {
            // An address of a new namespace is nobody else's; checking for duplicates would delay it by seconds.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes `address` off an interface.
    pub fn remove_address(&mut self, address: &InterfaceAddress) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.address);
        message.header.prefix_len = address.prefix_len;
        message.header.index = address.ifindex;
        message.attributes = vec![AddressAttribute::Local(address.address)];
        self.change(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// The routes of the main table, of both families.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            routes.extend(self.dump(RouteNetlinkMessage::GetRoute(message), |message| match message {
                RouteNetlinkMessage::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => {
                    Some(Route::from(route))
                }
                _ => None,
            })?);
        }
        Ok(routes)
    }

    /// Adds a route to the main table.
    pub fn add_route(&mut self, route: &Route, existing: Existing) -> io::Result<()> {
        let flags = match existing {
            Existing::Refuse => NLM_F_EXCL,
            Existing::Replace => NLM_F_REPLACE,
        };
        self.change(RouteNetlinkMessage::NewRoute(route.message()?), NLM_F_CREATE | flags)
    }

    /// Removes a route from the main table.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(route.message()?), 0)
    }
}

impl Route {
    fn message(&self) -> io::Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination);
        message.header.destination_prefix_length = self.prefix_len;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.attributes =
            vec![RouteAttribute::Destination(address(self.destination)), RouteAttribute::Priority(self.metric)];
        match &self.to {
            RouteTo::Link { ifindex, gateway, source } => {
                message.header.kind = RouteType::Unicast;
                if gateway.is_none() {
                    message.header.scope = RouteScope::Link;
                }
                message.attributes.push(RouteAttribute::Oif(*ifindex));
                message.attributes.extend(gateway.map(|a| RouteAttribute::Gateway(address(a))));
                message.attributes.extend(source.map(|a| RouteAttribute::PrefSource(address(a))));
            }
            RouteTo::Unreachable => message.header.kind = RouteType::Unreachable,
            RouteTo::Other => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(message)
    }
}

impl From<RouteMessage> for Route {
    fn from(message: RouteMessage) -> Self {
        let unspecified: IpAddr = match message.header.address_family {
            AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        let (mut destination, mut metric) = (unspecified, 0);
        let (mut interface, mut gateway, mut source) = (None, None, None);
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => destination = ip(&a).unwrap_or(unspecified),
                RouteAttribute::Gateway(a) => gateway = ip(&a),
                RouteAttribute::PrefSource(a) => source = ip(&a),
                RouteAttribute::Oif(index) => interface = Some(index),
                RouteAttribute::Priority(priority) => metric = priority,
                _ => {}
            }
        }
        let to = match (message.header.kind, interface) {
            (RouteType::Unicast, Some(ifindex)) => RouteTo::Link { ifindex, gateway, source },
            (RouteType::Unreachable, _) => RouteTo::Unreachable,
            _ => RouteTo::Other,
        };
        Self { destination, prefix_len: message.header.destination_prefix_length, to, metric }
    }
}

impl InterfaceAddress {
    fn of(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut remote, mut flags) = (None, None, AddressFlags::empty());
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link `Address` is the other end, `Local` this one.
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => remote = Some(*a),
                AddressAttribute::Flags(f) => flags = *f,
                _ => {}
            }
        }
        let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        Some(Self {
            ifindex: message.header.index,
            address: local.or(remote)?,
            prefix_len: message.header.prefix_len,
            global: message.header.scope == AddressScope::Universe,
            usable: !flags.intersects(unusable),
            // The kernel's number for "temporary" is, for IPv4, "secondary".
            temporary: message.header.family == AddressFamily::Inet6 && flags.contains(AddressFlags::Secondary),
        })
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

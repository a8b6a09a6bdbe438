//! What a name means to a container, and what the containers' own names are.
//!
//! A name is declared while a container holds it, ready or draining. A declared name and everything between it and
//! its zone exists, and says "no such data" rather than "no such name" where it owns nothing of the type asked for.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use hickory_proto::rr::Name;

use crate::membership::{Container, Network};
use crate::model::{CONTAINERS, Label, NetworkId};
use crate::services::Service;

use super::policy::{self, SERVICES_LABEL, Suffix};
use super::zone::{PRIVATE_ZONE, Zone};

/// The type that an application's bare name leads to.
const DEFAULT_KIND: &str = "web";

/// In whose eyes a name means something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'n> {
    pub(super) network: &'n Network,
    /// The caller's application.
    pub(super) app: &'n Label,
    /// Below which domains this node answers short names.
    pub(super) suffixes: &'n [Suffix],
}

/// What a name means in the eyes of one caller.
#[derive(Debug)]
pub(super) enum Meaning<'n> {
    /// It is no private name.
    Foreign,
    /// There is no such name in this zone. A single label is in none.
    Missing(Option<Zone>),
    Existing(Zone, Existing<'n>),
}

/// A name that exists.
#[derive(Debug)]
pub(super) enum Existing<'n> {
    /// The zone itself.
    Apex,
    /// It is there only because of the names below it.
    Ancestor,
    /// The containers of an application's type; there may be none, or none ready.
    Type(&'n Label, &'n str),
    /// One container by its number.
    Container(&'n Arc<Container>),
    /// One container by its address, in the reverse zone.
    Address(&'n Arc<Container>),
    /// A service or a database, by a short name.
    Service(Service<'n>),
    /// A named port of one.
    Port(Service<'n>, NonZeroU16),
    /// The list of an application's services.
    Services(&'n Label),
    /// The list of the network's namespaces.
    Apps,
}

/// A container's own name, `N.TYPE.APP.NETWORK.private-network.internal`, without a dot at its end.
pub fn hostname(container: &Container, network: &NetworkId) -> String {
    let Container { number, kind, app, .. } = container;
    format!("{number}.{kind}.{app}.{network}.{PRIVATE_ZONE}")
}

/// The names of an application's containers, absolute with a dot at their end: the application's, then of each type the
/// type's and each number's.
pub fn domain_names(network: &Network, app: &str) -> Vec<String> {
    let mut names = Vec::new();
    let network_id = &network.id;
    if network.kinds(app).any(|kind| kind.as_str() == DEFAULT_KIND) {
        names.push(format!("{app}.{network_id}.{PRIVATE_ZONE}."));
    }
    for kind in network.kinds(app) {
        names.push(format!("{kind}.{app}.{network_id}.{PRIVATE_ZONE}."));
        let mut numbers: Vec<_> = network.containers_of(app, kind.as_str()).map(|container| container.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        names.extend(numbers.iter().map(|number| format!("{number}.{kind}.{app}.{network_id}.{PRIVATE_ZONE}.")));
    }
    names
}

/// What `name` means to a caller.
pub(super) fn meaning<'n>(scope: Scope<'n>, name: &Name) -> Meaning<'n> {
    let lower = name.to_lowercase();
    // No label of ours is empty, so one that is no text matches nothing.
    let labels: Vec<&str> = lower.iter().map(|label| str::from_utf8(label).unwrap_or("")).collect();
    let Scope { network, app, suffixes } = scope;
    match labels.as_slice() {
        [] => return Meaning::Foreign,
        [below @ .., SERVICES_LABEL, "private-network", "internal"] => {
            return within(Zone::Private, policy::short(network, app.as_str(), below));
        }
        [below @ .., "private-network", "internal"] => return within(Zone::Private, private(network, below)),
        [below @ .., third @ ("0" | "1" | "2" | "3"), "240", "10", "in-addr", "arpa"] => {
            let third = third.as_bytes()[0] - b'0';
            return within(Zone::Reverse(third), reverse(network, third, below));
        }
        _ => {}
    }
    if let Some((suffix, below)) = suffixes.iter().find_map(|suffix| Some((suffix, suffix.strip(&labels)?))) {
        return within(Zone::Last(suffix.label_count()), policy::short(network, app.as_str(), below));
    }
    // A service's short name, and what stands before it, is a zone of its own: there is none above it.
    if let Some(existing) = policy::of_app(network, app, &labels) {
        return Meaning::Existing(Zone::Last(1), existing);
    }
    match labels.as_slice() {
        [before @ .., last] if let Some(app) = policy::bare_namespace(network, last) => match before {
            [] => Meaning::Existing(Zone::Last(1), Existing::Ancestor),
            before => within(Zone::Last(1), policy::of_app(network, app, before)),
        },
        [_] => Meaning::Missing(None),
        labels if policy::is_of_port(network, app, labels) => Meaning::Missing(Some(Zone::Last(1))),
        _ => Meaning::Foreign,
    }
}

fn within(zone: Zone, existing: Option<Existing<'_>>) -> Meaning<'_> {
    match existing {
        Some(existing) => Meaning::Existing(zone, existing),
        None => Meaning::Missing(Some(zone)),
    }
}

/// The name with these labels below `private-network.internal`.
fn private<'n>(network: &'n Network, below: &[&str]) -> Option<Existing<'n>> {
    let (&last, below) = match below.split_last() {
        None => return Some(Existing::Apex),
        Some(split) => split,
    };
    if last != network.id.as_str() && network.name.as_ref().is_none_or(|name| name.as_str() != last) {
        return None;
    }
    match *below {
        [] => Some(Existing::Ancestor),
        [app] => network.app(app).map(|app| Existing::Type(app, DEFAULT_KIND)),
        [kind, app] => {
            let kind = network.kind(app, kind).filter(|kind| !kind.is_number())?;
            Some(Existing::Type(network.app(app)?, kind.as_str()))
        }
        [number, kind, app] => network.container_numbered(app, kind, decimal(number)?).map(Existing::Container),
        _ => None,
    }
}

/// The name with these labels below `K.240.10.in-addr.arpa`.
fn reverse<'n>(network: &'n Network, third: u8, below: &[&str]) -> Option<Existing<'n>> {
    match *below {
        [] => Some(Existing::Apex),
        [last] => {
            let last = if last == "0" { 0 } else { u8::try_from(decimal(last)?).ok()? };
            let address = Ipv4Addr::new(10, 240, third, last);
            network.container_at(address).filter(|_| CONTAINERS.contains(address)).map(Existing::Address)
        }
        _ => None,
    }
}

/// A number from 1 as it stands in a name: without sign and leading zeros.
fn decimal(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

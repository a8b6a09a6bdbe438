//! What a private name means to the containers of one network, and what their names are.
//!
//! A name is declared while a container holds it, ready or draining. A declared name and everything between it and
//! its zone exists, and says "no such data" rather than "no such name" where it owns nothing of the type asked for.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, Record};

use crate::membership::{Container, Network};
use crate::model::{CONTAINERS, Label, NetworkId};

use super::reply::{Rdata, TTL};

/// The zone of all private names.
pub const PRIVATE_ZONE: &str = "private-network.internal";

/// The type that an application's bare name leads to.
const DEFAULT_KIND: &str = "web";
/// How long a stub may believe that there is no such name or data: short, so that a new container is found soon.
const NEGATIVE_TTL: u32 = 5;

/// What a name means in the eyes of one network.
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
}

/// A zone that the resolver answers for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    Private,
    /// The addresses 10.240.K.0 to 10.240.K.255, K below 4.
    Reverse(u8),
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

/// What `name` means to the containers of `network`.
pub(super) fn meaning<'n>(network: &'n Network, name: &Name) -> Meaning<'n> {
    let lower = name.to_lowercase();
    // No label of ours is empty, so one that is no text matches nothing.
    let labels: Vec<&str> = lower.iter().map(|label| str::from_utf8(label).unwrap_or("")).collect();
    match labels.as_slice() {
        [] => Meaning::Foreign,
        [_] => Meaning::Missing(None),
        [below @ .., "private-network", "internal"] => within(Zone::Private, private(network, below)),
        [below @ .., third @ ("0" | "1" | "2" | "3"), "240", "10", "in-addr", "arpa"] => {
            let third = third.as_bytes()[0] - b'0';
            within(Zone::Reverse(third), reverse(network, third, below))
        }
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

impl Zone {
    fn name(self) -> Name {
        let text = match self {
            Self::Private => format!("{PRIVATE_ZONE}."),
            Self::Reverse(third) => format!("{third}.240.10.in-addr.arpa."),
        };
        Name::from_ascii(text).expect("the zones' names are names")
    }

    /// The zone's SOA for an answer without records, living as long as that answer may be kept (RFC 2308 §3).
    pub(super) fn negative_soa(self, edition: u32) -> Record {
        let Rdata(soa) = self.soa(edition);
        Record::from_rdata(self.name(), NEGATIVE_TTL.min(TTL), soa)
    }

    /// Formed like those of other zones that a resolver answers for by itself (RFC 6303 §3).
    pub(super) fn soa(self, edition: u32) -> Rdata {
        let nobody = Name::from_ascii("nobody.invalid.").expect("nobody.invalid is a name");
        // It changes with what the network's names say, and with nothing of another network. Nobody transfers the zone,
        // so it need not count upwards.
        let serial = edition.wrapping_add(1);
        Rdata(RData::SOA(SOA::new(self.name(), nobody, serial, 3600, 1200, 604_800, NEGATIVE_TTL)))
    }

    pub(super) fn ns(self) -> Rdata {
        Rdata(RData::NS(NS(self.name())))
    }
}

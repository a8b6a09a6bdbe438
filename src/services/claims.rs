//! What services claim outside of the private network, and which claims exclude each other.
//!
//! A port of a node speaks one protocol. Of HTTP and HTTPS it can serve many services, each by its server names, and one
//! that takes every other name. Of TCP and UDP it leads to one service.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use crate::model::{AppDef, Label, ServerPattern};

/// How a port of a node is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    Http,
    Https,
    Tcp,
    Udp,
}

/// A service wants a port of the nodes for one of its container ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    pub app: &'a Label,
    pub service: &'a Label,
    pub container: NonZeroU16,
    pub front: Front,
    pub port: NonZeroU16,
    /// The server names that it is for; for all others if there are none.
    pub names: &'a [ServerPattern],
}

/// Why a claim cannot be had: somebody else's stands against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute<'a, P> {
    pub claim: Claim<'a>,
    pub holder: Claim<'a>,
    /// Where the holder's was entered.
    pub place: P,
    pub kind: DisputeKind<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisputeKind<'a> {
    /// One port, two protocols.
    Protocol,
    /// A TCP or UDP port that leads to another service.
    Port,
    /// Both serve every name that nobody else serves.
    Default,
    /// Both serve this name.
    Name(&'a ServerPattern),
    /// One service, with two of its container ports.
    Itself,
}

/// Claims that do not exclude each other, each with the place it comes from.
#[derive(Debug)]
pub struct Ledger<'a, P> {
    tcp: BTreeMap<NonZeroU16, Entry<'a, P>>,
    udp: BTreeMap<NonZeroU16, (Claim<'a>, P)>,
}

#[derive(Debug)]
struct Entry<'a, P> {
    first: (Claim<'a>, P),
    /// Who takes which name; without a name, all others.
    names: BTreeMap<Option<&'a ServerPattern>, (Claim<'a>, P)>,
}

impl<P> Default for Ledger<'_, P> {
    fn default() -> Self {
        Self { tcp: BTreeMap::new(), udp: BTreeMap::new() }
    }
}

impl<'a, P: Copy> Ledger<'a, P> {
    /// Enters a claim.
    ///
    /// # Errors
    /// It excludes one that is entered already, and is left out.
    pub fn enter(&mut self, claim: Claim<'a>, place: P) -> Result<(), Dispute<'a, P>> {
        let against = |(holder, place): (Claim<'a>, P), kind| {
            let itself = holder.app == claim.app && holder.service == claim.service && holder.front == claim.front;
            let kind = if itself { DisputeKind::Itself } else { kind };
            Err(Dispute { claim, holder, place, kind })
        };
        if claim.front == Front::Udp {
            if let Some(held) = self.udp.get(&claim.port) {
                return against(*held, DisputeKind::Port);
            }
            self.udp.insert(claim.port, (claim, place));
            return Ok(());
        }
        let entry =
            self.tcp.entry(claim.port).or_insert_with(|| Entry { first: (claim, place), names: BTreeMap::new() });
        if entry.first.0.front != claim.front {
            return against(entry.first, DisputeKind::Protocol);
        }
        let names = || claim.names.iter().map(Some).chain(claim.names.is_empty().then_some(None));
        for name in names() {
            if let Some(held) = entry.names.get(&name) {
                let kind = match (claim.front, name) {
                    (Front::Tcp, _) => DisputeKind::Port,
                    (_, None) => DisputeKind::Default,
                    (_, Some(name)) => DisputeKind::Name(name),
                };
                return against(*held, kind);
            }
        }
        entry.names.extend(names().map(|name| (name, (claim, place))));
        Ok(())
    }
}

/// All that an application claims.
pub fn claims(def: &AppDef) -> impl Iterator<Item = Claim<'_>> {
    def.services.iter().flat_map(move |(name, service)| {
        service.ports.iter().flat_map(move |ports| {
            let fronts = [
                (Front::Http, ports.http, service.traffic_matches.as_slice()),
                (Front::Https, ports.https, service.traffic_matches.as_slice()),
                (Front::Tcp, ports.tcp, &[]),
                (Front::Udp, ports.udp, &[]),
            ];
            fronts.into_iter().filter_map(move |(front, port, names)| {
                Some(Claim { app: &def.id, service: name, container: ports.container, front, port: port?, names })
            })
        })
    })
}

/// Why a definition cannot stand beside the `others` of its network: each of its claims that one of them excludes.
/// Definitions of the application itself are left out.
pub fn disputes<'a>(def: &'a AppDef, others: impl IntoIterator<Item = &'a AppDef>) -> Vec<Dispute<'a, ()>> {
    let mut ledger = Ledger::default();
    for claim in others.into_iter().filter(|other| other.id != def.id).flat_map(claims) {
        // Two others may exclude each other since parts of the cluster met again: that is between them.
        let _ = ledger.enter(claim, ());
    }
    refused(&mut ledger, claims(def))
}

/// What definitions that stand together exclude of each other: of two, the one that comes first has it.
pub fn disputes_among<'a>(defs: impl IntoIterator<Item = &'a AppDef>) -> Vec<Dispute<'a, ()>> {
    refused(&mut Ledger::default(), defs.into_iter().flat_map(claims))
}

fn refused<'a>(ledger: &mut Ledger<'a, ()>, claims: impl Iterator<Item = Claim<'a>>) -> Vec<Dispute<'a, ()>> {
    claims.filter_map(|claim| ledger.enter(claim, ()).err()).collect()
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One sentence that names both.
impl<P> fmt::Display for Dispute<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, holder, .. } = self;
        let (front, port) = (claim.front, claim.port);
        let is_internal = claim.app == holder.app;
        let whose = |Claim { app, service, .. }: &Claim<'_>| match is_internal {
            true => format!("service {service}"),
            false => format!("service {service} of application {app}"),
        };
        let (mine, theirs) = (whose(claim), whose(holder));
        match &self.kind {
            DisputeKind::Protocol if mine == theirs => {
                write!(f, "port {port} is {} and {front} of {mine}", holder.front)
            }
            DisputeKind::Protocol => write!(f, "port {port} is {front} of {mine} and {} of {theirs}", holder.front),
            DisputeKind::Port => write!(f, "{front} port {port} leads to {mine} and to {theirs}"),
            DisputeKind::Default => write!(f, "{front} port {port} has no traffic_matches in {mine} nor in {theirs}"),
            DisputeKind::Name(name) => write!(f, "{name} on {front} port {port} is of {mine} and of {theirs}"),
            DisputeKind::Itself => {
                let (one, other) = (holder.container, claim.container);
                write!(f, "{front} port {port} of {mine} leads to its container ports {one} and {other}")
            }
        }
    }
}

impl DisputeKind<'_> {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Protocol | Self::Port => "give one of them another port",
            Self::Default => "give one of them traffic_matches, or another port",
            Self::Name(_) => "keep the name in one of them, or give one of them another port",
            Self::Itself => "give one of the container ports another port, or none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PortDef, ServiceDef};

    /// An application with one service, which has the ports http, https, tcp, udp of container ports 1000 and up.
    fn app(id: &str, ports: &[[u16; 4]], names: &[&str]) -> AppDef {
        let mut def = AppDef::new(id.parse().expect("a label"));
        let port = |(container, [http, https, tcp, udp]): (u16, &[u16; 4])| {
            let [http, https, tcp, udp] = [http, https, tcp, udp].map(|port| NonZeroU16::new(*port));
            let container = NonZeroU16::new(container).expect("not 0");
            PortDef { container, http, https, tcp, udp, name: None }
        };
        let traffic_matches = names.iter().map(|name| name.parse().expect("a server name")).collect();
        let ports = (1000..).zip(ports).map(port).collect();
        def.services
            .insert("web".parse().expect("a label"), ServiceDef { ports, traffic_matches, ..ServiceDef::default() });
        def
    }

    fn said(ours: &AppDef, theirs: &AppDef) -> Vec<String> {
        disputes(ours, [theirs]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_share_a_port_by_their_server_names_and_one_of_them_takes_all_others() {
        let named = app("a", &[[80, 443, 0, 0]], &["a.com", "*.a.com"]);
        assert_eq!(said(&named, &app("b", &[[80, 443, 0, 0]], &["b.com", "x.a.com"])), [""; 0]);
        assert_eq!(said(&named, &app("b", &[[80, 443, 0, 0]], &[])), [""; 0]);
        assert_eq!(said(&app("a", &[[80, 0, 0, 0]], &[]), &app("b", &[[8080, 0, 0, 0]], &[])), [""; 0]);
    }

    #[test]
    fn a_name_on_a_port_has_one_service() {
        let said = said(&app("a", &[[80, 0, 0, 0]], &["b.com", "*.c.com"]), &app("b", &[[80, 0, 0, 0]], &["*.c.com"]));
        let both = "service web of application a and of service web of application b";
        assert_eq!(said, [format!("*.c.com on http port 80 is of {both}")]);
        let default = app("a", &[[80, 0, 0, 0]], &[]);
        assert_eq!(disputes(&default, [&app("b", &[[80, 0, 0, 0]], &[])])[0].kind, DisputeKind::Default);
    }

    #[test]
    fn a_port_speaks_one_protocol_but_tcp_and_udp_are_two_worlds() {
        for (ours, theirs, kind) in [
            ([80, 0, 0, 0], [0, 80, 0, 0], Some(DisputeKind::Protocol)),
            ([0, 0, 80, 0], [80, 0, 0, 0], Some(DisputeKind::Protocol)),
            ([0, 0, 25, 0], [0, 0, 25, 0], Some(DisputeKind::Port)),
            ([0, 0, 0, 53], [0, 0, 0, 53], Some(DisputeKind::Port)),
            ([0, 443, 0, 0], [0, 0, 0, 443], None),
            ([0, 0, 53, 0], [0, 0, 0, 53], None),
        ] {
            for (ours, theirs) in [(ours, theirs), (theirs, ours)] {
                // Server names do not help where no names are spoken.
                let (ours, theirs) = (app("a", &[ours], &["a.com"]), app("b", &[theirs], &["b.com"]));
                let kinds: Vec<_> = disputes(&ours, [&theirs]).into_iter().map(|dispute| dispute.kind).collect();
                assert_eq!(kinds, Vec::from_iter(kind.clone()), "{ours:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn a_service_cannot_lead_one_port_to_two_of_its_own() {
        let def = app("a", &[[80, 0, 0, 0], [80, 0, 0, 0], [0, 80, 0, 0]], &["a.com"]);
        let kinds: Vec<_> = disputes(&def, []).into_iter().map(|dispute| dispute.kind).collect();
        assert_eq!(kinds, [DisputeKind::Itself, DisputeKind::Protocol]);
    }

    #[test]
    fn of_applications_that_stand_together_the_first_has_the_port() {
        let [one, two, three] = ["b", "a", "c"].map(|id| app(id, &[[0, 0, 25, 0]], &[]));
        let found = disputes_among([&one, &two, &three]);
        let both: Vec<_> = found.iter().map(|found| (found.claim.app.as_str(), found.holder.app.as_str())).collect();
        assert_eq!(both, [("a", "b"), ("c", "b")]);
        // Between them, and none of a fourth one's business.
        assert_eq!(disputes(&app("d", &[[80, 0, 0, 0]], &[]), [&one, &two]), []);
    }

    #[test]
    fn an_application_is_not_held_up_by_what_it_was_before() {
        assert_eq!(said(&app("a", &[[80, 0, 25, 0]], &[]), &app("a", &[[0, 80, 26, 0]], &[])), [""; 0]);
    }
}

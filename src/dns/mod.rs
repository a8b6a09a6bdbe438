//! Answers the containers' questions for private names: the short names of services, for which it matters who asks;
//! `[[N.]TYPE.]APP.NETWORK.private-network.internal.`; and the way back from an address to its name.
//!
//! [`Resolver::answer`] takes one message and writes at most one; the answer follows from the membership of that moment, so
//! there is no cache that could be stale. What is remembered of a caller is whose turn it is, and whom it stays with. Who
//! asks is the attachment that the query came in on,
//! never its source address. A caller sees its own network only: a name of another one gets the answer of a name that
//! never existed.
//!
//! Any other name is a [`Foreign`] question: whoever has sockets asks an upstream, what it [`Found`] goes into the [`Cache`].
//!
//! This room opens no socket and reads no clock, and no bytes make it panic.

mod cache;
mod explain;
mod foreign;
mod names;
mod policy;
mod reply;
mod request;
mod rotation;
mod sticky;
#[cfg(test)]
mod tests;
mod zone;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::membership::{Container, Membership, Network};
use crate::model::{AttachmentId, Label, LoadBalancing, NetworkId, NodeId};
use crate::services::{Asker, Service};

use names::{Existing, Meaning, Scope};
use reply::{Rdata, Reply};
use request::Request;
use rotation::{Rotation, View};
use sticky::Sticky;

pub use cache::Cache;
pub use explain::{Explanation, explain};
pub use foreign::{Foreign, ForeignKey, Found, Unfit};
pub use names::{domain_names, hostname};
pub use policy::{Suffix, SuffixError};
pub use zone::PRIVATE_ZONE;
use zone::Zone;

/// Who asks: the attachment that the query came in on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub network: NetworkId,
    pub attachment: AttachmentId,
    pub address: Ipv4Addr,
    pub app: Label,
    pub version: Option<String>,
    /// Where it runs.
    pub node: NodeId,
}

impl Caller {
    /// The container as a caller.
    pub fn of(container: &Container, network: &NetworkId) -> Self {
        Self {
            network: network.clone(),
            attachment: container.id,
            address: container.address,
            app: container.app.clone(),
            version: container.version.clone(),
            node: container.node,
        }
    }

    /// Somebody outside of the network who asks through this node: of no application and no version.
    pub fn outside(network: &NetworkId, node: NodeId) -> Self {
        // No application is called as its network is.
        let nobody = network.as_str().parse().expect("an id is a label");
        let (attachment, address) = (AttachmentId([0; 8]), Ipv4Addr::UNSPECIFIED);
        Self { network: network.clone(), attachment, address, app: nobody, version: None, node }
    }

    fn asker(&self) -> Asker<'_> {
        Asker { node: self.node, app: &self.app, version: self.version.as_deref() }
    }
}

/// How a query came in, which bounds its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// At most 512 bytes, with EDNS at most what the caller offers and never above 1232.
    Udp,
    /// At most 65,535 bytes, the two bytes of length not counted.
    Tcp,
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `out` holds the answer.
    Answered,
    /// The name is not private, and the caller's network may ask outside: see [`Foreign`]. `out` holds a refusal, for a node
    /// that forwards nothing.
    Forward,
    /// Nothing is to be sent; `out` is empty.
    Dropped(DropReason),
}

/// Why a query gets no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Shorter than a header, so there is no id to answer to.
    NoHeader,
    /// A response: answering one would let two servers talk for ever.
    Response,
}

/// The resolver of a node.
#[derive(Debug, Default)]
pub struct Resolver {
    suffixes: Vec<Suffix>,
    rotation: Rotation,
    sticky: Sticky,
}

impl Resolver {
    /// A resolver that has answered nothing yet, and answers short names below these domains as well.
    pub fn new(suffixes: Vec<Suffix>) -> Self {
        Self { suffixes, ..Self::default() }
    }

    /// Answers one query of `caller`; what `out` held before is gone.
    pub fn answer(
        &mut self,
        membership: &Membership,
        caller: &Caller,
        (query, transport): (&[u8], Transport),
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Outcome {
        out.clear();
        let request = match Request::decode(query) {
            Ok(request) => request,
            Err(reason) => return Outcome::Dropped(reason),
        };
        let network = membership.network(&caller.network);
        let (reply, outcome) = match (&request.question, request.fault, network) {
            (_, Some(code), _) => (Reply::code(code), Outcome::Answered),
            (None, None, _) => (Reply::code(ResponseCode::FormErr), Outcome::Answered),
            // The caller's network went away under it.
            (_, None, None) => (Reply::code(ResponseCode::ServFail), Outcome::Answered),
            (Some(question), None, Some(network)) => {
                let asked = question.name();
                let soa = |zone: Zone| zone.negative_soa(asked, membership.edition(network));
                let scope = Scope { network, app: &caller.app, suffixes: &self.suffixes };
                match names::meaning(scope, asked) {
                    Meaning::Foreign if network.internal => (Reply::code(ResponseCode::Refused), Outcome::Answered),
                    Meaning::Foreign => (Reply::code(ResponseCode::Refused), Outcome::Forward),
                    Meaning::Missing(zone) => (Reply::missing(zone.map(soa)), Outcome::Answered),
                    Meaning::Existing(zone, Existing::Apex) => {
                        let answers = apex(zone, question, membership.edition(network));
                        let soa = answers.is_empty().then(|| soa(zone));
                        (Reply::existing(answers, soa), Outcome::Answered)
                    }
                    Meaning::Existing(zone, existing) => {
                        let count_max = reply::addresses_max(&request, transport);
                        let mut turns = Turns { rotation: &mut self.rotation, sticky: &mut self.sticky, now };
                        let whole = (membership, &**network, caller);
                        let answers = turns.records(whole, &existing, question.query_type(), count_max);
                        let soa = answers.is_empty().then(|| soa(zone));
                        (Reply::existing(answers, soa), Outcome::Answered)
                    }
                }
            }
        };
        reply.encode(&request, transport, out);
        outcome
    }

    /// Forgets an attachment that is gone.
    pub fn forget(&mut self, attachment: AttachmentId) {
        self.rotation.forget(attachment);
        self.sticky.forget(attachment);
    }
}

/// What a zone's own name owns.
fn apex(zone: Zone, question: &Query, edition: u32) -> Vec<Rdata> {
    match question.query_type() {
        RecordType::SOA => vec![zone.soa(question.name(), edition)],
        RecordType::NS => vec![zone.ns(question.name())],
        RecordType::ANY => vec![reply::any()],
        _ => Vec::new(),
    }
}

/// Whose turn it is.
struct Turns<'r> {
    rotation: &'r mut Rotation,
    sticky: &'r mut Sticky,
    now: Instant,
}

impl Turns<'_> {
    /// The records of one type that an existing name owns; of addresses `count_max` at most.
    fn records(
        &mut self,
        (membership, network, caller): (&Membership, &Network, &Caller),
        existing: &Existing<'_>,
        asked: RecordType,
        count_max: usize,
    ) -> Vec<Rdata> {
        let is_any = asked == RecordType::ANY;
        let any_if = |is: bool| if is { vec![reply::any()] } else { Vec::new() };
        match (existing, asked) {
            // An A or SRV question alone advances the turn: the AAAA that a stub sends beside it must not.
            (Existing::Type(app, kind), RecordType::A) => {
                let mut ready: Vec<_> = ready(membership, network, app, kind).collect();
                self.rotate(caller, View::Type, (app, kind), &mut ready);
                ready.into_iter().take(count_max).map(|c| reply::address(c.address)).collect()
            }
            (Existing::Type(app, kind), _) => any_if(is_any && ready(membership, network, app, kind).next().is_some()),
            (Existing::Container(container), RecordType::A) if membership.is_found(container) => {
                vec![reply::address(container.address)]
            }
            (Existing::Container(container), _) => any_if(is_any && membership.is_found(container)),
            (Existing::Address(container), RecordType::PTR) => {
                reply::pointer(&hostname(container, &network.id)).into_iter().collect()
            }
            (Existing::Address(_), _) => any_if(is_any),
            (Existing::Service(service), RecordType::A) => {
                let chosen = self.chosen((membership, network, caller), service);
                chosen.into_iter().take(count_max).map(|c| reply::address(c.address)).collect()
            }
            (Existing::Port(service, port), RecordType::SRV) => {
                let chosen = self.chosen((membership, network, caller), service);
                chosen.into_iter().filter_map(|c| reply::port(&hostname(c, &network.id), c.address, *port)).collect()
            }
            (Existing::Service(service) | Existing::Port(service, _), _) => {
                any_if(is_any && !service.ready(membership, network).is_empty())
            }
            (Existing::Services(app), RecordType::TXT) => {
                Service::all(network, app.as_str()).iter().map(|(name, _)| reply::text(name)).collect()
            }
            (Existing::Apps, RecordType::TXT) => {
                policy::namespaces(network).into_iter().map(|(namespace, _)| reply::text(namespace.as_str())).collect()
            }
            (Existing::Services(_) | Existing::Apps, _) => any_if(is_any),
            (Existing::Apex | Existing::Ancestor, _) => Vec::new(),
        }
    }

    /// The containers that a service means to the caller, the one whose turn it is first.
    fn chosen<'n>(
        &mut self,
        (membership, network, caller): (&Membership, &'n Network, &Caller),
        service: &Service<'n>,
    ) -> Vec<&'n Arc<Container>> {
        let (asker, name) = (caller.asker(), service.full_name());
        let name = (service.app, &*name);
        let mut containers = service.ready(membership, network);
        service.of_version(network, asker, &mut containers);
        service.close(asker, &mut containers);
        if service.load_balancing() != LoadBalancing::Sticky {
            self.rotate(caller, View::Service, name, &mut containers);
            return containers;
        }
        let ids: Vec<AttachmentId> = containers.iter().map(|container| container.id).collect();
        if ids.is_empty() {
            return containers;
        }
        let (rotation, attachment) = (&mut *self.rotation, caller.attachment);
        let fresh = || {
            ids[(rotation.next(attachment, View::Service, name) as usize).wrapping_add(spread(attachment)) % ids.len()]
        };
        let kept = self.sticky.pick(attachment, name, self.now, &ids, fresh);
        containers.retain(|container| container.id == kept);
        containers
    }

    fn rotate(&mut self, caller: &Caller, view: View, name: (&Label, &str), containers: &mut [&Arc<Container>]) {
        if containers.len() > 1 {
            let turn = self.rotation.next(caller.attachment, view, name);
            let by = turn as usize % containers.len();
            containers.rotate_left(by);
        }
    }
}

/// Where a caller begins, so that not all callers of a service stay with the same container.
fn spread(attachment: AttachmentId) -> usize {
    attachment.0.iter().fold(0, |sum, byte| sum * 31 % 65_521 + usize::from(*byte))
}

/// A type's containers that are to be found.
fn ready<'a>(
    membership: &'a Membership,
    network: &'a Network,
    app: &'a Label,
    kind: &'a str,
) -> impl Iterator<Item = &'a Arc<Container>> {
    network.containers_of(app.as_str(), kind).filter(|container| membership.is_found(container))
}

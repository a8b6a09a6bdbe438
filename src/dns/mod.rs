//! Answers the containers' questions for private names: `[[N.]TYPE.]APP.NETWORK.private-network.internal.` and the
//! way back from an address to its name.
//!
//! [`Resolver::answer`] takes one message and writes at most one; the answer follows from the membership of that moment
//! and from nothing else, so there is no cache that could be stale. Who asks is the attachment that the query came in on,
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
mod reply;
mod request;
mod rotation;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::membership::{Membership, Network};
use crate::model::{AttachmentId, Label, NetworkId};

use names::{Existing, Meaning};
use reply::{Rdata, Reply};
use request::Request;
use rotation::Rotation;

pub use cache::Cache;
pub use explain::{Explanation, explain};
pub use foreign::{Foreign, ForeignKey, Found, Unfit};
pub use names::{PRIVATE_ZONE, domain_names, hostname};

/// Who asks: the attachment that the query came in on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub network: NetworkId,
    pub attachment: AttachmentId,
    pub address: Ipv4Addr,
    pub app: Label,
    pub version: Option<String>,
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

/// The resolver of a node. Its only state is whose turn it is in the order of addresses.
#[derive(Debug, Default)]
pub struct Resolver {
    rotation: Rotation,
}

impl Resolver {
    /// A resolver that has answered nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers one query of `caller`; what `out` held before is gone.
    pub fn answer(
        &mut self,
        membership: &Membership,
        caller: &Caller,
        query: &[u8],
        transport: Transport,
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
            (Some(question), None, Some(network)) => match names::meaning(network, question.name()) {
                Meaning::Foreign if network.internal => (Reply::code(ResponseCode::Refused), Outcome::Answered),
                Meaning::Foreign => (Reply::code(ResponseCode::Refused), Outcome::Forward),
                Meaning::Missing(zone) => {
                    (Reply::missing(zone.map(|zone| zone.negative_soa(membership.edition(network)))), Outcome::Answered)
                }
                Meaning::Existing(zone, existing) => {
                    let count_max = reply::addresses_max(&request, transport);
                    let asked = question.query_type();
                    let answers = self.records((membership, network), caller, &existing, zone, asked, count_max);
                    let soa = answers.is_empty().then(|| zone.negative_soa(membership.edition(network)));
                    (Reply::existing(answers, soa), Outcome::Answered)
                }
            },
        };
        reply.encode(&request, transport, out);
        outcome
    }

    /// Forgets an attachment that is gone.
    pub fn forget(&mut self, attachment: AttachmentId) {
        self.rotation.forget(attachment);
    }

    /// The records of one type that an existing name owns; of addresses `count_max` at most.
    fn records(
        &mut self,
        (membership, network): (&Membership, &Network),
        caller: &Caller,
        existing: &Existing<'_>,
        zone: names::Zone,
        asked: RecordType,
        count_max: usize,
    ) -> Vec<Rdata> {
        match (existing, asked) {
            (Existing::Apex, RecordType::SOA) => vec![zone.soa(membership.edition(network))],
            (Existing::Apex, RecordType::NS) => vec![zone.ns()],
            (Existing::Apex, RecordType::ANY) => vec![reply::any()],
            (Existing::Type(app, kind), RecordType::A) => {
                let mut ready: Vec<_> = ready(membership, network, app, kind).collect();
                // An A question alone advances the turn: the AAAA that a stub sends beside it must not.
                if ready.len() > 1 {
                    let turn = self.rotation.next(caller.attachment, app, kind);
                    let by = turn as usize % ready.len();
                    ready.rotate_left(by);
                }
                ready.into_iter().take(count_max).map(reply::address).collect()
            }
            (Existing::Type(app, kind), RecordType::ANY) if ready(membership, network, app, kind).next().is_some() => {
                vec![reply::any()]
            }
            (Existing::Container(container), RecordType::A) if membership.is_found(container) => {
                vec![reply::address(container.address)]
            }
            (Existing::Container(container), RecordType::ANY) if membership.is_found(container) => vec![reply::any()],
            (Existing::Address(container), RecordType::PTR) => {
                reply::pointer(&hostname(container, &network.id)).into_iter().collect()
            }
            (Existing::Address(_), RecordType::ANY) => vec![reply::any()],
            _ => Vec::new(),
        }
    }
}

/// The addresses of a type's containers that are to be found.
fn ready<'a>(
    membership: &'a Membership,
    network: &'a Network,
    app: &'a Label,
    kind: &'a str,
) -> impl Iterator<Item = Ipv4Addr> + 'a {
    network
        .containers_of(app.as_str(), kind)
        .filter(|container| membership.is_found(container))
        .map(|container| container.address)
}

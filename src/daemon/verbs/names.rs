//! Names as a container sees them: asked, and explained.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

use super::Answer;
use super::look::find_container;
use crate::control::{DnsAnswer, DnsExplanation, DnsRecord, ExitStatus, Failure};
use crate::daemon::forward::{self, HOST_RESOLV_CONF, Upstreams};
use crate::daemon::node::Node;
use crate::dns::{self, Caller, Foreign, Outcome, Transport};
use crate::sys::clock;

fn no_name(name: &str) -> Failure {
    let what = format!("{:?} is no domain name", name.chars().take(120).collect::<String>());
    let why = "a name has at most 255 bytes, each label 1 to 63";
    Failure::new(ExitStatus::Usage, what, why, "peerctl domain-names lists the names of containers")
}

fn question(name: &str, kind: &str) -> Result<Vec<u8>, Failure> {
    let mut parsed = Name::from_ascii(name).map_err(|_| no_name(name))?;
    parsed.set_fqdn(true);
    let asked: RecordType = kind.to_ascii_uppercase().parse().map_err(|_| {
        let what = format!("{:?} is no type of record", kind.chars().take(40).collect::<String>());
        Failure::new(ExitStatus::Usage, what, "it has no such name", "A, AAAA, PTR, SOA, NS, TXT, SRV or ANY")
    })?;
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(parsed, asked));
    message.set_edns(Edns::new());
    message.to_vec().map_err(|_| no_name(name))
}

/// Asks as the container would, by TCP, so that all of a long answer is there. The container's turns in the order of
/// addresses are left as they are.
pub async fn query(node: &Node, name: &str, kind: &str, id: &str) -> Result<Answer, Failure> {
    let membership = node.membership();
    let (network, container) = find_container(&membership, id)?;
    let query = question(name, kind)?;
    let mut out = Vec::new();
    let caller = Caller::of(&container, &network.id);
    let mut resolver = dns::Resolver::new(node.suffixes.clone());
    let outcome = resolver.answer(&membership, &caller, (&query, Transport::Tcp), clock::now(), &mut out);
    if outcome == Outcome::Forward
        && let Some(foreign) = Foreign::decode(&query, Transport::Tcp)
    {
        let found = forward::ask(&Upstreams::of(HOST_RESOLV_CONF), &foreign).await;
        out = found.map_or_else(|| foreign.failure(), |found| foreign.reply(&found, 0));
    }
    let message = Message::from_vec(&out).map_err(|error| {
        Failure::new(ExitStatus::Failure, format_args!("cannot show the answer for {name}"), error, "try it with dig")
    })?;
    let answers = message.answers.iter().map(|record| DnsRecord {
        name: record.name.to_ascii(),
        ttl_s: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
    });
    Ok(Answer::of(DnsAnswer {
        status: status(message.metadata.response_code),
        authoritative: message.metadata.authoritative,
        answers: answers.collect(),
    }))
}

/// The code as dig shows it.
fn status(code: hickory_proto::op::ResponseCode) -> String {
    use hickory_proto::op::ResponseCode as Code;
    match code {
        Code::NoError => "NOERROR".to_owned(),
        Code::NXDomain => "NXDOMAIN".to_owned(),
        Code::ServFail => "SERVFAIL".to_owned(),
        Code::Refused => "REFUSED".to_owned(),
        Code::FormErr => "FORMERR".to_owned(),
        Code::NotImp => "NOTIMP".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

/// Says why a name means what it means to the container.
pub fn explain(node: &Node, name: &str, id: &str) -> Result<Answer, Failure> {
    let membership = node.membership();
    let (network, container) = find_container(&membership, id)?;
    let caller = Caller::of(&container, &network.id);
    let told = dns::explain(&membership, &network, &caller, &node.suffixes, name).ok_or_else(|| no_name(name))?;
    Ok(Answer::of(DnsExplanation { verdict: told.verdict, steps: told.steps }))
}

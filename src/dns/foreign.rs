//! Questions for names that are not ours: how they are asked of an upstream, and how what it says is told to the caller.
//!
//! An upstream sees a question that this node wrote, not the container's bytes; the container sees records that this node
//! has read and written anew.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::Transport;
use super::reply::{EDNS_PAYLOAD_MAX, OPT_LEN, payload_max};
use super::request::Request;

/// How long an answer is kept at most, whatever its records say.
const TTL_MAX: u32 = 24 * 3600;
/// The same for an answer that there is nothing (RFC 2308 §5 proposes 1 to 3 hours).
const NEGATIVE_TTL_MAX: u32 = 3600;

/// A container's question for a name outside.
#[derive(Debug)]
pub struct Foreign {
    request: Request,
    question: Query,
    transport: Transport,
}

/// What makes two questions one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForeignKey {
    /// In lower case.
    name: String,
    asked: RecordType,
    dnssec: bool,
    unchecked: bool,
}

/// What an upstream said.
///
/// It is kept as it came: what its records take in memory once they are read is up to who wrote them.
#[derive(Debug)]
pub struct Found {
    bytes: Box<[u8]>,
    code: ResponseCode,
    is_truncated: bool,
    ttl_s: u32,
}

/// Why an upstream's datagram is not its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it cannot be read")]
    Malformed,
    #[error("it answers something else")]
    NotOurs,
}

impl ForeignKey {
    /// How long it is.
    pub fn len_bytes(&self) -> usize {
        self.name.len()
    }
}

impl Foreign {
    /// Reads a query; `None` unless the resolver has called it [`super::Outcome::Forward`].
    pub fn decode(query: &[u8], transport: Transport) -> Option<Self> {
        let request = Request::decode(query).ok().filter(|request| request.fault.is_none())?;
        let question = request.question.clone()?;
        Some(Self { request, question, transport })
    }

    /// What is asked.
    pub fn key(&self) -> ForeignKey {
        ForeignKey {
            name: self.question.name().to_lowercase().to_ascii(),
            asked: self.question.query_type(),
            dnssec: self.wants_dnssec(),
            unchecked: self.request.metadata.checking_disabled,
        }
    }

    fn wants_dnssec(&self) -> bool {
        self.request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// The question as an upstream gets it.
    pub fn upstream_query(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = true;
        message.metadata.checking_disabled = self.request.metadata.checking_disabled;
        message.add_query(self.question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_PAYLOAD_MAX).set_dnssec_ok(self.wants_dnssec());
        message.set_edns(edns);
        // A question that was read can be written.
        message.to_vec().unwrap_or_default()
    }

    /// The answer for the caller, of something that was found `age_s` seconds ago.
    pub fn reply(&self, found: &Found, age_s: u32) -> Vec<u8> {
        // What was read once can be read again.
        let Ok(said) = Message::from_vec(&found.bytes) else { return self.failure() };
        let mut metadata = self.metadata(found.code);
        // RFC 6840 §5.8: only to those who have shown that they understand it.
        let understood = self.wants_dnssec() || self.request.metadata.authentic_data;
        metadata.authentic_data = understood && said.metadata.authentic_data;
        metadata.truncation = found.is_truncated;
        let mut message = self.message(metadata);
        let aged = |mut records: Vec<Record>| {
            records.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age_s));
            records
        };
        message.answers = aged(said.answers);
        message.authorities = aged(said.authorities);
        message.additionals = aged(said.additionals);
        self.encode(&message)
    }

    /// The answer for the caller when no upstream has one.
    pub fn failure(&self) -> Vec<u8> {
        self.encode(&self.message(self.metadata(ResponseCode::ServFail)))
    }

    fn metadata(&self, code: ResponseCode) -> Metadata {
        let mut metadata = Metadata::response_from_request(&self.request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        metadata
    }

    fn message(&self, metadata: Metadata) -> Message {
        let mut message = Message::new(metadata.id, MessageType::Response, OpCode::Query);
        message.metadata = metadata;
        message.add_query(self.question.clone());
        message
    }

    /// Whole records, never above what the caller can take.
    fn encode(&self, message: &Message) -> Vec<u8> {
        let limit = payload_max(&self.request, self.transport);
        let edns = self.request.edns.is_some();
        let mut out = Vec::new();
        // hickory marks what does not fit as truncated, its own EDNS record included: it gets its room beforehand.
        let body = limit - if edns { OPT_LEN } else { 0 };
        if emit(message, body, &mut out).is_err() {
            out.clear();
            // The question alone always fits.
            let mut bare = self.message(message.metadata);
            bare.metadata.truncation = true;
            if emit(&bare, body, &mut out).is_err() {
                out.clear();
            }
        }
        if edns && !out.is_empty() {
            let mut record = Edns::new();
            record.set_max_payload(EDNS_PAYLOAD_MAX).set_rcode_high(message.metadata.response_code.high());
            record.set_dnssec_ok(self.wants_dnssec());
            append_opt(&record, &mut out);
        }
        out
    }
}

fn emit(message: &Message, limit: u16, out: &mut Vec<u8>) -> Result<(), hickory_proto::ProtoError> {
    let mut encoder = BinEncoder::new(out);
    encoder.set_max_size(limit);
    message.emit(&mut encoder)?;
    // Of a record that did not fit, the beginning is still there.
    encoder.trim();
    Ok(())
}

/// Puts an OPT record behind a whole message and counts it.
fn append_opt(edns: &Edns, message: &mut Vec<u8>) {
    let mut record = Vec::new();
    if edns.emit(&mut BinEncoder::new(&mut record)).is_err() {
        return;
    }
    let count = u16::from_be_bytes([message[10], message[11]]) + 1;
    message[10..12].copy_from_slice(&count.to_be_bytes());
    message.extend_from_slice(&record);
}

impl Found {
    /// Reads what came for the query `id` about `question`.
    ///
    /// # Errors
    /// If it is not the answer to that: another one may still come.
    pub fn decode(bytes: &[u8], id: u16, question: &Foreign) -> Result<Self, Unfit> {
        let message = Message::from_vec(bytes).map_err(|_| Unfit::Malformed)?;
        let header = &message.metadata;
        let [asked] = message.queries.as_slice() else { return Err(Unfit::NotOurs) };
        let ours = header.id == id
            && header.message_type == MessageType::Response
            && header.op_code == OpCode::Query
            && asked.name() == question.question.name()
            && asked.query_type() == question.question.query_type()
            && asked.query_class() == DNSClass::IN;
        if !ours {
            return Err(Unfit::NotOurs);
        }
        let (code, is_truncated) = (header.response_code, header.truncation);
        Ok(Self { bytes: bytes.into(), code, is_truncated, ttl_s: ttl_s(&message) })
    }

    /// Whether there is more than a datagram held.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Whether the upstream could say what there is, or that there is nothing; if not, another one may.
    pub fn is_conclusive(&self) -> bool {
        matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// How long it may be kept, in seconds; 0 if not at all.
    pub fn ttl_s(&self) -> u32 {
        if self.is_conclusive() && !self.is_truncated { self.ttl_s } else { 0 }
    }

    /// How long it is.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// How long what is there, or that nothing is there, holds by the records.
fn ttl_s(message: &Message) -> u32 {
    if message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain {
        // RFC 2308 §5: without an SOA nobody knows how long.
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
            _ => None,
        });
        return soa.unwrap_or(0).min(NEGATIVE_TTL_MAX);
    }
    let records = message.answers.iter().chain(&message.authorities);
    records.map(|record| record.ttl).min().unwrap_or(0).min(TTL_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, NULL, SOA};
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "www.Example.org.";

    fn query(edns: Option<(u16, bool)>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(NAME).expect("a name"), RecordType::A));
        if let Some((payload, dnssec)) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(dnssec);
            message.set_edns(edns);
        }
        message.to_vec().expect("encodes")
    }

    fn foreign(edns: Option<(u16, bool)>, transport: Transport) -> Foreign {
        Foreign::decode(&query(edns), transport).expect("a question")
    }

    fn upstream(question: &Foreign, records: usize, ttl: u32) -> Message {
        let mut message = Message::from_vec(&question.upstream_query(99)).expect("a query");
        message.metadata.message_type = MessageType::Response;
        message.metadata.authentic_data = true;
        let name: Name = NAME.to_lowercase().parse().expect("a name");
        for n in 0..records {
            let address = RData::A(A(Ipv4Addr::from_bits(0xc000_0200 + n as u32)));
            message.add_answer(Record::from_rdata(name.clone(), ttl, address));
        }
        message
    }

    fn found(question: &Foreign, message: &Message) -> Found {
        Found::decode(&message.to_vec().expect("encodes"), 99, question).expect("the answer")
    }

    #[test]
    fn the_caller_gets_the_records_with_its_own_id_letters_and_less_time() {
        let question = foreign(None, Transport::Udp);
        let found = found(&question, &upstream(&question, 2, 300));
        let reply = Message::from_vec(&question.reply(&found, 100)).expect("an answer");
        assert_eq!((reply.id, reply.queries[0].name().to_ascii().as_str()), (7, NAME));
        assert_eq!(reply.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [200, 200]);
        assert!(reply.recursion_available && !reply.authoritative && !reply.truncation && !reply.authentic_data);
        assert_eq!(reply.edns, None);
    }

    #[test]
    fn what_is_too_long_for_the_caller_is_cut_between_records_and_says_so() {
        for (edns, limit) in [(None, 512), (Some((1232, false)), 1232), (Some((4096, false)), 1232)] {
            let question = foreign(edns, Transport::Udp);
            let found = found(&question, &upstream(&question, 300, 300));
            let bytes = question.reply(&found, 0);
            let reply = Message::from_vec(&bytes).expect("an answer");
            assert!(bytes.len() <= limit && reply.truncation && reply.answers.len() > 20, "{} bytes", bytes.len());
            assert_eq!(reply.edns.is_some(), edns.is_some());
        }
        let question = foreign(None, Transport::Tcp);
        let found = found(&question, &upstream(&question, 300, 300));
        let reply = Message::from_vec(&question.reply(&found, 0)).expect("an answer");
        assert_eq!((reply.answers.len(), reply.truncation), (300, false));
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let question = foreign(None, Transport::Udp);
        let refused = |change: fn(&mut Message)| {
            let mut message = upstream(&question, 1, 300);
            change(&mut message);
            Found::decode(&message.to_vec().expect("encodes"), 99, &question).expect_err("refused")
        };
        assert_eq!(refused(|message| message.metadata.id = 98), Unfit::NotOurs);
        assert_eq!(refused(|message| message.metadata.message_type = MessageType::Query), Unfit::NotOurs);
        assert_eq!(refused(|message| message.queries.clear()), Unfit::NotOurs);
        let other = |message: &mut Message| {
            message.queries[0].set_name("other.example.".parse().expect("a name"));
        };
        assert_eq!(refused(other), Unfit::NotOurs);
        assert_eq!(Found::decode(b"\0\x63", 99, &question).expect_err("refused"), Unfit::Malformed);
    }

    #[test]
    fn what_may_be_kept_follows_from_the_records() {
        let question = foreign(None, Transport::Udp);
        let ttl = |change: &dyn Fn(&mut Message)| {
            let mut message = upstream(&question, 2, 300);
            change(&mut message);
            found(&question, &message).ttl_s()
        };
        let nobody = || Name::from_ascii("nobody.invalid.").expect("a name");
        let soa = |ttl, minimum| {
            let soa = SOA::new(nobody(), nobody(), 1, 1, 1, 1, minimum);
            Record::from_rdata(nobody(), ttl, RData::SOA(soa))
        };
        assert_eq!(ttl(&|_| {}), 300);
        assert_eq!(ttl(&|message| message.answers[1].ttl = 10), 10);
        assert_eq!(ttl(&|message| message.answers[1].ttl = u32::MAX), 300);
        assert_eq!(ttl(&|message| message.metadata.response_code = ResponseCode::ServFail), 0);
        assert_eq!(ttl(&|message| message.metadata.truncation = true), 0);
        assert_eq!(ttl(&|message| message.answers.clear()), 0);
        let missing = |message: &mut Message, soa: Record| {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.answers.clear();
            message.authorities.push(soa);
        };
        assert_eq!(ttl(&|message| missing(message, soa(900, 60))), 60);
        assert_eq!(ttl(&|message| missing(message, soa(30, 60))), 30);
        assert_eq!(ttl(&|message| missing(message, soa(90_000, 90_000))), NEGATIVE_TTL_MAX);
    }

    #[test]
    fn an_upstream_gets_a_question_of_ours() {
        let question = foreign(Some((4096, true)), Transport::Tcp);
        let sent = Message::from_vec(&question.upstream_query(0xabcd)).expect("a query");
        let edns = sent.edns.as_ref().expect("EDNS");
        assert_eq!((sent.id, edns.max_payload(), edns.flags().dnssec_ok), (0xabcd, 1232, true));
        assert!(sent.recursion_desired && edns.options().as_ref().is_empty());
        assert_ne!(question.key(), foreign(None, Transport::Tcp).key());
    }

    #[test]
    fn a_type_that_nobody_knows_passes_unchanged() {
        let question = foreign(None, Transport::Udp);
        let mut message = upstream(&question, 0, 0);
        let data = RData::Unknown { code: RecordType::Unknown(65_280), rdata: NULL::with(vec![1, 2, 3]) };
        message.add_answer(Record::from_rdata(NAME.parse().expect("a name"), 60, data.clone()));
        let reply = question.reply(&found(&question, &message), 0);
        assert_eq!(Message::from_vec(&reply).expect("an answer").answers[0].data, data);
    }

    proptest! {
        #[test]
        fn no_bytes_of_an_upstream_make_it_panic(at in 12usize..200, to in any::<u8>(), cut in 12usize..200) {
            let question = foreign(Some((512, false)), Transport::Udp);
            let mut bytes = upstream(&question, 5, 300).to_vec().expect("encodes");
            let len = bytes.len();
            bytes[at % len] = to;
            for bytes in [&bytes[..], &bytes[..cut.min(len)]] {
                if let Ok(found) = Found::decode(bytes, 99, &question) {
                    prop_assert!(question.reply(&found, found.ttl_s()).len() <= 512);
                }
            }
        }
    }
}

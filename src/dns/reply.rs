//! Writes an answer: whole records only, never above what the caller can take.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, HINFO, PTR, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::Transport;
use super::request::Request;

/// Every private record's time to live in seconds.
pub(super) const TTL: u32 = 30;
/// What we offer and the most we send by UDP: it passes every path without fragments (DNS flag day 2020).
pub(super) const EDNS_PAYLOAD_MAX: u16 = 1232;
/// The most without EDNS (RFC 1035 §2.3.4).
const PLAIN_PAYLOAD_MAX: u16 = 512;
/// An address record behind a pointer to its name.
const ADDRESS_RECORD_LEN: usize = 16;
/// An OPT record without options.
pub(super) const OPT_LEN: u16 = 11;
/// A compression pointer to the name behind the header, the question's (RFC 1035 §4.1.4).
const QUESTION_NAME: u16 = 0xc00c;

/// One answer record's data. Its owner is the question's name and its class is IN.
pub(super) struct Rdata {
    pub(super) data: RData,
    /// The address of the host that the data names: whoever asks for the one asks for the other next.
    host: Option<Ipv4Addr>,
}

impl From<RData> for Rdata {
    fn from(data: RData) -> Self {
        Self { data, host: None }
    }
}

pub(super) fn address(address: Ipv4Addr) -> Rdata {
    RData::A(A(address)).into()
}

/// A PTR record to `name`; none if it is too long to be a name.
pub(super) fn pointer(name: &str) -> Option<Rdata> {
    Name::from_ascii(format!("{name}.")).ok().map(|name| RData::PTR(PTR(name)).into())
}

/// An SRV record to `port` of `host` at `address`; none if that is too long to be a name. All are alike: who comes first is said
/// by the order.
pub(super) fn port(host: &str, address: Ipv4Addr, port: NonZeroU16) -> Option<Rdata> {
    let target = Name::from_ascii(format!("{host}.")).ok()?;
    Some(Rdata { data: RData::SRV(SRV::new(0, 1, port.get(), target)), host: Some(address) })
}

/// A TXT record of one string of at most 255 bytes; what is beyond is cut off.
pub(super) fn text(text: &str) -> Rdata {
    RData::TXT(TXT::new(vec![text.chars().take(63).collect()])).into()
}

/// What a name that owns records says to ANY (RFC 8482 §4.2).
pub(super) fn any() -> Rdata {
    RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new())).into()
}

/// The most bytes that an answer to `request` may have.
pub(super) fn payload_max(request: &Request, transport: Transport) -> u16 {
    match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN_PAYLOAD_MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_PAYLOAD_MAX, EDNS_PAYLOAD_MAX),
    }
}

/// More addresses than an answer to `request` holds: what is beyond need not be made to be cut off.
pub(super) fn addresses_max(request: &Request, transport: Transport) -> usize {
    usize::from(payload_max(request, transport)) / ADDRESS_RECORD_LEN
}

/// An answer before it is bytes.
pub(super) struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Rdata>,
    soa: Option<Record>,
}

impl Reply {
    /// No answer but a code.
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), soa: None }
    }

    /// There is no such name.
    pub(super) fn missing(soa: Option<Record>) -> Self {
        Self { code: ResponseCode::NXDomain, authoritative: true, answers: Vec::new(), soa }
    }

    /// There is such a name, and this is what it owns of the type asked for; `soa` if that is nothing.
    pub(super) fn existing(answers: Vec<Rdata>, soa: Option<Record>) -> Self {
        Self { code: ResponseCode::NoError, authoritative: true, answers, soa }
    }

    /// Writes the answer to `request` into the empty `out`.
    pub(super) fn encode(&self, request: &Request, transport: Transport, out: &mut Vec<u8>) {
        let limit = payload_max(request, transport);
        if self.try_encode(request, limit, out).is_err() {
            // Not reached while a question and an SOA fit into 512 bytes; a caller gets an answer even so.
            out.clear();
            let metadata = Reply::code(ResponseCode::ServFail).metadata(request);
            let header = Header { metadata, counts: HeaderCounts::default() };
            if header.emit(&mut BinEncoder::new(out)).is_err() {
                out.clear();
            }
        }
    }

    fn metadata(&self, request: &Request) -> Metadata {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = self.authoritative;
        metadata.recursion_available = true;
        metadata.checking_disabled = false;
        metadata.response_code = self.code;
        metadata
    }

    fn try_encode(&self, request: &Request, limit: u16, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let mut metadata = self.metadata(request);
        let mut counts = HeaderCounts::default();
        let mut encoder = BinEncoder::new(out);
        encoder.set_max_size(if request.edns.is_some() { limit - OPT_LEN } else { limit });

        let header = encoder.place::<Header>()?;
        if let Some(question) = &request.question {
            question.emit(&mut encoder)?;
            counts.queries = 1;
        }
        for (records, count) in [
            (encoder.emit_iter(&mut self.answers.iter()), &mut counts.answers),
            (encoder.emit_iter(&mut self.soa.iter()), &mut counts.authorities),
        ] {
            let written = match records {
                Ok(written) => written,
                Err(ProtoError::NotAllRecordsWritten { count, .. }) => {
                    metadata.truncation = true;
                    count
                }
                Err(error) => return Err(error),
            };
            *count = u16::try_from(written).map_err(|_| ProtoError::Message("a record takes more than a byte"))?;
        }
        if !metadata.truncation {
            counts.additionals = self.encode_hosts(&mut encoder)?;
        }
        if request.edns.is_some() {
            encoder.set_max_size(limit);
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_PAYLOAD_MAX).set_rcode_high(self.code.high());
            edns.emit(&mut encoder)?;
            counts.additionals += 1;
        }
        header.replace(&mut encoder, Header { metadata, counts })?;
        // Of a record that did not fit, the beginning is still there.
        encoder.trim();
        Ok(())
    }

    /// Writes the addresses of the hosts that the answers name, as many as there is room for. That some are left out is no
    /// truncation: they can be asked for (RFC 2181 §9).
    fn encode_hosts(&self, encoder: &mut BinEncoder<'_>) -> Result<u16, ProtoError> {
        let host = |answer: &Rdata| match (&answer.data, answer.host) {
            (RData::SRV(srv), Some(address)) => Some(Record::from_rdata(srv.target.clone(), TTL, RData::A(A(address)))),
            _ => None,
        };
        let hosts: Vec<Record> = self.answers.iter().filter_map(host).collect();
        let written = match encoder.emit_iter(&mut hosts.iter()) {
            Ok(written) | Err(ProtoError::NotAllRecordsWritten { count: written, .. }) => written,
            Err(error) => return Err(error),
        };
        u16::try_from(written).map_err(|_| ProtoError::Message("a record takes more than a byte"))
    }
}

impl BinEncodable for Rdata {
    /// The owner is written as a pointer here: hickory compresses the first 120 names of a message only, and a full
    /// network's 1022 addresses would then be more than TCP can carry.
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        encoder.emit_u16(QUESTION_NAME)?;
        self.data.record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(TTL)?;
        let len = encoder.place::<u16>()?;
        self.data.emit(encoder)?;
        let written = encoder.len_since_place(&len);
        len.replace(encoder, u16::try_from(written).map_err(|_| ProtoError::Message("a record's data is small"))?)
    }
}

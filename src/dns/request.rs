//! Reads a query as far as it can be understood, and says what is wrong with the rest.

use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::DropReason;

/// More records than any client adds to a question: EDNS and a signature are two.
const ADDITIONALS_MAX: u16 = 8;

/// A query.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) metadata: Metadata,
    /// The one question, in the letters it was asked in; none where it cannot be read.
    pub(super) question: Option<Query>,
    pub(super) edns: Option<Edns>,
    /// Why it cannot be answered, whatever the names mean.
    pub(super) fault: Option<ResponseCode>,
}

impl Request {
    /// Reads a message.
    ///
    /// # Errors
    /// If it is to get no answer at all. What is wrong with it otherwise stands in [`Request::fault`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DropReason> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).map_err(|_| DropReason::NoHeader)?;
        if metadata.message_type == MessageType::Response {
            return Err(DropReason::Response);
        }
        let mut request = Self { metadata, question: None, edns: None, fault: None };
        request.fault = request.read_body(&mut decoder, counts).err();
        Ok(request)
    }

    fn read_body(&mut self, decoder: &mut BinDecoder<'_>, counts: HeaderCounts) -> Result<(), ResponseCode> {
        if counts.queries == 1 {
            self.question = read_question(decoder);
        }
        if self.metadata.op_code != OpCode::Query {
            return Err(ResponseCode::NotImp);
        }
        let question = self.question.as_ref().ok_or(ResponseCode::FormErr)?;
        let (class, asked) = (question.query_class(), question.query_type());

        // RFC 1995 §3: an IXFR question carries the SOA that the asker has.
        let authorities_max = u16::from(asked == RecordType::IXFR);
        if counts.answers > 0 || counts.authorities > authorities_max || counts.additionals > ADDITIONALS_MAX {
            return Err(ResponseCode::FormErr);
        }
        let mut read = |count, additional| {
            Message::read_records(decoder, usize::from(count), additional, OpCode::Query)
                .map_err(|_| ResponseCode::FormErr)
        };
        read(counts.authorities, false)?;
        (_, self.edns, _) = read(counts.additionals, true)?;
        if !decoder.is_empty() {
            return Err(ResponseCode::FormErr);
        }

        if self.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Err(ResponseCode::BADVERS);
        }
        match (class, asked) {
            (DNSClass::IN, RecordType::AXFR | RecordType::IXFR) => Err(ResponseCode::Refused),
            (DNSClass::IN, _) => Ok(()),
            _ => Err(ResponseCode::Refused),
        }
    }
}

/// The question behind the header; none if it is cut short, or compressed: there is nothing yet that it could point to.
fn read_question(decoder: &mut BinDecoder<'_>) -> Option<Query> {
    let start = decoder.index();
    let question = Query::read(decoder).ok()?;
    let labels = question.name().iter().map(|label| label.len() + 1).sum::<usize>();
    (decoder.index() - start == labels + 1 + 4).then_some(question)
}

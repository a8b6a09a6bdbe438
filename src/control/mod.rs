//! What peerctl can say to its node, and what the node can answer: the words and their bytes.
//!
//! A caller writes one [`Request`] as a line of JSON; the node answers with lines: any number of [`Frame::Step`] and [`Frame::Event`], then one
//! [`Frame::Done`] or [`Frame::Failed`]. The answers' `data` is what `--json` prints, so within a major version fields
//! are only added.
//!
//! This room imports `model` only. It opens no socket.

mod answer;
mod codec;
mod failure;
mod ready_when;
mod request;

pub use answer::{
    Applied, Attached, Authority, CertificateRow, ChangeRow, ContainerDetail, ContainerRow, Deployed, DnsAnswer,
    DnsExplanation, DnsRecord, DomainNames, DropRow, EventRow, GatewayRow, GrantRow, HealthRow, IngressRoute,
    IngressStatus, Invited, Joined, Left, LocalDetail, NetworkCreated, NetworkDetail, NetworkRow, NodeRow, NodeSelf,
    PeerRow, ServiceDetail, ServiceRow, Status, Validated, Waited, Warning,
};
pub use codec::{CodecError, Frame, REQUEST_LEN_MAX, decode_line, encode_line};
pub use failure::{ExitStatus, Failure};
pub use ready_when::{ReadyWhen, ReadyWhenError};
pub use request::{Attach, Awaited, PrivateKey, Request, Target};

//! Bytes: what travels on the wire and over a device, and how to read and write it.
//!
//! Everything here works on slices that somebody else owns, checks every length before it believes it, and allocates
//! nothing. A [`Batch`] is the wall between the router and its surroundings: one contiguous buffer and a segment size.
//!
//! This room imports `model` only. It decides nothing: who may send what is the router's business.

mod batch;
mod checksum;
mod coalesce;
mod datagram;
mod frame;
mod gather;
mod icmp;
mod ipv4;
mod offload;
mod partial;
mod quench;
mod split;
mod tcp;
mod udp;

pub use batch::Batch;
pub(crate) use coalesce::{Accepts, Flow, Join, Joined};
pub use datagram::{Class, runs};
pub(crate) use frame::low_bits;
pub use frame::{FRAME_HEADER_LEN, FrameError, FrameHeader, FrameType};
pub use gather::Gather;
pub use icmp::{ICMP_ERROR_LEN_MAX, Reported, Unreachable, read_unreachable, write_unreachable};
pub use ipv4::{IPV4_HEADER_LEN, Ipv4Error, Ipv4View, Protocol};
pub use offload::{Gso, OFFLOAD_HEADER_LEN, Offload};
pub(crate) use partial::{complete_checksum, partial_checksum};
pub use quench::{read_quench, write_quench};
pub use split::{Segments, SplitError, Superpacket};
pub use tcp::{TCP_HEADERS_LEN, defer_tcp, write_tcp_ack};
pub use udp::{UDP_HEADERS_LEN, UdpView, write_udp};

//! The way in and out of networks for what stands outside of them: streams and datagrams between the host's sockets and
//! containers.
//!
//! One thread owns every gateway's machine ([`crate::netstack::Dialler`]), every listener and every socket that it joins to
//! a stream, so no byte waits for a lock. A [`GatewayHandle`] tells it what changes and asks it how it is. A gateway speaks
//! to the data thread through a pair of sockets that behaves as a TUN does ([`crate::sys::device_pair`]): to the router it
//! is one more member's device.
//!
//! Who does not read is not read from: what waits for anybody stands in buffers of a fixed size, and in the sockets. What
//! a stranger sends ends his own stream at most.

mod counters;
mod fronts;
mod handle;
mod left_out;
mod member;
mod sessions;
mod splice;
mod splices;
mod thread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use crate::model::NetworkId;

pub use handle::{GatewayHandle, Opened};

/// Where connections and datagrams come in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listen {
    /// A socket file with these permissions. It goes when its front goes.
    Unix {
        path: PathBuf,
        mode: u32,
    },
    /// A port of the host. An unspecified IPv6 address takes IPv4 as well.
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

/// A listener and what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    pub listen: Listen,
    pub network: NetworkId,
    /// Containers, taken in turn.
    pub to: Vec<SocketAddrV4>,
    /// Containers that are asked in turn for a connection which none of those takes.
    pub spare: Vec<SocketAddrV4>,
    /// Containers that get nothing new and go on with the sessions of datagrams that they have.
    pub kept: Vec<SocketAddrV4>,
}

/// How a front is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontStatus {
    /// Why it cannot be listened on; it is tried again each time the fronts are set.
    pub error: Option<String>,
    /// Connections, or sessions of datagrams.
    pub connections: u64,
    /// Since the front is there.
    pub connections_ever: u64,
    /// Those that no container took, or for which there was no room.
    pub refused: u64,
    /// Bytes from clients to containers.
    pub bytes_in: u64,
    /// Bytes from containers to clients.
    pub bytes_out: u64,
    /// Datagrams that were dropped: longer than the network's MTU allows, or without room on their way.
    pub dropped: u64,
}

/// How a network's gateway is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// Streams, opening and ending ones included.
    pub streams: u64,
    /// Sessions of datagrams.
    pub sessions: u64,
    /// Streams that were opened.
    pub opened: u64,
    pub refused: u64,
    pub timed_out: u64,
    /// Streams that a container reset.
    pub reset: u64,
    /// Bytes to containers and from them.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// What the streams may hold in their buffers.
    pub buffer_bytes: u64,
}

/// Why no stream was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("the container refuses connections to this port")]
    Refused,
    #[error("nothing is at this address")]
    Unreachable,
    #[error("the container did not answer")]
    TimedOut,
    #[error("the gateway has as many streams as it may have")]
    Full,
    #[error("this node has no gateway on the network")]
    NoGateway,
}

/// Why the thread did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("the gateway's device cannot be used")]
    Device(#[source] io::Error),
    #[error("the gateway thread has stopped")]
    Stopped,
}

/// How all fronts are.
pub type Fronts = BTreeMap<Listen, FrontStatus>;

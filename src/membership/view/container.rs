//! A container as its record says.

use std::net::Ipv4Addr;

use minicbor::{Decode, Encode};

use crate::model::{AttachmentId, Label, NodeId, Rev, WgPublicKey};

/// Whether a container is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    #[n(0)]
    Ready,
    /// On its way out: no name leads to it any more, its connections live.
    #[n(1)]
    Draining,
    /// Attached, and what is to make it ready has not happened yet: no name leads to it.
    #[n(2)]
    Starting,
}

/// A container (or gateway, or stock client).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: AttachmentId,
    /// The node that hosts it.
    pub node: NodeId,
    pub address: Ipv4Addr,
    pub app: Label,
    /// Its TYPE in names, `web` by default.
    pub kind: Label,
    /// Its N in names, from 1.
    pub number: u32,
    pub version: Option<String>,
    pub service: Label,
    /// The server's name, if it is a database: `service` is the database's type then.
    pub server: Option<Label>,
    pub public_key: WgPublicKey,
    pub state: State,
    /// Set at attach and kept: of two containers with one number the lower (rev, node) holds it.
    pub rev: Rev,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Starting => "starting",
        })
    }
}

impl Container {
    /// What it adds to its network's edition.
    pub(super) fn edition(&self) -> u32 {
        // 2^64 divided by the golden ratio: ids that are alike, and the states of one, lie far apart.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let id = u64::from_be_bytes(self.id.0);
        (id.wrapping_add(self.state as u64).wrapping_mul(SPREAD) >> 32) as u32
    }
}

//! A node of the simulated cluster: its machine, its disk, and what its shell remembers.

use std::collections::BTreeMap;
use std::sync::Arc;

use peerd::gossip::{Config, Gossip, Identity, OperationId};
use peerd::membership::Membership;
use peerd::model::{AttachmentId, NetworkId, NodeId};

use crate::disk::Disk;
use crate::workload::Intent;

pub struct SimNode {
    /// `None` while it does not run.
    pub machine: Option<Gossip>,
    pub disk: Disk,
    pub identity: Identity,
    pub config: Config,
    /// Counts its starts: what an earlier life left behind is void.
    pub life: u64,
    /// What was asked of it and is not answered.
    pub intents: BTreeMap<OperationId, Intent>,
    /// What it saw in this life.
    pub seen: Seen,
    /// Its disk was set back, or is in two machines: what it alone knew may be lost.
    pub tainted: bool,
    /// Its disk was set back a moment ago: it is finding out what it forgot.
    pub is_set_back: bool,
    /// The node whose disk was copied to make this one.
    pub clone_of: Option<usize>,
}

/// What a node's view said at its latest, for what must never go back.
#[derive(Default)]
pub struct Seen {
    pub membership: Option<Arc<Membership>>,
    /// The edition of each container's key, and `None` once it was seen to be gone.
    pub containers: BTreeMap<(NetworkId, AttachmentId), Option<usize>>,
    /// Members that were seen to go after they were expelled.
    pub gone: std::collections::BTreeSet<NodeId>,
}

impl SimNode {
    pub fn id(&self) -> NodeId {
        self.identity.node()
    }

    pub fn is_member(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.cluster().is_some())
    }
}

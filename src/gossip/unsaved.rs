//! What others signed and this node has not on its disk yet.
//!
//! It is written once a second, for whoever loses a second of it hears it again. What this node's own records rest on does
//! not wait: who belongs to the cluster, the definition, the grants and the shares are written with the own record, before it. A
//! node that starts while nobody else can be reached otherwise has containers of a network that it knows nothing of.

use std::collections::BTreeMap;

use super::files::{self, LogFile};
use super::machine::Gossip;
use crate::membership::body::Body;
use crate::membership::{Delta, Shard};
use crate::model::NodeId;

/// The logs of others that changed since they were last written, and whether own records may rest on the change.
#[derive(Default)]
pub(super) struct Unsaved(BTreeMap<(Shard, NodeId), bool>);

impl Unsaved {
    /// This was taken in.
    pub(super) fn add(&mut self, delta: &Delta) {
        let at = (delta.head.head().shard.clone(), delta.head.origin());
        *self.0.entry(at).or_default() |= delta.added.iter().any(|record| carries(record.body()));
    }

    /// Nothing of this shard is kept any more.
    pub(super) fn forget(&mut self, shard: &Shard) {
        self.0.retain(|(unsaved, _), _| unsaved != shard);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether records of other nodes can rest on this one.
fn carries(body: &Body) -> bool {
    !matches!(body, Body::Container(_) | Body::Node(_) | Body::Ack(_) | Body::Unread)
}

impl Gossip {
    /// Hands the logs of others that changed to the disk.
    pub(super) fn save_foreign_logs(&mut self) {
        let unsaved = std::mem::take(&mut self.unsaved).0;
        self.save_logs(unsaved.into_keys());
    }

    /// Hands those to the disk that own records may rest on.
    pub(super) fn save_what_carries(&mut self) {
        let carrying: Vec<_> = self.unsaved.0.extract_if(.., |_, carries| *carries).map(|(at, _)| at).collect();
        self.save_logs(carrying);
    }

    fn save_logs(&mut self, logs: impl IntoIterator<Item = (Shard, NodeId)>) {
        let Some(cluster) = self.cluster() else { return };
        for (shard, origin) in logs {
            if let Some(log) = self.logs.log(&shard, origin) {
                let name = files::foreign_log_name(&shard, origin);
                self.persister.write(LogFile::of(log, Vec::new()).write(name, cluster, false));
            }
        }
    }
}

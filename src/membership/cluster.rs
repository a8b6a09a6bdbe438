//! Who belongs to the cluster: derived from the cluster's shard, whatever the order in which its records came.
//!
//! The genesis record names the root. The root appoints signers. Signers certify nodes and expel them, the root expels
//! signers. Every node may revoke itself: it has left.
//!
//! When a signer is expelled, the root certifies in its own log whom that signer had certified, and says in the same log that it
//! succeeds it: nobody is admitted by that signer's key from then on, and whom the root did not name is expelled with it. What
//! the signer had revoked stays revoked, as every revocation does.

use std::collections::{BTreeMap, BTreeSet};

use super::body::Body;
use super::signed::Verified;
use crate::model::{ClusterId, Label, NodeId, Rev};

/// The members of a cluster and their offices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterState {
    pub id: ClusterId,
    pub root: NodeId,
    /// Everyone the root ever appointed, with its number.
    signers: BTreeMap<NodeId, u8>,
    /// Everyone that is certified, expelled or not, with the name it got.
    certs: BTreeMap<NodeId, Label>,
    revoked: BTreeSet<NodeId>,
    /// Those of the revoked that said so themselves.
    left: BTreeSet<NodeId>,
}

impl ClusterState {
    /// Derives the state from the shard's records; `None` while the genesis record is not among them.
    pub fn derive<'a>(id: ClusterId, records: impl Iterator<Item = &'a Verified> + Clone) -> Option<Self> {
        let root = records.clone().find(|record| record.genesis_cluster() == Some(id))?.origin();

        let mut appointed: BTreeMap<u8, (super::Stamp, NodeId)> = BTreeMap::new();
        for record in records.clone().filter(|record| record.origin() == root) {
            if let Body::Signer(signer) = record.body() {
                // Of two signers with one number the earlier holds it.
                let entry = appointed.entry(signer.number).or_insert((record.stamp(), signer.node));
                *entry = (*entry).min((record.stamp(), signer.node));
            }
        }
        let signers: BTreeMap<NodeId, u8> = appointed.into_iter().map(|(number, (_, node))| (node, number)).collect();

        let succeeded =
            records.clone().filter(|record| record.origin() == root).filter_map(|record| match record.body() {
                Body::Succession(succession) => Some(succession.node),
                _ => None,
            });
        let succeeded: BTreeSet<NodeId> = succeeded.collect();
        let mut certs: BTreeMap<NodeId, (Rev, NodeId, &Label)> = BTreeMap::new();
        let (mut revoked, mut left) = (BTreeSet::new(), BTreeSet::new());
        let mut unnamed = BTreeSet::new();
        for record in records {
            let origin = record.origin();
            match record.body() {
                Body::NodeCert(cert) if succeeded.contains(&origin) => drop(unnamed.insert(cert.node)),
                Body::NodeCert(cert) if origin == root || signers.contains_key(&origin) => {
                    let said = (record.record().rev, origin, &cert.name);
                    certs.entry(cert.node).and_modify(|held| *held = (*held).max(said)).or_insert(said);
                }
                Body::Revocation(revocation)
                    if origin == root || signers.contains_key(&origin) && !signers.contains_key(&revocation.node) =>
                {
                    revoked.insert(revocation.node);
                }
                Body::Revocation(revocation) if revocation.node == origin => {
                    revoked.insert(origin);
                    left.insert(origin);
                }
                _ => {}
            }
        }
        revoked.extend(unnamed.into_iter().filter(|node| !certs.contains_key(node)));
        let certs = certs.into_iter().map(|(node, (_, _, name))| (node, name.clone())).collect();
        Some(Self { id, root, signers, certs, revoked, left })
    }

    /// Whether the node is certified, was not expelled, and has not left.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.certs.contains_key(&node) && !self.revoked.contains(&node)
    }

    /// Whether the node was expelled or has left: both are for ever.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.revoked.contains(&node)
    }

    /// Whether the node has left of its own will.
    pub fn has_left(&self, node: NodeId) -> bool {
        self.left.contains(&node)
    }

    /// Whether the node may have a log in the cluster's shard.
    pub fn may_write(&self, node: NodeId) -> bool {
        node == self.root || self.certs.contains_key(&node)
    }

    /// The number of a signer, also of one that was expelled: networks keep their VNI.
    pub fn signer_number(&self, node: NodeId) -> Option<u8> {
        self.signers.get(&node).copied()
    }

    /// Whether the node may admit and expel.
    pub fn is_signer(&self, node: NodeId) -> bool {
        self.signers.contains_key(&node) && self.is_member(node)
    }

    /// The lowest number that no signer has.
    pub fn free_signer_number(&self) -> Option<u8> {
        (1..=u8::MAX).find(|number| !self.signers.values().any(|taken| taken == number))
    }

    pub fn name(&self, node: NodeId) -> Option<&Label> {
        self.certs.get(&node)
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Label)> {
        self.certs.iter().filter(|(node, _)| !self.revoked.contains(node)).map(|(node, name)| (*node, name))
    }

    /// The member with this name.
    pub fn named(&self, name: &Label) -> Option<NodeId> {
        self.members().find(|(_, held)| *held == name).map(|(node, _)| node)
    }
}

//! What the cluster has promised: kept outside of it, from what was asked and what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use peerd::gossip::Token;
use peerd::model::{AttachmentId, NetworkId, NodeId, WgPublicKey};

/// Where an attachment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asked for, and neither acknowledged nor refused: it may be there or not.
    Open,
    /// Acknowledged: it is there until somebody ends it.
    Live,
    /// Its end was asked for, and not acknowledged.
    Ending(Instant),
    /// It is gone for good.
    Ended,
}

/// One attachment.
pub struct Promise {
    /// Who hosts it, by number.
    pub host: usize,
    pub network: NetworkId,
    pub address: Option<Ipv4Addr>,
    pub phase: Phase,
    /// Its keys in the order in which they were asked for.
    pub keys: Vec<WgPublicKey>,
    /// How many of them are surely on disk: the edition that it must not go back behind.
    pub acknowledged: usize,
}

/// An invite.
pub struct Offered {
    pub token: Token,
    pub networks: Vec<NetworkId>,
    /// Whether it makes a signer.
    pub signer: bool,
    /// Who redeems it.
    pub by: NodeId,
}

#[derive(Default)]
pub struct Book {
    pub attachments: BTreeMap<AttachmentId, Promise>,
    /// When an address was last freed.
    pub freed: BTreeMap<(NetworkId, Ipv4Addr), Instant>,
    pub networks: Vec<NetworkId>,
    /// Who was ever to be granted a network.
    pub ever_granted: BTreeSet<(NetworkId, NodeId)>,
    /// Invites that nobody tried.
    pub tokens: Vec<Offered>,
    /// Who tried an invite of which signer.
    admitted: Vec<(NodeId, NodeId)>,
    /// Whom an invite was to make a signer.
    pub signers: BTreeSet<NodeId>,
    /// Whose expulsion was acknowledged, and by which node, by number.
    pub expelled: BTreeMap<NodeId, usize>,
    /// Whose expulsion was asked for, or that of its signer of one who had not heard of it.
    pub perhaps_expelled: BTreeSet<NodeId>,
    /// Those of them who may have been expelled with their signer.
    pub with_their_signer: BTreeSet<NodeId>,
    /// Of whom the root's node had heard when it was asked to expel their signer: they stay.
    pub named: BTreeSet<NodeId>,
    /// Whose grant was asked to be taken back: what it hosts there may go.
    pub perhaps_ungranted: BTreeSet<(NetworkId, NodeId)>,
    /// Granted while a disk was in two machines. Of what the two said, one's alone stays: whom the other one granted knows a secret, and
    /// no record is left that says so.
    pub perhaps_forgotten: BTreeSet<(NetworkId, NodeId)>,
    /// Networks in which a disk was set back where nobody could tell: their addresses are excused.
    pub excused: BTreeSet<NetworkId>,
}

impl Book {
    /// A node tries an invite.
    pub fn admitted(&mut self, node: NodeId, by: NodeId, signer: bool) {
        self.admitted.push((node, by));
        if signer {
            self.signers.insert(node);
        }
        if self.perhaps_expelled.contains(&by) {
            self.may_expel_with_its_signer(node);
        }
    }

    /// A node's expulsion is asked for, of one that sees these members.
    pub fn may_expel(&mut self, node: NodeId, members: &BTreeSet<NodeId>) {
        self.perhaps_expelled.insert(node);
        let (named, unheard): (Vec<NodeId>, Vec<NodeId>) =
            self.admitted_by(node).partition(|admitted| members.contains(admitted));
        self.named.extend(named);
        unheard.into_iter().for_each(|node| self.may_expel_with_its_signer(node));
    }

    /// Who tried an invite of this signer.
    pub fn admitted_by(&self, signer: NodeId) -> impl Iterator<Item = NodeId> {
        self.admitted.iter().filter(move |(_, by)| *by == signer).map(|(node, _)| *node)
    }

    fn may_expel_with_its_signer(&mut self, node: NodeId) {
        self.perhaps_expelled.insert(node);
        self.with_their_signer.insert(node);
    }

    /// Whether a key is one of the attachment's, and which.
    pub fn edition(&self, id: AttachmentId, key: &WgPublicKey) -> Option<usize> {
        self.attachments.get(&id)?.keys.iter().position(|known| known == key)
    }

    /// Who surely has this address, beside `except`.
    pub fn holder(&self, network: &NetworkId, address: Ipv4Addr, except: AttachmentId) -> Option<AttachmentId> {
        let held = self.attachments.iter().find(|(id, promise)| {
            **id != except
                && promise.network == *network
                && promise.address == Some(address)
                && matches!(promise.phase, Phase::Live | Phase::Ending(_))
        });
        held.map(|(id, _)| *id)
    }

    /// An attachment is gone, and its address was freed no later than `at`.
    pub fn end(&mut self, id: AttachmentId, at: Instant) {
        let Some(promise) = self.attachments.get_mut(&id) else { return };
        if let Some(address) = promise.address.filter(|_| matches!(promise.phase, Phase::Live | Phase::Ending(_))) {
            self.freed.insert((promise.network.clone(), address), at);
        }
        promise.phase = Phase::Ended;
    }
}

//! A peer takes itself for a grantee of a network, and this node does not.
//!
//! - This node has granted it the network and forgot, since its disk was set back: it takes up what it said.
//! - Another owner has granted it the network, and this node did not hear of that: it takes the owner's log from the peer. Of an owner
//!   that is expelled it takes nothing that no grantee has brought, or the key would go on granting with the help of any member: one
//!   of the other owners takes such a grant back in so many words.
//! - The peer did not hear that its grant was taken back: it gets the records that say so.
//! - Nobody has taken the grant back, and its granter's newest head does not cover it: two machines wrote one log, from copies of
//!   one disk, and this went with the log of one of them. What no head covers is gone, but only the peer knows what that was. So
//!   the granter takes it back in so many words, and then the peer hears of it like of any other.

use std::time::Instant;

use super::api::ConnectionId;
use super::machine::Gossip;
use super::message::{LogState, ShardState};
use crate::membership::body::Body;
use crate::membership::{Delta, Log, Shard};
use crate::model::NodeId;

impl Gossip {
    /// Whether the peer, if it has this shard, takes itself for a grantee of a network of ours, and this node does not.
    pub(super) fn is_claimed(&self, peer: NodeId, shard: &Shard) -> bool {
        shard.network().and_then(|id| self.networks.get(id)).is_some_and(|network| !network.is_granted(peer))
    }

    /// A peer has said how far the logs go on which its claim rests.
    pub(super) fn compare_claim(&mut self, connection: ConnectionId, theirs: &ShardState, now: Instant) {
        let shard = &theirs.shard;
        let later = |log: &&LogState| {
            let ours = self.logs.log(shard, log.origin).map(Log::stamp);
            self.forgot(shard, log.origin, log.stamp) || ours.is_none_or(|ours| log.stamp > ours)
        };
        let (by_us, by_others): (Vec<&LogState>, Vec<&LogState>) =
            theirs.logs.iter().partition(|log| self.pens.contains_key(&log.origin));
        let (forgotten, known): (Vec<&LogState>, Vec<&LogState>) = by_us.into_iter().partition(later);
        let owners = shard.network().and_then(|id| self.networks.get(id)).map(|network| &network.owners);
        let by_owners = by_others.into_iter().filter(|log| owners.is_some_and(|all| all.contains(&log.origin)));
        let unheard: Vec<NodeId> = by_owners.filter(later).map(|log| log.origin).collect();
        if let Some(network) = shard.network().filter(|_| forgotten.is_empty()) {
            self.tell_ungranted(connection, network, &[]);
        }
        let ours = |log: &&&LogState| self.logs.log(shard, log.origin).map(|ours| ours.signed_head().hash());
        let asked = if forgotten.is_empty() { known } else { forgotten };
        let asked = asked.iter().filter(|log| ours(log) != Some(log.head)).map(|log| log.origin);
        // To be judged, a log has to come whole.
        for origin in asked.chain(unheard).collect::<Vec<_>>() {
            self.pull_from(connection, shard, origin, None, now);
        }
    }

    /// Whether nothing in this log counts that comes from a peer that makes a claim, since its writer is expelled.
    pub(super) fn is_void(&self, peer: NodeId, theirs: &Delta) -> bool {
        let is_revoked = self.state().is_some_and(|state| state.is_revoked(theirs.head.origin()));
        is_revoked && self.is_claimed(peer, &theirs.head.head().shard)
    }

    /// A log on which a peer's claim rests and which does not count: an older state of one of ours, or an expelled owner's. If a grant
    /// is in it that is no earlier than all that is known of the peer's grants, it is taken back. One of the same rev as what took the
    /// grant back was given in another life.
    pub(super) fn refuse_grant(&mut self, peer: NodeId, theirs: &Delta) {
        let shard = &theirs.head.head().shard;
        let is_ours = theirs.head.origin() == self.me && self.is_claimed(peer, shard);
        let is_refused = is_ours || self.is_void(peer, theirs);
        let Some(network) = shard.network().filter(|id| is_refused && !self.is_gated(id)) else { return };
        let granted = theirs.added.iter().filter_map(|record| match record.body() {
            Body::Grant(grant) if grant.node == peer => Some(record.record().rev),
            _ => None,
        });
        let (granted, next) = (granted.max(), self.next_grant_rev(network, peer));
        if let Some(granted) =
            granted.filter(|granted| Some(granted.next()) >= next && self.check_owner(network).is_ok())
        {
            tracing::warn!(node = %peer, %network, "a grant that does not count is taken back");
            self.put_ungrant(network, peer, granted.next());
        }
    }
}

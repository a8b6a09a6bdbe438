//! How much this node may say: others take in only so much of one node, so it stops in time.
//!
//! A log beyond the bound would be acknowledged here, heard by nobody, and refused by this node's own next start. What is left
//! free is for what must always find room and is bounded by itself: containers and shares of addresses, what ends, who is expelled.

use super::api::OperationError;
use super::machine::Gossip;
use crate::membership::{LOG_MEMORY_LEN_MAX, LOG_RECORD_COUNT_MAX, ORIGIN_MEMORY_LEN_MAX, OwnLog, Shard, Verified};

impl Gossip {
    /// Whether this node may say one thing more in `shard` that only people bound in number: a definition, a grant, a
    /// certificate.
    pub(super) fn check_room(&self, shard: &Shard) -> Result<(), OperationError> {
        let is_full = |log: &OwnLog| {
            log.records().len() >= most(LOG_RECORD_COUNT_MAX) || memory_len(log) >= most(LOG_MEMORY_LEN_MAX)
        };
        if self.authors.get(&(self.me, shard.clone())).is_some_and(is_full) {
            return Err(OperationError::LogFull);
        }
        self.check_room_at_all()
    }

    /// Whether this node may say one thing more that its network bounds, as it does containers: all networks together do not.
    pub(super) fn check_room_at_all(&self) -> Result<(), OperationError> {
        let own = self.authors.iter().filter(|((origin, _), _)| *origin == self.me);
        let len: usize = own.map(|(_, log)| memory_len(log)).sum();
        if len < most(ORIGIN_MEMORY_LEN_MAX) { Ok(()) } else { Err(OperationError::LogFull) }
    }
}

/// What of a bound this node uses of its own will.
fn most(bound: usize) -> usize {
    bound / 4 * 3
}

fn memory_len(log: &OwnLog) -> usize {
    log.records().map(Verified::memory_len).sum()
}

//! The log of one node in one shard: exactly the records that its newest head covers.
//!
//! The laws: of two heads the later stamp holds, and of two with one stamp the lower hash. So logs merge by taking the
//! greater, in whatever order and however often deltas arrive. A delta is applied whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use super::body::Body;
use super::delta::{Delta, Rest, ShortHash};
use super::head::{Head, SetHash};
use super::record::{Kind, Slot, Stamp};
use super::signed::{SignedHead, Verified};
use crate::model::NodeId;

/// How many records a log has at most.
pub const LOG_RECORD_COUNT_MAX: usize = 16_384;
/// How many bytes of memory a log's records take at most.
pub const LOG_MEMORY_LEN_MAX: usize = 16 * 1024 * 1024;

/// What one node says in one shard.
#[derive(Debug, Clone)]
pub struct Log {
    head: SignedHead,
    records: BTreeMap<Slot, Verified>,
    memory_len: usize,
}

/// Two different things that one node signed with one stamp: it was cloned, rolled back, or lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Equivocation {
    Heads(Box<[SignedHead; 2]>),
    Records(Box<[Verified; 2]>),
}

/// What a delta did to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The log is at the delta's head; these records are gone from it.
    Changed { removed: Vec<ShortHash> },
    /// The log was there or further already.
    Known,
}

/// Why a delta was not applied. The log is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It builds on a state that is not here: pull the log.
    #[error("the records do not add up to the head")]
    Mismatch,
    #[error("a record belongs to another log")]
    WrongLog,
    #[error("a record is as late as the head that covers it, or later")]
    Order,
    #[error("the log is too long")]
    TooLong,
    #[error("a revocation would be lost")]
    Revocation,
}

impl Log {
    /// The newest head.
    pub fn head(&self) -> &Head {
        self.head.head()
    }

    pub fn signed_head(&self) -> &SignedHead {
        &self.head
    }

    pub fn origin(&self) -> NodeId {
        self.head.origin()
    }

    pub fn stamp(&self) -> Stamp {
        self.head.stamp()
    }

    /// The records by slot: what others depend on comes first.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Verified> + Clone {
        self.records.values()
    }

    /// About how many bytes of memory the records take.
    pub fn memory_len(&self) -> usize {
        self.memory_len
    }

    pub fn record(&self, slot: &Slot) -> Option<&Verified> {
        self.records.get(slot)
    }

    /// The records that are later than `since`, upwards by stamp.
    pub fn records_since(&self, since: Option<Stamp>) -> Vec<Verified> {
        let mut later: Vec<_> =
            self.records.values().filter(|r| since.is_none_or(|since| r.stamp() > since)).cloned().collect();
        later.sort_by_key(Verified::stamp);
        later
    }

    /// The log from `since` on, as one delta for somebody whose older records are unknown; in parts if the records take more
    /// than `len_max` bytes of a message together.
    pub fn delta_since(&self, since: Option<Stamp>, len_max: usize) -> Delta {
        let mut added = self.records_since(since);
        let mut len = 0;
        let fits = added.iter().take_while(|r| {
            len += r.wire_len();
            len <= len_max
        });
        let count = fits.count().max(1);
        let rest = if count < added.len() {
            added.truncate(count);
            Rest::More
        } else {
            Rest::Live(self.records.values().map(|r| r.hash().into()).collect())
        };
        Delta { head: self.head.clone(), added, rest }
    }

    /// What applying `delta` to a log makes of it; see [`Log::apply`].
    pub fn first(delta: &Delta) -> Result<(Self, Option<Equivocation>), ApplyError> {
        let Checked { by_slot, equivocation, memory_len } =
            Changes::of(&BTreeMap::new(), delta)?.checked(&BTreeMap::new(), delta)?;
        let records = by_slot.into_iter().filter_map(|(slot, record)| Some((slot, record?))).collect();
        Ok((Self { head: delta.head.clone(), records, memory_len }, equivocation))
    }

    /// Brings the log to the delta's head.
    ///
    /// # Errors
    /// See [`ApplyError`]; the log is as it was.
    pub fn apply(&mut self, delta: &Delta) -> Result<(Applied, Option<Equivocation>), ApplyError> {
        if (delta.head.origin(), &delta.head.head().shard) != (self.origin(), &self.head().shard) {
            return Err(ApplyError::WrongLog);
        }
        let mut equivocation = None;
        if delta.head.stamp() == self.stamp() && delta.head.hash() != self.head.hash() {
            equivocation = Some(Equivocation::Heads(Box::new([self.head.clone(), delta.head.clone()])));
        }
        let newer = delta.head.stamp() > self.stamp()
            || delta.head.stamp() == self.stamp() && delta.head.hash() < self.head.hash();
        if !newer {
            return Ok((Applied::Known, equivocation));
        }
        let checked = Changes::of(&self.records, delta)?.checked(&self.records, delta)?;
        let mut removed = Vec::new();
        for (slot, record) in checked.by_slot {
            let old = match record {
                Some(record) => self.records.insert(slot, record),
                None => self.records.remove(&slot),
            };
            removed.extend(old.map(|old| ShortHash::from(old.hash())));
        }
        self.head = delta.head.clone();
        self.memory_len = checked.memory_len;
        Ok((Applied::Changed { removed }, equivocation.or(checked.equivocation)))
    }
}

/// What a delta would change, before it is known to be right.
struct Changes {
    by_slot: BTreeMap<Slot, Option<Verified>>,
    equivocation: Option<Equivocation>,
}

/// Changes that add up to the delta's head.
struct Checked {
    by_slot: BTreeMap<Slot, Option<Verified>>,
    equivocation: Option<Equivocation>,
    /// How much memory the log takes with them.
    memory_len: usize,
}

impl Changes {
    fn of(records: &BTreeMap<Slot, Verified>, delta: &Delta) -> Result<Self, ApplyError> {
        let mut by_slot: BTreeMap<Slot, Option<Verified>> = BTreeMap::new();
        let mut equivocation = None;
        let added: BTreeSet<ShortHash> = delta.added.iter().map(|r| r.hash().into()).collect();
        let (live, removed): (Option<BTreeSet<ShortHash>>, BTreeSet<ShortHash>) = match &delta.rest {
            Rest::Live(live) => (Some(live.iter().copied().collect()), BTreeSet::new()),
            Rest::Removed(removed) => (None, removed.iter().copied().collect()),
            Rest::More => return Err(ApplyError::Mismatch),
        };
        for (slot, record) in records {
            let hash = record.hash().into();
            let stays = live.as_ref().map_or_else(|| !removed.contains(&hash), |live| live.contains(&hash));
            if !stays && !added.contains(&hash) {
                by_slot.insert(slot.clone(), None);
            }
        }
        for record in &delta.added {
            if record.origin() != delta.head.origin() || record.record().shard != delta.head.head().shard {
                return Err(ApplyError::WrongLog);
            }
            if record.stamp() >= delta.head.stamp() {
                return Err(ApplyError::Order);
            }
            let slot = record.slot();
            let before = records.get(&slot);
            let clash = before.filter(|held| held.stamp() == record.stamp() && held.hash() != record.hash());
            // Of a writer that was set back an older record may stand where a newer one stood: what is gone is in nobody's way.
            let held = by_slot.get(&slot).map_or(before, Option::as_ref);
            match held {
                Some(held) if held.hash() == record.hash() => continue,
                Some(held) if held.stamp() > record.stamp() => continue,
                _ => {}
            }
            if let Some(held) = clash.or(held.filter(|held| held.stamp() == record.stamp())) {
                equivocation = Some(Equivocation::Records(Box::new([held.clone(), record.clone()])));
            }
            by_slot.insert(slot, Some(record.clone()));
        }
        Ok(Self { by_slot, equivocation })
    }

    /// The changes, once they are known to add up to the delta's head.
    fn checked(self, records: &BTreeMap<Slot, Verified>, delta: &Delta) -> Result<Checked, ApplyError> {
        let stay = records.iter().filter(|(slot, _)| !self.by_slot.contains_key(slot)).map(|(_, record)| record);
        let set: Vec<&Verified> = stay.chain(self.by_slot.values().flatten()).collect();
        let memory_len = set.iter().map(|record| record.memory_len()).sum::<usize>();
        if set.len() > LOG_RECORD_COUNT_MAX || memory_len > LOG_MEMORY_LEN_MAX {
            return Err(ApplyError::TooLong);
        }
        if SetHash::of(set.iter().map(|r| r.hash())) != delta.head.head().set {
            return Err(ApplyError::Mismatch);
        }
        // Neither taken back nor overwritten by something that nobody reads.
        let revokes = |record: &Verified| matches!(record.body(), Body::Revocation(_));
        let is_lost = |(slot, record): (&Slot, &Option<Verified>)| match record {
            None => slot.kind == Kind::REVOCATION,
            Some(record) => records.get(slot).is_some_and(revokes) && !revokes(record),
        };
        if self.by_slot.iter().any(is_lost) {
            return Err(ApplyError::Revocation);
        }
        Ok(Checked { by_slot: self.by_slot, equivocation: self.equivocation, memory_len })
    }
}

#[cfg(test)]
mod tests;

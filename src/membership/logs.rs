//! All logs that a node holds, and what had to wait: the whole of what it knows.

use std::collections::{BTreeMap, VecDeque};

use super::delta::Delta;
use super::head::SetHash;
use super::log::{Applied, ApplyError, Equivocation, Log};
use super::record::{Shard, Stamp};
use super::signed::{SignedHash, Verified};
use crate::model::NodeId;

/// How many deltas wait for what they depend on.
pub const PARKED_COUNT_MAX: usize = 256;
/// How many proofs of equivocation are kept.
pub const PROOF_COUNT_MAX: usize = 64;
const PARKED_LEN_MAX: usize = 8 * 1024 * 1024;
/// How many bytes of memory the logs of one node take at most, over all shards.
pub const ORIGIN_MEMORY_LEN_MAX: usize = 24 * 1024 * 1024;

/// The logs, by shard and origin.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    shards: BTreeMap<Shard, BTreeMap<NodeId, Log>>,
    parked: VecDeque<Delta>,
    parked_len: usize,
    /// How many parked deltas had to go because there were too many.
    parked_dropped: u64,
    proofs: BTreeMap<(NodeId, Shard, Stamp), Equivocation>,
}

impl Logs {
    /// The logs of a shard, by origin.
    pub fn shard<'a>(&'a self, shard: &Shard) -> impl Iterator<Item = &'a Log> + Clone + use<'a> {
        self.shards.get(shard).into_iter().flat_map(BTreeMap::values)
    }

    /// Every record of a shard.
    pub fn records<'a>(&'a self, shard: &Shard) -> impl Iterator<Item = &'a Verified> + Clone + use<'a> {
        self.shard(shard).flat_map(Log::records)
    }

    pub fn log(&self, shard: &Shard, origin: NodeId) -> Option<&Log> {
        self.shards.get(shard)?.get(&origin)
    }

    /// About how many bytes of memory the logs of one node take.
    pub fn memory_len(&self, origin: NodeId) -> usize {
        self.shards.values().filter_map(|logs| logs.get(&origin)).map(Log::memory_len).sum()
    }

    /// Brings a log to the delta's head. Whether the origin may write in this shard is for the caller to say.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing changed.
    pub fn apply(&mut self, delta: &Delta) -> Result<Applied, ApplyError> {
        let (shard, origin) = (&delta.head.head().shard, delta.head.origin());
        let (applied, equivocation) = match self.shards.get_mut(shard).and_then(|logs| logs.get_mut(&origin)) {
            Some(log) => log.apply(delta)?,
            None => {
                let (log, equivocation) = Log::first(delta)?;
                self.shards.entry(shard.clone()).or_default().insert(origin, log);
                (Applied::Changed { removed: Vec::new() }, equivocation)
            }
        };
        if let Some(equivocation) = equivocation {
            let at = match &equivocation {
                Equivocation::Heads(heads) => heads[0].stamp(),
                Equivocation::Records(records) => records[0].stamp(),
            };
            if self.proofs.len() < PROOF_COUNT_MAX {
                self.proofs.entry((origin, shard.clone(), at)).or_insert(equivocation);
            }
        }
        Ok(applied)
    }

    /// Forgets a shard.
    pub fn drop_shard(&mut self, shard: &Shard) -> Vec<NodeId> {
        self.parked.retain(|delta| delta.head.head().shard != *shard);
        self.parked_len = self.parked.iter().map(delta_len).sum();
        self.shards.remove(shard).into_iter().flat_map(BTreeMap::into_keys).collect()
    }

    /// Forgets one log.
    pub fn drop_log(&mut self, shard: &Shard, origin: NodeId) {
        if let Some(logs) = self.shards.get_mut(shard) {
            logs.remove(&origin);
        }
    }

    /// Keeps a delta until what it depends on is here. One a log is kept, and the oldest go first when there are too many.
    pub fn park(&mut self, delta: Delta) {
        let of = |d: &Delta| (d.head.origin(), d.head.head().shard.clone());
        if let Some(at) = self.parked.iter().position(|parked| of(parked) == of(&delta)) {
            if self.parked[at].head.stamp() >= delta.head.stamp() {
                return;
            }
            self.parked.remove(at).inspect(|old| self.parked_len -= delta_len(old));
        }
        self.parked_len += delta_len(&delta);
        self.parked.push_back(delta);
        while self.parked.len() > PARKED_COUNT_MAX || self.parked_len > PARKED_LEN_MAX {
            let Some(old) = self.parked.pop_front() else { break };
            self.parked_len -= delta_len(&old);
            self.parked_dropped += 1;
        }
    }

    /// Takes out the parked deltas that `ready` says can be applied.
    pub fn unpark(&mut self, mut ready: impl FnMut(&Delta) -> bool) -> Vec<Delta> {
        let (ready, waiting): (Vec<Delta>, VecDeque<Delta>) =
            std::mem::take(&mut self.parked).into_iter().fold((Vec::new(), VecDeque::new()), |mut split, delta| {
                if ready(&delta) {
                    split.0.push(delta)
                } else {
                    split.1.push_back(delta)
                }
                split
            });
        self.parked = waiting;
        self.parked_len = self.parked.iter().map(delta_len).sum();
        ready
    }

    /// How many deltas wait, and how many were dropped since the start because too many did.
    pub fn parked(&self) -> (usize, u64) {
        (self.parked.len(), self.parked_dropped)
    }

    /// One hash over the heads of a shard: two nodes with the same know the same.
    pub fn digest(&self, shard: &Shard) -> SetHash {
        SetHash::of(self.shard(shard).map(|log| SignedHash(*blake3::hash(&log.signed_head().hash().0).as_bytes())))
    }

    /// The proofs that a node signed two different things with one stamp.
    pub fn equivocations(&self) -> impl ExactSizeIterator<Item = (&(NodeId, Shard, Stamp), &Equivocation)> {
        self.proofs.iter()
    }
}

fn delta_len(delta: &Delta) -> usize {
    delta.added.iter().map(Verified::memory_len).sum::<usize>() + 256
}

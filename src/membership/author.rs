//! The writer of a log of our own: changes are collected, and one new head covers them.
//!
//! What is here is ahead of [`super::Logs`]: the shell first puts a sealed delta on disk, then it is applied there and
//! published. Decisions about what we may still give away are taken on this newer state.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use rand_core::RngCore;

use super::body::{Body, Grant, Ungrant};
use super::delta::{Delta, Rest, ShortHash};
use super::head::{Head, SetHash};
use super::log::Log;
use super::record::{Kind, Record, Shard, Slot, Stamp};
use super::signed::{SignedHash, SignedHead, Verified};
use crate::model::{Boot, ClusterId, NodeId, Rev, Seq};

/// Signs, and counts what it signs: no stamp is used twice in a boot.
pub struct Pen {
    key: SigningKey,
    cluster: ClusterId,
    boot: Boot,
    seq: u64,
}

/// A log that this node writes.
#[derive(Debug, Clone)]
pub struct OwnLog {
    shard: Shard,
    records: BTreeMap<Slot, Verified>,
    /// The head that covers all but what changed since.
    sealed: Option<SignedHead>,
    /// What was said or ended since, which nobody else can know of.
    unsealed: BTreeSet<Slot>,
    removed: Vec<ShortHash>,
    changed: bool,
    /// Whether the next head follows from none that we published.
    rebased: bool,
}

impl Pen {
    pub fn new(key: SigningKey, cluster: ClusterId, boot: Boot) -> Self {
        Self { key, cluster, boot, seq: 0 }
    }

    /// The same pen, signing for a cluster that it has just begun.
    pub fn of_cluster(self, cluster: ClusterId) -> Self {
        Self { cluster, ..self }
    }

    pub fn node(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Goes on after `heard`, which this node signed and does not remember.
    pub fn skip_past(&mut self, heard: Boot) {
        if heard >= self.boot {
            (self.boot, self.seq) = (Boot(heard.0 + 1), 0);
        }
    }

    fn next(&mut self) -> Stamp {
        self.seq += 1;
        Stamp { boot: self.boot, seq: Seq(self.seq) }
    }
}

impl OwnLog {
    /// A log without a record.
    pub fn new(shard: Shard) -> Self {
        Self {
            shard,
            records: BTreeMap::new(),
            sealed: None,
            unsealed: BTreeSet::new(),
            removed: Vec::new(),
            changed: false,
            rebased: false,
        }
    }

    /// A log to be gone on with.
    pub fn of(log: &Log) -> Self {
        Self {
            shard: log.head().shard.clone(),
            records: log.records().map(|record| (record.slot(), record.clone())).collect(),
            sealed: Some(log.signed_head().clone()),
            unsealed: BTreeSet::new(),
            removed: Vec::new(),
            changed: false,
            rebased: false,
        }
    }

    pub fn records(&self) -> impl ExactSizeIterator<Item = &Verified> + Clone {
        self.records.values()
    }

    pub fn record(&self, kind: Kind, key: &[u8]) -> Option<&Verified> {
        self.records.get(&Slot::new(kind, key))
    }

    /// Says `body`, in the place of what was said in its slot before.
    pub fn put(&mut self, pen: &mut Pen, body: &Body, rev: Rev) -> Verified {
        self.put_raw(pen, body.kind(), body.key(), rev, body.to_bytes())
    }

    /// Says something whose form this room does not know.
    pub fn put_raw(&mut self, pen: &mut Pen, kind: Kind, key: Vec<u8>, rev: Rev, body: Vec<u8>) -> Verified {
        let Stamp { boot, seq } = pen.next();
        let record = Record { shard: self.shard.clone(), kind, key, boot, seq, rev, body };
        let verified = Verified::sign(&pen.key, pen.cluster, record);
        if let Some(old) = self.records.insert(verified.slot(), verified.clone()) {
            self.removed.push(old.hash().into());
        }
        self.unsealed.insert(verified.slot());
        self.changed = true;
        verified
    }

    /// Says it no more.
    pub fn remove(&mut self, kind: Kind, key: &[u8]) -> Option<Verified> {
        let slot = Slot::new(kind, key);
        let old = self.records.remove(&slot)?;
        self.unsealed.insert(slot);
        self.removed.push(old.hash().into());
        self.changed = true;
        Some(old)
    }

    /// Takes over what this node said once and does not remember. `heard` goes on from what `is_known` of this log:
    ///
    /// - What it says beyond that is said again; what it says no more is gone, unless it was said anew since the start.
    /// - What it says of a time that is known was remembered: if it is not here, it was ended. Nothing ends what is final.
    /// - Nobody of whom this log said whether it is granted goes without a word: two machines wrote the log, and one may have granted
    ///   whom the other had removed. Where neither word would stay, the grant is taken back in so many words, so that a secret follows
    ///   that the node does not know.
    /// - What no head covers yet stands as it is here, said or ended: another log may have moved the pen to a later boot meanwhile.
    pub fn adopt(&mut self, pen: &mut Pen, heard: &Log, is_known: impl Fn(Stamp) -> bool) {
        let this_boot = pen.boot;
        let goes_on = !is_known(heard.stamp());
        let is_final = |record: &Verified| record.record().kind.is_final();
        let unsealed = std::mem::take(&mut self.unsealed);
        let is_anew = |own: &Verified| own.record().boot == this_boot || unsealed.contains(&own.slot());
        let mut ours = std::mem::take(&mut self.records);
        let mut again = Vec::new();
        for record in heard.records() {
            match ours.remove(&record.slot()) {
                Some(own) if is_anew(&own) && own != *record => again.push(own),
                Some(own) if own.stamp() > record.stamp() => drop(self.records.insert(own.slot(), own)),
                None if !is_final(record) && (is_known(record.stamp()) || unsealed.contains(&record.slot())) => {}
                _ => drop(self.records.insert(record.slot(), record.clone())),
            }
        }
        let mut lost = Vec::new();
        for own in ours.into_values() {
            if is_anew(&own) {
                again.push(own);
            } else if !(goes_on && is_known(own.stamp()) && own.stamp() < heard.stamp()) || is_final(&own) {
                self.records.insert(own.slot(), own);
            } else {
                match own.body() {
                    Body::Grant(Grant { node, .. }) => lost.push((*node, own.record().rev.next())),
                    Body::Ungrant(Ungrant { node }) => lost.push((*node, own.record().rev)),
                    _ => {}
                }
            }
        }
        self.unsealed = unsealed;
        pen.skip_past(heard.head().boot);
        for record in again {
            let Record { kind, key, rev, body, .. } = record.record().clone();
            self.put_raw(pen, kind, key, rev, body);
        }
        for (node, rev) in lost {
            if [Kind::GRANT, Kind::UNGRANT].into_iter().all(|kind| self.record(kind, &node.0).is_none()) {
                self.put(pen, &Body::Ungrant(Ungrant { node }), rev);
            }
        }
        if self.sealed.as_ref().is_none_or(|sealed| sealed.stamp() < heard.stamp()) {
            self.sealed = Some(heard.signed_head().clone());
        }
        self.removed.clear();
        self.changed = true;
        self.rebased = true;
    }

    /// The hash of the newest head that was sealed or taken over.
    pub fn head(&self) -> Option<SignedHash> {
        self.sealed.as_ref().map(SignedHead::hash)
    }

    /// The newest head that was sealed or taken over.
    pub fn stamp(&self) -> Option<Stamp> {
        self.sealed.as_ref().map(SignedHead::stamp)
    }

    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Covers what changed with a new head; `None` if nothing did.
    pub fn seal(&mut self, pen: &mut Pen, rng: &mut impl RngCore) -> Option<Delta> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let rebased = std::mem::take(&mut self.rebased);
        let since = self.sealed.as_ref().map(SignedHead::stamp).filter(|_| !rebased);
        let Stamp { boot, seq } = pen.next();
        let mut nonce = [0; 8];
        rng.fill_bytes(&mut nonce);
        let set = SetHash::of(self.records.values().map(Verified::hash));
        let head = SignedHead::sign(&pen.key, pen.cluster, Head { shard: self.shard.clone(), boot, seq, nonce, set });
        let mut added: Vec<_> =
            self.records.values().filter(|r| since.is_none_or(|since| r.stamp() > since)).cloned().collect();
        added.sort_by_key(Verified::stamp);
        self.sealed = Some(head.clone());
        self.unsealed.clear();
        let removed = std::mem::take(&mut self.removed);
        let live = || added.iter().map(|record| record.hash().into()).collect();
        let rest = if rebased { Rest::Live(live()) } else { Rest::Removed(removed) };
        Some(Delta { head, added, rest })
    }

    /// All of the log as `sealed` leaves it, for somebody who has nothing of it.
    pub fn whole(&self, sealed: &Delta) -> Delta {
        let mut added: Vec<_> = self.records.values().cloned().collect();
        added.sort_by_key(Verified::stamp);
        Delta { head: sealed.head.clone(), added, rest: Rest::Removed(Vec::new()) }
    }
}

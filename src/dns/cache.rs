//! What upstreams have said, for as long as they said it holds.
//!
//! Each network has its own part: how fast an answer comes must not tell what another network has asked.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::foreign::{ForeignKey, Found};
use crate::model::NetworkId;

type Key = (NetworkId, ForeignKey);

/// What an entry takes beside what was asked and answered, roughly.
const ENTRY_BYTES: usize = 512;

/// A bounded memory. When it is full, what ends first goes first.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// By when they end; the number tells apart what ends at once.
    ends: BTreeMap<(Instant, u64), Key>,
    weight_bytes: usize,
    weight_bytes_max: usize,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    found: Arc<Found>,
    since: Instant,
    end: (Instant, u64),
}

impl Cache {
    /// An empty cache that takes about as much memory at most.
    pub fn new(weight_bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), ends: BTreeMap::new(), weight_bytes: 0, weight_bytes_max, next: 0 }
    }

    /// What was found, and how many seconds ago.
    pub fn find(&self, network: &NetworkId, key: &ForeignKey, now: Instant) -> Option<(Arc<Found>, u32)> {
        let entry = self.entries.get(&(network.clone(), key.clone())).filter(|entry| entry.end.0 > now)?;
        let age = now.saturating_duration_since(entry.since).as_secs();
        Some((entry.found.clone(), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Keeps what was found, if it may be kept.
    pub fn insert(&mut self, network: &NetworkId, key: &ForeignKey, found: &Arc<Found>, now: Instant) {
        let (ttl, weight) = (found.ttl_s(), weight_bytes(key, found));
        if ttl == 0 || weight > self.weight_bytes_max {
            return;
        }
        let key = (network.clone(), key.clone());
        self.remove(&key);
        while self.weight_bytes + weight > self.weight_bytes_max {
            let Some((_, first)) = self.ends.first_key_value() else { break };
            self.remove(&first.clone());
        }
        let end = (now + Duration::from_secs(ttl.into()), self.next);
        self.next += 1;
        self.weight_bytes += weight;
        self.ends.insert(end, key.clone());
        self.entries.insert(key, Entry { found: found.clone(), since: now, end });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.ends.remove(&entry.end);
            self.weight_bytes -= weight_bytes(&key.1, &entry.found);
        }
    }
}

/// About how much memory an entry takes. Its key stands in both maps.
fn weight_bytes(key: &ForeignKey, found: &Found) -> usize {
    ENTRY_BYTES + 2 * key.len_bytes() + found.len_bytes()
}

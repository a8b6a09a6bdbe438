//! Two limits of rate: what strangers may make this node do, and how many ICMP errors a container gets.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const CELLS: usize = 4096;

/// Admits a number of things per second and source, in a fixed amount of memory.
///
/// Sources share cells by a hash with a secret seed: nobody can grow a table by inventing addresses, and one who wants to
/// exhaust another's cell must hit it by chance. An IPv6 source is its /64, which is what one party holds.
pub(super) struct SourceGate {
    seed: u64,
    per_second: u8,
    counts: Box<[u8; CELLS]>,
    since: Option<Instant>,
}

impl SourceGate {
    pub(super) fn new(seed: u64, per_second: u8) -> Self {
        Self { seed, per_second, counts: Box::new([0; CELLS]), since: None }
    }

    pub(super) fn admit(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            self.since = Some(now);
            self.counts.fill(0);
        }
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        match source {
            IpAddr::V4(address) => address.hash(&mut hasher),
            IpAddr::V6(address) => address.segments()[..4].hash(&mut hasher),
        }
        let count = &mut self.counts[hasher.finish() as usize % CELLS];
        let admitted = *count < self.per_second;
        *count = count.saturating_add(1);
        admitted
    }
}

/// Admits `per_second` things a second, and as many at once.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: u32,
    /// In billionths of a token, so that short times count.
    level: u64,
    at: Instant,
}

const TOKEN: u64 = 1_000_000_000;

impl TokenBucket {
    pub(super) fn new(now: Instant, per_second: u32) -> Self {
        Self { per_second, level: u64::from(per_second) * TOKEN, at: now }
    }

    pub(super) fn admit(&mut self, now: Instant) -> bool {
        let full = u64::from(self.per_second) * TOKEN;
        let elapsed = now.saturating_duration_since(self.at).min(Duration::from_secs(1)).as_nanos() as u64;
        self.level = (self.level + elapsed * u64::from(self.per_second)).min(full);
        self.at = self.at.max(now);
        let admitted = self.level >= TOKEN;
        if admitted {
            self.level -= TOKEN;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::start;

    #[test]
    fn a_source_gets_its_share_each_second_and_takes_nobody_elses() {
        let (mut gate, now) = (SourceGate::new(1, 20), start());
        let (loud, quiet) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        assert_eq!((0..1000).filter(|_| gate.admit(now, loud)).count(), 20);
        assert!(gate.admit(now, quiet));
        assert!(gate.admit(now + Duration::from_secs(1), loud));
    }

    #[test]
    fn one_slash_64_is_one_source() {
        let (mut gate, now) = (SourceGate::new(1, 20), start());
        let admitted =
            (0..1000u16).filter(|i| gate.admit(now, IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, *i]))).count();
        assert_eq!(admitted, 20);
    }

    #[test]
    fn a_bucket_refills_with_time() {
        let now = start();
        let mut bucket = TokenBucket::new(now, 10);
        assert_eq!((0..100).filter(|_| bucket.admit(now)).count(), 10);
        assert_eq!((0..100).filter(|_| bucket.admit(now + Duration::from_millis(350))).count(), 3);
        assert_eq!((0..100).filter(|_| bucket.admit(now + Duration::from_secs(3600))).count(), 10);
    }
}

//! Three limits of rate: what strangers may make this node do, how many ICMP errors a container gets, and how fast tunnels open.

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

/// How far apart a node's own initiations are when it wants many tunnels at once. A handshake takes each end about 0.3 ms: at the
/// speed of their wishes two nodes with 10,000 pairs of containers would answer attempts long given up, and nothing else.
const INITIATION_GAP: Duration = Duration::from_millis(1);
/// So many go without a gap.
const INITIATION_BURST: u32 = 100;
/// A turn further away is not waited for: whoever still wants the tunnel then asks again.
const TURN_MAX: Duration = Duration::from_secs(12);

/// Gives initiations their turns: a leaky bucket whose overflow is booked (the generic cell rate algorithm, ITU-T I.371).
#[derive(Default)]
pub(super) struct Pacer {
    /// When the bucket will be empty.
    empty_at: Option<Instant>,
}

/// When an initiation may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Instant),
    Never,
}

impl Pacer {
    /// Books the next turn.
    pub(super) fn book(&mut self, now: Instant) -> Turn {
        let empty_at = self.empty_at.map_or(now, |at| at.max(now));
        let wait = (empty_at - now).saturating_sub(INITIATION_GAP * INITIATION_BURST);
        if wait > TURN_MAX {
            return Turn::Never;
        }
        self.empty_at = Some(empty_at + INITIATION_GAP);
        if wait.is_zero() { Turn::Now } else { Turn::At(now + wait) }
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

    #[test]
    fn a_burst_of_initiations_goes_at_once_and_the_others_a_gap_apart_and_none_waits_for_ever() {
        let (mut pacer, begun) = (Pacer::default(), start());
        let turns: Vec<_> = (0..20_000).map(|_| pacer.book(begun)).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Now).count(), 101);
        assert_eq!(turns[101..103], [1, 2].map(|ms| Turn::At(begun + Duration::from_millis(ms))));
        let last = turns.iter().rposition(|turn| *turn != Turn::Never).expect("some go");
        assert_eq!(turns[last], Turn::At(begun + TURN_MAX));
        assert_eq!(pacer.book(begun + Duration::from_secs(30)), Turn::Now);
    }
}

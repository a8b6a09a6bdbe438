//! The queue between the devices and the cipher: every flow has its turn, and one that keeps a queue standing hears of it.
//!
//! After RFC 8290 (FQ-CoDel): flows are served by deficit round robin, and one that has just begun to send goes first, so a
//! lone packet waits for one burst at most, whatever else is queued. A flow whose packets have waited long for a while is told
//! so: [`Popped::congested`] says which packet shall carry the news. Because flows pass each other here, a long queue harms
//! nobody but its own flow; so the target is longer than CoDel's, and a whole TCP window may wait at the speed of the cipher.
//!
//! What is queued is the caller's. The queue reads no clock, and bounds nothing: whoever fills it knows how much there may be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Flows are told apart by so many values of their hash; those that share one share its turn.
const BUCKETS: usize = 256;
/// What a flow may send in its turn: one of the largest packets.
const QUANTUM_BYTES: isize = 64 * 1024;
/// A packet that has waited for longer stands in a queue that does nobody any good.
const TARGET: Duration = Duration::from_millis(20);
/// The flow is told when all packets have waited so long for so long: an interval of RFC 8289, a long round trip.
const INTERVAL: Duration = Duration::from_millis(100);

/// A fair queue of `T`.
#[derive(Debug)]
pub struct FairQueue<T> {
    buckets: Vec<Bucket<T>>,
    /// Buckets with packets that have had no turn yet, and all others with packets.
    fresh: VecDeque<u8>,
    rest: VecDeque<u8>,
    len: usize,
}

#[derive(Debug)]
struct Bucket<T> {
    packets: VecDeque<Packet<T>>,
    /// What it may still send in this turn.
    credit: isize,
    waiting: bool,
    control: Control,
}

#[derive(Debug)]
struct Packet<T> {
    since: Instant,
    cost_bytes: usize,
    item: T,
}

/// What comes out.
#[derive(Debug)]
pub struct Popped<T> {
    pub item: T,
    /// As it was pushed.
    pub cost_bytes: usize,
    /// The flow keeps a queue standing: mark this packet, or drop some of it.
    pub congested: bool,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let bucket = || Bucket { packets: VecDeque::new(), credit: 0, waiting: false, control: Control::default() };
        Self {
            buckets: (0..BUCKETS).map(|_| bucket()).collect(),
            fresh: VecDeque::new(),
            rest: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a packet of the flow with this hash, which takes as much work as `cost_bytes` of bulk traffic do. One that costs
    /// more than a turn uses up the next ones too.
    pub fn push(&mut self, now: Instant, hash: u64, cost_bytes: usize, item: T) {
        let index = hash as u8;
        let bucket = &mut self.buckets[usize::from(index)];
        bucket.packets.push_back(Packet { since: now, cost_bytes, item });
        self.len += 1;
        if !std::mem::replace(&mut bucket.waiting, true) {
            bucket.credit = QUANTUM_BYTES;
            self.fresh.push_back(index);
        }
    }

    /// The packet whose turn it is.
    ///
    /// A flow whose next packet `may_go` refuses is passed by, to the end of its line. `may_go` is told whether the flow has just
    /// begun to send: what holds up bulk traffic need not hold up a lone packet. `None` if nobody may go.
    pub fn pop(&mut self, now: Instant, mut may_go: impl FnMut(&mut T, bool) -> bool) -> Option<Popped<T>> {
        let (mut passed_by, mut passes_fresh) = (0, false);
        loop {
            let is_fresh = !passes_fresh && !self.fresh.is_empty();
            let line = if is_fresh { &mut self.fresh } else { &mut self.rest };
            let index = *line.front()?;
            let bucket = &mut self.buckets[usize::from(index)];
            if bucket.credit <= 0 {
                bucket.credit += QUANTUM_BYTES;
                line.pop_front();
                self.rest.push_back(index);
                // It has not been asked yet, and may be the one that may go.
                passed_by = 0;
                continue;
            }
            if bucket.packets.front_mut().is_some_and(|packet| !may_go(&mut packet.item, is_fresh)) {
                if passed_by < line.len() {
                    passed_by += 1;
                    line.rotate_left(1);
                } else if is_fresh {
                    (passed_by, passes_fresh) = (0, true);
                } else {
                    return None;
                }
                continue;
            }
            let Some(packet) = bucket.packets.pop_front() else {
                line.pop_front();
                // One that was fresh passes through the line of all once, or it could be fresh again and again.
                if is_fresh && !self.rest.is_empty() {
                    self.rest.push_back(index);
                } else {
                    bucket.waiting = false;
                }
                continue;
            };
            self.len -= 1;
            bucket.credit -= packet.cost_bytes as isize;
            // The last packet of a flow is no queue, however long it waited.
            let waited = now.saturating_duration_since(packet.since);
            let congested = bucket.control.congested(now, waited > TARGET && !bucket.packets.is_empty());
            return Some(Popped { item: packet.item, cost_bytes: packet.cost_bytes, congested });
        }
    }
}

/// When a flow is told that its queue stands: the control law of RFC 8289 §4.
#[derive(Debug, Default)]
struct Control {
    /// When the queue will have stood long enough.
    standing_at: Option<Instant>,
    /// While it stands: when the flow is told next, and how often it was.
    telling: Option<(Instant, u32)>,
}

impl Control {
    fn congested(&mut self, now: Instant, above_target: bool) -> bool {
        if !above_target {
            *self = Self::default();
            return false;
        }
        let standing_at = *self.standing_at.get_or_insert(now + INTERVAL);
        match self.telling {
            None if now >= standing_at => self.telling = Some((now + INTERVAL, 1)),
            Some((next, told)) if now >= next => {
                self.telling = Some((next + INTERVAL.div_f64(f64::from(told + 1).sqrt()), told + 1));
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::start;
    use proptest::prelude::*;

    fn pops(queue: &mut FairQueue<u32>, now: Instant, count: usize) -> Vec<u32> {
        (0..count).filter_map(|_| queue.pop(now, |_, _| true)).map(|popped| popped.item).collect()
    }

    #[test]
    fn a_lone_packet_overtakes_a_bulk_flow_at_once() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..40).for_each(|i| queue.push(now, 1, 60_000, i));
        assert_eq!(pops(&mut queue, now, 3), [0, 1, 2]);
        queue.push(now, 2, 84, 1000);
        assert_eq!(pops(&mut queue, now, 3), [1000, 3, 4]);
    }

    #[test]
    fn bulk_flows_take_turns_by_bytes_and_keep_their_order() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..100).for_each(|i| queue.push(now, 1, 65_536, i));
        (0..400).for_each(|i| queue.push(now, 2, 16_384, 1000 + i));
        let popped = pops(&mut queue, now, 100);
        let (large, small): (Vec<u32>, Vec<u32>) = popped.iter().partition(|item| **item < 1000);
        assert_eq!(small.len() / large.len(), 4);
        assert!(large.is_sorted() && small.is_sorted());
    }

    #[test]
    fn a_flow_that_comes_back_in_every_moment_does_not_starve_the_others() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..50).for_each(|i| queue.push(now, 1, 65_536, i));
        let mut bulk = 0;
        for i in 0..200 {
            queue.push(now, 2, 60_000, 1000 + i);
            bulk += u32::from(pops(&mut queue, now, 1)[0] < 1000);
        }
        assert!(bulk >= 49, "{bulk}");
    }

    #[test]
    fn a_flow_that_may_not_go_is_passed_by_among_those_that_have_just_begun_too() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..4).for_each(|i| queue.push(now, 1, 60_000, i));
        (0..4).for_each(|i| queue.push(now, 2, 60_000, 100 + i));
        // Both have had their first turn, of which 5,536 bytes are left each.
        assert_eq!(pops(&mut queue, now, 4), [0, 1, 100, 101]);
        let mut only = |from: u32| queue.pop(now, |item, _| *item >= from).map(|popped| popped.item);
        assert_eq!([only(100), only(100), only(100), only(0)], [Some(102), Some(103), None, Some(2)]);
        // Those that have just begun are told apart, and no less passed by.
        (3..6).for_each(|flow| queue.push(now, flow, 84, flow as u32 * 1_000));
        assert!(queue.pop(now, |_, _| false).is_none());
        assert_eq!(queue.pop(now, |item, _| *item < 1_000).map(|popped| popped.item), Some(3));
        assert_eq!(queue.pop(now, |item, _| *item == 4_000).map(|popped| popped.item), Some(4_000));
        let mut fresh = || queue.pop(now, |_, is_fresh| is_fresh).map(|popped| popped.item);
        assert_eq!([fresh(), fresh(), fresh()], [Some(5_000), Some(3_000), None]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_packet_that_costs_many_turns_pays_with_them_and_is_found_behind_one_that_may_not_go() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..4).for_each(|i| queue.push(now, 1, 8 * 65_536, i));
        (0..40).for_each(|i| queue.push(now, 2, 65_536, 100 + i));
        let popped = pops(&mut queue, now, 20);
        assert_eq!(popped.iter().filter(|item| **item < 100).count(), 3, "{popped:?}");
        // The one that still pays for its last packet may go, the other may not.
        assert_eq!(
            queue.pop(now, |item, _| *item < 100).map(|popped| (popped.item, popped.cost_bytes)),
            Some((3, 8 * 65_536))
        );
        assert!(queue.pop(now, |item, _| *item < 100).is_none());
    }

    /// Pops and pushes a packet every millisecond, so that each waits `depth` ms; when the flow was told, in ms.
    fn told(depth: u32, steps: u32) -> Vec<u128> {
        let (mut queue, begun) = (FairQueue::default(), start());
        (0..depth).for_each(|i| queue.push(begun, 1, 1_000, i));
        let popped = (0..steps).map(|i| {
            let now = begun + Duration::from_millis(i.into());
            queue.push(now, 1, 1_000, i);
            (queue.pop(now, |_, _| true).expect("one waits").congested, (now - begun).as_millis())
        });
        popped.filter(|(congested, _)| *congested).map(|(_, at)| at).collect()
    }

    #[test]
    fn a_queue_that_stands_is_told_after_an_interval_and_ever_more_often_and_a_short_one_never() {
        let told_at = told(30, 3_000);
        assert!((100..140).contains(&told_at[0]), "{told_at:?}");
        let gaps: Vec<_> = told_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[0], 100);
        assert!(gaps.len() > 30 && gaps[gaps.len() - 1] < 30, "{gaps:?}");
        assert_eq!(told(15, 3_000), []);
    }

    #[test]
    fn a_burst_that_is_gone_within_the_interval_is_not_told() {
        let (mut queue, mut now) = (FairQueue::default(), start());
        for _ in 0..20 {
            (0..90).for_each(|i| queue.push(now, 1, 65_536, i));
            for _ in 0..90 {
                now += Duration::from_millis(1);
                assert!(!queue.pop(now, |_, _| true).expect("one waits").congested);
            }
        }
    }

    #[test]
    fn only_the_flow_that_stands_is_told() {
        let (mut queue, mut now) = (FairQueue::default(), start());
        (0..60).for_each(|i| queue.push(now, 1, 65_536, i));
        let mut told = 0;
        for i in 0..1_000 {
            now += Duration::from_millis(1);
            queue.push(now, 2, 1_000, 1000 + i);
            queue.push(now, 1, 65_536, i);
            for popped in [queue.pop(now, |_, _| true), queue.pop(now, |_, _| true)].into_iter().flatten() {
                told += u32::from(popped.congested);
                assert!(popped.item < 1000 || !popped.congested);
            }
        }
        assert!(told > 5);
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_the_order_of_its_flow(
            steps in proptest::collection::vec((0u64..5, 1usize..70_000, any::<bool>()), 1..300),
        ) {
            let (mut queue, now) = (FairQueue::default(), start());
            let (mut pushed, mut popped) = (0, Vec::new());
            for (flow, len, pop) in steps {
                queue.push(now, flow, len, (flow, pushed));
                pushed += 1;
                if pop {
                    popped.extend(queue.pop(now, |_, _| true).map(|popped| popped.item));
                }
            }
            prop_assert_eq!(queue.len() + popped.len(), pushed);
            popped.extend(std::iter::from_fn(|| queue.pop(now, |_, _| true)).map(|popped| popped.item));
            prop_assert!(queue.is_empty() && popped.len() == pushed);
            for flow in 0..5 {
                prop_assert!(popped.iter().filter(|item| item.0 == flow).is_sorted());
            }
        }
    }
}

//! The queue between the devices and the cipher: every flow has its turn, and one that keeps a queue standing hears of it.
//!
//! After RFC 8290 (FQ-CoDel): flows are served by deficit round robin, and one that has just begun to send goes first, so a
//! lone packet waits for one burst at most, whatever else is queued. A flow that keeps a queue standing is told so:
//! [`Popped::congested`] says which packet shall carry the news.
//!
//! CoDel's target is a time, 5 ms through 100 ms (RFC 8289). Here it is an amount and shorter, because what must be kept short
//! is the window: whatever of it does not wait here waits in the receiving node's socket, where a flow's packets and
//! everybody else's stand in one line. A window of 4 MB made a ping wait for 8 ms there, one of this size for one.
//!
//! What is queued is the caller's. The queue reads no clock, and bounds nothing: whoever fills it knows how much there may be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Flows are told apart by so many values of their hash; those that share one share its turn.
const BUCKETS: usize = 256;
/// What a flow may send in its turn: one of the largest packets.
const QUANTUM_BYTES: isize = 64 * 1024;
/// More than this is more than the cipher needs to be kept busy.
const TARGET_BYTES: usize = 256 * 1024;
/// A queue stands when it has been above the target for so long: a burst is encrypted by then.
const STANDING: Duration = Duration::from_millis(1);
/// A flow is told again after so long, and then sooner and sooner (RFC 8289 §4.3): it takes a round trip to slow down.
const REPEAT: Duration = Duration::from_millis(10);

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
    packets: VecDeque<(usize, T)>,
    bytes: usize,
    /// What it may still send in this turn.
    credit: isize,
    waiting: bool,
    control: Control,
}

/// What comes out.
#[derive(Debug)]
pub struct Popped<T> {
    pub item: T,
    /// The flow keeps a queue standing: mark this packet, or drop some of it.
    pub congested: bool,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let bucket =
            || Bucket { packets: VecDeque::new(), bytes: 0, credit: 0, waiting: false, control: Control::default() };
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

    /// Takes a packet of `len_bytes` of the flow with this hash.
    pub fn push(&mut self, hash: u64, len_bytes: usize, item: T) {
        let index = hash as u8;
        let bucket = &mut self.buckets[usize::from(index)];
        bucket.packets.push_back((len_bytes, item));
        bucket.bytes += len_bytes;
        self.len += 1;
        if !std::mem::replace(&mut bucket.waiting, true) {
            bucket.credit = QUANTUM_BYTES;
            self.fresh.push_back(index);
        }
    }

    /// The packet whose turn it is.
    pub fn pop(&mut self, now: Instant) -> Option<Popped<T>> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let line = if is_fresh { &mut self.fresh } else { &mut self.rest };
            let index = *line.front()?;
            let bucket = &mut self.buckets[usize::from(index)];
            if bucket.credit <= 0 {
                bucket.credit += QUANTUM_BYTES;
                line.pop_front();
                self.rest.push_back(index);
                continue;
            }
            let Some((len_bytes, item)) = bucket.packets.pop_front() else {
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
            bucket.credit -= len_bytes as isize;
            let congested = bucket.control.congested(now, bucket.bytes);
            bucket.bytes -= len_bytes;
            return Some(Popped { item, congested });
        }
    }
}

/// When a flow is told that its queue stands: the control law of RFC 8289 §4, on bytes.
#[derive(Debug, Default)]
struct Control {
    /// When the queue will have stood long enough.
    standing_at: Option<Instant>,
    /// While it stands: when the flow is told next, and how often it was.
    telling: Option<(Instant, u32)>,
}

impl Control {
    fn congested(&mut self, now: Instant, queued_bytes: usize) -> bool {
        if queued_bytes <= TARGET_BYTES {
            *self = Self::default();
            return false;
        }
        let standing_at = *self.standing_at.get_or_insert(now + STANDING);
        match self.telling {
            None if now >= standing_at => self.telling = Some((now + REPEAT, 1)),
            Some((next, told)) if now >= next => {
                self.telling = Some((next + REPEAT.div_f64(f64::from(told + 1).sqrt()), told + 1));
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
        (0..count).filter_map(|_| queue.pop(now)).map(|popped| popped.item).collect()
    }

    #[test]
    fn a_lone_packet_overtakes_a_bulk_flow_at_once() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..40).for_each(|i| queue.push(1, 60_000, i));
        assert_eq!(pops(&mut queue, now, 3), [0, 1, 2]);
        queue.push(2, 84, 1000);
        assert_eq!(pops(&mut queue, now, 3), [1000, 3, 4]);
    }

    #[test]
    fn bulk_flows_take_turns_by_bytes_and_keep_their_order() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..100).for_each(|i| queue.push(1, 65_536, i));
        (0..400).for_each(|i| queue.push(2, 16_384, 1000 + i));
        let popped = pops(&mut queue, now, 100);
        let (large, small): (Vec<u32>, Vec<u32>) = popped.iter().partition(|item| **item < 1000);
        assert_eq!(small.len() / large.len(), 4);
        assert!(large.is_sorted() && small.is_sorted());
    }

    #[test]
    fn a_flow_that_comes_back_in_every_moment_does_not_starve_the_others() {
        let (mut queue, now) = (FairQueue::default(), start());
        (0..50).for_each(|i| queue.push(1, 65_536, i));
        let mut bulk = 0;
        for i in 0..200 {
            queue.push(2, 60_000, 1000 + i);
            bulk += u32::from(pops(&mut queue, now, 1)[0] < 1000);
        }
        assert!(bulk >= 49, "{bulk}");
    }

    #[test]
    fn a_standing_queue_is_told_at_once_and_ever_more_often_and_a_short_one_never() {
        let (mut queue, begun) = (FairQueue::default(), start());
        let (mut told, mut now) = (Vec::new(), begun);
        (0..10).for_each(|i| queue.push(1, 60_000, i));
        // Ten packets of 100 us each wait all the time.
        for i in 10..2000 {
            now += Duration::from_micros(100);
            queue.push(1, 60_000, i);
            if queue.pop(now).expect("one waits").congested {
                told.push((now - begun).as_micros());
            }
        }
        assert!((1000..1300).contains(&told[0]), "{told:?}");
        let gaps: Vec<_> = told.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[0], 10_000);
        assert!(gaps.len() > 20 && gaps[gaps.len() - 1] < 3_000, "{gaps:?}");

        let mut short = FairQueue::default();
        for i in 0..1000 {
            (0..4).for_each(|_| short.push(1, 60_000, i));
            now += Duration::from_millis(4);
            assert!((0..4).all(|_| !short.pop(now).expect("one waits").congested));
        }
    }

    #[test]
    fn a_burst_that_is_gone_within_the_time_is_not_told() {
        let (mut queue, mut now) = (FairQueue::default(), start());
        for _ in 0..50 {
            (0..16).for_each(|i| queue.push(1, 65_536, i));
            for _ in 0..16 {
                now += Duration::from_micros(80);
                assert!(!queue.pop(now).expect("one waits").congested);
            }
            now += Duration::from_millis(1);
        }
    }

    #[test]
    fn only_the_flow_that_stands_is_told() {
        let (mut queue, mut now) = (FairQueue::default(), start());
        (0..20).for_each(|i| queue.push(1, 65_536, i));
        for i in 0..500 {
            now += Duration::from_micros(500);
            queue.push(2, 1_000, 1000 + i);
            queue.push(1, 65_536, i);
            for popped in [queue.pop(now), queue.pop(now)].into_iter().flatten() {
                assert!(popped.item < 1000 || !popped.congested);
            }
        }
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_the_order_of_its_flow(
            steps in proptest::collection::vec((0u64..5, 1usize..70_000, any::<bool>()), 1..300),
        ) {
            let (mut queue, now) = (FairQueue::default(), start());
            let (mut pushed, mut popped) = (0, Vec::new());
            for (flow, len, pop) in steps {
                queue.push(flow, len, (flow, pushed));
                pushed += 1;
                if pop {
                    popped.extend(queue.pop(now).map(|popped| popped.item));
                }
            }
            prop_assert_eq!(queue.len() + popped.len(), pushed);
            popped.extend(std::iter::from_fn(|| queue.pop(now)).map(|popped| popped.item));
            prop_assert!(queue.is_empty() && popped.len() == pushed);
            for flow in 0..5 {
                prop_assert!(popped.iter().filter(|item| item.0 == flow).is_sorted());
            }
        }
    }
}

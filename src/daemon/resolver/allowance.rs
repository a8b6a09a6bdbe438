//! How much of something one container may have: so many a second, and so many at once.

use std::time::{Duration, Instant};

/// One container's allowance. Unused parts of a second are kept up to one second.
#[derive(Debug)]
pub struct Allowance {
    interval: Duration,
    /// When the next one would be due if each took its interval; up to one second behind the clock.
    due: Instant,
    under_way: u32,
    under_way_max: u32,
}

impl Allowance {
    /// An allowance that nothing has been taken of.
    pub fn new(now: Instant, per_second: u32, under_way_max: u32) -> Self {
        let second = Duration::from_secs(1);
        Self { interval: second / per_second, due: now.checked_sub(second).unwrap_or(now), under_way: 0, under_way_max }
    }

    /// Begins one, if it is allowed.
    pub fn begin(&mut self, now: Instant) -> bool {
        let floor = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let due = self.due.max(floor);
        if self.under_way >= self.under_way_max || due > now {
            return false;
        }
        self.due = due + self.interval;
        self.under_way += 1;
        true
    }

    /// How many there are at this moment.
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// One has ended.
    pub fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Whether nothing is under way and all of it is there again.
    pub fn is_whole(&self, now: Instant) -> bool {
        self.under_way == 0 && now.saturating_duration_since(self.due) >= Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(allowance: &mut Allowance, now: Instant) -> usize {
        (0..10_000).filter(|_| allowance.begin(now)).count()
    }

    #[test]
    fn there_are_so_many_a_second_and_no_more_are_saved() {
        let now = crate::sys::clock::now();
        let mut allowance = Allowance::new(now, 200, 100_000);
        assert!((200..=201).contains(&begun(&mut allowance, now)));
        assert_eq!(begun(&mut allowance, now), 0);
        assert_eq!(begun(&mut allowance, now + Duration::from_millis(500)), 100);
        assert!((200..=201).contains(&begun(&mut allowance, now + Duration::from_secs(100))));
    }

    #[test]
    fn there_are_so_many_at_once() {
        let now = crate::sys::clock::now();
        let mut allowance = Allowance::new(now, 1000, 3);
        assert_eq!(begun(&mut allowance, now), 3);
        allowance.end();
        assert_eq!(begun(&mut allowance, now), 1);
        assert!(!allowance.is_whole(now + Duration::from_secs(9)));
        (0..3).for_each(|_| allowance.end());
        assert!(allowance.is_whole(now + Duration::from_secs(9)));
    }
}

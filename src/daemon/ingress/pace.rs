//! How soon nginx may be reloaded again.
//!
//! Each reload leaves the workers of the configuration before to what they have under way. Where connections last long, as
//! WebSockets do, generation stands beside generation, and each takes memory: the more there are, the longer the next one waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So many generations wait for nothing.
const GENERATIONS_FREE: usize = 8;
/// What one more waits for, since the last reload; twice as long for each further one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Which worker is of which reload.
#[derive(Debug, Default)]
pub struct Generations {
    by_worker: BTreeMap<u32, u64>,
    newest: u64,
}

impl Generations {
    /// How many have a worker, of those that run.
    pub fn count(&mut self, workers: &[u32]) -> usize {
        self.by_worker.retain(|worker, _| workers.contains(worker));
        for worker in workers {
            self.by_worker.entry(*worker).or_insert(self.newest);
        }
        self.by_worker.values().collect::<BTreeSet<_>>().len()
    }

    /// Workers that nobody has seen yet are of another generation from now on.
    pub fn begin(&mut self) {
        self.newest += 1;
    }
}

/// How long after a reload there is no other, where there are so many generations.
pub fn pause(generations: usize) -> Duration {
    let Some(doubled) = generations.checked_sub(GENERATIONS_FREE + 1) else { return Duration::ZERO };
    let factor = u32::try_from(doubled).ok().and_then(|doubled| 2u32.checked_pow(doubled));
    factor.and_then(|factor| PAUSE.checked_mul(factor)).map_or(PAUSE_MAX, |pause| pause.min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_generations_there_are_the_longer_the_next_reload_waits() {
        assert_eq!([0, 1, 8].map(pause), [Duration::ZERO; 3]);
        assert_eq!([9, 10, 14].map(pause), [PAUSE, PAUSE * 2, PAUSE * 32]);
        assert_eq!([15, 41, 1 << 40].map(pause), [PAUSE_MAX; 3]);
    }

    #[test]
    fn a_generation_counts_as_long_as_one_of_its_workers_runs() {
        let mut generations = Generations::default();
        assert_eq!(generations.count(&[10, 11]), 1);
        generations.begin();
        assert_eq!(generations.count(&[10, 11, 20, 21]), 2);
        // One that nginx starts in the place of another is of the newest.
        assert_eq!(generations.count(&[10, 20, 22]), 2);
        generations.begin();
        assert_eq!(generations.count(&[20, 22, 30, 31]), 2, "of the first none is left");
        assert_eq!(generations.count(&[]), 0);
    }

    #[test]
    fn reloads_as_fast_as_may_be_leave_so_many_generations_in_the_time_that_the_old_ones_have() {
        let (mut generations, mut workers, mut elapsed) = (Generations::default(), vec![0, 1], Duration::ZERO);
        let mut reloads = 0;
        while elapsed < Duration::from_secs(3600) && reloads < 1000 {
            let count = generations.count(&workers);
            elapsed += pause(count) + Duration::from_millis(100);
            generations.begin();
            reloads += 1;
            workers.extend([2 * reloads, 2 * reloads + 1]);
        }
        let count = generations.count(&workers);
        assert!((100..150).contains(&count), "{count}");
    }
}

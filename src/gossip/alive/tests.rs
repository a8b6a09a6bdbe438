//! One node that watches another, in virtual time.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

const PEER: NodeId = NodeId([1; 32]);

struct Clock {
    alive: Alive,
    now: Instant,
    rng: ChaCha20Rng,
}

impl Clock {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
        let now = Instant::now();
        let mut alive = Alive::new(now);
        alive.watch(&BTreeSet::from([PEER]), now);
        Self { alive, now, rng: ChaCha20Rng::seed_from_u64(1) }
    }

    /// Runs on; what was to be done.
    fn run(&mut self, time: Duration, mut answers: impl FnMut(Duration) -> bool) -> Vec<(Duration, Step)> {
        let (begin, mut done) = (self.now, Vec::new());
        while self.alive.due() <= begin + time {
            self.now = self.now.max(self.alive.due());
            for step in self.alive.tick(vec![PEER], self.now, &mut self.rng) {
                done.push((self.now - begin, step));
                if step == Step::Ask(PEER) && answers(self.now - begin) {
                    self.alive.heard(PEER, self.now, self.now);
                }
            }
        }
        self.now = begin + time;
        done
    }

    fn lost(steps: &[(Duration, Step)]) -> Vec<Duration> {
        steps.iter().filter(|(_, step)| *step == Step::Lost(PEER)).map(|(at, _)| *at).collect()
    }
}

#[test]
fn who_answers_is_never_down_and_is_asked_once_a_second_at_most() {
    let mut clock = Clock::new();
    let steps = clock.run(Duration::from_secs(60), |_| true);
    assert!(Clock::lost(&steps).is_empty() && (30..=60).contains(&steps.len()), "{} steps", steps.len());
    assert_eq!(clock.alive.state(PEER), Some(Liveness::Heard));
}

#[test]
fn who_is_silent_is_suspect_and_then_down_and_back_with_its_first_word() {
    let mut clock = Clock::new();
    clock.run(Duration::from_millis(1600), |_| false);
    assert_eq!(clock.alive.state(PEER), Some(Liveness::Suspect));
    let lost = Clock::lost(&clock.run(Duration::from_secs(30), |_| false));
    assert!(lost.len() == 1 && lost[0] <= Duration::from_secs(3), "{lost:?}");
    assert!(matches!(clock.alive.state(PEER), Some(Liveness::Down { .. })));
    assert!(!clock.alive.heard(PEER, clock.now - SILENCE, clock.now), "what is old is no life");
    assert!(clock.alive.heard(PEER, clock.now, clock.now));
    assert_eq!((clock.alive.state(PEER), clock.alive.down().len()), (Some(Liveness::Heard), 0));
}

#[test]
fn one_answer_in_four_is_enough() {
    let mut clock = Clock::new();
    let mut count = 0;
    let steps = clock.run(Duration::from_secs(120), |_| {
        count += 1;
        count % 4 == 0
    });
    assert!(Clock::lost(&steps).is_empty());
}

#[test]
fn a_rumour_about_who_was_just_heard_has_no_effect_and_one_about_another_is_only_a_question() {
    let mut clock = Clock::new();
    clock.alive.heard(PEER, clock.now, clock.now);
    for node in [PEER, NodeId([9; 32])] {
        clock.alive.rumour(node, clock.now, &mut clock.rng);
        assert!(!clock.alive.is_asking());
    }
    // Not near, so it has no turns.
    clock.now += SILENCE;
    clock.alive.last_tick = clock.now;
    clock.alive.next_turn = clock.now + Duration::from_secs(600);
    clock.alive.rumour(PEER, clock.now, &mut clock.rng);
    let steps = clock.run(Duration::from_secs(10), |_| true);
    assert!(matches!(steps[..], [(after, Step::Ask(PEER))] if after < Duration::from_millis(JITTER_MS)), "{steps:?}");
}

#[test]
fn a_node_that_stood_still_itself_finds_nobody_down_before_it_has_asked() {
    let mut clock = Clock::new();
    clock.run(Duration::from_millis(2900), |_| false);
    // Stopped for two minutes while questions were open.
    clock.now += Duration::from_secs(120);
    let first = clock.now;
    let steps = clock.alive.tick(vec![PEER], first, &mut clock.rng);
    assert!(!steps.contains(&Step::Lost(PEER)), "{steps:?}");
    assert_eq!(clock.alive.state(PEER), Some(Liveness::Heard));
    assert!(Clock::lost(&clock.run(Duration::from_millis(1900), |_| false)).is_empty());
    assert_eq!(Clock::lost(&clock.run(Duration::from_secs(5), |_| false)).len(), 1);
}

#[test]
fn who_shares_no_network_any_more_is_not_watched() {
    let mut clock = Clock::new();
    clock.run(Duration::from_secs(10), |_| false);
    assert!(clock.alive.watch(&BTreeSet::new(), clock.now), "it was down");
    assert_eq!((clock.alive.state(PEER), clock.alive.down().len()), (None, 0));
    assert!(clock.run(Duration::from_secs(10), |_| false).is_empty());
}

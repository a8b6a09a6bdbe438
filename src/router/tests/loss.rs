//! Fresh pairs over a line that loses datagrams: how long the first answer takes, in virtual time.

use rand_core::RngCore;

use super::*;

/// A container sends this often until an answer comes back.
const SEND_EVERY: Duration = Duration::from_millis(10);

/// The time until the first answer, for so many pairs that never spoke, in order.
fn first_answers(pairs: u64, loss_percent: u64) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..pairs).map(|seed| first_answer(seed, loss_percent)).collect();
    took.sort();
    took
}

fn first_answer(seed: u64, loss_percent: u64) -> Duration {
    let mut lab = Lab::pair();
    let mut chance = ChaCha20Rng::seed_from_u64(seed);
    let begun = lab.now;
    while lab.got(0, 1).is_empty() {
        assert!(lab.now - begun < Duration::from_secs(60), "seed {seed}: no answer in a minute");
        lab.send_only(0, &udp(1, 2, b"are you there"));
        lab.pass_with(SEND_EVERY, |_| chance.next_u64() % 100 >= loss_percent);
        for _ in lab.got(1, 2) {
            lab.send_only(1, &udp(2, 1, b"yes"));
        }
    }
    lab.now - begun
}

/// What is promised of a fresh pair, and how it is met: of a thousand, so many at once and all before long.
#[test]
fn a_line_that_loses_5_or_20_percent_each_way_delays_a_fresh_pair_within_the_promise() {
    for (loss_percent, p99, max) in [(5, 1, 2), (20, 2, 4)] {
        let took = first_answers(1000, loss_percent);
        let (at_p99, worst) = (took[989], took[999]);
        println!(
            "FIGURE {loss_percent}% lost each way, 1000 fresh pairs: p99 {at_p99:?}, p99.9 {:?}, max {worst:?}",
            took[998]
        );
        let (p99, max) = (Duration::from_secs(p99), Duration::from_secs(max));
        assert!(at_p99 <= p99 && worst <= max, "{loss_percent}%: p99 {at_p99:?}, max {worst:?}");
    }
}

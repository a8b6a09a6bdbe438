//! The cluster in one thread: the real gossip, membership and share machines under faults, in virtual time, from a seed.
//!
//! ```text
//! cargo test --test sim                          the seeds of every run of the tests
//! PEERD_SIM_SEED=7 cargo test --test sim         one seed, again, event by event the same
//! PEERD_SIM_SEEDS=10000 cargo test --test sim    that many, from PEERD_SIM_FIRST (or 0) on
//! tests/sim/seeds 10000                          that many with the feature `keyed-hash`: a double for signatures
//! ```
//! A quarter as many seeds, from 2^32 on, are runs with several signers, who admit nodes and are expelled; and as many from 2^33
//! on are runs in which disks are set back and copied all the time.
//!
//! With the double a seed is another run: ids of what is signed decide some orders.
//!
//! A run makes a cluster, lets a workload and faults have their way with it, ends the faults, and waits. [`checks`] says
//! what must hold at every step and what must be true 30 virtual seconds after the last fault. A run that breaks a promise
//! says which, and its seed.

mod book;
mod checks;
mod disk;
mod faults;
mod node;
mod run;
mod signatures;
mod wires;
mod workload;
mod world;

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many seeds each run of the tests goes through.
const SEEDS: u64 = 200;
/// For so many of them there is one with several signers, and one with old disks.
const SPECIAL_SHARE: u64 = 4;
/// After how many seeds a long run says how far it is.
const PROGRESS_EVERY: u64 = 5000;

fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn every_promise_holds_in_every_seed() {
    if let Some(seed) = setting("PEERD_SIM_SEED") {
        let report = run::seed_aloud(seed).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {report}");
        return;
    }
    go_through(0, 1);
}

#[test]
fn every_promise_holds_in_every_seed_with_several_signers() {
    if setting("PEERD_SIM_SEED").is_none() {
        go_through(run::SEVERAL_SIGNERS, SPECIAL_SHARE);
    }
}

#[test]
fn every_promise_holds_in_every_seed_with_old_disks() {
    if setting("PEERD_SIM_SEED").is_none() {
        go_through(run::OLD_DISKS, SPECIAL_SHARE);
    }
}

/// Goes through the seeds that were asked for, one for each `share` of them, counted from `from`.
fn go_through(from: u64, share: u64) {
    let first = from + setting("PEERD_SIM_FIRST").unwrap_or(0) / share;
    let count = setting("PEERD_SIM_SEEDS").unwrap_or(SEEDS).div_ceil(share);
    let (next, end) = (AtomicU64::new(first), first + count);
    let work = || {
        let (mut total, mut failures) = (run::Report::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return (total, failures);
            }
            if seed > first && (seed - first).is_multiple_of(PROGRESS_EVERY) {
                println!("{} of {count} seeds begun", seed - first);
            }
            match run::seed(seed) {
                Ok(report) => total.add(&report),
                Err(failure) => {
                    println!("{failure}");
                    failures.push(failure.seed);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a run's panic is its failure")).collect()
    });
    let (mut total, mut failures) = (run::Report::default(), Vec::new());
    for (report, failed) in done {
        total.add(&report);
        failures.extend(failed);
    }
    failures.sort_unstable();
    println!("{count} seeds from {first}: {total}");
    assert!(failures.is_empty(), "seeds that break a promise: {failures:?}");
}

// Seeds that broke a promise once, as the workload was then; a change of the workload makes other runs of them.

fn still_hold(seeds: &[u64]) {
    for seed in seeds {
        run::seed(*seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn a_node_that_is_away_while_its_grant_is_taken_back_hears_of_it() {
    still_hold(&[7, 8, 9, 12, 14, 21, 25, 27, 28]);
}

#[test]
fn a_joiner_that_loses_its_signer_before_the_first_sync_finds_it_again() {
    still_hold(&[19, 26]);
}

#[test]
fn no_number_of_restarts_makes_the_rest_of_an_address_shorter() {
    still_hold(&[150]);
}

#[test]
fn what_is_asked_behind_the_gate_outlives_what_others_remember() {
    still_hold(&[229]);
}

#[test]
fn a_grant_that_is_taken_back_before_the_disk_has_it_is_gone() {
    still_hold(&[764]);
}

#[test]
fn who_is_removed_again_does_not_keep_the_secret_that_came_in_between() {
    still_hold(&[1341]);
}

#[test]
fn who_becomes_a_member_by_its_hello_gets_what_it_is_granted() {
    still_hold(&[1206]);
}

#[test]
fn an_older_secret_that_comes_late_is_not_taken_for_the_newest() {
    still_hold(&[1355]);
}

#[test]
fn a_grant_that_went_with_a_copied_log_is_taken_back() {
    still_hold(&[1410]);
}

#[test]
fn what_rests_in_a_lost_network_rests_over_a_restart() {
    still_hold(&[1271]);
}

#[test]
fn a_gate_does_not_wait_for_a_log_that_can_never_be_taken_in() {
    still_hold(&[304]);
}

#[test]
fn a_secret_is_not_given_away_by_who_does_not_know_whom_it_keeps_out() {
    still_hold(&[1680]);
}

#[test]
fn a_grant_that_comes_a_second_time_is_offered_a_second_time() {
    still_hold(&[2243]);
}

#[test]
fn who_was_certified_by_a_lost_record_is_certified_again() {
    still_hold(&[15114]);
}

/// A seed is another run with keyed hashes than with signatures; these were found with them.
#[cfg(feature = "keyed-hash")]
mod with_keyed_hashes {
    use super::{run, still_hold};

    #[test]
    fn whoever_drops_a_grant_with_a_copied_log_takes_it_back() {
        still_hold(&[4572]);
    }

    #[test]
    fn no_secret_older_than_the_newest_is_given_away() {
        still_hold(&[481]);
    }

    #[test]
    fn a_replaced_secret_is_not_replaced_again() {
        still_hold(&[7885]);
    }

    #[test]
    fn a_gate_opens_after_those_who_know_were_asked() {
        still_hold(&[8995, 9723]);
    }

    #[test]
    fn a_gate_whose_only_other_grantee_never_comes_opens_in_time() {
        still_hold(&[12749, 16246]);
    }

    #[test]
    fn what_a_refusing_disk_has_not_taken_of_a_lost_network_is_never_heard_of() {
        still_hold(&[25838]);
    }

    #[test]
    fn a_grant_of_a_lost_life_is_taken_back_though_another_life_has_used_its_rev() {
        still_hold(&[19599]);
    }

    #[test]
    fn whom_an_owner_has_forgotten_to_have_removed_does_not_know_the_newest_secret() {
        still_hold(&[67415]);
    }

    #[test]
    fn whom_a_lost_life_of_a_copied_disk_granted_is_excused_alone() {
        still_hold(&[15987]);
    }

    #[test]
    fn whom_one_copy_of_a_disk_removed_and_the_other_granted_does_not_know_the_newest_secret() {
        still_hold(&[83133]);
    }

    #[test]
    fn an_expulsion_that_one_node_alone_has_heard_of_comes_to_all() {
        still_hold(&[run::OLD_DISKS + 910, run::OLD_DISKS + 8019]);
    }
}

#[cfg(feature = "daemon")]
#[test]
fn every_mutant_still_fits_its_place_once() {
    let listed: toml::Table = include_str!("mutants.toml").parse().expect("a TOML file");
    let mutants = listed["mutant"].as_array().expect("a list");
    assert!(mutants.len() >= 20);
    for mutant in mutants {
        let text = |key: &str| mutant[key].as_str().unwrap_or_else(|| panic!("{mutant} has no {key}"));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(text("file"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(source.matches(text("old")).count(), 1, "{}", text("name"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let trace = |seed| run::seed(seed).unwrap_or_else(|failure| panic!("{failure}")).trace;
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn the_faults_and_the_workload_do_happen() {
    let mut total = run::Report::default();
    for seed in 0..8 {
        total.add(&run::seed(seed).unwrap_or_else(|failure| panic!("{failure}")));
    }
    let done = [total.attached, total.detached, total.joined, total.crashes, total.cuts, total.events];
    assert!(done.iter().all(|count| *count > 0), "{total}");
    assert!(total.longest_calm > Duration::ZERO && total.longest_calm <= checks::LIVENESS, "{total}");
}

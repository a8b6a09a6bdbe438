//! One run: a cluster is made, has a hard time, and is left in peace; then it is asked whether all is well.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use peerd::membership::Role;

use crate::checks::{self, LIVENESS};
use crate::faults;
use crate::wires::below;
use crate::world::World;

/// From this seed on there are several signers, who admit nodes and are expelled.
pub const SEVERAL_SIGNERS: u64 = 1 << 32;
/// From this one on disks are set back and copied all the time, of every second run with several signers.
pub const OLD_DISKS: u64 = 2 << 32;

/// What happened in a run, or in many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub trace: u64,
    pub events: u64,
    pub attached: u64,
    pub detached: u64,
    pub joined: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub rolled_back: u64,
    pub networks: u64,
    /// Networks in which a disk was set back where nobody could tell, or copied: what else is checked, addresses are not.
    pub excused: u64,
    /// How long after the last fault all saw the same.
    pub longest_calm: Duration,
}

/// A promise was broken.
pub struct Failure {
    pub seed: u64,
    what: String,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.attached += other.attached;
        self.detached += other.detached;
        self.joined += other.joined;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.rolled_back += other.rolled_back;
        self.networks += other.networks;
        self.excused += other.excused;
        self.longest_calm = self.longest_calm.max(other.longest_calm);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, attached, detached, joined, crashes, cuts, rolled_back, longest_calm, .. } = self;
        let Self { networks, excused, .. } = self;
        write!(f, "{events} events: {attached} attached, {detached} detached, {joined} joined, {crashes} crashes, ")?;
        write!(f, "{cuts} cuts, {rolled_back} set back; {excused} of {networks} networks excused; ")?;
        write!(f, "all the same {longest_calm:?} after the last fault at most")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n  again: PEERD_SIM_SEED={} cargo test --test sim", self.seed, self.what, self.seed)
    }
}

/// Runs a seed.
pub fn seed(seed: u64) -> Result<Report, Failure> {
    run(seed, false)
}

/// Runs a seed and prints what happens.
pub fn seed_aloud(seed: u64) -> Result<Report, Failure> {
    run(seed, true)
}

fn run(seed: u64, aloud: bool) -> Result<Report, Failure> {
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, aloud);
        world.old_disks = seed >= OLD_DISKS;
        world.several_signers = seed >= SEVERAL_SIGNERS && (!world.old_disks || seed % 2 == 1);
        make(&mut world);
        trouble(&mut world);
        peace(&mut world);
        world.report.trace = world.trace();
        world.report.networks = world.book.networks.len() as u64;
        world.report.excused = world.book.excused.len() as u64;
        match world.broken {
            None => Ok(world.report),
            Some(what) => Err(Failure { seed, what }),
        }
    }));
    run.unwrap_or_else(|_| Err(Failure { seed, what: "a panic, see above".to_owned() }))
}

/// Makes a cluster of two to five nodes and two networks, without faults.
fn make(world: &mut World) {
    let soon = Duration::from_secs(10);
    world.add();
    world.init(0);
    world.run(Duration::from_millis(100));
    for name in ["red", "blue"] {
        world.create_network(0, name);
        world.run(Duration::from_millis(100));
    }
    let red = world.book.networks[..1].to_vec();
    for at in 1..2 + below(&mut world.rng, 4) as usize {
        let networks = if at % 2 == 1 { red.clone() } else { Vec::new() };
        let signer = world.several_signers && at == 1;
        // Who owns no network grants none.
        let by = usize::from(world.several_signers && at > 1 && networks.is_empty());
        world.invite(by, networks, signer);
        world.until(soon, |world| !world.book.tokens.is_empty());
        world.join();
        if !world.until(soon, |world| world.report.joined as usize == at) {
            world.broken(format!("node {at} does not join a cluster without faults"));
        }
    }
    if world.nodes.len() > 2 {
        let (blue, node) = (world.book.networks[1].clone(), world.nodes[2].id());
        world.grant(0, &blue, node, Role::Host);
    }
    world.run(Duration::from_secs(1));
}

fn trouble(world: &mut World) {
    world.wires.late_per_mille = below(&mut world.rng, 200) as u32;
    world.wires.lost_per_mille = below(&mut world.rng, 100) as u32;
    world.wires.twice_per_mille = below(&mut world.rng, 50) as u32;
    world.wires.forged_per_mille = below(&mut world.rng, 20) as u32;
    world.wires.delay_max_ms = 1 + below(&mut world.rng, 80);
    let end = world.now + Duration::from_secs(20 + below(&mut world.rng, 40));
    while world.now < end && world.broken.is_none() {
        let pause = Duration::from_millis(20 + below(&mut world.rng, 600));
        world.run(pause);
        faults::act(world);
    }
}

fn peace(world: &mut World) {
    faults::end_faults(world);
    let began = world.now;
    if !world.until(LIVENESS, |world| checks::agreement(world).is_ok())
        && let Err(what) = checks::agreement(world)
    {
        world.broken(format!("{LIVENESS:?} after the last fault: {what}"));
    }
    world.report.longest_calm = world.now - began;
}

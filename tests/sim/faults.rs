//! Faults and the workload, mixed by chance: one act at a time.

use std::time::Duration;

use peerd::membership::Role;
use peerd::model::{NetworkId, NodeId};

use crate::checks;
use crate::node::SimNode;
use crate::wires::below;
use crate::world::World;

/// How many nodes there are at most.
const NODE_COUNT_MAX: usize = 8;

/// One thing that happens.
#[derive(Clone, Copy)]
enum Act {
    Attach,
    Detach,
    Rekey,
    Grant,
    Ungrant,
    Invite,
    Join,
    Crash,
    Start,
    Cut,
    Isolate,
    Heal,
    Refuse,
    Snapshot,
    RollBack,
    CalmRollBack,
    Clone,
    Expel,
}

/// How often each act comes, in a thousand.
const ACTS: [(Act, u64); 18] = [
    (Act::Attach, 330),
    (Act::Detach, 120),
    (Act::Rekey, 90),
    (Act::Grant, 50),
    (Act::Ungrant, 15),
    (Act::Invite, 25),
    (Act::Join, 25),
    (Act::Crash, 70),
    (Act::Start, 110),
    (Act::Cut, 40),
    (Act::Isolate, 15),
    (Act::Heal, 40),
    (Act::Refuse, 25),
    (Act::Snapshot, 25),
    (Act::RollBack, 4),
    (Act::CalmRollBack, 4),
    (Act::Clone, 2),
    (Act::Expel, 10),
];

/// How much more often disks are set back and copied where that is what a run is about.
const OLD_DISKS_FACTOR: u64 = 8;

/// One thing happens.
pub fn act(world: &mut World) {
    let factor = if world.old_disks { OLD_DISKS_FACTOR } else { 1 };
    let weights = ACTS.map(|(act, weight)| match act {
        Act::RollBack | Act::Clone => (act, weight * factor),
        _ => (act, weight),
    });
    let total = weights.iter().map(|(_, weight)| weight).sum();
    let mut drawn = below(&mut world.rng, total);
    let act = weights.iter().find(|(_, weight)| {
        let hit = drawn < *weight;
        drawn = drawn.wrapping_sub(*weight);
        hit
    });
    let Some((act, _)) = act else { return };
    let at = below(&mut world.rng, world.nodes.len() as u64) as usize;
    let other = below(&mut world.rng, world.nodes.len() as u64) as usize;
    let network = one_network(world);
    let runs = world.nodes[at].machine.is_some();
    let is_clone = world.nodes[at].clone_of.is_some();
    match act {
        Act::Attach if runs && !is_clone => world.attach(at, &network),
        Act::Detach if runs => world.detach(at),
        Act::Rekey if runs => world.rekey(at),
        Act::Grant => {
            let role = if below(&mut world.rng, 4) == 0 { Role::Owner } else { Role::Host };
            let (from, node) = (owner(world, at), world.nodes[other].id());
            world.grant(from, &network, node, role);
        }
        Act::Ungrant if other != 0 => {
            let (from, node) = (owner(world, at), world.nodes[other].id());
            world.ungrant(from, &network, node);
        }
        Act::Invite if world.book.tokens.is_empty() => invite(world, network),
        Act::Join if world.nodes.len() < NODE_COUNT_MAX => world.join(),
        Act::Crash if runs => {
            world.report.crashes += 1;
            world.crash(at);
        }
        Act::Start => start_one(world),
        Act::Cut if at != other => {
            world.report.cuts += 1;
            world.cut(at, other);
        }
        Act::Isolate => isolate(world, at),
        Act::Heal => {
            world.tell(|| "the cuts end".to_owned());
            world.wires.heal();
        }
        Act::Refuse => {
            let refuses = !world.nodes[at].disk.refuses;
            world.tell(|| format!("the disk of node {at} refuses: {refuses}"));
            world.nodes[at].disk.refuses = refuses;
        }
        Act::Snapshot => world.nodes[at].disk.snapshot(),
        Act::RollBack if !is_clone => roll_back(world, at),
        Act::CalmRollBack if !is_clone => calm_roll_back(world, at),
        Act::Clone if world.nodes[at].is_member() && !is_clone && world.nodes.len() < NODE_COUNT_MAX => {
            taint(world, at);
            world.tell(|| format!("node {at} is copied"));
            let clone = world.clone_of(at);
            world.start_node(clone);
        }
        Act::Expel if world.nodes[other].id() != world.nodes[0].id() && world.nodes.len() > 3 => {
            let node = one_signer(world).unwrap_or_else(|| world.nodes[other].id());
            world.expel(0, node);
        }
        _ => {}
    }
}

fn one_network(world: &mut World) -> NetworkId {
    let count = world.book.networks.len() as u64;
    let chosen = below(&mut world.rng, count) as usize;
    world.book.networks[chosen].clone()
}

/// Somebody is to come: the creator of the networks invites it, or where there are several signers any of them.
fn invite(world: &mut World, network: NetworkId) {
    let by = one_signer(world).and_then(|signer| world.nodes.iter().position(|node| node.id() == signer));
    match by {
        Some(at) => world.invite(at, Vec::new(), false),
        None => {
            let signer = world.several_signers && below(&mut world.rng, 2) == 0;
            world.invite(0, vec![network], signer);
        }
    }
}

/// Half the time one of the signers besides the first node, where there are some.
fn one_signer(world: &mut World) -> Option<NodeId> {
    if !world.several_signers {
        return None;
    }
    let signers: Vec<NodeId> = world.book.signers.iter().copied().collect();
    signers.get(below(&mut world.rng, 2 * signers.len().max(1) as u64) as usize).copied()
}

/// Who is asked to grant: mostly the creator.
fn owner(world: &mut World, at: usize) -> usize {
    if below(&mut world.rng, 4) == 0 { at } else { 0 }
}

fn start_one(world: &mut World) {
    let down: Vec<usize> = (0..world.nodes.len()).filter(|at| world.nodes[*at].machine.is_none()).collect();
    if let Some(at) = down.get(below(&mut world.rng, down.len() as u64) as usize).copied() {
        world.start_node(at);
    }
}

fn isolate(world: &mut World, at: usize) {
    world.report.cuts += 1;
    for other in (0..world.nodes.len()).filter(|other| *other != at) {
        world.cut(at, other);
        world.cut(other, at);
    }
}

/// What this node alone knew may be lost, and its networks' addresses are excused.
fn taint(world: &mut World, at: usize) {
    world.nodes[at].tainted = true;
    let node = world.nodes[at].id();
    let granted = world.book.ever_granted.iter().filter(|(_, of)| *of == node);
    world.book.excused.extend(granted.map(|(network, _)| network.clone()));
}

fn roll_back(world: &mut World, at: usize) {
    if !world.nodes[at].disk.has_snapshot() {
        return;
    }
    taint(world, at);
    set_back(world, at);
}

fn set_back(world: &mut World, at: usize) {
    world.tell(|| format!("node {at} is set back"));
    world.report.rolled_back += 1;
    world.crash(at);
    world.nodes[at].disk.roll_back();
    world.start_node(at);
}

/// A node is set back where all others run, know what it did, and are there to be asked: it takes up all that it forgot before
/// it gives an address out. How long its freed addresses have rested is all that nobody knows. Where its old disk knows nobody of
/// those who are there, since all whom it knew were expelled and all others came later, it asks in vain: then it is set back like any.
fn calm_roll_back(world: &mut World, at: usize) {
    let node = &world.nodes[at];
    let is_in = node.is_member() && !world.book.perhaps_expelled.contains(&node.id());
    let is_known = is_in && !node.tainted && node.disk.has_snapshot();
    if !is_known || world.nodes.iter().any(|node| node.clone_of.is_some()) {
        return;
    }
    end_faults(world);
    if !world.until(checks::LIVENESS, |world| checks::agreement(world).is_ok()) {
        return;
    }
    world.run(Duration::from_secs(5));
    if !world.members_on_old_disk(at).iter().any(|node| *node != world.nodes[at].id() && is_there(world, at, *node)) {
        return roll_back(world, at);
    }
    let known = known_to_others(world, at);
    let id = world.nodes[at].id();
    let alone = world.book.ever_granted.iter().filter(|(network, node)| *node == id && !known.contains(network));
    world.book.excused.extend(alone.map(|(network, _)| network.clone()));
    if !checks::settle_endings(world, at) {
        return;
    }
    world.book.freed.retain(|(network, _), _| !known.contains(network));
    world.nodes[at].is_set_back = true;
    set_back(world, at);
    for _ in 0..40 {
        world.run(Duration::from_millis(100));
        let network = one_network(world);
        let host = if below(&mut world.rng, 2) == 0 { at } else { 0 };
        world.attach(host, &network);
    }
    world.run(checks::LIVENESS);
    world.nodes[at].is_set_back = false;
    checks::taken_up(world, at, &known);
}

/// Whether a node is a member, as this one sees it.
fn is_there(world: &World, at: usize, node: NodeId) -> bool {
    world.nodes[at].machine.as_ref().is_some_and(|machine| machine.membership().node(node).is_some())
}

/// The networks of a node that another grantee has got too.
fn known_to_others(world: &World, at: usize) -> Vec<NetworkId> {
    let id = world.nodes[at].id();
    let machine = world.nodes[at].machine.as_ref();
    let others = || world.nodes.iter().filter(|other| other.id() != id);
    let has = |other: &SimNode, network: &NetworkId| {
        other.machine.as_ref().is_some_and(|machine| machine.membership().network(network).is_some())
    };
    let networks = machine.map(|machine| machine.membership()).into_iter().flat_map(|membership| {
        let shared = membership.networks().filter(|network| {
            others().any(|other| network.grants.contains_key(&other.id()) && has(other, &network.id))
        });
        shared.map(|network| network.id.clone()).collect::<Vec<_>>()
    });
    networks.collect()
}

/// Nothing fails any more, everybody runs, and copies of a node are gone.
pub fn end_faults(world: &mut World) {
    world.tell(|| "all faults end".to_owned());
    world.wires.be_calm();
    for at in 0..world.nodes.len() {
        world.nodes[at].disk.refuses = false;
        let runs = world.nodes[at].machine.is_some();
        if world.nodes[at].clone_of.is_some() {
            if runs {
                world.crash(at);
            }
        } else if !runs {
            world.start_node(at);
        }
    }
}

//! A signer that is expelled: its key admits nobody any more, and those it had admitted stay.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;

const SOON: Duration = Duration::from_secs(5);
const ROOT: usize = 0;
const SIGNER: usize = 1;

/// The root's node, another signer, and nodes that the signer admitted: so many, from number 2 on.
fn cluster(seed: u64, admitted: usize) -> Sim {
    let mut sim = Sim::cluster(seed, 1);
    let signer = sim.add("signer");
    let token = sim.invite_signer(ROOT);
    sim.join(signer, &token).expect("joins");
    for at in 0..admitted {
        admit(&mut sim, &format!("host-{at}")).expect("joins");
    }
    let count = sim.nodes.len();
    sim.until(SOON, |sim| (0..count).all(|at| sim.machine(at).membership().nodes().len() == count));
    sim
}

/// A new node with a token of the signer.
fn admit(sim: &mut Sim, name: &str) -> Result<usize, OperationError> {
    let at = sim.add(name);
    let token = sim.invite(SIGNER, &[], 1);
    sim.join(at, &token).map(|()| at)
}

fn knows(sim: &Sim, at: usize, of: usize) -> bool {
    sim.machine(at).membership().node(sim.id(of)).is_some()
}

#[test]
fn those_whom_an_expelled_signer_admitted_stay_members_through_restarts_and_for_newcomers() {
    let mut sim = cluster(301, 2);
    let (one, other) = (2, 3);
    let network = sim.create_network(ROOT, "demo");
    for host in [one, other] {
        sim.grant(ROOT, &network, host, Role::Host);
    }
    sim.until(SOON, |sim| [one, other].iter().all(|at| sim.network(*at, &network).is_some()));
    let attached = sim.attach(one, &network).expect("attaches");
    sim.kill(other);
    sim.expel(ROOT, SIGNER);
    sim.until(SOON, |sim| !knows(sim, one, SIGNER));
    // Who was away hears of the expulsion and of what stands for the signer's word, in whatever order.
    sim.start_node(other).expect("starts");
    let token = sim.invite(ROOT, &[], 1);
    let newcomer = sim.add("newcomer");
    sim.join(newcomer, &token).expect("joins");
    for _ in 0..2 {
        sim.until(SOON, |sim| {
            [ROOT, one, other, newcomer].iter().all(|at| {
                let members = sim.machine(*at).membership();
                members.nodes().len() == 4 && !knows(sim, *at, SIGNER)
            })
        });
        sim.until(SOON, |sim| {
            sim.network(other, &network).is_some_and(|seen| seen.container_at(attached.address).is_some())
        });
        for at in [one, other, newcomer] {
            sim.restart(at);
        }
    }
    sim.run(Duration::from_secs(30));
    assert!(sim.machine(one).connected().contains(&sim.id(newcomer)), "they take each other for members");
}

#[test]
fn whom_an_expelled_signers_key_admits_unheard_of_is_out_wherever_the_expulsion_is_known() {
    let mut sim = cluster(302, 2);
    let (witness, other) = (2, 3);
    // As with a stolen key: the signer goes on out of reach of the root, and a member vouches for what it says.
    let late = sim.nodes.len();
    sim.partition(&[ROOT, other], &[SIGNER, witness, late]);
    assert_eq!(admit(&mut sim, "late").expect("joins behind the cut"), late);
    sim.until(SOON, |sim| knows(sim, witness, late));
    sim.expel(ROOT, SIGNER);
    sim.run(SOON);
    sim.heal();
    sim.until(SOON * 2, |sim| [ROOT, other, witness].iter().all(|at| sim.machine(*at).is_expelled(sim.id(late))));
    assert!([ROOT, other, witness].iter().all(|at| !knows(&sim, *at, late) && !knows(&sim, *at, SIGNER)));
    assert!([ROOT, other].iter().all(|at| knows(&sim, *at, witness)));
    sim.run(Duration::from_secs(60));
    assert!([ROOT, other, witness].iter().all(|at| sim.machine(*at).connected().len() == 2));
    // Known by now, it is not taken over by an expulsion that is asked for again.
    sim.expel(ROOT, SIGNER);
    sim.run(Duration::from_secs(10));
    assert!([ROOT, other, witness].iter().all(|at| sim.machine(*at).is_expelled(sim.id(late))));
    // Its key stays out; the machine may come again as another node.
    let again = sim.add("late");
    let token = sim.invite(ROOT, &[], 1);
    sim.join(again, &token).expect("the name is free");
}

#[test]
fn a_signer_that_has_left_can_be_succeeded_too() {
    let mut sim = cluster(303, 1);
    let operation = sim.on(SIGNER, Gossip::leave);
    assert!(sim.wait(SIGNER, operation).is_ok());
    sim.until(SOON, |sim| !knows(sim, ROOT, SIGNER));
    sim.expel(ROOT, SIGNER);
    sim.run(SOON);
    assert!(knows(&sim, ROOT, 2) && knows(&sim, 2, ROOT));
    sim.restart(2);
    sim.until(SOON, |sim| sim.machine(2).connected().contains(&sim.id(ROOT)));
}

/// A cluster of one, and a signer that it has admitted and that has heard nothing since; cut apart.
fn just_admitted(seed: u64) -> Sim {
    let mut sim = Sim::cluster(seed, 1);
    assert_eq!(sim.add("signer"), SIGNER);
    let token = sim.invite_signer(ROOT);
    sim.on(SIGNER, |m, now| m.join(token, now));
    while sim.machine(SIGNER).cluster().is_none() {
        sim.run(Duration::from_millis(1));
    }
    sim.partition(&[ROOT], &[SIGNER]);
    assert!(!knows(&sim, SIGNER, ROOT), "it has heard of nobody");
    sim
}

#[test]
fn a_signer_that_was_cut_off_at_its_admission_finds_the_others_whomever_it_has_admitted_meanwhile() {
    let mut sim = just_admitted(304);
    sim.run(Duration::from_secs(60));
    let late = sim.nodes.len();
    sim.partition(&[ROOT], &[SIGNER, late]);
    assert_eq!(admit(&mut sim, "late").expect("joins"), late);
    sim.heal();
    sim.until(SOON * 2, |sim| [ROOT, SIGNER, late].iter().all(|at| sim.machine(*at).connected().len() == 2));
}

#[test]
fn an_appointment_that_went_with_an_older_copy_of_the_roots_disk_is_said_again() {
    let before = Sim::cluster(305, 1).nodes[ROOT].disk.clone();
    let mut sim = just_admitted(305);
    sim.kill(ROOT);
    sim.nodes[ROOT].disk = before;
    sim.start_node(ROOT).expect("starts");
    let number = |sim: &Sim, at| sim.machine(at).membership().node(sim.id(SIGNER)).and_then(|node| node.signer);
    sim.run(Duration::from_secs(1));
    assert_eq!(number(&sim, ROOT), None, "the copy is from before");
    sim.heal();
    sim.until(Duration::from_secs(60), |sim| number(sim, ROOT) == Some(2));
    // By its own log, and not by what it heard.
    sim.kill(SIGNER);
    sim.run(SOON);
    sim.restart(ROOT);
    sim.until(SOON, |sim| number(sim, ROOT) == Some(2));
}

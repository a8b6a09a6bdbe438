//! Making a cluster, inviting, joining, and every refusal.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;

const SOON: Duration = Duration::from_secs(5);

fn refused(result: Result<(), OperationError>) -> JoinError {
    match result {
        Err(OperationError::Join(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn three_nodes_are_one_cluster() {
    let mut sim = Sim::cluster(1, 3);
    sim.until(Duration::from_secs(5), |sim| {
        (0..3).all(|at| {
            let membership = sim.machine(at).membership();
            membership.nodes().len() == 3 && membership.nodes().all(|node| !node.endpoints.is_empty())
        })
    });
    sim.until(Duration::from_secs(5), |sim| (0..3).all(|at| sim.machine(at).connected().len() == 2));
    assert!(sim.machine(0).has_root_key() && !sim.machine(1).has_root_key());
    let told = sim.nodes[2].told.as_ref().expect("the shell was told");
    assert_eq!(told.node_by_text("n0").expect("known by name").signer, Some(1));
}

#[test]
fn a_used_token_is_refused_and_says_so_to_who_holds_it() {
    let mut sim = Sim::cluster(2, 1);
    let (a, b) = (sim.add("a"), sim.add("b"));
    let token = sim.invite(0, &[], 1);
    sim.join(a, &token).expect("the first joins");
    assert_eq!(refused(sim.join(b, &token)), JoinError::UsedToken);
    assert_eq!(sim.machine(b).cluster(), None);
    assert_eq!(sim.machine(0).membership().nodes().len(), 2);
}

#[test]
fn an_expired_token_is_refused() {
    let mut sim = Sim::cluster(3, 1);
    let a = sim.add("a");
    let token = sim.invite(0, &[], 1);
    sim.run(Duration::from_secs(3601));
    assert_eq!(refused(sim.join(a, &token)), JoinError::ExpiredToken);
}

#[test]
fn a_token_with_another_secret_is_refused_like_one_that_never_was() {
    let (mut sim, mut elsewhere) = (Sim::cluster(4, 1), Sim::cluster(5, 1));
    let a = sim.add("a");
    let known = sim.invite(0, &[], 1);
    let mut forged = elsewhere.invite(0, &[], 1);
    (forged.cluster, forged.signer, forged.endpoints) = (known.cluster, known.signer, known.endpoints);
    assert_eq!(refused(sim.join(a, &forged)), JoinError::UnknownToken);
}

#[test]
fn a_token_of_another_cluster_is_refused() {
    let (mut sim, mut elsewhere) = (Sim::cluster(6, 1), Sim::cluster(7, 1));
    let a = sim.add("a");
    let mut token = sim.invite(0, &[], 1);
    token.cluster = elsewhere.invite(0, &[], 1).cluster;
    // The proof covers the cluster, so to the signer it is a wrong one.
    assert_eq!(refused(sim.join(a, &token)), JoinError::UnknownToken);
    assert_eq!(sim.machine(a).cluster(), None);
}

#[test]
fn a_taken_name_is_refused() {
    let mut sim = Sim::cluster(8, 2);
    let again = sim.add("n1");
    let token = sim.invite(0, &[], 1);
    assert_eq!(refused(sim.join(again, &token)), JoinError::NameTaken);
}

#[test]
fn a_signer_that_is_away_is_reported_after_the_time_limit() {
    let mut sim = Sim::cluster(9, 1);
    let a = sim.add("a");
    let token = sim.invite(0, &[], 1);
    sim.kill(0);
    assert_eq!(refused(sim.join(a, &token)), JoinError::Unreachable);
    sim.start_node(0).expect("starts");
    sim.join(a, &token).expect("the token is still good");
}

#[test]
fn a_second_cluster_is_refused() {
    let mut sim = Sim::cluster(10, 2);
    let id = sim.machine(1).cluster().expect("a member");
    let init = sim.on(1, |m, now| m.init(None, now));
    assert_eq!(sim.wait(1, init).err(), Some(OperationError::InCluster(id)));
    let token = sim.invite(0, &[], 1);
    assert_eq!(sim.join(1, &token), Err(OperationError::InCluster(id)));
}

#[test]
fn of_many_at_once_a_one_use_token_admits_one() {
    let mut sim = Sim::cluster(11, 1);
    let token = sim.invite(0, &[], 1);
    let joiners: Vec<usize> = (0..20).map(|at| sim.add(&format!("j{at}"))).collect();
    let operations: Vec<_> = joiners
        .iter()
        .map(|at| {
            let token = token.clone();
            (*at, sim.on(*at, |m, now| m.join(token, now)))
        })
        .collect();
    let admitted = operations.into_iter().filter(|(at, operation)| sim.wait(*at, *operation).is_ok()).count();
    assert_eq!(admitted, 1);
    sim.run(Duration::from_secs(2));
    assert_eq!(sim.machine(0).membership().nodes().len(), 2);
}

#[test]
fn of_many_at_once_with_one_name_one_is_admitted_and_who_leaves_gives_its_name_back() {
    let mut sim = Sim::cluster(13, 1);
    let tokens = [sim.invite(0, &[], 10), sim.invite(0, &[], 10)];
    let joiners: Vec<usize> = (0..10).map(|_| sim.add("image")).collect();
    let operations: Vec<_> = joiners
        .iter()
        .map(|at| {
            let token = tokens[at % 2].clone();
            (*at, sim.on(*at, |m, now| m.join(token, now)))
        })
        .collect();
    let (mut admitted, mut refusals) = (Vec::new(), Vec::new());
    for (at, operation) in operations {
        match sim.wait(at, operation) {
            Ok(_) => admitted.push(at),
            Err(error) => refusals.push(error),
        }
    }
    assert_eq!((admitted.len(), refusals.len()), (1, 9));
    assert!(refusals.iter().all(|error| *error == OperationError::Join(JoinError::NameTaken)), "{refusals:?}");
    sim.expel(0, admitted[0]);
    let late = sim.add("image");
    sim.join(late, &tokens[0]).expect("nobody has the name any more");
}

#[test]
fn a_joiner_that_crashed_before_it_stored_its_admission_joins_again_with_the_same_token() {
    let mut sim = Sim::cluster(12, 1);
    let a = sim.add("a");
    let token = sim.invite(0, &[], 1);
    let before = sim.nodes[a].disk.clone();
    sim.join(a, &token).expect("joins");
    sim.kill(a);
    sim.nodes[a].disk = before;
    sim.start_node(a).expect("starts");
    assert_eq!(sim.machine(a).cluster(), None);
    sim.join(a, &token).expect("the same key may repeat it");
    assert_eq!(sim.machine(0).membership().nodes().len(), 2);
}

#[test]
fn who_joined_holds_the_networks_of_its_invite_and_can_attach_at_once() {
    let mut sim = Sim::cluster(12, 1);
    let networks = [sim.create_network(0, "blue"), sim.create_network(0, "red")];
    let joiner = sim.add("joiner");
    let token = sim.invite(0, &networks, 1);
    sim.join(joiner, &token).expect("joined");
    for network in &networks {
        sim.attach(joiner, network).expect("attached without waiting for anything");
    }
}

#[test]
fn a_node_that_loses_its_signer_before_the_first_sync_finds_it_again() {
    let mut sim = Sim::cluster(47, 2);
    let late = sim.add("late");
    let token = sim.invite(0, &[], 1);
    sim.on(late, |m, now| m.join(token, now));
    sim.until(SOON, |sim| sim.nodes[late].disk.content("cluster").is_some());
    sim.restart(late);
    let own = sim.id(late);
    let known = sim.machine(late).membership();
    assert!(known.nodes().all(|node| node.id == own || node.endpoints.is_empty()));
    sim.until(Duration::from_secs(10), |sim| (0..3).all(|at| knows_all(sim, at)));
}

fn knows_all(sim: &Sim, at: usize) -> bool {
    sim.machine(at).membership().nodes().filter(|node| !node.endpoints.is_empty()).count() == 3
}

#[test]
fn a_node_that_alone_knows_where_the_others_are_is_back_soon_after_a_long_cut() {
    for seed in 350..360 {
        let mut sim = Sim::cluster(seed, 2);
        let late = sim.add("late");
        let token = sim.invite(0, &[], 1);
        sim.on(late, |m, now| m.join(token, now));
        sim.until(SOON, |sim| sim.nodes[late].disk.content("cluster").is_some());
        sim.partition(&[0, 1], &[late]);
        sim.restart(late);
        sim.run(Duration::from_secs(170 + seed % 40));
        assert!(!knows_all(&sim, late));
        sim.heal();
        sim.until(Duration::from_secs(30), |sim| (0..3).all(|at| knows_all(sim, at)));
    }
}

//! What owners say of applications, and how two who say it at once come to agree.

use std::time::Duration;

use super::harness::Sim;
use crate::gossip::*;
use crate::model::{AppDef, Label, NetworkId};

const SOON: Duration = Duration::from_secs(5);

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

/// An application `shop` with this namespace.
fn shop(namespace: &str) -> AppDef {
    AppDef { namespace: label(namespace), ..AppDef::new(label("shop")) }
}

fn define(sim: &mut Sim, at: usize, network: &NetworkId, def: AppDef) -> Result<Done, OperationError> {
    let operation = sim.on(at, |m, now| m.define_app(network, def, now));
    sim.wait(at, operation)
}

fn namespace(sim: &Sim, at: usize, network: &NetworkId) -> Option<String> {
    let network = sim.network(at, network)?;
    Some(network.definition("shop")?.namespace.to_string())
}

fn deployed(sim: &Sim, at: usize, network: &NetworkId) -> Vec<String> {
    let network = sim.network(at, network).expect("held");
    network.deploys("shop").iter().map(|(_, version)| (*version).to_owned()).collect()
}

#[test]
fn the_last_definition_counts_everywhere_and_one_taken_back_is_gone() {
    let (mut sim, network) = Sim::networked_by(300, 2, 3);
    define(&mut sim, 0, &network, shop("first")).expect("defined");
    sim.until(SOON, |sim| (0..3).all(|at| namespace(sim, at, &network).as_deref() == Some("first")));
    define(&mut sim, 1, &network, shop("second")).expect("another owner defines it anew");
    sim.until(SOON, |sim| (0..3).all(|at| namespace(sim, at, &network).as_deref() == Some("second")));
    let operation = sim.on(0, |m, now| m.undefine_app(&network, label("shop"), now));
    sim.wait(0, operation).expect("taken back");
    sim.until(SOON, |sim| (0..3).all(|at| namespace(sim, at, &network).is_none()));
    let operation = sim.on(0, |m, now| m.undefine_app(&network, label("shop"), now));
    assert_eq!(sim.wait(0, operation).err(), Some(OperationError::NoDefinition(label("shop"))));
}

#[test]
fn who_defines_on_either_side_of_a_cut_agrees_after_it() {
    let (mut sim, network) = Sim::networked_by(301, 2, 4);
    sim.run(SOON);
    sim.partition(&[0, 2], &[1, 3]);
    define(&mut sim, 0, &network, shop("here")).expect("defined");
    define(&mut sim, 1, &network, shop("there")).expect("defined");
    sim.until(SOON, |sim| {
        namespace(sim, 2, &network).as_deref() == Some("here")
            && namespace(sim, 3, &network).as_deref() == Some("there")
    });
    sim.heal();
    sim.until(Duration::from_secs(10), |sim| {
        let said: Vec<_> = (0..4).map(|at| namespace(sim, at, &network)).collect();
        said.iter().all(|one| one == &said[0]) && sim.agree(&[0, 1, 2, 3], &network)
    });
    define(&mut sim, 0, &network, shop("at-last")).expect("defined");
    sim.until(SOON, |sim| (0..4).all(|at| namespace(sim, at, &network).as_deref() == Some("at-last")));
}

#[test]
fn an_application_keeps_its_place_however_often_it_is_defined_and_by_whom() {
    let (mut sim, network) = Sim::networked_by(303, 2, 3);
    sim.run(SOON);
    let other = || AppDef { namespace: label("front"), ..AppDef::new(label("an-other")) };
    define(&mut sim, 0, &network, shop("shop")).expect("defined");
    sim.until(SOON, |sim| namespace(sim, 1, &network).is_some());
    sim.partition(&[0, 2], &[1]);
    // On either side of a cut: that which was there before has what both want.
    define(&mut sim, 1, &network, other()).expect("defined");
    for _ in 0..3 {
        define(&mut sim, 0, &network, shop("front")).expect("defined");
    }
    sim.heal();
    let holder = |sim: &Sim, at: usize| {
        let held = sim.network(at, &network)?;
        held.definition("an-other").and(held.app_of_namespace("front").map(ToString::to_string))
    };
    sim.until(Duration::from_secs(10), |sim| (0..3).all(|at| holder(sim, at).as_deref() == Some("shop")));
    // Another owner says it anew; taken back and said again, it is the last one.
    define(&mut sim, 1, &network, shop("front")).expect("its own");
    sim.until(SOON, |sim| sim.agree(&[0, 1, 2], &network));
    assert_eq!(holder(&sim, 2).as_deref(), Some("shop"));
    let operation = sim.on(0, |m, now| m.undefine_app(&network, label("shop"), now));
    sim.wait(0, operation).expect("taken back");
    sim.until(SOON, |sim| (0..3).all(|at| holder(sim, at).as_deref() == Some("an-other")));
    define(&mut sim, 0, &network, shop("shop")).expect("defined");
    let network = sim.network(0, &network).expect("held");
    let order: Vec<_> = network.definitions().map(|def| def.id.as_str()).collect();
    assert_eq!(order, ["an-other", "shop"]);
}

#[test]
fn only_owners_define_and_deploy_and_a_namespace_has_one_application() {
    let (mut sim, network) = Sim::networked(302, 2);
    assert_eq!(define(&mut sim, 1, &network, shop("x")).err(), Some(OperationError::NotOwner(network.clone())));
    let operation = sim.on(1, |m, now| m.deploy(&network, label("shop"), "v1".to_owned(), now));
    assert_eq!(sim.wait(1, operation).err(), Some(OperationError::NotOwner(network.clone())));
    define(&mut sim, 0, &network, shop("backoffice")).expect("defined");
    let other = AppDef { namespace: label("backoffice"), ..AppDef::new(label("other")) };
    let taken = OperationError::NamespaceTaken { namespace: label("backoffice"), holder: label("shop") };
    assert_eq!(define(&mut sim, 0, &network, other).err(), Some(taken));
    let operation = sim.on(0, |m, now| m.deploy(&network, label("nothing"), "v1".to_owned(), now));
    assert_eq!(sim.wait(0, operation).err(), Some(OperationError::NoApp(label("nothing"))));
}

#[test]
fn deploys_are_in_the_order_in_which_they_were_said_by_whomever() {
    let (mut sim, network) = Sim::networked_by(304, 2, 3);
    define(&mut sim, 0, &network, shop("backoffice")).expect("defined");
    sim.until(SOON, |sim| namespace(sim, 1, &network).is_some());
    for (at, version, order) in [
        (0, "v1", &["v1"][..]),
        (1, "v10", &["v1", "v10"]),
        (0, "v9", &["v1", "v10", "v9"]),
        (1, "v1", &["v10", "v9", "v1"]),
    ] {
        let operation = sim.on(at, |m, now| m.deploy(&network, label("shop"), version.to_owned(), now));
        sim.wait(at, operation).expect("deployed");
        sim.until(SOON, |sim| (0..3).all(|at| deployed(sim, at, &network) == order));
    }
}

#[test]
fn old_deploys_are_forgotten_but_not_of_a_version_that_has_a_container() {
    let (mut sim, network) = Sim::networked(305, 2);
    let spec = AttachSpec { app: label("shop"), version: Some("v0".to_owned()), ..sim.spec(&network) };
    let operation = sim.on(1, |m, now| m.attach(spec, now));
    sim.wait(1, operation).expect("attaches");
    sim.until(SOON, |sim| sim.network(0, &network).is_some_and(|n| n.containers().len() == 1));
    for version in 0..50 {
        let operation = sim.on(0, |m, now| m.deploy(&network, label("shop"), format!("v{version}"), now));
        sim.wait(0, operation).expect("deployed");
    }
    let kept = deployed(&sim, 0, &network);
    assert_eq!((kept.len(), &*kept[0], &**kept.last().expect("one")), (33, "v0", "v49"));
}

#[test]
fn an_owner_says_no_more_than_others_take_in_and_goes_on_with_the_rest() {
    let (mut sim, network) = Sim::networked_by(304, 2, 3);
    sim.run(SOON);
    let app = |n: u32| AppDef { title: Some("x".repeat(56_000)), ..AppDef::new(label(&format!("app-{n}"))) };
    let mut defined = 0;
    let refused = loop {
        match define(&mut sim, 0, &network, app(defined)) {
            Ok(_) => defined += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, OperationError::LogFull);
    let knows = |sim: &Sim, at: usize, n: u32| {
        sim.network(at, &network).is_some_and(|held| held.definition(&format!("app-{n}")).is_some())
    };
    let minute = Duration::from_secs(60);
    sim.until(minute, |sim| (0..defined).all(|n| (0..3).all(|at| knows(sim, at, n))));
    sim.attach(0, &network).expect("what a network bounds finds room");
    define(&mut sim, 1, &network, app(defined)).expect("another owner has room");
    sim.kill(0);
    sim.start_node(0).expect("its own log is one that it takes in");
    sim.until(minute, |sim| knows(sim, 0, defined) && sim.agree(&[0, 1, 2], &network));
    assert_eq!(sim.network(2, &network).expect("held").containers().len(), 1);
    // What ends makes room.
    let operation = sim.on(0, |m, now| m.undefine_app(&network, label("app-0"), now));
    sim.wait(0, operation).expect("taken back");
    define(&mut sim, 0, &network, app(defined + 1)).expect("there is room again");
}

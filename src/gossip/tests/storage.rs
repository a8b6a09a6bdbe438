//! What a node does with damaged, missing, or old files, and with a disk that refuses.

use std::cell::RefCell;
use std::time::Duration;

use proptest::prelude::*;
use rand_core::SeedableRng;

use super::harness::Sim;
use crate::gossip::*;
use crate::membership::Role;
use crate::model::NetworkId;

const SOON: Duration = Duration::from_secs(5);

fn networked(seed: u64) -> (Sim, NetworkId) {
    let mut sim = Sim::cluster(seed, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    (sim, network)
}

fn names(sim: &Sim, at: usize, prefix: &str) -> Vec<String> {
    sim.nodes[at].disk.names(prefix).map(ToOwned::to_owned).collect()
}

fn tear(sim: &mut Sim, at: usize, name: &str) {
    let mut torn = sim.nodes[at].disk.content(name).expect("the file is there").to_vec();
    torn.truncate(torn.len() / 2);
    sim.nodes[at].disk.insert(name.to_owned(), torn);
}

#[test]
fn what_the_node_itself_signed_is_refused_when_it_is_torn() {
    let (mut sim, _) = networked(50);
    sim.kill(1);
    let whole = sim.nodes[1].disk.clone();
    let own: Vec<String> = ["own-", "cluster", "boot", "secrets-"].iter().flat_map(|p| names(&sim, 1, p)).collect();
    assert_eq!(own.len(), 5);
    for name in own {
        tear(&mut sim, 1, &name);
        assert_eq!(sim.start_node(1), Err(StoreError::Damaged(name)));
        sim.nodes[1].disk = whole.clone();
    }
    sim.start_node(1).expect("the whole state starts");
}

#[test]
fn the_cluster_file_is_missed_and_never_replaced_by_a_new_beginning() {
    let (mut sim, _) = networked(51);
    sim.kill(1);
    sim.nodes[1].disk.apply(&Write::remove("cluster"));
    assert_eq!(sim.start_node(1), Err(StoreError::Missing("cluster".into())));
}

#[test]
fn a_torn_log_of_another_node_is_dropped_and_fetched_again() {
    let (mut sim, network) = networked(52);
    sim.kill(1);
    for name in names(&sim, 1, "log-") {
        tear(&mut sim, 1, &name);
    }
    sim.start_node(1).expect("starts");
    assert_eq!(sim.machine(1).attachments().len(), 1);
    // Without any other log it knows no endpoint: the others dial it.
    sim.until(Duration::from_secs(60), |sim| sim.agree(&[0, 1], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 1);
}

#[test]
fn a_node_set_back_to_an_older_state_takes_up_what_it_signed_since() {
    let (mut sim, network) = networked(53);
    let old = sim.nodes[0].disk.clone();
    let late = sim.add("late");
    let token = sim.invite(0, std::slice::from_ref(&network), 1);
    sim.join(late, &token).expect("joins");
    sim.until(SOON, |sim| sim.network(late, &network).is_some());
    sim.attach(late, &network).expect("attaches");
    sim.run(SOON);
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    // The certificate and the share that it forgot come back to it.
    sim.until(Duration::from_secs(60), |sim| sim.machine(0).membership().nodes().len() == 4);
    sim.until(Duration::from_secs(60), |sim| sim.agree(&[0, 1, late], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 2);
}

#[test]
fn an_owner_set_back_to_before_a_grant_hears_of_it_from_the_grantee() {
    let mut sim = Sim::cluster(62, 2);
    let network = sim.create_network(0, "demo");
    sim.run(SOON);
    let old = sim.nodes[0].disk.clone();
    sim.grant(0, &network, 1, Role::Host);
    sim.until(SOON, |sim| sim.network(1, &network).is_some());
    sim.attach(1, &network).expect("attaches");
    sim.run(SOON);
    sim.kill(0);
    sim.nodes[0].disk = old;
    sim.start_node(0).expect("starts");
    sim.until(Duration::from_secs(30), |sim| sim.agree(&[0, 1], &network));
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 1);
}

#[test]
fn a_disk_that_refuses_fails_the_operation_and_nothing_of_it_stays() {
    let (mut sim, network) = networked(54);
    sim.nodes[1].disk_fails = true;
    assert_eq!(sim.attach(1, &network).err(), Some(OperationError::NotStored));
    sim.nodes[1].disk_fails = false;
    sim.run(SOON);
    assert_eq!(sim.machine(1).attachments().len(), 1);
    assert_eq!(sim.network(0, &network).expect("held").containers().len(), 1);
    sim.attach(1, &network).expect("works again");
}

#[test]
fn while_a_disk_refuses_every_operation_fails_and_none_waits_for_ever() {
    let (mut sim, network) = networked(56);
    sim.nodes[1].disk_fails = true;
    for _ in 0..4 {
        let began = sim.now;
        assert_eq!(sim.attach(1, &network).err(), Some(OperationError::NotStored));
        assert!(sim.now - began <= Duration::from_secs(3), "it waited {:?}", sim.now - began);
    }
    sim.nodes[1].disk_fails = false;
    sim.run(SOON);
    sim.attach(1, &network).expect("works again");
    assert_eq!(sim.machine(1).attachments().len(), 2);
}

#[test]
fn nothing_leaves_a_node_before_it_is_on_disk() {
    let (mut sim, network) = networked(55);
    let spec = sim.spec(&network);
    let id = spec.id;
    sim.on(1, |m, now| m.attach(spec, now));
    sim.kill(1);
    sim.run(SOON);
    assert!(sim.nodes[0].received.iter().all(|bytes| !bytes.windows(8).any(|window| window == id.0)));
}

/// A network of node 0, whose second owner, node 1, granted it to node 2, and what node 2 attached at once.
fn attached_by_another_owners_grant(seed: u64) -> (Sim, NetworkId, Attached) {
    let mut sim = Sim::cluster(seed, 3);
    let network = sim.create_network(0, "demo");
    sim.grant(0, &network, 1, Role::Owner);
    sim.until(SOON, |sim| sim.network(1, &network).is_some_and(|held| held.grants.len() == 2));
    sim.grant(1, &network, 2, Role::Host);
    sim.until(SOON, |sim| sim.network(2, &network).is_some());
    let attached = sim.attach(2, &network).expect("attaches");
    (sim, network, attached)
}

/// A node that is granted a network, attaches at once, and is killed as soon as that is acknowledged: alone, it starts with the
/// network and the container's address.
#[test]
fn what_an_acknowledged_container_rests_on_is_on_disk_before_it() {
    for seed in 100..120 {
        let (mut sim, network, attached) = attached_by_another_owners_grant(seed);
        (0..3).for_each(|at| sim.kill(at));
        sim.start_node(2).expect("starts");
        let held = sim.network(2, &network).expect("a network that was attached to is held");
        assert_eq!(held.containers().map(|c| (c.id, c.address)).collect::<Vec<_>>(), [(attached.id, attached.address)]);
        assert!(held.grants.contains_key(&sim.id(2)), "seed {seed}");
    }
}

#[test]
fn a_container_outlives_the_torn_log_of_the_owner_who_granted_its_node() {
    let (mut sim, network, attached) = attached_by_another_owners_grant(63);
    sim.run(SOON);
    sim.kill(2);
    let name = format!("log-n-{}-{network}", sim.id(1));
    tear(&mut sim, 2, &name);
    sim.start_node(2).expect("starts");
    sim.until(Duration::from_secs(60), |sim| sim.agree(&[0, 1, 2], &network));
    let here = sim.network(2, &network).expect("held").containers().map(|c| c.id).collect::<Vec<_>>();
    assert_eq!(here, [attached.id]);
}

#[test]
fn a_create_that_the_disk_refused_leaves_no_network_behind() {
    let (mut sim, _) = networked(57);
    sim.nodes[0].disk_fails = true;
    let before = sim.nodes[0].disk.names("").count();
    let began = sim.now;
    let create = sim.on(0, |m, now| m.create_network(Some("late".parse().expect("a label")), false, now));
    assert_eq!(sim.wait(0, create).err(), Some(OperationError::NotStored));
    assert!(sim.now - began <= Duration::from_secs(1));
    sim.nodes[0].disk_fails = false;
    sim.run(SOON);
    assert_eq!(sim.machine(0).membership().networks().len(), 1);
    assert_eq!(sim.nodes[0].disk.names("").count(), before, "not a file of it");
    sim.restart(0);
    assert_eq!(sim.machine(0).membership().networks().len(), 1);
    sim.create_network(0, "late");
}

#[test]
fn a_joiner_hears_at_once_that_the_signers_disk_refuses_and_joins_later_with_the_same_token() {
    let mut sim = Sim::cluster(58, 1);
    let joiner = sim.add("joiner");
    let token = sim.invite(0, &[], 1);
    sim.nodes[0].disk_fails = true;
    let began = sim.now;
    assert_eq!(sim.join(joiner, &token), Err(OperationError::Join(JoinError::SignerNotStored)));
    assert!(sim.now - began <= Duration::from_secs(1), "it waited {:?}", sim.now - began);
    assert_eq!((sim.machine(joiner).cluster(), sim.machine(0).membership().nodes().len()), (None, 1));
    sim.nodes[0].disk_fails = false;
    sim.run(SOON);
    sim.join(joiner, &token).expect("the token is as good as it was");
}

#[test]
fn a_joiner_whose_own_disk_refuses_is_in_no_cluster_and_joins_later_with_the_same_token() {
    let mut sim = Sim::cluster(59, 1);
    let joiner = sim.add("joiner");
    let token = sim.invite(0, &[], 1);
    sim.run(SOON);
    sim.nodes[joiner].disk_fails = true;
    assert_eq!(sim.join(joiner, &token), Err(OperationError::Join(JoinError::NotStored)));
    assert_eq!(sim.machine(joiner).cluster(), None);
    sim.nodes[joiner].disk_fails = false;
    sim.run(SOON);
    sim.restart(joiner);
    assert_eq!(sim.machine(joiner).cluster(), None, "it does not become a member behind its back");
    sim.join(joiner, &token).expect("the same key may repeat it");
    sim.until(SOON, |sim| sim.machine(0).connected().len() == 1);
}

#[test]
fn an_init_that_the_disk_refused_leaves_no_cluster_behind() {
    let mut sim = Sim::new(60);
    let at = sim.add("one");
    sim.run(SOON);
    sim.nodes[at].disk_fails = true;
    let init = sim.on(at, |m, now| m.init(None, now));
    assert_eq!(sim.wait(at, init).err(), Some(OperationError::NotStored));
    sim.nodes[at].disk_fails = false;
    sim.run(SOON);
    assert!(sim.machine(at).cluster().is_none() && !sim.machine(at).has_root_key());
    let init = sim.on(at, |m, now| m.init(None, now));
    assert!(sim.wait(at, init).is_ok());
}

/// Any file of the folder, cut or flipped anywhere: the node starts as itself, with all that it was promised, or names it.
#[test]
fn whatever_happens_to_one_file_the_node_is_itself_or_refuses_by_its_name() {
    let (mut sim, _) = networked(61);
    let (me, attached) = (sim.machine(1).node(), sim.machine(1).attachments().len());
    sim.kill(1);
    let (names, whole) = (names(&sim, 1, ""), sim.nodes[1].disk.clone());
    assert!(names.len() > 6, "{names:?}");
    let sim = RefCell::new(sim);
    let index = any::<prop::sample::Index>;
    proptest!(ProptestConfig::with_cases(512), |(which in index(), at in index(), damage in 0..4u8, bit in 0..8u32)| {
        let mut sim = sim.borrow_mut();
        sim.nodes[1].disk = whole.clone();
        let name = which.get(&names).clone();
        let mut content = whole.content(&name).expect("it was listed").to_vec();
        let at = at.index(content.len());
        match damage {
            0 => content.truncate(at),
            1 => content.clear(),
            2 => content[at] ^= 1 << bit,
            _ => content.extend_from_within(at..),
        }
        sim.nodes[1].disk.insert(name.clone(), content);
        let damaged = StoreError::Damaged(name.clone());
        match Identity::load_or_make(&sim.nodes[1].disk, &mut rand_chacha::ChaCha20Rng::seed_from_u64(1)) {
            Err(error) => prop_assert_eq!(error, damaged),
            Ok((identity, write)) => {
                prop_assert!(identity.node() == me && write.is_none(), "another identity after damage to {name}");
                match sim.start_node(1) {
                    Err(error) => prop_assert_eq!(error, damaged),
                    Ok(()) => {
                        let kept = sim.machine(1).attachments().len();
                        sim.kill(1);
                        prop_assert!(name.starts_with("log-"), "damage to {name} was not noticed");
                        prop_assert_eq!(kept, attached);
                    }
                }
            }
        }
    });
}

//! What follows from records never depends on their order, and nothing follows from those whose signer may not say it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::body::{
    Body, ContainerBody, Deploy, NodeCert, Release, Revocation, Services, Share, Signer, Succession, Ungrant,
};
use super::testing::{Fixture, node};
use super::{ClusterState, Holdings, NetworkState, Role, Shard, State, Verified, ranges_of};
use crate::model::{AppDef, AttachmentId, CONTAINERS, Ipv4Range, Label, NetworkId, WgSecret};

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, last)
}

fn range(first: u8, last: u8) -> Ipv4Range {
    Ipv4Range::new(address(first), address(last)).expect("a range")
}

fn share(range: Ipv4Range, to: u8, home: bool) -> Body {
    Body::Share(Share { range, holder: node(to), home })
}

fn container(id: u8, at: u8) -> Body {
    use rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(u64::from(id));
    Body::Container(ContainerBody {
        id: AttachmentId([id; 8]),
        address: address(at),
        app: "shop".parse().expect("a label"),
        kind: "web".parse().expect("a label"),
        number: u32::from(id),
        version: None,
        service: "web".parse().expect("a label"),
        server: None,
        public_key: WgSecret::random(&mut rng).public(),
        state: State::Ready,
    })
}

/// Application `shop` with this namespace.
fn defined(namespace: &str) -> Body {
    let app: Label = "shop".parse().expect("a label");
    let def = AppDef { namespace: namespace.parse().expect("a label"), ..AppDef::new(app.clone()) };
    Body::Services(Services { app, def: Some(Arc::new(def)), since: None })
}

fn cluster(records: &[Verified], fixture: &Fixture) -> ClusterState {
    ClusterState::derive(fixture.cluster, records.iter()).expect("the genesis record is there")
}

/// A network of node 1 with nodes 2 and 3, and everything that can be contested.
fn busy() -> (Fixture, Vec<Verified>, NetworkId, Vec<Verified>) {
    let mut f = Fixture::new(5);
    let members = f.members();
    let (id, def) = f.network();
    let shard = Shard::Network(id.clone());
    let mut records = vec![def];
    records.push(f.grant(1, &id, 2, Role::Owner, 1));
    records.push(f.grant(2, &id, 3, Role::Host, 1));
    records.push(f.grant(1, &id, 4, Role::Host, 1));
    records.push(f.say(2, &shard, Body::Ungrant(Ungrant { node: node(4) }), 2));
    records.push(f.grant(3, &id, 5, Role::Host, 9));
    records.push(f.say(1, &shard, share(range(10, 19), 2, false), 0));
    let second = f.say(1, &shard, share(range(15, 29), 3, false), 0);
    records.push(second.clone());
    records.push(f.say(1, &shard, share(range(100, 199), 2, true), 0));
    records.push(f.say(2, &shard, share(range(150, 219), 3, false), 0));
    let release = Release { range: range(20, 22), home: node(1), share: second.stamp() };
    records.push(f.say(3, &shard, Body::Release(release), 0));
    records.push(f.say(2, &shard, container(1, 16), 1));
    records.push(f.say(3, &shard, container(2, 16), 1));
    records.push(f.say(3, &shard, container(3, 25), 2));
    records.push(f.say(3, &shard, container(4, 21), 2));
    records.push(f.say(3, &shard, container(5, 160), 3));
    records.push(f.say(5, &shard, container(6, 50), 3));
    records.push(f.say(1, &shard, defined("first"), 1));
    records.push(f.say(2, &shard, defined("second"), 2));
    records.push(f.say(3, &shard, defined("a-hosts"), 3));
    for (who, version, rev) in [(1, "v2", 1), (2, "v1", 2), (1, "v2", 3), (3, "v3", 9)] {
        let deploy = Deploy { app: "shop".parse().expect("a label"), version: version.to_owned() };
        records.push(f.say(who, &shard, Body::Deploy(deploy), rev));
    }
    (f, members, id, records)
}

#[test]
fn shares_grants_and_containers_count_only_from_who_may_say_them() {
    let (f, members, id, records) = busy();
    let state = NetworkState::derive(&id, &cluster(&members, &f), records.iter()).expect("defined");
    let roles: Vec<_> = (1..=5).map(|n| state.view.grants.get(&node(n)).copied()).collect();
    assert_eq!(roles, [Some(Role::Owner), Some(Role::Owner), Some(Role::Host), None, None]);
    assert!(!state.may_write(node(5)), "a host's grant is none");

    let holder = |last| state.holdings.holder(address(last));
    assert_eq!(holder(9), Some(node(1)), "what is not shared is the home's");
    assert_eq!(
        (holder(10), holder(15), holder(19)),
        (Some(node(2)), Some(node(2)), Some(node(2))),
        "the earlier share holds"
    );
    assert_eq!((holder(25), holder(21)), (Some(node(3)), None), "and what was released is nobody's");
    assert_eq!((holder(120), holder(160)), (Some(node(2)), Some(node(3))), "a home shares on");
    assert_eq!(holder(210), Some(node(1)), "but only what it is home of");

    let held: Vec<u8> = state.view.containers().map(|c| c.id.0[0]).collect();
    assert_eq!(held, [1, 3, 5]);
}

#[test]
fn the_owners_last_definition_counts_and_is_the_records_own() {
    let (f, members, id, mut records) = busy();
    let cluster = cluster(&members, &f);
    let state = NetworkState::derive(&id, &cluster, records.iter()).expect("defined");
    let def = state.view.definition("shop").expect("defined");
    assert_eq!(def.namespace.as_str(), "second");
    let is_said = |record: &Verified| match record.body() {
        Body::Services(said) => said.def.as_ref().is_some_and(|said| Arc::ptr_eq(said, def)),
        _ => false,
    };
    assert!(records.iter().any(is_said), "not a copy");
    let deployed: Vec<_> = state.view.deploys("shop").into_iter().map(|(_, version)| version).collect();
    assert_eq!(deployed, ["v1", "v2"]);

    let before = state.view.edition();
    records.retain(|record| !is_said(record));
    let without = NetworkState::derive(&id, &cluster, records.iter()).expect("defined");
    assert_ne!(without.view.edition(), before);
    assert_eq!(without.view.definition("shop").map(|def| def.namespace.as_str()), Some("first"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_follows_does_not_depend_on_the_order(seed in any::<u64>(), leave_out in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let (f, members, id, mut records) = busy();
        for at in leave_out {
            if records.len() > 1 { records.remove(1 + at.index(records.len() - 1)); }
        }
        let shuffled = |records: &[Verified]| {
            let place = |r: &Verified| *blake3::hash(&[&seed.to_be_bytes()[..], &r.hash().0].concat()).as_bytes();
            let mut keyed: Vec<_> = records.iter().map(|r| (place(r), r.clone())).collect();
            keyed.sort_by_key(|(at, _)| *at);
            keyed.into_iter().map(|(_, r)| r).collect::<Vec<_>>()
        };
        let one = cluster(&members, &f);
        prop_assert_eq!(&one, &cluster(&shuffled(&members), &f));
        let a = NetworkState::derive(&id, &one, records.iter()).expect("defined");
        let b = NetworkState::derive(&id, &one, shuffled(&records).iter()).expect("defined");
        prop_assert_eq!(&a.holdings, &b.holdings);
        prop_assert_eq!(&a.view.grants, &b.view.grants);
        prop_assert_eq!(a.view.secret, b.view.secret);
        prop_assert!(a.view.containers().eq(b.view.containers()));
        prop_assert!(a.view.definitions().eq(b.view.definitions()));
        prop_assert_eq!(a.view.deploys("shop"), b.view.deploys("shop"));
        prop_assert_eq!(a.view.edition(), b.view.edition());
    }

    #[test]
    fn every_address_has_one_fate(shares in prop::collection::vec((0u16..1022, 0u16..1022, 2u8..5, any::<bool>()), 0..20)) {
        let mut f = Fixture::new(4);
        let (id, _) = f.network();
        let at = |n: u16| CONTAINERS.iter().nth(usize::from(n)).expect("in range");
        let mut records: Vec<Verified> = shares.iter().map(|(a, b, to, home)| {
            let range = Ipv4Range::new(at(*a.min(b)), at(*a.max(b))).expect("ordered");
            f.say(1, &Shard::Network(id.clone()), Body::Share(Share { range, holder: node(*to), home: *home }), 0)
        }).collect();
        let holdings = Holdings::derive(node(1), records.iter());
        let total: u64 = holdings.segments(CONTAINERS).map(|segment| segment.range.count()).sum();
        prop_assert_eq!(total, 1022);
        for n in [0, 511, 1021] {
            // The earliest share that covers it decides.
            let first = shares.iter().find(|(a, b, ..)| (*a.min(b)..=*a.max(b)).contains(&n));
            prop_assert_eq!(holdings.holder(at(n)), Some(node(first.map_or(1, |share| share.2))));
        }
        records.reverse();
        prop_assert_eq!(holdings, Holdings::derive(node(1), records.iter()));
    }
}

#[test]
fn only_the_root_appoints_only_signers_certify_and_a_revocation_is_final() {
    let mut f = Fixture::new(5);
    let mut records = f.members();
    let name = || "x".parse().expect("a label");
    // A node that appoints itself, and one that certifies with it.
    records.push(f.say(2, &Shard::Cluster, Body::Signer(Signer { node: node(2), number: 2 }), 1));
    records.push(f.say(2, &Shard::Cluster, Body::NodeCert(NodeCert { node: node(9), name: name() }), 1));
    records.push(f.say(2, &Shard::Cluster, Body::Revocation(Revocation { node: node(3) }), 1));
    let state = cluster(&records, &f);
    assert!(!state.is_member(node(9)) && state.is_member(node(3)) && !state.is_signer(node(2)));

    records.push(f.say(1, &Shard::Cluster, Body::Revocation(Revocation { node: node(3) }), 1));
    records.push(f.say(1, &Shard::Cluster, Body::NodeCert(NodeCert { node: node(3), name: name() }), 99));
    let state = cluster(&records, &f);
    assert!(!state.is_member(node(3)) && state.is_revoked(node(3)), "no later certificate brings it back");
    assert!(state.may_write(node(3)), "what it defined stays");

    // Signers do not expel each other: the root does.
    records.push(f.say(0, &Shard::Cluster, Body::Signer(Signer { node: node(4), number: 2 }), 1));
    records.push(f.say(4, &Shard::Cluster, Body::Revocation(Revocation { node: node(1) }), 1));
    assert!(cluster(&records, &f).is_signer(node(1)));
    records.push(f.say(0, &Shard::Cluster, Body::Revocation(Revocation { node: node(1) }), 1));
    let state = cluster(&records, &f);
    assert!(!state.is_signer(node(1)) && state.is_member(node(5)), "and those it certified stay");
}

#[test]
fn the_root_succeeds_a_signer_whose_certificates_count_for_nothing_any_more() {
    let mut f = Fixture::new(6);
    let mut records = f.members();
    let cert = |number: u8| {
        let name = format!("n{number}").parse().expect("a label");
        Body::NodeCert(NodeCert { node: node(number), name })
    };
    records.push(f.say(0, &Shard::Cluster, Body::Signer(Signer { node: node(4), number: 2 }), 1));
    records.push(f.say(4, &Shard::Cluster, cert(6), 1));
    records.push(f.say(1, &Shard::Cluster, Body::Revocation(Revocation { node: node(3) }), 1));
    // Nobody but the root succeeds anybody.
    for who in [2, 4] {
        records.push(f.say(who, &Shard::Cluster, Body::Succession(Succession { node: node(1) }), 1));
    }
    let before = cluster(&records, &f);
    assert!(before.is_member(node(2)) && before.is_member(node(5)));

    records.push(f.say(0, &Shard::Cluster, Body::Revocation(Revocation { node: node(1) }), 1));
    records.push(f.say(0, &Shard::Cluster, Body::Succession(Succession { node: node(1) }), 1));
    for named in [1, 2, 3, 4] {
        records.push(f.say(0, &Shard::Cluster, cert(named), 1));
    }
    // What its key signs is heard, before and after.
    records.push(f.say(1, &Shard::Cluster, cert(9), 99));
    let state = cluster(&records, &f);
    assert!(state.is_member(node(2)) && state.is_signer(node(4)), "whom the root named stays, with its office");
    assert!(state.is_member(node(6)), "another signer certified it, and now the root had no need to");
    assert!(!state.is_member(node(1)) && state.may_write(node(1)), "it is expelled, and its networks stay");
    assert!(state.is_revoked(node(3)) && state.may_write(node(3)), "what a signer revoked stays revoked");
    for unnamed in [5, 9] {
        let node = node(unnamed);
        assert!(!state.is_member(node) && state.is_revoked(node) && !state.may_write(node), "node {unnamed}");
    }
    assert_eq!(state.signer_number(node(1)), before.signer_number(node(1)), "networks keep their VNI");
    records.reverse();
    assert_eq!(cluster(&records, &f), state, "in whatever order they came");
}

#[test]
fn a_node_leaves_by_its_own_word_alone_and_for_ever() {
    let mut f = Fixture::new(5);
    let mut records = f.members();
    records.push(f.say(3, &Shard::Cluster, Body::Revocation(Revocation { node: node(3) }), 1));
    records.push(f.say(1, &Shard::Cluster, Body::Revocation(Revocation { node: node(2) }), 1));
    let name = "x".parse().expect("a label");
    records.push(f.say(1, &Shard::Cluster, Body::NodeCert(NodeCert { node: node(3), name }), 99));
    let state = cluster(&records, &f);
    assert!(state.has_left(node(3)) && state.is_revoked(node(3)) && !state.is_member(node(3)));
    assert!(!state.has_left(node(2)) && state.is_revoked(node(2)), "it was expelled");
    assert!(!state.has_left(node(4)) && state.is_member(node(4)));
}

#[test]
fn another_clusters_genesis_makes_no_state() {
    let f = Fixture::new(1);
    assert!(ClusterState::derive(crate::model::ClusterId([1; 32]), [&f.genesis].into_iter()).is_none());
}

#[test]
fn a_network_is_defined_by_the_creator_its_id_names_alone() {
    let mut f = Fixture::new(3);
    let mut members = f.members();
    members.push(f.say(0, &Shard::Cluster, Body::Signer(Signer { node: node(2), number: 2 }), 1));
    let (id, def) = f.network();
    let Body::NetworkDef(body) = def.body().clone() else { panic!("a definition") };
    let usurped = f.say(2, &Shard::Network(id.clone()), Body::NetworkDef(body), 99);
    let state = cluster(&members, &f);
    assert!(NetworkState::derive(&id, &state, [&usurped].into_iter()).is_none());
    let both = [usurped, def];
    assert_eq!(NetworkState::derive(&id, &state, both.iter()).expect("defined").view.creator, node(1));
}

#[test]
fn a_container_of_an_expelled_node_does_not_count() {
    let (mut f, mut members, id, records) = busy();
    members.push(f.say(1, &Shard::Cluster, Body::Revocation(Revocation { node: node(3) }), 1));
    let state = NetworkState::derive(&id, &cluster(&members, &f), records.iter()).expect("defined");
    assert!(state.view.containers().all(|c| c.node != node(3)));
    assert!(!state.is_granted(node(3)));
}

#[test]
fn neighbouring_addresses_make_one_range() {
    let ranges = ranges_of([address(1), address(2), address(4), address(5), address(6)]);
    assert_eq!(ranges, [range(1, 2), range(4, 6)]);
}

#[test]
fn shares_of_who_is_no_home_and_releases_of_others_shares_cut_nothing() {
    let mut fixture = Fixture::new(3);
    let (id, def) = fixture.network();
    let shard = Shard::Network(id);
    let given = fixture.say(1, &shard, share(range(1, 100), 2, false), 1);
    let mut records = vec![def, given.clone()];
    let alone = Holdings::derive(node(1), records.iter());
    for last in (101..200).step_by(2) {
        records.push(fixture.say(3, &shard, share(range(last, last), 3, false), 1));
    }
    for last in (1..100).step_by(2) {
        let release = Release { range: range(last, last), home: node(1), share: given.stamp() };
        records.push(fixture.say(3, &shard, Body::Release(release), 1));
    }
    assert_eq!(Holdings::derive(node(1), records.iter()), alone);
}

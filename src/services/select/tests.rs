use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::membership::testing;
use crate::model::{AttachmentId, ClusterId, Rev, Vni};

/// How late a version is, as one says it: deployed before attached before none; deployed last, or attached first last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Unversioned,
    Attached(Order),
    Deployed(Order),
}

fn rank(network: &Network, version: Option<&str>) -> Rank {
    let Some(version) = version else { return Rank::Unversioned };
    if let Some(order) = network.deployed("shop", version) {
        return Rank::Deployed(order);
    }
    let of_version =
        network.containers().filter(|one| one.app == label("shop") && one.version.as_deref() == Some(version));
    of_version.map(|one| (one.rev, one.node)).min().map_or(Rank::Unversioned, Rank::Attached)
}

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

fn node(number: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId(id)
}

/// A container of a service: 10.240.0.1 is the first.
fn put(network: &mut Network, at: usize, (app, service): (&str, &str), version: Option<String>, rev: u64) {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 240, 0, 1).to_bits() + at as u32);
    let (app, service, id) = (label(app), label(service), AttachmentId((at as u64 + 1).to_be_bytes()));
    let made = testing::container(address);
    let kind = service.clone();
    network.insert_container(Arc::new(Container {
        app,
        service,
        kind,
        id,
        version,
        node: node(at),
        rev: Rev(rev),
        ..made
    }));
}

fn network() -> Network {
    Network::new("pn-a".parse().expect("an id"), Vni::try_from(1).expect("a VNI"), node(0))
}

/// The version that the outside gets, and of how many containers.
fn latest(network: &Network) -> (Option<String>, usize) {
    let membership = Membership::new(ClusterId([0; 32]), [], [network.clone()]);
    let service = Service::find(network, "shop", "api").expect("declared");
    let mut found = service.ready(&membership, network);
    let shop = label("shop");
    let asker = Asker { node: node(0), app: &shop, version: None };
    match service.of_version(network, asker, &mut found) {
        ByVersion::Latest(latest, _) => (latest.map(ToOwned::to_owned), found.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_as_many_versions_as_there_are_containers_that_attached_last_is_the_latest_until_one_is_deployed() {
    let mut network = network();
    for at in 0..1022 {
        // The middle one is attached last.
        let rev = 1000 - 511_u64.abs_diff(at);
        put(&mut network, at as usize, ("shop", "api"), Some(format!("v{at}")), rev);
    }
    assert_eq!(latest(&network), (Some("v511".to_owned()), 1));
    network.deploy(label("shop"), "v7".to_owned(), (Rev(1), node(0)));
    assert_eq!(latest(&network), (Some("v7".to_owned()), 1));
}

proptest! {
    /// Services, applications and versions as chance has them; whoever is attached has an order of its own.
    #[test]
    fn the_latest_is_that_of_the_simple_rule(
        drawn in proptest::collection::vec((0..3usize, 0..5usize, 0..6u64), 1..24),
        deploys in proptest::collection::vec((0..5usize, 0..4u64), 0..4),
    ) {
        let mut network = network();
        let version = |at: usize| (at > 0).then(|| format!("v{at}"));
        for (at, (whose, of, rev)) in drawn.iter().enumerate() {
            let whose = [("shop", "api"), ("shop", "web"), ("jobs", "api")][*whose];
            put(&mut network, at, whose, version(*of), *rev);
        }
        put(&mut network, drawn.len(), ("shop", "api"), None, 0);
        for (at, (of, rev)) in deploys.iter().enumerate() {
            if let Some(version) = version(*of) {
                network.deploy(label("shop"), version, (Rev(*rev), node(at)));
            }
        }
        let serving: Vec<_> = network.containers_serving("shop", "api").map(|one| one.version.as_deref()).collect();
        let expected = serving.iter().copied().max_by_key(|version| rank(&network, *version)).flatten();
        let count = serving.iter().filter(|version| **version == expected).count();
        prop_assert_eq!(latest(&network), (expected.map(ToOwned::to_owned), count));
    }
}

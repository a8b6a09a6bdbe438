//! The short names: which containers a service means to whom.

use super::*;
use crate::model::{AppDef, DatabaseDef, DnsBehaviour, PortDef, ServiceDef};
use std::num::NonZeroU16;
use std::time::Duration;

const HERE: NodeId = NodeId([1; 32]);
const THERE: NodeId = NodeId([2; 32]);

/// A network to be filled, and who asks in it.
struct World {
    network: Network,
    resolver: Resolver,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { network: network("pn-a", 1, "demo"), resolver: Resolver::default(), now: start() }
    }

    /// A container 10.240.0.LAST of this version, on this node.
    fn put(&mut self, last: u8, service: &str, version: Option<&str>, node: NodeId) {
        let made = container("shop", service, last.into(), ip(0, last), State::Ready);
        let made = Container { version: version.map(Into::into), node, rev: Rev(last.into()), ..(*made).clone() };
        self.network.insert_container(Arc::new(made));
    }

    fn change(&mut self, last: u8, change: impl FnOnce(&mut Container)) {
        let mut container = (**self.network.container_at(ip(0, last)).expect("there")).clone();
        change(&mut container);
        self.network.insert_container(Arc::new(container));
    }

    fn define(&mut self, edit: impl FnOnce(&mut AppDef)) {
        let mut def = AppDef::new(label("shop"));
        edit(&mut def);
        assert!(def.is_sound());
        self.network.define_app((Rev(1), HERE), Rev(1), Arc::new(def));
    }

    fn deploy(&mut self, version: &str, rev: u64) {
        self.network.deploy(label("shop"), version.to_owned(), (Rev(rev), HERE));
    }

    fn ask(&mut self, caller: &Caller, name: &str, asked: RecordType) -> (Outcome, Message) {
        let membership = Membership::new(ClusterId([0; 32]), [], [self.network.clone()]);
        let (query, mut out) = (question(name, asked).to_vec().expect("encodes"), Vec::new());
        let outcome = self.resolver.answer(&membership, caller, (&query, Transport::Tcp), self.now, &mut out);
        (outcome, Message::from_vec(&out).expect("an answer"))
    }

    /// The last bytes of the addresses, as they come.
    fn order(&mut self, caller: &Caller, name: &str) -> Vec<u8> {
        let (outcome, answer) = self.ask(caller, name, RecordType::A);
        assert_eq!((outcome, answer.response_code), (Outcome::Answered, ResponseCode::NoError), "{name}");
        addresses(&answer).into_iter().map(|address| address.octets()[3]).collect()
    }

    fn get(&mut self, caller: &Caller, name: &str) -> Vec<u8> {
        let mut found = self.order(caller, name);
        found.sort_unstable();
        found
    }

    fn code(&mut self, caller: &Caller, name: &str) -> (Outcome, ResponseCode) {
        let (outcome, answer) = self.ask(caller, name, RecordType::A);
        (outcome, answer.response_code)
    }
}

fn asker(version: Option<&str>) -> Caller {
    Caller { app: label("shop"), version: version.map(Into::into), ..super::caller() }
}

const MISSING: (Outcome, ResponseCode) = (Outcome::Answered, ResponseCode::NXDomain);

#[test]
fn an_old_caller_gets_the_old_and_a_new_one_the_new() {
    let mut world = World::new();
    for (last, version) in [(1, "v1"), (2, "v1"), (3, "v2"), (4, "v2")] {
        world.put(last, "api", Some(version), HERE);
    }
    assert_eq!(world.get(&asker(Some("v1")), "api."), [1, 2]);
    assert_eq!(world.get(&asker(Some("v2")), "api."), [3, 4], "before its deploy as well");
}

#[test]
fn the_latest_is_the_last_deployed_then_the_first_attached_last_and_never_the_greatest_string() {
    let mut world = World::new();
    let nobody = asker(None);
    world.put(1, "api", None, HERE);
    assert_eq!(world.get(&nobody, "api."), [1]);
    world.put(2, "api", Some("v9"), HERE);
    world.put(3, "api", Some("v10"), HERE);
    assert_eq!(world.get(&nobody, "api."), [3], "attached last of those that were never deployed");
    world.deploy("v9", 1);
    assert_eq!(world.get(&nobody, "api."), [2], "deployed goes before attached");
    world.deploy("v10", 2);
    assert_eq!(world.get(&nobody, "api."), [3]);
    world.deploy("v9", 3);
    assert_eq!(world.get(&nobody, "api."), [2], "a version that is deployed again is the latest");
    world.change(2, |container| container.state = State::Draining);
    assert_eq!(world.get(&nobody, "api."), [3], "the last deployed that has a ready container");
    world.change(3, |container| container.state = State::Starting);
    assert_eq!(world.get(&nobody, "api."), [1]);
}

#[test]
fn who_has_none_of_its_own_version_or_is_of_another_application_gets_the_latest() {
    let mut world = World::new();
    world.put(1, "api", Some("v1"), HERE);
    world.put(2, "api", Some("v2"), HERE);
    world.deploy("v2", 1);
    assert_eq!(world.get(&asker(Some("v3")), "api."), [2]);
    let stranger = Caller { app: label("jobs"), ..asker(Some("v1")) };
    // `shop` is a domain of the outside world, so only the long form leads there.
    assert_eq!(world.code(&stranger, "api.").1, ResponseCode::NXDomain);
    assert_eq!(world.get(&stranger, "api.shop.svc.private-network.internal."), [2]);
    assert_eq!(world.code(&stranger, "api.shop."), (Outcome::Forward, ResponseCode::Refused));
}

#[test]
fn a_non_versioned_service_is_the_latest_for_everybody() {
    let mut world = World::new();
    let service = ServiceDef { dns_behaviour: DnsBehaviour::NonVersioned, ..ServiceDef::default() };
    world.define(|def| _ = def.services.insert(label("api"), service));
    world.put(1, "api", Some("v1"), HERE);
    world.put(2, "api", Some("v2"), HERE);
    world.deploy("v1", 1);
    assert_eq!(world.get(&asker(Some("v2")), "api."), [1]);
}

#[test]
fn round_robin_is_rotated_by_one_for_each_caller_and_name_and_not_by_aaaa() {
    let mut world = World::new();
    for last in 1..=3 {
        world.put(last, "api", None, HERE);
        world.put(last + 10, "web", None, HERE);
    }
    let (one, other) = (asker(None), Caller { attachment: AttachmentId([8; 8]), ..asker(None) });
    let first = world.order(&one, "api.");
    assert!(world.ask(&one, "api.", RecordType::AAAA).1.answers.is_empty());
    world.order(&one, "web.");
    world.order(&other, "api.");
    let (second, third) = (world.order(&one, "api.svc.private-network.internal."), world.order(&one, "api."));
    assert_eq!(second, [first[1], first[2], first[0]]);
    assert_eq!(third, [first[2], first[0], first[1]]);
}

#[test]
fn a_sticky_caller_stays_until_a_minute_passes_or_its_container_goes() {
    let mut world = World::new();
    let service = ServiceDef { load_balancing: LoadBalancing::Sticky, ..ServiceDef::default() };
    world.define(|def| _ = def.services.insert(label("api"), service));
    for last in 1..=4 {
        world.put(last, "api", Some("v1"), HERE);
    }
    let caller = asker(Some("v1"));
    let [first] = world.order(&caller, "api.")[..] else { panic!("one address") };
    for _ in 0..5 {
        world.now += Duration::from_secs(59);
        assert_eq!(world.order(&caller, "api."), [first]);
    }
    world.change(first, |container| container.state = State::Draining);
    let [second] = world.order(&caller, "api.")[..] else { panic!("one address") };
    assert_ne!(second, first);
    world.change(first, |container| container.state = State::Ready);
    assert_eq!(world.order(&caller, "api."), [second], "it stays, now with the other");
    let mut later = std::collections::BTreeSet::new();
    for _ in 0..4 {
        world.now += Duration::from_secs(61);
        later.extend(world.order(&caller, "api."));
    }
    assert!(later.len() > 1, "a minute without a question is over");
    let callers = (0..40).map(|n| Caller { attachment: AttachmentId([n; 8]), ..caller.clone() });
    let given: std::collections::BTreeSet<u8> = callers.map(|caller| world.order(&caller, "api.")[0]).collect();
    assert_eq!(given.len(), 4, "callers are spread over the containers");
}

#[test]
fn the_closest_are_those_of_the_callers_node_after_the_version_is_chosen() {
    let mut world = World::new();
    let service = ServiceDef { load_balancing: LoadBalancing::Closest, ..ServiceDef::default() };
    world.define(|def| _ = def.services.insert(label("api"), service));
    world.put(1, "api", Some("v1"), HERE);
    world.put(2, "api", Some("v1"), THERE);
    world.put(3, "api", Some("v2"), THERE);
    world.put(4, "api", Some("v2"), THERE);
    assert_eq!(world.get(&asker(Some("v1")), "api."), [1]);
    assert_eq!(world.get(&asker(Some("v2")), "api."), [3, 4], "none near: all, but of no other version");
    assert_eq!(world.get(&Caller { node: THERE, ..asker(Some("v1")) }, "api."), [2]);
}

#[test]
fn a_service_is_declared_by_a_container_or_by_the_service_file_and_no_longer() {
    let mut world = World::new();
    assert_eq!(world.code(&asker(None), "api."), MISSING);
    world.put(1, "api", None, HERE);
    world.change(1, |container| container.state = State::Starting);
    assert_eq!(world.get(&asker(None), "api."), [0_u8; 0], "declared, and none is ready");
    world.network.remove_container(ip(0, 1));
    assert_eq!(world.code(&asker(None), "api."), MISSING);
    world.define(|def| _ = def.services.insert(label("api"), ServiceDef::default()));
    assert_eq!(world.get(&asker(None), "api."), [0_u8; 0]);
    let (_, answer) = world.ask(&asker(None), "API.", RecordType::AAAA);
    assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "no data is not no name");
    let [soa] = &answer.authorities[..] else { panic!("an SOA, not {answer}") };
    assert_eq!(soa.name.to_ascii(), "api.", "a short name is its own zone");
}

#[test]
fn a_namespace_leads_to_another_application_and_everything_else_outside() {
    let mut world = World::new();
    world.put(1, "api", None, HERE);
    world.define(|def| def.namespace = label("backoffice-workers"));
    let jobs = Caller { app: label("jobs"), ..asker(None) };
    for name in ["api.backoffice-workers.", "api.backoffice-workers.svc.private-network.internal."] {
        assert_eq!(world.get(&jobs, name), [1]);
    }
    assert_eq!(world.code(&jobs, "web.backoffice-workers."), MISSING, "nothing below a namespace is told outside");
    assert_eq!(world.code(&jobs, "a.b.backoffice-workers."), MISSING);
    assert_eq!(world.code(&jobs, "backoffice-workers."), (Outcome::Answered, ResponseCode::NoError));
    assert_eq!(world.code(&jobs, "api.shop.svc.private-network.internal."), MISSING, "its id is its namespace no more");
    for outside in ["api.other.", "api.example.com.", "www.api.", "com."] {
        let (outcome, _) = world.code(&jobs, outside);
        assert_eq!(outcome == Outcome::Forward, outside != "com.", "{outside}");
    }
}

#[test]
fn of_two_applications_with_one_namespace_the_first_has_it() {
    for turned in [false, true] {
        let mut world = World::new();
        world.put(1, "api", None, HERE);
        // However often it is said anew.
        let mut defs = [("shop", 9, 1), ("other", 1, 2)];
        if turned {
            defs.reverse();
        }
        for (app, rev, since) in defs {
            let def = AppDef { namespace: label("backoffice"), ..AppDef::new(label(app)) };
            world.network.define_app((Rev(rev), HERE), Rev(since), Arc::new(def));
        }
        assert_eq!(world.network.app_of_namespace("backoffice"), Some(&label("shop")));
        assert_eq!(world.get(&Caller { app: label("other"), ..asker(None) }, "api.backoffice."), [1]);
    }
}

#[test]
fn below_a_suffix_stand_the_same_names_and_nothing_is_told_outside() {
    let mut world = World::new();
    world.resolver = Resolver::new(vec!["cloud66.local".parse().expect("a suffix")]);
    world.put(1, "api", None, HERE);
    world.define(|def| def.namespace = label("space"));
    for name in ["api.cloud66.local.", "API.Cloud66.Local.", "api.space.cloud66.local."] {
        assert_eq!(world.get(&asker(None), name), [1], "{name}");
    }
    assert_eq!(world.code(&asker(None), "web.cloud66.local."), MISSING);
    assert_eq!(world.code(&asker(None), "cloud66.local."), (Outcome::Answered, ResponseCode::NoError));
    assert_eq!(world.code(&asker(None), "api.cloud67.local.").0, Outcome::Forward);
}

#[test]
fn a_database_is_its_primary_or_one_server_and_always_the_latest_version() {
    let port = |port| NonZeroU16::new(port).expect("a port");
    let mut world = World::new();
    world.put(1, "mysql", Some("v1"), HERE);
    world.put(2, "mysql", Some("v2"), HERE);
    for (last, server) in [(1, "default"), (2, "leopard")] {
        world.change(last, |container| container.server = Some(label(server)));
    }
    let caller = asker(Some("v1"));
    for (name, expected) in [("mysql.", 1), ("mysql-default.", 1), ("mysql-leopard.", 2)] {
        assert_eq!(world.get(&caller, name), [expected], "{name}");
    }
    assert_eq!(world.code(&caller, "mysql-lion."), MISSING);
    world.define(|def| {
        let servers =
            [(label("default"), port(3306)), (label("leopard"), port(3307)), (label("lion"), port(3308))].into();
        def.databases.insert(label("mysql"), DatabaseDef { primary: label("leopard"), servers });
    });
    assert_eq!(world.get(&caller, "mysql."), [2], "the primary that the service file names");
    assert_eq!(world.get(&caller, "mysql-lion."), [0_u8; 0], "declared, and not there");
    let (_, answer) = world.ask(&caller, "_mysql._tcp.mysql.", RecordType::SRV);
    assert_eq!(answer.answers[0].data.to_string(), "0 1 3307 2.mysql.shop.pn-a.private-network.internal.");
}

#[test]
fn named_ports_have_srv_records_and_their_ancestors_exist() {
    let port = |port| NonZeroU16::new(port).expect("a port");
    let mut world = World::new();
    let plain =
        |container| PortDef { container: port(container), http: None, https: None, tcp: None, udp: None, name: None };
    let ports = vec![
        PortDef { http: Some(port(80)), ..plain(3000) },
        PortDef { name: Some(label("admin")), ..plain(3001) },
        PortDef { udp: Some(port(53)), name: Some(label("dns")), ..plain(5353) },
        plain(5000),
    ];
    world.define(|def| _ = def.services.insert(label("api"), ServiceDef { ports, ..ServiceDef::default() }));
    world.put(1, "api", None, HERE);
    let caller = asker(None);
    for (name, expected) in [
        ("_http._tcp.api.", "0 1 3000 1.api.shop.pn-a.private-network.internal."),
        ("_admin._tcp.api.svc.private-network.internal.", "0 1 3001 1.api.shop.pn-a.private-network.internal."),
        ("_dns._udp.api.", "0 1 5353 1.api.shop.pn-a.private-network.internal."),
    ] {
        let (_, answer) = world.ask(&caller, name, RecordType::SRV);
        assert_eq!(answer.answers[0].data.to_string(), expected, "{name}");
        assert!(world.ask(&caller, name, RecordType::A).1.answers.is_empty());
    }
    assert_eq!(world.code(&caller, "_tcp.api."), (Outcome::Answered, ResponseCode::NoError));
    assert_eq!(world.code(&caller, "_dns._tcp.api.svc.private-network.internal."), MISSING);
    assert_eq!(world.code(&caller, "_x._tcp.api.svc.private-network.internal."), MISSING);
}

#[test]
fn a_port_that_a_service_does_not_have_is_told_to_nobody_outside() {
    let mut world = World::new();
    world.put(1, "api", None, HERE);
    world.put(2, "mongodb", None, HERE);
    world.change(2, |container| container.server = Some(label("default")));
    let caller = asker(None);
    for name in ["_mongodb._tcp.mongodb.", "_x._tcp.api.", "_x._udp.api.", "_tcp.api.", "a._x._TCP.Api."] {
        let (outcome, answer) = world.ask(&caller, name, RecordType::SRV);
        assert_eq!((outcome, answer.response_code), MISSING, "{name}");
        let [soa] = &answer.authorities[..] else { panic!("an SOA, not {answer}") };
        assert_eq!(soa.name.num_labels(), 1, "{name} is of the service's zone");
    }
    for outside in ["www.api.", "_x._tcp.example.", "_sip._tcp.example.com.", "_tcp.www.api."] {
        assert_eq!(world.code(&caller, outside).0, Outcome::Forward, "{outside}");
    }
}

#[test]
fn the_addresses_of_ports_come_along_where_there_is_room_and_truncate_nothing() {
    let mut world = World::new();
    let port = PortDef {
        container: NonZeroU16::MIN,
        http: None,
        https: None,
        tcp: None,
        udp: None,
        name: Some(label("main")),
    };
    world.define(|def| {
        def.services.insert(label("api"), ServiceDef { ports: vec![port], ..ServiceDef::default() });
    });
    for last in 1..=16 {
        world.put(last, "api", None, HERE);
    }
    let membership = Membership::new(ClusterId([0; 32]), [], [world.network.clone()]);
    let plain = question("_main._tcp.api.", RecordType::SRV);
    let mut hosts = Vec::new();
    for (query, transport, len_max) in [
        (plain.clone(), Transport::Udp, 512),
        (with_edns(plain.clone(), 1232), Transport::Udp, 1232),
        (with_edns(plain, 1232), Transport::Tcp, usize::from(u16::MAX)),
    ] {
        let (query, mut out) = (query.to_vec().expect("encodes"), Vec::new());
        world.resolver.answer(&membership, &asker(None), (&query, transport), world.now, &mut out);
        assert!(out.len() <= len_max, "{} of {len_max}", out.len());
        let answer = Message::from_vec(&out).expect("an answer");
        assert_eq!(answer.edns.is_some(), len_max > 512);
        assert!(!answer.metadata.truncation || answer.additionals.is_empty(), "first the answers");
        let ports = answer.answers.iter().map(|record| match &record.data {
            RData::SRV(srv) => srv.target.clone(),
            other => panic!("{other} is no port"),
        });
        for (target, host) in ports.zip(&answer.additionals) {
            let [.., third, last] = match &host.data {
                RData::A(address) => address.0.octets(),
                other => panic!("{other} is no address"),
            };
            assert_eq!((&target, host.ttl), (&host.name, 30));
            assert_eq!((third, target.to_ascii()), (0, format!("{last}.api.shop.pn-a.private-network.internal.")));
        }
        hosts.push((answer.answers.len(), answer.additionals.len(), answer.metadata.truncation));
    }
    assert!(matches!(hosts[..], [(_, 0, true), (16, 1..=15, false), (16, 16, false)]), "{hosts:?}");
}

#[test]
fn services_and_namespaces_are_listed_as_text() {
    let mut world = World::new();
    world.put(1, "api", None, HERE);
    world.put(2, "mysql", None, HERE);
    world.change(2, |container| container.server = Some(label("default")));
    world.define(|def| {
        def.namespace = label("space");
        def.services.insert(label("web"), ServiceDef::default());
    });
    let mut list = |name: &str| {
        let (_, answer) = world.ask(&asker(None), name, RecordType::TXT);
        answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list("_services.svc.private-network.internal."), ["api", "mysql", "mysql-default", "web"]);
    assert_eq!(list("_services.space.svc.private-network.internal."), ["api", "mysql", "mysql-default", "web"]);
    assert_eq!(list("_apps.svc.private-network.internal."), ["space"]);
}

#[test]
fn each_step_of_a_choice_is_told() {
    let mut world = World::new();
    let service = ServiceDef { load_balancing: LoadBalancing::Closest, ..ServiceDef::default() };
    world.define(|def| {
        def.namespace = label("backoffice-workers");
        def.services.insert(label("api"), service);
    });
    world.put(1, "api", Some("v1"), HERE);
    world.put(2, "api", Some("v2"), HERE);
    world.put(3, "api", Some("v2"), THERE);
    world.put(4, "api", Some("v2"), THERE);
    world.change(4, |container| container.state = State::Draining);
    world.deploy("v2", 1);
    let membership = Membership::new(ClusterId([0; 32]), [], [world.network.clone()]);
    let mut told = String::new();
    for (caller, name) in [
        (asker(Some("v1")), "api."),
        (asker(None), "api.svc.private-network.internal."),
        (Caller { node: NodeId([9; 32]), ..asker(Some("v3")) }, "api."),
        (asker(None), "nothing."),
        (asker(None), "_services.svc.private-network.internal."),
        (asker(None), "web.backoffice-workers."),
        (asker(None), "nosuch.svc.private-network.internal."),
        (asker(None), "nosuch.cloud66.local."),
        (asker(None), "api.nosuch.cloud66.local."),
        (asker(None), "www.api.svc.private-network.internal."),
        (asker(None), "_x._tcp.api."),
        (asker(None), "_x._tcp.nosuch.svc.private-network.internal."),
        (asker(None), "web.svc.demo.private-network.internal."),
        (asker(None), "svc.other.private-network.internal."),
        (asker(None), "9.0.240.10.in-addr.arpa."),
    ] {
        let suffixes = ["cloud66.local".parse().expect("a suffix")];
        let explanation = explain(&membership, &world.network, &caller, &suffixes, name).expect("a name");
        writeln!(told, "{name} asked by version {:?}: {}", caller.version, explanation.verdict).expect("writes");
        for step in explanation.steps {
            writeln!(told, "  {step}").expect("writes");
        }
    }
    insta::assert_snapshot!(told);
}

/// A container as chance has it: service, version, whether it is here, state.
type Drawn = (usize, usize, bool, usize);

/// An order of deploys, the versions of [`VERSIONS`] by place.
type Deploys = Vec<usize>;

const NAMES: [&str; 3] = ["api", "web", "mysql"];
const VERSIONS: [Option<&str>; 4] = [None, Some("v1"), Some("v2"), Some("v10")];
const STATES: [State; 3] = [State::Ready, State::Draining, State::Starting];

fn drawn(containers: &[Drawn], deploys: &Deploys, load_balancing: LoadBalancing) -> World {
    let mut world = World::new();
    for (at, (name, version, here, state)) in containers.iter().enumerate() {
        let last = at as u8 + 1;
        world.put(last, NAMES[*name], VERSIONS[*version], if *here { HERE } else { THERE });
        world.change(last, |container| {
            container.state = STATES[*state];
            container.server = (NAMES[*name] == "mysql").then(|| label("default"));
        });
    }
    for (at, version) in deploys.iter().enumerate() {
        if let Some(version) = VERSIONS[*version] {
            world.deploy(version, at as u64 + 1);
        }
    }
    world.define(|def| {
        for name in ["api", "web"] {
            def.services.insert(label(name), ServiceDef { load_balancing, ..ServiceDef::default() });
        }
    });
    world
}

proptest::proptest! {
    #[test]
    fn an_answer_is_ready_of_one_version_and_as_near_as_it_can_be(
        containers in proptest::collection::vec((0..3usize, 0..4usize, proptest::bool::ANY, 0..3usize), 0..12),
        deploys in proptest::collection::vec(0..4usize, 0..5),
        balancing in 0..3usize,
        asked in 0..3usize,
        own in 0..4usize,
    ) {
        let load_balancing = [LoadBalancing::RoundRobin, LoadBalancing::Sticky, LoadBalancing::Closest][balancing];
        let mut world = drawn(&containers, &deploys, load_balancing);
        let (name, caller) = (NAMES[asked], asker(VERSIONS[own]));
        let (_, answer) = world.ask(&caller, &format!("{name}."), RecordType::A);
        let found = addresses(&answer);
        let ready: Vec<_> = world
            .network
            .containers()
            .filter(|c| c.service.as_str() == name && c.state == State::Ready)
            .cloned()
            .collect();
        proptest::prop_assert_eq!(found.is_empty(), ready.is_empty(), "who is ready is found");
        let Some(first) = found.first() else { return Ok(()) };
        let chosen = |address: &Ipv4Addr| ready.iter().find(|c| c.address == *address);
        proptest::prop_assert!(found.iter().all(|address| chosen(address).is_some()), "only who is ready is found");
        let version = chosen(first).expect("just seen").version.clone();
        proptest::prop_assert!(found.iter().all(|a| chosen(a).is_some_and(|c| c.version == version)), "one version");
        let is_database = name == "mysql";
        if !is_database && caller.version.is_some() && ready.iter().any(|c| c.version == caller.version) {
            proptest::prop_assert_eq!(&version, &caller.version, "the caller's own");
        } else {
            // The model: the last deployed of those that are ready; else the one whose first container came last.
            let is_ready = |v: Option<&str>| ready.iter().any(|c| c.version.as_deref() == v);
            let deployed = deploys.iter().rev().map(|at| VERSIONS[*at]).find(|v| v.is_some() && is_ready(*v));
            let attached = || {
                let first = |v: Option<&str>| containers.iter().position(|drawn| VERSIONS[drawn.1] == v);
                VERSIONS.into_iter().filter(|v| v.is_some() && is_ready(*v)).max_by_key(|v| first(*v))
            };
            proptest::prop_assert_eq!(version.as_deref(), deployed.or_else(attached).flatten(), "the latest");
        }
        let alike: Vec<_> = ready.iter().filter(|c| c.version == version).collect();
        let near = alike.iter().filter(|c| c.node == HERE).count();
        let due = match load_balancing {
            _ if is_database => alike.len(),
            LoadBalancing::RoundRobin => alike.len(),
            LoadBalancing::Sticky => 1,
            LoadBalancing::Closest => if near > 0 { near } else { alike.len() },
        };
        proptest::prop_assert_eq!(found.len(), due);
    }
}

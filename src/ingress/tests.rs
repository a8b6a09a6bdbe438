use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;
use rand_core::SeedableRng;

use super::*;
use crate::membership::{Container, Membership, Network, State};
use crate::model::{AttachmentId, ClusterId, Label, NodeId, Rev, ServerPattern, Vni, WgSecret};
use crate::services::file::{self, Options};

const HERE: NodeId = NodeId([1; 32]);
const THERE: NodeId = NodeId([2; 32]);

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

/// Networks to be filled.
struct World(Vec<Network>);

impl World {
    fn new() -> Self {
        let network = |n: u32| {
            Network::new(
                label(&format!("pn-{n}")).as_str().parse().expect("an id"),
                Vni::try_from(n).expect("a VNI"),
                HERE,
            )
        };
        Self((1..=2).map(network).collect())
    }

    fn define(&mut self, network: usize, rev: u64, text: &str) {
        let def = file::parse(text.as_bytes(), &Options { app: None }).expect(text).def;
        self.0[network].define_app((Rev(rev), HERE), Rev(rev), Arc::new(def));
    }

    /// A container 10.240.0.LAST of application `my-shop`.
    fn put(&mut self, network: usize, last: u8, service: &str, version: Option<&str>, node: NodeId, state: State) {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(u64::from(last));
        self.0[network].insert_container(Arc::new(Container {
            id: AttachmentId([last; 8]),
            node,
            address: Ipv4Addr::new(10, 240, 0, last),
            app: label("my-shop"),
            kind: label(service),
            number: last.into(),
            version: version.map(Into::into),
            service: label(service),
            server: None,
            public_key: WgSecret::random(&mut rng).public(),
            state,
            rev: Rev(last.into()),
        }));
    }

    fn plan(&self) -> Plan {
        Plan::of(&Membership::new(ClusterId([0; 32]), [], self.0.clone()), HERE)
    }
}

fn lasts(endpoints: &[Endpoint]) -> Vec<u8> {
    endpoints.iter().map(|endpoint| endpoint.at.ip().octets()[3]).collect()
}

fn layout(certificates: &[Certificate]) -> Layout<'_> {
    Layout { certificates, http2: Http2::Parameter, ipv6: true, proxy_from: &[], user: None, connections_max: 512 }
}

const SHOP: &str = "
application: { id: my-shop, namespace: my-shop }
services:
  web: { ports: ['3000:80:443', '5000'], traffic_matches: ['app.example.com', '*.example.org'] }
  rest: { ports: ['4000:80'] }
  mail: { ports: [{ container: 2525, tcp: 25 }, { container: 5353, udp: 53 }] }
";

#[test]
fn new_requests_go_to_the_ready_containers_of_the_latest_version_on_any_node() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 1, "web", Some("v1"), HERE, State::Ready);
    world.put(0, 2, "web", Some("v2"), THERE, State::Ready);
    world.put(0, 3, "web", Some("v2"), HERE, State::Ready);
    world.put(0, 4, "web", Some("v2"), HERE, State::Draining);
    world.put(0, 5, "web", Some("v3"), HERE, State::Starting);
    let chosen =
        |world: &World| lasts(&world.plan().routes.iter().find(|r| !r.names.is_empty()).expect("a route").chosen);
    assert_eq!(chosen(&world), [2, 3], "attached later");
    world.0[0].deploy(label("my-shop"), "v1".to_owned(), (Rev(9), HERE));
    assert_eq!(chosen(&world), [1], "deployed later");
    world.0[0].deploy(label("my-shop"), "v3".to_owned(), (Rev(10), HERE));
    assert_eq!(chosen(&world), [1], "nothing of the newest is ready");
    let ways: BTreeSet<_> = world.plan().endpoints.into_iter().map(|endpoint| endpoint.at.to_string()).collect();
    let all = [1, 2, 3, 4, 5].map(|last| format!("10.240.0.{last}:3000"));
    assert_eq!(ways, BTreeSet::from(all), "requests may be under way in each");
}

#[test]
fn in_the_place_of_a_container_stand_the_next_ones_that_get_new_requests_too() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 1, "web", Some("v1"), HERE, State::Ready);
    for last in 2..=7 {
        world.put(0, last, "web", Some("v2"), HERE, State::Ready);
    }
    world.put(0, 8, "web", Some("v2"), HERE, State::Draining);
    world.put(0, 9, "rest", None, HERE, State::Ready);
    let plan = world.plan();
    let spares: Vec<(u8, Vec<u8>)> = plan
        .spares()
        .into_iter()
        .map(|(one, spare)| (one.at.ip().octets()[3], spare.iter().map(|other| other.at.ip().octets()[3]).collect()))
        .collect();
    let expected = [
        (2, vec![3, 4, 5, 6]),
        (3, vec![4, 5, 6, 7]),
        (4, vec![5, 6, 7, 2]),
        (5, vec![6, 7, 2, 3]),
        (6, vec![7, 2, 3, 4]),
        (7, vec![2, 3, 4, 5]),
        (9, vec![]),
    ];
    assert_eq!(spares, expected, "neither of another version, nor one that drains, nor of another service");
}

#[test]
fn a_host_port_is_served_where_its_container_is_and_a_port_of_nobody_outside_on_loopback() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 1, "mail", None, THERE, State::Ready);
    world.put(0, 2, "web", None, THERE, State::Ready);
    let plan = world.plan();
    assert_eq!((plan.host_ports.len(), plan.loopback.len(), plan.routes.len()), (0, 0, 3));
    world.put(0, 3, "mail", None, HERE, State::Ready);
    world.put(0, 4, "web", None, HERE, State::Ready);
    let plan = world.plan();
    let ports = |plan: &Plan| -> Vec<_> {
        plan.host_ports.iter().map(|port| format!("{}:{} {}", port.transport, port.port, port.to[0].at)).collect()
    };
    assert_eq!(ports(&plan), ["tcp:25 10.240.0.3:2525", "udp:53 10.240.0.3:5353"]);
    let [loopback] = plan.loopback.as_slice() else { panic!("{:?}", plan.loopback) };
    assert_eq!((loopback.port.get(), loopback.on_localhost, lasts(&loopback.to)), (5000, true, vec![4]));
    assert_eq!(loopback.address.octets()[..2], [127, 240]);
    assert_eq!(world.plan(), plan, "the address stays");
}

#[test]
fn a_container_that_drains_keeps_its_sessions_of_datagrams_and_gets_no_new_ones() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 3, "mail", None, HERE, State::Draining);
    world.put(0, 4, "mail", None, THERE, State::Ready);
    let ports = |world: &World| -> Vec<_> {
        let ports = world.plan().host_ports.into_iter();
        ports.map(|port| (port.transport, lasts(&port.to), lasts(&port.kept))).collect()
    };
    assert_eq!(ports(&world), [(Transport::Udp, vec![], vec![3])], "a stream needs no listener to go on");
    world.put(0, 5, "mail", None, HERE, State::Ready);
    world.put(0, 6, "mail", None, HERE, State::Starting);
    assert_eq!(ports(&world), [(Transport::Tcp, vec![5], vec![]), (Transport::Udp, vec![5], vec![3])]);
}

#[test]
fn of_two_networks_that_claim_one_name_that_with_the_lower_vni_has_it_however_often_either_says_it() {
    for (one, other) in [(1, 9), (9, 1)] {
        let mut world = World::new();
        world.define(0, one, SHOP);
        world.define(1, other, "application: { id: an-other }\nservices: { a: { ports: ['1:80'], traffic_matches: ['app.example.com'] }, b: { ports: ['2:81'] } }");
        let plan = world.plan();
        let served: Vec<_> = plan.routes.iter().map(|route| (route.service.to_string(), route.port.get())).collect();
        let expected =
            [("pn-1/my-shop/rest", 80), ("pn-1/my-shop/web", 80), ("pn-1/my-shop/web", 443), ("pn-2/an-other/b", 81)];
        assert_eq!(served, expected.map(|(service, port)| (service.to_owned(), port)));
        let both = "app.example.com on http port 80 is of service a of application an-other and of service web of application my-shop";
        assert_eq!(plan.disputes, [format!("{both}; that of application an-other of network pn-2 is not served")]);
    }
}

#[test]
fn of_two_applications_of_a_network_the_one_defined_first_has_the_name_however_often_it_is_said_anew() {
    let mut world = World::new();
    let text = |app: &str| {
        format!("application: {{ id: {app} }}\nservices: {{ a: {{ ports: ['1:80'], traffic_matches: ['a.test'] }} }}")
    };
    for (app, rev, since) in [("an-other", 1, 2), ("my-shop", 9, 1)] {
        let def = file::parse(text(app).as_bytes(), &Options { app: None }).expect(app).def;
        world.0[0].define_app((Rev(rev), HERE), Rev(since), Arc::new(def));
    }
    let served: Vec<_> = world.plan().routes.iter().map(|route| route.service.to_string()).collect();
    assert_eq!(served, ["pn-1/my-shop/a"]);
}

fn certificates() -> Vec<Certificate> {
    let certificate = |file: &str, names: &[&str]| Certificate {
        file: file.to_owned(),
        names: names.iter().map(|name| name.parse().expect("a pattern")).collect(),
    };
    vec![certificate("one", &["app.example.com"]), certificate("two", &["*.example.net", "b.example.com"])]
}

#[test]
fn two_services_on_one_port_by_name_and_one_for_all_others() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 1, "web", None, HERE, State::Ready);
    world.put(0, 2, "web", None, THERE, State::Ready);
    let certificates = certificates();
    let (text, uncovered) = configuration(&world.plan(), &layout(&certificates));
    insta::assert_snapshot!(text);
    let uncovered: Vec<_> = uncovered.into_iter().map(|(_, name)| name.map(|name| name.to_string())).collect();
    assert_eq!(uncovered, [Some("*.example.org".to_owned())]);
}

#[test]
fn a_service_for_all_names_is_served_with_every_certificate() {
    let mut world = World::new();
    world.define(0, 1, "application: { id: my-shop }\nservices: { a: { ports: ['1::443'] }, b: { ports: ['2::443'], traffic_matches: ['b.example.com'] } }");
    world.put(0, 1, "a", None, HERE, State::Ready);
    world.put(0, 2, "b", None, HERE, State::Ready);
    let certificates = certificates();
    let (text, uncovered) = configuration(&world.plan(), &layout(&certificates));
    let names: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("server_name ")).collect();
    assert_eq!(names, ["_;", "b.example.com;", "app.example.com;", "*.example.net;"]);
    assert_eq!(uncovered, []);
    let (text, uncovered) = configuration(&world.plan(), &layout(&[]));
    assert!(text.contains("ssl_reject_handshake on;") && !text.contains("ssl_certificate "), "{text}");
    assert_eq!(uncovered.len(), 2);
}

#[test]
fn the_proxy_protocol_is_heard_from_balancers_and_who_else_connects_is_not_served() {
    let mut world = World::new();
    world.define(0, 1, SHOP);
    world.put(0, 1, "web", None, HERE, State::Ready);
    let from = ["192.0.2.0/24", "2001:db8::7"].map(|text| text.parse().expect("a subnet"));
    let (text, _) = configuration(&world.plan(), &Layout { proxy_from: &from, ..layout(&[]) });
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let at = |line: &str| lines.iter().position(|other| *other == line).unwrap_or_else(|| panic!("{line}: {text}"));
    assert_eq!(lines[at("geo $peerd_balancer {")..][1..4], ["default 0;", "192.0.2.0/24 1;", "2001:db8::7/128 1;"]);
    at("proxy_set_header X-Forwarded-For $peerd_client;");
    let count = |begin: &str| lines.iter().filter(|line| line.starts_with(begin)).count();
    assert_eq!(count("if ($peerd_balancer = 0)"), count("server_name "), "in each server, before all that answers");
    assert!(lines.iter().filter(|line| line.starts_with("listen ")).all(|line| line.ends_with(" proxy_protocol;")));
    let (text, _) = configuration(&world.plan(), &layout(&[]));
    assert!(!text.contains("balancer") && !text.contains("proxy_protocol"), "{text}");
}

/// Every directive there may be.
const DIRECTIVES: [&str; 49] = [
    "access_log",
    "add_header",
    "client_body_temp_path",
    "client_max_body_size",
    "daemon",
    "default",
    "default_type",
    "error_log",
    "error_page",
    "events",
    "fastcgi_temp_path",
    "grpc_pass",
    "grpc_read_timeout",
    "grpc_send_timeout",
    "grpc_set_header",
    "http",
    "http2",
    "if",
    "keepalive",
    "listen",
    "location",
    "log_format",
    "map",
    "pid",
    "proxy_connect_timeout",
    "proxy_http_version",
    "proxy_max_temp_file_size",
    "proxy_pass",
    "proxy_read_timeout",
    "proxy_request_buffering",
    "proxy_send_timeout",
    "proxy_set_header",
    "proxy_temp_path",
    "return",
    "scgi_temp_path",
    "server",
    "server_name",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "server_tokens",
    "set",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "ssl_reject_handshake",
    "ssl_session_cache",
    "ssl_session_tickets",
    "upstream",
    "uwsgi_temp_path",
];

/// Reads a configuration as nginx does: words, quoted words, `;`, `{` and `}`. The first word of each directive, with the rest.
fn directives(text: &str) -> Vec<Vec<String>> {
    let (mut found, mut words) = (Vec::new(), Vec::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' if words.is_empty() => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' | '{' | '}' => {
                if !words.is_empty() {
                    found.push(std::mem::take(&mut words));
                }
            }
            '\'' | '"' => {
                let mut word = String::new();
                while let Some(next) = chars.next().filter(|next| *next != c) {
                    word.extend(if next == '\\' { chars.next() } else { Some(next) });
                }
                words.push(word);
            }
            c if c.is_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(next) = chars.next_if(|next| !next.is_whitespace() && !";{}".contains(*next)) {
                    word.push(next);
                }
                words.push(word);
            }
        }
    }
    assert!(words.is_empty(), "{words:?} ends nowhere");
    found
}

/// What somebody who means harm would write where a name stands.
fn hostile() -> impl Strategy<Value = String> {
    let tricks = [
        "a.com; include /etc/passwd",
        "a.com { } server {",
        "a.com\nroot /;",
        "$host",
        "${remote_addr}",
        "a\"b",
        "a'b",
        "a\\",
        "a\0b",
        "*.*.com",
        "*",
        "_",
        "~^.*$",
        "#",
        "ä.com",
        "xn--4ca.com",
        "a.com",
        "*.a.com",
        ".a.com",
        "a..b",
    ];
    prop_oneof![proptest::sample::select(tricks.to_vec()).prop_map(Into::into), "[ -~\\n]{0,80}", "[a-z.*_-]{1,300}"]
}

/// A service file, as a value that any text fits into.
fn hostile_file() -> impl Strategy<Value = String> {
    let service = (hostile(), proptest::collection::vec(hostile(), 0..4), hostile());
    let services = proptest::collection::vec(service, 0..5);
    (hostile(), hostile(), services).prop_map(|(id, namespace, services)| {
        let services: serde_json::Map<_, _> = services
            .into_iter()
            .map(|(name, matches, port)| {
                let ports = serde_json::json!(["3000:80:443", { "container": 1, "http": 81, "name": port }]);
                (name, serde_json::json!({ "ports": ports, "traffic_matches": matches }))
            })
            .collect();
        // JSON is YAML.
        serde_json::json!({ "application": { "id": id, "namespace": namespace }, "services": services }).to_string()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Bit by bit as the parser takes it: each text alone too, so that a file is not refused for another one's sake.
    #[test]
    fn no_text_of_a_service_file_becomes_a_directive(names in proptest::collection::vec(hostile(), 0..6), text in hostile_file()) {
        let mut world = World::new();
        if let Ok(parsed) = file::parse(text.as_bytes(), &Options { app: None }) {
            world.0[0].define_app((Rev(1), HERE), Rev(1), Arc::new(parsed.def));
        }
        let named: Vec<ServerPattern> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let mut def = file::parse(SHOP.as_bytes(), &Options { app: None }).expect("a file").def;
        def.services.get_mut("web").expect("there").traffic_matches = named.clone();
        world.0[1].define_app((Rev(2), HERE), Rev(2), Arc::new(def));
        world.put(1, 1, "web", None, HERE, State::Ready);
        let certificate = Certificate { file: "all".to_owned(), names: named };
        for certificates in [&[][..], &[certificate]] {
            let (text, _) = configuration(&world.plan(), &layout(certificates));
            for words in directives(&text) {
                let name = words[0].as_str();
                let known = DIRECTIVES.contains(&name) || name == "~^application/grpc($|[+;])" || name.is_empty()
                    || ["worker_connections", "worker_processes", "worker_shutdown_timeout", "variables_hash_max_size", "uninitialized_variable_warn"].contains(&name);
                prop_assert!(known, "{words:?}");
                if ["server_name", "set"].contains(&name) {
                    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.*/$".contains(c);
                    prop_assert!(words.iter().all(|word| word.chars().all(plain)), "{words:?}");
                }
            }
        }
    }
}

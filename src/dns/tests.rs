//! The names: what each means, and to whom.

mod policy;
mod properties;
mod protocol;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::membership::{Container, State, testing};
use crate::model::{ClusterId, NodeId, Rev, Vni};

const SHOP: &str = "ap-shop.pn-a.private-network.internal.";

/// A network `pn-a` named `demo` with an application's containers, and another network that the node is granted as well.
fn membership() -> Membership {
    let mut a = network("pn-a", 1, "demo");
    for (last, kind, number) in [(1, "web", 1), (2, "web", 2), (3, "worker", 1)] {
        a.insert_container(container("ap-shop", kind, number, Ipv4Addr::new(10, 240, 0, last), State::Ready));
    }
    a.insert_container(container("ap-shop", "batch", 1, Ipv4Addr::new(10, 240, 3, 9), State::Draining));
    a.insert_container(container("ap-jobs", "worker", 7, Ipv4Addr::new(10, 240, 1, 4), State::Ready));
    let mut b = network("pn-b", 2, "other");
    b.insert_container(container("ap-secret", "web", 1, Ipv4Addr::new(10, 240, 0, 200), State::Ready));
    Membership::new(ClusterId([0; 32]), [], [a, b])
}

fn network(id: &str, vni: u32, name: &str) -> Network {
    let mut network = Network::new(id.parse().expect("an id"), Vni::try_from(vni).expect("a VNI"), NodeId([1; 32]));
    network.name = Some(label(name));
    network
}

fn container(app: &str, kind: &str, number: u32, address: Ipv4Addr, state: State) -> Arc<Container> {
    let (app, kind) = (label(app), label(kind));
    let [.., c, d] = address.octets();
    let id = AttachmentId([c, d, 0, 0, 0, 0, c, d]);
    let service = kind.clone();
    Arc::new(Container { id, app, kind, number, service, state, ..testing::container(address) })
}

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

fn caller() -> Caller {
    Caller {
        network: "pn-a".parse().expect("an id"),
        attachment: AttachmentId([7; 8]),
        address: Ipv4Addr::new(10, 240, 0, 1),
        app: label("ap-shop"),
        version: None,
        node: NodeId([1; 32]),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
pub(super) fn start() -> Instant {
    Instant::now()
}

fn question(name: &str, asked: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    let mut name = Name::from_labels(labels).expect("a name");
    name.set_fqdn(true);
    message.add_query(Query::query(name, asked));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    message.set_edns(Edns::new().set_max_payload(payload).clone());
    message
}

/// The answer's bytes; empty if there is none.
fn ask_bytes(membership: &Membership, query: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
    let mut out = vec![0xff; 3];
    let outcome = Resolver::default().answer(membership, &caller(), (query, transport), start(), &mut out);
    (outcome, out)
}

fn ask(query: &Message) -> Message {
    let (outcome, out) = ask_bytes(&membership(), &query.to_vec().expect("encodes"), Transport::Udp);
    assert_ne!(outcome, Outcome::Forward);
    Message::from_vec(&out).expect("an answer")
}

/// Code, addresses.
fn lookup(name: &str) -> (ResponseCode, Vec<Ipv4Addr>) {
    let answer = ask(&question(name, RecordType::A));
    (answer.response_code, addresses(&answer))
}

fn addresses(answer: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(a) => a.0,
        ref other => panic!("{other} is no address"),
    };
    answer.answers.iter().map(address).collect()
}

fn sorted(mut addresses: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
    addresses.sort_unstable();
    addresses
}

fn ip(third: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, third, last)
}

#[test]
fn d1_an_applications_name_is_its_web_containers() {
    let (code, found) = lookup(SHOP);
    assert_eq!((code, sorted(found)), (ResponseCode::NoError, vec![ip(0, 1), ip(0, 2)]));
}

#[test]
fn d2_a_types_name_is_the_containers_of_that_type() {
    assert_eq!(lookup(&format!("worker.{SHOP}")), (ResponseCode::NoError, vec![ip(0, 3)]));
    assert_eq!(sorted(lookup(&format!("web.{SHOP}")).1), [ip(0, 1), ip(0, 2)]);
}

#[test]
fn d3_a_numbers_name_is_that_one_container() {
    assert_eq!(lookup(&format!("2.web.{SHOP}")), (ResponseCode::NoError, vec![ip(0, 2)]));
    for absent in ["3.web", "0.web", "02.web", "+2.web", "4294967298.web", "2.absent"] {
        assert_eq!(lookup(&format!("{absent}.{SHOP}")), (ResponseCode::NXDomain, vec![]), "{absent}");
    }
}

#[test]
fn d4_a_number_without_a_type_is_no_name() {
    assert_eq!(lookup(&format!("1.{SHOP}")), (ResponseCode::NXDomain, vec![]));
}

#[test]
fn a_network_goes_by_its_name_as_by_its_id() {
    assert_eq!(lookup("worker.ap-shop.demo.private-network.internal."), lookup(&format!("worker.{SHOP}")));
}

#[test]
fn d6_every_private_record_lives_30_seconds() {
    let zone = format!("{PRIVATE_ZONE}.");
    for (name, asked) in [
        (SHOP, RecordType::A),
        (SHOP, RecordType::ANY),
        ("1.0.240.10.in-addr.arpa.", RecordType::PTR),
        (&zone, RecordType::SOA),
        (&zone, RecordType::NS),
    ] {
        let answer = ask(&question(name, asked));
        assert!(!answer.answers.is_empty(), "{name} {asked}");
        assert!(answer.answers.iter().all(|record| record.ttl == 30), "{name} {asked}");
    }
}

#[test]
fn d8_the_names_of_an_application_are_listed() {
    let membership = membership();
    let network = membership.network(&caller().network).expect("the network");
    let names = domain_names(network, "ap-shop");
    assert_eq!(
        names,
        ["", "batch.", "1.batch.", "web.", "1.web.", "2.web.", "worker.", "1.worker."].map(|n| format!("{n}{SHOP}"))
    );
    for name in names {
        assert_eq!(lookup(&name).0, ResponseCode::NoError, "{name}");
    }
    assert_eq!(domain_names(network, "ap-jobs")[0], "worker.ap-jobs.pn-a.private-network.internal.");
    assert!(domain_names(network, "ap-secret").is_empty());
    let web_1 = network.container_numbered("ap-shop", "web", 1).expect("a container");
    assert_eq!(format!("{}.", hostname(web_1, &network.id)), format!("1.web.{SHOP}"));
}

#[test]
fn another_networks_name_is_byte_for_byte_a_name_that_never_existed() {
    let membership = membership();
    let bytes =
        |name: &str, asked| ask_bytes(&membership, &question(name, asked).to_vec().expect("encodes"), Transport::Udp);
    for asked in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::SOA, RecordType::TXT] {
        for (theirs, never) in [
            ("pn-b", "pn-x"),
            ("other", "never"),
            ("ap-secret.pn-b", "ap-sXcrXt.pn-x"),
            ("1.web.ap-secret.pn-b", "1.web.ap-secret.pn-x"),
        ] {
            let (outcome, theirs) = bytes(&format!("{theirs}.{PRIVATE_ZONE}."), asked);
            let (never_outcome, never) = bytes(&format!("{never}.{PRIVATE_ZONE}."), asked);
            assert_eq!((outcome, never_outcome), (Outcome::Answered, Outcome::Answered));
            assert_eq!(Message::from_vec(&theirs).expect("an answer").response_code, ResponseCode::NXDomain);
            let question_end = 12 + Message::from_vec(&theirs).expect("an answer").queries[0].name().len() + 1 + 4;
            assert_eq!(theirs[..12], never[..12]);
            assert_eq!(theirs[question_end..], never[question_end..]);
        }
    }
}

#[test]
fn what_happens_in_another_network_changes_no_answer() {
    let before = membership();
    let mut after = before.clone();
    let mut b = Network::clone(after.network(&"pn-b".parse().expect("an id")).expect("the network"));
    b.insert_container(container("ap-more", "web", 1, ip(0, 3), State::Ready));
    after.insert_network(Arc::new(b));
    for (name, asked) in [
        (format!("ap-more.pn-b.{PRIVATE_ZONE}."), RecordType::A),
        (format!("{PRIVATE_ZONE}."), RecordType::SOA),
        ("200.0.240.10.in-addr.arpa.".to_owned(), RecordType::PTR),
        ("3.0.240.10.in-addr.arpa.".to_owned(), RecordType::PTR),
    ] {
        let query = question(&name, asked).to_vec().expect("encodes");
        assert_eq!(ask_bytes(&before, &query, Transport::Udp), ask_bytes(&after, &query, Transport::Udp), "{name}");
    }
}

#[test]
fn the_serial_follows_what_the_network_names() {
    let before = membership();
    let mut after = before.clone();
    let mut a = Network::clone(after.network(&caller().network).expect("the network"));
    a.insert_container(container("ap-more", "web", 1, ip(0, 77), State::Ready));
    after.insert_network(Arc::new(a));
    let query = question(&format!("{PRIVATE_ZONE}."), RecordType::SOA).to_vec().expect("encodes");
    assert_eq!(ask_bytes(&before, &query, Transport::Udp), ask_bytes(&before, &query, Transport::Udp));
    assert_ne!(ask_bytes(&before, &query, Transport::Udp), ask_bytes(&after, &query, Transport::Udp));
}

#[test]
fn what_exists_without_data_says_so_and_what_does_not_exist_says_so_too() {
    let web_1 = format!("1.web.{SHOP}");
    let batch = format!("batch.{SHOP}");
    let batch_1 = format!("1.batch.{SHOP}");
    let network_only = format!("pn-a.{PRIVATE_ZONE}.");
    let apex = format!("{PRIVATE_ZONE}.");
    let jobs = format!("ap-jobs.pn-a.{PRIVATE_ZONE}.");
    let absent = format!("absent.pn-a.{PRIVATE_ZONE}.");
    let below = format!("x.1.web.{SHOP}");
    for (name, asked, code) in [
        // musl's clients give up on an NXDOMAIN to the AAAA of a name that has an A.
        (SHOP, RecordType::AAAA, ResponseCode::NoError),
        (&web_1, RecordType::AAAA, ResponseCode::NoError),
        (&web_1, RecordType::TXT, ResponseCode::NoError),
        // Declared, with nobody ready.
        (&batch, RecordType::A, ResponseCode::NoError),
        (&batch, RecordType::ANY, ResponseCode::NoError),
        (&batch_1, RecordType::A, ResponseCode::NoError),
        (&batch_1, RecordType::ANY, ResponseCode::NoError),
        // An application without web containers is the ancestor of its other types.
        (&jobs, RecordType::A, ResponseCode::NoError),
        (&network_only, RecordType::A, ResponseCode::NoError),
        (&apex, RecordType::A, ResponseCode::NoError),
        ("0.240.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError),
        ("1.0.240.10.in-addr.arpa.", RecordType::A, ResponseCode::NoError),
        (&absent, RecordType::A, ResponseCode::NXDomain),
        (&absent, RecordType::AAAA, ResponseCode::NXDomain),
        (&below, RecordType::A, ResponseCode::NXDomain),
        ("svc.private-network.internal.", RecordType::A, ResponseCode::NoError),
        ("absent.svc.private-network.internal.", RecordType::A, ResponseCode::NXDomain),
        ("9.0.240.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("01.0.240.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("1.1.0.240.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
    ] {
        let answer = ask(&question(name, asked));
        assert_eq!((answer.response_code, answer.answers.len()), (code, 0), "{name} {asked}");
        assert!(answer.authoritative, "{name} {asked}");
        let [soa] = &answer.authorities[..] else { panic!("{name} {asked} has no SOA") };
        let RData::SOA(data) = &soa.data else { panic!("{soa} is no SOA") };
        assert_eq!((soa.ttl, data.minimum), (5, 5), "{name} {asked}");
        assert!(soa.name.zone_of(&Name::from_ascii(name).expect("a name")), "{name} {asked}");
    }
}

#[test]
fn a_single_label_is_never_forwarded() {
    assert_eq!(lookup("frontend.").0, ResponseCode::NXDomain);
    assert_eq!(lookup("com.").0, ResponseCode::NXDomain);
    assert_eq!(lookup("localhost.").0, ResponseCode::NXDomain);
}

#[test]
fn other_names_are_for_whoever_forwards_unless_the_network_is_internal() {
    let mut membership = membership();
    for name in ["example.com.", "internal.example.", "0.0.241.10.in-addr.arpa.", "4.240.10.in-addr.arpa.", "."] {
        let query = question(name, RecordType::A).to_vec().expect("encodes");
        let (outcome, out) = ask_bytes(&membership, &query, Transport::Udp);
        assert_eq!(outcome, Outcome::Forward, "{name}");
        let answer = Message::from_vec(&out).expect("an answer");
        assert_eq!((answer.response_code, answer.authoritative), (ResponseCode::Refused, false));
    }
    let mut a = Network::clone(membership.network(&caller().network).expect("the network"));
    a.internal = true;
    membership.insert_network(Arc::new(a));
    let query = question("example.com.", RecordType::A).to_vec().expect("encodes");
    assert_eq!(ask_bytes(&membership, &query, Transport::Udp).0, Outcome::Answered);
}

#[test]
fn the_list_rotates_by_one_with_each_a_question_and_not_with_aaaa() {
    let (membership, caller, mut resolver) = (membership(), caller(), Resolver::default());
    let mut first = |asked| {
        let (query, mut out) = (question(SHOP, asked).to_vec().expect("encodes"), Vec::new());
        assert_eq!(
            resolver.answer(&membership, &caller, (&query, Transport::Udp), start(), &mut out),
            Outcome::Answered
        );
        addresses(&Message::from_vec(&out).expect("an answer")).first().copied()
    };
    let seen: Vec<_> = (0..4)
        .map(|_| {
            assert_eq!(first(RecordType::AAAA), None);
            first(RecordType::A).expect("an address")
        })
        .collect();
    assert_eq!((seen[0], seen[1]), (seen[2], seen[3]));
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn an_address_leads_back_to_its_containers_name() {
    let answer = ask(&question("3.0.240.10.in-addr.arpa.", RecordType::PTR));
    let [record] = &answer.answers[..] else { panic!("one PTR, not {answer}") };
    assert_eq!(record.data.to_string(), format!("1.worker.{SHOP}"));
}

/// As dig shows it.
fn dig(name: &str, asked: RecordType) -> String {
    let answer = ask(&with_edns(question(name, asked), 1232));
    let mut text = format!("$ dig {name} {asked}\n;; {}", answer.response_code);
    for (flag, set) in [("aa", answer.authoritative), ("tc", answer.truncation), ("ra", answer.recursion_available)] {
        write!(text, "{}", if set { format!(" {flag}") } else { String::new() }).expect("a string takes all");
    }
    for record in answer.answers.iter().chain(&answer.authorities) {
        write!(text, "\n{record}").expect("a string takes all");
    }
    text + "\n"
}

#[test]
fn answers_as_dig_shows_them() {
    insta::assert_snapshot!(
        [
            dig(SHOP, RecordType::A),
            dig(&format!("1.worker.{SHOP}"), RecordType::A),
            dig(SHOP, RecordType::AAAA),
            dig(&format!("1.{SHOP}"), RecordType::A),
            dig(SHOP, RecordType::ANY),
            dig("ap-secret.pn-b.private-network.internal.", RecordType::A),
            dig("1.0.240.10.in-addr.arpa.", RecordType::PTR),
            dig("99.0.240.10.in-addr.arpa.", RecordType::PTR),
            dig("private-network.internal.", RecordType::SOA),
            dig("web.", RecordType::A),
        ]
        .join("\n")
    );
}

#[test]
fn an_explanation_ends_where_the_answer_does() {
    let membership = membership();
    let network = membership.network(&caller().network).expect("the caller's network");
    for (name, verdict, last) in [
        (SHOP, "2 addresses, another one first each time", "is ready"),
        (&format!("batch.{SHOP}"), "no data: declared, and none is ready", "is draining and left out"),
        (&format!("1.{SHOP}"), "NXDOMAIN", "needs the type behind it"),
        (&format!("cron.{SHOP}"), "NXDOMAIN", "none of them is of type cron"),
        (&format!("9.web.{SHOP}"), "NXDOMAIN", "none of type web has the number 9"),
        ("absent.demo.private-network.internal", "NXDOMAIN", "no container of an application absent"),
        ("ap-secret.pn-b.private-network.internal", "NXDOMAIN", "no other network exists"),
        ("1.0.240.10.in-addr.arpa.", "pointer to 1.web.ap-shop.pn-a.private-network.internal", "is held by container"),
        ("2.9.240.10.in-addr.arpa", "forwarded", "no private name"),
        ("9.0.240.10.in-addr.arpa", "NXDOMAIN", "no container of the network holds that address"),
        ("www.example.org", "forwarded", "no private name"),
        ("single", "NXDOMAIN", "a single label"),
    ] {
        let told = explain(&membership, network, &caller(), &[], name).expect("a name");
        assert_eq!(told.verdict, verdict, "{name}");
        assert!(told.steps.last().expect("a step").contains(last), "{name}: {:?}", told.steps);
    }
    assert_eq!(explain(&membership, network, &caller(), &[], &"a.".repeat(200)), None);
}

#[test]
fn names_lead_to_no_container_of_a_node_that_is_down_and_are_there_again_when_it_is_back() {
    let mut membership = membership();
    let addresses_of = |membership: &Membership, name: &str| {
        let query = question(name, RecordType::A).to_vec().expect("encodes");
        let answer = Message::from_vec(&ask_bytes(membership, &query, Transport::Udp).1).expect("an answer");
        assert_eq!(answer.response_code, ResponseCode::NoError, "{name}");
        addresses(&answer)
    };
    let edition = |membership: &Membership| membership.edition(membership.networks().next().expect("one"));
    let before = edition(&membership);
    membership.set_silent([NodeId([1; 32])].into());
    for name in [SHOP.to_owned(), format!("1.web.{SHOP}"), format!("worker.{SHOP}")] {
        assert!(addresses_of(&membership, &name).is_empty(), "{name}");
    }
    let network = membership.networks().next().expect("one").clone();
    let told = explain(&membership, &network, &caller(), &[], SHOP).expect("a name");
    assert!(told.steps.last().expect("a step").contains("its node is down"), "{:?}", told.steps);
    membership.set_silent([NodeId([2; 32])].into());
    assert_eq!(addresses_of(&membership, &format!("1.web.{SHOP}")), [ip(0, 1)]);
    membership.set_silent([].into());
    assert_eq!(edition(&membership), before);
}

//! The resolver as the data thread calls it: packets in, packets out.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::RwLock;
use std::time::Duration;

use super::*;
use crate::daemon::data::{Replies, Resolver as _};
use crate::dns::Caller;
use crate::membership::Network;
use crate::model::{ClusterId, NodeId, RESOLVER, Vni};

const CONTAINER: AttachmentId = AttachmentId([1; 8]);
const NEIGHBOUR: AttachmentId = AttachmentId([2; 8]);

fn resolver() -> (Resolver, Outside) {
    let id: NetworkId = "pn-a".parse().expect("an id");
    let network = Network::new(id.clone(), Vni::try_from(1).expect("a VNI"), NodeId([1; 32]));
    let membership = Arc::new(Membership::new(ClusterId([0; 32]), [], [network]));
    let caller = |attachment, last| Caller {
        network: id.clone(),
        attachment,
        address: Ipv4Addr::new(10, 240, 0, last),
        app: "shop".parse().expect("a label"),
        version: None,
        node: NodeId([1; 32]),
    };
    let callers = HashMap::from([(CONTAINER, caller(CONTAINER, 1)), (NEIGHBOUR, caller(NEIGHBOUR, 2))]);
    // Without its sender a watch keeps its value.
    new(watch::channel(membership).1, Arc::new(RwLock::new(callers)), Vec::new(), 1)
}

/// A question for the A records of a name.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

fn ask(resolver: &mut Resolver, from: AttachmentId, name: &str) -> Replies {
    let container = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, from.0[0]), 4000);
    let packet = datagram(container, SocketAddrV4::new(RESOLVER, 53), &query(name)).expect("fits");
    let mut replies = Replies::new();
    resolver.handle_packet(from, &packet, &mut replies);
    replies
}

/// The response code of the one answer, and whom it is for.
fn code(replies: &Replies) -> (AttachmentId, u8) {
    let [(to, packet)] = replies.as_slice() else { panic!("{} answers", replies.len()) };
    (*to, packet[UDP_HEADERS_LEN + 3] & 0x0f)
}

#[test]
fn a_private_name_is_answered_at_once_and_nothing_goes_outside() {
    let (mut resolver, mut outside) = resolver();
    assert_eq!(code(&ask(&mut resolver, CONTAINER, "nobody.private-network.internal")), (CONTAINER, 3));
    assert!(outside.questions.try_recv().is_err());
    assert!(ask(&mut resolver, AttachmentId([9; 8]), "nobody.private-network.internal").is_empty());
}

#[test]
fn another_name_goes_outside_and_its_answer_to_whom_it_belongs() {
    let (mut resolver, mut outside) = resolver();
    assert!(ask(&mut resolver, CONTAINER, "www.example.org").is_empty());
    let Question { attachment, place, query: asked, .. } = outside.questions.try_recv().expect("a question");
    assert_eq!((attachment, asked), (CONTAINER, query("www.example.org")));
    outside.answers.try_send(Answer { attachment, place, message: b"answer".to_vec(), refused: false }).expect("room");
    let mut replies = Replies::new();
    resolver.handle_wake(&mut replies);
    let [(to, packet)] = replies.as_slice() else { panic!("one answer") };
    let view = Ipv4View::parse(packet).expect("a packet");
    let answer = UdpView::parse(&view).expect("a datagram");
    assert_eq!((*to, answer.destination.port(), answer.payload), (CONTAINER, 4000, &b"answer"[..]));
}

#[test]
fn who_asks_too_much_is_refused_and_its_neighbour_is_not() {
    let (mut resolver, mut outside) = resolver();
    let refused = (0..10_000).filter(|n| {
        let replies = ask(&mut resolver, CONTAINER, &format!("host{n}.example.org"));
        !replies.is_empty() && code(&replies) == (CONTAINER, 5)
    });
    let due = 10_000 - u64::from(OUTSIDE_COUNT_MAX);
    assert_eq!(refused.count() as u64, due);
    assert_eq!(resolver.drops().of(DropReason::QuestionRefused), due);
    assert!(ask(&mut resolver, NEIGHBOUR, "www.example.org").is_empty());
    // An answer, even of nothing, makes room for a further question.
    let Question { attachment, place, .. } = outside.questions.try_recv().expect("a question");
    outside.answers.try_send(Answer { attachment, place, message: Vec::new(), refused: true }).expect("room");
    let mut replies = Replies::new();
    resolver.handle_wake(&mut replies);
    assert!(replies.is_empty());
    assert_eq!(resolver.drops().of(DropReason::QuestionRefused), due + 1, "one that the forwarder refused");
    assert!(ask(&mut resolver, CONTAINER, "www.example.org").is_empty());
}

#[test]
fn what_is_kept_of_a_container_goes_with_it() {
    let (mut resolver, _outside) = resolver();
    ask(&mut resolver, CONTAINER, "www.example.org");
    let syn = syn(Ipv4Addr::new(10, 240, 0, 1), 4000);
    let mut replies = Replies::new();
    resolver.handle_packet(CONTAINER, &syn, &mut replies);
    assert!(resolver.next_timeout().is_some(), "a stream has begun");
    resolver.forget(CONTAINER);
    resolver.handle_timeout(clock::now() + Duration::from_secs(60), &mut replies);
    assert_eq!((resolver.streams.servers.len(), resolver.streams.count, resolver.desk.allowances.len()), (0, 0, 0));
}

#[test]
fn what_is_no_query_and_streams_beyond_the_bound_are_counted() {
    let (mut resolver, _outside) = resolver();
    let own = Ipv4Addr::new(10, 240, 0, 1);
    let mut replies = Replies::new();
    let response = [&[0x12, 0x34, 0x80, 0][..], &query("nobody.private-network.internal")[4..]].concat();
    for message in [&b"short"[..], &response] {
        let packet = datagram(SocketAddrV4::new(own, 4000), SocketAddrV4::new(RESOLVER, 53), message).expect("fits");
        resolver.handle_packet(CONTAINER, &packet, &mut replies);
    }
    assert!(replies.is_empty());
    assert_eq!(resolver.drops().of(DropReason::NotAQuery), 2);
    for port in 1..=70 {
        resolver.handle_packet(CONTAINER, &syn(own, port), &mut replies);
    }
    assert_eq!(resolver.drops().of(DropReason::TooManyStreams), 70 - 64);
    assert_eq!(resolver.drops().total(), 8);
}

/// A segment that asks for a stream.
fn syn(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = datagram(SocketAddrV4::new(from, port), SocketAddrV4::new(RESOLVER, 53), &[0; 12]).expect("fits");
    packet[9] = 6;
    packet[24..].fill(0);
    // A header of five words, SYN.
    (packet[32], packet[33]) = (0x50, 2);
    packet[10..12].fill(0);
    let sum: u32 = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    packet[10..12].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
    packet
}

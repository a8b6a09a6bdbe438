//! Handshakes on a bad wire, under load, and by strangers.

use super::*;
use crate::packet::{Gso, Offload};

/// The times of host 0's initiations since `begin`, in milliseconds.
fn initiations(lab: &mut Lab, time: Duration, survives: impl Fn(&Datagram) -> bool) -> Vec<u128> {
    let (begin, mut times) = (lab.now, Vec::new());
    let end = begin + time;
    lab.collect(0);
    while lab.now < end {
        for datagram in std::mem::take(&mut lab.wire) {
            if datagram.from == endpoint(0) && datagram.bytes[8] == 1 {
                times.push((lab.now - begin).as_millis());
            }
            if survives(&datagram) {
                lab.arrive(&datagram);
            }
        }
        let next = lab.hosts.iter().filter_map(|host| host.router.next_timeout()).min();
        lab.now = next.map_or(end, |next| next.clamp(lab.now, end));
        for host in 0..lab.hosts.len() {
            let now = lab.now;
            lab.hosts[host].router.handle_timeout(now);
            lab.collect(host);
        }
    }
    times
}

#[test]
fn an_unanswered_handshake_is_tried_again_fast_and_then_slowly_and_not_for_ever() {
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"hello"));
    let times = initiations(&mut lab, Duration::from_secs(60), |_| false);
    assert_eq!(times[..6], [0, 300, 600, 900, 1200, 1500]);
    assert!(times.windows(2).all(|pair| (300..5_000).contains(&(pair[1] - pair[0]))), "{times:?}");
    assert!(times.len() <= 15, "{times:?}");
    assert!(times.last().is_some_and(|last| *last < 20_000), "nobody sends any more: {times:?}");
    assert_eq!(lab.drops(0, DropReason::HandshakeTimeout), 1);
    // A later packet begins anew.
    lab.send_only(0, &udp(1, 2, b"hello"));
    assert_eq!(initiations(&mut lab, Duration::from_secs(1), |_| false), [0, 300, 600, 900]);
}

#[test]
fn the_packet_arrives_once_the_wire_lets_a_handshake_through() {
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"hello"));
    lab.wire.clear();
    let mut lost = 0;
    lab.pass_with(Duration::from_millis(1300), |_| {
        lost += 1;
        lost > 3
    });
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
}

#[test]
fn an_initiation_that_is_due_while_the_socket_is_full_is_sent_when_it_takes_more() {
    let mut lab = Lab::new(3, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0), Listed(GREEN, 3, 2, 0)]);
    lab.send(0, &udp(1, 3, b"open"));
    lab.send_only(0, &udp(1, 2, b"hello"));
    lab.wire.clear();
    // One packet leaves no room for another frame, and the socket takes nothing.
    let (now, gso) = (lab.now, Gso::Udp { segment_bytes: 16 });
    let mut packet = udp(1, 3, &[7; 65_000]);
    let offload = Offload { gso, checksum: Some((20, 6)), headers_len: 28 };
    lab.feed(0, now, id(1), &mut Superpacket::new(offload, &mut packet));
    assert_eq!(lab.drops(0, DropReason::OutboxFull), 1);
    let router = &mut lab.hosts[0].router;
    assert!(router.poll_output().is_some());
    router.hold_wire(0);
    lab.now += Duration::from_millis(300);
    while router.next_timeout().is_some_and(|at| at <= lab.now) {
        router.handle_timeout(lab.now);
    }
    router.release_wire();
    lab.collect(0);
    lab.settle();
    assert_eq!(lab.got(1, 2).len(), 0);
    lab.pass(Duration::from_millis(10));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
}

#[test]
fn every_known_address_of_a_node_is_tried() {
    let mut lab = Lab::pair();
    // The control plane names an address where nobody is; the node's record names the right one.
    let now = lab.now;
    lab.hosts[0].router.set_endpoint(now, node(1), "198.51.100.9:1".parse().expect("an address"));
    lab.send(0, &udp(1, 2, b"hello"));
    assert!(lab.got(1, 2).is_empty());
    lab.pass(Duration::from_millis(301));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
}

#[test]
fn an_address_where_nobody_is_takes_no_try_from_the_right_one_and_both_get_the_same_initiation() {
    let mut lab = Lab::pair();
    let (now, nowhere) = (lab.now, "198.51.100.9:1".parse().expect("an address"));
    lab.hosts[0].router.set_endpoint(now, node(1), nowhere);
    lab.send_only(0, &udp(1, 2, b"hello"));
    lab.pass_with(Duration::from_millis(1_501), |_| false);
    let sent = lab.frames(1);
    let to = |at: SocketAddr| sent.iter().filter(|frame| frame.to == at).map(|frame| &frame.bytes).collect::<Vec<_>>();
    assert_eq!(to(nowhere).len(), 6);
    assert_eq!(to(endpoint(1)), to(nowhere)[1..]);
    assert_eq!(sent.len(), 11);
}

#[test]
fn what_waits_for_a_tunnel_is_bounded() {
    let mut lab = Lab::pair();
    (0..100u8).for_each(|i| lab.send_only(0, &udp(1, 2, &[i])));
    assert_eq!(lab.drops(0, DropReason::HandshakeQueueFull), 36);
    lab.settle();
    assert_eq!(lab.got(1, 2).len(), 64);
    assert_eq!(lab.hosts[0].router.queued_bytes, 0);
}

#[test]
fn a_flood_is_answered_with_cookies_and_a_member_gets_through_all_the_same() {
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)]);
    lab.send_only(0, &udp(1, 2, b"hello"));
    let initiation = lab.wire.pop_front().expect("sent");
    // More copies than are answered in a second: the rest get cookies, one for one and shorter.
    let before = lab.sent.len();
    for i in 0..1200u16 {
        let from = SocketAddr::from(([203, 0, (i >> 8) as u8, i as u8], 7));
        lab.arrive(&Datagram { from, ..initiation.clone() });
    }
    let answers = &lab.sent[before..];
    assert!(answers.len() <= 1200 && answers.iter().all(|answer| answer.bytes.len() <= initiation.bytes.len()));
    assert!(lab.drops(1, DropReason::HandshakeUnderLoad) >= 200);
    // The member is under load too: it gets a cookie, and comes again with it at once.
    lab.wire.clear();
    lab.pass(Duration::from_millis(301));
    assert!(!lab.frames(3).is_empty());
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
}

#[test]
fn a_stranger_makes_the_node_work_20_times_a_second_at_most() {
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"hello"));
    let initiation = lab.wire.pop_front().expect("sent");
    let from = "203.0.113.1:7".parse().expect("an address");
    (0..500).for_each(|_| lab.arrive(&Datagram { from, ..initiation.clone() }));
    assert_eq!(lab.drops(1, DropReason::HandshakeFlood), 480);
    assert_eq!(lab.hosts[1].router.tunnel_count(), 1);
}

#[test]
fn an_unknown_key_from_a_member_waits_for_its_record_and_from_a_stranger_it_does_not() {
    let mut lab = Lab::pair();
    lab.set_membership(1, &membership(2, &[Listed(GREEN, 2, 1, 0)]));
    lab.send_only(0, &udp(1, 2, b"hello"));
    let initiation = lab.wire.pop_front().expect("sent");
    lab.arrive(&Datagram { from: "203.0.113.1:7".parse().expect("an address"), ..initiation.clone() });
    assert_eq!((lab.drops(1, DropReason::UnknownPeer), lab.hosts[1].events.len()), (1, 0));
    lab.arrive(&initiation);
    let event = Event::UnknownPeer { vni: vni(GREEN), key: secret(1, 0).public(), from: endpoint(0) };
    assert_eq!(lab.hosts[1].events, [event]);
    assert!(lab.wire.is_empty());
    lab.set_membership(1, &membership(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)]));
    lab.settle();
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
}

#[test]
fn an_unknown_key_waits_one_second_and_64_of_them_wait_in_all() {
    let mut lab = Lab::pair();
    lab.set_membership(1, &membership(2, &[Listed(GREEN, 2, 1, 0)]));
    lab.send_only(0, &udp(1, 2, b"hello"));
    let initiation = lab.wire.pop_front().expect("sent");
    (0..70).for_each(|_| lab.arrive(&initiation));
    assert_eq!(lab.drops(1, DropReason::InitiationQueueFull), 6);
    // A membership without the key changes nothing, and does not prolong the wait.
    lab.now += Duration::from_millis(600);
    lab.set_membership(1, &membership(2, &[Listed(GREEN, 2, 1, 0)]));
    assert_eq!(lab.drops(1, DropReason::UnknownPeer), 0);
    lab.now += Duration::from_millis(400);
    let now = lab.now;
    lab.hosts[1].router.handle_timeout(now);
    assert_eq!(lab.drops(1, DropReason::UnknownPeer), 64);
    assert_eq!(lab.hosts[1].router.next_timeout(), None);
}

#[test]
fn the_header_selects_one_key_and_an_initiation_for_another_is_dropped_by_its_mac() {
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0), Listed(GREEN, 3, 1, 0)]);
    lab.send_only(0, &udp(1, 2, b"hello"));
    let mut initiation = lab.wire.pop_front().expect("sent");
    initiation.bytes[3] = 3;
    lab.arrive(&initiation);
    assert_eq!(lab.drops(1, DropReason::BadMac), 1);
    initiation.bytes[3] = 200;
    lab.arrive(&initiation);
    assert_eq!(lab.drops(1, DropReason::UnknownInitiationDestination), 1);
    assert!(lab.wire.is_empty());
}

#[test]
fn a_replayed_initiation_neither_ends_a_live_session_nor_moves_the_endpoint() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    let initiation = lab.frames(1)[0].clone();
    for _ in 0..30 {
        lab.arrive(&Datagram { from: "203.0.113.1:7".parse().expect("an address"), ..initiation.clone() });
        lab.arrive(&initiation);
    }
    assert!(lab.wire.is_empty());
    lab.got(1, 2);
    lab.send(0, &udp(1, 2, b"there"));
    lab.send(1, &udp(2, 1, b"back"));
    assert_eq!((lab.got(1, 2).len(), lab.got(0, 1).len()), (1, 1));
}

#[test]
fn an_old_initiation_cannot_take_the_endpoint_of_a_node_that_forgot_the_tunnel() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    let initiation = lab.frames(1)[0].clone();
    lab.pass(Duration::from_secs(200));
    assert_eq!(lab.hosts[1].router.tunnel_count(), 0);
    let thief = "203.0.113.1:7".parse().expect("an address");
    lab.arrive(&Datagram { from: thief, ..initiation });
    lab.wire.clear();
    lab.send(1, &udp(2, 1, b"to you alone"));
    assert_eq!(lab.got(0, 1), [udp(2, 1, b"to you alone")]);
    assert_eq!(lab.hosts[1].router.peers()[0].endpoint, Some(endpoint(0)));
}

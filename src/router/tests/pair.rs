//! Two nodes, a container on each: packets pass, and only as they should.

use super::*;
use crate::packet::{Class, FrameHeader, Gso, Ipv4View, Offload};

#[test]
fn the_first_packet_opens_a_tunnel_and_arrives_and_so_does_the_answer() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"ping"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"ping")]);
    lab.send(1, &udp(2, 1, b"pong"));
    assert_eq!(lab.got(0, 1), [udp(2, 1, b"pong")]);
    assert_eq!(lab.frames(1).len(), 1);
    for host in 0..2 {
        assert_eq!(lab.hosts[host].router.drops().total(), 0);
        assert_eq!(lab.hosts[host].router.tunnel_count(), 1);
    }
}

#[test]
fn packets_sent_while_the_tunnel_opens_arrive_in_order() {
    let mut lab = Lab::pair();
    let packets: Vec<_> = (0..10u8).map(|i| udp(1, 2, &[i; 20])).collect();
    packets.iter().for_each(|packet| lab.send_only(0, packet));
    lab.settle();
    assert_eq!(lab.got(1, 2), packets);
}

#[test]
fn nothing_that_a_container_sends_stands_on_the_wire_in_the_clear() {
    let mut lab = Lab::pair();
    let canary = b"canary-0123456789-canary";
    (0..5).for_each(|_| lab.send(0, &udp(1, 2, canary)));
    assert_eq!(lab.got(1, 2).len(), 5);
    assert!(!lab.sent.is_empty());
    assert!(lab.sent.iter().all(|d| !d.bytes.windows(6).any(|window| window == b"canary")));
    assert!(lab.sent.iter().all(|d| Class::of(&d.bytes) == Class::Frame));
}

#[test]
fn both_ends_may_begin_at_once() {
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"a"));
    lab.send_only(1, &udp(2, 1, b"b"));
    lab.settle();
    assert_eq!((lab.got(1, 2), lab.got(0, 1)), (vec![udp(1, 2, b"a")], vec![udp(2, 1, b"b")]));
    lab.send(0, &udp(1, 2, b"c"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"c")]);
}

#[test]
fn two_containers_of_one_node_reach_each_other_without_a_tunnel() {
    let mut lab = Lab::new(1, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 0, 0), Listed(BLUE, 3, 0, 0)]);
    lab.send(0, &udp(1, 2, b"neighbour"));
    assert_eq!(lab.got(0, 2), [udp(1, 2, b"neighbour")]);
    // One of another network is nobody.
    lab.send(0, &udp(1, 3, b"stranger"));
    assert!(lab.got(0, 3).is_empty());
    assert_eq!(lab.drops(0, DropReason::UnknownDestination), 1);
    assert!(lab.sent.is_empty());
}

#[test]
fn the_same_address_in_another_network_is_another_container() {
    let mut lab = Lab::new(3, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)]);
    lab.hosts[2].router.set_membership(lab.now, membership(3, &[Listed(BLUE, 1, 0, 0), Listed(BLUE, 2, 2, 0)]));
    lab.attach(Listed(BLUE, 2, 2, 0));
    lab.send(0, &udp(1, 2, b"green"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"green")]);
    assert!(lab.got(2, 2).is_empty());
}

#[test]
fn an_address_that_nobody_holds_is_answered_at_once_and_not_without_end() {
    let mut lab = Lab::pair();
    (0..1000).for_each(|_| lab.send(0, &udp(1, 77, b"anyone")));
    let errors = lab.got(0, 1);
    assert_eq!(errors.len(), 100);
    let error = Ipv4View::parse(&errors[0]).expect("a packet");
    assert_eq!((error.payload()[0], error.payload()[1], error.destination()), (3, 1, address(1)));
    assert_eq!(lab.drops(0, DropReason::UnknownDestination), 1000);
    assert!(lab.sent.is_empty());
}

#[test]
fn a_packet_longer_than_the_mtu_is_answered_with_the_mtu() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, &[0; 1400]));
    let errors = lab.got(0, 1);
    assert_eq!(&errors[0][20..22], [3, 4]);
    assert_eq!(&errors[0][26..28], 1408u16.to_be_bytes());
    assert_eq!(lab.drops(0, DropReason::PacketTooBig), 1);
    lab.send(0, &udp(1, 2, &[0; 1380]));
    assert_eq!(lab.got(1, 2).len(), 1);
}

#[test]
fn a_query_for_the_resolver_goes_to_it_and_its_answer_comes_back() {
    let mut lab = Lab::pair();
    let (container, resolver) = (SocketAddrV4::new(address(1), 4000), SocketAddrV4::new(crate::model::RESOLVER, 53));
    lab.send(0, &udp_to(container, resolver, b"question"));
    assert_eq!(lab.hosts[0].queries, [udp_to(container, resolver, b"question")]);
    lab.hosts[0].router.handle_local(id(1), &udp_to(resolver, container, b"answer"));
    lab.collect(0);
    assert_eq!(lab.got(0, 1), [udp_to(resolver, container, b"answer")]);
    // Any other port of it is closed.
    lab.send(0, &udp_to(container, SocketAddrV4::new(crate::model::RESOLVER, 54), b"question"));
    assert_eq!((lab.hosts[0].queries.len(), lab.drops(0, DropReason::NoService)), (1, 1));
    assert_eq!(&lab.got(0, 1)[0][20..22], [3, 3]);
}

#[test]
fn a_rewritten_vni_or_generation_is_not_delivered() {
    let mut lab = Lab::pair();
    for network in [GREEN, BLUE] {
        lab.hosts[1].router.set_network_keys(lab.now, vni(network), keys(network, &[2, 1]));
    }
    lab.send(0, &udp(1, 2, b"open"));
    lab.got(1, 2);
    for rewrite in [(BLUE, 1), (GREEN, 2), (0x0f_ff_ff, 1)] {
        lab.send_only(0, &udp(1, 2, b"secret"));
        let mut datagram = lab.wire.pop_front().expect("sent");
        let (header, _) = FrameHeader::decode(&datagram.bytes).expect("a frame");
        let other = FrameHeader { vni: vni(rewrite.0), generation: Generation(rewrite.1), ..header };
        datagram.bytes[..8].copy_from_slice(&other.encode());
        lab.arrive(&datagram);
        assert!(lab.got(1, 2).is_empty());
    }
    assert_eq!(lab.drops(1, DropReason::ForeignVni), 3);
    lab.send(0, &udp(1, 2, b"still open"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"still open")]);
}

#[test]
fn a_handshake_with_a_rewritten_vni_fails_even_where_both_ends_have_a_place_in_it() {
    // Both containers are members of both networks by the same keys, so that only the preshared key tells them apart.
    let both = [Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0), Listed(BLUE, 1, 0, 0)];
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0)]);
    let view = membership(2, &both);
    (0..2).for_each(|host| lab.set_membership(host, &view));
    // Host 1 has the address of container 2 in the other network.
    lab.attach(Listed(BLUE, 2, 1, 0));
    lab.send_only(0, &udp(1, 2, b"secret"));
    while let Some(mut datagram) = lab.wire.pop_front() {
        let (header, _) = FrameHeader::decode(&datagram.bytes).expect("a frame");
        let other = if header.vni == vni(GREEN) { BLUE } else { GREEN };
        datagram.bytes[..8].copy_from_slice(&FrameHeader { vni: vni(other), ..header }.encode());
        lab.arrive(&datagram);
    }
    assert!(lab.got(1, 2).is_empty());
    assert!(lab.drops(0, DropReason::BadHandshake) > 0);
    assert!(lab.frames(4).is_empty());
}

#[test]
fn another_network_secret_is_another_network() {
    let mut lab = Lab::pair();
    let wrong = vec![(Generation(1), NetworkSecret::from_bytes([66; 32]).psk(vni(GREEN)))];
    lab.hosts[1].router.set_network_keys(lab.now, vni(GREEN), wrong);
    lab.send(0, &udp(1, 2, b"secret"));
    lab.pass(Duration::from_secs(3));
    assert!(lab.got(1, 2).is_empty());
    assert!(lab.drops(0, DropReason::BadHandshake) > 0);
    assert!(lab.frames(4).is_empty());
}

#[test]
fn a_node_that_is_not_granted_the_network_gets_no_tunnel() {
    let mut lab = Lab::pair();
    let mut view = Membership::clone(&membership(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)]));
    let mut network = Network::clone(view.network_by_vni(vni(GREEN)).expect("there"));
    network.grants.remove(&node(1));
    view.insert_network(Arc::new(network));
    lab.set_membership(0, &Arc::new(view));
    lab.send(1, &udp(2, 1, b"let me in"));
    lab.pass(Duration::from_secs(3));
    assert!(lab.got(0, 1).is_empty());
    assert!(lab.drops(0, DropReason::UnknownPeer) > 0);
    lab.send(0, &udp(1, 2, b"nor out"));
    assert_eq!(lab.drops(0, DropReason::UnknownDestination), 1);
    assert!(lab.frames(4).is_empty() && lab.frames(2).is_empty());
}

#[test]
fn a_replayed_message_is_delivered_no_second_time() {
    let mut lab = Lab::pair();
    (0..20u8).for_each(|i| lab.send(0, &udp(1, 2, &[i])));
    assert_eq!(lab.got(1, 2).len(), 20);
    let recorded: Vec<_> = lab.sent.iter().filter(|datagram| datagram.to == endpoint(1)).cloned().collect();
    for order in [recorded.clone(), recorded.iter().rev().cloned().collect()] {
        for datagram in order {
            lab.arrive(&datagram);
            lab.arrive(&Datagram { from: "198.51.100.1:9".parse().expect("an address"), ..datagram });
        }
        lab.settle();
    }
    assert!(lab.got(1, 2).is_empty());
    assert!(lab.drops(1, DropReason::ReplayedOrForged) >= 80);
    // The replay has not moved the endpoint, and the tunnel lives.
    lab.send(1, &udp(2, 1, b"alive"));
    assert_eq!(lab.got(0, 1), [udp(2, 1, b"alive")]);
}

#[test]
fn the_endpoint_follows_the_newest_authenticated_message_and_nothing_else() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"one"));
    lab.send_only(0, &udp(1, 2, b"late"));
    let late = lab.wire.pop_front().expect("sent");
    // The node moves: the next message that it sends is from elsewhere.
    lab.hosts[0].at = "198.51.100.7:4000".parse().expect("an address");
    lab.send(0, &udp(1, 2, b"moved"));
    lab.send(1, &udp(2, 1, b"found"));
    assert_eq!(lab.got(0, 1).last(), Some(&udp(2, 1, b"found")));
    // What is older, a copy, or forged does not move it back.
    let mut forged = late.clone();
    *forged.bytes.last_mut().expect("bytes") ^= 1;
    for datagram in [forged, late.clone(), late] {
        lab.arrive(&datagram);
        lab.settle();
    }
    lab.send(1, &udp(2, 1, b"still there"));
    assert_eq!(lab.got(0, 1).last(), Some(&udp(2, 1, b"still there")));
    let peer = &lab.hosts[1].router.peers()[0];
    assert_eq!((peer.endpoint, peer.tunnels), (Some(lab.hosts[0].at), 1));
}

#[test]
fn a_superpacket_crosses_as_segments_in_few_batches() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    lab.got(1, 2);
    let mut packet = udp(1, 2, &vec![7; 60_000]);
    let offload = Offload { gso: Gso::Udp { segment_bytes: 1380 }, checksum: Some((20, 6)), headers_len: 28 };
    let now = lab.now;
    lab.feed(0, now, id(1), &mut Superpacket::new(offload, &mut packet));
    let mut batches = Vec::new();
    while let Some(output) = lab.hosts[0].router.poll_output() {
        let Output::Wire { to, batch } = output else { continue };
        batches.push((to, batch.bytes().to_vec(), batch.segment_len()));
    }
    assert_eq!(batches.len(), 1);
    for (_, bytes, segment_len) in &batches {
        lab.hosts[1].router.handle_wire(now, endpoint(0), Batch::new(bytes, *segment_len));
        lab.collect(1);
    }
    let got = lab.got(1, 2);
    assert_eq!(got.len(), 60_000usize.div_ceil(1380));
    assert_eq!(got.iter().map(|packet| packet.len() - 28).sum::<usize>(), 60_000);
    assert!(got.iter().all(|packet| packet[28..].iter().all(|byte| *byte == 7)));
}

#[test]
fn traffic_is_counted_for_attachments_and_peers() {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, &[0; 72]));
    let sender = lab.hosts[0].router.attachments().next().expect("there").traffic;
    assert_eq!((sender.tx_bytes, sender.tx_packets, sender.rx_packets), (100, 1, 0));
    let receiver = lab.hosts[1].router.attachments().next().expect("there").traffic;
    assert_eq!((receiver.rx_bytes, receiver.rx_packets), (100, 1));
    assert_eq!(lab.hosts[0].router.peers()[0].tx_bytes, 100);
    let peer = &lab.hosts[1].router.peers()[0];
    assert_eq!((peer.rx_bytes, peer.last_heard, peer.last_handshake), (100, Some(lab.now), Some(lab.now)));
}

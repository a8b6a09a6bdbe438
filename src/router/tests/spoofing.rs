//! A container, or a member, says that it is somebody else.

use super::*;

#[test]
fn a_container_sends_from_its_own_address_only() {
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 3, 0, 0), Listed(GREEN, 2, 1, 0)]);
    lab.send(0, &udp(1, 2, b"open"));
    assert_eq!(lab.got(1, 2).len(), 1);
    let others = ["10.240.0.3", "10.240.0.2", "169.254.240.53", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"];
    for other in others {
        let from = SocketAddrV4::new(other.parse().expect("an address"), 1000);
        for to in [2, 3] {
            let spoofed = udp_to(from, SocketAddrV4::new(address(to), 2000), b"spoofed");
            lab.send_as(0, id(1), &spoofed);
        }
        lab.settle();
    }
    assert_eq!(lab.drops(0, DropReason::SpoofedSource), 2 * others.len() as u64);
    assert!(lab.got(1, 2).is_empty() && lab.got(0, 3).is_empty() && lab.got(0, 1).is_empty());
}

#[test]
fn fragments_are_checked_like_whole_packets() {
    let mut lab = Lab::pair();
    let mut fragment = udp(3, 2, b"fragment");
    fragment[6] = 0x20;
    lab.send_as(0, id(1), &fragment);
    fragment[7] = 9;
    lab.send_as(0, id(1), &fragment);
    assert_eq!(lab.drops(0, DropReason::SpoofedSource), 2);
    // Its own pass, first and later.
    let mut fragment = udp(1, 2, b"fragment");
    fragment[7] = 9;
    lab.send(0, &fragment);
    assert_eq!(lab.got(1, 2), [fragment]);
}

#[test]
fn what_is_not_for_a_container_goes_nowhere() {
    let mut lab = Lab::pair();
    for (to, reason) in [
        ("224.0.0.251", DropReason::Multicast),
        ("255.255.255.255", DropReason::Multicast),
        ("10.240.3.255", DropReason::Multicast),
        ("8.8.8.8", DropReason::OutsideDestination),
        ("127.0.0.1", DropReason::OutsideDestination),
        ("10.240.4.1", DropReason::OutsideDestination),
    ] {
        let before = lab.drops(0, reason);
        let to = SocketAddrV4::new(to.parse().expect("an address"), 9);
        lab.send(0, &udp_to(SocketAddrV4::new(address(1), 9), to, b"out"));
        assert_eq!(lab.drops(0, reason), before + 1, "{to}");
    }
    assert!(lab.sent.is_empty());
}

#[test]
fn bytes_that_are_no_ipv4_packet_go_nowhere() {
    let mut lab = Lab::pair();
    let good = udp(1, 2, b"good");
    let mut six = good.clone();
    six[0] = 0x65;
    lab.send_as(0, id(1), &six);
    lab.send_as(0, id(1), &good[..good.len() - 1]);
    lab.send_as(0, id(1), &[]);
    lab.send_as(0, id(9), &good);
    assert_eq!(lab.drops(0, DropReason::NotIpv4), 1);
    assert_eq!(lab.drops(0, DropReason::MalformedPacket), 2);
    assert_eq!(lab.drops(0, DropReason::UnknownAttachment), 1);
    assert!(lab.sent.is_empty());
}

#[test]
fn a_member_that_hosts_a_container_cannot_speak_for_another() {
    // Host 1's own router is taken in: it believes that its container has address 2; host 0 knows it as 3.
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0)]);
    let mut view = Membership::clone(&membership(2, &[Listed(GREEN, 1, 0, 0)]));
    let mut network = Network::clone(view.network_by_vni(vni(GREEN)).expect("there"));
    let mut container = Container::clone(
        membership(2, &[Listed(GREEN, 3, 1, 0)])
            .network_by_vni(vni(GREEN))
            .expect("there")
            .container_at(address(3))
            .expect("there"),
    );
    container.public_key = secret(2, 0).public();
    network.insert_container(Arc::new(container));
    view.insert_network(Arc::new(network));
    lab.set_membership(0, &Arc::new(view));
    let taken_in = membership(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)]);
    lab.set_membership(1, &taken_in);
    lab.attach(Listed(GREEN, 2, 1, 0));
    lab.send(1, &udp(2, 1, b"I am 2"));
    assert!(lab.got(0, 1).is_empty());
    assert_eq!(lab.drops(0, DropReason::SpoofedInnerSource), 1);
}

#[test]
fn a_member_that_says_anothers_key_takes_nothing_from_it() {
    let containers = [Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)];
    // Host 2 says that its own container has the key of container 2, and that it is where host 1 is.
    for (last, lured) in [(200, false), (200, true), (0, false), (0, true)] {
        let mut lab = Lab::new(3, &containers);
        let honest = membership(3, &containers);
        let mut network = Network::clone(honest.network_by_vni(vni(GREEN)).expect("there"));
        let said = Container {
            id: id(last),
            node: node(2),
            public_key: secret(2, 0).public(),
            rev: Rev(0),
            ..testing::container(address(last))
        };
        network.insert_container(Arc::new(said));
        let nodes = honest.nodes().map(|node| Node { endpoints: vec![endpoint(2), endpoint(1)], ..Node::clone(node) });
        let view = Arc::new(Membership::new(ClusterId([9; 32]), nodes, [network]));
        let now = lab.now;
        for host in [0, 1] {
            lab.set_membership(host, &view);
        }
        lab.hosts[0].router.set_endpoint(now, node(1), endpoint(1));
        lab.hosts[1].router.set_endpoint(now, node(0), endpoint(0));
        if lured {
            lab.send(0, &udp(1, last, b"to the other"));
        }
        lab.send(1, &udp(2, 1, b"there"));
        assert_eq!(lab.got(0, 1).len(), 1, "from 2, {last}, {lured}");
        lab.send(0, &udp(1, 2, b"and back"));
        assert_eq!(lab.got(1, 2).len(), 1, "to 2, {last}, {lured}");
    }
}

#[test]
fn a_member_cannot_reach_past_the_container_of_the_tunnel() {
    // To host 1 the key of container 1 is that of the container at address 4, which host 0 has as well.
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 4, 0, 0), Listed(GREEN, 2, 1, 0)]);
    lab.send(1, &udp(2, 1, b"open"));
    assert_eq!(lab.got(0, 1).len(), 1);
    let router = &mut lab.hosts[1].router;
    let slot = router.attachments.by_id(id(2)).expect("there");
    let route = router.attachments[slot].routes.remove(&address(1)).expect("open");
    router.attachments[slot].routes.insert(address(4), route);
    lab.send(1, &udp(2, 4, b"through"));
    assert!(lab.got(0, 4).is_empty() && lab.got(0, 1).is_empty());
    assert_eq!(lab.drops(0, DropReason::ForeignInnerDestination), 1);
}

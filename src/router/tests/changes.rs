//! Keys, secrets, members and containers change under way.

use super::*;

const BOTH: [Listed; 2] = [Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)];

/// A pair with an open tunnel.
fn open() -> Lab {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    lab.send(1, &udp(2, 1, b"open"));
    lab.got(0, 1);
    lab.got(1, 2);
    lab
}

#[test]
fn a_new_key_in_a_record_opens_a_new_tunnel_at_once_and_retires_the_old_one() {
    let mut lab = open();
    let now = lab.now;
    assert!(lab.hosts[1].router.rekey(now, id(2), secret(2, 1)));
    lab.collect(1);
    // The owner of the key begins as well; its record is not known yet.
    lab.wire.clear();
    let view = membership(2, &[BOTH[0], Listed(GREEN, 2, 1, 1)]);
    lab.set_membership(0, &view);
    assert_eq!(lab.wire.len(), 1, "no packet was needed");
    lab.settle();
    lab.send(0, &udp(1, 2, b"new"));
    lab.send(1, &udp(2, 1, b"new"));
    assert_eq!((lab.got(1, 2).len(), lab.got(0, 1).len()), (1, 1));
    lab.pass(Duration::from_secs(40));
    for host in 0..2 {
        assert_eq!(lab.hosts[host].router.tunnel_count(), 1);
        let tunnel = lab.hosts[host].router.tunnels.iter().next().expect("one").1;
        assert!(tunnel.identity.local == secret(2, 1).public() || tunnel.identity.remote == secret(2, 1).public());
    }
}

#[test]
fn packets_flow_while_a_key_changes() {
    let mut lab = open();
    let now = lab.now;
    lab.hosts[1].router.rekey(now, id(2), secret(2, 1));
    lab.collect(1);
    lab.settle();
    for i in 0..50u8 {
        if i == 10 {
            let view = membership(2, &[BOTH[0], Listed(GREEN, 2, 1, 1)]);
            (0..2).for_each(|host| lab.set_membership(host, &view));
        }
        lab.send(0, &udp(1, 2, &[i]));
        lab.send(1, &udp(2, 1, &[i]));
        lab.pass(Duration::from_millis(100));
        assert_eq!((lab.got(1, 2), lab.got(0, 1)), (vec![udp(1, 2, &[i])], vec![udp(2, 1, &[i])]), "at {i}");
    }
}

#[test]
fn packets_flow_while_the_network_secret_changes_at_one_node_before_the_other() {
    let mut lab = open();
    for i in 0..60u8 {
        let now = lab.now;
        match i {
            10 => lab.hosts[0].router.set_network_keys(now, vni(GREEN), keys(GREEN, &[2, 1])),
            30 => lab.hosts[1].router.set_network_keys(now, vni(GREEN), keys(GREEN, &[2, 1])),
            50 => (0..2).for_each(|host| lab.hosts[host].router.set_network_keys(now, vni(GREEN), keys(GREEN, &[2]))),
            _ => {}
        }
        (0..2).for_each(|host| lab.collect(host));
        lab.send(0, &udp(1, 2, &[i]));
        lab.send(1, &udp(2, 1, &[i]));
        lab.pass(Duration::from_millis(300));
        assert_eq!((lab.got(1, 2), lab.got(0, 1)), (vec![udp(1, 2, &[i])], vec![udp(2, 1, &[i])]), "at {i}");
    }
    for host in 0..2 {
        let generations: Vec<_> =
            lab.hosts[host].router.tunnels.iter().map(|(_, tunnel)| tunnel.identity.generation).collect();
        assert_eq!(generations, [Generation(2)]);
    }
}

#[test]
fn a_node_with_the_newest_secret_alone_still_reaches_one_that_has_only_the_older() {
    let mut lab = Lab::pair();
    lab.hosts[0].router.set_network_keys(lab.now, vni(GREEN), keys(GREEN, &[2, 1]));
    lab.send(0, &udp(1, 2, b"hello"));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello")]);
    assert!(lab.hosts[1].events.contains(&Event::MissingKey { vni: vni(GREEN), generation: Some(Generation(2)) }));
}

#[test]
fn a_container_that_is_gone_is_unreachable_at_once_and_its_tunnel_closed() {
    let mut lab = open();
    lab.set_membership(0, &membership(2, &BOTH[..1]));
    assert_eq!(lab.hosts[0].router.tunnel_count(), 0);
    lab.send(0, &udp(1, 2, b"anyone?"));
    assert_eq!(&lab.got(0, 1)[0][20..22], [3, 1]);
    // Nor does what it still sends arrive.
    lab.send(1, &udp(2, 1, b"still here"));
    assert!(lab.got(0, 1).is_empty());
    assert_eq!(lab.drops(0, DropReason::UnknownTunnel), 1);
}

#[test]
fn packets_that_wait_for_a_container_are_refused_when_it_goes() {
    let mut lab = Lab::pair();
    for data in [b"one", b"two"] {
        lab.send_only(0, &udp(1, 2, data));
    }
    assert!(lab.got(0, 1).is_empty(), "a handshake is under way");
    lab.set_membership(0, &membership(2, &BOTH[..1]));
    let told = lab.got(0, 1);
    assert_eq!(told.iter().map(|error| &error[20..22]).collect::<Vec<_>>(), [[3, 1], [3, 1]]);
    assert_eq!(lab.drops(0, DropReason::UnknownDestination), 2);
    lab.wire.clear();
    lab.pass(Duration::from_secs(10));
    assert!(lab.got(0, 1).is_empty(), "told twice");
}

#[test]
fn packets_to_a_node_that_is_down_are_refused_at_once_and_its_tunnel_is_there_when_it_is_back() {
    let mut lab = open();
    let known = membership(2, &BOTH);
    let mut down = Membership::clone(&known);
    down.set_silent([node(1)].into());
    lab.set_membership(0, &Arc::new(down));
    lab.send(0, &udp(1, 2, b"anyone?"));
    assert_eq!(&lab.got(0, 1)[0][20..22], [3, 1], "host unreachable");
    assert!(lab.got(1, 2).is_empty() && lab.drops(0, DropReason::NodeDown) == 1);
    // What it still sends is life.
    lab.send(1, &udp(2, 1, b"I am"));
    assert_eq!(lab.got(0, 1), [udp(2, 1, b"I am")]);
    assert_eq!(lab.hosts[0].router.heard(), [(node(1), lab.now)]);
    lab.set_membership(0, &known);
    let sent = lab.sent.len();
    lab.send(0, &udp(1, 2, b"again"));
    assert_eq!((lab.got(1, 2), lab.sent.len()), (vec![udp(1, 2, b"again")], sent + 1), "no new handshake");
}

#[test]
fn a_first_packet_to_a_node_that_is_down_makes_no_tunnel() {
    let mut lab = Lab::pair();
    let mut down = Membership::clone(&membership(2, &BOTH));
    down.set_silent([node(1)].into());
    lab.set_membership(0, &Arc::new(down));
    lab.send(0, &udp(1, 2, b"anyone?"));
    assert_eq!(&lab.got(0, 1)[0][20..22], [3, 1]);
    assert_eq!((lab.hosts[0].router.tunnel_count(), lab.drops(0, DropReason::NodeDown)), (0, 1));
}

#[test]
fn an_address_with_a_new_holder_accepts_nothing_of_the_old_one() {
    let mut lab = open();
    let mut view = Membership::clone(&membership(3, &BOTH));
    let mut network = Network::clone(view.network_by_vni(vni(GREEN)).expect("there"));
    let mut heir = Container::clone(network.container_at(address(2)).expect("there"));
    (heir.id, heir.node, heir.public_key) = (id(99), node(2), secret(99, 0).public());
    network.insert_container(Arc::new(heir));
    view.insert_network(Arc::new(network));
    lab.set_membership(0, &Arc::new(view));
    lab.send(1, &udp(2, 1, b"it was mine"));
    lab.pass(Duration::from_secs(2));
    assert!(lab.got(0, 1).is_empty());
}

#[test]
fn a_revoked_node_is_cut_off_though_its_records_are_still_there() {
    let mut lab = open();
    // The network is the same, the node is no member any more.
    let full = membership(2, &BOTH);
    let mut view = Membership::clone(&membership(1, &[]));
    view.insert_network(full.network_by_vni(vni(GREEN)).expect("there").clone());
    lab.set_membership(0, &Arc::new(view));
    lab.send(1, &udp(2, 1, b"it is me"));
    assert!(lab.got(0, 1).is_empty());
    assert_eq!(lab.hosts[0].router.tunnel_count(), 0);
}

#[test]
fn a_detached_container_gets_and_sends_nothing() {
    let mut lab = open();
    let now = lab.now;
    assert!(lab.hosts[1].router.detach(now, id(2)));
    assert!(!lab.hosts[1].router.detach(now, id(2)));
    lab.send(0, &udp(1, 2, b"hello"));
    lab.send_as(1, id(2), &udp(2, 1, b"hello"));
    lab.settle();
    assert!(lab.got(1, 2).is_empty() && lab.got(0, 1).is_empty());
    assert_eq!((lab.hosts[1].router.tunnel_count(), lab.drops(1, DropReason::UnknownAttachment)), (0, 1));
    // Its place is free again.
    lab.attach(BOTH[1]);
}

#[test]
fn an_id_or_an_address_is_attached_once() {
    let mut lab = Lab::pair();
    let spec = |last: u8, at: u8| AttachmentSpec {
        id: id(last),
        vni: vni(GREEN),
        address: address(at),
        secret: secret(last, 0),
        mtu_bytes: 1408,
        device: DeviceKind::Tun { offload: false, uso: false },
    };
    let now = lab.now;
    let router = &mut lab.hosts[0].router;
    assert_eq!(router.attach(now, spec(1, 5)), Err(AttachError::Id(id(1))));
    assert_eq!(router.attach(now, spec(5, 1)), Err(AttachError::Address(vni(GREEN), address(1))));
    assert_eq!(router.attach(now, spec(5, 5)), Ok(()));
}

#[test]
fn a_restarted_node_is_reached_again_as_soon_as_its_record_says_its_new_key() {
    let mut lab = open();
    // Host 1 starts anew: no tunnels, a new key.
    let now = lab.now;
    let mut router = Router::new(Config::default(), [77; 32]);
    router.set_node(node(1));
    router.set_network_keys(now, vni(GREEN), keys(GREEN, &[1]));
    lab.hosts[1].router = router;
    let view = membership(2, &[BOTH[0], Listed(GREEN, 2, 1, 1)]);
    lab.set_membership(1, &view);
    lab.attach(Listed(GREEN, 2, 1, 1));
    lab.send(0, &udp(1, 2, b"lost"));
    assert!(lab.got(1, 2).is_empty());
    lab.set_membership(0, &view);
    lab.settle();
    lab.send(0, &udp(1, 2, b"hello again"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"hello again")]);
}

#[test]
fn an_idle_tunnel_is_closed_and_opens_again() {
    let mut lab = open();
    lab.pass(Duration::from_secs(200));
    assert_eq!(lab.hosts[0].router.tunnel_count(), 0);
    assert_eq!(lab.hosts[0].router.next_timeout(), None);
    lab.send(0, &udp(1, 2, b"again"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"again")]);
}

#[test]
fn there_are_no_more_tunnels_than_allowed_and_the_idle_give_way() {
    let many: Vec<Listed> = (10..30).map(|last| Listed(GREEN, last, 1, 0)).collect();
    let mut lab = Lab::new(2, &[&[Listed(GREEN, 1, 0, 0)], &many[..]].concat());
    lab.hosts[0].router.config.tunnels_max = 4;
    (10..14).for_each(|last| lab.send(0, &udp(1, last, b"open")));
    lab.send(0, &udp(1, 14, b"one too many"));
    assert_eq!((lab.hosts[0].router.tunnel_count(), lab.drops(0, DropReason::TunnelsFull)), (4, 1));
    lab.pass(Duration::from_secs(11));
    lab.send(0, &udp(1, 14, b"now"));
    assert_eq!(lab.got(1, 14), [udp(1, 14, b"now")]);
    assert_eq!(lab.hosts[0].router.tunnel_count(), 4);
}

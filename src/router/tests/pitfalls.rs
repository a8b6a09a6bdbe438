//! What boringtun 0.7.1 does that would hurt, and what keeps it from doing so: each test fails without its guard.

use super::noise::{DATA_OVERHEAD, LocalKey, Message, NEW_PANICS, Noise, Panicked, RESULT_LEN_MIN, Step};
use super::*;

fn open() -> Lab {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    lab.send(1, &udp(2, 1, b"open"));
    lab.got(0, 1);
    lab.got(1, 2);
    lab
}

/// Both ends of a tunnel, without routers.
fn ends() -> (Noise, Noise) {
    let now = start();
    let (a, b) = (LocalKey::new(secret(1, 0), now), LocalKey::new(secret(2, 0), now));
    let psk = &keys(GREEN, &[1])[0].1;
    (Noise::new(&a, b.public(), psk, 1), Noise::new(&b, a.public(), psk, 2))
}

#[test]
fn the_longest_data_message_there_is_does_not_panic() {
    let mut lab = open();
    let data = lab.frames(4)[0].clone();
    for len in [32, 1 << 10, 60_000, 65_507, 65_535, 65_567, 65_568, 100_000] {
        let mut bytes = data.bytes.clone();
        bytes.resize(8 + len, 0);
        // A counter that was not used, so that it is not refused for that.
        bytes[16] = 200;
        lab.arrive(&Datagram { bytes, ..data.clone() });
    }
    assert_eq!(lab.drops(1, DropReason::MessageTooLong), 2);
    assert_eq!(lab.drops(1, DropReason::TunnelPanicked), 0);
    lab.send(0, &udp(1, 2, b"alive"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"alive")]);
}

#[test]
fn a_result_that_does_not_fit_is_refused_before_boringtun_sees_it() {
    let (mut a, mut b) = ends();
    let source = endpoint(0).ip();
    let mut message = [0; 2000];
    let mut out = vec![0; 2000];
    assert_eq!(a.initiate(&mut message), Ok(Step::Send(148)));
    assert_eq!(b.open(source, &message[..148], &mut out), Ok(Step::Send(92)));
    assert_eq!(a.open(source, &out[..92], &mut message), Ok(Step::Send(32)));
    let packet = udp(1, 2, &[0; 500]);
    let short = packet.len() + DATA_OVERHEAD - 1;
    assert_eq!(a.seal(&packet, &mut out[..short]), Ok(Step::Refused));
    assert_eq!(a.seal(&packet, &mut out[..=short]), Ok(Step::Send(short + 1)));
    let sealed = out[..=short].to_vec();
    assert_eq!(b.open(source, &sealed, &mut out[..RESULT_LEN_MIN]), Ok(Step::Refused));
    assert_eq!(b.open(source, &sealed, &mut out), Ok(Step::Packet(packet.len())));
}

#[test]
fn an_empty_message_is_not_the_question_whether_packets_wait() {
    let (mut a, _) = ends();
    assert_eq!(a.open(endpoint(0).ip(), &[], &mut [0; 200]), Ok(Step::Refused));
}

#[test]
fn without_a_session_nothing_is_sealed() {
    let (mut a, _) = ends();
    assert_eq!(a.seal(&udp(1, 2, b"too early"), &mut [0; 500]), Ok(Step::Refused));
    assert!(!a.has_session());
}

/// The tunnel of host 0 to container 2 panics after so many more calls.
fn panic_after(lab: &mut Lab, calls: u32) -> &mut Noise {
    let router = &mut lab.hosts[0].router;
    let slot = router.tunnels.iter().find(|(_, tunnel)| tunnel.identity.address == address(2)).expect("there").0;
    let noise = &mut router.tunnels[slot].noise;
    noise.panics_after = Some(calls);
    noise
}

#[test]
fn a_panic_costs_one_tunnel_and_is_counted() {
    let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0), Listed(GREEN, 3, 1, 0)]);
    (2..4).for_each(|to| lab.send(0, &udp(1, to, b"open")));
    lab.got(1, 2);
    lab.got(1, 3);
    assert_eq!(panic_after(&mut lab, 0).tick(&mut [0; 200]), Err(Panicked));
    panic_after(&mut lab, 0);
    lab.send(0, &udp(1, 2, b"lost"));
    assert_eq!((lab.drops(0, DropReason::TunnelPanicked), lab.hosts[0].router.tunnel_count()), (1, 1));
    lab.send(0, &udp(1, 3, b"unharmed"));
    assert_eq!(lab.got(1, 3), [udp(1, 3, b"unharmed")]);
    lab.send(0, &udp(1, 2, b"anew"));
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"anew")]);
}

/// One tunnel of host 0 has failed, and it makes another when it is needed.
fn one_failed_and_the_next_one_works(mut lab: Lab) {
    assert_eq!((lab.drops(0, DropReason::TunnelPanicked), lab.hosts[0].router.tunnel_count()), (1, 0));
    lab.wire.clear();
    lab.send(0, &udp(1, 2, b"anew"));
    assert_eq!(lab.got(1, 2).last(), Some(&udp(1, 2, b"anew")));
}

#[test]
fn a_panic_while_a_tunnel_is_made_or_asks_for_a_session_costs_that_tunnel() {
    // The first initiation of all.
    let mut lab = Lab::pair();
    NEW_PANICS.set(true);
    lab.send(0, &udp(1, 2, b"lost"));
    NEW_PANICS.set(false);
    one_failed_and_the_next_one_works(lab);

    // One of a tunnel that had given up.
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"unheard"));
    lab.pass_with(Duration::from_secs(20), |_| false);
    panic_after(&mut lab, 0);
    lab.send(0, &udp(1, 2, b"lost"));
    one_failed_and_the_next_one_works(lab);
}

#[test]
fn a_panic_at_what_waited_for_a_session_costs_that_tunnel_whoever_began() {
    // The session is there once the response has been read, which is the call before.
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"lost"));
    let initiation = lab.wire.pop_front().expect("sent");
    lab.arrive(&initiation);
    let response = lab.wire.pop_front().expect("answered");
    panic_after(&mut lab, 1);
    lab.arrive(&response);
    one_failed_and_the_next_one_works(lab);

    // The session is there once the other end uses it.
    let mut lab = Lab::pair();
    lab.send_only(1, &udp(2, 1, b"first"));
    let initiation = lab.wire.pop_front().expect("sent");
    lab.arrive(&initiation);
    lab.send_only(0, &udp(1, 2, b"lost"));
    lab.wire.retain(|datagram| datagram.bytes[8] == 2);
    let response = lab.wire.pop_front().expect("answered");
    lab.arrive(&response);
    let first = lab.wire.pop_front().expect("used");
    panic_after(&mut lab, 1);
    lab.arrive(&first);
    one_failed_and_the_next_one_works(lab);
}

#[test]
fn receiver_fields_lead_to_tunnels_by_their_upper_24_bits_and_indices_do_not_repeat() {
    let many: Vec<Listed> = (10..60).map(|last| Listed(GREEN, last, 1, 0)).collect();
    let mut lab = Lab::new(2, &[&[Listed(GREEN, 1, 0, 0)], &many[..]].concat());
    (10..60).for_each(|last| lab.send(0, &udp(1, last, b"open")));
    let indices: std::collections::BTreeSet<u32> = lab
        .frames(1)
        .iter()
        .map(|frame| u32::from_le_bytes(frame.bytes[12..16].try_into().expect("four bytes")) >> 8)
        .collect();
    assert_eq!(indices.len(), 50);
    let router = &lab.hosts[0].router;
    assert!(indices.iter().all(|index| router.tunnels.by_receiver(index << 8 | 0xab).is_some()));
}

#[test]
fn a_low_order_key_never_becomes_a_peer() {
    assert!(WgPublicKey::try_from([0; 32]).is_err());
    let mut one = [0; 32];
    one[0] = 1;
    assert!(WgPublicKey::try_from(one).is_err());
}

#[test]
fn beside_a_live_session_no_more_than_six_handshakes_go_unanswered() {
    let mut lab = open();
    let slot = lab.hosts[0].router.tunnels.iter().next().expect("open").0;
    let mut sent = 0;
    for i in 0..100u32 {
        let now = lab.now;
        lab.hosts[0].router.begin_handshake(now, slot);
        lab.collect(0);
        // Handshakes are lost; data passes, so the session stays live.
        lab.send_only(1, &udp(2, 1, b"alive"));
        lab.pass_with(Duration::from_millis(300), |datagram| datagram.bytes[8] == 4);
        sent = lab.frames(1).len() - 1;
        assert_eq!(lab.got(0, 1).len(), 1, "at {i}");
    }
    assert_eq!(sent, 6);
}

#[test]
fn a_peer_that_hears_no_answers_cannot_make_a_live_session_give_way() {
    let mut lab = open();
    let slot = lab.hosts[0].router.tunnels.iter().next().expect("open").0;
    // The initiator's own guard is off: it asks again and again, and the answers are lost.
    for _ in 0..20 {
        let now = lab.now;
        lab.hosts[0].router.tunnels[slot].schedule = Default::default();
        lab.hosts[0].router.begin_handshake(now, slot);
        lab.collect(0);
        lab.pass_with(Duration::from_millis(50), |datagram| datagram.bytes[8] != 2);
        lab.send_only(0, &udp(1, 2, b"alive"));
        lab.pass_with(Duration::from_millis(50), |datagram| datagram.bytes[8] != 2);
        assert_eq!(lab.got(1, 2).len(), 1);
        lab.send_only(1, &udp(2, 1, b"alive"));
        lab.pass_with(Duration::from_millis(50), |datagram| datagram.bytes[8] != 2);
        assert_eq!(lab.got(0, 1).len(), 1);
    }
    assert!(lab.drops(1, DropReason::TooManyHandshakes) > 0);
}

#[test]
fn a_rate_limiter_is_always_told_the_source_so_that_a_cookie_can_open_it() {
    let now = start();
    let mut key = LocalKey::new(secret(2, 0), now);
    let (mut a, _) = ends();
    let mut message = [0; 148];
    let source = endpoint(0).ip();
    for _ in 0..1000 {
        a.initiate(&mut message).expect("no panic");
        assert_eq!(key.check(now, source, &message), Ok(()));
    }
    a.initiate(&mut message).expect("no panic");
    let Err(noise::InitiationError::UnderLoad(cookie)) = key.check(now, source, &message) else {
        panic!("the thousand and first is under load");
    };
    let mut out = [0; RESULT_LEN_MIN];
    assert_eq!(a.open(source, &cookie, &mut out), Ok(Step::Nothing));
    a.initiate(&mut message).expect("no panic");
    assert_eq!(key.check(now, source, &message), Ok(()));
    // The cookie is good for that source alone.
    assert!(key.check(now, endpoint(1).ip(), &message).is_err());
}

#[test]
fn a_reordering_of_a_thousand_is_tolerated_and_no_packet_comes_twice() {
    let mut lab = open();
    (0..1000u16).for_each(|i| lab.send_only(0, &udp(1, 2, &i.to_be_bytes())));
    let mut datagrams: Vec<_> = lab.wire.drain(..).collect();
    datagrams.reverse();
    datagrams.extend(datagrams.clone());
    datagrams.iter().for_each(|datagram| lab.arrive(datagram));
    assert_eq!(lab.got(1, 2).len(), 1000);
}

#[test]
fn messages_are_told_apart_by_type_and_length() {
    let message = |kind: u8, len: usize| {
        let mut bytes = vec![0; len];
        bytes[0] = kind;
        Message::parse(&bytes)
    };
    assert_eq!(message(1, 148), Some(Message::Initiation));
    assert_eq!(message(2, 92), Some(Message::Response { receiver: 0 }));
    assert_eq!(message(3, 64), Some(Message::Cookie { receiver: 0 }));
    assert_eq!(message(4, 32), Some(Message::Data { receiver: 0, counter: 0 }));
    for (kind, len) in [(1, 147), (1, 149), (2, 93), (3, 63), (4, 31), (5, 148), (0, 32), (4, 1)] {
        assert_eq!(message(kind, len), None);
    }
    assert_eq!(Message::parse(&[]), None);
}

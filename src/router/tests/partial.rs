//! Checksums that a kernel has left undone, on their way between two nodes: each is completed once, and no wrong one ever.

use proptest::prelude::*;

use super::*;
use crate::packet::{FrameHeader, FrameType, Gso, Offload};

const TYPE: usize = 1;
const PARTIAL: Offload = Offload { gso: Gso::None, checksum: Some((20, 6)), headers_len: 28 };
const BARE: DeviceKind = DeviceKind::Tun { offload: false, uso: false };
const FULL: DeviceKind = DeviceKind::Tun { offload: true, uso: true };
/// Kernels make no packet of more datagrams (`UDP_MAX_SEGMENTS`); what makes more than a turn can hold loses the rest.
const SEGMENTS_MAX: usize = 128;
const DEVICES: [DeviceKind; 3] = [BARE, DeviceKind::Tun { offload: true, uso: false }, FULL];

/// Container 1 on host 0 and container 2 on host 1, on such devices, with an open tunnel.
fn pair_on(devices: [DeviceKind; 2]) -> Lab {
    let containers = [Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)];
    let (mut lab, view) = (Lab::new(2, &[]), membership(2, &containers));
    for (host, device) in devices.into_iter().enumerate() {
        lab.set_membership(host, &view);
        lab.attach_on(containers[host], device);
    }
    lab.send(0, &udp(1, 2, b"open"));
    lab.got(1, 2);
    lab
}

/// The frames that a packet of container 1 becomes.
fn sent(lab: &mut Lab, work: Offload, packet: &[u8]) -> Vec<Vec<u8>> {
    let now = lab.now;
    lab.feed(0, now, id(1), &mut Superpacket::new(work, &mut packet.to_vec()));
    lab.collect(0);
    lab.wire.drain(..).map(|datagram| datagram.bytes).collect()
}

/// What container 2's kernel is given of frames that arrive at once.
fn delivered(lab: &mut Lab, frames: &[Vec<u8>]) -> Vec<(Offload, Vec<u8>)> {
    let now = lab.now;
    let router = &mut lab.hosts[1].router;
    frames.iter().for_each(|frame| router.handle_wire(now, endpoint(0), Batch::one(frame)));
    let mut all = Vec::new();
    while let Some(output) = router.poll_output() {
        if let Output::Device { packet, .. } = output {
            all.push((packet.offload(), packet.to_vec()));
        }
    }
    all
}

/// A packet's segments as they are once nothing is undone.
fn complete(work: Offload, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    let mut packet = Superpacket::new(work, &mut packet);
    let mut all = Vec::new();
    if let Ok(mut segments) = packet.segments() {
        while let Some(segment) = segments.next() {
            all.push(segment.to_vec());
        }
    }
    all
}

/// A datagram whose checksum is left undone, as a kernel does.
fn undone(payload: &[u8]) -> Vec<u8> {
    let mut packet = udp(1, 2, payload);
    let len = (packet.len() - 20) as u32;
    let words = packet[12..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + 17 + len;
    packet[26..28].copy_from_slice(&((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes());
    packet
}

#[test]
fn a_checksum_left_undone_is_completed_by_the_last_who_can_and_by_nobody_before() {
    let whole = udp(1, 2, b"datagram");
    for from in DEVICES {
        let mut lab = pair_on([from, FULL]);
        let frames = sent(&mut lab, PARTIAL, &undone(b"datagram"));
        assert_eq!(FrameHeader::decode(&frames[0]).expect("a frame").0.kind, FrameType::PartialChecksum);
        assert_eq!(delivered(&mut lab, &frames), [(PARTIAL, undone(b"datagram"))]);
        let mut lab = pair_on([from, BARE]);
        let frames = sent(&mut lab, PARTIAL, &undone(b"datagram"));
        assert_eq!(delivered(&mut lab, &frames), [(Offload::NONE, whole.clone())]);
    }
}

#[test]
fn a_packet_that_came_with_a_checksum_keeps_it_however_wrong_it_is() {
    let mut wrong = udp(1, 2, b"datagram");
    wrong[27] ^= 1;
    // One that is wrong in just the way in which a partial one is.
    for packet in [udp(1, 2, b"datagram"), wrong, undone(b"datagram")] {
        for device in DEVICES {
            let mut lab = pair_on([FULL, device]);
            let frames = sent(&mut lab, Offload::NONE, &packet);
            assert_eq!(FrameHeader::decode(&frames[0]).expect("a frame").0.kind, FrameType::Plain);
            assert_eq!(delivered(&mut lab, &frames), [(Offload::NONE, packet.clone())]);
        }
    }
}

#[test]
fn a_type_rewritten_on_the_way_costs_the_packet_and_makes_no_checksum_right() {
    let mut lab = pair_on([FULL, FULL]);
    let mut wrong = udp(1, 2, b"datagram");
    wrong[27] ^= 1;
    for (dropped, packet) in [(1, udp(1, 2, b"datagram")), (2, wrong)] {
        let mut frames = sent(&mut lab, Offload::NONE, &packet);
        frames[0][TYPE] ^= 1;
        assert_eq!(delivered(&mut lab, &frames), []);
        assert_eq!(lab.drops(1, DropReason::NoPartialChecksum), dropped);
    }
    // The other way it reaches a kernel that has no reason to complete it, and finds it wrong.
    let mut frames = sent(&mut lab, PARTIAL, &undone(b"datagram"));
    frames[0][TYPE] ^= 1;
    assert_eq!(delivered(&mut lab, &frames), [(Offload::NONE, undone(b"datagram"))]);
    assert_eq!(lab.hosts[1].router.drops().total(), 2);
}

#[test]
fn nothing_but_a_packet_has_a_partial_checksum() {
    let mut lab = Lab::pair();
    lab.send_only(0, &udp(1, 2, b"hello"));
    let mut initiation = lab.wire.pop_front().expect("a handshake begins");
    initiation.bytes[TYPE] ^= 1;
    lab.arrive(&initiation);
    assert_eq!(lab.drops(1, DropReason::MalformedFrame), 1);
    assert!(lab.wire.is_empty() && lab.hosts[1].router.tunnel_count() == 0);
}

#[test]
fn what_waits_for_a_tunnel_leaves_complete() {
    let mut lab = Lab::pair();
    let now = lab.now;
    lab.feed(0, now, id(1), &mut Superpacket::new(PARTIAL, &mut undone(b"datagram")));
    lab.collect(0);
    lab.settle();
    assert_eq!(lab.got(1, 2), [udp(1, 2, b"datagram")]);
}

#[test]
fn of_a_packet_of_more_segments_than_a_turn_can_hold_the_rest_is_lost_and_counted() {
    let mut lab = pair_on([FULL, FULL]);
    let work = Offload { gso: Gso::Udp { segment_bytes: 1 }, ..PARTIAL };
    let frames = sent(&mut lab, work, &undone(&[7; 4000]));
    assert!((1000..4000).contains(&frames.len()), "{} frames", frames.len());
    assert!(lab.drops(0, DropReason::OutboxFull) > 0);
    let few = sent(&mut lab, work, &undone(&[7; SEGMENTS_MAX]));
    assert_eq!(few.len(), SEGMENTS_MAX, "the next one has a turn of its own");
}

/// A packet of container 1 for container 2, with work undone in it: most of them such as kernels make.
fn packet() -> impl Strategy<Value = (Offload, Vec<u8>)> {
    let odd = prop_oneof![3 => Just(0u8), 2 => 1u8..7];
    (any::<bool>(), 0usize..4, proptest::collection::vec(any::<u8>(), 0..4000), any::<bool>(), 1u16..1300, odd)
        .prop_map(|(tcp, options, payload, undone, segment_bytes, odd)| {
            let options = if odd == 1 { options * 4 } else { 0 };
            let payload = if undone { &payload[..] } else { &payload[..payload.len() % 1300] };
            let segment_bytes = segment_bytes.max(payload.len().div_ceil(SEGMENTS_MAX) as u16);
            let mut packet =
                vec![0x45 + (options / 4) as u8, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0];
            packet.extend_from_slice(&[address(1).octets(), address(2).octets()].concat());
            packet.resize(20 + options, 1);
            let start = packet.len();
            packet.extend_from_slice(&[0x10, 0, 0x20, 0]);
            if tcp {
                packet.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 1, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
            } else {
                let len = (8 + payload.len() as u16).to_be_bytes();
                packet.extend_from_slice(&[len[0], len[1], 0, 0]);
            }
            let headers_len = packet.len();
            packet.extend_from_slice(payload);
            let total = (packet.len() as u16).to_be_bytes();
            packet[2..4].copy_from_slice(&total);
            let place = (start as u16, if tcp { 16 } else { 6 });
            let gso = match tcp {
                _ if packet.len() <= 1300 => Gso::None,
                true => Gso::Tcp { segment_bytes, ecn: false },
                false => Gso::Udp { segment_bytes },
            };
            let sum = |from: &[u8], sum: u32| {
                let words =
                    from.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b)));
                let sum = words.sum::<u32>() + sum;
                let sum = (sum & 0xffff) + (sum >> 16);
                ((sum & 0xffff) + (sum >> 16)) as u16
            };
            let ip = !sum(&packet[..start], 0);
            packet[10..12].copy_from_slice(&ip.to_be_bytes());
            let pseudo_header = sum(&packet[12..20], u32::from(packet[9]) + (packet.len() - start) as u32);
            let at = start + usize::from(place.1);
            packet[at..at + 2].copy_from_slice(&pseudo_header.to_be_bytes());
            let mut work = Offload { gso, checksum: Some(place), headers_len: headers_len as u16 };
            if !undone {
                let sum = !sum(&packet[start..], 0);
                packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                work = Offload::NONE;
            }
            match odd {
                2 => packet[at] ^= 0x40,
                3 => packet[at..at + 2].fill(0),
                4 if gso == Gso::None => packet[6] = 0x20,
                5 => packet[11] ^= 1,
                6 => packet[9] = 1,
                _ => {}
            }
            (work, packet)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_devices_can_do_a_container_gets_what_another_has_sent(
        packets in proptest::collection::vec(packet(), 1..12), from in 0usize..3, to in 0usize..3,
    ) {
        let mut lab = pair_on([DEVICES[from], DEVICES[to]]);
        let mut frames = Vec::new();
        for (work, packet) in &packets {
            frames.extend(sent(&mut lab, *work, packet));
        }
        let expected: Vec<_> = packets.iter().flat_map(|(work, packet)| complete(*work, packet)).collect();
        let got = delivered(&mut lab, &frames);
        prop_assert!(DEVICES[to] != BARE || got.iter().all(|(work, _)| *work == Offload::NONE));
        let got: Vec<_> = got.iter().flat_map(|(work, packet)| complete(*work, packet)).collect();
        let sorted = |mut all: Vec<Vec<u8>>| {
            // The identification says nothing of a packet that may not be fragmented.
            for packet in all.iter_mut().filter(|packet| packet[6] & 0x40 != 0) {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
            all.sort();
            all
        };
        prop_assert_eq!(sorted(got), sorted(expected));
        prop_assert_eq!(lab.drops(1, DropReason::NoPartialChecksum), 0);
    }

    #[test]
    fn no_rewritten_type_gives_a_container_what_another_has_not_sent(
        packets in proptest::collection::vec((packet(), any::<bool>()), 1..12), to in 0usize..3,
    ) {
        let mut lab = pair_on([FULL, DEVICES[to]]);
        let mut allowed = Vec::new();
        for ((work, packet), rewritten) in &packets {
            let mut frames = sent(&mut lab, *work, packet);
            if *rewritten {
                frames.iter_mut().for_each(|frame| frame[TYPE] ^= 1);
            }
            allowed.extend(complete(*work, packet));
            for (work, packet) in delivered(&mut lab, &frames) {
                for mut packet in complete(work, &packet) {
                    // What is left undone by mistake is as it was but for its checksum, and that is wrong.
                    let known = allowed.contains(&packet) || {
                        prop_assert!(!transport_checksum_holds(&packet));
                        let start = usize::from(packet[0] & 0x0f) * 4;
                        let at = start + if packet[9] == 6 { 16 } else { 6 };
                        let blank = |packet: &mut Vec<u8>| packet[at..at + 2].fill(0);
                        blank(&mut packet);
                        allowed.iter().any(|sent| {
                            let mut sent = sent.clone();
                            sent.len() == packet.len() && {
                                blank(&mut sent);
                                sent == packet
                            }
                        })
                    };
                    prop_assert!(known);
                }
            }
        }
    }
}

fn transport_checksum_holds(packet: &[u8]) -> bool {
    let transport = &packet[usize::from(packet[0] & 0x0f) * 4..];
    let pseudo_header = [&packet[12..20], &[0, packet[9]], &(transport.len() as u16).to_be_bytes(), transport].concat();
    let words = pseudo_header.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

use super::*;
use crate::packet::{Gso, Superpacket, partial_checksum};
use proptest::prelude::*;

const ID: AttachmentId = AttachmentId([1; 8]);
const ALL: Accepts = Accepts { tcp: true, udp: true };

/// A packet as one of a few senders makes it: what is in `Sent` decides everything about it.
#[derive(Debug, Clone)]
struct Sent {
    flow: u8,
    udp: bool,
    /// As long as the flow's usual packet, or of this length.
    len: Option<u16>,
    /// Out of the ordinary in one of these ways.
    odd: Odd,
    /// Its checksum is left undone, where it can be.
    partial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Odd {
    No,
    Push,
    Flags(u8),
    Ecn(u8),
    Window(u16),
    Acknowledges(u32),
    Option(u8),
    Ttl(u8),
    Sequence(u32),
    Checksum(u16),
    NoChecksum,
    Fragment(u16),
    IpOptions,
    Icmp,
    MayFragment(u16),
}

fn odd() -> impl Strategy<Value = Odd> {
    prop_oneof![
        12 => Just(Odd::No),
        1 => Just(Odd::Push),
        1 => any::<u8>().prop_map(Odd::Flags),
        1 => (0u8..4).prop_map(Odd::Ecn),
        1 => any::<u16>().prop_map(Odd::Window),
        1 => any::<u32>().prop_map(Odd::Acknowledges),
        1 => any::<u8>().prop_map(Odd::Option),
        1 => any::<u8>().prop_map(Odd::Ttl),
        1 => any::<u32>().prop_map(Odd::Sequence),
        1 => (1u16..0xffff).prop_map(Odd::Checksum),
        1 => Just(Odd::NoChecksum),
        1 => any::<u16>().prop_map(Odd::Fragment),
        1 => Just(Odd::IpOptions),
        1 => Just(Odd::Icmp),
        1 => any::<u16>().prop_map(Odd::MayFragment),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    (0u8..3, any::<bool>(), proptest::option::weighted(0.2, 0u16..1300), odd(), any::<bool>())
        .prop_map(|(flow, udp, len, odd, partial)| Sent { flow, udp, len, odd, partial })
}

fn sum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// The packets that the senders make of it, one after another.
fn packets(all: &[Sent]) -> Vec<Vec<u8>> {
    let (mut sequence, mut identification) = ([u32::MAX - 3000; 6], [0xfff0u16; 6]);
    all.iter()
        .enumerate()
        .map(|(i, sent)| {
            let which = usize::from(sent.flow) * 2 + usize::from(sent.udp);
            let payload = vec![i as u8; usize::from(sent.len.unwrap_or(700 + u16::from(sent.flow)))];
            let ports = [0x10, sent.flow, 0x20, 0];
            let mut transport = ports.to_vec();
            if sent.udp {
                transport.extend_from_slice(&[((payload.len() + 8) >> 8) as u8, (payload.len() + 8) as u8, 0, 0]);
            } else {
                transport.extend_from_slice(&sequence[which].to_be_bytes());
                transport.extend_from_slice(&[0, 0, 0, 9, 0x80, 0x10, 0x20, 0, 0, 0, 0, 0]);
                transport.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
                sequence[which] = sequence[which].wrapping_add(payload.len() as u32);
                match sent.odd {
                    Odd::Push => transport[13] |= 8,
                    Odd::Flags(flags) => transport[13] = flags,
                    Odd::Window(window) => transport[14..16].copy_from_slice(&window.to_be_bytes()),
                    Odd::Acknowledges(number) => transport[8..12].copy_from_slice(&number.to_be_bytes()),
                    Odd::Sequence(number) => transport[4..8].copy_from_slice(&number.to_be_bytes()),
                    Odd::Option(byte) => transport[27] = byte,
                    _ => {}
                }
            }
            transport.extend_from_slice(&payload);
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, if sent.udp { 17 } else { 6 }, 0, 0];
            header.extend_from_slice(&[10, 240, 0, 1, 10, 240, 0, 2]);
            header[4..6].copy_from_slice(&identification[which].to_be_bytes());
            identification[which] = identification[which].wrapping_add(1);
            match sent.odd {
                Odd::Ecn(ecn) => header[1] = ecn,
                Odd::Ttl(ttl) => header[8] = ttl,
                Odd::Fragment(offset) => header[6..8].copy_from_slice(&(offset & 0x3fff).to_be_bytes()),
                Odd::Icmp => header[9] = 1,
                Odd::IpOptions => {
                    header[0] = 0x46;
                    header.extend_from_slice(&[1, 1, 1, 0]);
                }
                Odd::MayFragment(number) => {
                    header[4..6].copy_from_slice(&number.to_be_bytes());
                    header[6] = 0;
                }
                _ => {}
            }
            let len = (header.len() + transport.len()) as u16;
            header[2..4].copy_from_slice(&len.to_be_bytes());
            let checksum = sum(&[&header]);
            header[10..12].copy_from_slice(&checksum);
            let length = (transport.len() as u16).to_be_bytes();
            let mut checksum = sum(&[&header[12..20], &[0, if sent.udp { 17 } else { 6 }], &length, &transport]);
            match sent.odd {
                Odd::Checksum(wrong) => checksum = (u16::from_be_bytes(checksum) ^ wrong).to_be_bytes(),
                Odd::NoChecksum => checksum = [0, 0],
                _ if sent.udp && checksum == [0, 0] => checksum = [0xff, 0xff],
                _ => {}
            }
            let at = if sent.udp { 6 } else { 16 };
            transport[at..at + 2].copy_from_slice(&checksum);
            [header, transport].concat()
        })
        .collect()
}

/// What the kernel makes of everything that the arena holds.
fn cut(arena: &mut DeviceArena) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some((_, _, gather)) = arena.poll() {
        let (offload, mut bytes) = (gather.offload(), gather.to_vec());
        let mut superpacket = Superpacket::new(offload, &mut bytes);
        let mut segments = superpacket.segments().expect("the kernel takes it");
        let mut cut = Vec::new();
        while let Some(segment) = segments.next() {
            cut.push(segment.to_vec());
        }
        all.push(cut);
    }
    all
}

fn fill(arena: &mut DeviceArena, packets: &[Vec<u8>], accepts: Accepts) {
    for packet in packets {
        arena.spare()[..packet.len()].copy_from_slice(packet);
        arena.commit(ID, accepts, Offload::NONE, packet.len());
    }
}

/// The packet with its checksum left undone; `None` where it has none, or not a right one.
fn left_undone(sent: &Sent, packet: &[u8]) -> Option<(Vec<u8>, Offload)> {
    if !sent.partial || matches!(sent.odd, Odd::Checksum(_) | Odd::NoChecksum) {
        return None;
    }
    let (mut packet, start) = (packet.to_vec(), usize::from(packet[0] & 0x0f) * 4);
    let [high, low] = ((packet.len() - start) as u16).to_be_bytes();
    let [a, b] = sum(&[&packet[12..20], &[0, packet[9], high, low]]);
    let at = start + if sent.udp { 6 } else { 16 };
    packet[at..at + 2].copy_from_slice(&[!a, !b]);
    let work = partial_checksum(&Ipv4View::parse(&packet).expect("a packet"))?;
    Some((packet, work))
}

/// What a receiver can tell of a packet: all of it, but for the identification where it means nothing.
fn seen(packet: &[u8]) -> Vec<u8> {
    let mut seen = packet.to_vec();
    if packet[6] & 0x40 != 0 {
        seen[4..6].fill(0);
        seen[10..12].fill(0);
    }
    seen
}

/// The packets of each flow, in order: flows may overtake each other.
fn by_flow(packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let flows = (0..6).map(|flow| (flow / 2, if flow % 2 == 0 { 6 } else { 17 }));
    flows
        .map(|(flow, protocol)| {
            packets.iter().filter(|p| p[0] == 0x45 && p[9] == protocol && p[21] == flow).map(|p| seen(p)).collect()
        })
        .collect()
}

proptest! {
    #[test]
    fn joined_and_cut_again_every_packet_is_what_it_was(all in proptest::collection::vec(sent(), 1..150), udp: bool) {
        let packets = packets(&all);
        let (mut arena, accepts) = (DeviceArena::new(), Accepts { tcp: true, udp });
        for (sent, packet) in all.iter().zip(&packets) {
            let (packet, work) = left_undone(sent, packet).unwrap_or((packet.clone(), Offload::NONE));
            arena.spare()[..packet.len()].copy_from_slice(&packet);
            arena.commit(ID, accepts, work, packet.len());
        }
        let again: Vec<_> = cut(&mut arena).concat();
        prop_assert!(by_flow(&again) == by_flow(&packets));
        let sorted = |packets: &[Vec<u8>]| {
            let mut all: Vec<_> = packets.iter().map(|packet| seen(packet)).collect();
            all.sort();
            all
        };
        prop_assert!(sorted(&again) == sorted(&packets));
    }

    #[test]
    fn no_bytes_make_it_panic_or_lose_a_packet(
        all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 28..90), 1..60),
    ) {
        let packets: Vec<Vec<u8>> = all
            .into_iter()
            .map(|mut packet| {
                let len = packet.len() as u16;
                (packet[0], packet[9]) = (0x45, if packet[9] & 1 == 0 { 6 } else { 17 });
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet
            })
            .collect();
        let mut arena = DeviceArena::new();
        fill(&mut arena, &packets, ALL);
        prop_assert_eq!(cut(&mut arena).concat().len(), packets.len());
    }
}

fn plain(flow: u8, udp: bool) -> Sent {
    Sent { flow, udp, len: None, odd: Odd::No, partial: false }
}

#[test]
fn a_stream_becomes_one_superpacket_however_other_flows_come_between() {
    let mut arena = DeviceArena::new();
    let all: Vec<_> = (0..60).map(|i| plain(i % 3, i % 2 == 0)).collect();
    fill(&mut arena, &packets(&all), ALL);
    assert_eq!(cut(&mut arena).iter().map(Vec::len).collect::<Vec<_>>(), [10; 6]);
}

#[test]
fn a_pushed_or_shorter_segment_ends_a_superpacket_and_belongs_to_it() {
    let mut arena = DeviceArena::new();
    let push = Sent { odd: Odd::Push, ..plain(0, false) };
    let short = Sent { len: Some(10), ..plain(0, false) };
    let all = [plain(0, false), push, plain(0, false), plain(0, false), short, plain(0, false)];
    fill(&mut arena, &packets(&all), ALL);
    assert_eq!(cut(&mut arena).iter().map(Vec::len).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn a_datagram_without_payload_is_not_lost_and_keeps_its_place() {
    let mut arena = DeviceArena::new();
    let empty = Sent { len: Some(0), ..plain(0, true) };
    let packets = packets(&[plain(0, true), plain(0, true), empty, plain(0, true)]);
    fill(&mut arena, &packets, ALL);
    let again = cut(&mut arena);
    assert_eq!(again.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(again[1][0], packets[2]);
}

#[test]
fn a_device_without_udp_segmentation_gets_datagrams_one_by_one_and_one_without_any_gets_packets() {
    let all: Vec<_> = (0..12).map(|i| plain(0, i % 2 == 0)).collect();
    for (tcp, udp, count) in [(true, true, 2), (true, false, 7), (false, false, 12)] {
        let mut arena = DeviceArena::new();
        fill(&mut arena, &packets(&all), Accepts { tcp, udp });
        assert_eq!(cut(&mut arena).len(), count);
    }
}

#[test]
fn packets_whose_checksums_are_left_undone_are_joined_with_each_other_and_with_those_that_are_right() {
    for wrong in [None, Some(3)] {
        let mut arena = DeviceArena::new();
        let odd = |i| if wrong == Some(i) { Odd::Checksum(1) } else { Odd::No };
        let all: Vec<_> = (0..8).map(|i| Sent { odd: odd(i), partial: i % 3 != 0, ..plain(0, false) }).collect();
        let packets = packets(&all);
        for (sent, packet) in all.iter().zip(&packets) {
            let (packet, work) = left_undone(sent, packet).unwrap_or((packet.clone(), Offload::NONE));
            arena.spare()[..packet.len()].copy_from_slice(&packet);
            arena.commit(ID, ALL, work, packet.len());
        }
        let again = cut(&mut arena);
        assert_eq!(
            again.iter().map(Vec::len).collect::<Vec<_>>(),
            if wrong.is_none() { vec![8] } else { vec![3, 1, 4] }
        );
        assert!(again.concat().iter().zip(&packets).all(|(again, packet)| seen(again) == seen(packet)));
    }
}

#[test]
fn a_lone_packet_keeps_its_work_undone() {
    let mut arena = DeviceArena::new();
    let sent = Sent { partial: true, ..plain(0, true) };
    let (packet, work) = left_undone(&sent, &packets(std::slice::from_ref(&sent))[0]).expect("it can be");
    arena.spare()[..packet.len()].copy_from_slice(&packet);
    arena.commit(ID, ALL, work, packet.len());
    let (_, _, gather) = arena.poll().expect("one");
    assert_eq!((gather.offload(), gather.to_vec()), (work, packet));
    assert_eq!((work.gso, work.checksum), (Gso::None, Some((20, 6))));
}

#[test]
fn packets_for_different_devices_are_never_joined() {
    let mut arena = DeviceArena::new();
    for (i, packet) in packets(&[plain(0, false), plain(0, false)]).iter().enumerate() {
        arena.spare()[..packet.len()].copy_from_slice(packet);
        arena.commit(AttachmentId([i as u8; 8]), ALL, Offload::NONE, packet.len());
    }
    assert_eq!(cut(&mut arena).len(), 2);
}

#[test]
fn a_superpacket_is_no_longer_than_ipv4_allows_and_the_next_goes_on() {
    let mut arena = DeviceArena::new();
    fill(&mut arena, &packets(&vec![plain(0, false); 200]), ALL);
    let mut lengths = Vec::new();
    while let Some((_, _, gather)) = arena.poll() {
        assert_eq!(gather.offload().gso, Gso::Tcp { segment_bytes: 700, ecn: false });
        lengths.push(gather.len());
    }
    assert_eq!(lengths, [52 + 93 * 700, 52 + 93 * 700, 52 + 14 * 700]);
}

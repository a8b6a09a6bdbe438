//! Whatever comes from the wire or a container: no panic, nothing delivered that nobody sent, nothing that grows.

use proptest::prelude::*;

use super::*;
use crate::packet::Offload;

/// A lab with an open tunnel, and every frame that its opening took.
fn recorded() -> (Lab, Vec<Datagram>) {
    let mut lab = Lab::pair();
    lab.send(0, &udp(1, 2, b"open"));
    lab.send(1, &udp(2, 1, b"open"));
    lab.got(0, 1);
    lab.got(1, 2);
    let sent = lab.sent.clone();
    (lab, sent)
}

#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Extend(usize, u8),
    Header([u8; 8]),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 1u8..).prop_map(|(at, bits)| Change::Flip(at, bits)),
        any::<usize>().prop_map(Change::Cut),
        (1usize..2000, any::<u8>()).prop_map(|(len, byte)| Change::Extend(len, byte)),
        any::<[u8; 8]>().prop_map(Change::Header),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Flip(at, bits) => {
            let at = at % bytes.len();
            bytes[at] ^= bits;
        }
        Change::Cut(len) => bytes.truncate(len % bytes.len() + 1),
        Change::Extend(len, byte) => bytes.resize(bytes.len() + len, *byte),
        Change::Header(header) => {
            let len = bytes.len().min(8);
            bytes[..len].copy_from_slice(&header[..len]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn mutated_frames_deliver_nothing_and_leave_the_tunnel_alone(
        changes in proptest::collection::vec((any::<usize>(), change()), 1..40),
    ) {
        let (mut lab, frames) = recorded();
        for (which, change) in &changes {
            let mut datagram = frames[which % frames.len()].clone();
            apply(&mut datagram.bytes, change);
            lab.arrive(&datagram);
        }
        lab.settle();
        prop_assert!(lab.got(0, 1).is_empty() && lab.got(1, 2).is_empty());
        prop_assert!((0..2).all(|host| lab.hosts[host].router.tunnel_count() == 1));
        lab.send(0, &udp(1, 2, b"alive"));
        prop_assert_eq!(lab.got(1, 2), [udp(1, 2, b"alive")]);
    }

    #[test]
    fn random_datagrams_of_any_first_byte_are_counted_and_answered_by_nothing(
        datagrams in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..60),
    ) {
        let (mut lab, _) = recorded();
        let before = lab.sent.len();
        for (bytes, frame) in &datagrams {
            let mut bytes = bytes.clone();
            if *frame && bytes.len() >= 12 {
                bytes[..2].copy_from_slice(&[0x08, 0x10]);
                bytes[9..12].fill(0);
            }
            lab.arrive(&Datagram { from: endpoint(0), to: endpoint(1), bytes });
        }
        prop_assert!(lab.got(1, 2).is_empty());
        prop_assert_eq!(lab.sent.len(), before);
        prop_assert_eq!(lab.hosts[1].router.drops().total(), datagrams.len() as u64);
        prop_assert_eq!(lab.hosts[1].router.tunnel_count(), 1);
    }

    #[test]
    fn whatever_a_container_sends_leaves_with_its_own_source_or_not_at_all(
        packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..120), any::<[u8; 10]>(), any::<u8>()), 1..40),
    ) {
        let mut lab = Lab::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 3, 0, 0), Listed(GREEN, 2, 1, 0)]);
        lab.send(0, &udp(1, 2, b"open"));
        lab.got(1, 2);
        let now = lab.now;
        for (bytes, header, kind) in &packets {
            let mut bytes = bytes.clone();
            if bytes.len() >= 28 {
                let len = bytes.len() as u16;
                bytes[0] = 0x45 + (kind & 1);
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[9] = if kind & 2 == 0 { 6 } else { 17 };
                bytes[12..16].copy_from_slice(&address(1).octets());
                bytes[16..20].copy_from_slice(&address(if kind & 4 == 0 { 2 } else { 3 }).octets());
            }
            lab.feed(0, now, id(1), &mut Superpacket::new(Offload::decode(header), &mut bytes));
            lab.collect(0);
        }
        lab.settle();
        for packet in lab.got(1, 2).iter().chain(&lab.got(0, 3)) {
            prop_assert_eq!(&packet[12..16], &address(1).octets());
        }
        prop_assert_eq!(lab.hosts[0].router.tunnel_count(), 1);
    }
}

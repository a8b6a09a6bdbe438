//! Back-pressure between nodes: who pauses, for how long, and who cannot make anybody pause.

use super::*;
use crate::packet::write_quench;

const PACKET: [u8; 1300] = [7; 1300];

/// What host 1 received in one go, with so much left in its socket.
fn intake(queued_bytes: usize) -> Option<Intake> {
    Some(Intake { received_bytes: 64 << 10, took: Duration::from_micros(100), queued_bytes })
}

fn is_paused(lab: &Lab, host: usize, from: u8, to: u8) -> bool {
    let mut packet = udp(from, to, b"next");
    lab.hosts[host].router.is_paused(lab.now, id(from), &Superpacket::complete(&mut packet))
}

/// Container 1 of host 0 has sent 20 packets to container 2 of host 1, and there is container 3 on host 2.
fn bulk() -> Lab {
    let mut lab = Lab::new(3, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0), Listed(GREEN, 3, 2, 0)]);
    lab.send(0, &udp(1, 3, b"open"));
    (0..20).for_each(|_| lab.send(0, &udp(1, 2, &PACKET)));
    assert_eq!((lab.got(1, 2).len(), lab.got(2, 3).len()), (20, 1));
    lab
}

#[test]
fn a_node_whose_socket_fills_up_has_its_senders_pause_and_nobody_else() {
    let mut lab = bulk();
    let sent = lab.sent.len();
    lab.hosts[1].router.handle_intake(intake(1 << 20));
    lab.collect(1);
    assert_eq!(lab.sent.len(), sent + 1);
    lab.settle();
    assert!(is_paused(&lab, 0, 1, 2));
    assert!(!is_paused(&lab, 0, 1, 3));
    assert_eq!(lab.hosts[0].router.drops().total(), 0);
    assert_eq!(lab.hosts[1].router.pauses(), Pauses { asked_for: 1, kept: 0 });
    assert_eq!(lab.hosts[0].router.pauses(), Pauses { asked_for: 0, kept: 1 });
    // The container hears nothing of it.
    assert!(lab.got(0, 1).is_empty());

    // 960 KiB above the low mark, at 100 us for 64 KiB.
    let resume = lab.hosts[0].router.next_resume(lab.now).expect("a pause");
    assert_eq!((resume - lab.now).as_micros(), 1500);
    lab.now = resume;
    assert!(!is_paused(&lab, 0, 1, 2));
    assert_eq!(lab.hosts[0].router.next_resume(lab.now), None);
}

#[test]
fn a_socket_that_is_emptied_in_time_has_nobody_pause_nor_does_a_small_sender() {
    let mut lab = bulk();
    let sent = lab.sent.len();
    lab.hosts[1].router.handle_intake(intake(100 << 10));
    // What was received before counts no more.
    lab.hosts[1].router.handle_intake(intake(1 << 20));
    (0..10).for_each(|_| lab.send(0, &udp(1, 2, &PACKET)));
    lab.hosts[1].router.handle_intake(intake(1 << 20));
    lab.collect(1);
    assert_eq!(lab.sent.len(), sent + 10);
}

#[test]
fn what_came_a_little_at_a_time_makes_nobody_a_large_sender() {
    let mut lab = bulk();
    lab.hosts[1].router.handle_intake(None);
    for _ in 0..20 {
        lab.send(0, &udp(1, 2, &PACKET));
        lab.hosts[1].router.handle_intake(None);
    }
    let sent = lab.sent.len();
    lab.hosts[1].router.handle_intake(intake(1 << 20));
    lab.collect(1);
    assert_eq!(lab.sent.len(), sent);
}

#[test]
fn no_pause_is_longer_than_five_milliseconds_whatever_a_node_asks_for() {
    let mut lab = bulk();
    let slow = Intake { took: Duration::from_secs(3), ..intake(1 << 30).expect("there is one") };
    lab.hosts[1].router.handle_intake(Some(slow));
    lab.collect(1);
    lab.settle();
    let resume = lab.hosts[0].router.next_resume(lab.now).expect("a pause");
    assert_eq!(resume - lab.now, Duration::from_millis(5));
}

#[test]
fn a_container_can_ask_nobody_to_pause() {
    let mut lab = bulk();
    lab.send_as(1, id(2), &write_quench(address(1), Duration::from_millis(5)));
    assert_eq!(lab.drops(1, DropReason::SpoofedSource), 1);
    assert!(!is_paused(&lab, 0, 1, 2));
}

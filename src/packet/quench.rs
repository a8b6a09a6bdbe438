//! A node's request to another to pause: an ICMP source quench (RFC 792) from node to node, inside of a tunnel.
//!
//! Hosts have not listened to source quench since RFC 6633, because anybody could send one and it said nothing of how long.
//! This one comes through a tunnel, from the resolver's address, which no container can send from, and names the time.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::checksum::Sum;
use super::ipv4::{self, IPV4_HEADER_LEN, Ipv4View, Protocol};
use crate::model::RESOLVER;

/// Header, type, code, checksum, and the time in microseconds, 32 bits, where RFC 792 has unused ones.
const QUENCH_LEN: usize = IPV4_HEADER_LEN + 8;
const SOURCE_QUENCH: u8 = 4;

/// Writes the request to the node of the container `to`.
pub fn write_quench(to: Ipv4Addr, pause: Duration) -> [u8; QUENCH_LEN] {
    let mut out = [0; QUENCH_LEN];
    ipv4::write_header(&mut out, RESOLVER, to, Protocol::Icmp, QUENCH_LEN);
    let message = &mut out[IPV4_HEADER_LEN..];
    message[0] = SOURCE_QUENCH;
    message[4..].copy_from_slice(&u32::try_from(pause.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
    let sum = Sum::default().add(message).finish();
    message[2..4].copy_from_slice(&sum);
    out
}

/// For how long a packet that came through a tunnel asks to pause; `None` if it is something else.
pub fn read_quench(packet: &Ipv4View<'_>) -> Option<Duration> {
    if packet.source() != RESOLVER || packet.protocol() != Protocol::Icmp || packet.is_fragment() {
        return None;
    }
    let message: &[u8; 8] = packet.payload().try_into().ok()?;
    let [SOURCE_QUENCH, 0, _, _, time @ ..] = *message else { return None };
    let intact = Sum::default().add(message).finish() == [0, 0];
    intact.then(|| Duration::from_micros(u32::from_be_bytes(time).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 7);

    proptest! {
        #[test]
        fn a_pause_is_read_as_it_was_written_and_no_other_byte_is_taken_for_one(
            micros: u32, at in 0..QUENCH_LEN, change in 1..=255u8,
        ) {
            let mut bytes = write_quench(CONTAINER, Duration::from_micros(micros.into()));
            let view = Ipv4View::parse(&bytes).expect("a packet");
            prop_assert_eq!(view.destination(), CONTAINER);
            prop_assert_eq!(read_quench(&view), Some(Duration::from_micros(micros.into())));
            bytes[at] ^= change;
            // The IP header's other fields (identification, TTL, its checksum, the destination) say nothing about it.
            if at >= IPV4_HEADER_LEN || (12..16).contains(&at) || at == 9 {
                prop_assert_eq!(Ipv4View::parse(&bytes).ok().and_then(|view| read_quench(&view)), None);
            }
        }
    }

    #[test]
    fn a_longer_time_than_can_be_written_is_the_longest() {
        let bytes = write_quench(CONTAINER, Duration::MAX);
        let view = Ipv4View::parse(&bytes).expect("a packet");
        assert_eq!(read_quench(&view), Some(Duration::from_micros(u32::MAX.into())));
    }
}

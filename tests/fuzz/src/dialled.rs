//! What a container answers to a gateway that dials it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use peerd::netstack::{Dialler, DiallerConfig, StreamId, StreamState};

const MTU: u16 = 1408;
const STREAMS_MAX: usize = 4;
/// Longer than this no stream lingers, and no end is waited for.
const PATIENCE: Duration = Duration::from_secs(200);

/// A dialler that has asked 10.240.0.7:80 for a stream: always with the same numbers.
pub fn dialling() -> (Dialler, Instant, StreamId, Vec<u8>) {
    #[allow(clippy::disallowed_methods)] // A machine has to begin somewhere.
    let now = Instant::now();
    let config = DiallerConfig {
        address: Ipv4Addr::new(169, 254, 241, 7),
        mtu_bytes: MTU,
        streams_max: STREAMS_MAX,
        buffers_bytes_max: 1 << 20,
    };
    let mut dialler = Dialler::new(config, now, 1);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 7), 80);
    let id = dialler.dial(now, to).expect("there is room");
    let syn = dialler.poll_packet(now).expect("it asks").bytes().to_vec();
    (dialler, now, id, syn)
}

/// Packets from the network, each behind one byte of length. Whether the stream was opened.
pub fn dialled(mut bytes: &[u8]) -> bool {
    let (mut dialler, mut now, id, _) = dialling();
    let mut opened = false;
    while let Some((len, rest)) = bytes.split_first() {
        let (packet, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        if let Some(datagram) = dialler.handle_packet(now, packet) {
            assert!(datagram.payload.len() <= packet.len(), "more than has come");
        }
        while let Some(changed) = dialler.poll_changed() {
            assert!(dialler.state(changed).is_some(), "a stream is named that is not there");
        }
        opened |= dialler.state(id) == Some(StreamState::Open);
        if let Some(mut stream) = dialler.stream(id) {
            let mut read = [0; 64];
            let len = stream.read(&mut read);
            stream.write(&read[..len]);
        }
        drain(&mut dialler, now);
        assert!(dialler.stream_count() <= STREAMS_MAX, "streams are bounded");
        now += Duration::from_millis(100);
        dialler.handle_timeout(now);
        bytes = rest;
    }
    // Whatever was said, a stream that nobody wants goes.
    dialler.release(now, id);
    let end = now + PATIENCE;
    while now < end {
        drain(&mut dialler, now);
        now = dialler.next_timeout().map_or(end, |at| at.clamp(now, end));
        dialler.handle_timeout(now);
    }
    drain(&mut dialler, now);
    assert_eq!((dialler.stream_count(), dialler.buffers_bytes()), (0, 0), "a released stream stays");
    opened
}

fn drain(dialler: &mut Dialler, now: Instant) {
    for count in 0.. {
        assert!(count < 1000, "it sends without end");
        let Some(packet) = dialler.poll_packet(now) else { return };
        let longest = packet.check().expect("what goes out can be cut");
        assert!(longest <= usize::from(MTU), "a segment is longer than the MTU");
    }
}

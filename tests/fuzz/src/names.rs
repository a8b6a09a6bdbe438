//! What the resolver reads beside queries: segments of a container's TCP, and what upstreams answer.

use std::time::{Duration, Instant};

use peerd::dns::{Foreign, Found, Transport};
use peerd::model::RESOLVER;
use peerd::netstack::{Config, Stack};

/// Packets for the resolver's TCP, each behind one byte of length. Whether a stream has begun.
pub fn tcp(mut bytes: &[u8]) -> bool {
    const STREAMS_MAX: usize = 4;
    let config = Config {
        address: RESOLVER,
        port: 53,
        mtu_bytes: 1408,
        streams_max: STREAMS_MAX,
        recv_buffer_len: 512,
        send_buffer_len: 512,
        idle_timeout: Duration::from_secs(10),
    };
    #[allow(clippy::disallowed_methods)] // A machine has to begin somewhere.
    let mut now = Instant::now();
    let (mut stack, mut begun) = (Stack::new(config, now, 1), false);
    while let Some((len, rest)) = bytes.split_first() {
        let (packet, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        stack.handle_packet(now, packet, true);
        let ids: Vec<_> = stack.streams().collect();
        for id in ids {
            if let Some(mut stream) = stack.stream(id) {
                let mut read = [0; 64];
                let len = stream.read(&mut read);
                stream.write(&read[..len]);
            }
        }
        stack.flush(now);
        while let Some(packet) = stack.poll_packet() {
            assert!(packet.len() <= 1408, "a packet is longer than the MTU");
        }
        begun |= stack.stream_count() > 0;
        assert!(stack.stream_count() <= STREAMS_MAX, "streams are bounded");
        now += Duration::from_millis(100);
        bytes = rest;
    }
    begun
}

/// What an upstream says to a question for `www.example.org` with the id 1; an answer is told to a caller in bounds.
pub fn upstream(bytes: &[u8]) -> bool {
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01";
    let mut taken = false;
    for (transport, limit) in [(Transport::Udp, 512), (Transport::Tcp, 65_535)] {
        let question = Foreign::decode(QUERY, transport).expect("a question");
        if let Ok(found) = Found::decode(bytes, 1, &question) {
            taken = true;
            assert!(question.reply(&found, found.ttl_s()).len() <= limit, "an answer is too long for its caller");
        }
    }
    taken
}

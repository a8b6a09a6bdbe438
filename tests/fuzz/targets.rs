//! What the fuzzers feed: one function for each place where foreign bytes are read.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz NAME` looks for more; `tests/corpora.rs` replays what is committed below
//! `corpus/NAME/` on every run of the tests.

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use peerd::control::{Frame, Request, decode_line};
use peerd::dns::{Caller, Foreign, Found, Resolver, Transport};
use peerd::gossip::store::FileKind;
use peerd::gossip::{self, Gossip, Identity, MessageVerifier, Stored, Token};
use peerd::membership::body::Body;
use peerd::membership::{Membership, Network, Verified, Verifier};
use peerd::model::{AttachmentId, ClusterId, Label, NetworkId, NodeId, RESOLVER, Vni};
use peerd::netstack::{Config, Stack};
use peerd::packet::{Batch, FrameHeader, Ipv4View, Offload, Superpacket, UdpView, runs};
use rand_core::SeedableRng;

/// A name and what is fed under it.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("datagram", datagram),
    ("frame", frame),
    ("inner_ip", inner_ip),
    ("record", record),
    ("message", message),
    ("token", token),
    ("dns", dns),
    ("control", control),
    ("state_file", state_file),
    ("tcp", tcp),
];

/// A received buffer; its first byte is the length of its segments.
pub fn datagram(bytes: &[u8]) {
    let Some((len, bytes)) = bytes.split_first() else { return };
    let segment_len = usize::from(*len).max(1);
    let segments: usize = runs(Batch::new(bytes, segment_len)).map(|(_, run)| run.count()).sum();
    // A datagram of no bytes is one too.
    assert_eq!(segments, bytes.len().div_ceil(segment_len).max(1));
}

pub fn frame(bytes: &[u8]) {
    if let Ok((_, message)) = FrameHeader::decode(bytes) {
        assert!(message.len() < bytes.len());
    }
}

/// A packet of a device behind its virtio-net header.
pub fn inner_ip(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk() else { return };
    if let Ok(view) = Ipv4View::parse(packet) {
        let _ = UdpView::parse(&view);
    }
    let mut packet = packet.to_vec();
    let mut superpacket = Superpacket::new(Offload::decode(header), &mut packet);
    if let Ok(mut segments) = superpacket.segments() {
        while let Some(segment) = segments.next() {
            Ipv4View::parse(segment).expect("a segment is a packet");
        }
    }
}

/// A signed record, its signature taken for good so that what is in it is read too.
pub fn record(bytes: &[u8]) {
    let mut verifier = Verifier::of_own_store(ClusterId([0; 32]));
    if let Ok(record) = minicbor::decode_with::<_, Verified>(bytes, &mut verifier) {
        let _: &Body = record.body();
    }
}

/// A message between nodes: hello, join, sync and the others.
pub fn message(bytes: &[u8]) {
    static VERIFIER: LazyLock<MessageVerifier> = LazyLock::new(|| {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let (identity, _) = Identity::load_or_make(&Stored::empty(), &mut rng).expect("a new identity");
        let config = gossip::Config { name: label("node"), endpoints: Vec::new() };
        let gossip = Gossip::new(identity, &Stored::empty(), config, now(), 0, [0; 32]).expect("nothing is stored");
        gossip.verifier()
    });
    let _ = VERIFIER.verify(bytes);
}

pub fn token(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = text.parse::<Token>();
    }
}

/// A query of a container, and the same bytes as an upstream's answer.
pub fn dns(bytes: &[u8]) {
    static MEMBERSHIP: LazyLock<Membership> = LazyLock::new(|| {
        let network = Network::new(network_id(), Vni::try_from(1).expect("a VNI"), NodeId([1; 32]));
        Membership::new(ClusterId([0; 32]), [], [network])
    });
    let attachment = AttachmentId([1; 8]);
    let (address, app) = (Ipv4Addr::new(10, 240, 0, 1), label("shop"));
    let caller = Caller { network: network_id(), attachment, address, app, version: None };
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut out = Vec::new();
        Resolver::new().answer(&MEMBERSHIP, &caller, bytes, transport, &mut out);
        assert!(transport == Transport::Tcp || out.len() <= 1232);
        let Some(foreign) = Foreign::decode(bytes, transport) else { continue };
        assert!(!foreign.upstream_query(1).is_empty() && !foreign.failure().is_empty());
        if let Ok(found) = Found::decode(bytes, 1, &foreign) {
            foreign.reply(&found, found.ttl_s());
        }
    }
}

pub fn control(bytes: &[u8]) {
    let _ = decode_line::<Request>(bytes);
    let _ = decode_line::<Frame>(bytes);
}

/// A file of the state folder, in the place of each of them.
pub fn state_file(bytes: &[u8]) {
    let mut stored = Stored::empty();
    stored.insert("node.key".to_owned(), bytes.to_vec());
    for kind in [FileKind::NodeKey, FileKind::Cluster, FileKind::OwnLog, FileKind::ForeignLog, FileKind::Secrets] {
        let _ = stored.open("node.key", kind);
    }
    let _ = Identity::load_or_make(&stored, &mut rand_chacha::ChaCha20Rng::seed_from_u64(1));
}

/// Packets for the resolver's TCP, each behind one byte of length.
pub fn tcp(mut bytes: &[u8]) {
    let config = Config {
        address: RESOLVER,
        port: 53,
        mtu_bytes: 1408,
        streams_max: 4,
        recv_buffer_len: 512,
        send_buffer_len: 512,
        idle_timeout: std::time::Duration::from_secs(10),
    };
    let mut stack = Stack::new(config, now(), 1);
    while let Some((len, rest)) = bytes.split_first() {
        let (packet, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        stack.handle_packet(now(), packet, true);
        stack.flush(now());
        while stack.poll_packet().is_some() {}
        assert!(stack.stream_count() <= 4);
        bytes = rest;
    }
}

fn now() -> Instant {
    static NOW: LazyLock<Arc<Instant>> = LazyLock::new(|| {
        #[allow(clippy::disallowed_methods)]
        Arc::new(Instant::now())
    });
    **NOW
}

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

fn network_id() -> NetworkId {
    "pn-a".parse().expect("an id")
}

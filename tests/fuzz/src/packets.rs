//! Packets: what comes to the port, what a container sends, what it asks the resolver.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use peerd::dns::{Caller, Outcome, Resolver, Transport};
use peerd::membership::{Container, Membership, Network, Node, Role, State};
use peerd::model::{
    AppDef, AttachmentId, Boot, ClusterId, Generation, LoadBalancing, NetworkSecret, NodeId, PortDef, Rev, ServiceDef,
    Vni, WgSecret,
};
use peerd::packet::{
    Batch, FrameHeader, Gather, OFFLOAD_HEADER_LEN, Offload, Superpacket, UDP_HEADERS_LEN, runs, write_udp,
};
use peerd::router::{AttachmentSpec, Config, DeviceKind, Output, Router};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::cluster::start;

const VNI: u32 = 0x01_00_07;
/// Containers 1 and 3 are on the first host, 2 is on the second.
const HOST_OF: [(u8, usize); 3] = [(1, 0), (3, 0), (2, 1)];

fn vni() -> Vni {
    Vni::try_from(VNI).expect("a VNI")
}

fn secret(last: u8) -> WgSecret {
    WgSecret::random(&mut ChaCha20Rng::from_seed([last; 32]))
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, last)
}

fn node(host: usize) -> NodeId {
    NodeId([host as u8 + 1; 32])
}

fn endpoint(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 51790))
}

fn membership() -> Membership {
    let mut network = Network::new("pn-green".parse().expect("an id"), vni(), node(0));
    network.grants = (0..2).map(|host| (node(host), Role::Host)).collect();
    for (last, host) in HOST_OF {
        network.insert_container(Arc::new(Container {
            id: AttachmentId([last; 8]),
            node: node(host),
            address: address(last),
            app: "shop".parse().expect("a label"),
            kind: "web".parse().expect("a label"),
            number: u32::from(last),
            version: None,
            service: "web".parse().expect("a label"),
            server: None,
            public_key: secret(last).public(),
            state: State::Ready,
            rev: Rev(1),
        }));
    }
    let mut def =
        AppDef { namespace: "backoffice".parse().expect("a label"), ..AppDef::new("shop".parse().expect("a label")) };
    let port = PortDef {
        container: NonZeroU16::MIN,
        http: Some(NonZeroU16::MAX),
        https: None,
        tcp: None,
        udp: None,
        name: Some("admin".parse().expect("a label")),
    };
    let sticky = ServiceDef { ports: vec![port], load_balancing: LoadBalancing::Sticky, ..ServiceDef::default() };
    def.services.insert("web".parse().expect("a label"), sticky);
    network.define_app((Rev(1), node(0)), Rev(1), Arc::new(def));
    network.deploy("shop".parse().expect("a label"), "v1".to_owned(), (Rev(1), node(0)));
    let nodes = (0..2).map(|host| Node {
        id: node(host),
        name: format!("node-{host}").parse().expect("a label"),
        endpoints: vec![endpoint(host)],
        boot: Boot(1),
        signer: None,
    });
    Membership::new(ClusterId([9; 32]), nodes, [network])
}

/// Two routers that know each other's containers, and the time.
pub fn pair_of_routers() -> ([Router; 2], Instant) {
    let (now, view) = (start(), Arc::new(membership()));
    let routers = [0, 1].map(|host| {
        let mut router = Router::new(Config::default(), [host as u8; 32]);
        router.set_node(node(host));
        router.set_membership(now, view.clone());
        router.set_network_keys(now, vni(), vec![(Generation(1), NetworkSecret::from_bytes([1; 32]).psk(vni()))]);
        for (last, _) in HOST_OF.iter().filter(|(_, at)| *at == host) {
            let spec = AttachmentSpec {
                id: AttachmentId([*last; 8]),
                vni: vni(),
                address: address(*last),
                secret: secret(*last),
                mtu_bytes: 1408,
                device: DeviceKind::Tun { offload: true, uso: true },
            };
            router.attach(now, spec).expect("a free place");
        }
        router
    });
    (routers, now)
}

/// A buffer from the port: its first byte is the segments' length, the rest is told apart.
pub fn datagram(bytes: &[u8]) -> bool {
    let Some((len, bytes)) = bytes.split_first() else { return false };
    let batch = Batch::new(bytes, usize::from(*len));
    let (mut segments, mut known) = (0, false);
    for (class, run) in runs(batch) {
        segments += run.count();
        for segment in run.iter() {
            if let Ok((header, message)) = FrameHeader::decode(segment) {
                assert_eq!([&header.encode()[..], message].concat(), segment, "a header is its bytes");
                known = true;
            }
        }
        known |= class == peerd::packet::Class::Quic;
    }
    assert_eq!(segments, batch.count(), "every segment is in one run");
    known
}

/// Datagrams of a member's address, each with its length before it. Nothing is delivered that no peer encrypted, and what is
/// answered is no longer than what came.
pub fn frame(mut bytes: &[u8]) -> bool {
    let ([mut router, _], now) = pair_of_routers();
    let mut answered = false;
    while let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let (datagram, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*len))));
        bytes = rest;
        router.handle_wire(now, endpoint(1), Batch::one(datagram));
        while let Some(output) = router.poll_output() {
            match output {
                Output::Wire { to, batch } => {
                    answered = true;
                    assert_eq!(to, endpoint(1), "only who sent is answered");
                    let len_max = batch.iter().map(<[u8]>::len).max();
                    assert!(len_max <= Some(datagram.len()), "an answer is longer than what it answers");
                }
                Output::Device { .. } | Output::Resolver { .. } => {
                    panic!("plaintext came out of bytes that nobody encrypted")
                }
                Output::Event(_) => {}
            }
        }
    }
    answered
}

/// Carries datagrams both ways until there are none, and gives what comes out for the second router's container.
fn settle(routers: &mut [Router; 2], now: Instant, mut delivered: impl FnMut(Gather<'_>)) {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for from in 0..2 {
            let mut datagrams = Vec::new();
            while let Some(output) = routers[from].poll_output() {
                match output {
                    Output::Wire { batch, .. } => datagrams.extend(batch.iter().map(<[u8]>::to_vec)),
                    Output::Device { attachment: AttachmentId([2, ..]), packet } => delivered(packet),
                    _ => {}
                }
            }
            for datagram in &datagrams {
                routers[1 - from].handle_wire(now, endpoint(from), Batch::one(datagram));
                moved = true;
            }
        }
    }
}

/// A packet from a container's device, after the header with the work left undone. Whatever comes out of it in the clear has
/// the container's source, here and at the other node, which takes whatever this one has sealed.
pub fn device(bytes: &[u8]) -> bool {
    let Some((header, packet)) = bytes.split_first_chunk::<OFFLOAD_HEADER_LEN>() else { return false };
    let (mut routers, now) = pair_of_routers();
    let mut opening = vec![0; UDP_HEADERS_LEN];
    let [from, to] = [1, 2].map(|last| SocketAddrV4::new(address(last), 7));
    write_udp(&mut opening, from, to, &[]).expect("it fits");
    let mut opened = false;
    let neighbour = routers[0].handle_device(now, AttachmentId([1; 8]), &mut Superpacket::complete(&mut opening));
    assert_eq!(neighbour, None, "the other container is on another node");
    settle(&mut routers, now, |_| opened = true);
    assert!(opened, "the tunnel is open");

    let mut packet = packet.to_vec();
    let mut packet = Superpacket::new(Offload::decode(header), &mut packet);
    let neighbour = routers[0].handle_device(now, AttachmentId([1; 8]), &mut packet);
    let mut passed = neighbour.is_some();
    if passed {
        assert_eq!(neighbour, Some(AttachmentId([3; 8])), "there is one other container");
        assert_eq!(packet.bytes()[12..16], address(1).octets(), "a source that is not the container's");
    }
    let mut frames = Vec::new();
    while let Some(output) = routers[0].poll_output() {
        match output {
            Output::Wire { to, batch } => {
                passed = true;
                assert_eq!(to, endpoint(1), "there is one other node");
                frames.extend(batch.iter().map(<[u8]>::to_vec));
            }
            Output::Device { attachment, packet } if attachment == AttachmentId([3; 8]) => {
                passed = true;
                assert_eq!(packet.to_vec()[12..16], address(1).octets(), "a source that is not the container's");
            }
            // The node's own word to the sender: unreachable.
            Output::Device { attachment, .. } => assert_eq!(attachment, AttachmentId([1; 8])),
            Output::Resolver { attachment, packet } => {
                passed = true;
                assert_eq!((attachment, &packet[12..16]), (AttachmentId([1; 8]), &address(1).octets()[..]));
            }
            Output::Event(_) => {}
        }
    }
    for frame in &frames {
        routers[1].handle_wire(now, endpoint(0), Batch::one(frame));
    }
    settle(&mut routers, now, |packet| {
        assert_eq!(packet.to_vec()[12..16], address(1).octets(), "a source that is not the container's");
    });
    assert_eq!(routers[1].drops().total(), 0, "the other node refused what this one has sealed");
    passed
}

/// A query of a container. An answer is a response to it and keeps to its transport's length.
pub fn dns(query: &[u8]) -> bool {
    let membership = membership();
    let caller = Caller {
        network: "pn-green".parse().expect("an id"),
        attachment: AttachmentId([1; 8]),
        address: address(1),
        app: "shop".parse().expect("a label"),
        version: None,
        node: NodeId([1; 32]),
    };
    let suffixes = vec!["cloud66.local".parse().expect("a suffix")];
    let (mut out, mut answered) = (Vec::new(), false);
    for (transport, len_max) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        match Resolver::new(suffixes.clone()).answer(&membership, &caller, (query, transport), start(), &mut out) {
            Outcome::Dropped(_) => assert!(out.is_empty(), "a query was dropped and answered"),
            Outcome::Answered | Outcome::Forward => {
                answered = true;
                assert!(out.len() <= len_max, "an answer of {} bytes", out.len());
                assert!(out[..2] == query[..2] && out[2] & 0x80 != 0, "an answer answers");
            }
        }
    }
    answered
}

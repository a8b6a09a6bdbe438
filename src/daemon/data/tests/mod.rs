//! The data plane with real sockets on loopback, and socket pairs that behave as devices do.

mod fallbacks;
mod quic;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rand_core::SeedableRng;
use tokio::net::UnixDatagram;

use super::*;
use crate::membership::{Container, Membership, Network, Node, testing};
use crate::model::{Boot, ClusterId, Generation, NetworkSecret};
use crate::packet::{Ipv4View, UDP_HEADERS_LEN, UdpView, write_udp};
use crate::sys::udp;

const DEADLINE: Duration = Duration::from_secs(20);

fn vni() -> Vni {
    Vni::try_from(7).expect("a VNI")
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, last)
}

fn secret(last: u8) -> WgSecret {
    WgSecret::random(&mut rand_chacha::ChaCha20Rng::from_seed([last; 32]))
}

fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; UDP_HEADERS_LEN + payload.len()];
    write_udp(&mut packet, from, to, payload).expect("it fits");
    packet
}

fn between(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    udp_packet(SocketAddrV4::new(address(from), 1000), SocketAddrV4::new(address(to), 2000), payload)
}

/// A resolver that gives a datagram's payload back behind the first byte of the attachment's id.
struct Echo;

impl Resolver for Echo {
    fn handle_packet(&mut self, from: AttachmentId, packet: &[u8], replies: &mut Replies) {
        let view = Ipv4View::parse(packet).expect("a packet");
        let query = UdpView::parse(&view).expect("a datagram");
        if query.payload != b"silence" {
            let payload = [&from.0[..1], query.payload].concat();
            replies.push((from, udp_packet(query.destination, query.source, &payload)));
        }
    }

    fn handle_wake(&mut self, _: &mut Replies) {}

    fn handle_timeout(&mut self, _: Instant, _: &mut Replies) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn forget(&mut self, _: AttachmentId) {}

    fn drops(&self) -> Drops {
        Drops::default()
    }
}

/// A container's end of its device: datagrams keep their boundaries as a device's packets do.
struct ContainerEnd(UnixDatagram);

impl ContainerEnd {
    async fn recv(&self) -> Vec<u8> {
        let mut bytes = vec![0; 65_536];
        let read = tokio::time::timeout(DEADLINE, self.0.recv(&mut bytes));
        let len = read.await.expect("a packet comes").expect("a device");
        bytes.truncate(len);
        bytes
    }

    async fn send(&self, packet: &[u8]) {
        assert_eq!(self.0.send(packet).await.expect("the device takes it"), packet.len());
    }
}

/// A node with one container.
struct Plane {
    data: DataHandle,
    quic: Arc<QuicSocket>,
    at: SocketAddr,
    container: ContainerEnd,
}

/// What a node's kernel can do.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    udp_offload: bool,
    vnet_hdr: bool,
}

/// Two nodes with a container each: 1 on the first, 2 on the second.
async fn two_planes() -> [Plane; 2] {
    two_planes_on([Kernel { udp_offload: true, vnet_hdr: false }; 2]).await
}

async fn two_planes_on(kernels: [Kernel; 2]) -> [Plane; 2] {
    let mut planes = Vec::new();
    for (last, kernel) in [1u8, 2].into_iter().zip(kernels) {
        let mut socket = udp::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        if !kernel.udp_offload {
            socket = socket.without_offload().expect("it can be switched off");
        }
        let at = socket.local_addr().expect("bound");
        let config = DataConfig { socket, resolver: Box::new(Echo), seed: [last; 32], node: NodeId([last; 32]) };
        let (data, quic, facts) = DataPlane::spawn(config).expect("starts");
        assert!(facts.contains_key("socket buffers"));
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        planes.push((data, quic, at, ContainerEnd(theirs), OwnedFd::from(ours.into_std().expect("a descriptor"))));
    }
    let nodes = planes.iter().zip([1u8, 2]).map(|((_, _, at, ..), last)| Node {
        id: NodeId([last; 32]),
        name: format!("node-{last}").parse().expect("a label"),
        endpoints: vec![*at],
        boot: Boot(1),
        signer: None,
    });
    let mut network = Network::new("pn-test".parse().expect("a label"), vni(), NodeId([1; 32]));
    network.grants.insert(NodeId([2; 32]), crate::membership::Role::Host);
    for last in [1u8, 2] {
        let (id, node) = (AttachmentId([last; 8]), NodeId([last; 32]));
        let public_key = secret(last).public();
        network.insert_container(Arc::new(Container { id, node, public_key, ..testing::container(address(last)) }));
    }
    let membership = Arc::new(Membership::new(ClusterId([3; 32]), nodes, [network]));
    let mut ready = Vec::new();
    for (((data, quic, at, container, fd), last), kernel) in planes.into_iter().zip([1u8, 2]).zip(kernels) {
        data.set_network_keys(vni(), vec![(Generation(1), NetworkSecret::from_bytes([5; 32]).psk(vni()))]);
        data.set_membership(membership.clone());
        let attachment = Attachment {
            id: AttachmentId([last; 8]),
            vni: vni(),
            address: address(last),
            secret: secret(last),
            mtu_bytes: 1408,
        };
        let Kernel { vnet_hdr, .. } = kernel;
        data.attach(attachment, Device { fd, vnet_hdr, uso: vnet_hdr }).await.expect("free");
        ready.push(Plane { data, quic, at, container });
    }
    ready.try_into().unwrap_or_else(|_| unreachable!("there are two"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_crosses_from_device_to_device_and_is_counted() {
    let [a, b] = two_planes().await;
    for round in 0..200u8 {
        a.container.send(&between(1, 2, &[round; 100])).await;
        assert_eq!(b.container.recv().await, between(1, 2, &[round; 100]));
        b.container.send(&between(2, 1, &[round])).await;
        assert_eq!(a.container.recv().await, between(2, 1, &[round]));
    }
    let stats = a.data.stats().await.expect("running");
    assert_eq!(stats.attachments[&AttachmentId([1; 8])].traffic.tx_packets, 200);
    assert_eq!(stats.peers[&NodeId([2; 32])].endpoint, Some(b.at));
    assert_eq!(stats.drops.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_resolver_is_asked_in_place_and_knows_the_attachment() {
    let [a, _b] = two_planes().await;
    let (container, resolver) = (SocketAddrV4::new(address(1), 4000), SocketAddrV4::new(crate::model::RESOLVER, 53));
    a.container.send(&udp_packet(container, resolver, b"silence")).await;
    a.container.send(&udp_packet(container, resolver, b"question")).await;
    assert_eq!(a.container.recv().await, udp_packet(resolver, container, b"\x01question"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_device_comes_back_and_works_no_more_for_the_node() {
    let [a, b] = two_planes().await;
    let id = AttachmentId([1; 8]);
    let fd = a.data.detach(id).await.expect("it was attached");
    a.container.send(&between(1, 2, b"too late")).await;
    assert!(a.data.detach(id).await.is_none());
    // The packet is still in the device.
    let mut bytes = [0; 100];
    assert_eq!(rustix::io::read(&fd, &mut bytes).expect("reads"), between(1, 2, b"too late").len());
    assert_eq!(b.data.stats().await.expect("running").tunnels, 0);
    // Its place is free again.
    let attachment = Attachment { id, vni: vni(), address: address(1), secret: secret(1), mtu_bytes: 1408 };
    a.data.attach(attachment, Device { fd, vnet_hdr: false, uso: false }).await.expect("free");
    a.container.send(&between(1, 2, b"again")).await;
    assert_eq!(b.container.recv().await, between(1, 2, b"again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_data_plane_says_so_and_holds_up_nobody() {
    let [a, _b] = two_planes().await;
    a.data.shutdown().await;
    a.data.shutdown().await;
    assert!(a.data.stats().await.is_none());
    assert!(a.data.detach(AttachmentId([1; 8])).await.is_none());
    a.data.set_endpoint(NodeId([9; 32]), a.at);
}

#[test]
fn the_facts_say_when_the_receive_buffer_is_too_small() {
    let capable = UdpCapabilities {
        send_segments: 64,
        recv_segments: 1,
        recv_buffer_bytes: 425_984,
        send_buffer_bytes: 1 << 20,
        recv_buffer_short: true,
    };
    let facts: BTreeMap<String, String> = facts(capable);
    assert!(facts["socket buffers"].contains("below"));
    assert!(facts["udp receive offload"].contains("none"));
    assert!(facts["udp send offload"].contains("64"));
}

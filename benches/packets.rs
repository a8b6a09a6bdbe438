//! What a packet costs, without sockets and devices: `cargo bench --bench packets`.
//!
//! Two routers are joined in memory. `items` are packets on the inner network, so the reciprocal of a rate is the time for one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use peerd::membership::{Container, Membership, Network, Node, Role, State};
use peerd::model::{AttachmentId, Boot, ClusterId, Generation, NetworkSecret, NodeId, Rev, Vni, WgSecret};
use peerd::packet::{Batch, Gso, Offload, Superpacket};
use peerd::router::{AttachmentSpec, Config, DeviceKind, FairQueue, Output, Router};
use peerd::sys::clock;
use rand_core::SeedableRng;

const SEGMENT_BYTES: u16 = 1_368;
const SEGMENTS: usize = 44;

fn main() {
    divan::main();
}

fn vni() -> Vni {
    Vni::try_from(7).expect("a VNI")
}

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 240, high, low)
}

fn id(number: u16) -> AttachmentId {
    let [high, low] = number.to_be_bytes();
    AttachmentId([0, 0, 0, 0, high, low, 0, 0])
}

/// The container with this number of another network.
fn id_in(network: u32, number: u16) -> AttachmentId {
    let mut id = id(number);
    id.0[..4].copy_from_slice(&network.to_be_bytes());
    id
}

fn secret(number: u16) -> WgSecret {
    WgSecret::random(&mut rand_chacha::ChaCha20Rng::seed_from_u64(number.into()))
}

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51790))
}

/// A TCP superpacket between two containers, or one segment of it, in which the kernel has left its work undone.
fn superpacket(from: u16, to: u16, segments: usize) -> (Offload, Vec<u8>) {
    let total = 40 + segments * usize::from(SEGMENT_BYTES);
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
    bytes[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    bytes.extend_from_slice(&address(from).octets());
    bytes.extend_from_slice(&address(to).octets());
    bytes.extend_from_slice(&[0x10, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    bytes.resize(total, 7);
    let gso = if segments > 1 { Gso::Tcp { segment_bytes: SEGMENT_BYTES, ecn: false } } else { Gso::None };
    (Offload { gso, checksum: Some((20, 16)), headers_len: 40 }, bytes)
}

/// Containers 1 on the first node and 2 on the second, and others there that nobody talks to, a thousand a network.
fn membership(containers: u32) -> Arc<Membership> {
    let nodes = [1, 2].map(|number| Node {
        id: node(number),
        name: format!("node-{number}").parse().expect("a label"),
        endpoints: vec![endpoint(number)],
        boot: Boot(1),
        signer: None,
    });
    let networks = (0..containers.div_ceil(1_000)).map(|which| {
        let vni = Vni::try_from(vni().get() + which).expect("a VNI");
        let mut network = Network::new(format!("pn-{which}").parse().expect("a label"), vni, node(1));
        network.grants.insert(node(2), Role::Host);
        for number in 1..=containers.clamp(2, 1_000) as u16 {
            network.insert_container(Arc::new(Container {
                id: id_in(which, number),
                node: node(if number == 1 { 1 } else { 2 }),
                address: address(number),
                app: "shop".parse().expect("a label"),
                kind: "web".parse().expect("a label"),
                number: number.into(),
                version: None,
                service: "web".parse().expect("a label"),
                server: None,
                public_key: secret(number).public(),
                state: State::Ready,
                rev: Rev(1),
            }));
        }
        network
    });
    Arc::new(Membership::new(ClusterId([9; 32]), nodes, networks))
}

/// Two nodes with an open tunnel between containers 1 and 2.
struct Pair {
    routers: [Router; 2],
    now: Instant,
}

impl Pair {
    fn new(containers: u32) -> Self {
        let (now, view) = (clock::now(), membership(containers));
        let routers = [1u8, 2].map(|number| {
            let mut router = Router::new(Config::default(), [number; 32]);
            router.set_node(node(number));
            router.set_membership(now, view.clone());
            let psk = NetworkSecret::from_bytes([5; 32]).psk(vni());
            router.set_network_keys(now, vni(), vec![(Generation(1), psk)]);
            let last = u16::from(number);
            let spec = AttachmentSpec {
                id: id(last),
                vni: vni(),
                address: address(last),
                secret: secret(last),
                mtu_bytes: 1408,
                device: DeviceKind::Tun { offload: true, uso: true },
            };
            router.attach(now, spec).expect("free");
            router
        });
        let mut pair = Self { routers, now };
        for _ in 0..2 {
            pair.send(1);
            while pair.carry(0, 1) + pair.carry(1, 0) > 0 {}
        }
        pair
    }

    fn send(&mut self, segments: usize) {
        let (offload, mut bytes) = superpacket(1, 2, segments);
        assert!(self.routers[0].handle_device(self.now, id(1), &mut Superpacket::new(offload, &mut bytes)).is_none());
    }

    /// What one router has for the wire, as it would be received.
    fn wire(&mut self, from: usize) -> Vec<(Vec<u8>, usize)> {
        let mut all = Vec::new();
        while let Some(output) = self.routers[from].poll_output() {
            if let Output::Wire { batch, .. } = output {
                all.push((batch.bytes().to_vec(), batch.segment_len()));
            }
        }
        all
    }

    fn carry(&mut self, from: usize, to: usize) -> usize {
        let datagrams = self.wire(from);
        for (bytes, segment_len) in &datagrams {
            self.routers[to].handle_wire(self.now, endpoint(from as u8 + 1), Batch::new(bytes, *segment_len));
        }
        datagrams.len()
    }
}

fn drain(router: &mut Router) -> usize {
    let mut count = 0;
    while let Some(output) = router.poll_output() {
        black_box(&output);
        count += 1;
    }
    count
}

/// As for another node, where the checksums stay undone, or as for a device that needs them.
#[divan::bench(args = ["partial", "complete"])]
fn split_a_superpacket(bencher: Bencher<'_, '_>, checksums: &str) {
    let (offload, bytes) = superpacket(1, 2, SEGMENTS);
    bencher.counter(ItemsCount::new(SEGMENTS)).with_inputs(|| bytes.clone()).bench_local_refs(|bytes| {
        let mut packet = Superpacket::new(offload, bytes);
        let segments = if checksums == "partial" { packet.partial_segments() } else { packet.segments() };
        let mut segments = segments.expect("it can be cut");
        while let Some(segment) = segments.next() {
            black_box(segment);
        }
    });
}

/// From a device to the wire: checks, route, split, encrypt.
#[divan::bench(args = [1, SEGMENTS])]
fn encapsulate(bencher: Bencher<'_, '_>, segments: usize) {
    let mut pair = Pair::new(2);
    let (offload, bytes) = superpacket(1, 2, segments);
    let now = pair.now;
    bencher.counter(ItemsCount::new(segments)).with_inputs(|| bytes.clone()).bench_local_refs(|bytes| {
        let neighbour = pair.routers[0].handle_device(now, id(1), &mut Superpacket::new(offload, bytes));
        (neighbour, drain(&mut pair.routers[0]))
    });
}

/// From the wire to a device: demultiplex, decrypt, check both addresses and that the checksum is partial, coalesce.
#[divan::bench(args = [1, SEGMENTS])]
fn decapsulate(bencher: Bencher<'_, '_>, segments: usize) {
    let mut pair = std::cell::RefCell::new(Pair::new(2));
    let now = pair.get_mut().now;
    let fresh = || {
        let mut pair = pair.borrow_mut();
        pair.send(segments);
        pair.wire(0)
    };
    bencher.counter(ItemsCount::new(segments)).with_inputs(fresh).bench_local_values(|datagrams| {
        let router = &mut pair.borrow_mut().routers[1];
        for (bytes, segment_len) in &datagrams {
            router.handle_wire(now, endpoint(1), Batch::new(bytes, *segment_len));
        }
        drain(router)
    });
}

/// A packet that is refused after its destination was looked up: what the lookup costs as a cluster grows.
#[divan::bench(args = [1, 1_000, 100_000])]
fn route_to_nobody(bencher: Bencher<'_, '_>, containers: u32) {
    let mut pair = Pair::new(containers);
    let (offload, bytes) = superpacket(1, 1_020, 1);
    let now = pair.now;
    bencher.counter(ItemsCount::new(1usize)).with_inputs(|| bytes.clone()).bench_local_refs(|bytes| {
        let neighbour = pair.routers[0].handle_device(now, id(1), &mut Superpacket::new(offload, bytes));
        (neighbour, drain(&mut pair.routers[0]))
    });
}

#[divan::bench(args = [1, 64])]
fn fair_queue(bencher: Bencher<'_, '_>, flows: u64) {
    let (mut queue, now, mut flow) = (FairQueue::default(), clock::now(), 0);
    (0..64).for_each(|i| queue.push(now, i % flows, 60_000, i));
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        flow = (flow + 1) % flows;
        queue.push(now, flow, 60_000, flow);
        black_box(queue.pop(now, |_, _| true))
    });
}

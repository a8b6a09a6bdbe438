//! Routers joined in memory: what a wire does to datagrams is up to each test.

mod changes;
mod handshakes;
mod loss;
mod pair;
mod partial;
mod pitfalls;
mod pressure;
mod properties;
mod spoofing;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::SeedableRng;

use super::*;
use crate::membership::{Container, Network, Node, Role, testing};
use crate::model::{Boot, ClusterId, NetworkSecret, Rev, WgSecret};
use crate::packet::{Superpacket, UDP_HEADERS_LEN, write_udp};

/// Some moment: the tests count from it.
#[allow(clippy::disallowed_methods)] // A test has to begin somewhere.
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn vni(number: u32) -> Vni {
    Vni::try_from(number).expect("a VNI")
}

pub(super) const GREEN: u32 = 0x01_00_07;
pub(super) const BLUE: u32 = 0x01_00_08;

pub(super) fn keys(network: u32, generations: &[u8]) -> Vec<(Generation, Psk)> {
    let secret = |generation: u8| NetworkSecret::from_bytes([generation; 32]).psk(vni(network));
    generations.iter().map(|generation| (Generation(*generation), secret(*generation))).collect()
}

/// The container with this last byte in its address, and the `key`-th key that it has had.
pub(super) fn secret(last: u8, key: u8) -> WgSecret {
    let mut seed = [0; 32];
    (seed[0], seed[1]) = (last, key);
    WgSecret::random(&mut ChaCha20Rng::from_seed(seed))
}

pub(super) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, last)
}

pub(super) fn id(last: u8) -> AttachmentId {
    AttachmentId([last; 8])
}

pub(super) fn udp(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    udp_to(SocketAddrV4::new(address(from), 1000), SocketAddrV4::new(address(to), 2000), payload)
}

pub(super) fn udp_to(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; UDP_HEADERS_LEN + payload.len()];
    write_udp(&mut packet, from, to, payload).expect("it fits");
    packet
}

/// A container of the lab's membership: network, last byte of the address, host, which of its keys.
#[derive(Clone, Copy)]
pub(super) struct Listed(pub(super) u32, pub(super) u8, pub(super) usize, pub(super) u8);

pub(super) fn membership(hosts: usize, containers: &[Listed]) -> Arc<Membership> {
    let nodes = (0..hosts).map(|host| Node {
        id: node(host),
        name: format!("node-{host}").parse().expect("a label"),
        endpoints: vec![endpoint(host)],
        boot: Boot(1),
        signer: None,
    });
    let networks = [GREEN, BLUE].map(|number| {
        let mut network = Network::new(format!("pn-{number}").parse().expect("a label"), vni(number), node(0));
        network.grants = (0..hosts).map(|host| (node(host), Role::Host)).collect();
        for Listed(_, last, host, key) in containers.iter().filter(|listed| listed.0 == number) {
            let (id, node, public_key) = (id(*last), node(*host), secret(*last, *key).public());
            network.insert_container(Arc::new(Container {
                id,
                node,
                public_key,
                ..testing::container(address(*last))
            }));
        }
        network
    });
    Arc::new(Membership::new(ClusterId([9; 32]), nodes, networks))
}

pub(super) fn node(host: usize) -> NodeId {
    NodeId([host as u8 + 1; 32])
}

pub(super) fn endpoint(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host as u8 + 1], 51790))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Host {
    pub(super) router: Router,
    /// Where its datagrams come from, and where they arrive.
    pub(super) at: SocketAddr,
    pub(super) delivered: BTreeMap<AttachmentId, Vec<Vec<u8>>>,
    pub(super) queries: Vec<Vec<u8>>,
    pub(super) events: Vec<Event>,
}

/// Hosts on one wire.
pub(super) struct Lab {
    pub(super) hosts: Vec<Host>,
    pub(super) now: Instant,
    pub(super) wire: VecDeque<Datagram>,
    /// Everything that was ever sent.
    pub(super) sent: Vec<Datagram>,
}

impl Lab {
    /// Hosts that know each other and the listed containers, each attached at its host, with one secret per network.
    pub(super) fn new(hosts: usize, containers: &[Listed]) -> Self {
        let now = start();
        let view = membership(hosts, containers);
        let mut lab = Self { hosts: Vec::new(), now, wire: VecDeque::new(), sent: Vec::new() };
        for host in 0..hosts {
            let mut router = Router::new(Config::default(), [host as u8; 32]);
            router.set_node(node(host));
            router.set_membership(now, view.clone());
            for network in [GREEN, BLUE] {
                router.set_network_keys(now, vni(network), keys(network, &[1]));
            }
            lab.hosts.push(Host {
                router,
                at: endpoint(host),
                delivered: BTreeMap::new(),
                queries: Vec::new(),
                events: Vec::new(),
            });
        }
        for listed in containers {
            lab.attach(*listed);
        }
        lab
    }

    /// Container 1 on host 0 and container 2 on host 1, in one network.
    pub(super) fn pair() -> Self {
        Self::new(2, &[Listed(GREEN, 1, 0, 0), Listed(GREEN, 2, 1, 0)])
    }

    pub(super) fn attach(&mut self, listed: Listed) {
        self.attach_on(listed, DeviceKind::Tun { offload: false, uso: false });
    }

    pub(super) fn attach_on(&mut self, Listed(network, last, host, key): Listed, device: DeviceKind) {
        let spec = AttachmentSpec {
            id: id(last),
            vni: vni(network),
            address: address(last),
            secret: secret(last, key),
            mtu_bytes: 1408,
            device,
        };
        self.hosts[host].router.attach(self.now, spec).expect("free");
    }

    /// The container sends, and whatever follows from it happens.
    pub(super) fn send(&mut self, host: usize, packet: &[u8]) {
        self.send_only(host, packet);
        self.settle();
    }

    /// The container sends; the datagrams wait on the wire.
    pub(super) fn send_only(&mut self, host: usize, packet: &[u8]) {
        let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        self.send_as(host, id(from.octets()[3]), packet);
    }

    pub(super) fn send_as(&mut self, host: usize, id: AttachmentId, packet: &[u8]) {
        let now = self.now;
        self.feed(host, now, id, &mut Superpacket::complete(&mut packet.to_vec()));
        self.collect(host);
    }

    /// A router gets a packet from a device; one for a neighbour is written there at once.
    pub(super) fn feed(&mut self, host: usize, now: Instant, from: AttachmentId, packet: &mut Superpacket<'_>) {
        let Host { router, delivered, .. } = &mut self.hosts[host];
        if let Some(neighbour) = router.handle_device(now, from, packet) {
            delivered.entry(neighbour).or_default().push(packet.bytes().to_vec());
        }
    }

    /// Takes a router's output.
    pub(super) fn collect(&mut self, host: usize) {
        let Host { router, at, delivered, queries, events } = &mut self.hosts[host];
        while let Some(output) = router.poll_output() {
            match output {
                Output::Wire { to, batch } => {
                    for bytes in batch.iter() {
                        let datagram = Datagram { from: *at, to, bytes: bytes.to_vec() };
                        self.sent.push(datagram.clone());
                        self.wire.push_back(datagram);
                    }
                }
                Output::Device { attachment, packet } => {
                    delivered.entry(attachment).or_default().push(packet.to_vec());
                }
                Output::Resolver { packet, .. } => queries.push(packet.to_vec()),
                Output::Event(event) => events.push(event),
            }
        }
    }

    /// A datagram arrives, wherever it came from.
    pub(super) fn arrive(&mut self, datagram: &Datagram) {
        let now = self.now;
        if let Some(host) = self.hosts.iter().position(|host| host.at == datagram.to) {
            self.hosts[host].router.handle_wire(now, datagram.from, Batch::one(&datagram.bytes));
            self.collect(host);
        }
    }

    /// Delivers datagrams until none is on its way.
    pub(super) fn settle(&mut self) {
        while let Some(datagram) = self.wire.pop_front() {
            self.arrive(&datagram);
        }
    }

    /// Time passes, in steps of the routers' own timeouts; datagrams arrive.
    pub(super) fn pass(&mut self, time: Duration) {
        self.pass_with(time, |_| true);
    }

    /// Time passes; only datagrams that `survives` arrive.
    pub(super) fn pass_with(&mut self, time: Duration, mut survives: impl FnMut(&Datagram) -> bool) {
        let end = self.now + time;
        loop {
            let next = self.hosts.iter().filter_map(|host| host.router.next_timeout()).min();
            self.now = next.map_or(end, |next| next.clamp(self.now, end));
            for host in 0..self.hosts.len() {
                let now = self.now;
                self.hosts[host].router.handle_timeout(now);
                self.collect(host);
            }
            while let Some(datagram) = self.wire.pop_front() {
                if survives(&datagram) {
                    self.arrive(&datagram);
                }
            }
            if self.now >= end {
                return;
            }
        }
    }

    /// What a container has got since the last call.
    pub(super) fn got(&mut self, host: usize, last: u8) -> Vec<Vec<u8>> {
        self.hosts[host].delivered.remove(&id(last)).unwrap_or_default()
    }

    pub(super) fn drops(&self, host: usize, reason: DropReason) -> u64 {
        self.hosts[host].router.drops().of(reason)
    }

    /// The frames that have been sent, of a WireGuard message type.
    pub(super) fn frames(&self, kind: u8) -> Vec<Datagram> {
        self.sent.iter().filter(|datagram| datagram.bytes.get(8) == Some(&kind)).cloned().collect()
    }

    pub(super) fn set_membership(&mut self, host: usize, view: &Arc<Membership>) {
        let now = self.now;
        self.hosts[host].router.set_membership(now, view.clone());
        self.collect(host);
    }
}

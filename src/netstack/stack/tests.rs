use std::collections::BTreeMap;

use proptest::prelude::*;
use smoltcp::wire::IpEndpoint;

use super::*;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 240, 53), 53);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 7);
const IDLE: Duration = Duration::from_secs(10);

fn config() -> Config {
    Config {
        address: *SERVER.ip(),
        port: SERVER.port(),
        mtu_bytes: 1408,
        streams_max: 4,
        recv_buffer_len: 1024,
        send_buffer_len: 4096,
        idle_timeout: IDLE,
    }
}

/// A container's own TCP, with as many connections as it likes.
struct Client {
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    by_port: BTreeMap<u16, SocketHandle>,
}

impl Client {
    fn new() -> Self {
        let mut queues = Queues::new(1408);
        let mut interface = Interface::new(iface::Config::new(HardwareAddress::Ip), &mut queues, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(CLIENT.into(), 32)).expect("room"));
        Self { interface, queues, sockets: SocketSet::new(vec![]), by_port: BTreeMap::new() }
    }

    fn connect(&mut self, port: u16) {
        let buffer = || SocketBuffer::new(vec![0; 2048]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let remote = IpEndpoint::new(IpAddress::Ipv4(*SERVER.ip()), SERVER.port());
        socket.connect(self.interface.context(), remote, port).expect("a free port");
        self.by_port.insert(port, self.sockets.add(socket));
    }

    fn socket(&mut self, port: u16) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.by_port[&port])
    }

    fn read(&mut self, port: u16) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let len = self.socket(port).recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(len);
        bytes
    }
}

/// A stack and a client on one cable.
struct Cable {
    now: Instant,
    stack: Stack,
    client: Client,
    may_begin: bool,
    /// How many packets towards the client are still to be lost.
    lose: usize,
}

impl Cable {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self { now, stack: Stack::new(config(), now, 1), client: Client::new(), may_begin: true, lose: 0 }
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.stack.handle_timeout(self.now);
        self.settle();
    }

    /// Carries packets until there are none.
    fn settle(&mut self) {
        let at = self.stack.at(self.now);
        loop {
            self.client.interface.poll(at, &mut self.client.queues, &mut self.client.sockets);
            let sent: Vec<_> = self.client.queues.outgoing.drain(..).collect();
            for packet in &sent {
                self.stack.handle_packet(self.now, packet, self.may_begin);
            }
            self.stack.flush(self.now);
            let mut quiet = sent.is_empty();
            while let Some(packet) = self.stack.poll_packet() {
                quiet = false;
                if self.lose > 0 {
                    self.lose -= 1;
                    continue;
                }
                self.client.queues.incoming = Some(packet);
                self.client.interface.poll_ingress_single(at, &mut self.client.queues, &mut self.client.sockets);
            }
            if quiet {
                return;
            }
        }
    }

    fn connect(&mut self, port: u16) -> StreamId {
        self.client.connect(port);
        self.settle();
        self.stack.streams().last().expect("a stream")
    }

    fn state(&mut self, port: u16) -> State {
        self.client.socket(port).state()
    }
}

#[test]
fn a_stream_carries_bytes_both_ways_and_ends_in_order() {
    let mut cable = Cable::new();
    let id = cable.connect(1000);
    cable.client.socket(1000).send_slice(b"question").expect("sends");
    cable.settle();
    let mut bytes = [0; 64];
    assert_eq!(cable.stack.stream(id).expect("open").read(&mut bytes), 8);
    assert_eq!(&bytes[..8], b"question");
    assert_eq!(cable.stack.stream(id).expect("open").write(b"answer"), 6);
    cable.settle();
    assert_eq!(cable.client.read(1000), b"answer");

    assert!(!cable.stack.stream(id).expect("open").is_read_out());
    cable.client.socket(1000).close();
    cable.settle();
    assert!(cable.stack.stream(id).expect("half open").is_read_out());
    cable.stack.stream(id).expect("half open").close();
    cable.settle();
    assert_eq!(cable.stack.stream_count(), 0);
    assert!(cable.stack.stream(id).is_none());
    // What the client's side still waits for is its own affair: this one has nothing to do until a packet comes.
    assert_eq!(cable.stack.next_timeout(cable.now), None);
}

#[test]
fn beyond_the_most_streams_the_longest_idle_gives_way() {
    let mut cable = Cable::new();
    let first = cable.connect(1000);
    for port in 1001..1004 {
        cable.now += Duration::from_secs(1);
        cable.connect(port);
    }
    cable.client.socket(1000).send_slice(b"not idle").expect("sends");
    cable.settle();
    cable.connect(1004);
    assert_eq!(cable.stack.stream_count(), 4);
    assert!(cable.stack.stream(first).is_some());
    cable.client.socket(1001).send_slice(b"gone?").expect("sends");
    cable.settle();
    assert_eq!(cable.state(1001), State::Closed);
    assert_eq!(cable.state(1004), State::Established);
}

#[test]
fn without_leave_to_begin_there_is_a_reset_and_no_stream() {
    let mut cable = Cable::new();
    cable.may_begin = false;
    cable.client.connect(1000);
    cable.settle();
    assert_eq!((cable.state(1000), cable.stack.stream_count()), (State::Closed, 0));
}

#[test]
fn an_idle_stream_ends_at_its_time_and_not_before() {
    let mut cable = Cable::new();
    cable.connect(1000);
    assert_eq!(cable.stack.next_timeout(cable.now), Some(cable.now + IDLE));
    cable.after(IDLE - Duration::from_millis(1));
    assert_eq!(cable.stack.stream_count(), 1);
    cable.after(Duration::from_millis(1));
    assert_eq!((cable.state(1000), cable.stack.stream_count()), (State::Closed, 0));
}

#[test]
fn who_sends_and_never_reads_holds_a_bounded_buffer_for_a_bounded_time() {
    let mut cable = Cable::new();
    let id = cable.connect(1000);
    cable.client.socket(1000).send_slice(b"much, please").expect("sends");
    cable.settle();
    let mut taken = 0;
    for _ in 0..100 {
        taken += cable.stack.stream(id).expect("open").write(&[7; 1000]);
        cable.settle();
    }
    assert!((4096..=2048 + 4096).contains(&taken), "{taken}: what the client's buffer and ours hold");
    for _ in 0..12 {
        cable.after(Duration::from_secs(1));
    }
    assert_eq!(cable.stack.stream_count(), 0);
}

#[test]
fn lost_packets_are_sent_again() {
    let mut cable = Cable::new();
    let id = cable.connect(1000);
    cable.stack.stream(id).expect("open").write(&[7; 3000]);
    cable.lose = 3;
    cable.settle();
    let mut read = 0;
    for _ in 0..8 {
        cable.after(Duration::from_millis(500));
        read += cable.client.read(1000).len();
    }
    assert_eq!(read, 3000);
}

#[test]
fn what_is_for_another_port_or_no_segment_begins_nothing() {
    let mut cable = Cable::new();
    cable.client.connect(1000);
    let at = cable.stack.at(cable.now);
    cable.client.interface.poll(at, &mut cable.client.queues, &mut cable.client.sockets);
    let syn = cable.client.queues.outgoing.pop_front().expect("a SYN");
    let changed = |at: usize, to: u8| {
        let mut packet = syn.clone();
        packet[at] = to;
        packet
    };
    // The port, a fragment, UDP, a header that ends too early, a RST, another address.
    let cut = syn[..30].to_vec();
    for packet in [changed(23, 54), changed(7, 1), changed(9, 17), cut, changed(33, 4), changed(19, 54)] {
        cable.stack.handle_packet(cable.now, &packet, true);
        cable.stack.flush(cable.now);
        assert_eq!(cable.stack.stream_count(), 0);
    }
}

proptest! {
    #[test]
    fn no_segments_make_it_panic_or_grow(changes in proptest::collection::vec((20usize..60, any::<u8>(), any::<u8>()), 1..40)) {
        let mut cable = Cable::new();
        cable.connect(1000);
        cable.client.socket(1000).send_slice(&[1; 20]).expect("sends");
        let at = cable.stack.at(cable.now);
        cable.client.interface.poll(at, &mut cable.client.queues, &mut cable.client.sockets);
        let packet = cable.client.queues.outgoing.pop_front().expect("a segment");
        for (at, to, seconds) in changes {
            let mut packet = packet.clone();
            let len = packet.len();
            packet[at % len] = to;
            cable.now += Duration::from_secs(u64::from(seconds) / 64);
            cable.stack.handle_packet(cable.now, &packet, true);
            cable.stack.flush(cable.now);
            prop_assert!(cable.stack.stream_count() <= 4);
            while cable.stack.poll_packet().is_some() {}
        }
    }
}

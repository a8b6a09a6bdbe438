use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::netstack::{Config as StackConfig, Ending, Stack};
use crate::packet::{Gso, ICMP_ERROR_LEN_MAX, write_unreachable};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 241, 7);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 7), 80);
const MTU: u16 = 1408;

fn config() -> DiallerConfig {
    DiallerConfig { address: ADDRESS, mtu_bytes: MTU, streams_max: 64, buffers_bytes_max: 64 << 20 }
}

fn server(mtu_bytes: u16) -> StackConfig {
    StackConfig {
        address: *SERVER.ip(),
        port: SERVER.port(),
        mtu_bytes,
        streams_max: 64,
        recv_buffer_len: 64 << 10,
        send_buffer_len: 64 << 10,
        idle_timeout: Duration::from_secs(3600),
    }
}

/// Small numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Towards {
    Server,
    Dialler,
}

/// A dialler and a server at the ends of a line that may lose and reorder.
struct Line {
    now: Instant,
    dialler: Dialler,
    stack: Stack,
    dice: Dice,
    /// Of a hundred packets, so many are lost.
    lost_percent: u64,
    /// The longest delay. Packets that differ in theirs overtake one another.
    delay_ms: u64,
    under_way: BTreeMap<(Instant, u64), (Towards, Vec<u8>)>,
    sent: u64,
    may_begin: bool,
    /// What the dialler's packets were left to be cut into.
    segment_bytes_seen: BTreeSet<u16>,
    change: fn(Vec<u8>) -> Vec<u8>,
}

impl Line {
    fn new() -> Self {
        Self::with(MTU, 1)
    }

    fn with(mtu_bytes: u16, seed: u64) -> Self {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self {
            now,
            dialler: Dialler::new(config(), now, seed),
            stack: Stack::new(server(mtu_bytes), now, seed),
            dice: Dice(seed),
            lost_percent: 0,
            delay_ms: 0,
            under_way: BTreeMap::new(),
            sent: 0,
            may_begin: true,
            segment_bytes_seen: BTreeSet::new(),
            change: |packet| packet,
        }
    }

    fn send(&mut self, towards: Towards, packet: Vec<u8>) {
        self.sent += 1;
        if self.dice.below(100) >= self.lost_percent {
            let at = self.now + Duration::from_millis(self.dice.below(self.delay_ms + 1));
            self.under_way.insert((at, self.sent), (towards, packet));
        }
    }

    /// Takes what both have to send.
    fn collect(&mut self) {
        let mut packets = Vec::new();
        while let Some(mut packet) = self.dialler.poll_packet(self.now) {
            if let Gso::Tcp { segment_bytes, .. } = packet.offload().gso {
                self.segment_bytes_seen.insert(segment_bytes);
            }
            let mut segments = packet.segments().expect("a packet that can be cut");
            while let Some(segment) = segments.next() {
                assert!(segment.len() <= usize::from(MTU), "longer than the MTU");
                packets.push(segment.to_vec());
            }
        }
        packets.drain(..).for_each(|packet| self.send(Towards::Server, packet));
        self.stack.flush(self.now);
        while let Some(packet) = self.stack.poll_packet() {
            self.send(Towards::Dialler, packet);
        }
    }

    /// Carries what has arrived, and has both send, until there is nothing to do at this time.
    fn settle(&mut self) {
        loop {
            self.collect();
            let Some(((at, _), _)) = self.under_way.first_key_value().filter(|((at, _), _)| *at <= self.now) else {
                return;
            };
            debug_assert!(*at <= self.now);
            let Some((_, (towards, packet))) = self.under_way.pop_first() else { return };
            match towards {
                Towards::Server => self.stack.handle_packet(self.now, &packet, self.may_begin),
                Towards::Dialler => {
                    let packet = (self.change)(packet);
                    assert!(self.dialler.handle_packet(self.now, &packet).is_none());
                }
            }
        }
    }

    /// Goes on to whatever comes next, `end` at the latest.
    fn step(&mut self, end: Instant) {
        let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
        let next = [arrival, self.dialler.next_timeout(), self.stack.next_timeout(self.now)];
        self.now = next.into_iter().flatten().min().map_or(end, |at| at.clamp(self.now, end));
        self.dialler.handle_timeout(self.now);
        self.stack.handle_timeout(self.now);
        self.settle();
    }

    fn after(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    fn dial(&mut self) -> StreamId {
        let id = self.dialler.dial(self.now, SERVER).expect("there is room");
        self.settle();
        id
    }

    fn open(&mut self) -> (StreamId, StreamId) {
        let id = self.dial();
        assert_eq!(self.dialler.state(id), Some(StreamState::Open));
        (id, self.stack.streams().last().expect("a stream"))
    }

    fn state(&self, id: StreamId) -> Option<StreamState> {
        self.dialler.state(id)
    }

    fn stream(&mut self, id: StreamId) -> Stream<'_> {
        self.dialler.stream(id).expect("a stream")
    }

    fn peer(&mut self, id: StreamId) -> Stream<'_> {
        self.stack.stream(id).expect("a stream at the server")
    }

    /// The dialler's next packet, which is lost.
    fn lose_next(&mut self) -> Vec<u8> {
        self.dialler.poll_packet(self.now).expect("a packet").bytes().to_vec()
    }
}

fn read(stream: &mut Stream<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let len = stream.read(&mut bytes);
    bytes.truncate(len);
    bytes
}

#[test]
fn a_stream_carries_bytes_both_ways_and_each_end_closes_for_itself() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    assert_eq!(line.dialler.poll_changed(), Some(id));
    assert_eq!(line.stream(id).write(b"question"), 8);
    line.stream(id).close();
    line.settle();
    assert_eq!(read(&mut line.peer(peer)), b"question");
    assert!(line.peer(peer).is_read_out());

    assert!(!line.stream(id).is_read_out());
    line.peer(peer).write(b"a long answer");
    line.settle();
    assert_eq!(line.dialler.poll_changed(), Some(id));
    assert_eq!(line.dialler.poll_changed(), None);
    assert_eq!(read(&mut line.stream(id)), b"a long answer");
    line.peer(peer).close();
    line.settle();
    assert!(line.stream(id).is_read_out());
    line.dialler.release(line.now, id);
    line.settle();
    assert_eq!((line.dialler.stream_count(), line.stack.stream_count()), (0, 0));
    assert_eq!((line.state(id), line.dialler.buffers_bytes()), (None, 0));
    assert_eq!(line.dialler.next_timeout().filter(|at| *at <= line.now), None);
}

#[test]
fn the_other_end_may_close_first_and_still_be_written_to() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.peer(peer).close();
    line.settle();
    assert!(line.stream(id).is_read_out());
    assert_eq!(line.stream(id).write(b"still here"), 10);
    line.settle();
    assert_eq!(read(&mut line.peer(peer)), b"still here");
    line.stream(id).close();
    line.settle();
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::Closed)));
    line.dialler.release(line.now, id);
    line.settle();
    assert_eq!((line.dialler.stream_count(), line.stack.stream_count()), (0, 0));
}

#[test]
fn who_is_refused_hears_it_at_once() {
    let mut line = Line::new();
    line.may_begin = false;
    let id = line.dial();
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::Refused)));
    assert_eq!(line.dialler.poll_changed(), Some(id));
    line.dialler.release(line.now, id);
    line.settle();
    assert_eq!(line.dialler.stream_count(), 0);
}

#[test]
fn an_unreachable_address_is_heard_of_at_once_and_from_nobody_who_guesses() {
    let mut line = Line::new();
    let id = line.dialler.dial(line.now, SERVER).expect("there is room");
    let syn = line.lose_next();
    let mut error = [0; ICMP_ERROR_LEN_MAX];
    let mut told = |line: &mut Line, syn: &[u8]| {
        let view = Ipv4View::parse(syn).expect("a packet");
        let len = write_unreachable(&mut error, Unreachable::Host, &view, *SERVER.ip()).expect("an error");
        assert!(line.dialler.handle_packet(line.now, &error[..len]).is_none());
        line.state(id)
    };
    let mut guessed = syn.clone();
    guessed[27] ^= 1;
    assert_eq!(told(&mut line, &guessed), Some(StreamState::Opening));
    let mut other = syn.clone();
    other[23] ^= 1;
    assert_eq!(told(&mut line, &other), Some(StreamState::Opening));
    assert_eq!(told(&mut line, &syn), Some(StreamState::Ended(Ending::Unreachable)));
    assert_eq!(line.dialler.poll_changed(), Some(id));
    line.dialler.release(line.now, id);
    assert!(line.dialler.poll_packet(line.now).is_none());
    assert_eq!(line.dialler.stream_count(), 0);
}

#[test]
fn a_stream_ends_when_nobody_is_at_its_address_any_more() {
    let mut line = Line::new();
    let (id, _) = line.open();
    assert_eq!(line.dialler.poll_changed(), Some(id));
    line.dialler.keep_to(&[*SERVER.ip()].into());
    assert_eq!((line.state(id), line.dialler.poll_changed()), (Some(StreamState::Open), None));
    line.dialler.keep_to(&[].into());
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::Unreachable)));
    assert_eq!(line.dialler.poll_changed(), Some(id));
    line.dialler.release(line.now, id);
    line.settle();
    assert_eq!(line.dialler.stream_count(), 0);
}

#[test]
fn an_open_stream_outlives_an_unreachable_moment() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.stream(id).write(b"lost");
    let packet = line.lose_next();
    let mut error = [0; ICMP_ERROR_LEN_MAX];
    let view = Ipv4View::parse(&packet).expect("a packet");
    let len = write_unreachable(&mut error, Unreachable::Host, &view, *SERVER.ip()).expect("an error");
    line.dialler.handle_packet(line.now, &error[..len]);
    line.after(Duration::from_secs(2));
    assert_eq!(read(&mut line.peer(peer)), b"lost");
}

#[test]
fn without_an_answer_a_stream_is_given_up_after_ten_seconds_and_not_before() {
    let mut line = Line::new();
    line.lost_percent = 100;
    let id = line.dial();
    line.after(Duration::from_millis(9_999));
    assert_eq!(line.state(id), Some(StreamState::Opening));
    assert!(line.sent >= 3, "{} packets: it was asked for again", line.sent);
    line.after(Duration::from_millis(1));
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::TimedOut)));
    let sent = line.sent;
    line.dialler.release(line.now, id);
    line.after(Duration::from_secs(60));
    assert_eq!((line.sent, line.dialler.stream_count()), (sent, 0));
}

#[test]
fn a_lost_first_segment_is_sent_again() {
    let mut line = Line::new();
    let id = line.dialler.dial(line.now, SERVER).expect("there is room");
    line.lose_next();
    line.after(Duration::from_secs(2));
    assert_eq!(line.state(id), Some(StreamState::Open));
}

#[test]
fn resets_go_both_ways() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.peer(peer).abort();
    line.settle();
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::Reset)));
    line.dialler.reset(id);

    let (id, peer) = line.open();
    line.dialler.reset(id);
    line.settle();
    assert!(line.stack.stream(peer).is_none());
    assert_eq!(line.dialler.stream_count(), 0);
}

#[test]
fn what_comes_for_a_released_stream_is_reset_and_what_was_written_is_delivered() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.stream(id).write(b"the last words");
    line.dialler.release(line.now, id);
    line.settle();
    assert_eq!(read(&mut line.peer(peer)), b"the last words");
    line.peer(peer).write(b"to nobody");
    line.settle();
    assert_eq!((line.stack.stream_count(), line.dialler.stream_count()), (0, 0));

    // One that the other end never closes goes in its time.
    let (id, _) = line.open();
    line.dialler.release(line.now, id);
    line.after(Duration::from_secs(61));
    assert_eq!((line.stack.stream_count(), line.dialler.stream_count()), (0, 0));
}

#[test]
fn who_does_not_read_is_written_to_within_bounds_and_goes_on_when_it_reads() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    let mut written = 0;
    for _ in 0..100 {
        written += line.stream(id).write(&[7; 100_000]);
        line.after(Duration::from_secs(1));
    }
    let holds = line.dialler.buffers_bytes() / 2 + (64 << 10);
    assert!((holds - 2000..=holds).contains(&written), "{written} of {holds}");
    assert_eq!(line.state(id), Some(StreamState::Open));
    let mut got = 0;
    while got < written {
        got += read(&mut line.peer(peer)).len();
        line.after(Duration::from_secs(1));
    }
    assert_eq!(got, written);
}

#[test]
fn who_is_not_read_from_stops_and_goes_on() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    let (mut written, mut got) = (0, 0);
    for _ in 0..60 {
        written += line.peer(peer).write(&[7; 60_000]);
        line.after(Duration::from_secs(1));
    }
    assert!(line.stream(id).unread_len() <= line.dialler.buffers_bytes() / 2);
    while got < written {
        got += read(&mut line.stream(id)).len();
        line.after(Duration::from_secs(1));
    }
    assert_eq!(got, written);
}

#[test]
fn an_end_that_is_gone_is_noticed_and_one_that_is_idle_is_not_disturbed() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.after(Duration::from_secs(3000));
    assert_eq!(line.state(id), Some(StreamState::Open));
    assert!(line.sent < 200, "{} packets in 50 minutes", line.sent);
    line.peer(peer).write(b"still there");
    line.settle();
    assert_eq!(read(&mut line.stream(id)), b"still there");
    line.lost_percent = 100;
    line.after(Duration::from_secs(211));
    assert_eq!(line.state(id), Some(StreamState::Ended(Ending::TimedOut)));
}

#[test]
fn a_port_rests_and_the_end_of_a_stream_is_answered_again_meanwhile() {
    let mut line = Line::new();
    let (id, peer) = line.open();
    line.stream(id).close();
    line.settle();
    // The server's last word, which will be said twice.
    line.peer(peer).close();
    line.stack.flush(line.now);
    let last = line.stack.poll_packet().expect("a FIN");
    line.dialler.handle_packet(line.now, &last);
    line.dialler.release(line.now, id);
    let answer = line.lose_next();
    assert!(line.dialler.poll_packet(line.now).is_none());
    assert_eq!(line.dialler.stream_count(), 0);
    line.dialler.handle_packet(line.now, &last);
    let again = line.lose_next();
    let (answer, again) = (Segment::parse(&answer).expect("TCP"), Segment::parse(&again).expect("TCP"));
    assert_eq!((answer.sequence, answer.acknowledged), (again.sequence, again.acknowledged));
    line.dialler.next_port = answer.from.port();
    assert_ne!(line.dialler.unused_port(SERVER), Some(answer.from.port()));
    line.now += Duration::from_secs(10);
    line.dialler.handle_timeout(line.now);
    line.dialler.next_port = answer.from.port();
    assert_eq!(line.dialler.unused_port(SERVER), Some(answer.from.port()));
}

#[test]
fn nobody_gets_segments_of_a_few_bytes() {
    let mut line = Line::with(60, 1);
    let (id, peer) = line.open();
    line.stream(id).write(&[1; 500]);
    line.after(Duration::from_secs(1));
    assert_eq!(read(&mut line.peer(peer)).len(), 500);
    assert_eq!(line.segment_bytes_seen.iter().copied().collect::<Vec<_>>(), [48]);
}

#[test]
fn segments_are_as_long_as_the_other_end_and_the_path_take() {
    let mut line = Line::with(700, 1);
    let (id, peer) = line.open();
    line.stream(id).write(&[1; 20_000]);
    line.after(Duration::from_secs(1));
    assert_eq!(read(&mut line.peer(peer)).len(), 20_000);
    assert_eq!(line.segment_bytes_seen.iter().copied().collect::<Vec<_>>(), [660]);

    let mut line = Line::new();
    let (id, peer) = line.open();
    line.stream(id).write(&[1; 20_000]);
    let packet = line.lose_next();
    let why = Unreachable::FragmentationNeeded { mtu_bytes: 1000 };
    let mut error = [0; ICMP_ERROR_LEN_MAX];
    let view = Ipv4View::parse(&packet).expect("a packet");
    let len = write_unreachable(&mut error, why, &view, *SERVER.ip()).expect("an error");
    line.dialler.handle_packet(line.now, &error[..len]);
    line.after(Duration::from_secs(3));
    assert_eq!(read(&mut line.peer(peer)).len(), 20_000);
    assert_eq!(line.segment_bytes_seen.last(), Some(&960));
}

#[test]
fn a_held_packet_is_the_next_one_again() {
    let mut line = Line::new();
    let (id, _) = line.open();
    line.stream(id).write(&[3; 1000]);
    let packet = line.lose_next();
    line.dialler.hold_packet();
    // An answer to a stranger does not get in its way.
    let mut stranger = [0; TCP_HEADERS_LEN];
    crate::packet::write_tcp_ack(&mut stranger, SERVER, SocketAddrV4::new(ADDRESS, 1), 1, 1);
    line.dialler.handle_packet(line.now, &stranger);
    assert_eq!(line.lose_next(), packet);
    assert!(line.dialler.poll_packet(line.now).is_some_and(|reset| reset.bytes()[33] & 4 != 0));
}

#[test]
fn a_stranger_gets_a_reset_and_no_stream() {
    let mut line = Line::new();
    let mut other = Dialler::new(DiallerConfig { address: *SERVER.ip(), ..config() }, line.now, 3);
    let id = other.dial(line.now, SocketAddrV4::new(ADDRESS, 80)).expect("there is room");
    let syn = other.poll_packet(line.now).expect("a SYN").bytes().to_vec();
    assert!(line.dialler.handle_packet(line.now, &syn).is_none());
    let reset = line.lose_next();
    other.handle_packet(line.now, &reset);
    assert_eq!(other.state(id), Some(StreamState::Ended(Ending::Refused)));
    assert_eq!(line.dialler.stream_count(), 0);
}

#[test]
fn streams_are_bounded_and_addresses_that_are_no_host_are_refused() {
    let mut line = Line::new();
    for _ in 0..64 {
        line.dial();
    }
    assert_eq!(line.dialler.dial(line.now, SERVER), Err(CannotDial::Full));
    let mut line = Line::new();
    for to in ["10.240.0.7:0", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "127.0.0.1:80", "169.254.241.7:80"] {
        assert_eq!(line.dialler.dial(line.now, to.parse().expect("one")), Err(CannotDial::Address), "{to}");
    }
}

#[test]
fn options_in_the_ip_header_do_not_disturb() {
    let mut line = Line::new();
    line.change = |mut packet| {
        packet.splice(20..20, [1, 1, 1, 0]);
        packet[0] = 0x46;
        let total = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        packet
    };
    let (id, peer) = line.open();
    line.peer(peer).write(b"with options");
    line.settle();
    assert_eq!(read(&mut line.stream(id)), b"with options");
    line.stream(id).write(&[1; 5000]);
    line.after(Duration::from_secs(1));
    assert_eq!(read(&mut line.peer(peer)).len(), 5000);
    assert_eq!(line.segment_bytes_seen.iter().copied().collect::<Vec<_>>(), [MTU - 40]);
}

#[test]
fn datagrams_are_given_back_and_written_within_the_mtu() {
    let mut line = Line::new();
    let (mut out, to) = ([0; 2000], SERVER);
    let len = line.dialler.write_datagram(&mut out, 5353, to, b"ping").expect("fits");
    let view = Ipv4View::parse(&out[..len]).expect("a packet");
    assert_eq!(UdpView::parse(&view).expect("a datagram").source, SocketAddrV4::new(ADDRESS, 5353));
    let longest = line.dialler.datagram_len_max();
    assert_eq!(line.dialler.write_datagram(&mut out, 1, to, &vec![0; longest]), Some(usize::from(MTU)));
    assert_eq!(line.dialler.write_datagram(&mut out, 1, to, &vec![0; longest + 1]), None);
    let len = write_udp(&mut out, SERVER, SocketAddrV4::new(ADDRESS, 5353), b"pong").expect("fits");
    let datagram = line.dialler.handle_packet(line.now, &out[..len]).expect("a datagram");
    assert_eq!((datagram.source, datagram.destination.port(), datagram.payload), (SERVER, 5353, &b"pong"[..]));
    let len = write_udp(&mut out, SERVER, SocketAddrV4::new([169, 254, 241, 8].into(), 5353), b"pong").expect("fits");
    assert!(line.dialler.handle_packet(line.now, &out[..len]).is_none(), "for another address");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_altered_on_a_bad_line(seed: u64, lost_percent in 0u64..8, delay_ms in 0u64..40, len in 1usize..150_000) {
        let mut line = Line::with(MTU, seed);
        (line.lost_percent, line.delay_ms) = (lost_percent, delay_ms);
        let id = line.dial();
        let end = line.now + Duration::from_secs(3000);
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        let (mut up, mut down, mut up_got, mut down_got) = (0, 0, Vec::new(), Vec::new());
        while (up_got.len() < len || down_got.len() < len) && line.now < end {
            if line.state(id) == Some(StreamState::Open) {
                up += line.stream(id).write(&bytes[up..]);
                down_got.extend(read(&mut line.stream(id)));
            }
            if let Some(peer) = line.stack.streams().last() {
                down += line.peer(peer).write(&bytes[down..]);
                up_got.extend(read(&mut line.peer(peer)));
            }
            line.step(end);
        }
        prop_assert!(up_got == bytes && down_got == bytes, "{} and {} of {len}", up_got.len(), down_got.len());
    }

    #[test]
    fn no_packets_make_it_panic_or_grow(changes in proptest::collection::vec((0usize..70, any::<u8>(), any::<u8>()), 1..60)) {
        let mut line = Line::new();
        let (id, peer) = line.open();
        line.stream(id).write(&[1; 3000]);
        line.peer(peer).write(&[1; 20]);
        line.stack.flush(line.now);
        let packet = line.stack.poll_packet().expect("a segment");
        for (at, to, seconds) in changes {
            let mut packet = packet.clone();
            let len = packet.len();
            packet[at % len] = to;
            line.now += Duration::from_secs(u64::from(seconds) / 64);
            line.dialler.handle_packet(line.now, &packet);
            line.dialler.handle_timeout(line.now);
            prop_assert!(line.dialler.stream_count() <= 1);
            while let Some(packet) = line.dialler.poll_packet(line.now) {
                prop_assert!(packet.check().is_ok_and(|longest| longest <= usize::from(MTU)));
            }
        }
    }
}

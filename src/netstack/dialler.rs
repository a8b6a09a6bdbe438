//! The dialling side: one address with streams, and datagrams, to any port of the network that it is in.
//!
//! Call [`Dialler::handle_packet`] or [`Dialler::handle_timeout`], look at the streams that [`Dialler::poll_changed`] names,
//! read and write them, then drain [`Dialler::poll_packet`]; come back at [`Dialler::next_timeout`].
//!
//! A packet costs the same with one stream as with ten thousand: each has a socket of its own behind a lookup. What may be
//! longer than the MTU is so in both directions: packets come joined, and go out to be cut by whoever passes them on.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use smoltcp::iface::{self, Interface, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::device::{PACKET_LEN_MAX, Port};
use super::flow::{Cause, Ending, Flow, Key, StreamState};
use super::pool::Pool;
use super::resting::Resting;
use super::segment::{Segment, replace_segment_bytes};
use super::{Stream, StreamId};
use crate::packet::{
    Ipv4View, Offload, Protocol, Reported, Superpacket, TCP_HEADERS_LEN, UDP_HEADERS_LEN, UdpView, Unreachable,
    defer_tcp, read_unreachable, write_udp,
};

/// The part of a stream's id that says where it stands.
const SLOT_BITS: u32 = 20;
/// Answers to segments that belong to no stream, or are not in their place, which may wait.
const REPLIES_MAX: usize = 256;
const REPLY_LEN_MAX: usize = 128;
/// Ports below are for servers.
const FIRST_PORT: u16 = 1024;
/// RFC 9293 §3.7.1: the segments of an end that names no length.
const SEGMENT_BYTES_UNSAID: u16 = 536;
/// No path is taken for narrower than this (RFC 1122 §3.3.2: everybody takes 576 bytes).
const SEGMENT_BYTES_MIN: u16 = 576 - TCP_HEADERS_LEN as u16;
/// Nobody who names a shorter length gets it: a stream would be nothing but headers. Linux refuses it too (tcp_min_snd_mss).
const SEGMENT_BYTES_SAID_MIN: u16 = 48;
/// smoltcp lets its congestion window grow by one segment for each acknowledgement, but one acknowledges up to 64 KiB where
/// segments come joined. So it is told of longer segments than there are: this many (RFC 3465 counts bytes for the same reason).
const SEGMENTS_AN_ACK: u16 = 10;
/// What wants to be looked at at once, though there is nothing to send, is so after this.
const PAUSE: Duration = Duration::from_millis(10);

/// What a dialler is, and what bounds it.
#[derive(Debug, Clone)]
pub struct DiallerConfig {
    pub address: Ipv4Addr,
    pub mtu_bytes: u16,
    /// Streams at once.
    pub streams_max: usize,
    /// What the streams' buffers take. The more streams there are, the less each new one gets, down to 64 KiB, with which
    /// this can be exceeded.
    pub buffers_bytes_max: usize,
}

/// Why no stream was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CannotDial {
    #[error("there are as many streams, or streams to this address, as there may be")]
    Full,
    #[error("no stream can lead to this address")]
    Address,
}

/// The machine.
pub struct Dialler {
    config: Config,
    epoch: Instant,
    interface: Interface,
    /// What answers those who belong to no stream.
    nobody: SocketSet<'static>,
    slots: Vec<Option<Flow>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    resting: Resting,
    pool: Pool,
    next_serial: u64,
    next_port: u16,
    /// Who may have something to send.
    line: VecDeque<usize>,
    changed: VecDeque<usize>,
    timers: BTreeSet<(Instant, usize)>,
    replies: VecDeque<Vec<u8>>,
    /// The packet that goes out.
    buffer: Box<[u8; PACKET_LEN_MAX]>,
    /// That it was held back, and what is left to do in it.
    sent: Option<(usize, Offload)>,
    held: bool,
}

/// What never changes.
struct Config {
    given: DiallerConfig,
    segment_bytes: u16,
}

impl Dialler {
    /// A dialler without streams. `seed` decides ports and initial sequence numbers.
    pub fn new(config: DiallerConfig, now: Instant, seed: u64) -> Self {
        let mut buffer: Box<[u8; PACKET_LEN_MAX]> =
            vec![0; PACKET_LEN_MAX].into_boxed_slice().try_into().expect("it is made of that length");
        let mut port = Port { incoming: None, buffer: &mut buffer[..], written: None, mtu_bytes: config.mtu_bytes };
        let mut settings = iface::Config::new(HardwareAddress::Ip);
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut port, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for more than one.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(config.address), 32));
        });
        let segment_bytes = config.mtu_bytes.saturating_sub(TCP_HEADERS_LEN as u16).max(1);
        let next_port = FIRST_PORT.max((seed >> 48) as u16);
        Self {
            pool: Pool::new(config.buffers_bytes_max),
            config: Config { given: config, segment_bytes },
            epoch: now,
            interface,
            nobody: SocketSet::new(Vec::new()),
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            resting: Resting::default(),
            // Ids are not those of a dialler that was here before.
            next_serial: seed >> (SLOT_BITS + 1),
            next_port,
            line: VecDeque::new(),
            changed: VecDeque::new(),
            timers: BTreeSet::new(),
            replies: VecDeque::new(),
            buffer,
            sent: None,
            held: false,
        }
    }

    /// Asks `to` for a stream. [`Self::poll_changed`] says when it is there, or is not to be.
    pub fn dial(&mut self, now: Instant, to: SocketAddrV4) -> Result<StreamId, CannotDial> {
        if *to.ip() == self.config.given.address || !is_host(*to.ip()) || to.port() == 0 {
            return Err(CannotDial::Address);
        }
        if self.stream_count() >= self.config.given.streams_max.min(1 << SLOT_BITS) {
            return Err(CannotDial::Full);
        }
        self.resting.expire(now);
        let key = self.unused_port(to).map(|port| Key { port, remote: to }).ok_or(CannotDial::Full)?;
        let mut socket = self.pool.take();
        let local = IpListenEndpoint { addr: Some(self.config.given.address.into()), port: key.port };
        if !Flow::connect(&mut socket, self.interface.context(), local, key) {
            self.pool.give(socket, false);
            return Err(CannotDial::Address);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let id = StreamId(self.next_serial << SLOT_BITS | slot as u64);
        self.next_serial += 1;
        self.slots[slot] = Some(Flow::new(now, id, key, socket, SEGMENT_BYTES_UNSAID.min(self.config.segment_bytes)));
        self.by_key.insert(key, slot);
        self.queue(slot);
        Ok(id)
    }

    /// An IPv4 packet came in, as long as 64 KiB, its checksum done or not. A datagram is given back.
    pub fn handle_packet<'p>(&mut self, now: Instant, packet: &'p [u8]) -> Option<UdpView<'p>> {
        let view = Ipv4View::parse(packet).ok()?;
        if view.destination() != self.config.given.address || view.is_fragment() {
            return None;
        }
        match view.protocol() {
            Protocol::Udp => return UdpView::parse(&view),
            Protocol::Tcp => self.handle_segment(now, &view),
            Protocol::Icmp => {
                if let Some(reported) = read_unreachable(&view) {
                    self.handle_unreachable(reported);
                }
            }
            Protocol::Other(_) => {}
        }
        None
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, slot)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            if let Some(flow) = &mut self.slots[slot] {
                flow.timer = None;
                flow.enforce(now);
                self.queue(slot);
                self.note(slot);
            }
        }
        self.resting.expire(now);
    }

    /// When [`Self::handle_timeout`] is to be called, once there are no more packets to send.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A stream to which something has happened since it was named last.
    pub fn poll_changed(&mut self) -> Option<StreamId> {
        while let Some(slot) = self.changed.pop_front() {
            if let Some(flow) = &mut self.slots[slot]
                && std::mem::take(&mut flow.changed)
                && !flow.released
            {
                return Some(flow.id);
            }
        }
        None
    }

    /// The next packet to send. [`Self::hold_packet`] keeps it for the next time.
    pub fn poll_packet(&mut self, now: Instant) -> Option<Superpacket<'_>> {
        if !std::mem::take(&mut self.held) {
            self.sent = self.next_packet(now);
        }
        let (len, offload) = self.sent?;
        Some(Superpacket::new(offload, &mut self.buffer[..len]))
    }

    /// The packet that [`Self::poll_packet`] gave could not be sent: it is the next one again.
    pub fn hold_packet(&mut self) {
        self.held = self.sent.is_some();
    }

    /// How far a stream has come; `None` if it was released, or never was.
    pub fn state(&self, id: StreamId) -> Option<StreamState> {
        self.flow(id).filter(|flow| !flow.released).map(|flow| flow.state)
    }

    /// A stream to read from and write to; `None` if it was released, or never was.
    pub fn stream(&mut self, id: StreamId) -> Option<Stream<'_>> {
        let slot = self.slot(id).filter(|slot| self.slots[*slot].as_ref().is_some_and(|flow| !flow.released))?;
        // Whatever is done with it may give it something to send.
        self.queue(slot);
        self.slots[slot].as_mut().map(|flow| Stream(flow.socket.tcp()))
    }

    /// Its owner wants no more of a stream. What was written is still delivered; if not all was read, it is reset.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        if let Some(slot) = self.slot(id)
            && let Some(flow) = &mut self.slots[slot]
        {
            flow.release(now);
            self.queue(slot);
        }
    }

    /// Ends a stream at once, which its other end is told, and releases it.
    pub fn reset(&mut self, id: StreamId) {
        if let Some(slot) = self.slot(id)
            && let Some(flow) = &mut self.slots[slot]
        {
            flow.reset();
            flow.released = true;
            self.queue(slot);
        }
    }

    /// Ends the streams to addresses at which nobody is any more: nobody there would say so.
    pub fn keep_to(&mut self, there: &BTreeSet<Ipv4Addr>) {
        for slot in 0..self.slots.len() {
            if let Some(flow) = &mut self.slots[slot]
                && !matches!(flow.state, StreamState::Ended(_))
                && !there.contains(flow.key.remote.ip())
            {
                flow.fail(Ending::Unreachable);
                self.note(slot);
                self.queue(slot);
            }
        }
    }

    /// How many streams there are, opening and ending ones included.
    pub fn stream_count(&self) -> usize {
        self.by_key.len()
    }

    /// What the streams' buffers may take.
    pub fn buffers_bytes(&self) -> usize {
        self.pool.used_bytes()
    }

    /// The longest payload of a datagram.
    pub fn datagram_len_max(&self) -> usize {
        usize::from(self.config.given.mtu_bytes).saturating_sub(UDP_HEADERS_LEN)
    }

    /// Writes the packet of a datagram from one of this end's ports into `out`, and returns its length; `None` if it is longer
    /// than the MTU allows.
    pub fn write_datagram(&self, out: &mut [u8], from: u16, to: SocketAddrV4, payload: &[u8]) -> Option<usize> {
        let from = SocketAddrV4::new(self.config.given.address, from);
        (payload.len() <= self.datagram_len_max()).then(|| write_udp(out, from, to, payload)).flatten()
    }

    fn handle_segment(&mut self, now: Instant, view: &Ipv4View<'_>) {
        let Some(segment) = Segment::of(view) else { return };
        let key = Key { port: segment.to.port(), remote: segment.from };
        let at = self.at(now);
        let mut reply = [0; REPLY_LEN_MAX];
        let mut port =
            Port { incoming: None, buffer: &mut reply, written: None, mtu_bytes: self.config.given.mtu_bytes };
        let slot = self.by_key.get(&key).copied();
        let flow = slot.and_then(|slot| self.slots[slot].as_mut()).filter(|flow| !flow.mute);
        let Some(flow) = flow else {
            if self.resting.contains(&key) {
                let ack = if segment.ends() { self.resting.ack(&key, segment.to) } else { None };
                self.reply(ack.map(Vec::from));
                return;
            }
            port.incoming = Some(view.packet());
            self.interface.poll_ingress_single(at, &mut port, &mut self.nobody);
            let written = port.written;
            self.reply(written.and_then(|len| reply.get(..len)).map(<[u8]>::to_vec));
            return;
        };
        let mut packet = view.packet();
        let mut rewritten = Vec::new();
        if segment.accepts() && flow.state == StreamState::Opening {
            rewritten.extend_from_slice(packet);
            let longest = self.config.segment_bytes;
            let said = replace_segment_bytes(&mut rewritten, longest.saturating_mul(SEGMENTS_AN_ACK));
            flow.segment_bytes = said.unwrap_or(SEGMENT_BYTES_UNSAID).max(SEGMENT_BYTES_SAID_MIN).min(longest);
            packet = &rewritten;
        }
        port.incoming = Some(packet);
        self.interface.poll_ingress_single(at, &mut port, &mut flow.socket.set);
        let written = port.written;
        flow.count(packet.len());
        flow.observe(Cause::Packet);
        flow.enforce(now);
        let slot = slot.unwrap_or_default();
        self.note(slot);
        self.queue(slot);
        self.reply(written.and_then(|len| reply.get(..len)).map(<[u8]>::to_vec));
    }

    /// Somebody says that one of our packets went nowhere.
    fn handle_unreachable(&mut self, reported: Reported) {
        let key = Key { port: reported.source.port(), remote: reported.destination };
        if reported.protocol != Protocol::Tcp || *reported.source.ip() != self.config.given.address {
            return;
        }
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(flow) = &mut self.slots[slot] else { return };
        match reported.why {
            Unreachable::FragmentationNeeded { mtu_bytes } => {
                let segment_bytes = mtu_bytes.saturating_sub(TCP_HEADERS_LEN as u16).max(SEGMENT_BYTES_MIN);
                flow.segment_bytes = flow.segment_bytes.min(segment_bytes);
            }
            // One who has not seen the first segment does not know its number. An open stream outlives what may pass
            // (RFC 1122 §4.2.3.9).
            _ if flow.state == StreamState::Opening && flow.first_sequence == Some(reported.sequence) => {
                flow.fail(Ending::Unreachable);
                self.note(slot);
                self.queue(slot);
            }
            _ => {}
        }
    }

    /// Has the next in line that has something to say say it.
    fn next_packet(&mut self, now: Instant) -> Option<(usize, Offload)> {
        if let Some(reply) = self.replies.pop_front() {
            self.buffer[..reply.len()].copy_from_slice(&reply);
            let offload = defer_tcp(&mut self.buffer[..reply.len()], self.config.segment_bytes);
            return Some((reply.len(), offload.unwrap_or(Offload::NONE)));
        }
        let at = self.at(now);
        while let Some(slot) = self.line.pop_front() {
            let Some(flow) = &mut self.slots[slot] else { continue };
            flow.queued = false;
            let mut written = None;
            if !flow.mute {
                let mtu_bytes = self.config.given.mtu_bytes;
                let mut port = Port { incoming: None, buffer: &mut self.buffer[..], written: None, mtu_bytes };
                self.interface.poll_egress(at, &mut port, &mut flow.socket.set);
                written = port.written;
                let before = flow.state;
                flow.observe(Cause::Time);
                if flow.state != before {
                    self.note(slot);
                }
            }
            let Some(len) = written else {
                self.settle(now, slot);
                continue;
            };
            let sent = self.finish(slot, len);
            // It may have more, after the others.
            self.queue(slot);
            return Some((len, sent));
        }
        None
    }

    /// Leaves to others what they do better, and takes note of what goes out.
    fn finish(&mut self, slot: usize, len: usize) -> Offload {
        let packet = &mut self.buffer[..len];
        let Some(flow) = &mut self.slots[slot] else { return Offload::NONE };
        if let Some(segment) = Segment::parse(packet) {
            flow.first_sequence.get_or_insert(segment.sequence);
            flow.last_sent = (segment.sequence, segment.acknowledged);
        }
        flow.count(len);
        defer_tcp(packet, flow.segment_bytes).unwrap_or(Offload::NONE)
    }

    /// A flow has nothing to send: when is it to be looked at again, if ever?
    fn settle(&mut self, now: Instant, slot: usize) {
        let at = self.at(now);
        let Some(flow) = &mut self.slots[slot] else { return };
        if flow.is_over() {
            self.remove(now, slot);
            return;
        }
        let poll_at = self.interface.poll_at(at, &flow.socket.set);
        let poll_at = poll_at.map(|at| self.epoch + Duration::from_micros(at.total_micros().unsigned_abs()));
        let Some(next) = flow.next_timeout(poll_at) else { return };
        let next = if next <= now { now + PAUSE } else { next };
        match flow.timer {
            // It comes too early and is set anew then: an acknowledgement puts a timer off, and there are many.
            Some(timer) if timer <= next => return,
            Some(timer) => {
                self.timers.remove(&(timer, slot));
            }
            None => {}
        }
        flow.timer = Some(next);
        self.timers.insert((next, slot));
    }

    fn remove(&mut self, now: Instant, slot: usize) {
        let Some(flow) = self.slots[slot].take() else { return };
        if let Some(timer) = flow.timer {
            self.timers.remove(&(timer, slot));
        }
        self.by_key.remove(&flow.key);
        if flow.socket.state() == State::TimeWait {
            self.resting.insert(now, flow.key, flow.last_sent);
        }
        let touched = flow.is_touched();
        self.pool.give(flow.socket, touched);
        self.free.push(slot);
    }

    /// A port that no stream to `to` has, or had a moment ago.
    fn unused_port(&mut self, to: SocketAddrV4) -> Option<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let key = Key { port: self.next_port, remote: to };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.by_key.contains_key(&key) && !self.resting.contains(&key) {
                return Some(key.port);
            }
        }
        None
    }

    fn reply(&mut self, packet: Option<Vec<u8>>) {
        // What finds no room is asked again.
        self.replies.extend(packet.filter(|_| self.replies.len() < REPLIES_MAX));
    }

    fn queue(&mut self, slot: usize) {
        if let Some(flow) = &mut self.slots[slot]
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.line.push_back(slot);
        }
    }

    /// Its owner is to look at a flow.
    fn note(&mut self, slot: usize) {
        if let Some(flow) = &mut self.slots[slot]
            && !flow.released
            && !std::mem::replace(&mut flow.changed, true)
        {
            self.changed.push_back(slot);
        }
    }

    fn slot(&self, id: StreamId) -> Option<usize> {
        let slot = (id.0 & ((1 << SLOT_BITS) - 1)) as usize;
        self.slots.get(slot)?.as_ref().filter(|flow| flow.id == id).map(|_| slot)
    }

    fn flow(&self, id: StreamId) -> Option<&Flow> {
        self.slots[self.slot(id)?].as_ref()
    }

    fn at(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// Whether one host has this address.
fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_multicast() || address.is_broadcast() || address.is_unspecified() || address.is_loopback())
}

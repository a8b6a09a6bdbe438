//! The listening side: one address with one port that takes streams.
//!
//! Call [`Stack::handle_packet`] or [`Stack::handle_timeout`], serve the streams, call [`Stack::flush`], then drain
//! [`Stack::poll_packet`]; come back at [`Stack::next_timeout`].
//!
//! Whoever is at the other end bounds nothing here but itself: streams are counted, their buffers have a fixed size, and
//! one that makes no progress is ended.

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use smoltcp::iface::{self, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, SocketBuffer, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::device::Queues;
use super::segment::Segment;
use super::{Stream, StreamId};

/// What a stack is, and what bounds it.
#[derive(Debug, Clone)]
pub struct Config {
    pub address: Ipv4Addr,
    /// The port that takes streams.
    pub port: u16,
    pub mtu_bytes: u16,
    /// Streams at once. A further one takes the place of the one that has been idle for longest.
    pub streams_max: usize,
    /// What of a stream may wait to be read, in bytes.
    pub recv_buffer_len: usize,
    /// What of a stream may wait to be sent or acknowledged, in bytes.
    pub send_buffer_len: usize,
    /// A stream on which no byte has come in or been acknowledged for so long is ended.
    pub idle_timeout: Duration,
}

/// What stands behind a stream.
struct Slot {
    id: StreamId,
    handle: SocketHandle,
    remote: SocketAddrV4,
    /// When a byte came in or was acknowledged last.
    progress: Instant,
    /// What waited to be read and to be acknowledged when it was looked at last.
    unread: usize,
    unsent: usize,
}

/// The machine.
pub struct Stack {
    config: Config,
    epoch: Instant,
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    slots: Vec<Slot>,
    next_id: u64,
    displaced: u64,
}

impl Stack {
    /// A stack without streams. `seed` decides initial sequence numbers.
    pub fn new(config: Config, now: Instant, seed: u64) -> Self {
        let mut queues = Queues::new(config.mtu_bytes);
        let mut settings = iface::Config::new(HardwareAddress::Ip);
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut queues, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for more than one.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(config.address), 32));
        });
        let sockets = SocketSet::new(vec![]);
        Self { config, epoch: now, interface, queues, sockets, slots: Vec::new(), next_id: 0, displaced: 0 }
    }

    /// An IPv4 packet came in. Anything that is not a whole TCP segment for this stack's port is left alone.
    ///
    /// A new stream begins only if `may_begin`, or in the place of an idle one.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8], may_begin: bool) {
        let Some(segment) = Segment::parse(packet) else { return };
        if segment.to != SocketAddrV4::new(self.config.address, self.config.port) {
            return;
        }
        if segment.begins() && !self.slots.iter().any(|slot| slot.remote == segment.from) {
            self.listen(now, segment.from, may_begin);
        }
        self.queues.incoming = Some(packet.to_vec());
        let at = self.at(now);
        self.interface.poll_ingress_single(at, &mut self.queues, &mut self.sockets);
        self.sweep(now);
    }

    /// Time has passed: what was lost is sent again, and who makes no progress is let go.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flush(now);
    }

    /// Sends what the streams have to send, as far as there is room.
    pub fn flush(&mut self, now: Instant) {
        // First, so that a stream which is ended here says so.
        self.sweep(now);
        let at = self.at(now);
        // Each turn sends one packet a stream, and stops when there is no more room for any.
        while self.interface.poll_egress(at, &mut self.queues, &mut self.sockets) == PollResult::SocketStateChanged {}
        self.remove_closed();
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.queues.outgoing.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let at = self.at(now);
        let stack = self.interface.poll_at(at, &self.sockets);
        let stack = stack.map(|at| self.epoch + Duration::from_micros(at.total_micros().unsigned_abs()));
        let idle = self.slots.iter().map(|slot| slot.progress + self.config.idle_timeout).min();
        stack.into_iter().chain(idle).min()
    }

    /// The streams, oldest first.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.slots.iter().map(|slot| slot.id)
    }

    /// How many streams there are, beginning and ending ones included.
    pub fn stream_count(&self) -> usize {
        self.slots.len()
    }

    /// How many streams were ended, or refused, for want of room since this was asked last.
    pub fn take_displaced(&mut self) -> u64 {
        std::mem::take(&mut self.displaced)
    }

    /// A stream; `None` once it is over.
    pub fn stream(&mut self, id: StreamId) -> Option<Stream<'_>> {
        let slot = self.slots.iter().find(|slot| slot.id == id)?;
        Some(Stream(self.sockets.get_mut(slot.handle)))
    }

    fn at(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Makes room for a stream from `remote`; without room its first segment is answered with a reset.
    fn listen(&mut self, now: Instant, remote: SocketAddrV4, may_begin: bool) {
        if !may_begin || self.slots.len() >= self.config.streams_max {
            self.displaced += 1;
            let Some(idle) = (0..self.slots.len()).min_by_key(|at| self.slots[*at].progress) else { return };
            let slot = self.slots.remove(idle);
            self.sockets.remove(slot.handle);
        }
        let buffer = |len: usize| SocketBuffer::new(vec![0; len]);
        let (recv, send) = (buffer(self.config.recv_buffer_len), buffer(self.config.send_buffer_len));
        let mut socket = tcp::Socket::new(recv, send);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        // The other end is a container of this node: its window is all that there is to keep to.
        socket.set_congestion_control(CongestionControl::None);
        socket.set_timeout(Some(self.config.idle_timeout.into()));
        let local = IpListenEndpoint { addr: Some(self.config.address.into()), port: self.config.port };
        if socket.listen(local).is_err() {
            return;
        }
        let (id, handle) = (StreamId(self.next_id), self.sockets.add(socket));
        self.next_id += 1;
        self.slots.push(Slot { id, handle, remote, progress: now, unread: 0, unsent: 0 });
    }

    /// Notes who made progress, and ends who made none for too long.
    fn sweep(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(slot.handle);
            let (unread, unsent) = (socket.recv_queue(), socket.send_queue());
            if unread > slot.unread || unsent < slot.unsent {
                slot.progress = now;
            }
            (slot.unread, slot.unsent) = (unread, unsent);
            let overdue = now.saturating_duration_since(slot.progress) >= self.config.idle_timeout;
            // What still listens was begun by a segment that began nothing.
            if overdue || socket.state() == State::Listen {
                socket.abort();
            }
        }
    }

    fn remove_closed(&mut self) {
        let sockets = &mut self.sockets;
        self.slots.retain(|slot| {
            let socket = sockets.get::<tcp::Socket<'_>>(slot.handle);
            let over = match socket.state() {
                // While it knows its other end it has a reset to send.
                State::Closed => socket.remote_endpoint().is_none(),
                // The packets of a device come in order, so no old one can be taken for one of a later stream.
                State::TimeWait => true,
                _ => false,
            };
            if over {
                sockets.remove(slot.handle);
            }
            !over
        });
    }
}

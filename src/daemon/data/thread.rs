//! The data thread's loop: wait, receive, read, route, send, write; every source has its turn.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

use super::backlog::{Backlog, Read, Routed};
use super::devices::Devices;
use super::handle::{Call, Shared};
use super::{Attachment, DataError, DataEvent, DataStats, Device, Replies, Resolver};
use crate::daemon::mailbox::StopOnDrop;
use crate::daemon::quic_socket::{QuicDatagrams, QuicSender};
use crate::model::{AttachmentId, NodeId};
use crate::packet::{Class, runs};
use crate::router::{self, AttachmentSpec, DeviceKind, DropReason, Event, Intake, Output, Router};
use crate::sys::alarm::Alarm;
use crate::sys::clock;
use crate::sys::tun_io::{Gone, TunDevice};
use crate::sys::udp::{RecvBuffers, SendError, UdpSocket};

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
const ALARM: Token = Token(2);
const EVENTS_LEN: usize = 256;
/// What one device may send before the next has its turn.
const TURN_PACKETS: usize = 64;
/// What is encrypted before devices and socket are looked at again: about 100 us of work.
const BURST_BYTES: usize = 128 << 10;
/// With less than this received at once, nothing stands in the socket.
const BULK_BYTES: usize = 64 << 10;

/// What a panic of the thread means.
const FAILURE: &str = "the data thread has failed: containers are cut off until the node is started again";

/// What the thread is made of.
pub(super) struct Parts {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) resolver: Box<dyn Resolver>,
    pub(super) seed: [u8; 32],
    pub(super) node: NodeId,
    pub(super) quic: QuicSender,
    pub(super) events: mpsc::Sender<DataEvent>,
}

struct DataThread {
    poll: Poll,
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    /// Whether the socket may have datagrams: until it says that it has none.
    socket_ready: bool,
    /// Whether readiness to send is waited for.
    watches_writable: bool,
    received: RecvBuffers,
    backlog: Backlog,
    /// Whether the turn has left something that can be done at once.
    busy: bool,
    /// When what the turn had to leave may go on, and what wakes the thread then.
    resume: Option<Instant>,
    alarm: Alarm,
    devices: Devices,
    router: Router,
    resolver: Box<dyn Resolver>,
    replies: Replies,
    quic: QuicSender,
    events: mpsc::Sender<DataEvent>,
    stopping: bool,
}

/// Starts the thread.
pub(super) fn spawn(parts: Parts) -> io::Result<Arc<Shared>> {
    let poll = Poll::new()?;
    let shared = Arc::new(Shared::new(Waker::new(poll.registry(), WAKER)?));
    poll.registry().register(&mut SourceFd(&parts.socket.as_raw_fd()), SOCKET, Interest::READABLE)?;
    let alarm = Alarm::new()?;
    poll.registry().register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
    let mut router = Router::new(router::Config::default(), parts.seed);
    router.set_node(parts.node);
    let mut thread = DataThread {
        poll,
        shared: shared.clone(),
        socket: parts.socket,
        socket_ready: true,
        watches_writable: false,
        received: RecvBuffers::default(),
        backlog: Backlog::default(),
        busy: false,
        resume: None,
        alarm,
        devices: Devices::default(),
        router,
        resolver: parts.resolver,
        replies: Vec::new(),
        quic: parts.quic,
        events: parts.events,
        stopping: false,
    };
    std::thread::Builder::new().name("peerd-data".to_owned()).spawn(move || {
        let stop = StopOnDrop { mailbox: thread.shared.clone(), failure: FAILURE };
        thread.run();
        drop(stop);
    })?;
    Ok(shared)
}

impl DataThread {
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_LEN);
        while !self.stopping {
            if let Err(error) = self.poll.poll(&mut events, self.timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot wait for packets");
                return;
            }
            let mut told = false;
            for event in &events {
                match event.token() {
                    SOCKET => {
                        self.socket_ready |= event.is_readable() || event.is_error();
                        if event.is_writable() {
                            self.router.release_wire();
                        }
                    }
                    WAKER => told = true,
                    // It has woken the thread, and that is all.
                    ALARM => {}
                    device => self.devices.ready_token(device),
                }
            }
            let now = clock::now();
            (self.busy, self.resume) = (false, None);
            if told {
                self.hear(now);
                self.resolver.handle_wake(&mut self.replies);
            }
            if self.socket_ready {
                self.receive(now);
            }
            for _ in 0..self.devices.ready_count() {
                self.read_device(now);
            }
            self.route_backlog(now);
            if self.router.next_timeout().is_some_and(|at| at <= now) {
                self.router.handle_timeout(now);
            }
            if self.resolver.next_timeout().is_some_and(|at| at <= now) {
                self.resolver.handle_timeout(now, &mut self.replies);
            }
            self.drain();
            if let Err(error) = self.watch_socket() {
                tracing::error!(%error, "cannot wait for the socket");
                return;
            }
        }
    }

    /// While the socket is full, the thread wants to know when it is not; at any other time that would wake it for nothing.
    fn watch_socket(&mut self) -> io::Result<()> {
        let held = self.router.is_wire_held();
        if held == self.watches_writable {
            return Ok(());
        }
        self.watches_writable = held;
        let interest = if held { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(&mut SourceFd(&self.socket.as_raw_fd()), SOCKET, interest)
    }

    /// How long there may be nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.socket_ready || self.busy {
            return Some(Duration::ZERO);
        }
        let now = clock::now();
        if let Some(resume) = self.resume
            && let Err(error) = self.alarm.set(resume.saturating_duration_since(now))
        {
            tracing::debug!(%error, "the alarm cannot be set: what waits is sent now");
            return Some(Duration::ZERO);
        }
        // epoll counts in milliseconds: rounded up, so that it does not wake for nothing.
        let next = self.router.next_timeout().into_iter().chain(self.resolver.next_timeout()).min();
        let wait = next?.saturating_duration_since(now);
        Some(if wait.is_zero() { wait } else { wait + Duration::from_millis(1) })
    }

    /// One call's worth of datagrams.
    fn receive(&mut self, now: Instant) {
        if let Err(error) = self.socket.recv(&mut self.received) {
            // Any other error is of one datagram sent before (ICMP): there may be more to receive.
            self.socket_ready = error.kind() != io::ErrorKind::WouldBlock;
            return;
        }
        // With buffers left over the call has met the end of the queue, and what comes now makes a new edge.
        self.socket_ready = self.received.is_full();
        let (mut lost, mut bytes) = (0, 0);
        for received in self.received.iter() {
            bytes += received.batch.bytes().len();
            for (class, run) in runs(received.batch) {
                if class == Class::Quic {
                    let datagrams = QuicDatagrams::new(received.from, received.to, received.ecn, run);
                    lost += if self.quic.try_send(datagrams) { 0 } else { run.count() as u64 };
                } else {
                    self.router.handle_wire(now, received.from, run);
                }
            }
            if !self.router.has_room_inbound() {
                drain(
                    &mut self.router,
                    &self.socket,
                    &self.devices,
                    self.resolver.as_mut(),
                    &mut self.replies,
                    &self.events,
                );
            }
        }
        self.router.count_drops(DropReason::QuicQueueFull, lost);
        self.drain();
        let intake = (bytes >= BULK_BYTES).then(|| {
            let took = clock::now().saturating_duration_since(now);
            Intake { received_bytes: bytes, took, queued_bytes: self.socket.queued_bytes() }
        });
        self.router.handle_intake(intake);
    }

    /// One device's turn: what it has, up to a bound, joins what waits.
    fn read_device(&mut self, now: Instant) {
        let Some((place, served)) = self.devices.next() else { return };
        let id = served.id;
        for read in 0..TURN_PACKETS {
            // After the first packet, when none was before it: whoever waits for an answer need not wait for the next read.
            if read == 1 && self.backlog.len() == 1 {
                self.route_backlog(now);
            }
            let Some(device) = self.devices.by_place(place) else { return };
            match self.backlog.read(now, place, id, device) {
                Ok(Read::Packet) => {}
                Ok(Read::Empty) => return,
                Ok(Read::Full) => {
                    // There is room when something has been routed, and that is busy enough.
                    self.devices.again(place);
                    return;
                }
                Err(Gone) => {
                    self.device_gone(id);
                    return;
                }
            }
        }
        self.busy = true;
        self.devices.again(place);
    }

    /// Routes what waits, up to a burst: nobody who comes then waits for more than that.
    fn route_backlog(&mut self, now: Instant) {
        let mut bytes = 0;
        while bytes < BURST_BYTES {
            // The first packet too: what was held until now may still stand there.
            if !self.has_room() {
                self.drain();
            }
            if !self.has_room() {
                break;
            }
            match self.backlog.route_next(now, &mut self.router, &self.devices) {
                Routed::Packet(cost) => {
                    self.busy = true;
                    bytes += cost;
                }
                Routed::Paused(until) => {
                    self.resume = Some(until);
                    break;
                }
                Routed::Empty => break,
            }
        }
        self.drain();
    }

    /// Whether the router takes one more packet of a device: while the socket is full, one that stays on the node.
    fn has_room(&self) -> bool {
        if self.router.is_wire_held() { self.router.has_room_inbound() } else { self.router.has_room_outbound() }
    }

    fn device_gone(&mut self, id: AttachmentId) {
        if let Some(fd) = self.devices.remove(self.poll.registry(), id) {
            tracing::warn!(attachment = %id, "the container's interface is gone");
            close_elsewhere(fd);
            // When nobody listens the log has said it.
            let _ = self.events.try_send(DataEvent::DeviceGone(id));
        }
    }

    fn drain(&mut self) {
        drain(&mut self.router, &self.socket, &self.devices, self.resolver.as_mut(), &mut self.replies, &self.events);
    }

    /// Does what the thread was told since the last time.
    fn hear(&mut self, now: Instant) {
        let told = self.shared.take();
        for (node, endpoint) in told.endpoints {
            self.router.set_endpoint(now, node, endpoint);
        }
        for (vni, keys) in told.keys {
            self.router.set_network_keys(now, vni, keys);
        }
        if let Some(membership) = told.membership {
            self.router.set_membership(now, membership);
        }
        for call in told.calls {
            // Whoever asked and left needs no answer; a device that is given back to nobody is closed elsewhere.
            match call {
                Call::Attach(attachment, device, answer) => {
                    let _ = answer.send(self.attach(now, attachment, device));
                }
                Call::Detach(id, answer) => {
                    self.router.detach(now, id);
                    self.resolver.forget(id);
                    if let Err(Some(fd)) = answer.send(self.devices.remove(self.poll.registry(), id)) {
                        close_elsewhere(fd);
                    }
                }
                Call::Rekey(id, secret, answer) => {
                    let _ = answer.send(self.router.rekey(now, id, secret));
                }
                Call::Stats(answer) => {
                    let _ = answer.send(self.stats());
                }
                Call::Heard(answer) => {
                    let _ = answer.send(self.router.heard());
                }
                Call::Shutdown(answer) => {
                    self.stopping = true;
                    let _ = answer.send(());
                }
            }
        }
    }

    fn attach(&mut self, now: Instant, attachment: Attachment, device: Device) -> Result<(), DataError> {
        let Attachment { id, vni, address, secret, mtu_bytes } = attachment;
        let Device { fd, vnet_hdr, uso } = device;
        let kind = DeviceKind::Tun { offload: vnet_hdr, uso };
        let device = TunDevice::new(fd, vnet_hdr, uso).map_err(DataError::Device)?;
        let spec = AttachmentSpec { id, vni, address, secret, mtu_bytes, device: kind };
        if let Err(error) = self.router.attach(now, spec) {
            close_elsewhere(device.into_fd());
            return Err(error.into());
        }
        self.devices.insert(self.poll.registry(), id, device).map_err(|error| {
            self.router.detach(now, id);
            DataError::Device(error)
        })
    }

    fn stats(&self) -> DataStats {
        let resolver = self.resolver.drops();
        DataStats {
            drops: self.router.drops().iter().map(|(reason, n)| (reason, n + resolver.of(reason))).collect(),
            peers: self.router.peers().into_iter().map(|peer| (peer.node, peer)).collect(),
            attachments: self.router.attachments().map(|attachment| (attachment.id, attachment)).collect(),
            tunnels: self.router.tunnel_count(),
            pauses: self.router.pauses(),
            devices: self.devices.offloads(),
        }
    }
}

/// Does everything that the router wants done.
fn drain(
    router: &mut Router,
    socket: &UdpSocket,
    devices: &Devices,
    resolver: &mut dyn Resolver,
    replies: &mut Replies,
    events: &mpsc::Sender<DataEvent>,
) {
    loop {
        let (mut busy, mut too_long, mut unwritten) = (0, 0, 0);
        while let Some(output) = router.poll_output() {
            match output {
                Output::Wire { to, batch } => match socket.send(to, batch) {
                    Ok(()) => {}
                    Err(SendError::Full { sent }) => router.hold_wire(sent),
                    Err(SendError::TooLong) => too_long += batch.count() as u64,
                    Err(SendError::Refused(_)) => busy += batch.count() as u64,
                },
                Output::Device { attachment, packet } => {
                    let written = devices.by_id(attachment).is_some_and(|device| device.write(&packet).is_ok());
                    unwritten += u64::from(!written);
                }
                Output::Resolver { attachment, packet } => {
                    resolver.handle_packet(attachment, packet, replies);
                }
                Output::Event(event) => {
                    let event = match event {
                        Event::UnknownPeer { vni, key, .. } => DataEvent::UnknownPeer { vni, key },
                        Event::MissingKey { vni, .. } => DataEvent::MissingKey(vni),
                    };
                    // One that is lost comes again with the next packet of its kind.
                    let _ = events.try_send(event);
                }
            }
        }
        router.count_drops(DropReason::SocketBusy, busy);
        router.count_drops(DropReason::DatagramTooLong, too_long);
        router.count_drops(DropReason::DeviceBusy, unwritten);
        if replies.is_empty() {
            return;
        }
        for (attachment, packet) in replies.drain(..) {
            router.handle_local(attachment, &packet);
        }
    }
}

/// Closes a device where 17 ms hold up nobody.
fn close_elsewhere(fd: OwnedFd) {
    // Without a thread it is closed here: late is better than never.
    let _ = std::thread::Builder::new().name("peerd-close".to_owned()).spawn(move || drop(fd));
}

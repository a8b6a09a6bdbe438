//! The gateway thread's loop: wait, accept, read, carry, send; every source has its turn.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::sync::oneshot;

use super::fronts::{Door, Listeners};
use super::handle::{Call, Shared};
use super::member::{Failed, Gateway, Owner};
use super::sessions::Asker;
use super::splice::{Carried, Client, Splice, Turn, break_socket, set_nonblocking};
use super::splices::Splices;
use super::{DialError, GatewayStats, Opened};
use crate::daemon::mailbox::StopOnDrop;
use crate::model::NetworkId;
use crate::netstack::{Ending, StreamId, StreamState};
use crate::sys::tun_io::READ_LEN;
use crate::sys::{clock, random};

const WAKER: Token = Token(0);
const EVENTS_LEN: usize = 512;
/// What a token stands for is in its low bits; behind them is the place.
const KINDS: usize = 4;
const DEVICE: usize = 1;
const LISTENER: usize = 2;
const SPLICE: usize = 3;
/// Connections that one listener accepts, or datagrams that it takes, before the next has its turn.
const TURN_ACCEPTED: usize = 64;
/// Connections in all. Streams are bounded for each gateway; these are descriptors, which the whole node shares.
const CONNECTIONS_MAX: usize = 32_768;
/// Descriptors that are left to the rest of the node.
const DESCRIPTORS_LEFT: usize = 256;
/// How long a stream may take to deliver what a client has left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// What a panic of the thread means.
const FAILURE: &str =
    "the gateway thread has failed: nothing from outside reaches a container until the node is started again";

struct GatewayThread {
    poll: Poll,
    shared: Arc<Shared>,
    gateways: Vec<Option<Gateway>>,
    by_network: BTreeMap<NetworkId, usize>,
    listeners: Listeners,
    splices: Splices,
    /// Whose client has gone, and when the stream is ended at the latest; in order.
    left_behind: VecDeque<(Instant, usize, u64)>,
    connections_max: usize,
    /// Connections that wait for a container.
    waiting: usize,
    buffer: Box<[u8; READ_LEN]>,
    /// Whether the turn has left something that can be done at once.
    busy: bool,
    stopping: bool,
}

/// Starts the thread.
pub(super) fn spawn() -> io::Result<Arc<Shared>> {
    let poll = Poll::new()?;
    let shared = Arc::new(Shared::new(Waker::new(poll.registry(), WAKER)?));
    let theirs = shared.clone();
    std::thread::Builder::new().name("peerd-gateway".to_owned()).spawn(move || {
        let stop = StopOnDrop { mailbox: theirs.clone(), failure: FAILURE };
        GatewayThread::new(poll, theirs).run();
        drop(stop);
    })?;
    Ok(shared)
}

impl GatewayThread {
    fn new(poll: Poll, shared: Arc<Shared>) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self {
            poll,
            shared,
            gateways: Vec::new(),
            by_network: BTreeMap::new(),
            listeners: Listeners::default(),
            splices: Splices::default(),
            left_behind: VecDeque::new(),
            connections_max: limit.saturating_sub(DESCRIPTORS_LEFT).clamp(DESCRIPTORS_LEFT / 2, CONNECTIONS_MAX),
            waiting: 0,
            buffer: vec![0; READ_LEN].into_boxed_slice().try_into().expect("it is made of that length"),
            busy: false,
            stopping: false,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_LEN);
        while !self.stopping {
            if let Err(error) = self.poll.poll(&mut events, self.timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot wait for the gateways");
                return;
            }
            let now = clock::now();
            let mut told = false;
            for event in &events {
                told |= event.token() == WAKER;
                self.note(now, event);
            }
            self.busy = false;
            if told {
                self.hear(now);
            }
            for slot in 0..self.listeners.len() {
                self.serve_listener(now, slot);
            }
            for slot in 0..self.gateways.len() {
                self.serve_gateway(now, slot);
            }
            for _ in 0..self.splices.ready_count() {
                self.carry(now);
            }
            for slot in 0..self.gateways.len() {
                self.send(now, slot);
            }
            self.end_left_behind(now);
        }
        self.listeners.clear(self.poll.registry());
    }

    /// What the kernel says is ready.
    fn note(&mut self, now: Instant, event: &Event) {
        let place = event.token().0 / KINDS;
        match event.token().0 % KINDS {
            DEVICE => {
                if let Some(Some(gateway)) = self.gateways.get_mut(place) {
                    gateway.set_ready(event);
                }
            }
            LISTENER => {
                if let Some(listener) = self.listeners.get_mut(place) {
                    listener.ready = true;
                }
            }
            SPLICE => {
                if let Some(splice) = self.splices.get_mut(place) {
                    if splice.ready(event) {
                        self.left_behind.push_back((now + LEFT_BEHIND, place, splice.number));
                    }
                    self.splices.ready(place);
                }
            }
            _ => {}
        }
    }

    /// How long there may be nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.busy || self.splices.ready_count() > 0 {
            return Some(Duration::ZERO);
        }
        let gateways = self.gateways.iter().flatten().filter_map(Gateway::next_timeout).min();
        let left_behind = self.left_behind.front().map(|(at, ..)| *at);
        let next = gateways.into_iter().chain(self.listeners.next_timeout()).chain(left_behind).min()?;
        let wait = next.saturating_duration_since(clock::now());
        // epoll counts in milliseconds: rounded up, so that it does not wake for nothing.
        Some(if wait.is_zero() { wait } else { wait + Duration::from_millis(1) })
    }

    /// Does what the thread was told since the last time.
    fn hear(&mut self, now: Instant) {
        let told = self.shared.take();
        if let Some(fronts) = told.fronts {
            self.listeners.set(self.poll.registry(), fronts, |slot| Token(slot * KINDS + LISTENER));
            let datagrams = self.listeners.of_datagrams();
            self.gateways.iter_mut().flatten().for_each(|gateway| gateway.keep_sessions(&datagrams));
        }
        for (network, there) in told.there {
            if let Some(gateway) = self.gateway_of(&network) {
                gateway.dialler.keep_to(&there);
            }
        }
        for call in told.calls {
            // Whoever asked and left needs no answer.
            match call {
                Call::Add { network, address, mtu_bytes, device, answer } => {
                    self.remove(now, &network);
                    let gateway = Gateway::new(now, network, address, mtu_bytes, device, seed());
                    let _ = answer.send(gateway.and_then(|gateway| self.add(gateway)));
                }
                Call::Remove { network, answer } => {
                    self.remove(now, &network);
                    let _ = answer.send(());
                }
                Call::Dial { network, to, answer } => self.dial(now, &network, to, answer),
                Call::Join { network, stream, io } => self.join(now, &network, stream, io),
                Call::Drop { network, stream } => {
                    if let Some(gateway) = self.gateway_of(&network)
                        && matches!(gateway.owners.get(&stream), Some(Owner::Opened))
                    {
                        gateway.owners.remove(&stream);
                        gateway.dialler.reset(stream);
                    }
                }
                Call::Fronts(answer) => {
                    let _ = answer.send(self.listeners.status());
                }
                Call::Stats(answer) => {
                    let _ = answer.send(self.stats());
                }
                Call::Shutdown(answer) => {
                    self.stopping = true;
                    let _ = answer.send(());
                }
            }
        }
    }

    fn stats(&self) -> BTreeMap<NetworkId, GatewayStats> {
        self.gateways.iter().flatten().map(|gateway| (gateway.network.clone(), gateway.status())).collect()
    }

    fn gateway_of(&mut self, network: &NetworkId) -> Option<&mut Gateway> {
        self.gateways.get_mut(*self.by_network.get(network)?)?.as_mut()
    }

    fn add(&mut self, gateway: Gateway) -> io::Result<()> {
        let slot = self.gateways.iter().position(Option::is_none).unwrap_or(self.gateways.len());
        let token = Token(slot * KINDS + DEVICE);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&gateway.fd()), token, interest)?;
        if slot == self.gateways.len() {
            self.gateways.push(None);
        }
        self.by_network.insert(gateway.network.clone(), slot);
        self.gateways[slot] = Some(gateway);
        Ok(())
    }

    /// Ends a network's streams, tells the containers as far as that can be done at once, and closes the device.
    fn remove(&mut self, now: Instant, network: &NetworkId) {
        let Some(slot) = self.by_network.remove(network) else { return };
        let Some(mut gateway) = self.gateways[slot].take() else { return };
        let owners = std::mem::take(&mut gateway.owners);
        for stream in owners.keys() {
            gateway.dialler.reset(*stream);
        }
        let _ = gateway.send(now);
        let _ = self.poll.registry().deregister(&mut SourceFd(&gateway.fd()));
        self.disown(owners.into_values());
    }

    /// These streams are no more.
    fn disown(&mut self, owners: impl Iterator<Item = Owner>) {
        for owner in owners {
            match owner {
                Owner::Caller(answer) => {
                    let _ = answer.send(Err(DialError::NoGateway));
                }
                Owner::Client(client) => self.refuse(client),
                Owner::Opened => {}
                Owner::Splice(place) => {
                    if let Some(splice) = self.splices.remove(self.poll.registry(), place) {
                        splice.break_io();
                    }
                }
            }
        }
    }

    fn refuse(&mut self, client: Client) {
        self.waiting -= 1;
        client.refuse();
    }

    fn dial(
        &mut self,
        now: Instant,
        network: &NetworkId,
        to: SocketAddrV4,
        answer: oneshot::Sender<Result<Opened, DialError>>,
    ) {
        let dialled = match self.gateway_of(network) {
            None => Err(DialError::NoGateway),
            Some(gateway) => gateway.dial(now, to).map(|stream| (gateway, stream)),
        };
        match dialled {
            Ok((gateway, stream)) => {
                gateway.owners.insert(stream, Owner::Caller(answer));
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    /// A socket for a stream that stands open.
    fn join(&mut self, now: Instant, network: &NetworkId, stream: StreamId, io: OwnedFd) {
        let slot = self.by_network.get(network).copied();
        let opened =
            self.gateway_of(network).is_some_and(|gateway| matches!(gateway.owners.get(&stream), Some(Owner::Opened)));
        let (Some(slot), true) = (slot, opened) else { return break_socket(&io) };
        if let Err(error) = set_nonblocking(&io) {
            tracing::debug!(%error, "a socket cannot be joined to a stream");
            if let Some(gateway) = self.gateway_of(network) {
                gateway.owners.remove(&stream);
                gateway.dialler.reset(stream);
            }
            return;
        }
        self.splice(now, slot, Splice::new(slot, stream, io, None));
    }

    /// Joins both ends from now on.
    fn splice(&mut self, now: Instant, slot: usize, splice: Splice) {
        let stream = splice.stream;
        let Some(gateway) = &mut self.gateways[slot] else { return };
        match self.splices.insert(self.poll.registry(), splice, |place| Token(place * KINDS + SPLICE)) {
            Ok(place) => {
                gateway.owners.insert(stream, Owner::Splice(place));
            }
            Err((error, splice)) => {
                tracing::debug!(%error, "a socket cannot be waited for");
                splice.break_io();
                gateway.owners.remove(&stream);
                gateway.dialler.reset(stream);
                self.send(now, slot);
            }
        }
    }

    /// Takes what has come in at a listener, within bounds.
    fn serve_listener(&mut self, now: Instant, slot: usize) {
        for _ in 0..TURN_ACCEPTED {
            let Some(listener) = self.listeners.get_mut(slot) else { return };
            if !listener.has_turn(now) {
                return;
            }
            let gateway = self.by_network.get(&listener.network).copied();
            match &listener.door {
                Some(Door::Stream(socket)) => {
                    match rustix::net::accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                        Ok(io) => {
                            let there = gateway.and_then(|slot| self.gateways[slot].as_ref());
                            let is_left_out = |to| there.is_some_and(|gateway| gateway.left_out.contains(now, to));
                            let order = listener.order(is_left_out);
                            let client = Client::new(io, listener.counters.clone(), order);
                            self.waiting += 1;
                            if self.waiting + self.splices.len() > self.connections_max {
                                self.refuse(client);
                            } else {
                                self.seek(now, gateway, client);
                            }
                        }
                        Err(Errno::AGAIN) => listener.ready = false,
                        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => listener.pause(now),
                        // It was of one connection, which is gone.
                        Err(_) => {}
                    }
                }
                Some(Door::Datagram(socket)) => match socket.recv(&mut self.buffer[..]) {
                    Ok(asked) => {
                        let asker = Asker { front: listener.number, client: asked.from, at: asked.at };
                        let mut gateway = gateway.and_then(|slot| self.gateways[slot].as_mut());
                        let mut ended = None;
                        for payload in asked.batch.iter() {
                            let passed = gateway.as_mut().map(|gateway| gateway.ask(now, listener, asker, payload));
                            let (passed, ended_for_it) = passed.unwrap_or_default();
                            // Of one asker the first datagram alone can begin a session.
                            ended = ended.or(ended_for_it);
                            if !passed {
                                listener.counters.dropped();
                            }
                        }
                        ended.into_iter().for_each(|front| self.listeners.session_ended(front));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => listener.ready = false,
                    // It was of a datagram sent before.
                    Err(_) => {}
                },
                None => return,
            }
        }
        self.busy = true;
    }

    /// Asks the next container to take a connection. If there is none, it is refused.
    fn seek(&mut self, now: Instant, slot: Option<usize>, mut client: Client) {
        if let Some(Some(gateway)) = slot.map(|slot| &mut self.gateways[slot]) {
            while let Some(to) = client.next() {
                if let Ok(stream) = gateway.dial(now, to) {
                    gateway.owners.insert(stream, Owner::Client(client));
                    return;
                }
            }
        }
        self.refuse(client);
    }

    /// A gateway takes in what its network has sent and what time brings, and its streams' owners hear of it.
    fn serve_gateway(&mut self, now: Instant, slot: usize) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        let mut served = gateway.handle_timeout(now, &self.listeners);
        if served.is_ok() && gateway.readable {
            served = gateway.read(now, &mut self.buffer, &self.listeners);
            self.busy |= gateway.readable;
        }
        if let Err(failed) = served {
            return self.restart(now, slot, &failed);
        }
        while let Some(stream) = self.gateways[slot].as_mut().and_then(|gateway| gateway.dialler.poll_changed()) {
            self.changed(now, slot, stream);
        }
    }

    /// Something has happened to a stream.
    fn changed(&mut self, now: Instant, slot: usize, stream: StreamId) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        if let Some(Owner::Splice(place)) = gateway.owners.get(&stream) {
            self.splices.ready(*place);
            return;
        }
        match gateway.dialler.state(stream) {
            None | Some(StreamState::Opening) => {}
            Some(StreamState::Open) => self.opened(now, slot, stream),
            Some(StreamState::Ended(how)) => self.not_opened(now, slot, stream, how),
        }
    }

    fn opened(&mut self, now: Instant, slot: usize, stream: StreamId) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        match gateway.owners.remove(&stream) {
            Some(Owner::Caller(answer)) => {
                gateway.stats.opened += 1;
                gateway.owners.insert(stream, Owner::Opened);
                // If nobody waits for it any more it is dropped here, and resets itself.
                let _ = answer.send(Ok(Opened::new(self.shared.clone(), gateway.network.clone(), stream)));
            }
            Some(Owner::Client(client)) => {
                gateway.stats.opened += 1;
                client.asked.into_iter().for_each(|container| gateway.left_out.remove(container));
                self.waiting -= 1;
                self.splice(now, slot, Splice::new(slot, stream, client.io, Some(client.front)));
            }
            Some(owner) => {
                gateway.owners.insert(stream, owner);
            }
            None => {}
        }
    }

    /// A stream has ended before anybody could be joined to it.
    fn not_opened(&mut self, now: Instant, slot: usize, stream: StreamId, how: Ending) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        match gateway.owners.remove(&stream) {
            Some(Owner::Caller(answer)) => {
                let error = gateway.count_ending(how);
                gateway.dialler.release(now, stream);
                let _ = answer.send(Err(error));
            }
            Some(Owner::Client(client)) => {
                gateway.count_ending(how);
                gateway.dialler.release(now, stream);
                client.asked.into_iter().for_each(|container| gateway.left_out.insert(now, container));
                self.seek(now, Some(slot), client);
            }
            // Whoever has it will see.
            Some(owner) => {
                gateway.owners.insert(stream, owner);
            }
            None => {}
        }
    }

    /// The next splice in line has its turn.
    fn carry(&mut self, now: Instant) {
        let Some((place, splice)) = self.splices.next() else { return };
        let (slot, stream) = (splice.gateway, splice.stream);
        let Some(gateway) = &mut self.gateways[slot] else { return };
        let mut carried = Carried::default();
        let ended = match gateway.dialler.state(stream) {
            Some(StreamState::Ended(how)) => Some(how),
            _ => None,
        };
        let turn = splice.turn(now, &mut gateway.dialler, &mut carried);
        gateway.stats.bytes_in += carried.up_bytes;
        gateway.stats.bytes_out += carried.down_bytes;
        match turn {
            Turn::Waits => {}
            Turn::Again => self.splices.ready(place),
            Turn::Over => {
                if let Some(how) = ended {
                    gateway.count_ending(how);
                }
                gateway.owners.remove(&stream);
                self.splices.remove(self.poll.registry(), place);
            }
        }
    }

    fn send(&mut self, now: Instant, slot: usize) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        match gateway.send(now) {
            Ok(more) => self.busy |= more,
            Err(failed) => self.restart(now, slot, &failed),
        }
    }

    fn restart(&mut self, now: Instant, slot: usize, failed: &Failed) {
        let Some(gateway) = &mut self.gateways[slot] else { return };
        tracing::error!(network = %gateway.network, ?failed, "the gateway's streams are lost");
        let owners = gateway.restart(now, seed());
        self.disown(owners.into_values());
    }

    /// Ends the streams whose clients have gone and whose containers do not take what they left.
    fn end_left_behind(&mut self, now: Instant) {
        while let Some((_, place, number)) = self.left_behind.front().copied().filter(|(at, ..)| *at <= now) {
            self.left_behind.pop_front();
            let Some(splice) = self.splices.get_mut(place).filter(|splice| splice.number == number) else { continue };
            let (slot, stream) = (splice.gateway, splice.stream);
            if let Some(gateway) = &mut self.gateways[slot] {
                gateway.dialler.reset(stream);
                gateway.owners.remove(&stream);
                self.busy = true;
            }
            self.splices.remove(self.poll.registry(), place);
        }
    }
}

fn seed() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random::seed();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

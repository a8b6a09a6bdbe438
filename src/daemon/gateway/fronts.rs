//! The listeners: which there are to be, which there are, and why not.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use super::counters::Counters;
use super::sessions::Asker;
use super::{Front, Fronts, Listen};
use crate::model::NetworkId;
use crate::sys::host_udp::HostUdp;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long nothing is accepted after the system had no room for it: no readiness tells when it has.
const PAUSE: Duration = Duration::from_millis(250);

/// Where something comes in.
pub(super) enum Door {
    Stream(OwnedFd),
    Datagram(HostUdp),
}

/// A front, listening or not.
pub(super) struct Listener {
    /// Another one for each front that ever was.
    pub(super) number: u64,
    listen: Listen,
    pub(super) network: NetworkId,
    pub(super) to: Vec<SocketAddrV4>,
    spare: Vec<SocketAddrV4>,
    kept: Vec<SocketAddrV4>,
    /// Whose turn it is.
    turn: usize,
    pub(super) door: Option<Door>,
    error: Option<String>,
    pub(super) counters: Rc<Counters>,
    /// Whether something may have come, until it says that nothing has.
    pub(super) ready: bool,
    paused_until: Option<Instant>,
}

impl Listener {
    /// Whose turn it is among the containers; the next time it is another's.
    pub(super) fn take_turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// The containers in the order in which they are asked to take the next connection; those that are left out come last.
    pub(super) fn order(&mut self, is_left_out: impl Fn(SocketAddrV4) -> bool) -> Vec<SocketAddrV4> {
        let turn = self.take_turn();
        let mut order = Vec::with_capacity(self.to.len() + self.spare.len());
        for some in [&self.to, &self.spare] {
            let (before, from) = some.split_at(turn % some.len().max(1));
            order.extend(from.iter().chain(before));
        }
        order.sort_by_key(|container| is_left_out(*container));
        order
    }

    /// Whether a session of datagrams with this container may go on.
    pub(super) fn keeps(&self, network: &NetworkId, to: &SocketAddrV4) -> bool {
        self.network == *network && (self.to.contains(to) || self.kept.contains(to))
    }

    /// The system has no room for what comes in.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }

    /// Whether it is to be asked what has come.
    pub(super) fn has_turn(&mut self, now: Instant) -> bool {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        self.ready && self.paused_until.is_none() && self.door.is_some()
    }

    pub(super) fn answer(&self, asker: &Asker, payload: &[u8]) {
        if let Some(Door::Datagram(socket)) = &self.door {
            match socket.send(payload, asker.client, asker.at) {
                Ok(()) => self.counters.carried(0, payload.len() as u64),
                Err(_) => self.counters.dropped(),
            }
        }
    }

    fn close(&mut self, registry: &Registry) {
        let Some(door) = self.door.take() else { return };
        if let Err(error) = registry.deregister(&mut SourceFd(&fd(&door))) {
            tracing::debug!(%error, "a listener was not being polled");
        }
        if let Listen::Unix { path, .. } = &self.listen {
            // Whoever has removed it has done what is to be done.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Listeners {
    slots: Vec<Option<Listener>>,
    by_listen: BTreeMap<Listen, usize>,
    next_number: u64,
}

impl Listeners {
    /// Makes them those that are wanted. What stays keeps its socket; what could not be had is tried again.
    pub(super) fn set(&mut self, registry: &Registry, wanted: Vec<Front>, token: impl Fn(usize) -> Token) {
        let wanted: BTreeMap<Listen, Front> = wanted.into_iter().map(|front| (front.listen.clone(), front)).collect();
        // First, since what goes may hold the port of what comes.
        let gone: Vec<Listen> = self.by_listen.keys().filter(|listen| !wanted.contains_key(listen)).cloned().collect();
        for slot in gone.iter().filter_map(|listen| self.by_listen.remove(listen)) {
            if let Some(mut listener) = self.slots[slot].take() {
                listener.close(registry);
            }
        }
        for (listen, front) in wanted {
            let slot = self.by_listen.get(&listen).copied().unwrap_or_else(|| self.place(&listen, &front));
            let Some(listener) = &mut self.slots[slot] else { continue };
            let Front { listen: _, network, to, spare, kept } = front;
            (listener.network, listener.to, listener.spare, listener.kept) = (network, to, spare, kept);
            if listener.door.is_none() {
                let before = listener.error.take();
                listener.error = open(registry, &listen, token(slot)).map(|door| listener.door = Some(door)).err();
                if let Some(error) = listener.error.as_ref().filter(|error| before.as_ref() != Some(error)) {
                    tracing::warn!(?listen, %error, "cannot listen");
                }
            }
        }
    }

    fn place(&mut self, listen: &Listen, front: &Front) -> usize {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(Listener {
            number: self.next_number,
            listen: listen.clone(),
            network: front.network.clone(),
            to: Vec::new(),
            spare: Vec::new(),
            kept: Vec::new(),
            turn: 0,
            door: None,
            error: None,
            counters: Rc::default(),
            ready: true,
            paused_until: None,
        });
        self.next_number += 1;
        self.by_listen.insert(listen.clone(), slot);
        slot
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Listener> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The one with this number, if it is still there.
    pub(super) fn by_number(&self, number: u64) -> Option<&Listener> {
        // Only datagrams ask, and those that have a session.
        self.slots.iter().flatten().find(|listener| listener.number == number)
    }

    /// A session of the one with this number is over.
    pub(super) fn session_ended(&self, number: u64) {
        if let Some(listener) = self.by_number(number) {
            listener.counters.ended();
        }
    }

    /// Those that take datagrams, by number.
    pub(super) fn of_datagrams(&self) -> HashMap<u64, &Listener> {
        let listeners = self.slots.iter().flatten().filter(|listener| matches!(listener.listen, Listen::Udp(_)));
        listeners.map(|listener| (listener.number, listener)).collect()
    }

    /// When a pause ends.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter_map(|listener| listener.paused_until).min()
    }

    /// How each is.
    pub(super) fn status(&self) -> Fronts {
        let listeners = self.slots.iter().flatten();
        listeners.map(|one| (one.listen.clone(), one.counters.status(one.error.clone()))).collect()
    }

    /// Closes all.
    pub(super) fn clear(&mut self, registry: &Registry) {
        self.slots.iter_mut().flatten().for_each(|listener| listener.close(registry));
        self.slots.clear();
        self.by_listen.clear();
    }
}

fn fd(door: &Door) -> RawFd {
    match door {
        Door::Stream(socket) => socket.as_raw_fd(),
        Door::Datagram(socket) => socket.as_raw_fd(),
    }
}

fn open(registry: &Registry, listen: &Listen, token: Token) -> Result<Door, String> {
    let door = match listen {
        Listen::Unix { path, mode } => bind_unix(path, *mode).map(|socket| Door::Stream(socket.into())),
        Listen::Tcp(address) => bind_host(*address, Type::STREAM).map(|socket| Door::Stream(socket.into())),
        Listen::Udp(address) => {
            bind_host(*address, Type::DGRAM).and_then(|socket| HostUdp::new(socket.into())).map(Door::Datagram)
        }
    };
    let door = door.map_err(|error| error.to_string())?;
    match registry.register(&mut SourceFd(&fd(&door)), token, Interest::READABLE) {
        Ok(()) => Ok(door),
        Err(error) => Err(error.to_string()),
    }
}

fn bind_host(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier start that are just ending do not hold the port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != ErrorKind::AddrInUse || !is_left_behind(path, &address)? {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Whether it is a socket on which nobody listens any more.
fn is_left_behind(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    Ok(probe.connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

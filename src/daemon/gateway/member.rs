//! One network's gateway: its machine, its device, and who its streams belong to.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tokio::sync::oneshot;

use super::fronts::{Listener, Listeners};
use super::left_out::LeftOut;
use super::sessions::{Asked, Asker, Sessions};
use super::splice::Client;
use super::{DialError, GatewayStats, Opened};
use crate::model::NetworkId;
use crate::netstack::{CannotDial, Dialler, DiallerConfig, Ending, StreamId};
use crate::packet::{Protocol, Superpacket, UDP_HEADERS_LEN, UdpView};
use crate::sys::tun_io::{READ_LEN, TunDevice};

/// Streams of one gateway.
const STREAMS_MAX: usize = 16_384;
/// What their buffers take; see [`DiallerConfig`].
const BUFFERS_BYTES_MAX: usize = 256 << 20;
/// Packets that are read, or sent, before the next gateway has its turn.
const TURN_PACKETS: usize = 64;

/// Whose a stream is.
pub(super) enum Owner {
    /// Who waits for it to open.
    Caller(oneshot::Sender<Result<Opened, DialError>>),
    /// A connection that waits for it to open.
    Client(Client),
    /// It is open, and an [`Opened`] stands for it.
    Opened,
    /// The splice at this place.
    Splice(usize),
}

pub(super) struct Gateway {
    pub(super) network: NetworkId,
    config: DiallerConfig,
    pub(super) dialler: Dialler,
    device: TunDevice,
    pub(super) readable: bool,
    writable: bool,
    pub(super) owners: HashMap<StreamId, Owner>,
    pub(super) sessions: Sessions,
    pub(super) left_out: LeftOut,
    pub(super) stats: GatewayStats,
}

/// The machine has failed, and none of its streams can go on.
#[derive(Debug)]
pub(super) struct Failed;

impl Gateway {
    pub(super) fn new(
        now: Instant,
        network: NetworkId,
        address: Ipv4Addr,
        mtu_bytes: u16,
        device: OwnedFd,
        seed: u64,
    ) -> io::Result<Self> {
        let device = TunDevice::new(device, true, false)?;
        let config =
            DiallerConfig { address, mtu_bytes, streams_max: STREAMS_MAX, buffers_bytes_max: BUFFERS_BYTES_MAX };
        Ok(Self {
            network,
            dialler: Dialler::new(config.clone(), now, seed),
            config,
            device,
            readable: true,
            writable: true,
            owners: HashMap::new(),
            sessions: Sessions::default(),
            left_out: LeftOut::default(),
            stats: GatewayStats::default(),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }

    pub(super) fn set_ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
    }

    /// A machine without streams in the place of one that has failed. Gives back whose they were.
    pub(super) fn restart(&mut self, now: Instant, seed: u64) -> HashMap<StreamId, Owner> {
        self.dialler = Dialler::new(self.config.clone(), now, seed);
        std::mem::take(&mut self.owners)
    }

    /// Asks a container for a stream.
    pub(super) fn dial(&mut self, now: Instant, to: SocketAddrV4) -> Result<StreamId, DialError> {
        let dialled = self.dialler.dial(now, to).map_err(|cannot| match cannot {
            CannotDial::Full => DialError::Full,
            CannotDial::Address => DialError::Unreachable,
        });
        self.stats.refused += u64::from(dialled.is_err());
        dialled
    }

    /// Counts how a stream ended that had not been opened, or was open, and says it in the words of who dialled.
    pub(super) fn count_ending(&mut self, how: Ending) -> DialError {
        match how {
            Ending::Refused => self.stats.refused += 1,
            Ending::Unreachable => self.stats.refused += 1,
            Ending::TimedOut => self.stats.timed_out += 1,
            Ending::Reset => self.stats.reset += 1,
            Ending::Closed => {}
        }
        match how {
            Ending::Unreachable => DialError::Unreachable,
            Ending::TimedOut => DialError::TimedOut,
            Ending::Refused | Ending::Reset | Ending::Closed => DialError::Refused,
        }
    }

    /// Takes in what the network has sent, within bounds. Datagrams go to the fronts' clients.
    pub(super) fn read(&mut self, now: Instant, buffer: &mut [u8; READ_LEN], fronts: &Listeners) -> Result<(), Failed> {
        guard(|| {
            for _ in 0..TURN_PACKETS {
                // A device that is gone has nothing more, and its fate is decided by whoever gave it.
                let Ok(Some(mut packet)) = self.device.read(buffer) else {
                    self.readable = false;
                    return;
                };
                let is_udp = packet.view().is_ok_and(|view| view.protocol() == Protocol::Udp);
                if !is_udp {
                    self.dialler.handle_packet(now, packet.bytes());
                    continue;
                }
                let Ok(mut datagrams) = packet.segments() else { continue };
                while let Some(datagram) = datagrams.next() {
                    if let Some(datagram) = self.dialler.handle_packet(now, datagram) {
                        answer(now, &mut self.sessions, &mut self.stats, fronts, &datagram);
                    }
                }
            }
        })
    }

    /// The fronts have changed: a session whose container is not its front's any more ends, since nobody there would say so.
    pub(super) fn keep_sessions(&mut self, fronts: &HashMap<u64, &Listener>) {
        self.sessions.retain(|front, to| {
            let Some(listener) = fronts.get(&front) else { return false };
            let keeps = listener.keeps(&self.network, to);
            if !keeps {
                listener.counters.ended();
            }
            keeps
        });
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant, fronts: &Listeners) -> Result<(), Failed> {
        self.sessions.expire(now, |front| fronts.session_ended(front));
        if self.dialler.next_timeout().is_some_and(|at| at <= now) {
            return guard(|| self.dialler.handle_timeout(now));
        }
        Ok(())
    }

    /// Sends what the streams have to send, within bounds. Whether there may be more that can be sent at once.
    pub(super) fn send(&mut self, now: Instant) -> Result<bool, Failed> {
        guard(|| {
            for _ in 0..TURN_PACKETS {
                if !self.writable {
                    return false;
                }
                let Some(packet) = self.dialler.poll_packet(now) else { return false };
                let written = self.device.pass(&packet);
                if written.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    self.dialler.hold_packet();
                    self.writable = false;
                }
            }
            true
        })
    }

    /// A client's datagram: whether it was passed on, and the front of the session that made room for its own.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        front: &mut Listener,
        client: Asker,
        payload: &[u8],
    ) -> (bool, Option<u64>) {
        let asked = self.sessions.ask(now, client, || {
            let turn = front.take_turn();
            front.to.get(turn % front.to.len().max(1)).copied()
        });
        let Some(Asked { port, to, is_new, ended }) = asked else {
            front.counters.refused();
            return (false, None);
        };
        if is_new {
            front.counters.begun();
        }
        let mut packet = vec![0; UDP_HEADERS_LEN + payload.len()];
        let Some(len) = self.dialler.write_datagram(&mut packet, port, to, payload) else { return (false, ended) };
        let passed = self.device.pass(&Superpacket::complete(&mut packet[..len])).is_ok();
        if passed {
            self.stats.bytes_in += payload.len() as u64;
            front.counters.carried(payload.len() as u64, 0);
        }
        (passed, ended)
    }

    /// When something is to be done though nothing happens.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.dialler.next_timeout().into_iter().chain(self.sessions.next_timeout()).min()
    }

    pub(super) fn status(&self) -> GatewayStats {
        GatewayStats {
            streams: self.dialler.stream_count() as u64,
            sessions: self.sessions.len() as u64,
            buffer_bytes: self.dialler.buffers_bytes() as u64,
            ..self.stats
        }
    }
}

/// A datagram from the network goes to the client whose session it is of.
fn answer(now: Instant, sessions: &mut Sessions, stats: &mut GatewayStats, fronts: &Listeners, datagram: &UdpView<'_>) {
    let Some(asker) = sessions.answer(now, datagram.destination.port(), datagram.source) else { return };
    if let Some(listener) = fronts.by_number(asker.front) {
        stats.bytes_out += datagram.payload.len() as u64;
        listener.answer(&asker, datagram.payload);
    }
}

/// Whatever a stranger finds in the machine to make it panic ends its network's streams, and no other's.
fn guard<T>(work: impl FnOnce() -> T) -> Result<T, Failed> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Failed)
}

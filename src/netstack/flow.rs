//! One stream of a dialler: its socket, how far it has come, and how it ended.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;
use smoltcp::wire::IpListenEndpoint;

use super::StreamId;
use super::pool::OneSocket;

/// How long the other end has to take a stream.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle stream asks whether the other end is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long it, and whatever was sent, may go unanswered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);
/// How long a stream that nobody wants any more has to deliver what it holds and to end.
const LINGER: Duration = Duration::from_secs(60);
/// What passed through a stream beyond which its buffers have been touched all over.
const TOUCHED_BYTES: u64 = 256 << 10;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nobody takes streams at that port.
    Refused,
    /// There is no way to that address.
    Unreachable,
    /// The other end did not answer.
    TimedOut,
    /// The other end ended it at once.
    Reset,
    /// Both ends had said that they would send no more, or it was this end that ended it.
    Closed,
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    Opening,
    Open,
    Ended(Ending),
}

/// Whose a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) port: u16,
    pub(super) remote: SocketAddrV4,
}

pub(super) struct Flow {
    pub(super) id: StreamId,
    pub(super) key: Key,
    pub(super) socket: OneSocket,
    pub(super) state: StreamState,
    /// The most payload of a segment that the other end and the path take.
    pub(super) segment_bytes: u16,
    /// The sequence number of its first segment, once that is sent.
    pub(super) first_sequence: Option<u32>,
    /// The sequence number and the acknowledgement that were sent last.
    pub(super) last_sent: (u32, u32),
    /// Whether it stands in the line of those that may have something to send.
    pub(super) queued: bool,
    /// Whether its owner is still to be told that something happened.
    pub(super) changed: bool,
    /// Whether its owner wants no more of it.
    pub(super) released: bool,
    /// Whether nothing more is to be sent: there is nobody to send it to.
    pub(super) mute: bool,
    /// When it is to be looked at, as the dialler's list has it.
    pub(super) timer: Option<Instant>,
    /// When it ends, if it is not open, or not over, by then.
    deadline: Option<Instant>,
    seen: State,
    bytes: u64,
}

/// What a socket may have changed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Packet,
    Time,
}

impl Flow {
    /// A flow whose socket has begun to connect.
    pub(super) fn new(now: Instant, id: StreamId, key: Key, socket: OneSocket, segment_bytes: u16) -> Self {
        Self {
            id,
            key,
            socket,
            state: StreamState::Opening,
            segment_bytes,
            first_sequence: None,
            last_sent: (0, 0),
            queued: false,
            changed: false,
            released: false,
            mute: false,
            timer: None,
            deadline: Some(now + CONNECT_TIMEOUT),
            seen: State::SynSent,
            bytes: 0,
        }
    }

    /// Readies a closed socket and has it ask `key.remote` for a stream; whether that is an address that can be asked.
    pub(super) fn connect(
        socket: &mut OneSocket,
        context: &mut smoltcp::iface::Context,
        local: IpListenEndpoint,
        key: Key,
    ) -> bool {
        let tcp = socket.tcp();
        // Whoever writes has gathered what it has to say already, and acknowledgements go out once for all that came together.
        tcp.set_nagle_enabled(false);
        tcp.set_ack_delay(None);
        tcp.set_keep_alive(Some(KEEP_ALIVE.into()));
        tcp.set_timeout(Some(ANSWER_TIMEOUT.into()));
        tcp.connect(context, (*key.remote.ip(), key.remote.port()), local).is_ok()
    }

    /// Takes note of what became of the socket.
    pub(super) fn observe(&mut self, cause: Cause) {
        let state = self.socket.state();
        let seen = std::mem::replace(&mut self.seen, state);
        match self.state {
            StreamState::Opening => match state {
                State::Closed if cause == Cause::Packet => self.end(Ending::Refused),
                State::Closed => self.end(Ending::TimedOut),
                State::SynSent | State::SynReceived => {}
                _ => {
                    self.state = StreamState::Open;
                    self.deadline = None;
                }
            },
            StreamState::Open if state == State::Closed => {
                let both_done = matches!(seen, State::LastAck | State::Closing | State::TimeWait);
                self.end(match cause {
                    _ if both_done => Ending::Closed,
                    Cause::Packet => Ending::Reset,
                    Cause::Time => Ending::TimedOut,
                });
            }
            StreamState::Open | StreamState::Ended(_) => {}
        }
    }

    /// There is no use in going on.
    pub(super) fn fail(&mut self, why: Ending) {
        self.mute = true;
        self.end(why);
    }

    fn end(&mut self, how: Ending) {
        self.state = StreamState::Ended(how);
        self.deadline = None;
        if how != Ending::Closed {
            self.socket.tcp().abort();
            self.seen = State::Closed;
        }
    }

    /// Its owner wants no more of it, as when a process closes a socket: what was written is delivered, and whatever else comes
    /// meets a reset.
    pub(super) fn release(&mut self, now: Instant) {
        self.released = true;
        match self.state {
            StreamState::Opening => self.reset(),
            StreamState::Open if self.socket.tcp().recv_queue() > 0 => self.reset(),
            StreamState::Open => {
                self.socket.tcp().close();
                self.deadline = Some(now + LINGER);
            }
            StreamState::Ended(_) => {}
        }
    }

    /// Ends it at once and says so.
    pub(super) fn reset(&mut self) {
        self.socket.tcp().abort();
        self.seen = State::Closed;
        self.mute |= self.first_sequence.is_none();
        self.state = StreamState::Ended(Ending::Closed);
        self.deadline = None;
    }

    /// What its deadline, or what comes for nobody, makes of it.
    pub(super) fn enforce(&mut self, now: Instant) {
        let late = self.deadline.is_some_and(|at| at <= now);
        match self.state {
            StreamState::Opening if late => self.fail(Ending::TimedOut),
            StreamState::Open if self.released && (late || self.socket.tcp().recv_queue() > 0) => self.reset(),
            _ => {}
        }
    }

    /// Whether nothing remains to be done, so that it may go.
    pub(super) fn is_over(&mut self) -> bool {
        self.released
            && match self.socket.state() {
                // While it knows its other end it has a reset to send.
                State::Closed => self.mute || self.socket.tcp().remote_endpoint().is_none(),
                State::TimeWait => self.socket.tcp().recv_queue() == 0,
                _ => false,
            }
    }

    /// When it is to be looked at again, if its socket wants to be at `poll_at`.
    pub(super) fn next_timeout(&self, poll_at: Option<Instant>) -> Option<Instant> {
        if self.mute { None } else { poll_at.into_iter().chain(self.deadline).min() }
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Whether so much has passed through it that its buffers are in memory.
    pub(super) fn is_touched(&self) -> bool {
        self.bytes >= TOUCHED_BYTES
    }
}

//! A socket of the host and a stream to a container, joined: what comes on one goes out on the other.
//!
//! Nothing is held in between. Bytes are read from the socket into the stream's own buffer, and written to the socket from
//! there, so whoever does not read fills that buffer, and then the other is not read from.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};

use super::counters::Counters;
use crate::netstack::{Dialler, Ending, Stream, StreamId, StreamState};

/// What one splice carries, each way, before the next has its turn.
const TURN_BYTES: usize = 256 << 10;

/// Two joined ends.
pub(super) struct Splice {
    /// Where its gateway stands.
    pub(super) gateway: usize,
    pub(super) stream: StreamId,
    /// Another one for each splice that ever was.
    pub(super) number: u64,
    io: OwnedFd,
    /// Whether the socket may have bytes, and may take some: until it says otherwise.
    readable: bool,
    writable: bool,
    /// Whether the socket's other end will send no more, so that there is an end behind what can be read.
    read_closed: bool,
    /// Whether nobody is left at the socket's other end.
    hung_up: bool,
    /// Whether everything from the socket has been given to the stream, its end included; and the other way round.
    up_done: bool,
    down_done: bool,
    front: Option<Rc<Counters>>,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for either end.
    Waits,
    /// It has more to do at once.
    Again,
    /// Both directions are closed, or the stream was ended: it is over.
    Over,
}

/// What a turn carried.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) up_bytes: u64,
    pub(super) down_bytes: u64,
}

/// The other end cannot be written to, or read from, any more.
struct Broken;

impl Splice {
    pub(super) fn new(gateway: usize, stream: StreamId, io: OwnedFd, front: Option<Rc<Counters>>) -> Self {
        // It is no use for what is no TCP; what comes from a stream is whole already.
        let _ = sockopt::set_tcp_nodelay(&io, true);
        let _ = sockopt::set_socket_keepalive(&io, true);
        if let Some(front) = &front {
            front.begun();
        }
        Self {
            gateway,
            stream,
            number: 0,
            io,
            readable: true,
            writable: true,
            read_closed: false,
            hung_up: false,
            up_done: false,
            down_done: false,
            front,
        }
    }

    pub(super) fn io(&self) -> &OwnedFd {
        &self.io
    }

    /// The kernel says what the socket is ready for. Whether it is now known that nobody is at its other end.
    pub(super) fn ready(&mut self, event: &mio::event::Event) -> bool {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        self.read_closed |= event.is_read_closed() || event.is_error();
        let first = !self.hung_up && event.is_write_closed();
        self.hung_up |= first;
        first
    }

    /// Carries what can be carried, within bounds.
    pub(super) fn turn(&mut self, now: std::time::Instant, dialler: &mut Dialler, carried: &mut Carried) -> Turn {
        let state = dialler.state(self.stream);
        let (Some(StreamState::Open | StreamState::Ended(Ending::Closed)), Some(mut stream)) =
            (state, dialler.stream(self.stream))
        else {
            dialler.release(now, self.stream);
            self.break_io();
            return Turn::Over;
        };
        let (up, down) = (self.up(&mut stream), self.down(&mut stream));
        let (Ok(up), Ok(down)) = (up, down) else {
            dialler.reset(self.stream);
            self.break_io();
            return Turn::Over;
        };
        carried.up_bytes += up as u64;
        carried.down_bytes += down as u64;
        if let Some(front) = &self.front {
            front.carried(up as u64, down as u64);
        }
        if self.up_done && (self.down_done || self.hung_up) {
            dialler.release(now, self.stream);
            return Turn::Over;
        }
        if up >= TURN_BYTES || down >= TURN_BYTES { Turn::Again } else { Turn::Waits }
    }

    /// Ends the socket so that its other end notices that not all has come.
    pub(super) fn break_io(&self) {
        break_socket(&self.io);
    }

    /// From the socket to the stream.
    fn up(&mut self, stream: &mut Stream<'_>) -> Result<usize, Broken> {
        let mut total = 0;
        while self.readable && !self.up_done && total < TURN_BYTES && stream.room_len() > 0 {
            let mut room_len = 0;
            let read = stream.write_with(|room| {
                room_len = room.len().min(TURN_BYTES);
                let read = rustix::io::read(&self.io, &mut room[..room_len]);
                (read.unwrap_or(0), read)
            });
            match read {
                Some(Ok(0)) => {
                    stream.close();
                    self.up_done = true;
                }
                Some(Ok(len)) => {
                    total += len;
                    // It was emptied, unless its end stands behind that.
                    self.readable = len == room_len || self.read_closed;
                }
                Some(Err(Errno::AGAIN)) => self.readable = false,
                Some(Err(Errno::INTR)) => {}
                Some(Err(_)) => return Err(Broken),
                None => break,
            }
        }
        Ok(total)
    }

    /// From the stream to the socket.
    fn down(&mut self, stream: &mut Stream<'_>) -> Result<usize, Broken> {
        let mut total = 0;
        while self.writable && !self.down_done && total < TURN_BYTES {
            if stream.unread_len() == 0 {
                if stream.is_read_out() {
                    // One that is gone needs no telling.
                    let _ = rustix::net::shutdown(&self.io, Shutdown::Write);
                    self.down_done = true;
                }
                break;
            }
            let written = stream.read_with(|bytes| {
                let written = write(&self.io, bytes);
                (written.unwrap_or(0), written)
            });
            match written {
                Some(Ok(len)) => total += len,
                Some(Err(Errno::AGAIN)) => self.writable = false,
                Some(Err(Errno::INTR)) => {}
                Some(Err(_)) => return Err(Broken),
                None => break,
            }
        }
        Ok(total)
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        if let Some(front) = &self.front {
            front.ended();
        }
    }
}

/// Writes without a signal if nobody is there to read.
fn write(io: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(io, bytes, rustix::net::SendFlags::NOSIGNAL)
}

/// Has a socket that is closed now say so by a reset, where there is such a thing.
pub(super) fn break_socket(io: impl AsFd) {
    let _ = sockopt::set_socket_linger(io, Some(Duration::ZERO));
}

/// A connection for which a container is still to be found.
pub(super) struct Client {
    pub(super) io: OwnedFd,
    pub(super) front: Rc<Counters>,
    /// Those that are still to be asked.
    order: std::vec::IntoIter<SocketAddrV4>,
    /// The one that is asked.
    pub(super) asked: Option<SocketAddrV4>,
}

impl Client {
    pub(super) fn new(io: OwnedFd, front: Rc<Counters>, order: Vec<SocketAddrV4>) -> Self {
        Self { io, front, order: order.into_iter(), asked: None }
    }

    /// The next container to ask.
    pub(super) fn next(&mut self) -> Option<SocketAddrV4> {
        self.asked = self.order.next();
        self.asked
    }

    /// No container takes it.
    pub(super) fn refuse(self) {
        self.front.refused();
        break_socket(&self.io);
    }
}

/// Makes a socket not block, whoever made it.
pub(super) fn set_nonblocking(io: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(io)?;
    Ok(rustix::fs::fcntl_setfl(io, flags | rustix::fs::OFlags::NONBLOCK)?)
}

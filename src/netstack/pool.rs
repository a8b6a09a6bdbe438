//! Sockets for flows, with their buffers, to be used again.
//!
//! To make a buffer of a megabyte costs its zeroes, and smoltcp does not give a buffer back: so whole sockets are kept.

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, SocketBuffer, State};

/// A buffer's bounds. Both are powers of two, and so is what lies between.
pub(super) const BUFFER_LEN_MIN: usize = 32 << 10;
pub(super) const BUFFER_LEN_MAX: usize = 1 << 20;
/// What part of what is left a new stream gets for each direction.
const PART_OF_LEFT: usize = 256;
/// What the sockets that wait for another use may hold in their buffers.
const SPARE_BYTES_MAX: usize = 16 << 20;

/// One TCP socket, in the set of one that smoltcp wants.
pub(super) struct OneSocket {
    pub(super) set: SocketSet<'static>,
    handle: SocketHandle,
    buffer_len: usize,
}

impl OneSocket {
    fn new(buffer_len: usize) -> Self {
        let buffer = || SocketBuffer::new(vec![0; buffer_len]);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(tcp::Socket::new(buffer(), buffer()));
        Self { set, handle, buffer_len }
    }

    pub(super) fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }

    pub(super) fn state(&self) -> State {
        self.set.get::<tcp::Socket<'_>>(self.handle).state()
    }

    /// What its two buffers take.
    pub(super) fn bytes(&self) -> usize {
        2 * self.buffer_len
    }
}

/// All buffers of a dialler: those in use are counted, a few that are not are kept.
pub(super) struct Pool {
    spare: Vec<OneSocket>,
    spare_bytes: usize,
    used_bytes: usize,
    bytes_max: usize,
}

impl Pool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { spare: Vec::new(), spare_bytes: 0, used_bytes: 0, bytes_max }
    }

    /// What the buffers in use take.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// A closed socket. The more others have, the less it gets.
    pub(super) fn take(&mut self) -> OneSocket {
        let part = self.bytes_max.saturating_sub(self.used_bytes) / PART_OF_LEFT;
        let buffer_len = (1 << part.max(1).ilog2()).clamp(BUFFER_LEN_MIN, BUFFER_LEN_MAX);
        let spare = self.spare.iter().rposition(|socket| socket.buffer_len == buffer_len);
        let mut socket = match spare {
            Some(at) => {
                let socket = self.spare.swap_remove(at);
                self.spare_bytes -= socket.bytes();
                socket
            }
            None => OneSocket::new(buffer_len),
        };
        // What a connection before has left there is not reset with the rest.
        socket.tcp().set_congestion_control(CongestionControl::Cubic);
        self.used_bytes += socket.bytes();
        socket
    }

    /// Takes a socket back. One that has `touched` much of its buffers goes, and their memory with it.
    pub(super) fn give(&mut self, mut socket: OneSocket, touched: bool) {
        self.used_bytes -= socket.bytes();
        socket.tcp().abort();
        if !touched && self.spare_bytes + socket.bytes() <= SPARE_BYTES_MAX {
            self.spare_bytes += socket.bytes();
            self.spare.push(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gets_most_the_later_ever_less_and_nobody_less_than_the_least() {
        let mut pool = Pool::new(256 << 20);
        let lens: Vec<usize> = (0..2000).map(|_| pool.take().buffer_len).collect();
        assert_eq!((lens[0], lens[1999]), (BUFFER_LEN_MAX, BUFFER_LEN_MIN));
        assert!(lens.is_sorted_by(|one, next| one >= next));
        assert!(lens.iter().filter(|len| **len > BUFFER_LEN_MIN).sum::<usize>() <= 128 << 20);
    }

    #[test]
    fn what_waits_for_another_use_is_bounded_and_used_again() {
        let mut pool = Pool::new(256 << 20);
        let sockets: Vec<OneSocket> = (0..20).map(|_| pool.take()).collect();
        let used = pool.used_bytes();
        assert_eq!(used, sockets.iter().map(OneSocket::bytes).sum::<usize>());
        for socket in sockets {
            pool.give(socket, false);
        }
        assert_eq!((pool.used_bytes(), pool.spare_bytes <= SPARE_BYTES_MAX), (0, true));
        let spare = pool.spare.len();
        let again = pool.take();
        assert_eq!(pool.spare.len(), spare - 1);
        pool.give(again, true);
        assert_eq!(pool.spare.len(), spare - 1);
    }
}

//! One stream, as whoever owns its machine sees it.

use smoltcp::socket::tcp::{self, State};

/// A stream of one machine; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u64);

/// One stream, as long as its machine is borrowed.
pub struct Stream<'a>(pub(super) &'a mut tcp::Socket<'static>);

impl Stream<'_> {
    /// Reads what has come, up to the length of `out`; 0 if nothing has.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.0.recv_slice(out).unwrap_or(0)
    }

    /// Gives bytes to be sent, and returns how many there was room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.send_slice(bytes).unwrap_or(0)
    }

    /// How many bytes have come and were not read.
    pub fn unread_len(&self) -> usize {
        self.0.recv_queue()
    }

    /// How many bytes there is room for.
    pub fn room_len(&self) -> usize {
        if self.0.may_send() { self.0.send_capacity() - self.0.send_queue() } else { 0 }
    }

    /// Lends the first bytes that have come, all that lie together, to `take`, which says how many of them it took.
    pub fn read_with<R>(&mut self, take: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        self.0
            .recv(|bytes| {
                let (len, result) = take(bytes);
                (len.min(bytes.len()), result)
            })
            .ok()
    }

    /// Lends room for bytes to be sent, all that lies together, to `fill`, which says how much of it it filled.
    pub fn write_with<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        self.0
            .send(|room| {
                let room_len = room.len();
                let (len, result) = fill(room);
                (len.min(room_len), result)
            })
            .ok()
    }

    /// Whether nothing more will come: the other end has said so, and everything was read.
    pub fn is_read_out(&self) -> bool {
        !self.0.may_recv() && !matches!(self.0.state(), State::Listen | State::SynSent | State::SynReceived)
    }

    /// Ends its sending side once everything is sent; what comes can still be read.
    pub fn close(&mut self) {
        self.0.close();
    }

    /// Ends it at once.
    pub fn abort(&mut self) {
        self.0.abort();
    }
}

//! Frames for other nodes, one after another in one arena, in runs that the kernel takes in one call.

use std::net::SocketAddr;

use super::{ARENA_LEN, ROOM_LEN};
use crate::packet::Batch;

/// The most that the kernel cuts into datagrams in one call.
const RUN_SEGMENTS_MAX: usize = 64;
/// The longest UDP payload over IPv4, which bounds the sum of the segments as well.
const RUN_LEN_MAX: usize = 65_507;

pub(super) struct WireArena {
    bytes: Vec<u8>,
    len: usize,
    runs: Vec<Run>,
    next: usize,
    /// The socket takes nothing at the moment.
    held: bool,
}

/// Datagrams to one address, in one place of the arena.
struct Run {
    to: SocketAddr,
    start: usize,
    end: usize,
    segment_len: usize,
    segments: usize,
    /// A shorter segment is the last one of its batch.
    closed: bool,
}

impl WireArena {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; ARENA_LEN], len: 0, runs: Vec::with_capacity(64), next: 0, held: false }
    }

    pub(super) fn has_room(&self) -> bool {
        ARENA_LEN - self.len >= ROOM_LEN
    }

    /// The free part, where the next frame is to be written from the beginning.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// The first `len` bytes of the spare part are a frame for `to`.
    pub(super) fn commit(&mut self, to: SocketAddr, len: usize) {
        let start = self.len;
        self.len += len;
        // A run that has been handed out does not grow.
        if self.runs.len() > self.next
            && let Some(run) = self.runs.last_mut()
            && run.to == to
            && !run.closed
            && len <= run.segment_len
            && run.segments < RUN_SEGMENTS_MAX
            && self.len - run.start <= RUN_LEN_MAX
        {
            run.end = self.len;
            run.segments += 1;
            run.closed = len < run.segment_len;
            return;
        }
        self.runs.push(Run { to, start, end: self.len, segment_len: len, segments: 1, closed: false });
    }

    /// The next run, unless they are held. When there is none, the arena is empty again.
    pub(super) fn poll(&mut self) -> Option<(SocketAddr, Batch<'_>)> {
        if self.held {
            return None;
        }
        if self.next == self.runs.len() {
            self.len = 0;
            self.next = 0;
            self.runs.clear();
            return None;
        }
        let run = &self.runs[self.next];
        self.next += 1;
        Some((run.to, Batch::new(&self.bytes[run.start..run.end], run.segment_len)))
    }

    /// Of the run that was handed out last only `sent` datagrams went: the others wait until [`Self::release`].
    pub(super) fn hold(&mut self, sent: usize) {
        self.held = true;
        let Some(last) = self.next.checked_sub(1) else { return };
        let run = &mut self.runs[last];
        if sent < run.segments {
            run.start += sent * run.segment_len;
            run.segments -= sent;
            // Its bytes are where the socket was promised them: nothing is put behind it.
            run.closed = true;
            self.next = last;
        }
    }

    /// The socket takes datagrams again.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(arena: &mut WireArena) -> Vec<(u16, usize, usize)> {
        let mut all = Vec::new();
        while let Some((to, batch)) = arena.poll() {
            all.push((to.port(), batch.segment_len(), batch.count()));
        }
        all
    }

    fn to(port: u16) -> SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, port).into()
    }

    #[test]
    fn a_batch_ends_with_a_shorter_frame_a_longer_one_and_another_address() {
        let mut arena = WireArena::new();
        for (port, len) in [(1, 100), (1, 100), (1, 60), (1, 60), (1, 100), (2, 100), (1, 100)] {
            arena.commit(to(port), len);
        }
        assert_eq!(drain(&mut arena), [(1, 100, 3), (1, 60, 1), (1, 100, 1), (2, 100, 1), (1, 100, 1)]);
        assert_eq!(drain(&mut arena), []);
    }

    #[test]
    fn a_batch_is_never_more_than_the_kernel_takes() {
        let mut arena = WireArena::new();
        (0..100).for_each(|_| arena.commit(to(1), 10));
        assert_eq!(drain(&mut arena), [(1, 10, 64), (1, 10, 36)]);
        (0..60).for_each(|_| arena.commit(to(1), 1448));
        assert_eq!(drain(&mut arena), [(1, 1448, 45), (1, 1448, 15)]);
    }

    #[test]
    fn what_the_socket_did_not_take_waits_and_leaves_once_and_in_order() {
        let mut arena = WireArena::new();
        for (i, len) in [10, 10, 10, 7].into_iter().enumerate() {
            arena.spare()[..len].fill(i as u8);
            arena.commit(to(1), len);
        }
        assert_eq!(arena.poll().map(|(_, batch)| batch.count()), Some(4));
        arena.hold(1);
        assert!(arena.poll().is_none() && arena.is_held());
        arena.spare()[..7].fill(4);
        arena.commit(to(1), 7);
        arena.release();
        let (_, rest) = arena.poll().expect("what was held");
        assert_eq!(
            rest.iter().map(|datagram| (datagram[0], datagram.len())).collect::<Vec<_>>(),
            [(1, 10), (2, 10), (3, 7)]
        );
        assert_eq!(drain(&mut arena), [(1, 7, 1)]);
    }

    #[test]
    fn a_batch_that_went_as_a_whole_before_the_socket_was_full_does_not_go_again() {
        let mut arena = WireArena::new();
        arena.commit(to(1), 10);
        assert!(arena.poll().is_some());
        arena.hold(1);
        arena.release();
        assert!(arena.poll().is_none());
    }
}

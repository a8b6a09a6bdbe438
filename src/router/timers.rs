//! When which tunnel wants attention. Nothing is ever scanned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::tunnel::TunnelSlot;

/// Deadlines of tunnels, the earliest first.
///
/// A deadline that has been moved stays in the heap and is thrown away when its time comes: the tunnel knows its own.
#[derive(Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Instant, TunnelSlot)>>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, tunnel: TunnelSlot) {
        self.0.push(Reverse((at, tunnel)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next deadline that is due, with its time.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, TunnelSlot)> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse(due)| due)
    }
}

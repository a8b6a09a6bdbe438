//! What a front counts. Its connections count on when it is gone, so they share it.

use std::cell::Cell;

use super::FrontStatus;

#[derive(Default)]
pub(super) struct Counters {
    connections: Cell<u64>,
    connections_ever: Cell<u64>,
    refused: Cell<u64>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    dropped: Cell<u64>,
}

impl Counters {
    pub(super) fn begun(&self) {
        add(&self.connections, 1);
        add(&self.connections_ever, 1);
    }

    pub(super) fn ended(&self) {
        self.connections.set(self.connections.get().saturating_sub(1));
    }

    pub(super) fn refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn carried(&self, bytes_in: u64, bytes_out: u64) {
        add(&self.bytes_in, bytes_in);
        add(&self.bytes_out, bytes_out);
    }

    pub(super) fn dropped(&self) {
        add(&self.dropped, 1);
    }

    pub(super) fn status(&self, error: Option<String>) -> FrontStatus {
        FrontStatus {
            error,
            connections: self.connections.get(),
            connections_ever: self.connections_ever.get(),
            refused: self.refused.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            dropped: self.dropped.get(),
        }
    }
}

fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get() + n);
}

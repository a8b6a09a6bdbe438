//! What is between the nodes: connections whose messages are late, lost with their stream, or cut off one way.
//!
//! A connection is QUIC's: what arrives is whole and as it was sent, streams overtake each other, and an end learns late that
//! the other is gone, or that nothing gets through.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peerd::gossip::{ConnectionId, ExchangeId};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;

/// What travels.
#[derive(Clone)]
pub enum Parcel {
    Datagram(Vec<u8>),
    Push(Vec<u8>),
    Request(ExchangeId, Vec<u8>),
    Reply(ExchangeId, Vec<u8>),
}

/// The ends of a connection, by number of the node, and whether each still has it.
struct Wire {
    ends: [usize; 2],
    open: [bool; 2],
}

pub struct Wires {
    wires: BTreeMap<ConnectionId, Wire>,
    next: u64,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    /// How many of a thousand messages are sent again before they arrive.
    pub late_per_mille: u32,
    /// How many of a thousand datagrams and pushes are lost, or arrive twice.
    pub lost_per_mille: u32,
    pub twice_per_mille: u32,
    /// How many of a thousand have a bit flipped by a hostile sender.
    pub forged_per_mille: u32,
    pub delay_max_ms: u64,
}

/// A whole number below `below`.
pub fn below(rng: &mut ChaCha20Rng, below: u64) -> u64 {
    rng.next_u64() % below.max(1)
}

pub fn chance(rng: &mut ChaCha20Rng, per_mille: u32) -> bool {
    below(rng, 1000) < u64::from(per_mille)
}

impl Wires {
    pub fn new() -> Self {
        Self {
            wires: BTreeMap::new(),
            next: 0,
            cut: BTreeSet::new(),
            late_per_mille: 0,
            lost_per_mille: 0,
            twice_per_mille: 0,
            forged_per_mille: 0,
            delay_max_ms: 5,
        }
    }

    pub fn open(&mut self, from: usize, to: usize) -> ConnectionId {
        self.next += 1;
        let connection = ConnectionId(self.next);
        self.wires.insert(connection, Wire { ends: [from, to], open: [true, true] });
        connection
    }

    /// Who is at the other end; nobody if `at` has closed its own.
    pub fn peer(&self, at: usize, connection: ConnectionId) -> Option<usize> {
        let wire = self.wires.get(&connection)?;
        let end = wire.ends.iter().position(|end| *end == at)?;
        wire.open[end].then_some(wire.ends[1 - end])
    }

    /// Closes one end; the other end if it is still open.
    pub fn close(&mut self, at: usize, connection: ConnectionId) -> Option<usize> {
        let wire = self.wires.get_mut(&connection)?;
        let end = wire.ends.iter().position(|end| *end == at)?;
        wire.open[end] = false;
        let (other, open) = (wire.ends[1 - end], wire.open[1 - end]);
        if !open {
            self.wires.remove(&connection);
        }
        open.then_some(other)
    }

    /// The connections that `at` has.
    pub fn of(&self, at: usize) -> Vec<ConnectionId> {
        let open = |wire: &Wire| (0..2).any(|end| wire.ends[end] == at && wire.open[end]);
        self.wires.iter().filter(|(_, wire)| open(wire)).map(|(connection, _)| *connection).collect()
    }

    /// The connections between two nodes.
    pub fn between(&self, a: usize, b: usize) -> Vec<ConnectionId> {
        let joins = |wire: &Wire| wire.ends == [a, b] || wire.ends == [b, a];
        self.wires.iter().filter(|(_, wire)| joins(wire)).map(|(connection, _)| *connection).collect()
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// How long a message takes.
    pub fn delay(&self, rng: &mut ChaCha20Rng) -> Duration {
        let late = if chance(rng, self.late_per_mille) { 50 + below(rng, 400) } else { 0 };
        Duration::from_micros(200 + below(rng, self.delay_max_ms * 1000)) + Duration::from_millis(late)
    }

    /// The end of all faults.
    pub fn be_calm(&mut self) {
        let calm = Self::new();
        *self = Self { wires: std::mem::take(&mut self.wires), next: self.next, ..calm };
    }
}

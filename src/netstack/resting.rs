//! Streams that this end closed first, for as long as the other end may say once more that it is done (TIME-WAIT, RFC 9293
//! §3.6.1).
//!
//! A stream's buffers and timers are gone by then: what is left is the one answer that it may have to repeat.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::flow::Key;
use crate::packet::{TCP_HEADERS_LEN, write_tcp_ack};

/// How long a port is not used again for the same end. A lost answer is asked for after a second, and again after two more.
const REST: Duration = Duration::from_secs(10);
/// Beyond it the oldest rests no more.
const RESTING_MAX: usize = 32_768;

#[derive(Default)]
pub(super) struct Resting {
    /// What was sent last: the sequence number and the acknowledgement.
    by_key: HashMap<Key, (u32, u32)>,
    /// When each has rested, in order.
    until: VecDeque<(Instant, Key)>,
}

impl Resting {
    pub(super) fn insert(&mut self, now: Instant, key: Key, last_sent: (u32, u32)) {
        if self.until.len() >= RESTING_MAX
            && let Some((_, oldest)) = self.until.pop_front()
        {
            self.by_key.remove(&oldest);
        }
        self.by_key.insert(key, last_sent);
        self.until.push_back((now + REST, key));
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// What is said to an end that says once more that it is done.
    pub(super) fn ack(&self, key: &Key, from: SocketAddrV4) -> Option<[u8; TCP_HEADERS_LEN]> {
        let (sequence, acknowledged) = *self.by_key.get(key)?;
        let mut packet = [0; TCP_HEADERS_LEN];
        write_tcp_ack(&mut packet, from, key.remote, sequence, acknowledged);
        Some(packet)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, key)) = self.until.front().copied().filter(|(until, _)| *until <= now) {
            self.until.pop_front();
            self.by_key.remove(&key);
        }
    }
}

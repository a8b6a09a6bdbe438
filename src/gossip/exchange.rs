//! Requests of ours that await their reply, and where each message goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::api::{ConnectionId, ExchangeId, Output, Space};
use super::machine::Gossip;
use super::message::{Message, SpaceAnswer, VerifiedMessage};
use super::persist::Waiter;
use crate::membership::Shard;
use crate::model::{Generation, NetworkId, NodeId};

/// A reply that takes longer is not waited for.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many requests are open at a time; more are not sent, and the next round tries again.
const EXCHANGE_COUNT_MAX: usize = 1024;
/// How many of them with one peer, so that a peer that answers nothing leaves room for the others.
pub(super) const PEER_EXCHANGE_COUNT_MAX: usize = 48;

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Hello,
    Join,
    Sync,
    Heads(Shard),
    Pull {
        shard: Shard,
        origin: NodeId,
    },
    Secret(NetworkId, Generation),
    Space {
        network: NetworkId,
        space: Space,
        urgent: bool,
    },
    Reclaim {
        network: NetworkId,
        space: Space,
        holder: NodeId,
        urgent: bool,
    },
    /// To keep our own log of this shard.
    Keep(Shard),
}

struct Open {
    connection: ConnectionId,
    asked: Asked,
    until: Instant,
}

/// The open requests.
#[derive(Default)]
pub(super) struct Exchanges {
    last: u64,
    open: BTreeMap<ExchangeId, Open>,
}

impl Exchanges {
    /// `None` if it is asked there already, or too much is.
    pub(super) fn open(&mut self, connection: ConnectionId, asked: Asked, now: Instant) -> Option<ExchangeId> {
        let mut with_peer = self.open.values().filter(|open| open.connection == connection);
        let asks = with_peer.clone().any(|open| open.asked == asked);
        if asks || self.open.len() >= EXCHANGE_COUNT_MAX || with_peer.nth(PEER_EXCHANGE_COUNT_MAX - 1).is_some() {
            return None;
        }
        self.last += 1;
        let exchange = ExchangeId(self.last);
        self.open.insert(exchange, Open { connection, asked, until: now + EXCHANGE_TIMEOUT });
        Some(exchange)
    }

    fn close(&mut self, connection: ConnectionId, exchange: ExchangeId) -> Option<Asked> {
        let open = self.open.get(&exchange)?;
        if open.connection != connection {
            return None;
        }
        self.open.remove(&exchange).map(|open| open.asked)
    }

    /// Whether this is being asked already.
    pub(super) fn is_asking(&self, asked: &Asked) -> bool {
        self.open.values().any(|open| open.asked == *asked)
    }

    fn take_where(&mut self, mut gone: impl FnMut(&Open) -> bool) -> Vec<(ConnectionId, Asked)> {
        let exchanges: Vec<ExchangeId> = self.open.iter().filter(|(_, open)| gone(open)).map(|(id, _)| *id).collect();
        exchanges.iter().filter_map(|id| self.open.remove(id)).map(|open| (open.connection, open.asked)).collect()
    }
}

impl Gossip {
    /// Asks a peer; the reply comes to `handle_reply`. `false` if it is not asked, since it is already or too much is.
    pub(super) fn ask(&mut self, connection: ConnectionId, message: &Message, asked: Asked, now: Instant) -> bool {
        let Some(exchange) = self.exchanges.open(connection, asked, now) else { return false };
        let bytes = message.to_bytes().as_slice().into();
        self.outputs.push_back(Output::Request { connection, exchange, bytes });
        true
    }

    pub(super) fn push(&mut self, connection: ConnectionId, message: &Message) {
        let bytes = message.to_bytes().as_slice().into();
        self.outputs.push_back(Output::Push { connection, bytes });
    }

    pub(super) fn reply(&mut self, connection: ConnectionId, exchange: ExchangeId, message: &Message) {
        self.outputs.push_back(Output::Reply { connection, exchange, bytes: message.to_bytes() });
    }

    /// A message that needs no answer. Of a peer whose Hello was not accepted it is dropped.
    pub fn handle_push(&mut self, connection: ConnectionId, message: VerifiedMessage, now: Instant) {
        let Some(peer) = self.peers.member(connection) else { return };
        self.note_heard(peer, now, now);
        match message.0 {
            Message::Revocations(records) => self.hear_revoked(connection, records),
            Message::Deltas(deltas) => self.handle_deltas(peer, connection, &deltas, now),
            Message::Offer(network, records) => self.handle_offer(connection, network, &records, now),
            _ => {}
        }
        self.settle(now);
    }

    /// A request of a peer. Every request gets one reply, now or after something was written to disk.
    pub fn handle_request(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        message: VerifiedMessage,
        now: Instant,
    ) {
        let Some(peer) = self.peers.member(connection) else {
            match message.0 {
                // It was to hang up.
                _ if self.peers.is_refused(connection) => self.close(connection, "the Hello was refused"),
                Message::Hello(hello) => self.handle_hello_request(connection, exchange, hello, now),
                Message::Join(join) => self.handle_join_request(connection, exchange, join, now),
                _ => self.reply(connection, exchange, &Message::Unknown),
            }
            return self.settle(now);
        };
        self.note_heard(peer, now, now);
        let answer = match message.0 {
            Message::Sync(root) => self.answer_sync(peer, root),
            Message::Heads(shard) => self.answer_heads(peer, &shard),
            Message::Pull { shard, origin, since } => self.answer_pull(peer, &shard, origin, since),
            Message::AskSecret(network, generation) => self.answer_secret(peer, &network, generation),
            Message::AskSpace { network, extras, count, urgent } => {
                self.answer_space(peer, &network, extras, count, urgent, now)
            }
            Message::Reclaim { network, extras, count, urgent } => {
                self.answer_reclaim(peer, &network, extras, (count, urgent), now)
            }
            Message::Deltas(deltas) => self.keep(peer, connection, &deltas, now),
            _ => Message::Unknown,
        };
        match answer {
            // Whoever hears this fetches the record, or forgets it: it has to be there.
            Message::Space(SpaceAnswer::Given) | Message::Reclaimed { count: 1.., .. } | Message::Kept => {
                self.persister.then(Waiter::Reply(connection, exchange, Box::new(answer)));
            }
            answer => self.reply(connection, exchange, &answer),
        }
        self.settle(now);
    }

    /// The reply to a request of ours.
    pub fn handle_reply(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        message: VerifiedMessage,
        now: Instant,
    ) {
        let Some(asked) = self.exchanges.close(connection, exchange) else { return };
        if let Some(peer) = self.peers.member(connection) {
            self.note_heard(peer, now, now);
        }
        match (asked, self.peers.member(connection), message.0) {
            (Asked::Hello, None, Message::Hello(hello)) => self.handle_hello_reply(connection, hello, now),
            (Asked::Hello, None, Message::HelloRefused(refusal)) => {
                self.note_refused(connection, refusal, now);
                self.close(connection, "the peer refused our Hello");
            }
            (Asked::Hello, ..) => self.close(connection, "the peer refused our Hello"),
            (Asked::Join, None, message) => self.handle_join_reply(connection, message),
            (Asked::Sync, Some(peer), Message::Shards(shards)) => {
                self.note_shards(peer, &shards, now);
                self.compare_shards(peer, connection, shards, now);
            }
            (Asked::Sync, Some(peer), Message::Same) => {
                self.agreements.note(peer, now);
                self.note_same(peer, now);
                self.sync_step();
            }
            (Asked::Heads(shard), Some(peer), Message::State(state)) if state.shard == shard => {
                self.note_heads(peer, &state);
                self.compare_logs(peer, connection, state, now);
                self.tend_gates(now);
            }
            (Asked::Pull { shard, origin }, Some(peer), Message::Pulled(delta))
                if delta.head.head().shard == shard && delta.head.origin() == origin =>
            {
                self.take_pulled(peer, connection, *delta, now);
            }
            (Asked::Pull { shard, origin }, ..) => self.sync.abandon(&shard, origin),
            (Asked::Secret(network, generation), Some(_), Message::Secret(secret)) => {
                self.take_secret(&network, generation, secret.0);
            }
            (Asked::Keep(shard), Some(_), Message::Kept) => self.note_kept(&shard, now),
            (Asked::Space { network, space, urgent }, Some(peer), Message::Space(answer)) => {
                self.take_space_answer(peer, (&network, space, urgent), answer, now);
            }
            (Asked::Reclaim { network, space, holder, urgent }, Some(_), Message::Reclaimed { count, free_in_s }) => {
                self.note_reclaimed(&network, (holder, space, urgent), (count, free_in_s), now)
            }
            _ => {}
        }
        self.settle(now);
    }

    /// A request of ours got no reply, or one that is no message.
    pub fn handle_exchange_failed(&mut self, connection: ConnectionId, exchange: ExchangeId, now: Instant) {
        if let Some(asked) = self.exchanges.close(connection, exchange) {
            self.give_up(connection, asked);
        }
        self.settle(now);
    }

    /// Forgets the requests on a connection that is gone.
    pub(super) fn fail_exchanges(&mut self, connection: ConnectionId) {
        for (connection, asked) in self.exchanges.take_where(|open| open.connection == connection) {
            self.give_up(connection, asked);
        }
    }

    /// Forgets the requests that have waited too long.
    pub(super) fn expire_exchanges(&mut self, now: Instant) {
        for (connection, asked) in self.exchanges.take_where(|open| open.until <= now) {
            self.give_up(connection, asked);
        }
    }

    fn give_up(&mut self, connection: ConnectionId, asked: Asked) {
        match asked {
            Asked::Hello => self.close(connection, "no answer to our Hello"),
            Asked::Join => self.join_failed(super::api::JoinError::Unreachable),
            Asked::Pull { shard, origin } => self.sync.abandon(&shard, origin),
            _ => {}
        }
    }
}

//! What stands at the resolver's address: datagrams and streams of each container, answered where they come in.
//!
//! It runs on the data thread, so it never waits for anybody's work. Private names are answered from memory; any other question
//! goes through a bounded channel to [`super::forward`], and its answer comes back through another one when the thread is woken.
//! What a container makes it do or keep is bounded for each container alone, and the places at the upstreams are divided among
//! those who want some, so that no other one notices.

mod allowance;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::attachments::Callers;
use super::data;
use crate::dns::{self, Outcome, Suffix, Transport};
use crate::membership::Membership;
use crate::model::{AttachmentId, NetworkId};
use crate::netstack::StreamId;
use crate::packet::{Ipv4View, UDP_HEADERS_LEN, UdpView, write_udp};
use crate::router::{DropReason, Drops};
use crate::sys::clock;

pub use allowance::Allowance;
use streams::Streams;

/// Questions for outside that may be under way for one container, and how many it may begin a second: enough for any
/// honest one, and few enough that a flood costs the others nothing.
const OUTSIDE_COUNT_MAX: u32 = 128;
const OUTSIDE_PER_SECOND: u32 = 1000;
/// Questions and answers that may wait on either side of the channel.
const CHANNEL_LEN: usize = 1024;

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Datagram { container: SocketAddrV4, resolver: SocketAddrV4 },
    Stream(StreamId),
}

impl Place {
    /// How the question came in.
    pub fn transport(self) -> Transport {
        match self {
            Self::Datagram { .. } => Transport::Udp,
            Self::Stream(_) => Transport::Tcp,
        }
    }
}

/// A question for a name outside.
#[derive(Debug)]
pub struct Question {
    pub attachment: AttachmentId,
    pub network: NetworkId,
    pub place: Place,
    pub query: Vec<u8>,
}

/// What became of it.
#[derive(Debug)]
pub struct Answer {
    pub attachment: AttachmentId,
    pub place: Place,
    /// Empty if there is nothing to say.
    pub message: Vec<u8>,
    /// Whether nobody was asked, because there is a bound to how much is.
    pub refused: bool,
}

/// The other ends of the channels.
pub struct Outside {
    pub questions: mpsc::Receiver<Question>,
    pub answers: mpsc::Sender<Answer>,
}

/// The resolver of this node, as the data thread calls it.
pub struct Resolver {
    desk: Desk,
    streams: Streams,
    answers: mpsc::Receiver<Answer>,
}

/// Answers one message at a time.
struct Desk {
    dns: dns::Resolver,
    membership: watch::Receiver<Arc<Membership>>,
    callers: Callers,
    outside: mpsc::Sender<Question>,
    allowances: BTreeMap<AttachmentId, Allowance>,
    drops: Drops,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Now,
    Later,
    Never,
}

/// A resolver, and where its questions for outside come out.
pub fn new(
    membership: watch::Receiver<Arc<Membership>>,
    callers: Callers,
    suffixes: Vec<Suffix>,
    seed: u64,
) -> (Resolver, Outside) {
    let (outside, questions) = mpsc::channel(CHANNEL_LEN);
    let (sender, answers) = mpsc::channel(CHANNEL_LEN);
    let (dns, drops) = (dns::Resolver::new(suffixes), Drops::default());
    let desk = Desk { dns, membership, callers, outside, allowances: BTreeMap::new(), drops };
    let resolver = Resolver { desk, streams: Streams::new(seed), answers };
    (resolver, Outside { questions, answers: sender })
}

impl Desk {
    fn answer(&mut self, now: Instant, from: AttachmentId, query: &[u8], place: Place, out: &mut Vec<u8>) -> Reply {
        let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(caller) = callers.get(&from) else {
            self.drops.count(DropReason::UnknownAttachment);
            return Reply::Never;
        };
        match self.dns.answer(&self.membership.borrow(), caller, (query, place.transport()), now, out) {
            Outcome::Answered => Reply::Now,
            Outcome::Dropped(_) => {
                self.drops.count(DropReason::NotAQuery);
                Reply::Never
            }
            Outcome::Forward => {
                let allowance = self
                    .allowances
                    .entry(from)
                    .or_insert_with(|| Allowance::new(now, OUTSIDE_PER_SECOND, OUTSIDE_COUNT_MAX));
                if allowance.begin(now) {
                    let network = caller.network.clone();
                    let question = Question { attachment: from, network, place, query: query.to_vec() };
                    if self.outside.try_send(question).is_ok() {
                        return Reply::Later;
                    }
                    allowance.end();
                }
                self.drops.count(DropReason::QuestionRefused);
                Reply::Now
            }
        }
    }

    fn answered(&mut self, from: AttachmentId) {
        if let Some(allowance) = self.allowances.get_mut(&from) {
            allowance.end();
        }
    }
}

impl data::Resolver for Resolver {
    fn handle_packet(&mut self, from: AttachmentId, packet: &[u8], replies: &mut data::Replies) {
        let now = clock::now();
        let Ok(view) = Ipv4View::parse(packet) else { return };
        let Some(query) = UdpView::parse(&view) else {
            return self.streams.handle_packet(now, from, packet, &mut self.desk, replies);
        };
        let place = Place::Datagram { container: query.source, resolver: query.destination };
        let mut message = Vec::new();
        if self.desk.answer(now, from, query.payload, place, &mut message) == Reply::Now {
            replies.extend(datagram(query.destination, query.source, &message).map(|packet| (from, packet)));
        }
    }

    fn handle_wake(&mut self, replies: &mut data::Replies) {
        while let Ok(Answer { attachment, place, message, refused }) = self.answers.try_recv() {
            self.desk.answered(attachment);
            self.desk.drops.add(DropReason::QuestionRefused, refused.into());
            match place {
                Place::Datagram { .. } if message.is_empty() => {}
                Place::Datagram { container, resolver } => {
                    replies.extend(datagram(resolver, container, &message).map(|packet| (attachment, packet)));
                }
                Place::Stream(id) => {
                    self.streams.handle_answer(clock::now(), attachment, id, &message, &mut self.desk, replies);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, replies: &mut data::Replies) {
        self.streams.handle_timeout(now, &mut self.desk, replies);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.streams.next_timeout()
    }

    fn forget(&mut self, attachment: AttachmentId) {
        self.desk.dns.forget(attachment);
        self.desk.allowances.remove(&attachment);
        self.streams.forget(attachment);
    }

    fn drops(&self) -> Drops {
        self.desk.drops.clone()
    }
}

fn datagram(from: SocketAddrV4, to: SocketAddrV4, message: &[u8]) -> Option<Vec<u8>> {
    let mut packet = vec![0; UDP_HEADERS_LEN + message.len()];
    write_udp(&mut packet, from, to, message).map(|_| packet)
}

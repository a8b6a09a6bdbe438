//! DNS over TCP (RFC 7766): each message behind two bytes of length, many on one stream, answers as they are there.
//!
//! A container that opens a stream gets a stack of its own, which goes with its last stream. A stream holds one part of a
//! query and one answer: who does not read its answers is not read from.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Desk, Place, Reply};
use crate::daemon::data::Replies;
use crate::model::{AttachmentId, RESOLVER};
use crate::netstack::{Config, Stack, Stream, StreamId};
use crate::router::DropReason;

const DNS_PORT: u16 = 53;
const MTU_BYTES: u16 = 1408;
/// Streams of one container.
const STREAMS_MAX: usize = 64;
/// Streams of all containers of the node. Beyond it a container begins one in the place of an idle one of its own.
const STREAMS_MAX_NODE: usize = 4096;
const RECV_BUFFER_LEN: usize = 2048;
const SEND_BUFFER_LEN: usize = 8192;
/// Longer than any question that has an answer; what is longer ends its stream.
const QUERY_LEN_MAX: usize = 4096;
/// RFC 7766 §6.2.3: on the order of a few seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions for outside of one stream that may be under way; further ones wait unread.
const AWAITED_MAX: usize = 4;

/// The streams of all containers.
pub(super) struct Streams {
    pub(super) servers: BTreeMap<AttachmentId, Server>,
    pub(super) count: usize,
    seed: u64,
    next_timeout: Option<Instant>,
}

/// One container's stack.
pub(super) struct Server {
    stack: Stack,
    conversations: BTreeMap<StreamId, Conversation>,
    next_timeout: Option<Instant>,
}

/// What is under way on one stream.
#[derive(Default)]
struct Conversation {
    /// What was read and is no whole query yet.
    inbox: Vec<u8>,
    /// Answers, and how much of them was written.
    outbox: Vec<u8>,
    written: usize,
    awaited: usize,
}

impl Streams {
    pub(super) fn new(seed: u64) -> Self {
        Self { servers: BTreeMap::new(), count: 0, seed, next_timeout: None }
    }

    pub(super) fn handle_packet(
        &mut self,
        now: Instant,
        from: AttachmentId,
        packet: &[u8],
        desk: &mut Desk,
        replies: &mut Replies,
    ) {
        let may_begin = self.count < STREAMS_MAX_NODE;
        // Another one for each stack.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seed = self.seed;
        let server = self.servers.entry(from).or_insert_with(|| Server::new(now, seed));
        server.stack.handle_packet(now, packet, may_begin);
        desk.drops.add(DropReason::TooManyStreams, server.stack.take_displaced());
        self.tend(now, from, desk, replies);
    }

    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        from: AttachmentId,
        id: StreamId,
        message: &[u8],
        desk: &mut Desk,
        replies: &mut Replies,
    ) {
        let Some(server) = self.servers.get_mut(&from) else { return };
        let Some(conversation) = server.conversations.get_mut(&id) else { return };
        conversation.awaited = conversation.awaited.saturating_sub(1);
        if !message.is_empty() {
            conversation.say(message);
        }
        self.tend(now, from, desk, replies);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, desk: &mut Desk, replies: &mut Replies) {
        let due = |server: &Server| server.next_timeout.is_some_and(|at| at <= now);
        let due: Vec<_> = self.servers.iter().filter(|(_, server)| due(server)).map(|(id, _)| *id).collect();
        for id in due {
            self.tend(now, id, desk, replies);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next_timeout
    }

    pub(super) fn forget(&mut self, attachment: AttachmentId) {
        if let Some(server) = self.servers.remove(&attachment) {
            self.count -= server.conversations.len();
        }
    }

    /// Serves a container's streams, sends what they have to say, and lets an empty stack go.
    fn tend(&mut self, now: Instant, from: AttachmentId, desk: &mut Desk, replies: &mut Replies) {
        let Some(server) = self.servers.get_mut(&from) else { return };
        self.count -= server.conversations.len();
        server.serve(now, from, desk);
        while let Some(packet) = server.stack.poll_packet() {
            replies.push((from, packet));
        }
        // A stack sends no more than it has room for at once.
        server.stack.flush(now);
        while let Some(packet) = server.stack.poll_packet() {
            replies.push((from, packet));
        }
        server.drop_ended();
        self.count += server.conversations.len();
        server.next_timeout = server.stack.next_timeout(now);
        if server.stack.stream_count() == 0 {
            self.servers.remove(&from);
        }
        self.next_timeout = self.servers.values().filter_map(|server| server.next_timeout).min();
    }
}

impl Server {
    fn new(now: Instant, seed: u64) -> Self {
        let config = Config {
            address: RESOLVER,
            port: DNS_PORT,
            mtu_bytes: MTU_BYTES,
            streams_max: STREAMS_MAX,
            recv_buffer_len: RECV_BUFFER_LEN,
            send_buffer_len: SEND_BUFFER_LEN,
            idle_timeout: IDLE_TIMEOUT,
        };
        Self { stack: Stack::new(config, now, seed), conversations: BTreeMap::new(), next_timeout: None }
    }

    fn serve(&mut self, now: Instant, from: AttachmentId, desk: &mut Desk) {
        let ids: Vec<StreamId> = self.stack.streams().collect();
        for id in ids {
            let conversation = self.conversations.entry(id).or_default();
            let Some(mut stream) = self.stack.stream(id) else { continue };
            let mut answer = |query: &[u8], out: &mut Vec<u8>| desk.answer(now, from, query, Place::Stream(id), out);
            conversation.go_on(&mut stream, &mut answer);
        }
        self.stack.flush(now);
    }

    fn drop_ended(&mut self) {
        let stack = &mut self.stack;
        self.conversations.retain(|id, _| stack.stream(*id).is_some());
    }
}

impl Conversation {
    /// Writes, reads and answers until one of them has to wait.
    fn go_on(&mut self, stream: &mut Stream<'_>, answer: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Reply) {
        loop {
            self.written += stream.write(&self.outbox[self.written..]);
            if self.written < self.outbox.len() {
                return;
            }
            self.outbox.clear();
            self.written = 0;
            if self.awaited >= AWAITED_MAX {
                return;
            }
            let Some(query_len) = self.query_len() else {
                let mut bytes = [0; 512];
                match stream.read(&mut bytes) {
                    0 if stream.is_read_out() && self.awaited == 0 => return stream.close(),
                    0 => return,
                    len => self.inbox.extend_from_slice(&bytes[..len]),
                }
                continue;
            };
            if query_len > QUERY_LEN_MAX {
                return stream.abort();
            }
            let rest = self.inbox.split_off(2 + query_len);
            let query = std::mem::replace(&mut self.inbox, rest);
            let mut message = Vec::new();
            match answer(&query[2..], &mut message) {
                Reply::Now => self.say(&message),
                Reply::Later => self.awaited += 1,
                // What gets no answer by datagram ends a stream: its messages are not to be trusted.
                Reply::Never => return stream.abort(),
            }
        }
    }

    /// The length of the first query, if it is there whole, or is longer than any may be.
    fn query_len(&self) -> Option<usize> {
        let (&len, rest) = self.inbox.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes(len));
        (rest.len() >= len || len > QUERY_LEN_MAX).then_some(len)
    }

    fn say(&mut self, message: &[u8]) {
        if let Ok(len) = u16::try_from(message.len()) {
            self.outbox.extend_from_slice(&len.to_be_bytes());
            self.outbox.extend_from_slice(message);
        }
    }
}

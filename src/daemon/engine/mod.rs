//! The task that owns the gossip machine: everything the machine asks for is done here, everything it must hear comes here.
//!
//! One task, one owner, no lock. Slow work (dialling, verifying, writing to disk) runs elsewhere and comes back as an
//! [`Event`]; whoever wants something of the machine sends a [`Command`].

mod peer;
mod whereabouts;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use self::peer::{Heard, HeardDatagram, Peer, Place};
use self::whereabouts::Whereabouts;
use super::data::DataHandle;
use super::quic::{Endpoint, Link, ReplyStream};
use super::writer::Writer;
use crate::gossip::{
    ConnectionId, Done, ExchangeId, Gossip, JoinStep, MESSAGE_LEN_MAX, MessageVerifier, OperationError, OperationId,
    Output, PersistToken, VerifiedMessage,
};
use crate::membership::Membership;
use crate::model::{Generation, NodeId, Vni};
use crate::sys::clock;

/// Work for the machine, sent by a verb.
pub type Command = Box<dyn FnOnce(&mut Engine) + Send>;

/// How many events may wait; whoever has more waits with them.
const EVENT_COUNT_MAX: usize = 256;
/// How often links are asked where their peers are: QUIC follows a peer that moves, and says nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What happened outside.
pub enum Event {
    /// A peer has proven its key, in either direction.
    Linked(Link),
    DialFailed(NodeId),
    Closed(ConnectionId),
    Push(ConnectionId, Heard),
    Request(ConnectionId, ReplyStream, Heard),
    Datagram(ConnectionId, HeardDatagram),
    /// When the data plane last heard each node.
    Frames(Vec<(NodeId, Instant)>),
    /// The reply to an exchange of ours, if one came that holds.
    Reply(ConnectionId, ExchangeId, Option<VerifiedMessage>),
    Persisted(PersistToken, bool),
}

/// A verb that waits for its operation.
pub struct Waiting {
    pub done: oneshot::Sender<Result<Done, OperationError>>,
    pub steps: Option<mpsc::Sender<JoinStep>>,
}

/// The gossip machine with its surroundings.
pub struct Engine {
    pub gossip: Gossip,
    /// The generations of each network's secret that this node holds.
    pub generations: BTreeMap<Vni, Vec<Generation>>,
    endpoint: Arc<Endpoint>,
    data: DataHandle,
    writer: Writer,
    membership: watch::Sender<Arc<Membership>>,
    peers: HashMap<ConnectionId, Peer>,
    /// Where the replies to peers' requests go, with the connection that each came by.
    replies: HashMap<ExchangeId, (ConnectionId, ReplyStream, Place)>,
    waiting: HashMap<OperationId, Waiting>,
    whereabouts: Whereabouts,
    /// Whether the disk refused what the machine last wanted written.
    unwritten: bool,
    verifier: watch::Sender<MessageVerifier>,
    next_id: u64,
    events: mpsc::Sender<Event>,
}

/// What an engine is made of.
pub struct Parts {
    pub gossip: Gossip,
    pub endpoint: Arc<Endpoint>,
    pub data: DataHandle,
    pub writer: Writer,
    pub membership: watch::Sender<Arc<Membership>>,
}

impl Engine {
    /// An engine, and where events and commands for it go.
    pub fn new(parts: Parts) -> (Self, mpsc::Receiver<Event>) {
        let (events, inbox) = mpsc::channel(EVENT_COUNT_MAX);
        let engine = Self {
            verifier: watch::channel(parts.gossip.verifier()).0,
            gossip: parts.gossip,
            generations: BTreeMap::new(),
            endpoint: parts.endpoint,
            data: parts.data,
            writer: parts.writer,
            membership: parts.membership,
            peers: HashMap::new(),
            replies: HashMap::new(),
            waiting: HashMap::new(),
            whereabouts: Whereabouts::default(),
            unwritten: false,
            next_id: 0,
            events,
        };
        (engine, inbox)
    }

    /// Works until `stop` says so or is dropped; then says goodbye to the peers.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        mut commands: mpsc::Receiver<Command>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let (accepted, mut links) = mpsc::channel(16);
        let endpoint = self.endpoint.clone();
        let accepting = tokio::spawn(async move { while endpoint.accept(&accepted).await.is_some() {} });
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.drain();
        loop {
            let timeout = self.gossip.next_timeout();
            tokio::select! {
                _ = &mut stop => break,
                Some(command) = commands.recv() => command(&mut self),
                Some(event) = inbox.recv() => self.handle(event),
                Some(link) = links.recv() => self.handle(Event::Linked(link)),
                _ = look.tick() => self.look(),
                () = tokio::time::sleep_until(timeout.into()) => self.gossip.handle_timeout(clock::now()),
            }
            self.drain();
        }
        accepting.abort();
        // Ended, it holds the endpoint no longer.
        let _ = accepting.await;
        self.endpoint.close().await;
    }

    /// The links that stand, with their peers.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.peers.values().map(|peer| &peer.link)
    }

    /// Whether the disk refused what was last to be written.
    pub fn is_unwritten(&self) -> bool {
        self.unwritten
    }

    /// Gives up links to addresses that this host has no longer: their peers go on talking to these, and would for ten
    /// minutes. The machine dials them anew.
    pub fn leave_links_without(&mut self, addresses: &[IpAddr]) {
        let lost = |peer: &Peer| peer.link.bound_to().is_some_and(|ip| !addresses.contains(&ip));
        let lost: Vec<ConnectionId> =
            self.peers.iter().filter(|(_, peer)| lost(peer)).map(|(connection, _)| *connection).collect();
        for connection in lost {
            if let Some(peer) = self.forget(connection) {
                peer.close("this address of ours is gone");
                self.gossip.handle_disconnected(connection, clock::now());
            }
        }
    }

    /// Begins an operation of the machine, and has `waiting` told how it went.
    pub fn operate(&mut self, begin: impl FnOnce(&mut Gossip) -> OperationId, waiting: Waiting) {
        let operation = begin(&mut self.gossip);
        self.waiting.insert(operation, waiting);
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn handle(&mut self, event: Event) {
        let now = clock::now();
        self.gossip.handle_wall(clock::unix_s(), now);
        match event {
            Event::Linked(link) => self.linked(link),
            Event::DialFailed(node) => self.gossip.handle_dial_failed(node, now),
            Event::Closed(connection) => {
                if self.forget(connection).is_some() {
                    self.gossip.handle_disconnected(connection, now);
                }
            }
            Event::Push(connection, heard) => self.gossip.handle_push(connection, heard.message, now),
            // One that came just before its connection ended has nobody left to answer.
            Event::Request(connection, ..) if !self.peers.contains_key(&connection) => {}
            Event::Request(connection, reply, heard) => {
                let exchange = ExchangeId(self.fresh());
                self.replies.insert(exchange, (connection, reply, heard.place));
                self.gossip.handle_request(connection, exchange, heard.message, now);
            }
            Event::Datagram(connection, heard) => self.gossip.handle_datagram(connection, &heard.bytes, now),
            Event::Frames(heard) => self.gossip.handle_heard(heard, now),
            Event::Reply(connection, exchange, Some(message)) => {
                self.gossip.handle_reply(connection, exchange, message, now);
            }
            Event::Reply(connection, exchange, None) => self.gossip.handle_exchange_failed(connection, exchange, now),
            Event::Persisted(token, written) => self.persisted(token, written),
        }
    }

    fn persisted(&mut self, token: PersistToken, written: bool) {
        self.unwritten = !written;
        if written {
            self.gossip.handle_persisted(token, clock::now());
        } else {
            self.gossip.handle_persist_failed(token, clock::now());
        }
    }

    fn linked(&mut self, link: Link) {
        let connection = ConnectionId(self.fresh());
        self.gossip.handle_connected(connection, link.peer(), link.is_dialled(), link.exporter(), clock::now());
        let len_max = self.gossip.message_len_max(connection);
        let peer = Peer::new(connection, link, len_max, self.verifier.subscribe(), self.events.clone());
        self.peers.insert(connection, peer);
        self.publish_endpoints();
    }

    /// Forgets a connection, and whatever would still have been answered on it.
    fn forget(&mut self, connection: ConnectionId) -> Option<Peer> {
        self.replies.retain(|_, (of, ..)| *of != connection);
        self.peers.remove(&connection)
    }

    /// Does what the machine wants done.
    fn drain(&mut self) {
        while let Some(output) = self.gossip.poll_output() {
            self.carry_out(output);
        }
        // Joining a cluster changes whose signatures hold, a Hello changes how much a peer may say.
        self.verifier.send_replace(self.gossip.verifier());
        for (connection, peer) in &mut self.peers {
            let len_max = self.gossip.message_len_max(*connection);
            peer.set_message_len_max(len_max);
            if len_max == MESSAGE_LEN_MAX {
                peer.admit();
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Push { connection, bytes } => {
                if let Some(peer) = self.peers.get(&connection) {
                    peer.push(bytes);
                }
            }
            Output::Datagram { connection, bytes } => {
                if let Some(peer) = self.peers.get(&connection) {
                    peer.link.datagram(bytes);
                }
            }
            Output::Request { connection, exchange, bytes } => self.request(connection, exchange, bytes),
            Output::Reply { exchange, bytes, .. } => {
                if let Some((connection, stream, place)) = self.replies.remove(&exchange)
                    && let Some(peer) = self.peers.get(&connection)
                {
                    peer.reply(stream, bytes, place);
                }
            }
            Output::Dial { node, endpoints } => self.dial(node, endpoints),
            Output::Close { connection, reason } => {
                if let Some(peer) = self.forget(connection) {
                    peer.close(reason);
                    self.gossip.handle_disconnected(connection, clock::now());
                }
            }
            Output::Persist { token, writes, mark } => {
                if !self.writer.write(token, writes, mark, self.events.clone()) {
                    self.persisted(token, false);
                }
            }
            Output::MembershipChanged(membership) => {
                self.data.set_membership(membership.clone());
                self.membership.send_replace(membership);
                self.publish_endpoints();
            }
            Output::NetworkKeys { vni, generations } => {
                self.generations.insert(vni, generations.iter().map(|(generation, _)| *generation).collect());
                let psks = generations.iter().map(|(generation, secret)| (*generation, secret.psk(vni))).collect();
                self.data.set_network_keys(vni, psks);
            }
            Output::Progress(operation, step) => {
                if let Some(steps) = self.waiting.get(&operation).and_then(|waiting| waiting.steps.as_ref()) {
                    let _ = steps.try_send(step);
                }
            }
            Output::Done(operation, result) => {
                if let Some(waiting) = self.waiting.remove(&operation) {
                    let _ = waiting.done.send(result);
                }
            }
        }
    }

    fn request(&mut self, connection: ConnectionId, exchange: ExchangeId, bytes: Arc<[u8]>) {
        let Some(peer) = self.peers.get(&connection) else {
            return self.gossip.handle_exchange_failed(connection, exchange, clock::now());
        };
        peer.request((connection, exchange), bytes, self.gossip.verifier(), self.events.clone());
    }

    fn dial(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        let (endpoint, events) = (self.endpoint.clone(), self.events.clone());
        tokio::spawn(async move {
            let mut attempts = tokio::task::JoinSet::new();
            for address in addresses.into_iter().take(8) {
                let endpoint = endpoint.clone();
                attempts.spawn(async move { endpoint.dial(node, address).await });
            }
            // The first to answer wins; the others are dropped with the set.
            while let Some(attempt) = attempts.join_next().await {
                match attempt {
                    Ok(Ok(link)) => {
                        let _ = events.send(Event::Linked(link)).await;
                        return;
                    }
                    Ok(Err(error)) => tracing::debug!(%node, %error, "dialling failed"),
                    Err(_) => {}
                }
            }
            let _ = events.send(Event::DialFailed(node)).await;
        });
    }

    /// What nobody tells: where links lead to by now, and whom the data plane hears.
    fn look(&mut self) {
        self.publish_endpoints();
        if self.gossip.is_asking() {
            let (data, events) = (self.data.clone(), self.events.clone());
            tokio::spawn(async move {
                let _ = events.send(Event::Frames(data.heard().await)).await;
            });
        }
    }

    /// Tells the data plane where nodes are, as far as that is new.
    fn publish_endpoints(&mut self) {
        let links = self.peers.values().map(|peer| (peer.link.peer(), peer.link.remote()));
        for (node, endpoint) in self.whereabouts.update(&self.membership.borrow(), links) {
            tracing::debug!(peer = %node, %endpoint, "a node is here");
            self.data.set_endpoint(node, endpoint);
        }
    }
}

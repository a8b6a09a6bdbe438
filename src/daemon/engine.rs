//! The task that owns the gossip machine: everything the machine asks for is done here, everything it must hear comes here.
//!
//! One task, one owner, no lock. Slow work (dialling, verifying, writing to disk) runs elsewhere and comes back as an
//! [`Event`]; whoever wants something of the machine sends a [`Command`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use super::data::DataHandle;
use super::quic::{Endpoint, Link, LinkError, PushStream, ReplyStream};
use super::writer::Writer;
use crate::gossip::{
    ConnectionId, Done, ExchangeId, Gossip, JoinStep, MessageVerifier, OperationError, OperationId, Output,
    PersistToken, VerifiedMessage,
};
use crate::membership::Membership;
use crate::model::{Generation, NodeId, Vni};
use crate::sys::clock;

/// Work for the machine, sent by a verb.
pub type Command = Box<dyn FnOnce(&mut Engine) + Send>;

/// How many events may wait; whoever has more waits with them.
const EVENT_COUNT_MAX: usize = 256;

/// What happened outside.
pub enum Event {
    /// A peer has proven its key, in either direction.
    Linked(Link),
    DialFailed(NodeId),
    Closed(ConnectionId),
    Push(ConnectionId, VerifiedMessage),
    Request(ConnectionId, ReplyStream, VerifiedMessage),
    /// The reply to an exchange of ours, if one came that holds.
    Reply(ConnectionId, ExchangeId, Option<VerifiedMessage>),
    Persisted(PersistToken, bool),
}

/// A link and what belongs to it.
struct Peer {
    link: Link,
    /// The longest message that the machine wants to hear on it; the reading tasks look here.
    message_len_max: Arc<AtomicUsize>,
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
    replies: HashMap<ExchangeId, ReplyStream>,
    waiting: HashMap<OperationId, Waiting>,
    endpoints: HashMap<NodeId, SocketAddr>,
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
            endpoints: HashMap::new(),
            next_id: 0,
            events,
        };
        (engine, inbox)
    }

    /// Works until every sender of commands is gone.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut commands: mpsc::Receiver<Command>) {
        let (accepted, mut links) = mpsc::channel(16);
        let endpoint = self.endpoint.clone();
        let accepting = tokio::spawn(async move { while endpoint.accept(&accepted).await.is_some() {} });
        self.drain();
        loop {
            let timeout = self.gossip.next_timeout();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => command(&mut self),
                    None => break,
                },
                Some(event) = inbox.recv() => self.handle(event),
                Some(link) = links.recv() => self.handle(Event::Linked(link)),
                () = tokio::time::sleep_until(timeout.into()) => self.gossip.handle_timeout(clock::now()),
            }
            self.drain();
        }
        accepting.abort();
        self.endpoint.close().await;
    }

    /// The links that stand, with their peers.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.peers.values().map(|peer| &peer.link)
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
                if self.peers.remove(&connection).is_some() {
                    self.gossip.handle_disconnected(connection, now);
                }
            }
            Event::Push(connection, message) => self.gossip.handle_push(connection, message, now),
            Event::Request(connection, reply, message) => {
                let exchange = ExchangeId(self.fresh());
                self.replies.insert(exchange, reply);
                self.gossip.handle_request(connection, exchange, message, now);
            }
            Event::Reply(connection, exchange, Some(message)) => {
                self.gossip.handle_reply(connection, exchange, message, now);
            }
            Event::Reply(connection, exchange, None) => self.gossip.handle_exchange_failed(connection, exchange, now),
            Event::Persisted(token, true) => self.gossip.handle_persisted(token, now),
            Event::Persisted(token, false) => self.gossip.handle_persist_failed(token, now),
        }
    }

    fn linked(&mut self, link: Link) {
        let connection = ConnectionId(self.fresh());
        let message_len_max = Arc::new(AtomicUsize::new(0));
        self.gossip.handle_connected(connection, link.peer(), link.is_dialled(), link.exporter(), clock::now());
        message_len_max.store(self.gossip.message_len_max(connection), Ordering::Relaxed);
        let reader = Reader {
            connection,
            link: link.clone(),
            message_len_max: message_len_max.clone(),
            verifier: self.verifier.subscribe(),
            events: self.events.clone(),
        };
        tokio::spawn(reader.run());
        self.peers.insert(connection, Peer { link, message_len_max });
    }

    /// Does what the machine wants done.
    fn drain(&mut self) {
        while let Some(output) = self.gossip.poll_output() {
            self.carry_out(output);
        }
        // Joining a cluster changes whose signatures hold, a Hello changes how much a peer may say.
        self.verifier.send_replace(self.gossip.verifier());
        for (connection, peer) in &self.peers {
            peer.message_len_max.store(self.gossip.message_len_max(*connection), Ordering::Relaxed);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Push { connection, bytes } => {
                if let Some(peer) = self.peers.get(&connection) {
                    let link = peer.link.clone();
                    // A lost push is made good by the next sync round.
                    tokio::spawn(async move { link.push(&bytes).await });
                }
            }
            Output::Request { connection, exchange, bytes } => self.request(connection, exchange, bytes),
            Output::Reply { exchange, bytes, .. } => {
                if let Some(stream) = self.replies.remove(&exchange) {
                    tokio::spawn(async move { stream.reply(&bytes).await });
                }
            }
            Output::Dial { node, endpoints } => self.dial(node, endpoints),
            Output::Close { connection, reason } => {
                if let Some(peer) = self.peers.remove(&connection) {
                    peer.link.close(reason);
                    self.gossip.handle_disconnected(connection, clock::now());
                }
            }
            Output::Persist { token, writes } => self.writer.write(token, writes, self.events.clone()),
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
        let (link, verifier, events) = (peer.link.clone(), self.gossip.verifier(), self.events.clone());
        tokio::spawn(async move {
            let reply = match link.exchange(&bytes).await {
                Ok(reply) => verify(verifier, reply).await,
                Err(error) => {
                    tracing::debug!(peer = %link.peer(), %error, "an exchange failed");
                    None
                }
            };
            let _ = events.send(Event::Reply(connection, exchange, reply)).await;
        });
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

    /// Tells the data plane where nodes are: where their link comes from, else where they say they listen.
    fn publish_endpoints(&mut self) {
        let membership = self.membership.borrow().clone();
        let mut endpoints: HashMap<NodeId, SocketAddr> =
            membership.nodes().filter_map(|node| Some((node.id, *node.endpoints.first()?))).collect();
        endpoints.extend(self.links().map(|link| (link.peer(), link.remote())));
        for (node, endpoint) in &endpoints {
            if self.endpoints.get(node) != Some(endpoint) {
                self.data.set_endpoint(*node, *endpoint);
            }
        }
        self.endpoints = endpoints;
    }
}

/// Checks a message's signatures where it holds up nobody.
async fn verify(verifier: MessageVerifier, bytes: Vec<u8>) -> Option<VerifiedMessage> {
    let bytes = Zeroizing::new(bytes);
    match tokio::task::spawn_blocking(move || verifier.verify(&bytes)).await {
        Ok(Ok(message)) => Some(message),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a peer's message is refused");
            None
        }
        Err(_) => None,
    }
}

/// Reads what a peer says on one link until the link ends.
struct Reader {
    connection: ConnectionId,
    link: Link,
    message_len_max: Arc<AtomicUsize>,
    verifier: watch::Receiver<MessageVerifier>,
    events: mpsc::Sender<Event>,
}

impl Reader {
    async fn run(self) {
        let pushes = async {
            while let Ok(stream) = self.link.accept_push().await {
                let (connection, events, message) = (self.connection, self.events.clone(), self.read(stream));
                tokio::spawn(async move { events.send(Event::Push(connection, message.await?)).await.ok() });
            }
        };
        let exchanges = async {
            while let Ok((reply, stream)) = self.link.accept_exchange().await {
                let (connection, events, message) = (self.connection, self.events.clone(), self.read(stream));
                tokio::spawn(async move { events.send(Event::Request(connection, reply, message.await?)).await.ok() });
            }
        };
        // Both end when the connection does, and not before.
        tokio::join!(pushes, exchanges);
        let error: LinkError = self.link.closed().await.into();
        tracing::debug!(peer = %self.link.peer(), %error, "a link ended");
        let _ = self.events.send(Event::Closed(self.connection)).await;
    }

    /// One message, if it comes whole and holds.
    fn read(&self, stream: PushStream) -> impl Future<Output = Option<VerifiedMessage>> + Send + use<> {
        let (len_max, verifier) = (self.message_len_max.load(Ordering::Relaxed), self.verifier.clone());
        async move {
            let bytes = stream.read(len_max).await.ok()?;
            let verifier = verifier.borrow().clone();
            verify(verifier, bytes).await
        }
    }
}

//! Connections: who is on them, Hello, which of two stays, and whom to dial.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::{ConnectionId, ExchangeId, Output};
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::{Hello, HelloRefusal, MESSAGE_LEN_MAX, Message, PROTOCOL, STRANGER_LEN_MAX};
use crate::membership::body::Body;
use crate::membership::{ClusterState, Shard, Verified};
use crate::model::{Boot, NetworkId, NodeId};

/// How long a connection may be without an accepted Hello.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections may be without an accepted Hello.
const STRANGER_COUNT_MAX: usize = 256;
/// To how many nodes this one keeps connections of its own accord.
const DIAL_COUNT_MAX: usize = 64;
/// Two connections younger than this are a double dial.
const DOUBLE_DIAL_WITHIN: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_PAUSE_MIN: Duration = Duration::from_secs(1);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How many records told ahead of their logs are kept.
const HEARD_COUNT_MAX: usize = 1024;

pub(super) struct Peer {
    pub node: NodeId,
    /// What TLS made of this connection alone: binds a token's proof to it.
    pub exporter: [u8; 32],
    dialled: bool,
    since: Instant,
    /// Whether its Hello was accepted.
    is_member: bool,
    boot: Boot,
    /// The networks that it was offered on this connection.
    offered: BTreeSet<NetworkId>,
}

#[derive(Default)]
struct DialState {
    failures: u32,
    not_before: Option<Instant>,
    /// When a dial under way counts as failed.
    until: Option<Instant>,
}

/// The connections and the attempts at some.
#[derive(Default)]
pub(super) struct Peers {
    connections: BTreeMap<ConnectionId, Peer>,
    by_node: BTreeMap<NodeId, ConnectionId>,
    dials: BTreeMap<NodeId, DialState>,
}

impl Peers {
    /// The member on this connection.
    pub(super) fn member(&self, connection: ConnectionId) -> Option<NodeId> {
        self.connections.get(&connection).filter(|peer| peer.is_member).map(|peer| peer.node)
    }

    /// The members with a connection, by id.
    pub(super) fn members(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.by_node.keys().copied()
    }

    pub(super) fn connection(&self, node: NodeId) -> Option<ConnectionId> {
        self.by_node.get(&node).copied()
    }

    pub(super) fn get(&self, connection: ConnectionId) -> Option<&Peer> {
        self.connections.get(&connection)
    }

    /// Notes that a network is offered on this connection; whether it was not before.
    pub(super) fn note_offer(&mut self, connection: ConnectionId, network: &NetworkId) -> bool {
        self.connections.get_mut(&connection).is_some_and(|peer| peer.offered.insert(network.clone()))
    }
}

impl Gossip {
    /// The nodes with a connection whose Hello was accepted, by id.
    pub fn connected(&self) -> Vec<NodeId> {
        self.peers.members().collect()
    }

    /// How long a message on this connection may be: a stranger gets little.
    pub fn message_len_max(&self, connection: ConnectionId) -> usize {
        match self.peers.get(connection) {
            // Who we dialled proved the key we expected, so its answer may be an admission or a Hello.
            Some(peer) if peer.is_member || peer.dialled => MESSAGE_LEN_MAX,
            _ => STRANGER_LEN_MAX,
        }
    }

    /// A connection stands and TLS has proved that its other end has the key `peer`. `exporter` is TLS keying material
    /// of this connection (RFC 8446 §7.5), the same at both ends.
    pub fn handle_connected(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        dialled: bool,
        exporter: [u8; 32],
        now: Instant,
    ) {
        if dialled {
            self.peers.dials.entry(peer).or_default().until = None;
        }
        let strangers = self.peers.connections.values().filter(|peer| !peer.is_member).count();
        if peer == self.me || strangers >= STRANGER_COUNT_MAX {
            self.outputs.push_back(Output::Close { connection, reason: "no place for another connection" });
            return self.settle(now);
        }
        let (boot, offered) = (Boot(0), BTreeSet::new());
        let stranger = Peer { node: peer, exporter, dialled, since: now, is_member: false, boot, offered };
        self.peers.connections.insert(connection, stranger);
        if dialled {
            if self.belonging.is_some() {
                self.ask_hello(connection, now);
            } else {
                self.ask_join(connection, peer, now);
            }
        }
        self.settle(now);
    }

    /// A connection is gone, by whoever's will.
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Instant) {
        self.fail_exchanges(connection);
        self.forget_connection(connection);
        self.settle(now);
    }

    /// A dial came to nothing.
    pub fn handle_dial_failed(&mut self, node: NodeId, now: Instant) {
        self.note_dial_failed(node, now);
        self.join_dial_failed(node);
        self.settle(now);
    }

    /// Says who we are; the first exchange on a connection between members.
    pub(super) fn ask_hello(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(hello) = self.hello() {
            self.ask(connection, &Message::Hello(hello), Asked::Hello, now);
        }
    }

    fn hello(&mut self) -> Option<Hello> {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let belonging = self.belonging.as_ref()?;
        Some(Hello {
            cluster: belonging.id,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            chain: belonging.chain.clone(),
            boot: self.boot.boot,
            nonce,
        })
    }

    pub(super) fn handle_hello_request(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        hello: Hello,
        now: Instant,
    ) {
        let Some(ours) = self.hello() else {
            return self.reply(connection, exchange, &Message::HelloRefused(HelloRefusal::Stranger));
        };
        match self.accept_hello(connection, hello, now) {
            Ok(()) => {
                // Where this connection lost against another one, the peer finds it closed.
                self.reply(connection, exchange, &Message::Hello(ours));
                self.welcome(connection, now);
            }
            Err(refusal) => {
                self.reply(connection, exchange, &Message::HelloRefused(refusal));
                self.close(connection, "the Hello was refused");
            }
        }
    }

    pub(super) fn handle_hello_reply(&mut self, connection: ConnectionId, hello: Hello, now: Instant) {
        match self.accept_hello(connection, hello, now) {
            Ok(()) => self.welcome(connection, now),
            Err(_) => self.close(connection, "the peer is no member of this cluster"),
        }
    }

    fn accept_hello(&mut self, connection: ConnectionId, hello: Hello, now: Instant) -> Result<(), HelloRefusal> {
        let Some(node) = self.peers.get(connection).map(|peer| peer.node) else { return Err(HelloRefusal::Stranger) };
        if self.cluster() != Some(hello.cluster) {
            return Err(HelloRefusal::OtherCluster);
        }
        if hello.protocol_min > PROTOCOL || hello.protocol_max < PROTOCOL {
            return Err(HelloRefusal::Protocol);
        }
        if !self.state().is_some_and(|state| state.is_member(node)) && hello.chain.len() <= 4 {
            // Certified, and its certificate has not come here yet: it brings it along.
            let certifies = |record: &Verified| match record.body() {
                Body::Signer(_) => true,
                Body::NodeCert(cert) => cert.node == node,
                _ => false,
            };
            self.hear_if_useful(hello.chain.into_iter().filter(certifies).collect(), node);
        }
        match self.state() {
            Some(state) if state.is_revoked(node) => return Err(HelloRefusal::Expelled),
            Some(state) if state.is_member(node) => {}
            _ => return Err(HelloRefusal::Stranger),
        }
        if let Some(peer) = self.peers.connections.get_mut(&connection) {
            (peer.is_member, peer.boot) = (true, hello.boot);
        }
        self.settle_double(connection, node, now);
        Ok(())
    }

    /// Of two connections to one node the one to its newer boot stays; of a double dial the one that the lower id dialled;
    /// else the newer one, for the older may be dead without knowing.
    fn settle_double(&mut self, new: ConnectionId, node: NodeId, now: Instant) {
        let Some(old) = self.peers.by_node.insert(node, new).filter(|old| *old != new) else { return };
        let (Some(older), Some(newer)) = (self.peers.get(old), self.peers.get(new)) else { return };
        let double_dial = older.boot == newer.boot
            && older.dialled != newer.dialled
            && now.saturating_duration_since(older.since) < DOUBLE_DIAL_WITHIN;
        let lower_dialled_old = older.dialled == (self.me < node);
        let loser = if newer.boot < older.boot || double_dial && lower_dialled_old { new } else { old };
        self.close(loser, "another connection to this node stays");
        let winner = if loser == new { old } else { new };
        self.peers.by_node.insert(node, winner);
    }

    /// A member is here: revocations first, then what we share.
    fn welcome(&mut self, connection: ConnectionId, now: Instant) {
        let Some(peer) = self.peers.member(connection) else { return };
        *self.peers.dials.entry(peer).or_default() = DialState::default();
        let revocations: Vec<Verified> = self
            .cluster_records()
            .into_iter()
            .filter(|record| matches!(record.body(), Body::Revocation(_)))
            .take(HEARD_COUNT_MAX)
            .cloned()
            .collect();
        if !revocations.is_empty() {
            self.push(connection, &Message::Revocations(revocations));
        }
        self.offer_all(connection, peer);
        self.sync_with(connection, peer, now);
    }

    /// Keeps records that say who is a member until the logs that hold them are here.
    pub(super) fn hear(&mut self, records: Vec<Verified>) {
        let Some(belonging) = &mut self.belonging else { return };
        let state = &belonging.state;
        let root = state.root;
        for record in records {
            let origin = record.origin();
            let counts = matches!(record.body(), Body::Revocation(_))
                && (origin == root || state.signer_number(origin).is_some());
            let known = belonging.heard.contains(&record);
            if counts && !known && belonging.heard.len() < HEARD_COUNT_MAX {
                belonging.heard.push(record);
                self.changed.insert(Shard::Cluster);
            }
        }
    }

    /// Keeps a certificate chain if it makes `node` a member.
    fn hear_if_useful(&mut self, chain: Vec<Verified>, node: NodeId) {
        let Some(belonging) = &self.belonging else { return };
        let mut records = self.cluster_records();
        records.extend(&chain);
        let useful = ClusterState::derive(belonging.id, records.into_iter()).is_some_and(|state| state.is_member(node));
        let Some(belonging) = self.belonging.as_mut().filter(|_| useful) else { return };
        let logs = &self.logs;
        // What has come in its log is kept there.
        belonging.heard.retain(|record| {
            logs.log(&Shard::Cluster, record.origin()).is_none_or(|log| log.record(&record.slot()) != Some(record))
        });
        if belonging.heard.len() + chain.len() <= HEARD_COUNT_MAX {
            belonging.heard.extend(chain);
            self.changed.insert(Shard::Cluster);
        }
        let records = self.cluster_records();
        let state = self.cluster().and_then(|id| ClusterState::derive(id, records.into_iter()));
        if let (Some(belonging), Some(state)) = (&mut self.belonging, state) {
            belonging.state = state;
        }
    }

    /// Ends a connection.
    pub(super) fn close(&mut self, connection: ConnectionId, reason: &'static str) {
        if self.peers.connections.contains_key(&connection) {
            self.outputs.push_back(Output::Close { connection, reason });
            self.forget_connection(connection);
        }
    }

    pub(super) fn close_peer(&mut self, node: NodeId, reason: &'static str) {
        if let Some(connection) = self.peers.connection(node) {
            self.close(connection, reason);
        }
    }

    fn forget_connection(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.peers.connections.remove(&connection) {
            if self.peers.by_node.get(&peer.node) == Some(&connection) {
                self.peers.by_node.remove(&peer.node);
            }
            self.sync.forget(connection);
            self.join_disconnected(peer.node);
        }
    }

    /// Closes connections that stay strangers, and dials whom we should know.
    pub(super) fn tend_connections(&mut self, now: Instant) {
        let silent: Vec<ConnectionId> = self
            .peers
            .connections
            .iter()
            .filter(|(_, peer)| !peer.is_member && now.saturating_duration_since(peer.since) >= STRANGER_TIMEOUT)
            .map(|(connection, _)| *connection)
            .collect();
        for connection in silent {
            self.fail_exchanges(connection);
            self.close(connection, "no Hello came");
        }
        let late: Vec<NodeId> = self
            .peers
            .dials
            .iter()
            .filter(|(_, dial)| dial.until.is_some_and(|until| until <= now))
            .map(|(node, _)| *node)
            .collect();
        for node in late {
            self.note_dial_failed(node, now);
        }
        for node in self.dial_set() {
            let due = self.peers.dials.get(&node).is_none_or(|dial| dial.not_before.is_none_or(|at| at <= now));
            if due {
                self.dial(node, now);
            }
        }
    }

    /// The nodes to keep a connection to: all of a small cluster, a fixed choice of a large one.
    fn dial_set(&self) -> Vec<NodeId> {
        let others = self.membership.nodes().filter(|node| node.id != self.me && !node.endpoints.is_empty());
        let mut ranked: Vec<([u8; 8], NodeId)> = others
            .map(|node| {
                let pair = [self.me.min(node.id).0, self.me.max(node.id).0].concat();
                let mut rank = [0; 8];
                rank.copy_from_slice(&blake3::hash(&pair).as_bytes()[..8]);
                (rank, node.id)
            })
            .collect();
        ranked.sort_unstable();
        ranked.truncate(DIAL_COUNT_MAX);
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    /// The known nodes without a connection.
    pub(super) fn down_nodes(&self) -> Vec<NodeId> {
        let nodes = self.membership.nodes().filter(|node| node.id != self.me && !node.endpoints.is_empty());
        nodes.map(|node| node.id).filter(|node| self.peers.connection(*node).is_none()).collect()
    }

    /// Dials a node unless a connection or a dial is there.
    pub(super) fn dial(&mut self, node: NodeId, now: Instant) {
        let Some(endpoints) = self.membership.node(node).map(|node| node.endpoints.clone()) else { return };
        if self.peers.connection(node).is_none() && !endpoints.is_empty() {
            self.dial_at(node, endpoints, now);
        }
    }

    pub(super) fn dial_at(&mut self, node: NodeId, endpoints: Vec<std::net::SocketAddr>, now: Instant) {
        let dial = self.peers.dials.entry(node).or_default();
        if dial.until.is_none() {
            dial.until = Some(now + DIAL_TIMEOUT);
            self.outputs.push_back(Output::Dial { node, endpoints });
        }
    }

    fn note_dial_failed(&mut self, node: NodeId, now: Instant) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        let dial = self.peers.dials.entry(node).or_default();
        dial.until = None;
        let pause = DIAL_PAUSE_MIN.saturating_mul(1 << dial.failures.min(5)).min(DIAL_PAUSE_MAX);
        dial.failures += 1;
        dial.not_before = Some(now + pause + jitter);
    }
}

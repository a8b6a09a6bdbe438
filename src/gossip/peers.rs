//! Connections: who is on them, Hello, which of two stays, and whom to dial.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::api::{ConnectionId, Output};
use super::files::Entrance;
use super::machine::Gossip;
use super::message::{MESSAGE_LEN_MAX, STRANGER_LEN_MAX};
use crate::model::{Boot, NetworkId, NodeId};

/// How long a connection may be without an accepted Hello.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often housekeeping looks at a connection of a node that has left before it closes it.
const LEFT_LOOKS_MAX: u32 = 20;
/// How many connections may be without an accepted Hello.
const STRANGER_COUNT_MAX: usize = 256;
/// To how many nodes this one keeps connections of its own accord.
const DIAL_COUNT_MAX: usize = 64;
/// Two connections younger than this are a double dial.
const DOUBLE_DIAL_WITHIN: Duration = Duration::from_secs(5);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_PAUSE_MIN: Duration = Duration::from_secs(1);
/// With a dial that was begun before it, short enough for a cluster to be whole again within 30 s, also where one side alone knows the
/// other's address.
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(12);

/// What became of a connection's Hello.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// None has come yet.
    Stranger,
    /// It hangs up when it has read that: who closes takes back what is on its way.
    Refused,
    Member,
}

pub(super) struct Peer {
    pub node: NodeId,
    /// What TLS made of this connection alone: binds a token's proof to it.
    pub exporter: [u8; 32],
    dialled: bool,
    since: Instant,
    standing: Standing,
    boot: Boot,
    /// The networks that it was offered on this connection.
    offered: BTreeSet<NetworkId>,
}

impl Peer {
    /// Whether its Hello was accepted.
    fn is_member(&self) -> bool {
        self.standing == Standing::Member
    }
}

#[derive(Default)]
struct DialState {
    failures: u32,
    not_before: Option<Instant>,
    /// When a dial under way counts as failed.
    until: Option<Instant>,
    /// Whether it said last that this node was expelled.
    refuses: bool,
}

/// The connections and the attempts at some.
#[derive(Default)]
pub(super) struct Peers {
    connections: BTreeMap<ConnectionId, Peer>,
    by_node: BTreeMap<NodeId, ConnectionId>,
    dials: BTreeMap<NodeId, DialState>,
    /// Who has left and has not hung up, and how often housekeeping has seen it.
    left: BTreeMap<NodeId, u32>,
}

impl Peers {
    /// The member on this connection.
    pub(super) fn member(&self, connection: ConnectionId) -> Option<NodeId> {
        self.connections.get(&connection).filter(|peer| peer.is_member()).map(|peer| peer.node)
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

    /// The Hello of this connection was accepted.
    pub(super) fn accept(&mut self, connection: ConnectionId, boot: Boot) {
        if let Some(peer) = self.connections.get_mut(&connection) {
            (peer.standing, peer.boot) = (Standing::Member, boot);
        }
    }

    /// The Hello of this connection was refused.
    pub(super) fn refuse(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.connections.get_mut(&connection) {
            peer.standing = Standing::Refused;
        }
    }

    /// Whether the Hello of this connection was refused.
    pub(super) fn is_refused(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|peer| peer.standing == Standing::Refused)
    }

    /// All connections, those of strangers too.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.keys().copied()
    }

    /// A connected node has left.
    pub(super) fn note_left(&mut self, node: NodeId) {
        self.left.entry(node).or_default();
    }

    /// Dialling a node begins anew, without the pauses that failures brought.
    pub(super) fn forget_dials(&mut self, node: NodeId) {
        self.dials.remove(&node);
    }

    /// The node that was dialled says that this one was expelled; until it welcomes it.
    pub(super) fn note_refusal(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.connections.get(&connection) {
            self.dials.entry(peer.node).or_default().refuses = true;
        }
    }

    /// Notes that a network is offered on this connection; whether it was not before.
    pub(super) fn note_offer(&mut self, connection: ConnectionId, network: &NetworkId) -> bool {
        self.connections.get_mut(&connection).is_some_and(|peer| peer.offered.insert(network.clone()))
    }

    /// Who is not granted a network any more is to be offered it anew, should another grant come.
    pub(super) fn forget_offers(&mut self, network: &NetworkId, is_granted: impl Fn(NodeId) -> bool) {
        for peer in self.connections.values_mut().filter(|peer| !is_granted(peer.node)) {
            peer.offered.remove(network);
        }
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
            Some(peer) if peer.is_member() || peer.dialled => MESSAGE_LEN_MAX,
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
        // Who was dialled is no stranger: none of those that fill the places may keep this node from the others.
        let strangers = self.peers.connections.values().filter(|peer| !peer.is_member() && !peer.dialled).count();
        if peer == self.me || !dialled && strangers >= STRANGER_COUNT_MAX {
            self.outputs.push_back(Output::Close { connection, reason: "no place for another connection" });
            return self.settle(now);
        }
        let (boot, offered) = (Boot(0), BTreeSet::new());
        let standing = Standing::Stranger;
        let stranger = Peer { node: peer, exporter, dialled, since: now, standing, boot, offered };
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

    /// Of two connections to one node the one to its newer boot stays; of a double dial the one that the lower id dialled;
    /// else the newer one, for the older may be dead without knowing.
    pub(super) fn settle_double(&mut self, new: ConnectionId, node: NodeId, now: Instant) {
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
            if peer.dialled && !peer.is_member() {
                // Whoever does not take us is not asked again at once.
                self.note_dial_failed(peer.node, peer.since);
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
            .filter(|(_, peer)| !peer.is_member() && now.saturating_duration_since(peer.since) >= STRANGER_TIMEOUT)
            .map(|(connection, _)| *connection)
            .collect();
        for connection in silent {
            self.fail_exchanges(connection);
            self.close(connection, "no Hello came");
        }
        for looks in self.peers.left.values_mut() {
            *looks += 1;
        }
        let lingering = self.peers.left.extract_if(.., |_, looks| *looks > LEFT_LOOKS_MAX);
        for node in lingering.map(|(node, _)| node).collect::<Vec<_>>() {
            self.close_peer(node, "this node has left");
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
        self.dial_entrance(now);
        for node in self.dial_set() {
            self.dial_if_due(node, now);
        }
    }

    /// Dials a node unless that failed too short a while ago.
    pub(super) fn dial_if_due(&mut self, node: NodeId, now: Instant) {
        if self.is_dial_due(node, now) {
            self.dial(node, now);
        }
    }

    fn is_dial_due(&self, node: NodeId, now: Instant) -> bool {
        self.peers.dials.get(&node).is_none_or(|dial| dial.not_before.is_none_or(|at| at <= now))
    }

    /// The signer that admitted this node was lost before it told where it is: it is where the token said. Others whom this node
    /// knows, since it admitted them itself, may know nobody else either.
    fn dial_entrance(&mut self, now: Instant) {
        let Some(belonging) = &self.belonging else { return };
        let Some(Entrance { signer, endpoints }) = belonging.entrance.clone() else { return };
        let is_lost = !belonging.state.is_revoked(signer) && self.addressed().all(|node| node != signer);
        let is_here = self.peers.connections.values().any(|peer| peer.node == signer);
        if is_lost && !is_here && self.is_dial_due(signer, now) {
            self.dial_at(signer, endpoints, now);
        }
    }

    /// The other nodes whose addresses are known.
    fn addressed(&self) -> impl Iterator<Item = NodeId> {
        let others = self.membership.nodes().filter(|node| node.id != self.me && !node.endpoints.is_empty());
        others.map(|node| node.id)
    }

    /// A member that says that this node was expelled.
    pub fn refused_by(&self) -> Option<NodeId> {
        let mut refuse = self.peers.dials.iter().filter(|(_, dial)| dial.refuses).map(|(node, _)| *node);
        refuse.find(|node| self.membership.node(*node).is_some())
    }

    /// The nodes to keep a connection to: all of a small cluster, a fixed choice of a large one.
    pub(super) fn dial_set(&self) -> Vec<NodeId> {
        let mut ranked: Vec<([u8; 8], NodeId)> = self
            .addressed()
            .map(|node| {
                let pair = [self.me.min(node).0, self.me.max(node).0].concat();
                let mut rank = [0; 8];
                rank.copy_from_slice(&blake3::hash(&pair).as_bytes()[..8]);
                (rank, node)
            })
            .collect();
        ranked.sort_unstable();
        ranked.truncate(DIAL_COUNT_MAX);
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    /// The known nodes that this one does not dial of its own accord: it has a connection to such a node when one of the two
    /// had a reason for it.
    pub fn undialled(&self) -> BTreeSet<NodeId> {
        let dialled = self.dial_set();
        self.addressed().filter(|node| !dialled.contains(node)).collect()
    }

    /// The known nodes without a connection.
    pub(super) fn down_nodes(&self) -> Vec<NodeId> {
        self.addressed().filter(|node| self.peers.connection(*node).is_none()).collect()
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

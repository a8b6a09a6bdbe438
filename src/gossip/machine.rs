//! The machine's surface: what the shell calls.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::api::{AttachSpec, Config, ConnectionId, ExchangeId, OperationId, Output, PersistToken};
use super::identity::Identity;
use super::message::{MessageVerifier, VerifiedMessage};
use super::store::{StoreError, Stored};
use super::token::{InviteSpec, Token};
use crate::membership::{Container, Membership, Role, State};
use crate::model::{AttachmentId, ClusterId, Generation, Label, NetworkId, NetworkSecret, NodeId, WgPublicKey};

/// A node's part in the cluster.
pub struct Gossip {
    membership: Arc<Membership>,
    outputs: VecDeque<Output>,
}

impl Gossip {
    /// A node with this key and what it stored. `wall_unix_s` decides nothing but an invite's lifetime and how long a
    /// freed address has rested; `seed` must be random and is used once.
    ///
    /// # Errors
    /// What this node itself signed, or its part in the cluster, does not read. Damaged logs of other nodes are dropped.
    pub fn new(
        identity: Identity,
        stored: &Stored,
        config: Config,
        now: Instant,
        wall_unix_s: u64,
        seed: [u8; 32],
    ) -> Result<Self, StoreError> {
        let _ = (identity, stored, config, now, wall_unix_s, seed);
        Ok(Self { membership: Arc::default(), outputs: VecDeque::new() })
    }

    /// The cluster as this node sees it; its own writes are in it once they are on disk.
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.clone()
    }
    pub fn node(&self) -> NodeId {
        NodeId([0; 32])
    }
    /// The cluster, if this node is in one.
    pub fn cluster(&self) -> Option<ClusterId> {
        None
    }
    /// This node's own attachments, as on disk: what a restarted shell adopts again, or detaches.
    pub fn attachments(&self) -> Vec<(NetworkId, Arc<Container>)> {
        Vec::new()
    }
    /// A secret of each generation that this node holds, newest first.
    pub fn network_keys(&self, network: &NetworkId) -> Vec<(Generation, NetworkSecret)> {
        let _ = (network,);
        Vec::new()
    }
    pub fn has_root_key(&self) -> bool {
        false
    }
    /// The nodes with a connection whose Hello was accepted.
    pub fn connected(&self) -> Vec<NodeId> {
        Vec::new()
    }

    pub fn verifier(&self) -> MessageVerifier {
        MessageVerifier { cluster: None, verdicts: Default::default() }
    }
    pub fn message_len_max(&self, connection: ConnectionId) -> usize {
        let _ = (connection,);
        0
    }
    pub fn handle_connected(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        dialled: bool,
        exporter: [u8; 32],
        now: Instant,
    ) {
        let _ = (exporter, peer, dialled, connection, now);
    }
    pub fn handle_disconnected(&mut self, connection: ConnectionId, now: Instant) {
        let _ = (connection, now);
    }
    pub fn handle_dial_failed(&mut self, node: NodeId, now: Instant) {
        let _ = (node, now);
    }
    pub fn handle_push(&mut self, connection: ConnectionId, message: VerifiedMessage, now: Instant) {
        let _ = (connection, message, now);
    }
    pub fn handle_request(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        message: VerifiedMessage,
        now: Instant,
    ) {
        let _ = (connection, exchange, message, now);
    }
    pub fn handle_reply(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        message: VerifiedMessage,
        now: Instant,
    ) {
        let _ = (connection, exchange, message, now);
    }
    pub fn handle_exchange_failed(&mut self, connection: ConnectionId, exchange: ExchangeId, now: Instant) {
        let _ = (connection, exchange, now);
    }
    pub fn handle_persisted(&mut self, token: PersistToken, now: Instant) {
        let _ = (token, now);
    }
    pub fn handle_persist_failed(&mut self, token: PersistToken, now: Instant) {
        let _ = (token, now);
    }
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = (now,);
    }
    pub fn handle_wall(&mut self, wall_unix_s: u64, now: Instant) {
        let _ = (wall_unix_s, now);
    }
    pub fn next_timeout(&self) -> Instant {
        unreachable!()
    }
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn init(&mut self, now: Instant) -> OperationId {
        let _ = (now,);
        OperationId(0)
    }
    pub fn join(&mut self, token: Token, now: Instant) -> OperationId {
        let _ = (token, now);
        OperationId(0)
    }
    pub fn invite(&mut self, spec: InviteSpec, now: Instant) -> OperationId {
        let _ = (spec, now);
        OperationId(0)
    }
    pub fn create_network(&mut self, name: Option<Label>, internal: bool, now: Instant) -> OperationId {
        let _ = (name, internal, now);
        OperationId(0)
    }
    pub fn grant(&mut self, network: &NetworkId, node: NodeId, role: Role, now: Instant) -> OperationId {
        let _ = (network, node, role, now);
        OperationId(0)
    }
    pub fn ungrant(&mut self, network: &NetworkId, node: NodeId, now: Instant) -> OperationId {
        let _ = (network, node, now);
        OperationId(0)
    }
    pub fn attach(&mut self, spec: AttachSpec, now: Instant) -> OperationId {
        let _ = (spec, now);
        OperationId(0)
    }
    pub fn detach(&mut self, id: AttachmentId, now: Instant) -> OperationId {
        let _ = (id, now);
        OperationId(0)
    }
    pub fn set_container_key(&mut self, id: AttachmentId, key: WgPublicKey, now: Instant) -> OperationId {
        let _ = (id, key, now);
        OperationId(0)
    }
    pub fn set_container_state(&mut self, id: AttachmentId, state: State, now: Instant) -> OperationId {
        let _ = (id, state, now);
        OperationId(0)
    }
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Instant) -> OperationId {
        let _ = (endpoints, now);
        OperationId(0)
    }
}

//! The signer's side of joining: inviting, and admitting who proves to have the token.
//!
//! A stranger who does not prove it gets one and the same refusal, whatever the reason. The invite's consumption is on disk
//! before the certificate is signed, and the certificate before it leaves.

use std::time::Instant;

use super::api::{ConnectionId, Done, ExchangeId, Invited, OperationError, OperationId};
use super::files::{self, Invite};
use super::machine::Gossip;
use super::message::{Admission, Join, JoinRefusal, Message};
use super::persist::Waiter;
use super::store::FileKind;
use super::token::{InviteSpec, Token};
use crate::membership::body::{Body, NodeCert};
use crate::membership::{Kind, Role, Shard};
use crate::model::{Label, NetworkId, NodeId, Rev};

/// How many invites a signer keeps; the oldest that expired go first.
const INVITE_COUNT_MAX: usize = 1024;

/// A joiner that proved to have a token.
pub(super) struct Redemption {
    connection: ConnectionId,
    exchange: ExchangeId,
    joiner: NodeId,
    name: Label,
    networks: Vec<NetworkId>,
    signer: bool,
}

impl Redemption {
    /// The question that awaits its answer.
    pub(super) fn asked(&self) -> (ConnectionId, ExchangeId) {
        (self.connection, self.exchange)
    }
}

impl Gossip {
    /// Makes an invite that this signer redeems.
    pub fn invite(&mut self, spec: InviteSpec, now: Instant) -> OperationId {
        let expires_unix_s = self.wall.unix_s(now).saturating_add(spec.ttl.as_secs());
        self.operate(now, |this| {
            let state = this.state().ok_or(OperationError::NoCluster)?;
            if !state.is_signer(this.me) {
                return Err(OperationError::NotSigner);
            }
            for network in &spec.networks {
                this.check_owner(network)?;
            }
            if spec.signer && !this.has_root_key() {
                return Err(OperationError::NoRootKey);
            }
            let cluster = state.id;
            this.check_room(&Shard::Cluster)?;
            let token = Token::random(cluster, this.me, &this.config.endpoints, &mut this.rng);
            let invite = Invite {
                id: token.invite(),
                key: token.redeem_key(),
                expires_unix_s,
                uses: spec.uses.max(1),
                networks: spec.networks,
                signer: spec.signer,
                consumed: Vec::new(),
            };
            while this.invites.len() >= INVITE_COUNT_MAX {
                let oldest = (0..this.invites.len()).min_by_key(|at| this.invites[*at].expires_unix_s);
                let Some(oldest) = oldest else { break };
                this.invites.remove(oldest);
            }
            this.invites.push(invite);
            this.write_invites();
            Ok(Done::Invited(Invited { token: token.to_text(), expires_unix_s }))
        })
    }

    fn write_invites(&mut self) {
        let write = files::write(files::INVITES, FileKind::Invites, &self.invites);
        self.persister.write(write);
    }

    /// A stranger wants in.
    pub(super) fn handle_join_request(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        join: Join,
        now: Instant,
    ) {
        match self.redeem(connection, exchange, join, now) {
            Ok(redemption) => self.persister.then(Waiter::Certify(redemption)),
            Err(refusal) => {
                // One guess a connection.
                self.reply(connection, exchange, &Message::JoinRefused(refusal));
                self.close(connection, "the token was refused");
            }
        }
    }

    fn redeem(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        join: Join,
        now: Instant,
    ) -> Result<Redemption, JoinRefusal> {
        let peer = self.peers.get(connection).ok_or(JoinRefusal::Unknown)?;
        let (joiner, exporter) = (peer.node, peer.exporter);
        let wall_unix_s = self.wall.unix_s(now);
        let state = self.belonging.as_ref().map(|belonging| &belonging.state).ok_or(JoinRefusal::Unknown)?;
        let at = self.invites.iter().position(|invite| invite.id == join.invite).ok_or(JoinRefusal::Unknown)?;
        let invite = &self.invites[at];
        if !invite.key.accepts(&join.proof, &exporter, joiner, state.id) || !state.is_signer(self.me) {
            return Err(JoinRefusal::Unknown);
        }
        if state.is_revoked(joiner) {
            return Err(JoinRefusal::Expelled);
        }
        let again = invite.consumed.iter().find(|(node, _)| *node == joiner).map(|(_, name)| name.clone());
        if again.is_none() {
            if invite.expires_unix_s <= wall_unix_s {
                return Err(JoinRefusal::Expired);
            }
            if invite.consumed.len() >= invite.uses as usize {
                return Err(JoinRefusal::Used);
            }
            // Who redeems an invite at this moment is no member yet, and will have the name all the same.
            let promised = self.invites.iter().flat_map(|invite| &invite.consumed);
            let mut promised = promised.filter(|(holder, name)| *name == join.name && !state.is_revoked(*holder));
            if state.named(&join.name).is_some_and(|holder| holder != joiner)
                || promised.any(|(holder, _)| *holder != joiner)
            {
                return Err(JoinRefusal::NameTaken);
            }
            if self.check_room(&Shard::Cluster).is_err() {
                return Err(JoinRefusal::Full);
            }
            self.invites[at].consumed.push((joiner, join.name.clone()));
        }
        let invite = &self.invites[at];
        let redemption = Redemption {
            connection,
            exchange,
            joiner,
            name: again.unwrap_or(join.name),
            networks: invite.networks.clone(),
            signer: invite.signer,
        };
        self.write_invites();
        Ok(redemption)
    }

    /// The consumption is on disk: sign the certificate, and the grants that the invite promises.
    pub(super) fn certify(&mut self, redemption: Redemption, _now: Instant) {
        let joiner = redemption.joiner;
        if let Some((log, pen)) = self.own(&Shard::Cluster)
            && log.record(Kind::NODE_CERT, &joiner.0).is_none()
        {
            let cert = NodeCert { node: joiner, name: redemption.name.clone() };
            log.put(pen, &Body::NodeCert(cert), Rev(1));
        }
        if redemption.signer {
            // Without the root key the joiner is a member all the same, and the root can appoint it later.
            let _ = self.appoint(joiner);
        }
        for network in redemption.networks.clone() {
            let granted = self.networks.get(&network).is_some_and(|state| state.is_granted(joiner));
            if !granted && self.check_owner(&network).is_ok() {
                self.put_grant(&network, joiner, Role::Host);
            }
        }
        self.persister.then(Waiter::Admit(redemption));
    }

    /// The certificate is on disk: send it.
    pub(super) fn admit(&mut self, redemption: Redemption) {
        let joiner = redemption.joiner;
        let Some(belonging) = &self.belonging else { return };
        let root = belonging.state.root;
        let record = |origin: NodeId, kind: Kind, node: NodeId| {
            self.authors
                .get(&(origin, Shard::Cluster))
                .and_then(|log| log.record(kind, &node.0))
                .or_else(|| {
                    self.logs.log(&Shard::Cluster, origin)?.record(&crate::membership::Slot::new(kind, &node.0))
                })
                .cloned()
        };
        let signer =
            belonging.chain.iter().find(|record| matches!(record.body(), Body::Signer(s) if s.node == self.me));
        let signer = signer.cloned().or_else(|| record(root, Kind::SIGNER, self.me));
        let reply = match (signer, record(self.me, Kind::NODE_CERT, joiner)) {
            (Some(signer), Some(cert)) => Message::Admitted(Box::new(Admission {
                genesis: belonging.genesis.clone(),
                signer,
                cert,
                appointment: record(root, Kind::SIGNER, joiner),
                networks: Some(self.networks_granted_to(joiner)),
            })),
            _ => Message::JoinRefused(JoinRefusal::Unknown),
        };
        self.reply(redemption.connection, redemption.exchange, &reply);
    }

    /// The networks of ours that `node` may host containers of, its grant on the way included.
    fn networks_granted_to(&self, node: NodeId) -> Vec<NetworkId> {
        self.networks.iter().filter(|(_, state)| state.is_granted(node)).map(|(id, _)| id.clone()).collect()
    }
}

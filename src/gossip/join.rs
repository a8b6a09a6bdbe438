//! Inviting and joining (DESIGN §8): a stranger proves that it has the token, and becomes a member.
//!
//! The signer answers a stranger who does not prove it with one and the same refusal, whatever the reason. The invite's
//! consumption is on disk before the certificate is signed, and the certificate before it leaves.

use std::time::{Duration, Instant};

use super::api::{ConnectionId, Done, ExchangeId, Invited, JoinError, JoinStep, OperationError, OperationId, Output};
use super::exchange::Asked;
use super::files::{self, ClusterFile, Invite};
use super::machine::Gossip;
use super::message::{Admission, Join, JoinRefusal, Message};
use super::persist::Waiter;
use super::store::FileKind;
use super::token::{InviteSpec, Token};
use crate::membership::body::{Body, NodeCert};
use crate::membership::{ClusterState, Kind, OwnLog, Pen, Role, Shard, Verified};
use crate::model::{Label, NodeId, Rev};

/// How long a join may take until the signer has admitted this node.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// How long a member waits for its first sync before the join counts as done.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// How many invites a signer keeps; the oldest that expired go first.
const INVITE_COUNT_MAX: usize = 1024;

/// A join under way.
pub(super) struct Joining {
    pub token: Token,
    operation: OperationId,
    until: Instant,
    redial_at: Instant,
    connection: Option<ConnectionId>,
    /// Whether we are a member and only the records are missing.
    admitted: bool,
    last_error: JoinError,
}

/// A joiner that proved to have a token.
pub(super) struct Redemption {
    connection: ConnectionId,
    exchange: ExchangeId,
    joiner: NodeId,
    name: Label,
    networks: Vec<crate::model::NetworkId>,
    signer: bool,
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

    /// Joins the cluster that a token invites to. Done when its records are here.
    pub fn join(&mut self, token: Token, now: Instant) -> OperationId {
        let operation = self.operation();
        if let Err(error) = self.check_outside() {
            self.finished.push((operation, Err(error)));
        } else {
            let (node, endpoints) = (token.signer, token.endpoints.clone());
            self.joining = Some(Joining {
                token,
                operation,
                until: now + JOIN_TIMEOUT,
                redial_at: now + REDIAL_AFTER,
                connection: None,
                admitted: false,
                last_error: JoinError::Unreachable,
            });
            self.dial_at(node, endpoints, now);
        }
        self.settle(now);
        operation
    }

    /// The signer is on the line: TLS has proved its key.
    pub(super) fn ask_join(&mut self, connection: ConnectionId, peer: NodeId, now: Instant) {
        let (me, name) = (self.me, self.config.name.clone());
        let Some(exporter) = self.peers.get(connection).map(|peer| peer.exporter) else { return };
        let Some(joining) = self.joining.as_mut().filter(|joining| joining.token.signer == peer) else {
            return self.close(connection, "this node is in no cluster");
        };
        joining.connection = Some(connection);
        let (token, operation) = (&joining.token, joining.operation);
        let proof = token.redeem_key().prove(&exporter, me, token.cluster);
        let message = Message::Join(Join { invite: token.invite(), proof, name });
        self.outputs.push_back(Output::Progress(operation, JoinStep::Dialled));
        self.ask(connection, &message, Asked::Join, now);
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
            Err(refusal) => self.reply(connection, exchange, &Message::JoinRefused(refusal)),
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
        let invite = self.invites.iter_mut().find(|invite| invite.id == join.invite).ok_or(JoinRefusal::Unknown)?;
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
            if state.named(&join.name).is_some_and(|holder| holder != joiner) {
                return Err(JoinRefusal::NameTaken);
            }
            invite.consumed.push((joiner, join.name.clone()));
        }
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
            })),
            _ => Message::JoinRefused(JoinRefusal::Unknown),
        };
        self.reply(redemption.connection, redemption.exchange, &reply);
    }

    /// The signer's answer.
    pub(super) fn handle_join_reply(&mut self, connection: ConnectionId, message: Message) {
        match message {
            Message::Admitted(admission) => match self.check_admission(*admission) {
                Ok(file) => self.be_admitted(file),
                Err(error) => {
                    self.join_failed(error);
                    self.close(connection, "the signer's answer does not hold");
                }
            },
            Message::JoinRefused(refusal) => {
                self.join_failed(match refusal {
                    JoinRefusal::Unknown => JoinError::UnknownToken,
                    JoinRefusal::Used => JoinError::UsedToken,
                    JoinRefusal::Expired => JoinError::ExpiredToken,
                    JoinRefusal::NameTaken => JoinError::NameTaken,
                    JoinRefusal::Expelled => JoinError::Expelled,
                });
                self.close(connection, "the signer refused the token");
            }
            _ => {
                self.join_failed(JoinError::UnknownToken);
                self.close(connection, "the signer does not admit");
            }
        }
    }

    /// Whether the chain leads from the token's cluster hash to this node's key.
    fn check_admission(&self, admission: Admission) -> Result<ClusterFile, JoinError> {
        let joining = self.joining.as_ref().ok_or(JoinError::Invalid("no join is under way"))?;
        let id = joining.token.cluster;
        if admission.genesis.genesis_cluster() != Some(id) {
            return Err(JoinError::OtherCluster);
        }
        let mut chain: Vec<Verified> = vec![admission.signer, admission.cert];
        chain.extend(admission.appointment);
        let state = ClusterState::derive(id, std::iter::once(&admission.genesis).chain(&chain));
        let state = state.ok_or(JoinError::OtherCluster)?;
        if state.signer_number(joining.token.signer).is_none() {
            return Err(JoinError::Invalid("its signer is not appointed by the cluster's root"));
        }
        if !state.is_member(self.me) {
            return Err(JoinError::Invalid("its certificate is not for this node"));
        }
        Ok(ClusterFile { id, genesis: admission.genesis, chain })
    }

    fn be_admitted(&mut self, file: ClusterFile) {
        let pen = Pen::new(self.identity.key().clone(), file.id, self.boot.boot);
        let entered = self.enter(file, OwnLog::new(Shard::Cluster), pen);
        let Some(joining) = &mut self.joining else { return };
        joining.admitted = true;
        let operation = joining.operation;
        match entered {
            Ok(()) => {
                self.outputs.push_back(Output::Progress(operation, JoinStep::Authenticated));
                self.persister.then(Waiter::Joined);
            }
            Err(error) => {
                self.joining = None;
                self.finished.push((operation, Err(error)));
            }
        }
    }

    /// Our membership is on disk: say Hello on the connection that brought it.
    pub(super) fn joined(&mut self, now: Instant) {
        let Some(joining) = &mut self.joining else { return };
        joining.until = now + SYNC_TIMEOUT;
        if let Some(connection) = joining.connection {
            self.ask_hello(connection, now);
        }
    }

    /// The first sync is over.
    pub(super) fn join_synced(&mut self, now: Instant) {
        let knows_signer = |joining: &Joining| self.logs.log(&Shard::Cluster, joining.token.signer).is_some();
        if self.joining.as_ref().is_some_and(|joining| joining.admitted && knows_signer(joining)) {
            self.join_done(now);
        }
    }

    fn join_done(&mut self, _now: Instant) {
        let Some(joining) = self.joining.take() else { return };
        self.outputs.push_back(Output::Progress(joining.operation, JoinStep::Synced));
        self.finished.push((joining.operation, Ok(Done::Joined(joining.token.cluster))));
    }

    pub(super) fn join_failed(&mut self, error: JoinError) {
        if let Some(joining) = self.joining.take_if(|joining| !joining.admitted) {
            self.finished.push((joining.operation, Err(error.into())));
        }
    }

    pub(super) fn join_dial_failed(&mut self, node: NodeId) {
        if let Some(joining) = self.joining.as_mut().filter(|joining| joining.token.signer == node) {
            joining.connection = None;
            joining.last_error = JoinError::Unreachable;
        }
    }

    pub(super) fn join_disconnected(&mut self, node: NodeId) {
        self.join_dial_failed(node);
    }

    /// Dials the signer again, and ends a join that takes too long.
    pub(super) fn tend_join(&mut self, now: Instant) {
        let Some(joining) = &mut self.joining else { return };
        if joining.until <= now {
            let (admitted, error) = (joining.admitted, joining.last_error);
            // A member whose first sync is slow is a member all the same.
            return if admitted { self.join_done(now) } else { self.join_failed(error) };
        }
        if joining.connection.is_none() && !joining.admitted && joining.redial_at <= now {
            joining.redial_at = now + REDIAL_AFTER;
            let (node, endpoints) = (joining.token.signer, joining.token.endpoints.clone());
            self.dial_at(node, endpoints, now);
        }
    }
}

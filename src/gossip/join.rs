//! The joiner's side: dial the signer that the token names, prove to have the token, and become a member.
//!
//! What the signer answers is believed as far as it follows from the cluster hash in the token.

use std::time::{Duration, Instant};

use super::api::{ConnectionId, Done, JoinError, JoinStep, OperationId, Output};
use super::exchange::Asked;
use super::files::{ClusterFile, Entrance};
use super::machine::Gossip;
use super::message::{Admission, Join, JoinRefusal, Message};
use super::persist::Waiter;
use super::token::Token;
use crate::membership::{ClusterState, OwnLog, Pen, Shard, Verified};
use crate::model::{NetworkId, NodeId};

/// How long a join may take until the signer has admitted this node.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// How long a member waits for its first sync before the join counts as done.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// A join under way.
pub(super) struct Joining {
    pub token: Token,
    operation: OperationId,
    until: Instant,
    redial_at: Instant,
    connection: Option<ConnectionId>,
    /// Whether we are a member and only the records are missing.
    admitted: bool,
    /// Whether the cluster's own records are here.
    synced: bool,
    /// The networks that the invite grants.
    networks: Vec<NetworkId>,
    last_error: JoinError,
}

impl Joining {
    /// Our membership could not be kept.
    pub(super) fn not_admitted(&mut self) {
        self.admitted = false;
    }
}

impl Gossip {
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
                synced: false,
                networks: Vec::new(),
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

    /// The signer's answer.
    pub(super) fn handle_join_reply(&mut self, connection: ConnectionId, message: Message) {
        match message {
            Message::Admitted(mut admission) => {
                let networks = admission.networks.take().unwrap_or_default();
                match self.check_admission(*admission) {
                    Ok(file) => self.be_admitted(file, networks),
                    Err(error) => {
                        self.join_failed(error);
                        self.close(connection, "the signer's answer does not hold");
                    }
                }
            }
            Message::JoinRefused(refusal) => {
                self.join_failed(match refusal {
                    JoinRefusal::Unknown => JoinError::UnknownToken,
                    JoinRefusal::Used => JoinError::UsedToken,
                    JoinRefusal::Expired => JoinError::ExpiredToken,
                    JoinRefusal::NameTaken => JoinError::NameTaken,
                    JoinRefusal::Expelled => JoinError::Expelled,
                    JoinRefusal::NotStored => JoinError::SignerNotStored,
                    JoinRefusal::Full => JoinError::SignerFull,
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
        let (signer, endpoints) = (joining.token.signer, joining.token.endpoints.clone());
        Ok(ClusterFile { id, genesis: admission.genesis, chain, entrance: Some(Entrance { signer, endpoints }) })
    }

    fn be_admitted(&mut self, file: ClusterFile, networks: Vec<NetworkId>) {
        let pen = Pen::new(self.identity.key().clone(), file.id, self.boot.boot);
        let entered = self.enter(file, OwnLog::new(Shard::Cluster), pen);
        let Some(joining) = &mut self.joining else { return };
        joining.admitted = true;
        joining.networks = networks;
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
    pub(super) fn join_synced(&mut self) {
        if let Some(joining) = self.joining.as_mut().filter(|joining| joining.admitted) {
            joining.synced = self.logs.log(&Shard::Cluster, joining.token.signer).is_some();
        }
    }

    /// Ends a join when all of what it promised is here: the cluster's records, and the networks, which their owner offers.
    pub(super) fn settle_join(&mut self) {
        let here = |joining: &Joining| joining.networks.iter().all(|id| self.networks.contains_key(id));
        if self.joining.as_ref().is_some_and(|joining| joining.synced && here(joining)) {
            self.join_done();
        }
    }

    fn join_done(&mut self) {
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
            return if admitted { self.join_done() } else { self.join_failed(error) };
        }
        if joining.connection.is_none() && !joining.admitted && joining.redial_at <= now {
            joining.redial_at = now + REDIAL_AFTER;
            let (node, endpoints) = (joining.token.signer, joining.token.endpoints.clone());
            self.dial_at(node, endpoints, now);
        }
    }
}

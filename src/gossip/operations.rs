//! Making a cluster and networks, and saying who may use them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use rand_core::RngCore;

use super::api::{Done, OperationError, OperationId};
use super::files::{ClusterFile, ROOT_KEY};
use super::identity::random_key;
use super::machine::Gossip;
use super::store::{FileKind, Write};
use crate::membership::body::{Body, Genesis, Grant, NetworkDef, NodeCert, Revocation, Signer, Succession, Ungrant};
use crate::membership::{Kind, LOG_RECORD_COUNT_MAX, OwnLog, Pen, Role, Shard, Verified};
use crate::model::{Boot, ClusterId, Label, NetworkId, NodeId, Rev, Vni};

/// The number of a cluster's first signer.
const FIRST_SIGNER: u8 = 1;

impl Gossip {
    /// Makes a cluster: its root key, its genesis record, and this node, called `name` if given, as its first signer.
    pub fn init(&mut self, name: Option<Label>, now: Instant) -> OperationId {
        let wall_unix_s = self.wall.unix_s(now);
        self.operate(now, |this| {
            this.check_outside()?;
            if let Some(name) = name {
                this.config.name = name;
            }
            let root_key = random_key(&mut this.rng);
            let mut nonce = [0; 16];
            this.rng.fill_bytes(&mut nonce);
            // Only the genesis record is signed for no cluster: the id is its hash.
            let mut nobody = Pen::new(root_key.clone(), ClusterId([0; 32]), Boot(1));
            let mut root_log = OwnLog::new(Shard::Cluster);
            let genesis =
                root_log.put(&mut nobody, &Body::Genesis(Genesis { nonce, created_unix_s: wall_unix_s }), Rev(0));
            let id = genesis.genesis_cluster().expect("the record that was just made is a genesis record");

            let mut root_pen = nobody.of_cluster(id);
            let signer =
                root_log.put(&mut root_pen, &Body::Signer(Signer { node: this.me, number: FIRST_SIGNER }), Rev(1));
            let mut pen = Pen::new(this.identity.key().clone(), id, this.boot.boot);
            let mut log = OwnLog::new(Shard::Cluster);
            let cert = NodeCert { node: this.me, name: this.config.name.clone() };
            let cert = log.put(&mut pen, &Body::NodeCert(cert), Rev(1));

            let root = root_pen.node();
            let file = ClusterFile { id, genesis, chain: vec![signer, cert], entrance: None };
            this.persister.write(Write::new(ROOT_KEY, FileKind::RootKey, root_key.as_bytes()));
            this.enter(file, log, pen)?;
            this.authors.insert((root, Shard::Cluster), root_log);
            this.pens.insert(root, root_pen);
            this.root_key = Some(root_key);
            Ok(Done::Initialised(id))
        })
    }

    /// Whether this node may enter a cluster.
    pub(super) fn check_outside(&self) -> Result<(), OperationError> {
        match (self.cluster(), &self.joining) {
            (Some(id), _) => Err(OperationError::InCluster(id)),
            (None, Some(_)) => Err(OperationError::Joining),
            (None, None) => Ok(()),
        }
    }

    /// Enters a cluster with what this node has signed in it so far. `cluster` and then `boot` are written last, after the
    /// logs.
    pub(super) fn enter(&mut self, file: ClusterFile, log: OwnLog, pen: Pen) -> Result<(), OperationError> {
        self.belong(file.clone())?;
        self.authors.insert((self.me, Shard::Cluster), log);
        self.pens.insert(self.me, pen);
        self.announce();
        self.boot.member = true;
        self.persister.write_last(file.write());
        self.persister.write_last(self.boot.write());
        Ok(())
    }

    /// Makes a network. This node is its creator: its owner, and home of its addresses.
    pub fn create_network(&mut self, name: Option<Label>, internal: bool, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_room_at_all()?;
            let state = this.state().ok_or(OperationError::NoCluster)?;
            let number = state.signer_number(this.me).filter(|_| state.is_signer(this.me));
            let number = number.ok_or(OperationError::NotSigner)?;
            let counter = u16::try_from(this.boot.networks_created).map_err(|_| OperationError::NoVniLeft)?;
            let vni = Vni::of_signer(number, counter).map_err(|_| OperationError::NotSigner)?;
            this.boot.networks_created += 1;
            let boot = this.boot.write();
            this.persister.write(boot);
            let mut nonce = [0; 16];
            this.rng.fill_bytes(&mut nonce);
            let def = NetworkDef { vni, name, internal, nonce };
            let id = def.id(this.me);
            let me = this.me;
            this.wanted.insert(id.clone(), super::machine::Wanted { state: None, until: None });
            if let Some((log, pen)) = this.own(&Shard::Network(id.clone())) {
                log.put(pen, &Body::NetworkDef(def), Rev(1));
                log.put(pen, &Body::Grant(Grant { node: me, role: Role::Owner }), Rev(1));
            }
            this.rotate_secret(&id, &BTreeMap::new());
            Ok(Done::NetworkCreated { id, vni })
        })
    }

    /// Lets a node host attachments of a network, or makes it an owner. Only the creator makes owners.
    pub fn grant(&mut self, network: &NetworkId, node: NodeId, role: Role, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_grant(network, node, role)?;
            this.check_room(&Shard::Network(network.clone()))?;
            this.put_grant(network, node, role);
            Ok(Done::Granted)
        })
    }

    fn check_grant(&self, network: &NetworkId, node: NodeId, role: Role) -> Result<(), OperationError> {
        self.check_owner(network)?;
        if !self.state().is_some_and(|state| state.is_member(node)) {
            return Err(OperationError::NoNode(node));
        }
        let is_creator = self.networks.get(network).is_some_and(|state| state.view.creator == self.me);
        if role == Role::Owner && !is_creator { Err(OperationError::NotOwner(network.clone())) } else { Ok(()) }
    }

    /// Whether this node owns the network.
    ///
    /// # Errors
    /// It does not, or holds no such network.
    pub fn check_owner(&self, network: &NetworkId) -> Result<(), OperationError> {
        let state = self.networks.get(network).ok_or_else(|| OperationError::NoNetwork(network.to_string()))?;
        if state.owners.contains(&self.me) { Ok(()) } else { Err(OperationError::NotOwner(network.clone())) }
    }

    pub(super) fn put_grant(&mut self, network: &NetworkId, node: NodeId, role: Role) {
        let Some(rev) = self.next_grant_rev(network, node) else { return };
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            log.remove(Kind::UNGRANT, &node.0);
            log.put(pen, &Body::Grant(Grant { node, role }), rev);
        }
        let Some(state) = self.networks.get(network) else { return };
        // Who was kept out is to get a secret at once, and the newest one says that it keeps the node out.
        let is_back = state.removed.contains_key(&node);
        // With an owner go the secrets that it made and the grants that it gave. The newest of those that are left may be one that
        // somebody knows whom it let in.
        let is_creator = self.me == state.view.creator && self.me != node;
        let is_demoted = is_creator && role == Role::Host && state.owners.contains(&node);
        if is_back || is_demoted {
            let mut removed = state.removed.clone();
            removed.remove(&node);
            self.rotate_secret(network, &removed);
        }
    }

    /// Takes a node's grant back and makes the network a new secret.
    pub fn ungrant(&mut self, network: &NetworkId, node: NodeId, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_owner(network)?;
            let (Some(state), Some(rev)) = (this.networks.get(network), this.next_grant_rev(network, node)) else {
                return Err(OperationError::NoCluster);
            };
            if state.view.creator == node {
                return Err(OperationError::Creator(network.clone()));
            }
            if !state.is_granted(node) {
                return Err(OperationError::NotGranted(node, network.clone()));
            }
            let mut removed = state.removed.clone();
            removed.insert(node, rev);
            this.put_ungrant(network, node, rev);
            this.rotate_secret(network, &removed);
            Ok(Done::Ungranted)
        })
    }

    pub(super) fn put_ungrant(&mut self, network: &NetworkId, node: NodeId, rev: Rev) {
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            log.remove(Kind::GRANT, &node.0);
            log.put(pen, &Body::Ungrant(Ungrant { node }), rev);
        }
    }

    /// The rev of the next grant or ungrant of a node: later than what this node has said and the disk has not taken yet.
    pub(super) fn next_grant_rev(&self, network: &NetworkId, node: NodeId) -> Option<Rev> {
        let rev = self.networks.get(network)?.next_grant_rev(node);
        let ahead = self.authors.get(&(self.me, Shard::Network(network.clone())));
        let said = ahead.into_iter().flat_map(|log| [Kind::GRANT, Kind::UNGRANT].map(|kind| log.record(kind, &node.0)));
        Some(said.flatten().map(|record| record.record().rev.next()).fold(rev, Ord::max))
    }

    /// Expels a node, for ever. Only signers do; a signer is expelled by the root, where its key lies.
    pub fn expel(&mut self, node: NodeId, now: Instant) -> OperationId {
        self.operate(now, |this| {
            let state = this.state().ok_or(OperationError::NoCluster)?;
            if state.name(node).is_none() {
                return Err(OperationError::NoNode(node));
            }
            if node == this.me {
                return Err(OperationError::Itself);
            }
            let author = if state.signer_number(node).is_some() { state.root } else { this.me };
            if author == this.me && !state.is_signer(this.me) {
                return Err(OperationError::NotSigner);
            }
            if author != this.me {
                this.succeed(author, node)?;
            }
            let (log, pen) = this.author(author, &Shard::Cluster).ok_or(OperationError::NoRootKey)?;
            log.put(pen, &Body::Revocation(Revocation { node }), Rev(1));
            Ok(Done::Expelled)
        })
    }

    /// Takes over, in the root's log, what a signer has certified as far as this node knows; one head covers all of it, so
    /// nobody hears that the signer's word counts no more without the words that stand for it. Expelled nodes are named too:
    /// what they defined stays.
    fn succeed(&mut self, root: NodeId, signer: NodeId) -> Result<(), OperationError> {
        let by_signer = self.cluster_records().into_iter().filter(|record| record.origin() == signer);
        let certified = by_signer.filter(|record| matches!(record.body(), Body::NodeCert(_)));
        let certified: Vec<Verified> = certified.cloned().collect();
        let (log, pen) = self.author(root, &Shard::Cluster).ok_or(OperationError::NoRootKey)?;
        // What its key has signed since it was succeeded certifies nobody. And a log with more than others take in of one would be
        // heard by nobody: then the revocation stands alone.
        let is_succeeded = log.record(Kind::SUCCESSION, &signer.0).is_some();
        if is_succeeded || log.records().len() + certified.len() >= LOG_RECORD_COUNT_MAX {
            return Ok(());
        }
        for record in certified {
            if log.record(Kind::NODE_CERT, &record.record().key).is_none() {
                log.put(pen, record.body(), record.record().rev);
            }
        }
        log.put(pen, &Body::Succession(Succession { node: signer }), Rev(1));
        Ok(())
    }

    /// Publishes where this node listens.
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.config.endpoints = endpoints;
            this.announce();
            Ok(Done::Updated)
        })
    }

    /// Appoints a signer; only where the root key lies.
    pub(super) fn appoint(&mut self, node: NodeId) -> Result<Verified, OperationError> {
        let root = self.root_key.as_ref().map(|key| NodeId(key.verifying_key().to_bytes()));
        let root = root.ok_or(OperationError::NoRootKey)?;
        let number = self.state().and_then(crate::membership::ClusterState::free_signer_number);
        let number = number.ok_or(OperationError::NoSignerNumberLeft)?;
        let (log, pen) = self.author(root, &Shard::Cluster).ok_or(OperationError::NoRootKey)?;
        if let Some(appointed) = log.record(Kind::SIGNER, &node.0) {
            return Ok(appointed.clone());
        }
        // Numbers given in the same moment are not in the state yet.
        let taken: Vec<u8> = log
            .records()
            .filter_map(|record| match record.body() {
                Body::Signer(signer) => Some(signer.number),
                _ => None,
            })
            .collect();
        let number = (number..=u8::MAX).find(|number| !taken.contains(number));
        let number = number.ok_or(OperationError::NoSignerNumberLeft)?;
        Ok(log.put(pen, &Body::Signer(Signer { node, number }), Rev(1)))
    }
}

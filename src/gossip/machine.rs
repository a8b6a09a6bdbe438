//! The machine: its state, how it begins, and what it answers without doing anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::agree::Agreements;
use super::alive::Alive;
use super::api::{Config, Done, OperationError, OperationId, Output};
use super::attach::AttachWait;
use super::exchange::Exchanges;
use super::files::{BootFile, Entrance, Invite};
use super::gate::Gate;
use super::identity::Identity;
use super::join::Joining;
use super::leave::Leaving;
use super::lives::Lives;
use super::message::MessageVerifier;
use super::peers::Peers;
use super::persist::Persister;
use super::push::Rumours;
use super::secret::Rotation;
use super::space::NetworkSpace;
use super::sync::SyncState;
use super::unsaved::Unsaved;
use crate::membership::{
    ClusterState, Container, Logs, Membership, NetworkState, OwnLog, Pen, Shard, Verdicts, Verified,
};
use crate::model::{CONTAINERS, ClusterId, Generation, NetworkId, NetworkSecret, NodeId};

/// A node's part in the cluster.
pub struct Gossip {
    pub(super) identity: Identity,
    pub(super) me: NodeId,
    pub(super) config: Config,
    pub(super) wall: Wall,
    pub(super) rng: ChaCha20Rng,
    pub(super) verdicts: Verdicts,
    pub(super) boot: BootFile,
    pub(super) root_key: Option<SigningKey>,
    pub(super) belonging: Option<Belonging>,
    pub(super) joining: Option<Joining>,
    pub(super) leaving: Option<Leaving>,
    /// Whether a peer has told this node that it has left.
    pub(super) leave_is_known: bool,
    pub(super) invites: Vec<Invite>,

    pub(super) logs: Logs,
    /// What we write, ahead of `logs` until it is on disk.
    pub(super) authors: BTreeMap<(NodeId, Shard), OwnLog>,
    pub(super) pens: BTreeMap<NodeId, Pen>,
    /// What we remember of our logs: a peer that knows more from before this start knows what we forgot.
    pub(super) lives: BTreeMap<(NodeId, Shard), Lives>,
    /// When to say where we listen, unless our own log was compared before.
    pub(super) announce_at: Option<Instant>,
    pub(super) networks: BTreeMap<NetworkId, NetworkState>,
    pub(super) wanted: BTreeMap<NetworkId, Wanted>,
    pub(super) secrets: BTreeMap<NetworkId, Vec<(Generation, NetworkSecret)>>,
    /// When this owner replaces a secret that is known to somebody who is to know it no longer.
    pub(super) rotations: BTreeMap<NetworkId, Rotation>,
    pub(super) spaces: BTreeMap<NetworkId, NetworkSpace>,
    pub(super) membership: Arc<Membership>,

    /// Whether the disk may be older than what this node signed.
    pub(super) is_in_doubt: bool,
    pub(super) gates: BTreeMap<Shard, Gate>,
    /// Shards whose gate opened although nobody could say what this node signed there before.
    pub(super) unconfirmed: BTreeSet<Shard>,
    pub(super) alive: Alive,
    /// Whether a grant came or went since it was last decided whom to watch.
    pub(super) shared_changed: bool,
    pub(super) peers: Peers,
    pub(super) exchanges: Exchanges,
    pub(super) rumours: Rumours,
    pub(super) sync: SyncState,
    pub(super) agreements: Agreements,
    pub(super) persister: Persister,
    pub(super) attach_waits: Vec<AttachWait>,
    /// Shards whose logs changed since they were last derived.
    pub(super) changed: BTreeSet<Shard>,
    /// Logs of others that are to be written to disk.
    pub(super) unsaved: Unsaved,
    pub(super) next_housekeeping: Instant,
    pub(super) next_seek: Instant,
    /// Offers that came before the certificates they rest on.
    pub(super) early_offers: Vec<EarlyOffer>,
    pub(super) membership_changed: bool,
    pub(super) finished: Vec<(OperationId, Result<Done, OperationError>)>,
    pub(super) operations: u64,
    pub(super) outputs: VecDeque<Output>,
}

/// The cluster that this node is in.
pub(super) struct Belonging {
    pub id: ClusterId,
    pub genesis: Verified,
    /// What makes this node a member, as it tells it in Hello.
    pub chain: Vec<Verified>,
    pub state: ClusterState,
    pub entrance: Option<Entrance>,
    /// Certificates and revocations that peers told ahead of the logs that hold them.
    pub heard: Vec<Verified>,
}

/// A network that a peer offered, or whose definition was lost, and whose logs are not all here.
pub(super) struct Wanted {
    pub state: Option<NetworkState>,
    /// When it is given up; never if this node has a log in it.
    pub until: Option<Instant>,
}

/// A network that a peer offered, with its records, on a connection.
pub(super) type EarlyOffer = (super::api::ConnectionId, NetworkId, Vec<Verified>);

/// Wall time, for what must outlast the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall {
    pub at: Instant,
    pub unix_s: u64,
}

impl Wall {
    pub(super) fn unix_s(self, now: Instant) -> u64 {
        self.unix_s.saturating_add(now.saturating_duration_since(self.at).as_secs())
    }
}

impl Gossip {
    /// A machine in no cluster; [`Gossip::new`] restores the rest.
    pub(super) fn blank(identity: Identity, config: Config, now: Instant, unix_s: u64, seed: [u8; 32]) -> Self {
        Self {
            me: identity.node(),
            identity,
            config,
            wall: Wall { at: now, unix_s },
            rng: ChaCha20Rng::from_seed(seed),
            verdicts: Verdicts::default(),
            boot: BootFile::default(),
            root_key: None,
            belonging: None,
            joining: None,
            leaving: None,
            leave_is_known: false,
            invites: Vec::new(),
            logs: Logs::default(),
            authors: BTreeMap::new(),
            pens: BTreeMap::new(),
            lives: BTreeMap::new(),
            announce_at: None,
            networks: BTreeMap::new(),
            wanted: BTreeMap::new(),
            secrets: BTreeMap::new(),
            rotations: BTreeMap::new(),
            spaces: BTreeMap::new(),
            membership: Arc::default(),
            is_in_doubt: false,
            gates: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            alive: Alive::new(now),
            shared_changed: false,
            peers: Peers::default(),
            exchanges: Exchanges::default(),
            rumours: Rumours::default(),
            sync: SyncState::new(now),
            agreements: Agreements::default(),
            persister: Persister::default(),
            attach_waits: Vec::new(),
            changed: BTreeSet::new(),
            unsaved: Unsaved::default(),
            next_housekeeping: now,
            next_seek: now,
            early_offers: Vec::new(),
            membership_changed: false,
            finished: Vec::new(),
            operations: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The cluster as this node sees it; its own writes are in it once they are on disk.
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.clone()
    }

    pub fn node(&self) -> NodeId {
        self.me
    }

    /// The cluster, if this node is in one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.belonging.as_ref().map(|belonging| belonging.id)
    }

    /// This node's own attachments, as on disk: what a restarted shell adopts again, or detaches.
    pub fn attachments(&self) -> Vec<(NetworkId, Container)> {
        let own = self.authors.iter().filter(|((origin, _), _)| *origin == self.me);
        own.filter_map(|((_, shard), log)| Some((shard.network()?, log)))
            .flat_map(|(id, log)| super::attach::containers(log).map(move |container| (id.clone(), container)))
            .collect()
    }

    /// Whether a node is known to be expelled, or to have left: it is no member, and never will be.
    pub fn is_expelled(&self, node: NodeId) -> bool {
        self.state().is_some_and(|state| state.is_revoked(node))
    }

    /// How many of a network's container addresses each node may give out; none of a network that this node has not.
    pub fn addresses_held(&self, network: &NetworkId) -> BTreeMap<NodeId, u64> {
        self.networks.get(network).map(|state| state.holdings.counts(CONTAINERS)).unwrap_or_default()
    }

    /// The secrets of a network that this node holds, newest generation first.
    pub fn network_keys(&self, network: &NetworkId) -> Vec<(Generation, NetworkSecret)> {
        self.secrets.get(network).cloned().unwrap_or_default()
    }

    /// Whether the root key lies on this node.
    pub fn has_root_key(&self) -> bool {
        self.root_key.is_some()
    }

    /// The nodes that a person should hear about: each signed two different things with one stamp.
    pub fn equivocators(&self) -> BTreeSet<NodeId> {
        self.logs.equivocations().map(|((node, ..), _)| *node).collect()
    }

    /// What checks the messages that arrive now. It changes when the node enters a cluster: fetch it for each message.
    pub fn verifier(&self) -> MessageVerifier {
        let pinned = self.joining.as_ref().map(|joining| joining.token.cluster);
        MessageVerifier { cluster: self.cluster().or(pinned), verdicts: self.verdicts.clone() }
    }

    /// The wall clock was set, or it is simply a while since it was last told.
    pub fn handle_wall(&mut self, wall_unix_s: u64, now: Instant) {
        self.wall = Wall { at: now, unix_s: wall_unix_s };
    }

    /// What the shell is to do next; call until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn operation(&mut self) -> OperationId {
        self.operations += 1;
        OperationId(self.operations)
    }

    /// Runs an operation that is done as soon as what it wrote is on disk.
    pub(super) fn operate(
        &mut self,
        now: Instant,
        run: impl FnOnce(&mut Self) -> Result<Done, OperationError>,
    ) -> OperationId {
        let operation = self.operation();
        match run(self) {
            Ok(done) => self.persister.then(super::persist::Waiter::Done(operation, done)),
            Err(error) => self.finished.push((operation, Err(error))),
        }
        self.settle(now);
        operation
    }

    /// The cluster's state, if this node is in one.
    pub(super) fn state(&self) -> Option<&ClusterState> {
        self.belonging.as_ref().map(|belonging| &belonging.state)
    }

    /// Our log in a shard, and the pen to write it with.
    pub(super) fn own(&mut self, shard: &Shard) -> Option<(&mut OwnLog, &mut Pen)> {
        self.author(self.me, shard)
    }

    /// A log that this node has the key for.
    pub(super) fn author(&mut self, origin: NodeId, shard: &Shard) -> Option<(&mut OwnLog, &mut Pen)> {
        let pen = self.pens.get_mut(&origin)?;
        let log = self.authors.entry((origin, shard.clone())).or_insert_with(|| OwnLog::new(shard.clone()));
        Some((log, pen))
    }

    /// Every record of a network, our own as they will be once they are on disk.
    pub(super) fn records_ahead<'a>(
        &'a self,
        network: &NetworkId,
    ) -> impl Iterator<Item = &'a Verified> + Clone + use<'a> {
        let shard = Shard::Network(network.clone());
        let own = self.authors.get(&(self.me, shard.clone()));
        let ahead = own.is_some();
        let me = self.me;
        let others = self.logs.shard(&shard).filter(move |log| !(ahead && log.origin() == me));
        others.flat_map(|log| log.records()).chain(own.into_iter().flat_map(|log| log.records()))
    }
}

//! How a node begins: from nothing, or from what it stored.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::api::Config;
use super::files::{self, BootFile, ClusterFile, LogFile, ROOT_KEY};
use super::identity::Identity;
use super::lives::Lives;
use super::machine::{Belonging, Gossip, Wanted};
use super::space::NetworkSpace;
use super::store::{FileKind, StoreError, Stored, Write};
use crate::membership::body::{Body, NodeEndpoints};
use crate::membership::{Applied, ClusterState, Membership, OwnLog, Pen, Shard, Verified};
use crate::model::{Boot, NetworkId, NodeId, Rev};

/// How long a started node waits for a peer that knows its own log before it signs where it listens.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);

impl Gossip {
    /// A node with this key and what it stored. `wall_unix_s` decides nothing but an invite's lifetime and how long a
    /// freed address has rested; `seed` must be random, and is to be used once.
    ///
    /// # Errors
    /// What this node itself signed, or its part in the cluster, does not read. Damaged logs of other nodes are dropped:
    /// their nodes still have them.
    pub fn new(
        identity: Identity,
        stored: &Stored,
        config: Config,
        now: Instant,
        wall_unix_s: u64,
        seed: [u8; 32],
    ) -> Result<Self, StoreError> {
        let mut this = Self::blank(identity, config, now, wall_unix_s, seed);
        let boot: BootFile = files::open(stored, files::BOOT, FileKind::Boot)?.unwrap_or_default();
        this.boot = BootFile { boot: Boot(boot.boot.0 + 1), ..boot };
        // The cluster's id is in its own file, so the first reading takes the file at its word.
        let id = files::open_cluster_id(stored)?;
        match id {
            Some(id) => {
                let file: ClusterFile = files::open_signed(stored, files::CLUSTER, FileKind::Cluster, id)?
                    .ok_or_else(|| StoreError::Missing(files::CLUSTER.to_owned()))?;
                this.boot.member = true;
                this.restore(stored, boot.boot, file, now)?;
            }
            None if boot.member => return Err(StoreError::Missing(files::CLUSTER.to_owned())),
            // What an interrupted `init` or `join` left behind was acknowledged to nobody.
            None => this.remove_remains(stored),
        }
        this.persister.write(this.boot.write());
        this.settle(now);
        Ok(this)
    }

    /// Enters a cluster, in memory.
    pub(super) fn belong(&mut self, file: ClusterFile) -> Result<(), StoreError> {
        let foreign = || StoreError::Foreign(files::CLUSTER.to_owned());
        let records = std::iter::once(&file.genesis).chain(&file.chain);
        let state = ClusterState::derive(file.id, records).ok_or_else(foreign)?;
        if state.name(self.me).is_none() {
            return Err(foreign());
        }
        self.pens.insert(self.me, Pen::new(self.identity.key().clone(), file.id, self.boot.boot));
        self.membership = Membership::new(file.id, [], []).into();
        let ClusterFile { id, genesis, chain, entrance } = file;
        self.belonging = Some(Belonging { id, genesis, chain, state, entrance, heard: Vec::new() });
        self.changed.insert(Shard::Cluster);
        Ok(())
    }

    /// Says where this node listens.
    pub(super) fn announce(&mut self) {
        self.announce_at = None;
        let endpoints = self.config.endpoints.iter().copied().take(crate::membership::body::ENDPOINT_COUNT_MAX);
        let body = Body::Node(NodeEndpoints { endpoints: endpoints.collect() });
        if let Some((log, pen)) = self.own(&Shard::Cluster) {
            log.put(pen, &body, Rev(0));
        }
    }

    fn restore(
        &mut self,
        stored: &Stored,
        stored_boot: Boot,
        file: ClusterFile,
        now: Instant,
    ) -> Result<(), StoreError> {
        let cluster = file.id;
        self.belong(file)?;
        for name in stored.names("log-") {
            // Another node's log that does not read is fetched again.
            let Ok(Some(log)) = files::open_signed::<LogFile>(stored, name, FileKind::ForeignLog, cluster) else {
                self.persister.write(Write::remove(name));
                continue;
            };
            self.restore_log(&log, name);
        }
        self.restore_root(stored)?;
        let mut has_own_log = false;
        for name in stored.names("own-") {
            let log: LogFile = files::open_signed(stored, name, FileKind::OwnLog, cluster)?
                .ok_or_else(|| StoreError::Missing(name.to_owned()))?;
            let shard = log.delta.head.head().shard.clone();
            if log.delta.head.origin() != self.me || files::own_log_name(&shard) != name {
                return Err(StoreError::Foreign(name.to_owned()));
            }
            self.logs.apply(&log.delta).map_err(|_| StoreError::Content(name.to_owned()))?;
            has_own_log |= shard == Shard::Cluster;
            if let Some(network) = shard.network() {
                self.restore_network(network, &log, now);
            }
            if let Some(restored) = self.logs.log(&shard, self.me) {
                self.lives.insert((self.me, shard.clone()), Lives::new(restored.stamp(), log.gaps));
                self.authors.insert((self.me, shard.clone()), OwnLog::of(restored));
            }
            self.changed.insert(shard);
        }
        if !has_own_log {
            return Err(StoreError::Missing(files::own_log_name(&Shard::Cluster)));
        }
        self.restore_apart(stored, now)?;
        self.invites = files::open(stored, files::INVITES, FileKind::Invites)?.unwrap_or_default();
        let networks: BTreeSet<NetworkId> = self.changed.iter().filter_map(|s| s.network().cloned()).collect();
        for network in networks {
            let secrets = files::open_secrets(stored, &network)?;
            if !secrets.is_empty() {
                self.secrets.insert(network.clone(), secrets);
            }
            self.wanted.entry(network).or_insert(Wanted { state: None, until: Some(now + Duration::from_secs(60)) });
        }
        self.check_head(stored_boot, now);
        self.refresh_all(now);
        self.tend_gates(now);
        // What is signed from here on outranks what was signed before, so what peers remember of that is asked for first.
        self.announce_at = Some(now + ANNOUNCE_AFTER);
        Ok(())
    }

    fn restore_log(&mut self, log: &LogFile, name: &str) {
        let (shard, origin) = (log.delta.head.head().shard.clone(), log.delta.head.origin());
        let sound = files::foreign_log_name(&shard, origin) == name && origin != self.me;
        if sound && matches!(self.logs.apply(&log.delta), Ok(Applied::Changed { .. })) {
            self.changed.insert(shard);
        } else {
            self.persister.write(Write::remove(name));
        }
    }

    /// Where the root key lies, this node writes the root's log too.
    fn restore_root(&mut self, stored: &Stored) -> Result<(), StoreError> {
        let Some(key) = files::open_key(stored, ROOT_KEY, FileKind::RootKey)? else { return Ok(()) };
        let Some(belonging) = &self.belonging else { return Ok(()) };
        let root = NodeId(key.verifying_key().to_bytes());
        if root != belonging.genesis.origin() {
            return Err(StoreError::Foreign(ROOT_KEY.to_owned()));
        }
        let name = files::foreign_log_name(&Shard::Cluster, root);
        let file: Option<LogFile> = files::open_signed(stored, &name, FileKind::ForeignLog, belonging.id)?;
        let (Some(LogFile { gaps, .. }), Some(log)) = (file, self.logs.log(&Shard::Cluster, root)) else {
            // Without its log the root would sign stamps a second time.
            return Err(StoreError::Missing(name));
        };
        let mut pen = Pen::new(key.clone(), belonging.id, Boot(0));
        pen.skip_past(log.stamp().boot);
        self.lives.insert((root, Shard::Cluster), Lives::new(log.stamp(), gaps));
        self.authors.insert((root, Shard::Cluster), OwnLog::of(log));
        self.pens.insert(root, pen);
        self.root_key = Some(key);
        Ok(())
    }

    /// What this node signed in a network stays wanted, also while the logs of others that explain it are missing.
    fn restore_network(&mut self, network: &NetworkId, log: &LogFile, now: Instant) {
        self.wanted.insert(network.clone(), Wanted { state: None, until: None });
        let space = NetworkSpace::restored(&log.resting, self.wall.unix_s(now), now);
        self.spaces.insert(network.clone(), space);
    }

    fn remove_remains(&mut self, stored: &Stored) {
        let remains = ["own-", "log-", "secrets-", ROOT_KEY, files::INVITES, files::RESTING];
        let names: Vec<String> =
            remains.iter().flat_map(|prefix| stored.names(prefix)).map(ToOwned::to_owned).collect();
        for name in names {
            self.persister.write(Write::remove(name));
        }
    }

    /// The records that say who belongs to the cluster.
    pub(super) fn cluster_records(&self) -> Vec<&Verified> {
        let Some(belonging) = &self.belonging else { return Vec::new() };
        let told = std::iter::once(&belonging.genesis).chain(&belonging.chain).chain(&belonging.heard);
        told.chain(self.logs.records(&Shard::Cluster)).collect()
    }
}

//! What a network is: derived from its shard, whatever the order in which its records came.
//!
//! - The definition is the creator's: the network's id is its hash, so nobody else can define it, and the VNI carries the
//!   creator's signer number.
//! - Owners are the creator and whom the creator makes owner; any owner grants. Of several grants and ungrants of one node
//!   the highest (rev, origin) counts.
//! - A container counts if its node is a member of the cluster, is granted the network, and holds the address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::body::{Body, ContainerBody, NetworkDef, Services};
use super::cluster::ClusterState;
use super::head::SetHash;
use super::shares::Holdings;
use super::signed::Verified;
use super::view::{Container, Network, Order, Role};
use crate::model::{Label, NetworkId, NodeId, Rev};

/// A network as its records say, with what writing in it needs.
#[derive(Debug, Clone)]
pub struct NetworkState {
    pub view: Arc<Network>,
    pub holdings: Holdings,
    /// Who may grant, define and rotate.
    pub owners: BTreeSet<NodeId>,
    /// Whose logs belong to the shard: everyone granted, expelled or not, and the owners.
    writers: BTreeSet<NodeId>,
    /// The highest rev of each node's grants and ungrants.
    grant_revs: BTreeMap<NodeId, Rev>,
    /// Who had a grant once and is to know no secret any more, expelled, gone, or not granted any more, with the highest rev of
    /// its grants and ungrants: who is granted again and removed again is another entry, for it knew what came between.
    pub removed: BTreeMap<NodeId, Rev>,
    /// Whom each granted node knows to be removed.
    acks: BTreeMap<NodeId, SetHash>,
    /// Whom the newest secret keeps out.
    secret_without: Option<SetHash>,
    secret_rev: Rev,
    container_rev: Rev,
    /// When the application that was defined last was defined first.
    app_since: Rev,
    /// The highest rev of each application's definitions, and of its deploys.
    app_revs: BTreeMap<Label, Rev>,
    deploy_revs: BTreeMap<Label, Rev>,
}

/// The definition of the network `id`, if `record` is it.
pub fn definition<'a>(id: &NetworkId, cluster: &ClusterState, record: &'a Verified) -> Option<&'a NetworkDef> {
    match record.body() {
        Body::NetworkDef(def)
            if def.id(record.origin()) == *id && cluster.signer_number(record.origin()) == Some(def.vni.signer()) =>
        {
            Some(def)
        }
        _ => None,
    }
}

impl NetworkState {
    /// Derives a network from its shard's records; `None` while its definition is not among them.
    pub fn derive<'a>(
        id: &NetworkId,
        cluster: &ClusterState,
        records: impl Iterator<Item = &'a Verified> + Clone,
    ) -> Option<Self> {
        let (creator, def) =
            records.clone().find_map(|record| Some((record.origin(), definition(id, cluster, record)?)))?;
        let (owners, grants, ungranted, grant_revs) = grants(creator, records.clone());

        let mut view = Network::new(id.clone(), def.vni, creator);
        view.name.clone_from(&def.name);
        view.internal = def.internal;
        view.grants = grants.iter().filter(|(node, _)| cluster.is_member(**node)).map(|(n, r)| (*n, *r)).collect();

        let newest = records
            .clone()
            .filter(|record| owners.contains(&record.origin()))
            .filter_map(|record| match record.body() {
                Body::Secret(secret) => Some(((record.record().rev, record.origin()), secret)),
                _ => None,
            })
            .max_by_key(|(order, _)| *order);
        view.secret = newest.map(|(_, secret)| (secret.generation, secret.hash));

        let acks = records.clone().filter_map(|record| match record.body() {
            Body::Ack(ack) => Some((record.origin(), ack.removed)),
            _ => None,
        });
        let acks = acks.collect();
        let holdings = Holdings::derive(creator, records.clone());
        let mut container_rev = Rev(0);
        let mut counted: BTreeMap<_, (Rev, &ContainerBody, NodeId)> = BTreeMap::new();
        for record in records.clone() {
            let Body::Container(body) = record.body() else { continue };
            let (node, rev) = (record.origin(), record.record().rev);
            container_rev = container_rev.max(rev);
            if view.grants.contains_key(&node) && holdings.holder(body.address) == Some(node) {
                // Of two claims of one holder on one address the lower (rev, id) holds.
                let claim = counted.entry(body.address).or_insert((rev, body, node));
                if (rev, body.id) < (claim.0, claim.1.id) {
                    *claim = (rev, body, node);
                }
            }
        }
        for (rev, body, node) in counted.into_values() {
            view.insert_container(Arc::new(container(node, rev, body)));
        }
        let app_since = records.clone().filter(|record| owners.contains(&record.origin())).filter_map(app_since).max();
        let app_since = app_since.unwrap_or_default();
        let (app_revs, deploy_revs) = definitions(&mut view, &owners, records);
        let expelled = grants.keys().filter(|node| !cluster.is_member(**node)).copied();
        let removed = ungranted.into_iter().chain(expelled);
        let removed = removed.map(|node| (node, grant_revs.get(&node).copied().unwrap_or_default())).collect();
        let secret_without = newest.and_then(|(_, secret)| secret.without);
        let writers = grants.keys().chain(&owners).copied().collect();
        let secret_rev = newest.map_or(Rev(0), |((rev, _), _)| rev);
        Some(Self {
            view: Arc::new(view),
            holdings,
            owners,
            writers,
            grant_revs,
            removed,
            acks,
            secret_without,
            secret_rev,
            container_rev,
            app_since,
            app_revs,
            deploy_revs,
        })
    }

    /// Whether the node may have a log in the shard.
    pub fn may_write(&self, node: NodeId) -> bool {
        self.writers.contains(&node)
    }

    /// Whether the node is a member of the cluster with a grant.
    pub fn is_granted(&self, node: NodeId) -> bool {
        self.view.grants.contains_key(&node)
    }

    /// The rev of the next grant or ungrant of a node.
    pub fn next_grant_rev(&self, node: NodeId) -> Rev {
        self.grant_revs.get(&node).copied().unwrap_or_default().next()
    }

    /// Whether every granted node knows who is removed.
    pub fn is_removal_known(&self) -> bool {
        let mark = removal_mark(&self.removed);
        mark.is_some_and(|mark| self.view.grants.keys().all(|node| self.acks.get(node) == Some(&mark)))
    }

    /// Whether somebody knows the newest secret who is to know it no longer.
    pub fn is_secret_stale(&self) -> bool {
        self.view.secret.is_some() && self.secret_without != removal_mark(&self.removed)
    }

    /// The rev of the next secret.
    pub fn next_secret_rev(&self) -> Rev {
        self.secret_rev.next()
    }

    /// The rev of an application's next definition.
    pub fn next_app_rev(&self, app: &Label) -> Rev {
        self.app_revs.get(app).copied().unwrap_or_default().next()
    }

    /// Since when an application is defined that has not been, or is not any more.
    pub fn next_app_since(&self) -> Rev {
        self.app_since.next()
    }

    /// The rev of an application's next deploy.
    pub fn next_deploy_rev(&self, app: &Label) -> Rev {
        self.deploy_revs.get(app).copied().unwrap_or_default().next()
    }

    /// The highest rev of a container.
    pub fn container_rev(&self) -> Rev {
        self.container_rev
    }
}

/// A container as the view shows it.
pub fn container(node: NodeId, rev: Rev, body: &ContainerBody) -> Container {
    Container {
        id: body.id,
        node,
        address: body.address,
        app: body.app.clone(),
        kind: body.kind.clone(),
        number: body.number,
        version: body.version.clone(),
        service: body.service.clone(),
        server: body.server.clone(),
        public_key: body.public_key,
        state: body.state,
        rev,
    }
}

/// Names a set of nodes that are kept out, each as [`NetworkState::removed`] has it; none of an empty one.
pub fn removal_mark(removed: &BTreeMap<NodeId, Rev>) -> Option<SetHash> {
    let mut hasher = blake3::Hasher::new();
    for (node, rev) in removed {
        hasher.update(&node.0).update(&rev.0.to_be_bytes());
    }
    (!removed.is_empty()).then(|| SetHash(*hasher.finalize().as_bytes()))
}

/// When an application was defined first, if the record defines one.
pub fn app_since(record: &Verified) -> Option<Rev> {
    match record.body() {
        Body::Services(Services { def: Some(_), since, .. }) => Some(since.unwrap_or(record.record().rev)),
        _ => None,
    }
}

/// Puts into the view what the owners define and deploy, and gives the highest rev of each application's definitions and
/// of its deploys.
fn definitions<'a>(
    view: &mut Network,
    owners: &BTreeSet<NodeId>,
    records: impl Iterator<Item = &'a Verified>,
) -> (BTreeMap<Label, Rev>, BTreeMap<Label, Rev>) {
    let mut newest: BTreeMap<&Label, (Order, &Services)> = BTreeMap::new();
    let mut deploy_revs: BTreeMap<Label, Rev> = BTreeMap::new();
    for record in records.filter(|record| owners.contains(&record.origin())) {
        let order = (record.record().rev, record.origin());
        match record.body() {
            Body::Services(services) => {
                let held = newest.entry(&services.app).or_insert((order, services));
                if held.0 < order {
                    *held = (order, services);
                }
            }
            Body::Deploy(deploy) => {
                view.deploy(deploy.app.clone(), deploy.version.clone(), order);
                let highest = deploy_revs.entry(deploy.app.clone()).or_default();
                *highest = order.0.max(*highest);
            }
            _ => {}
        }
    }
    for (order, services) in newest.values() {
        if let Some(def) = &services.def {
            view.define_app(*order, services.since.unwrap_or(order.0), def.clone());
        }
    }
    (newest.into_iter().map(|(app, ((rev, _), _))| (app.clone(), rev)).collect(), deploy_revs)
}

/// The highest rev of each node's grants and ungrants.
type Revs = BTreeMap<NodeId, Rev>;

/// The owners, the grants, who is ungranted, and the highest rev of each node's.
fn grants<'a>(
    creator: NodeId,
    records: impl Iterator<Item = &'a Verified> + Clone,
) -> (BTreeSet<NodeId>, BTreeMap<NodeId, Role>, BTreeSet<NodeId>, Revs) {
    let said = |record: &Verified| match record.body() {
        Body::Grant(grant) => Some((grant.node, Some(grant.role))),
        Body::Ungrant(ungrant) => Some((ungrant.node, None)),
        _ => None,
    };
    // Owners come from the creator's own grants, so that owners cannot make or unmake each other in a circle.
    let mut by_creator: BTreeMap<NodeId, (Rev, Option<Role>)> = BTreeMap::new();
    for record in records.clone().filter(|record| record.origin() == creator) {
        if let Some((node, role)) = said(record) {
            let said = (record.record().rev, role);
            by_creator.entry(node).and_modify(|held| *held = (*held).max(said)).or_insert(said);
        }
    }
    let mut owners: BTreeSet<NodeId> =
        by_creator.iter().filter(|(_, (_, role))| *role == Some(Role::Owner)).map(|(node, _)| *node).collect();
    owners.insert(creator);

    let mut newest: BTreeMap<NodeId, (Rev, NodeId, Option<Role>)> = BTreeMap::new();
    let mut revs: BTreeMap<NodeId, Rev> = BTreeMap::new();
    for record in records.filter(|record| owners.contains(&record.origin())) {
        if let Some((node, role)) = said(record) {
            let rev = record.record().rev;
            let said = (rev, record.origin(), role);
            newest.entry(node).and_modify(|held| *held = (*held).max(said)).or_insert(said);
            revs.entry(node).and_modify(|held| *held = (*held).max(rev)).or_insert(rev);
        }
    }
    let ungranted: BTreeSet<NodeId> = newest
        .iter()
        .filter(|(node, (_, _, role))| role.is_none() && **node != creator)
        .map(|(node, _)| *node)
        .collect();
    let mut granted: BTreeMap<NodeId, Role> = newest
        .into_iter()
        .filter_map(|(node, (_, _, role))| {
            let role = role?;
            Some((node, if owners.contains(&node) { Role::Owner } else { role.min(Role::Host) }))
        })
        .collect();
    granted.insert(creator, Role::Owner);
    (owners, granted, ungranted, revs)
}

//! What the owners of a network say of its applications: definitions and deploys.

use std::sync::Arc;
use std::time::Instant;

use super::api::{Done, OperationError, OperationId};
use super::machine::Gossip;

use crate::membership::body::{Body, Deploy, Services, deploy_key};
use crate::membership::{Kind, NetworkState, Order, Shard, app_since};
use crate::model::{AppDef, Label, NetworkId, Rev};

/// So many versions of an application are remembered as deployed, beside those that have containers.
const DEPLOY_COUNT_MAX: usize = 32;

impl Gossip {
    /// Defines an application, in the place of what defined it before. Only owners do.
    pub fn define_app(&mut self, network: &NetworkId, def: AppDef, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_app(network, &def)?;
            this.check_room(&Shard::Network(network.clone()))?;
            this.put_app(network, def.id.clone(), Some(Arc::new(def)));
            Ok(Done::Updated)
        })
    }

    /// Whether this node may define an application so.
    ///
    /// # Errors
    /// It does not own the network, or the namespace is another application's.
    pub fn check_app(&self, network: &NetworkId, def: &AppDef) -> Result<(), OperationError> {
        self.check_owner(network)?;
        let holder = self.owned(network)?.view.app_of_namespace(def.namespace.as_str());
        match holder.filter(|holder| **holder != def.id) {
            None => Ok(()),
            Some(holder) => {
                Err(OperationError::NamespaceTaken { namespace: def.namespace.clone(), holder: holder.clone() })
            }
        }
    }

    /// Takes an application's definition back; its containers stay.
    pub fn undefine_app(&mut self, network: &NetworkId, app: Label, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_owner(network)?;
            if this.owned(network)?.view.definition(app.as_str()).is_none() {
                return Err(OperationError::NoDefinition(app));
            }
            this.put_app(network, app, None);
            Ok(Done::Updated)
        })
    }

    fn put_app(&mut self, network: &NetworkId, app: Label, def: Option<Arc<AppDef>>) {
        let Some(state) = self.networks.get(network) else { return };
        let (rev, first) = (state.next_app_rev(&app), state.next_app_since());
        let held = state.view.defined_since(app.as_str());
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            // Two definitions before the first is on disk: the second is later than that.
            let said = log.record(Kind::SERVICES, app.as_str().as_bytes()).map(|record| record.record().rev.next());
            let rev = said.map_or(rev, |said| said.max(rev));
            // One that is defined keeps its place; what is not on disk yet counts as well.
            let unsaid = log.records().filter_map(app_since).map(Rev::next);
            let since = def.is_some().then(|| held.unwrap_or_else(|| unsaid.fold(first, Ord::max)));
            log.put(pen, &Body::Services(Services { app, def, since }), rev);
        }
    }

    /// Declares a version of an application live: it is the latest from now on. Only owners do.
    pub fn deploy(&mut self, network: &NetworkId, app: Label, version: String, now: Instant) -> OperationId {
        self.operate(now, |this| {
            this.check_owner(network)?;
            let state = this.owned(network)?;
            if state.view.app(app.as_str()).is_none() {
                return Err(OperationError::NoApp(app));
            }
            this.check_room(&Shard::Network(network.clone()))?;
            let (rev, forgotten) = (state.next_deploy_rev(&app), forgotten(state, &app));
            if let Some((log, pen)) = this.own(&Shard::Network(network.clone())) {
                let said = log.records().filter_map(|record| match record.body() {
                    Body::Deploy(deploy) if deploy.app == app => Some(record.record().rev.next()),
                    _ => None,
                });
                let rev = said.fold(rev, Ord::max);
                for key in forgotten {
                    log.remove(Kind::DEPLOY, &key);
                }
                log.put(pen, &Body::Deploy(Deploy { app, version }), rev);
            }
            Ok(Done::Updated)
        })
    }

    fn owned(&self, network: &NetworkId) -> Result<&NetworkState, OperationError> {
        self.networks.get(network).ok_or_else(|| OperationError::NoNetwork(network.to_string()))
    }
}

/// The keys of the oldest deploys of an application, of versions that no container has.
fn forgotten(state: &NetworkState, app: &Label) -> Vec<Vec<u8>> {
    let view = &state.view;
    let deploys: Vec<(Order, &str)> = view.deploys(app.as_str());
    let used = |version: &str| {
        view.containers().any(|container| container.app == *app && container.version.as_deref() == Some(version))
    };
    let excess = (deploys.len() + 1).saturating_sub(DEPLOY_COUNT_MAX);
    let oldest = deploys.into_iter().take(excess).map(|(_, version)| version);
    oldest.filter(|version| !used(version)).map(|version| deploy_key(app, version)).collect()
}

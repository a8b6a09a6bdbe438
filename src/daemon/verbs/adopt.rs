//! A restart: the containers of the earlier run are taken up again.

use super::attach::{Plug, Refused, blocking, plug};
use super::detach::{take_off, unpublish_unknown};
use super::failures::with_causes;
use crate::daemon::attachments::Local;
use crate::daemon::node::Node;
use crate::gossip::OperationError;
use crate::model::WgSecret;
use crate::sys::netns::Netns;
use crate::sys::{clock, random};

/// Why a container of an earlier run is not served.
enum Unserved {
    /// It cannot be any more.
    Lost(String),
    /// What others signed about its network is not here: their logs were damaged on this node's disk, and come again.
    NetworkUnknown,
}

/// Takes up the containers of an earlier run again, each with a new key; lets go those that cannot be. Nothing else is
/// attached or detached yet.
pub async fn adopt(node: &Node) {
    for local in node.attachments.list() {
        if matches!(take_up(node, &local).await, Err(Unserved::NetworkUnknown)) {
            tracing::warn!(attachment = %local.id, network = %local.network, "a container waits for its network's records");
        }
    }
    unpublish_unknown(node).await;
}

/// Takes up those whose network was not known before.
pub(super) async fn adopt_late(node: &Node) {
    for id in node.attachments.unserved() {
        if let Ok((_claim, local)) = node.attachments.claim_held(id)
            && take_up(node, &local).await.is_ok()
        {
            tracing::info!(attachment = %id, "a container of the last run is served again");
        }
    }
}

/// Takes one up again, or lets it go. Nobody else attaches or detaches it meanwhile.
async fn take_up(node: &Node, local: &Local) -> Result<(), Unserved> {
    let taken = adopt_one(node, local).await;
    match &taken {
        Ok(()) => node.attachments.note_settled(local.id),
        Err(Unserved::Lost(why)) => {
            tracing::warn!(attachment = %local.id, error = why, "a container of the last run is not served any more");
            take_off(node, local).await;
            node.attachments.note_settled(local.id);
        }
        Err(Unserved::NetworkUnknown) => {}
    }
    taken
}

async fn adopt_one(node: &Node, local: &Local) -> Result<(), Unserved> {
    let anchor = local.anchor.clone();
    let netns = blocking(move || Netns::reopen(&anchor)).await.map_err(|error| Unserved::Lost(with_causes(&error)))?;
    let id = local.id;
    let published = node.call(|engine| engine.gossip.attachments()).await;
    let published = published.map_err(|failure| Unserved::Lost(failure.why))?;
    let Some((_, container)) = published.into_iter().find(|(_, container)| container.id == id) else {
        return Err(Unserved::Lost("its record is gone".to_owned()));
    };
    if node.network(Some(local.network.as_str())).is_err() {
        return Err(Unserved::NetworkUnknown);
    }
    let secret = WgSecret::random(&mut random::Os);
    let key = secret.public();
    let done = node.operate(move |gossip| gossip.set_container_key(id, key, clock::now()), None).await;
    match done.map_err(|failure| Unserved::Lost(failure.why))? {
        Ok(_) => {}
        // The key is published as soon as the disk takes it; until then the container serves this node's others.
        Err(OperationError::NotStored) => tracing::warn!(attachment = %id, "its new key is not published yet"),
        Err(error) => return Err(Unserved::Lost(with_causes(&error))),
    }
    let plugged = plug(node, local, &container, secret, netns, Plug::Adopt).await;
    plugged.map(drop).map_err(|Refused { failure, .. }| Unserved::Lost(failure.why))
}

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

/// Takes up the containers of an earlier run again, each with a new key; lets go those that cannot be. Nothing else is
/// attached or detached yet.
pub async fn adopt(node: &Node) {
    for local in node.attachments.list() {
        if let Err(why) = adopt_one(node, &local).await {
            tracing::warn!(attachment = %local.id, error = why, "a container of the last run is not served any more");
            take_off(node, &local).await;
        }
    }
    unpublish_unknown(node).await;
}

async fn adopt_one(node: &Node, local: &Local) -> Result<(), String> {
    let anchor = local.anchor.clone();
    let netns = blocking(move || Netns::reopen(&anchor)).await.map_err(|error| with_causes(&error))?;
    let id = local.id;
    let published = node.call(|engine| engine.gossip.attachments()).await.map_err(|failure| failure.why)?;
    let Some((_, container)) = published.into_iter().find(|(_, container)| container.id == id) else {
        return Err("its record is gone".to_owned());
    };
    let secret = WgSecret::random(&mut random::Os);
    let key = secret.public();
    let done = node.operate(move |gossip| gossip.set_container_key(id, key, clock::now()), None).await;
    match done.map_err(|failure| failure.why)? {
        Ok(_) => {}
        // The key is published as soon as the disk takes it; until then the container serves this node's others.
        Err(OperationError::NotStored) => tracing::warn!(attachment = %id, "its new key is not published yet"),
        Err(error) => return Err(with_causes(&error)),
    }
    let plugged = plug(node, local, &container, secret, netns, Plug::Adopt).await;
    plugged.map(drop).map_err(|Refused { failure, .. }| failure.why)
}

//! A restart: the containers of the earlier run are taken up again.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::attach::{Plug, Refused, blocking, plug};
use super::detach::{reconcile, take_off};
use super::drain;
use super::failures::with_causes;
use crate::daemon::attachments::{Claim, Local};
use crate::daemon::node::Node;
use crate::gossip::OperationError;
use crate::membership::Container;
use crate::model::{AttachmentId, WgPublicKey, WgSecret};
use crate::sys::netns::Netns;
use crate::sys::tun::Adopters;
use crate::sys::{clock, random};

/// How many interfaces are taken up at the same time.
const AT_ONCE: usize = 8;

/// Why a container of an earlier run is not served.
enum Unserved {
    /// It cannot be any more.
    Lost(String),
    /// What others signed about its network is not here: their logs were damaged on this node's disk, and come again.
    NetworkUnknown,
}

/// This node's containers as their records say.
type Published = HashMap<AttachmentId, Container>;

/// What containers are taken up with.
struct Means {
    published: Published,
    adopters: Arc<Adopters>,
    turns: Semaphore,
}

impl Means {
    /// `None` when the node stops: then nothing is taken up any more, and nothing let go.
    async fn of(node: &Node) -> Option<Self> {
        let published = node.call(|engine| engine.gossip.attachments()).await.ok()?;
        Some(Self {
            published: published.into_iter().map(|(_, container)| (container.id, container)).collect(),
            adopters: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
        })
    }
}

/// Takes up the containers of an earlier run again, each with a new key; lets go those that cannot be. Nothing else is
/// attached or detached yet.
///
/// Each carries traffic as soon as it is taken up, whatever the others do. Their keys are published together, as many as there
/// are whenever the disk is free.
pub async fn adopt(node: &Arc<Node>) {
    node.attachments.resume_drains(clock::now(), clock::unix_ms());
    let Some(means) = Means::of(node).await.map(Arc::new) else { return };
    let mut under_way = JoinSet::new();
    for local in node.attachments.list() {
        let (node, means) = (node.clone(), means.clone());
        // Before anything waits: the sweep leaves what is claimed alone, however long this takes.
        let Ok((claim, local)) = node.attachments.claim_held(local.id) else { continue };
        under_way.spawn(async move {
            let (id, network) = (local.id, local.network.clone());
            if matches!(take_up(&node, claim, local, &means).await, Err(Unserved::NetworkUnknown)) {
                tracing::warn!(attachment = %id, %network, "a container waits for its network's records");
            }
        });
    }
    under_way.join_all().await;
    reconcile(node).await;
}

/// Takes up those whose network was not known before.
pub(super) async fn adopt_late(node: &Node) {
    let unserved = node.attachments.unserved();
    if unserved.is_empty() {
        return;
    }
    let Some(means) = Means::of(node).await else { return };
    for id in unserved {
        if let Ok((claim, local)) = node.attachments.claim_held(id)
            && take_up(node, claim, local, &means).await.is_ok()
        {
            tracing::info!(attachment = %id, "a container of the last run is served again");
        }
    }
}

/// Takes one up again, or lets it go. Nobody else attaches or detaches it until it is served.
async fn take_up(node: &Node, claim: Claim, local: Local, means: &Means) -> Result<(), Unserved> {
    let taken = adopt_one(node, &local, means).await;
    if let Err(Unserved::Lost(why)) = &taken {
        tracing::warn!(attachment = %local.id, error = why, "a container of the last run is not served any more");
        take_off(node, &local).await;
    }
    if !matches!(taken, Err(Unserved::NetworkUnknown)) {
        node.attachments.note_settled(local.id);
    }
    // From here on it can be detached, though its key may wait long for the others or for the disk.
    drop(claim);
    let key = taken?;
    publish(node, local.id, key).await;
    if local.drain.is_some() {
        // The last run may have noted it and come no further.
        drain::publish(node, local.id).await;
    }
    node.readiness.announce();
    Ok(())
}

/// Has it served under a new key.
async fn adopt_one(node: &Node, local: &Local, means: &Means) -> Result<WgPublicKey, Unserved> {
    let _turn = means.turns.acquire().await.expect("nobody closes it");
    let (anchor, id) = (local.anchor.clone(), local.id);
    let netns = blocking(move || Netns::reopen(&anchor)).await.map_err(|error| Unserved::Lost(with_causes(&error)))?;
    let Some(container) = means.published.get(&id) else {
        return Err(Unserved::Lost("its record is gone".to_owned()));
    };
    if node.network(Some(local.network.as_str())).is_err() {
        return Err(Unserved::NetworkUnknown);
    }
    let secret = WgSecret::random(&mut random::Os);
    let key = secret.public();
    let plugged = plug(node, local, container, secret, netns, Plug::Adopt(means.adopters.clone())).await;
    plugged.map_err(|Refused { failure, .. }| Unserved::Lost(failure.why))?;
    Ok(key)
}

/// Publishes the key under which it is served. Only now: who hears of the key opens a tunnel at once, and would find nobody.
async fn publish(node: &Node, id: AttachmentId, key: WgPublicKey) {
    match node.operate(move |gossip| gossip.set_container_key(id, key, clock::now()), None).await {
        // A node that stops leaves it to its next start.
        Ok(Ok(_)) | Err(_) => {}
        // The disk takes it later; until then the container serves this node's others.
        Ok(Err(OperationError::NotStored)) => tracing::warn!(attachment = %id, "its new key is not published yet"),
        // Its record has gone meanwhile, and the next sweep takes it off.
        Ok(Err(error)) => {
            tracing::warn!(attachment = %id, error = with_causes(&error), "its new key cannot be published");
        }
    }
}

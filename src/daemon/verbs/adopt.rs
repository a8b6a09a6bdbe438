//! A restart: the containers of the earlier run are taken up again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
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
/// How far apart new keys are published, all that are there at a time: each publication writes this node's log once more, and every
/// node of the network derives it anew. A thousand, each as soon as the disk was free, took a third of two processors' time.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Why a container of an earlier run is not served.
enum Unserved {
    /// It cannot be any more.
    Lost(String),
    /// What others signed about its network is not here: their logs were damaged on this node's disk, and come again.
    NetworkUnknown,
}

/// This node's containers as their records say.
type Published = HashMap<AttachmentId, Container>;
/// The key under which a container is served now.
type NewKey = (AttachmentId, WgPublicKey);

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
/// Each carries traffic as soon as it is taken up, whatever the others do.
pub async fn adopt(node: &Arc<Node>) {
    node.attachments.resume_drains(clock::now(), clock::unix_ms());
    let Some(means) = Means::of(node).await.map(Arc::new) else { return };
    let (taken_up, keys) = mpsc::unbounded_channel();
    let mut under_way = JoinSet::new();
    for local in node.attachments.list() {
        let (node, means, taken_up) = (node.clone(), means.clone(), taken_up.clone());
        // Before anything waits: the sweep leaves what is claimed alone, however long this takes.
        let Ok((claim, local)) = node.attachments.claim_held(local.id) else { continue };
        under_way.spawn(async move {
            let (id, network) = (local.id, local.network.clone());
            match take_up(&node, claim, local, &means).await {
                // Nobody hears it where the node stops.
                Ok(key) => drop(taken_up.send((id, key))),
                Err(Unserved::NetworkUnknown) => {
                    tracing::warn!(attachment = %id, %network, "a container waits for its network's records");
                }
                Err(Unserved::Lost(_)) => {}
            }
        });
    }
    drop(taken_up);
    publish_as_they_come(node, keys).await;
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
            && let Ok(key) = take_up(node, claim, local, &means).await
        {
            publish(node, vec![(id, key)]).await;
            tracing::info!(attachment = %id, "a container of the last run is served again");
        }
    }
}

/// Takes one up again under a new key, or lets it go. Nobody else attaches or detaches it until it is served.
async fn take_up(node: &Node, claim: Claim, local: Local, means: &Means) -> Result<WgPublicKey, Unserved> {
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
    if local.drain.is_some() {
        // The last run may have noted it and come no further.
        drain::publish(node, local.id).await;
    }
    node.readiness.announce();
    Ok(key)
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

/// Publishes keys until no more come.
async fn publish_as_they_come(node: &Node, mut keys: mpsc::UnboundedReceiver<NewKey>) {
    let mut pace = tokio::time::interval(PUBLISH_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut there = Vec::new();
    while let Some(first) = keys.recv().await {
        there.push(first);
        pace.tick().await;
        there.extend(std::iter::from_fn(|| keys.try_recv().ok()));
        publish(node, std::mem::take(&mut there)).await;
    }
}

/// Publishes the keys under which containers are served. Only now: who hears of a key opens a tunnel at once, and would find
/// nobody. Of one whose record has gone meanwhile there is nothing to publish: the next sweep takes it off.
async fn publish(node: &Node, keys: Vec<NewKey>) {
    let count = keys.len();
    match node.operate(move |gossip| gossip.set_container_keys(&keys, clock::now()), None).await {
        // A node that stops leaves it to its next start.
        Ok(Ok(_)) | Err(_) => {}
        // The disk takes them later; until then the containers serve this node's others.
        Ok(Err(OperationError::NotStored)) => tracing::warn!(containers = count, "new keys are not published yet"),
        Ok(Err(error)) => {
            tracing::warn!(containers = count, error = with_causes(&error), "new keys cannot be published");
        }
    }
}

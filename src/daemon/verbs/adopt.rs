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
use crate::daemon::attachments::{Claim, Local, Unserved};
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

/// How long after a refusal of the system a container is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// For how long the sweep takes up what was refused before; what is left has to wait for its next round.
const LATE_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a container of an earlier run is not served.
enum Refusal {
    /// It cannot be any more.
    Lost(String),
    /// It may be later: nothing of it is let go.
    Yet(Unserved),
}

impl Refusal {
    /// What others signed about its network is not here: their logs were damaged on this node's disk, and come again.
    fn network_unknown() -> Self {
        Self::Yet(Unserved {
            why: "it waits for the records of its network".to_owned(),
            hint: "they come from the other nodes of the network: is one connected? peerctl node ls".to_owned(),
            again_at: None,
        })
    }

    /// The system does not give what it takes: what is missing may come back, and a container that was let go does not.
    fn system(why: String, advice: Option<&str>) -> Self {
        let hint = advice.unwrap_or("it is tried again every 10 s; to let it go: peerctl detach ID").to_owned();
        Self::Yet(Unserved { why, hint, again_at: Some(clock::now() + TRY_AGAIN) })
    }
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
                Err(Refusal::Yet(Unserved { why, .. })) => {
                    tracing::warn!(attachment = %id, %network, why, "a container of the last run is not served yet");
                }
                Err(Refusal::Lost(_)) => {}
            }
        });
    }
    drop(taken_up);
    publish_as_they_come(node, keys).await;
    under_way.join_all().await;
    reconcile(node).await;
}

/// Takes up those that could not be before.
pub(super) async fn adopt_late(node: &Node) {
    let begun = clock::now();
    let mut due = node.attachments.unserved();
    due.retain(|(_, unserved)| unserved.again_at.is_none_or(|at| at <= begun));
    if due.is_empty() {
        return;
    }
    // Who has waited longest first, so that each has its turn.
    due.sort_by_key(|(_, unserved)| unserved.again_at);
    let Some(means) = Means::of(node).await else { return };
    for (id, _) in due {
        if begun.elapsed() > LATE_TIME_MAX {
            return;
        }
        if let Ok((claim, local)) = node.attachments.claim_held(id)
            && let Ok(key) = take_up(node, claim, local, &means).await
        {
            publish(node, vec![(id, key)]).await;
            tracing::info!(attachment = %id, "a container of the last run is served again");
        }
    }
}

/// Takes one up again under a new key, or lets it go. Nobody else attaches or detaches it until it is served.
async fn take_up(node: &Node, claim: Claim, local: Local, means: &Means) -> Result<WgPublicKey, Refusal> {
    let taken = adopt_one(node, &local, means).await;
    if let Err(Refusal::Lost(why)) = &taken {
        tracing::warn!(attachment = %local.id, error = why, "a container of the last run is not served any more");
        take_off(node, &local).await;
    }
    match &taken {
        Err(Refusal::Yet(unserved)) => node.attachments.note_unserved(local.id, unserved.clone()),
        Ok(_) | Err(Refusal::Lost(_)) => node.attachments.note_settled(local.id),
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
async fn adopt_one(node: &Node, local: &Local, means: &Means) -> Result<WgPublicKey, Refusal> {
    let _turn = means.turns.acquire().await.expect("nobody closes it");
    let (anchor, id) = (local.anchor.clone(), local.id);
    let netns = blocking(move || Netns::reopen(&anchor)).await.map_err(|error| match error.has_ended() {
        true => Refusal::Lost(with_causes(&error)),
        false => Refusal::system(with_causes(&error), error.advice()),
    })?;
    let Some(container) = means.published.get(&id) else {
        return Err(Refusal::Lost("its record is gone".to_owned()));
    };
    if node.network(Some(local.network.as_str())).is_err() {
        return Err(Refusal::network_unknown());
    }
    let secret = WgSecret::random(&mut random::Os);
    let key = secret.public();
    let plugged = plug(node, local, container, secret, netns, Plug::Adopt(means.adopters.clone())).await;
    plugged.map_err(|Refused { failure, device_gone, .. }| match device_gone {
        true => Refusal::Lost(failure.why),
        false => Refusal::system(failure.why, Some(&failure.hint)),
    })?;
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

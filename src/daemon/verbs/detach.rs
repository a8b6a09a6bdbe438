//! Detach: a container goes, because somebody said so or because it has ended.
//!
//! Name first, so that nobody finds what is going, then traffic, then the device. Every step is done whatever became of the
//! others, and nobody else touches the namespace meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Answer;
use super::adopt::adopt_late;
use super::attach::{blocking, open};
use super::drain;
use super::failures::{self, with_causes};
use crate::control::{ExitStatus, Failure, Target};
use crate::daemon::attachments::{ClaimError, Local};
use crate::daemon::control::Progress;
use crate::daemon::data::DataEvent;
use crate::daemon::node::Node;
use crate::gossip::{Done, OperationError};
use crate::model::AttachmentId;
use crate::sys::netns::Netns;
use crate::sys::{clock, resolv, tun};

/// How often namespaces are looked at to see whether they are still there.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

pub async fn detach(node: &Node, target: &str, drain_s: Option<u64>, progress: &Progress) -> Result<Answer, Failure> {
    let what = format!("cannot detach {}", target.chars().take(120).collect::<String>());
    let id = match target.parse::<AttachmentId>() {
        Ok(id) => Some(id),
        Err(_) if target.contains('/') => {
            let target = Target::Netns(target.to_owned());
            let netns = blocking(move || open(&target)).await.map_err(|error| failures::netns(&what, &error))?;
            node.attachments.in_netns(&netns.anchor().place())
        }
        Err(_) => None,
    };
    match id.map_or(Err(ClaimError::Unknown), |id| node.attachments.claim_held(id)) {
        Ok((claim, local)) => {
            match drain_s {
                None => take_off(node, &local).await,
                Some(drain_s) => {
                    drain::begin(node, &what, claim, &local, drain::time(&what, drain_s)?).await?;
                    drain::follow(node, &[local.id], progress).await;
                }
            }
            Ok(Answer::nothing())
        }
        Err(ClaimError::Busy) => {
            let why = "it is being attached or detached at this moment";
            Err(Failure::new(ExitStatus::Conflict, what, why, "wait for that; peerctl container ls"))
        }
        Err(ClaimError::Unknown | ClaimError::Held(_)) => {
            let why = "this node hosts no such container, and only the node that hosts one detaches it";
            Err(Failure::new(ExitStatus::NotFound, what, why, "peerctl container ls shows ids and nodes"))
        }
    }
}

/// Takes a container off. The caller holds its claim.
pub(super) async fn take_off(node: &Node, local: &Local) {
    node.watches.remove(local.id);
    unpublish(node, local.id).await;
    if let Some(fd) = node.data.detach(local.id).await {
        blocking(move || {
            // The container may have renamed or moved the device: without persistence it goes with its descriptor.
            let _ = tun::release_tun(std::os::fd::AsFd::as_fd(&fd));
            drop(fd);
        })
        .await;
    }
    unplug_device(local).await;
    forget(node, local.id).await;
    tracing::info!(attachment = %local.id, address = %local.address, "detached");
}

/// Takes the record out. What stays of it after a failure here goes with the next sweep.
pub(in crate::daemon) async fn unpublish(node: &Node, id: AttachmentId) {
    match node.operate(move |gossip| gossip.detach(id, clock::now()), None).await {
        Ok(Ok(Done::Detached) | Err(OperationError::NoAttachment(_))) => {}
        Ok(Ok(_)) => unreachable!("a detach ends with Detached"),
        Ok(Err(error)) => tracing::warn!(attachment = %id, %error, "a container's record stays for now"),
        Err(failure) => tracing::warn!(attachment = %id, error = %failure.why, "a container's record stays for now"),
    }
}

/// Removes what was put into the container's namespace, if that is still there.
pub(super) async fn unplug_device(local: &Local) {
    let local = local.clone();
    blocking(move || {
        if let Some(path) = &local.resolv
            && let Err(error) = resolv::withdraw(path)
        {
            tracing::warn!(path = %path.display(), %error, "a resolv.conf of ours stays");
        }
        let Ok(netns) = Netns::reopen(&local.anchor) else { return };
        if let Err(error) = tun::detach_tun(&netns, &local.ifname) {
            tracing::warn!(attachment = %local.id, error = with_causes(&error), "a container's interface stays");
        }
    })
    .await;
}

/// Forgets a container, on disk as well.
pub(super) async fn forget(node: &Node, id: AttachmentId) {
    let attachments = node.attachments.clone();
    blocking(move || attachments.remove(id)).await;
}

/// Lets go containers whose namespace or record has gone, and records whose container nobody knows, until the node stops.
///
/// The descriptor of a TUN keeps its namespace from ending, so the kernel never says that a container is gone: the path
/// or process by which it was attached does.
pub async fn sweep(node: &Node) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let locals = node.attachments.list();
        let gone = blocking(move || locals.into_iter().filter(has_ended).collect::<Vec<_>>()).await;
        for local in gone {
            let_go(node, local.id).await;
        }
        // One that was busy at first.
        let_go_lost(node).await;
        drain::let_go_drained(node).await;
        adopt_late(node).await;
        reconcile(node).await;
    }
}

fn has_ended(local: &Local) -> bool {
    Netns::reopen(&local.anchor).is_err_and(|error| error.has_ended())
}

/// Takes off the containers whose interface has left them.
async fn let_go_lost(node: &Node) {
    for id in node.watches.lost() {
        let_go(node, id).await;
    }
}

/// Takes a container off unless somebody else is at it.
async fn let_go(node: &Node, id: AttachmentId) {
    if let Ok((_claim, local)) = node.attachments.claim_held(id) {
        take_off(node, &local).await;
    }
}

/// Takes out the records of attaches that were cut short, and puts right those with a key that nobody has any more: a node
/// whose state folder was set back takes up what it signed in later runs, and that is of another key. Takes off the containers
/// whose record has gone: this node's grant was taken back, or the address is another's by now.
pub(super) async fn reconcile(node: &Node) {
    // Before the records: what is attached meanwhile is not among these.
    let served = node.attachments.served();
    let Ok(published) = node.call(|engine| engine.gossip.attachments()).await else { return };
    let recorded: BTreeSet<AttachmentId> = published.iter().map(|(_, container)| container.id).collect();
    // A leave that is under way has taken the records out, and says itself what becomes of the interfaces.
    let is_leaving = node.leaving.is_under_way();
    for id in served.into_iter().filter(|id| !recorded.contains(id) && !is_leaving) {
        tracing::warn!(attachment = %id, "a container without a record is detached");
        let_go(node, id).await;
    }
    for (_, container) in published {
        let (id, gateway) = (container.id, node.gateways.key_of(container.id));
        let held = gateway.or_else(|| node.attachments.key_of(id));
        if let Some(key) = held.filter(|key| *key != container.public_key) {
            tracing::warn!(attachment = %id, "its record has the key of another run: it gets the one of this run");
            // What the disk refuses here is tried again a second later.
            let _ = node.operate(move |gossip| gossip.set_container_key(id, key, clock::now()), None).await;
        }
        if gateway.is_none() && !node.attachments.is_known(id) {
            tracing::warn!(attachment = %container.id, "a record without a container is taken out");
            unpublish(node, container.id).await;
        }
    }
}

/// Does what the data plane's events ask for, until it ends, and lets go containers whose interface has left them.
pub async fn heed(node: &Node, mut events: mpsc::Receiver<DataEvent>) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = node.watches.more_lost() => {
                let_go_lost(node).await;
                continue;
            }
        };
        match event {
            None => return,
            Some(DataEvent::DeviceGone(id)) => {
                tracing::warn!(attachment = %id, "its interface was deleted in the container: it is detached");
                let_go(node, id).await;
            }
            Some(DataEvent::UnknownPeer { vni, .. } | DataEvent::MissingKey(vni)) => {
                // A node that stops needs nothing any more.
                let _ = node.call(move |engine| engine.gossip.seek(vni, clock::now())).await;
            }
        }
    }
}

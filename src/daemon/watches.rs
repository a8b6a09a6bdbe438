//! The containers' interfaces, watched: what a tenant does to its own is told in the log and in `status`, and one that has
//! left its namespace is let go.
//!
//! Each is looked at when the kernel says that it has changed, and at most once a second, however often it changes.
//! A fault is no reason to touch the interface: its owner may have meant it, and can put it right.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::attachments::Local;
use super::node::lock;
use crate::model::AttachmentId;
use crate::sys::netlink::{Link, LinkWatch};

/// How long an interface may change as it likes before it is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is wrong with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Down,
    Mtu { is: u32, was: u32 },
    Renamed(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Down => f.write_str("it is down"),
            Self::Mtu { is, was } => write!(f, "its MTU is {is} instead of {was}"),
            Self::Renamed(name) => write!(f, "it is called {}", name.escape_debug()),
        }
    }
}

/// The watches of all attachments.
#[derive(Default)]
pub struct Watches(Arc<Shared>);

#[derive(Default)]
struct Shared {
    watched: Mutex<BTreeMap<AttachmentId, Watched>>,
    lost: Notify,
}

struct Watched {
    task: AbortHandle,
    faults: Vec<Fault>,
    /// Whether the interface is in its namespace no more.
    is_lost: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watches {
    /// Watches an attachment's interface until [`Self::remove`]. Must be called on the runtime.
    pub fn add(&self, local: &Local, watch: LinkWatch) {
        // Held until the entry is there: the task writes into it.
        let mut watched = lock(&self.0.watched);
        let task = tokio::spawn(follow(local.clone(), watch, self.0.clone())).abort_handle();
        watched.insert(local.id, Watched { task, faults: Vec::new(), is_lost: false });
    }

    /// Watches it no longer.
    pub fn remove(&self, id: AttachmentId) {
        lock(&self.0.watched).remove(&id);
    }

    /// What is wrong, by attachment.
    pub fn faults(&self) -> Vec<(AttachmentId, Fault)> {
        let all = lock(&self.0.watched);
        all.iter().flat_map(|(id, watched)| watched.faults.iter().map(|fault| (*id, fault.clone()))).collect()
    }

    /// The attachments whose interface has left its namespace.
    pub fn lost(&self) -> Vec<AttachmentId> {
        lock(&self.0.watched).iter().filter(|(_, watched)| watched.is_lost).map(|(id, _)| *id).collect()
    }

    /// Waits until there may be more of them.
    pub async fn more_lost(&self) {
        self.0.lost.notified().await;
    }
}

async fn follow(local: Local, watch: LinkWatch, shared: Arc<Shared>) {
    let id = local.id;
    let mut watch = match watch.registered() {
        Ok(watch) => watch,
        Err(error) => return tracing::warn!(attachment = %id, %error, "its interface cannot be watched"),
    };
    loop {
        let looked = watch.get_mut().look();
        let is_known = looked.is_ok();
        match looked {
            Ok(Some(link)) => note(id, faults_of(&local, &link), &shared),
            Ok(None) => {
                tracing::warn!(attachment = %id, "its interface has left the container: it is detached");
                if let Some(watched) = lock(&shared.watched).get_mut(&id) {
                    watched.is_lost = true;
                }
                return shared.lost.notify_one();
            }
            Err(error) => tracing::debug!(attachment = %id, %error, "its interface changes too fast to be looked at"),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        if !is_known {
            continue;
        }
        match watch.readable().await {
            // Looking reads everything away.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => return tracing::warn!(attachment = %id, %error, "its interface is watched no longer"),
        }
    }
}

fn note(id: AttachmentId, faults: Vec<Fault>, shared: &Shared) {
    let mut all = lock(&shared.watched);
    let Some(watched) = all.get_mut(&id) else { return };
    for fault in faults.iter().filter(|fault| !watched.faults.contains(fault)) {
        tracing::warn!(attachment = %id, %fault, "its interface was changed in the container");
    }
    if faults.is_empty() && !watched.faults.is_empty() {
        tracing::info!(attachment = %id, "its interface is as it was");
    }
    watched.faults = faults;
}

fn faults_of(local: &Local, link: &Link) -> Vec<Fault> {
    let down = (!link.up).then_some(Fault::Down);
    let mtu = (link.mtu_bytes != local.mtu_bytes).then_some(Fault::Mtu { is: link.mtu_bytes, was: local.mtu_bytes });
    let renamed = (link.name != local.ifname).then(|| Fault::Renamed(link.name.clone()));
    [down, mtu, renamed].into_iter().flatten().collect()
}

//! How everybody else talks to the data thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::{Attachment, DataEvent, DataStats, Device};
use crate::daemon::mailbox::Mailbox;
use crate::membership::Membership;
use crate::model::{AttachmentId, Generation, NodeId, Psk, Vni, WgSecret};
use crate::router::AttachError;

/// Why the data thread did not do what it was asked to. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the data plane cannot take the container")]
    Attach(#[from] AttachError),
    #[error("the container's device cannot be used")]
    Device(#[source] io::Error),
    #[error("the data plane has stopped")]
    Stopped,
}

/// What the thread is told, until it comes round to it.
#[derive(Default)]
pub(super) struct Told {
    pub(super) membership: Option<Arc<Membership>>,
    pub(super) keys: BTreeMap<Vni, Vec<(Generation, Psk)>>,
    pub(super) endpoints: BTreeMap<NodeId, SocketAddr>,
    /// Each has somebody waiting for it, so there are no more than these.
    pub(super) calls: VecDeque<Call>,
}

/// What has an answer. A dropped answer says that the thread has stopped.
pub(super) enum Call {
    Attach(Attachment, Device, oneshot::Sender<Result<(), DataError>>),
    Detach(AttachmentId, oneshot::Sender<Option<OwnedFd>>),
    Rekey(AttachmentId, WgSecret, oneshot::Sender<bool>),
    Stats(oneshot::Sender<DataStats>),
    Heard(oneshot::Sender<Vec<(NodeId, Instant)>>),
    Shutdown(oneshot::Sender<()>),
}

/// What the thread and its handles share.
pub(super) type Shared = Mailbox<Told>;

/// Tells the data thread what changes, and asks it how it is.
#[derive(Clone)]
pub struct DataHandle {
    shared: Arc<Shared>,
    events: Arc<Mutex<Option<mpsc::Receiver<DataEvent>>>>,
}

impl DataHandle {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Receiver<DataEvent>) -> Self {
        Self { shared, events: Arc::new(Mutex::new(Some(events))) }
    }

    /// The events, for the first who asks.
    pub fn take_events(&self) -> Option<mpsc::Receiver<DataEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has the resolver look for answers that came from outside.
    pub fn wake(&self) {
        self.shared.tell(|_| {});
    }

    /// A new view of the cluster; of several the last counts.
    pub fn set_membership(&self, membership: Arc<Membership>) {
        self.shared.tell(|told| told.membership = Some(membership));
    }

    /// A network's secrets, newest first; at most two count.
    pub fn set_network_keys(&self, vni: Vni, keys: Vec<(Generation, Psk)>) {
        self.shared.tell(|told| {
            told.keys.insert(vni, keys);
        });
    }

    /// Where a node is, as QUIC knows.
    pub fn set_endpoint(&self, node: NodeId, endpoint: SocketAddr) {
        self.shared.tell(|told| {
            told.endpoints.insert(node, endpoint);
        });
    }

    /// Serves a container through its device.
    ///
    /// # Errors
    /// The device is closed then.
    pub async fn attach(&self, attachment: Attachment, device: Device) -> Result<(), DataError> {
        self.call(|answer| Call::Attach(attachment, device, answer)).await.ok_or(DataError::Stopped)?
    }

    /// Serves a container no longer, and gives its device back; `None` if there is none.
    pub async fn detach(&self, id: AttachmentId) -> Option<OwnedFd> {
        self.call(|answer| Call::Detach(id, answer)).await.flatten()
    }

    /// Gives a container a new key; whether there is such a container.
    pub async fn rekey(&self, id: AttachmentId, secret: WgSecret) -> bool {
        self.call(|answer| Call::Rekey(id, secret, answer)).await.unwrap_or(false)
    }

    /// Counters and peers; `None` once the thread has stopped.
    pub async fn stats(&self) -> Option<DataStats> {
        self.call(Call::Stats).await
    }

    /// When each node's newest authenticated packet came; nothing once the thread has stopped.
    pub async fn heard(&self) -> Vec<(NodeId, Instant)> {
        self.call(Call::Heard).await.unwrap_or_default()
    }

    /// Stops the thread. The devices stay as they are for the next start.
    pub async fn shutdown(&self) {
        self.call(Call::Shutdown).await;
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Option<T> {
        self.shared.ask(|told, answer| told.calls.push_back(call(answer))).await
    }
}

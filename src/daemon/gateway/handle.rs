//! How everybody else talks to the gateway thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{DialError, Front, Fronts, GatewayError, GatewayStats, thread};
use crate::daemon::mailbox::Mailbox;
use crate::model::NetworkId;
use crate::netstack::StreamId;

/// What the thread is told, until it comes round to it.
#[derive(Default)]
pub(super) struct Told {
    /// The last that were wanted.
    pub(super) fronts: Option<Vec<Front>>,
    /// Where somebody is, by network.
    pub(super) there: BTreeMap<NetworkId, BTreeSet<Ipv4Addr>>,
    /// Most have somebody waiting for them; the others end what had.
    pub(super) calls: VecDeque<Call>,
}

/// What has an answer, and what becomes of an opened stream. A dropped answer says that the thread has stopped.
pub(super) enum Call {
    Add {
        network: NetworkId,
        address: Ipv4Addr,
        mtu_bytes: u16,
        device: OwnedFd,
        answer: oneshot::Sender<io::Result<()>>,
    },
    Remove {
        network: NetworkId,
        answer: oneshot::Sender<()>,
    },
    Dial {
        network: NetworkId,
        to: SocketAddrV4,
        answer: oneshot::Sender<Result<Opened, DialError>>,
    },
    Join {
        network: NetworkId,
        stream: StreamId,
        io: OwnedFd,
    },
    Drop {
        network: NetworkId,
        stream: StreamId,
    },
    Fronts(oneshot::Sender<Fronts>),
    Stats(oneshot::Sender<BTreeMap<NetworkId, GatewayStats>>),
    Shutdown(oneshot::Sender<()>),
}

/// What the thread and its handles share.
pub(super) type Shared = Mailbox<Told>;

/// Tells the gateway thread what changes, and asks it how it is.
#[derive(Clone)]
pub struct GatewayHandle {
    shared: Arc<Shared>,
}

impl GatewayHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no epoll, descriptor or thread.
    pub fn spawn() -> io::Result<Self> {
        Ok(Self { shared: thread::spawn()? })
    }

    /// Serves a network as its member at `address`, through one end of a [`crate::sys::device_pair`].
    ///
    /// # Errors
    /// The device is closed then. A gateway that the network had before is gone in any case.
    pub async fn add(
        &self,
        network: NetworkId,
        address: Ipv4Addr,
        mtu_bytes: u16,
        device: OwnedFd,
    ) -> Result<(), GatewayError> {
        self.call(|answer| Call::Add { network, address, mtu_bytes, device, answer })
            .await
            .ok_or(GatewayError::Stopped)?
            .map_err(GatewayError::Device)
    }

    /// Serves a network no longer. Its streams end.
    pub async fn remove(&self, network: &NetworkId) {
        let network = network.clone();
        self.call(|answer| Call::Remove { network, answer }).await;
    }

    /// Opens a stream to a container. Whoever drops the future before gets none.
    pub async fn dial(&self, network: NetworkId, to: SocketAddrV4) -> Result<Opened, DialError> {
        self.call(|answer| Call::Dial { network, to, answer }).await.unwrap_or(Err(DialError::NoGateway))
    }

    /// All the fronts that there are to be; of several sets the last counts.
    ///
    /// A front whose containers change keeps its connections, and those of one that goes live on until they end.
    pub fn set_fronts(&self, fronts: Vec<Front>) {
        self.shared.tell(|told| told.fronts = Some(fronts));
    }

    /// Where the network has somebody. Streams to other addresses end: nobody there would say so.
    pub fn keep_to(&self, network: &NetworkId, there: BTreeSet<Ipv4Addr>) {
        let network = network.clone();
        self.shared.tell(|told| drop(told.there.insert(network, there)));
    }

    /// How the fronts are; what was set before is done then.
    pub async fn fronts(&self) -> Fronts {
        self.call(Call::Fronts).await.unwrap_or_default()
    }

    /// How each network's gateway is.
    pub async fn stats(&self) -> BTreeMap<NetworkId, GatewayStats> {
        self.call(Call::Stats).await.unwrap_or_default()
    }

    /// Waits until the thread has stopped.
    pub async fn stopped(&self) {
        self.shared.stopped().await;
    }

    /// Stops the thread; everything that it holds is closed.
    pub async fn shutdown(&self) {
        self.call(Call::Shutdown).await;
    }

    async fn call<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Option<T> {
        self.shared.ask(|told, answer| told.calls.push_back(call(answer))).await
    }
}

/// A stream to a container that nobody has taken yet. Dropped, it is reset.
pub struct Opened {
    shared: Arc<Shared>,
    network: NetworkId,
    /// Taken when it is joined.
    stream: Option<StreamId>,
}

impl Opened {
    pub(super) fn new(shared: Arc<Shared>, network: NetworkId, stream: StreamId) -> Self {
        Self { shared, network, stream: Some(stream) }
    }

    /// Carries bytes between the stream and a stream socket, TCP or unix, until both directions are closed.
    pub fn join(mut self, io: OwnedFd) {
        if let Some(stream) = self.stream.take() {
            let network = self.network.clone();
            self.shared.tell(|told| told.calls.push_back(Call::Join { network, stream, io }));
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            let network = self.network.clone();
            self.shared.tell(|told| told.calls.push_back(Call::Drop { network, stream }));
        }
    }
}

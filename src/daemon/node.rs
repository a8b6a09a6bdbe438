//! The node as its verbs see it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::attachments::Attachments;
use super::data::{DataHandle, Facts};
use super::engine::{Command, Engine, Waiting};
use super::gateways::Gateways;
use super::ingress::Ingress;
use super::readiness::Readiness;
use super::watches::Watches;
use crate::control::{ExitStatus, Failure};
use crate::dns::Suffix;
use crate::gossip::{Done, Gossip, JoinStep, OperationError, OperationId};
use crate::membership::{Membership, Network};
use crate::model::NodeId;

/// Everything a verb needs. The machine itself is reached by sending it work.
pub struct Node {
    pub id: NodeId,
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub started: Instant,
    pub data: DataHandle,
    /// What the data plane found on this host.
    pub facts: Facts,
    pub membership: watch::Receiver<Arc<Membership>>,
    pub attachments: Arc<Attachments>,
    pub gateways: Gateways,
    pub ingress: Arc<Ingress>,
    /// Below which domains short names are answered.
    pub suffixes: Vec<Suffix>,
    pub watches: Watches,
    pub readiness: Readiness,
    pub commands: mpsc::Sender<Command>,
    pub leaving: Leaving,
    /// Told when a verb has the node stop.
    pub stop: Notify,
}

/// Whether the node is leaving its cluster at this moment: its containers' records go, and their interfaces may stay.
#[derive(Default)]
pub struct Leaving(AtomicBool);

impl Leaving {
    /// It is, until what this gives is dropped.
    pub fn begin(&self) -> impl Drop + '_ {
        struct Ended<'a>(&'a AtomicBool);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        self.0.store(true, Ordering::SeqCst);
        Ended(&self.0)
    }

    pub fn is_under_way(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Node {
    /// The cluster as this node sees it.
    pub fn membership(&self) -> Arc<Membership> {
        self.membership.borrow().clone()
    }

    /// Runs `work` where the machine is.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, wait) = oneshot::channel();
        let command: Command = Box::new(move |engine| {
            // A caller that left needs no answer.
            let _ = answer.send(work(engine));
        });
        self.commands.send(command).await.map_err(|_| stopping())?;
        wait.await.map_err(|_| stopping())
    }

    /// Begins an operation of the machine and waits until it is over: what it wrote is on disk.
    pub async fn operate(
        &self,
        begin: impl FnOnce(&mut Gossip) -> OperationId + Send + 'static,
        steps: Option<mpsc::Sender<JoinStep>>,
    ) -> Result<Result<Done, OperationError>, Failure> {
        let (done, wait) = oneshot::channel();
        self.call(move |engine| engine.operate(begin, Waiting { done, steps })).await?;
        wait.await.map_err(|_| stopping())
    }

    /// The network that a person means, or the only one if they name none.
    pub fn network(&self, text: Option<&str>) -> Result<Arc<Network>, Failure> {
        let membership = self.membership();
        match text {
            Some(text) => membership.network_by_text(text).cloned().ok_or_else(|| {
                Failure::new(
                    ExitStatus::NotFound,
                    format_args!("there is no network {text}"),
                    "this node holds no network of that name or id, or several of that name",
                    "peerctl network ls",
                )
            }),
            None => {
                let mut networks = membership.networks();
                match (networks.next(), networks.next()) {
                    (Some(only), None) => Ok(only.clone()),
                    (None, _) => Err(Failure::new(
                        ExitStatus::NotFound,
                        "there is no network on this node",
                        "none was created here or granted to it",
                        "peerctl network create NAME",
                    )),
                    (Some(_), Some(_)) => Err(Failure::new(
                        ExitStatus::Usage,
                        "this node holds more than one network",
                        "it cannot tell which one you mean",
                        "name it with --network; peerctl network ls lists them",
                    )),
                }
            }
        }
    }

    /// What people call a node: its name, else the beginning of its id.
    pub fn node_name(&self, membership: &Membership, id: NodeId) -> String {
        membership.node(id).map_or_else(|| id.to_string()[..12].to_owned(), |node| node.name.to_string())
    }
}

/// Why nothing can be asked any more.
pub fn stopping() -> Failure {
    Failure::new(ExitStatus::Unreachable, "the node is stopping", "it was told to", "start it again with `peerd`")
}

/// A lock whose data stays whole even if a holder panicked: every change under it is a single insert or remove.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

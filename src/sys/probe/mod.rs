//! Looking whether what runs in a container serves: a socket of its namespace, and a command among its processes.
//!
//! [`tcp_socket`] takes less than a millisecond, or that of a [helper](super::helper) where a user namespace is in the way.
//! A command takes as long as it takes, [`COMMAND_TIMEOUT`] at most: [`ProbeCommand::wait`] blocks, and a [`Canceller`] ends it
//! before. Nothing of a command outlives its end, but for what leaves its process group on purpose.

mod command;
mod inside;

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

pub use command::{COMMAND_TIMEOUT, Canceller, CommandEnd, ProbeCommand, User};
pub(super) use inside::run;

use super::OsError;
use super::helper::{self, HelperError, Task};
use super::netns::{Netns, NetnsError};

/// Why a container could not be looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ProbeError {
    #[error("no socket can be opened in the container")]
    Socket(#[source] OsError),
    #[error("the container's namespaces cannot be entered")]
    Enter(#[source] OsError),
    #[error("the container's process belongs to another user than the one who attached it")]
    OtherUser,
    #[error("/bin/sh cannot be started in the container")]
    Start(#[source] OsError),
    #[error(transparent)]
    #[serde(skip)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    #[serde(skip)]
    Helper(#[from] HelperError),
}

/// What a helper is told to do in a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Open a socket; with the network namespace and the user namespace that owns it.
    Socket,
    /// Run a command; with the same, or with the process whose namespaces it shall have.
    Command(command::Order),
}

/// An unconnected TCP socket of the container: wherever it is connected from, it connects as if from in there. It is
/// non-blocking.
pub fn tcp_socket(netns: &Netns) -> Result<TcpStream, ProbeError> {
    match netns.inside(open) {
        Ok(opened) => Ok(opened?.into()),
        Err(error) if OsError::from(&error).is_permission() => by_helper(netns),
        Err(error) => Err(ProbeError::Enter(error.into())),
    }
}

fn open() -> Result<OwnedFd, ProbeError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(|errno| ProbeError::Socket(errno.into()))
}

/// The same where only a process with one thread may enter.
fn by_helper(netns: &Netns) -> Result<TcpStream, ProbeError> {
    let owner = netns.owner().map_err(|e: io::Error| ProbeError::Enter(e.into()))?;
    let task = Task::Probe(Order::Socket);
    let running = helper::start(&task, &[netns.as_fd(), owner.as_fd()], &[], helper::Output::Quiet)?;
    let (answer, fds) = running.answer::<Result<(), ProbeError>>()?;
    answer?;
    let [socket] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| HelperError::Garbled)?;
    Ok(socket.into())
}

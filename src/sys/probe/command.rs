//! A command in a container, from the side of who asks.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::ProbeError;
use crate::sys::helper::{self, HelperError, Running, Task};
use crate::sys::netns::{Anchor, Netns, NetnsError, Origin};

/// How long a command may take.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer its helper may take to say so.
const GRACE: Duration = Duration::from_secs(2);

/// With whose rights a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandEnd {
    /// With this exit code; 128 and the signal's number if one ended it.
    Exited(i32),
    TimedOut,
}

/// What the helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sys) struct Order {
    pub(super) line: String,
    /// Whose rights it is to have, where they are not this process's.
    pub(super) user: Option<User>,
    /// The process whose namespaces it is to have; a descriptor of it comes along.
    pub(super) pid: Option<u32>,
}

/// A command at work in a container.
#[derive(Debug)]
pub struct ProbeCommand {
    running: Running,
}

/// Ends a command when it is dropped.
#[derive(Debug)]
pub struct Canceller(OwnedFd);

impl Drop for Canceller {
    fn drop(&mut self) {
        // The helper reads the end of its socket, ends the command, and then itself. One that has ended reads nothing.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}

impl ProbeCommand {
    /// Starts `line` by the container's own `/bin/sh`, with nothing in its environment but PATH, and its output thrown away.
    ///
    /// It has all the namespaces of the process by which the container was attached; one that was attached by the path of its
    /// network namespace lends that alone. `user`, who asked for it, is whom it runs as, without a way to more rights, and with
    /// no capability that the process could not have: its `/bin/sh` may be a tenant's. A
    /// daemon that is not root runs it as itself: whom it obeys is its own user, or root, who has more rights than that.
    ///
    /// # Errors
    /// Also when the container's process is not `user`'s own, and `user` is not root.
    pub fn start(anchor: &Anchor, line: &str, user: User) -> Result<Self, ProbeError> {
        let gone = |pid| move |_| ProbeError::from(NetnsError::NoSuchProcess(pid));
        // Before the look at the namespace: so this is the process whose it is.
        let process = match anchor.origin {
            Origin::Pid(pid) => {
                let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(NetnsError::NoSuchProcess(pid))?;
                Some((pid, pidfd_open(raw, PidfdFlags::empty()).map_err(gone(pid))?))
            }
            _ => None,
        };
        let netns = Netns::reopen(anchor)?;
        let own = rustix::process::geteuid();
        let other = own.is_root() && user.uid != own.as_raw();
        if let Some((pid, _)) = process.as_ref().filter(|_| other) {
            check_owner(*pid, user)?;
        }
        let order =
            Order { line: line.to_owned(), user: other.then_some(user), pid: process.as_ref().map(|(pid, _)| *pid) };
        let task = Task::Probe(super::Order::Command(order));
        let running = match process {
            Some((_, process)) => helper::start_from_copy(&task, &[process.as_fd()])?,
            None => {
                let owner = netns.owner().map_err(|error| ProbeError::Enter(error.into()))?;
                helper::start(&task, &[netns.as_fd(), owner.as_fd()], &[], helper::Output::Quiet)?
            }
        };
        Ok(Self { running })
    }

    /// What ends it before its time.
    pub fn canceller(&self) -> io::Result<Canceller> {
        self.running.socket().try_clone_to_owned().map(Canceller)
    }

    /// Waits for its end.
    pub fn wait(self) -> Result<CommandEnd, ProbeError> {
        let answer = self.running.receive::<Result<CommandEnd, ProbeError>>(Some(COMMAND_TIMEOUT + GRACE))?;
        answer.ok_or(HelperError::Died)?.0
    }
}

/// What root may enter, another user may not for that: only what is its own.
fn check_owner(pid: u32, user: User) -> Result<(), ProbeError> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(format!("/proc/{pid}")).map_err(|_| NetnsError::NoSuchProcess(pid))?.uid();
    if user.uid == owner { Ok(()) } else { Err(ProbeError::OtherUser) }
}

//! `peerctl run`: a command in namespaces of its own, which begins when the daemon has attached them.
//!
//! [`Sandbox::spawn`] makes the namespaces and leaves a process waiting in them; [`Sandbox::start`] turns that process
//! into the command; [`Sandbox::wait`] gives its exit code. The command is a child of this process all the time, with
//! this process's standard streams and terminal, and dies with it.
//!
//! What is new for the command: the network, with only `lo` in it, and the mounts, so that `/etc/resolv.conf` names the
//! private network's resolver. For an ordinary user also the user namespace, in which it is root as with
//! `unshare --map-root-user`. Everything else is the host's.

mod enter;
mod inside;
mod private_etc;

use std::ffi::OsString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use enter::enter;
pub(super) use inside::run;

use super::OsError;
use super::helper::{self, HelperError, Running, Task};
use super::netns::{Netns, NetnsError};
use super::process::{self, SignalForward};
pub use super::userns::{UnshareError, UserNamespace};

/// How long the kernel may take to make the namespaces.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A command to be.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// The program, found by PATH, and its arguments.
    pub command: Vec<OsString>,
    pub user_namespace: UserNamespace,
}

/// A process in namespaces of its own; killed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    running: Running,
}

/// Why there is no sandbox, or no command in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SandboxError {
    #[error("there is no command to run")]
    NoCommand,
    #[error(transparent)]
    Unshare(#[from] UnshareError),
    #[error("the sandbox's /etc/resolv.conf cannot be set")]
    Resolv(#[source] OsError),
    #[error("the namespaces of process {pid} cannot be entered")]
    Enter { pid: u32, source: OsError },
    #[error("cannot run {command}")]
    Command { command: String, source: OsError },
    #[error(transparent)]
    #[serde(skip)]
    Helper(#[from] HelperError),
}

impl SandboxError {
    /// As Docker's: 127 no such command, 126 it cannot be executed, 125 everything before it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Command { source, .. } if *source == OsError::NOENT => 127,
            Self::Command { .. } => 126,
            _ => 125,
        }
    }

    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unshare(error) => error.advice(),
            Self::NoCommand => Some("give one after --, as in: peerctl run --network N --app APP -- sh"),
            Self::Enter { .. } => Some("only root and the user who ran it may enter it"),
            Self::Resolv(_) | Self::Command { .. } | Self::Helper(_) => None,
        }
    }
}

/// What the helper is told first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    user_namespace: UserNamespace,
}

/// That the namespaces are there.
#[derive(Debug, Serialize, Deserialize)]
struct Ready;

/// That the command may begin, with these variables besides this process's own.
#[derive(Debug, Serialize, Deserialize)]
struct Begin {
    environment: Vec<(String, String)>,
}

impl Sandbox {
    /// Makes the namespaces. From here on [`Sandbox::netns`] can be attached.
    pub fn spawn(spec: &SandboxSpec) -> Result<Self, SandboxError> {
        if spec.command.is_empty() {
            return Err(SandboxError::NoCommand);
        }
        let order = Task::Sandbox(Order { user_namespace: spec.user_namespace });
        let running = helper::start_lasting(order, spec.command.clone())?;
        let (ready, _) =
            running.receive::<Result<Ready, SandboxError>>(Some(READY_TIMEOUT))?.ok_or(HelperError::Died)?;
        ready.map(|Ready| Self { running })
    }

    /// The process that waits, and will be the command.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its network namespace.
    pub fn netns(&self) -> Result<Netns, NetnsError> {
        Netns::of_pid(self.pid())
    }

    /// Starts the command, with `environment` besides this process's own.
    pub fn start(&mut self, environment: &[(String, String)]) -> Result<(), SandboxError> {
        self.running.send(&Begin { environment: environment.to_vec() }, &[])?;
        // The socket closes by itself when the command takes the helper's place.
        match self.running.receive::<SandboxError>(None)? {
            Some((error, _)) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits for the command; meanwhile what this process is signalled goes on to it. Its exit code, or 128 and the
    /// signal that killed it.
    pub fn wait(mut self) -> std::io::Result<i32> {
        // Another waiter in this process has the signals already: they are meant for its child then.
        let _forward = SignalForward::to(self.pid());
        Ok(process::exit_code(self.running.wait()?))
    }
}

//! Namespaces of one's own around a command: users, network, mounts and processes.
//!
//! ```text
//! this process --- helper: unshare, waits --- first process: mounts /proc, becomes the command
//! ```
//! The helper stays outside the process namespace and dies with this process; the first process dies with the helper,
//! and the kernel ends all other processes of a process namespace with its first.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::sys::OsError;
use crate::sys::helper::{self, Asked, HelperError, Running, Task};
use crate::sys::netlink::Netlink;
use crate::sys::process::{self, SignalForward};
use crate::sys::userns::{UnshareError, UserNamespace, step, unshare};

/// How long the kernel may take.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A command in an enclosure; killed with all it started when dropped.
#[derive(Debug)]
pub struct Enclosure {
    running: Running,
}

/// Why there is no enclosure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EncloseError {
    #[error(transparent)]
    Unshare(#[from] UnshareError),
    #[error("cannot run {command}")]
    Command { command: String, source: OsError },
    #[error(transparent)]
    #[serde(skip)]
    Helper(#[from] HelperError),
}

impl EncloseError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unshare(error) => error.advice(),
            Self::Command { .. } | Self::Helper(_) => None,
        }
    }
}

/// What the helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sys) struct Order {
    user_namespace: UserNamespace,
    /// Without it, whoever is killed may leave processes behind; for machines that hide parts of `/proc`.
    process_namespace: bool,
}

impl Enclosure {
    /// Starts `command` (found by PATH) as the first process of new namespaces. It is root there.
    ///
    /// Its network has `lo` only, up; files are those outside. As the first process it must handle SIGTERM and SIGINT
    /// itself: the kernel gives it no default for them.
    pub fn spawn(command: &[OsString], user_namespace: UserNamespace) -> Result<Self, EncloseError> {
        let attempt = |process_namespace| Self::attempt(command, Order { user_namespace, process_namespace });
        match attempt(true) {
            // Some containers hide parts of /proc, and then the kernel lets nobody mount another.
            Err(EncloseError::Unshare(UnshareError::Step { step, .. })) if step == MOUNT_PROC => attempt(false),
            other => other,
        }
    }

    /// Waits for the command; meanwhile what this process is signalled goes on to it. Its exit code, or 128 and the
    /// signal that killed it.
    pub fn wait(mut self) -> std::io::Result<i32> {
        // Another waiter in this process has the signals already: they are meant for its child then.
        let _forward = SignalForward::to(self.running.pid());
        Ok(process::exit_code(self.running.wait()?))
    }

    fn attempt(command: &[OsString], order: Order) -> Result<Self, EncloseError> {
        let running = helper::start_lasting(Task::Enclose(order), command.to_vec())?;
        let (begun, _) = running.receive::<Result<(), EncloseError>>(Some(READY_TIMEOUT))?.ok_or(HelperError::Died)?;
        begun.map(|()| Self { running })
    }
}

const MOUNT_PROC: &str = "mount /proc";

/// The helper: makes the namespaces, starts the first process, and stays for its exit code.
pub(in crate::sys) fn run(order: Order, asked: Asked) -> i32 {
    let begun = enclose(&order, &asked);
    let answer = begun.as_ref().map(|_| ()).map_err(Clone::clone);
    let Ok(mut first) = begun else {
        // Whoever asked reads why, or is gone.
        let _ = helper::send(asked.socket.as_fd(), &answer, &[]);
        return 125;
    };
    let Ok(_forward) = SignalForward::to(first.pid()) else { return 125 };
    if helper::send(asked.socket.as_fd(), &answer, &[]).is_err() {
        return 125;
    }
    first.wait().map_or(125, process::exit_code)
}

fn enclose(order: &Order, asked: &Asked) -> Result<Running, EncloseError> {
    let mut kinds = UnshareFlags::NEWNET;
    kinds.set(UnshareFlags::NEWPID, order.process_namespace);
    unshare(kinds, order.user_namespace)?;
    die_with_parent()?;
    Netlink::open().and_then(|mut n| n.raise_loopback()).map_err(|e| step("bring up lo")(e.into()))?;
    let task = Task::First(First { mount_proc: order.process_namespace });
    let stdin: Vec<_> = asked.fds.iter().map(AsFd::as_fd).collect();
    let first = helper::start(&task, &stdin, &asked.command, helper::Output::Ours)?;
    // The socket closes by itself when the command takes the first process's place.
    match first.receive::<EncloseError>(Some(READY_TIMEOUT))? {
        Some((error, _)) => Err(error),
        None => Ok(first),
    }
}

/// What the first process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sys) struct First {
    mount_proc: bool,
}

/// The first process: becomes the command, or says why not.
pub(in crate::sys) fn run_first(first: First, mut asked: Asked) -> i32 {
    let error = match prepare(&first) {
        Ok(()) => become_command(&mut asked),
        Err(error) => error.into(),
    };
    // Whoever asked is gone if this fails, and so are we in a moment.
    let _ = helper::send(asked.socket.as_fd(), &error, &[]);
    125
}

fn prepare(first: &First) -> Result<(), UnshareError> {
    die_with_parent()?;
    if first.mount_proc {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None).map_err(|e| step(MOUNT_PROC)(e.into()))?;
    }
    Ok(())
}

fn become_command(asked: &mut Asked) -> EncloseError {
    let Some((program, arguments)) = asked.command.split_first() else { return HelperError::Garbled.into() };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(stdin) = asked.fds.pop() {
        command.stdin(Stdio::from(stdin));
    }
    EncloseError::Command { command: program.to_string_lossy().into_owned(), source: process::exec(&mut command) }
}

/// After every change of credentials, which clears it. That the parent died before shows on the socket.
fn die_with_parent() -> Result<(), UnshareError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| step("tie the command to this process")(e.into()))
}

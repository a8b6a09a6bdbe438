//! The helper: this same program, executed again for one task that must run in a single-threaded process.
//!
//! A process may enter a user namespace only while it has one thread, and a fork of a threaded process may do next to
//! nothing; so whatever enters namespaces for good is done by a fresh exec. The helper's standard input is a unix
//! socket on which it receives one [`Task`] with its file descriptors, and answers. Every `main` of the project calls
//! [`run_if_asked`] before it does anything else.
//!
//! A helper inherits nothing but its three standard streams. It never outlives its use: a task that hangs is killed
//! when its time is up, and one whose asker is gone reads the end of its socket and leaves.

mod message;
mod task;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) use message::{receive, send};
pub use task::run_if_asked;
pub(super) use task::{Asked, Task};

use super::OsError;

/// The hidden first argument.
const ARGUMENT: &str = "netns-helper";
/// How long a helper may take to answer: making a TUN takes 4 ms, so this is a hung kernel or a stopped process.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Why a helper gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelperError {
    #[error("the helper process cannot be started")]
    Start(#[source] OsError),
    #[error("the helper process did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the helper process ended without an answer")]
    Died,
    #[error("the helper process answered something else than asked")]
    Garbled,
    #[error("the helper process cannot be talked to")]
    Socket(#[source] OsError),
}

/// Names the program to execute as helper, for processes whose `main` does not call [`run_if_asked`]: a test binary
/// under the standard harness. Counts once, before the first task.
pub fn use_program(path: PathBuf) {
    // A second call finds the first one's answer: the tests of one binary all name the same program.
    let _ = PROGRAM.set(path);
}

/// A helper at work; killed when dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    socket: OwnedFd,
    /// Keeps alive the thread that the kernel counts as the process's parent.
    parent: Option<mpsc::Sender<()>>,
}

/// What the helper's standard output and error are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Errors go where ours go, output nowhere.
    Quiet,
    /// Both are ours, for a helper that becomes the user's command.
    Ours,
}

/// Starts a helper on `task`, with `fds` in the order that the task expects them and `command` as its further arguments.
pub(super) fn start(
    task: &Task,
    fds: &[BorrowedFd<'_>],
    command: &[OsString],
    output: Output,
) -> Result<Running, HelperError> {
    start_program(program(), task, fds, command, output)
}

/// As [`start`], from a copy of the program in memory, which nobody can write: for a task among programs of somebody else, who
/// could have it execute itself, and reach through `/proc/PID/exe` for what the next start of the daemon executes
/// (CVE-2019-5736).
pub(super) fn start_from_copy(task: &Task, fds: &[BorrowedFd<'_>]) -> Result<Running, HelperError> {
    // Open until the helper has been executed.
    let copy = sealed_copy(&program()).map_err(|e| HelperError::Start(e.into()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    start_program(path, task, fds, &[], Output::Quiet)
}

fn program() -> PathBuf {
    PROGRAM.get().cloned().unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn sealed_copy(program: &Path) -> io::Result<File> {
    let mut copy = File::from(memfd_create(ARGUMENT, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut File::open(program)?, &mut copy)?;
    // Nobody has mapped it yet, so that no write can begin any more is as much as `WRITE`; which fails with EBUSY where the kernel
    // itself holds one of the pages for a moment.
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE)?;
    // What is open for writing cannot be executed.
    File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))
}

fn start_program(
    program: PathBuf,
    task: &Task,
    fds: &[BorrowedFd<'_>],
    command: &[OsString],
    output: Output,
) -> Result<Running, HelperError> {
    let start = |e: io::Error| HelperError::Start(e.into());
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| HelperError::Start(e.into()))?;
    let mut helper = Command::new(program);
    helper.arg(ARGUMENT).args(command).stdin(Stdio::from(theirs));
    if output == Output::Quiet {
        helper.stdout(Stdio::null());
    }
    let child = helper.spawn().map_err(start)?;
    let running = Running { child, socket: ours, parent: None };
    running.send(task, fds)?;
    Ok(running)
}

/// Starts a helper that becomes a command, with our standard streams, and that may ask to die with us.
///
/// The kernel does that when the parent *thread* ends (PR_SET_PDEATHSIG, prctl(2)), so the thread that starts the helper
/// stays until it is done with.
pub(super) fn start_lasting(task: Task, command: Vec<OsString>) -> Result<Running, HelperError> {
    let (started, wait_started) = mpsc::channel();
    let (keep, wait_dropped) = mpsc::channel();
    let parent = move || {
        let stdin = io::stdin();
        // The receiver waits below.
        let _ = started.send(start(&task, &[stdin.as_fd()], &command, Output::Ours));
        // Nothing is ever sent: this ends when `keep` is dropped.
        let _ = wait_dropped.recv();
    };
    thread::Builder::new().name("parent".into()).spawn(parent).map_err(|e| HelperError::Start(e.into()))?;
    let mut running = wait_started.recv().map_err(|_| HelperError::Died)??;
    running.parent = Some(keep);
    Ok(running)
}

impl Running {
    /// The helper's process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// This process's end of the socket to it.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a further message.
    pub(super) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), HelperError> {
        send(self.socket.as_fd(), message, fds).map_err(|e| HelperError::Socket(e.into()))
    }

    /// The helper's next message; `None` when it closed the socket, as a helper does that has become another program.
    pub(super) fn receive<M: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<(M, Vec<OwnedFd>)>, HelperError> {
        if let Some(timeout) = timeout {
            self.wait_readable(timeout)?;
        }
        receive(self.socket.as_fd()).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => HelperError::Garbled,
            _ => HelperError::Socket(e.into()),
        })
    }

    /// The one answer of a task that ends with it.
    pub(super) fn answer<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), HelperError> {
        self.receive(Some(ANSWER_TIMEOUT))?.ok_or(HelperError::Died)
    }

    /// Waits for the process itself.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    fn wait_readable(&self, timeout: Duration) -> Result<(), HelperError> {
        if super::process::poll_readable(self.socket.as_fd(), timeout).map_err(|e| HelperError::Socket(e.into()))? {
            Ok(())
        } else {
            Err(HelperError::TimedOut(timeout))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a process that has ended and been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_copy_that_is_executed_is_the_program_and_nobody_changes_it() {
        let program = Path::new("/bin/sh");
        let copy = sealed_copy(program).expect("copies");
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert!(std::fs::read(&path).expect("reads") == std::fs::read(program).expect("reads"));
        let mut opened = File::options().write(true).open(&path).expect("its owner may open it");
        let refused = |result: io::Result<()>| result.err().map(|e| e.kind()) == Some(io::ErrorKind::PermissionDenied);
        assert!(refused(opened.write_all(b"x")) && refused(opened.set_len(0)) && refused(opened.set_len(1 << 24)));
        assert!(fcntl_add_seals(&copy, SealFlags::empty()).is_err(), "no seal can be added");
    }
}

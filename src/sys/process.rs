//! Child processes: waited for and signalled through descriptors, never by a number that may mean another by now.
#![allow(unsafe_code)] // a signal handler, and what a child does before it becomes another program

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::OsError;

/// A child of this process, as a descriptor: it means this very process even when its number is used again.
#[derive(Debug)]
pub struct ChildHandle(OwnedFd);

impl AsFd for ChildHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildHandle {
    /// For the child `pid`, which must not have been waited for yet.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Sends a signal. That the child has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the child has ended, at most `timeout`; whether it has. Its exit status stays to be collected.
    pub fn wait_ended(&self, timeout: Duration) -> io::Result<bool> {
        poll_readable(self.0.as_fd(), timeout)
    }
}

/// Becomes `command`; the error why not.
///
/// A name that is in no folder of PATH is [`OsError::NOENT`] even when some of the folders are closed to this user, for
/// which the C library would say `EACCES`.
pub(super) fn exec(command: &mut Command) -> OsError {
    let error = OsError::from(command.exec());
    let name = Path::new(command.get_program());
    let searched = name.components().count() == 1 && name.parent() == Some(Path::new(""));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).any(|folder| folder.join(name).exists());
    if error == OsError::ACCES && searched && !found() { OsError::NOENT } else { error }
}

/// Has a command get nothing but its three standard streams, whatever this process was given by its own parent; and end with
/// SIGTERM when the thread that starts it does, however that ends: start it from one that lives as long as the child may.
pub fn bind_to_thread(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        // SAFETY: the call takes numbers only, and marks descriptors. A kernel before 5.11 does not know it: what is this
        // process's own is marked already.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // Has it ended before that, nobody will say so any more.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: system calls and a comparison, nothing that allocates or takes a lock, as a child of a process with
    // threads must keep to (signal-safety(7)).
    unsafe { command.pre_exec(prepare) };
}

/// The exit code that a shell would report: the child's own, or 128 and the signal's number.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Waits until `fd` can be read (or is at its end), at most `timeout`; whether it can.
pub(super) fn poll_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&timeout)))?;
    Ok(ready > 0)
}

/// The signals that go on to the command of `peerctl run`.
const FORWARDED: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The child's descriptor while signals go on to it.
static FORWARD_TO: AtomicI32 = AtomicI32::new(-1);

/// Passes SIGINT, SIGTERM, SIGHUP and SIGQUIT on to a child until dropped; there is one at a time in a process.
///
/// What the terminal sends reaches the whole foreground group, the child included, and is not sent to it a second time.
#[derive(Debug)]
pub struct SignalForward {
    /// Kept open while the handler may use it.
    _child: ChildHandle,
    before: Vec<(libc::c_int, libc::sigaction)>,
}

impl SignalForward {
    /// Starts to pass signals on to the child `pid`.
    pub fn to(pid: u32) -> io::Result<Self> {
        let child = ChildHandle::open(pid)?;
        if FORWARD_TO.compare_exchange(-1, child.0.as_raw_fd(), Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let mut forward = Self { _child: child, before: Vec::new() };
        // SAFETY: `sigaction` is plain data for which zeros are valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = pass_on as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        for signal in FORWARDED {
            let mut before = action;
            // SAFETY: both point to a `sigaction`, and the handler does only what a handler may.
            if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } < 0 {
                return Err(io::Error::last_os_error());
            }
            forward.before.push((signal, before));
        }
        Ok(forward)
    }
}

impl Drop for SignalForward {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: puts back what `sigaction` itself gave.
            unsafe { libc::sigaction(*signal, before, std::ptr::null_mut()) };
        }
        FORWARD_TO.store(-1, Ordering::SeqCst);
    }
}

/// The handler: an atomic load and one system call, both allowed in a handler (signal-safety(7)).
extern "C" fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let child = FORWARD_TO.load(Ordering::SeqCst);
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler that was set with SA_SIGINFO.
    let from_terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    if child < 0 || from_terminal {
        return;
    }
    // SAFETY: errno is the interrupted code's; the system call takes no pointer to anything.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::syscall(libc::SYS_pidfd_send_signal, child, signal, std::ptr::null::<libc::siginfo_t>(), 0);
        *errno = saved;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_that_was_killed_reports_128_and_the_signal() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("starts");
        let handle = ChildHandle::open(child.id()).expect("a child");
        assert!(!handle.wait_ended(Duration::ZERO).expect("polls"));
        handle.signal(Signal::TERM).expect("signals");
        assert!(handle.wait_ended(Duration::from_secs(10)).expect("polls"));
        assert_eq!(exit_code(child.wait().expect("waits")), 128 + libc::SIGTERM);
        handle.signal(Signal::TERM).expect("a child that has ended is no error");
    }
}

//! The helper's own side: its one task, from the socket on its standard input.
#![allow(unsafe_code)] // `close_range`, which no safe wrapper has

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{ARGUMENT, message};
use crate::sys::{lab, probe, sandbox, tun};

/// What a helper can be asked to do, and the descriptors that come with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sys) enum Task {
    /// Make, adopt or remove a TUN; with the network namespace and the user namespace that owns it.
    Tun(tun::Order),
    /// Look whether what is in a container serves; with its network namespace and the user namespace that owns it, or with the
    /// process that it is.
    Probe(probe::Order),
    /// Make new namespaces and become the user's command in them; with the standard input.
    Sandbox(sandbox::Order),
    /// Make new namespaces and start the command as their first process; with the standard input.
    Enclose(lab::Order),
    /// Become the command, as the first process of a new process namespace; with the standard input.
    First(lab::First),
}

/// The helper's end of the socket and what came with the task.
pub(in crate::sys) struct Asked {
    pub(in crate::sys) socket: OwnedFd,
    pub(in crate::sys) fds: Vec<OwnedFd>,
    /// The arguments after the hidden one.
    pub(in crate::sys) command: Vec<OsString>,
}

/// Does a helper's task and ends the process, when this process was started as a helper; else returns at once.
///
/// Must be the first thing in `main`: user namespaces can only be entered while there is one thread.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == ARGUMENT) {
        exit(run(arguments.collect()));
    }
}

fn run(command: Vec<OsString>) -> i32 {
    // SAFETY: nothing has been opened yet in this process: whatever is above the standard streams was inherited.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    let Some((task, asked)) = take_task(command) else {
        eprintln!("error: {ARGUMENT} is how peerd calls itself; it is not for use by hand");
        return 2;
    };
    match task {
        Task::Tun(order) => tun::run(order, asked),
        Task::Probe(order) => probe::run(order, asked),
        Task::Sandbox(order) => sandbox::run(order, asked),
        Task::Enclose(order) => lab::run(order, asked),
        Task::First(first) => lab::run_first(first, asked),
    }
}

/// Takes the socket away from standard input, so that a command started later does not inherit it.
fn take_task(command: Vec<OsString>) -> Option<(Task, Asked)> {
    let stdin = std::io::stdin();
    let (task, fds) = message::receive(stdin.as_fd()).ok()??;
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3).ok()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    Some((task, Asked { socket, fds, command }))
}

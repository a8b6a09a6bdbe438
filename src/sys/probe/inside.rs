//! The helper's side: in the container's namespaces.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, ThreadNameSpaceType, capabilities, capability_is_in_bounding_set,
    move_into_thread_name_spaces, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::command::{self, COMMAND_TIMEOUT, CommandEnd};
use super::{Order, ProbeError, open};
use crate::sys::helper::{self, Asked};
use crate::sys::netns;
use crate::sys::process::{self, ChildHandle};

/// What is entered of a process's namespaces, by the names of their files.
const NAMESPACES: [(&str, ThreadNameSpaceType); 7] = [
    ("user", ThreadNameSpaceType::USER),
    ("mnt", ThreadNameSpaceType::MOUNT),
    ("net", ThreadNameSpaceType::NETWORK),
    ("pid", ThreadNameSpaceType::PROCESS_ID),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Does `order` and answers on the socket it came by.
pub(in crate::sys) fn run(order: Order, asked: Asked) -> i32 {
    let sent = match order {
        Order::Socket => {
            let opened = enter_network(&asked.fds).and_then(|()| open());
            let fds: Vec<BorrowedFd<'_>> = opened.iter().map(AsFd::as_fd).collect();
            let answer = opened.as_ref().map(drop).map_err(Clone::clone);
            helper::send(asked.socket.as_fd(), &answer, &fds)
        }
        Order::Command(order) => {
            let end = run_command(&order, &asked);
            helper::send(asked.socket.as_fd(), &end, &[])
        }
    };
    i32::from(sent.is_err())
}

fn enter_network(fds: &[OwnedFd]) -> Result<(), ProbeError> {
    let [netns, owner] = fds else { return Err(ProbeError::Enter(Errno::INVAL.into())) };
    netns::enter_from_one_thread(netns.as_fd(), owner.as_fd()).map_err(|errno| ProbeError::Enter(errno.into()))
}

fn enter_all(pid: u32, fds: &[OwnedFd]) -> Result<(), ProbeError> {
    let enter = |error: io::Error| ProbeError::Enter(error.into());
    let [process] = fds else { return Err(ProbeError::Enter(Errno::INVAL.into())) };
    let mut other = ThreadNameSpaceType::empty();
    for (name, space) in NAMESPACES {
        let of = |whose: &str| fs::metadata(format!("/proc/{whose}/ns/{name}")).map(|file| (file.dev(), file.ino()));
        // One's own user namespace cannot be entered again, and others take a right to enter that nobody needs.
        if of("self").map_err(enter)? != of(&pid.to_string()).map_err(enter)? {
            other |= space;
        }
    }
    if other.is_empty() {
        return Ok(());
    }
    move_into_thread_name_spaces(process.as_fd(), other).map_err(|errno| ProbeError::Enter(errno.into()))
}

/// The capabilities that a process can ever have, as `/proc` says.
fn bounding_set_of(pid: u32) -> io::Result<CapabilitySet> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    Ok(CapabilitySet::from_bits_retain(bits.ok_or(io::ErrorKind::InvalidData)?))
}

/// From here on neither this process nor what it executes has any other capability than these.
fn limit_capabilities(to: CapabilitySet) -> rustix::io::Result<()> {
    let held = capabilities(None)?;
    if held.permitted.is_empty() {
        // It cannot gain any either: `no_new_privs`.
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !to.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    let kept = CapabilitySets {
        effective: held.effective & to,
        permitted: held.permitted & to,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)
}

fn run_command(order: &command::Order, asked: &Asked) -> Result<CommandEnd, ProbeError> {
    // The host's own /dev/null, opened before the container's could be met.
    let null = io::stdin().as_fd().try_clone_to_owned();
    let start = |error: io::Error| ProbeError::Start(error.into());
    set_no_new_privs(true).map_err(|errno| ProbeError::Start(errno.into()))?;
    match order.pid {
        Some(pid) => {
            let bounding_set = bounding_set_of(pid).map_err(start)?;
            enter_all(pid, &asked.fds)?;
            limit_capabilities(bounding_set).map_err(|errno| ProbeError::Start(errno.into()))?;
        }
        None => enter_network(&asked.fds)?,
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &order.line]).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
    command.stderr(null.map(Stdio::from).map_err(start)?);
    if let Some(user) = order.user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(start)?;
    let ended = wait_ended(&child, asked.socket.as_fd());
    // Whatever it started in its group ends with it; until it is waited for, nobody else can have its number.
    end_group(&child);
    let status = child.wait().map_err(start)?;
    Ok(if ended.map_err(start)? { CommandEnd::Exited(process::exit_code(status)) } else { CommandEnd::TimedOut })
}

/// Waits until the child has ended, its time is up, or nobody wants to know any more; whether it has ended.
fn wait_ended(child: &Child, asker: BorrowedFd<'_>) -> io::Result<bool> {
    let handle = ChildHandle::open(child.id())?;
    let limit = Timespec::try_from(COMMAND_TIMEOUT).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::new(&handle, PollFlags::IN), PollFd::from_borrowed_fd(asker, PollFlags::IN)];
    // The asker says nothing more, so what can be read there is the end.
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit)))?;
    Ok(fds[0].revents().contains(PollFlags::IN))
}

fn end_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails when the group has ended, which is what is wanted.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

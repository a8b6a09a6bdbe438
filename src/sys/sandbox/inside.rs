//! The sandbox's own side: from a helper to the command.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::{Begin, Order, Ready, SandboxError, private_etc};
use crate::sys::OsError;
use crate::sys::helper::{self, Asked};
use crate::sys::netlink::Netlink;
use crate::sys::process;
use crate::sys::resolv::RESOLV_CONF;
use crate::sys::userns::{UnshareError, step, unshare};

/// Becomes the command, or says why not.
pub(in crate::sys) fn run(order: Order, mut asked: Asked) -> i32 {
    let ready = prepare(&order);
    let prepared = ready.is_ok();
    if helper::send(asked.socket.as_fd(), &ready, &[]).is_err() || !prepared {
        return 125;
    }
    let Ok(Some((Begin { environment }, _))) = helper::receive(asked.socket.as_fd()) else { return 125 };
    let Some((program, arguments)) = asked.command.split_first() else { return 125 };
    let mut command = Command::new(program);
    command.args(arguments).envs(environment);
    if let Some(stdin) = asked.fds.pop() {
        command.stdin(Stdio::from(stdin));
    }
    let failed =
        SandboxError::Command { command: program.to_string_lossy().into_owned(), source: process::exec(&mut command) };
    // Whoever asked is gone if this fails, and so are we in a moment.
    let _ = helper::send(asked.socket.as_fd(), &failed, &[]);
    failed.exit_code()
}

fn prepare(order: &Order) -> Result<Ready, SandboxError> {
    unshare(UnshareFlags::NEWNET, order.user_namespace)?;
    // After the change of credentials, which clears it. That the parent died before shows on the socket.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| named("tie the command to peerctl", e.into()))?;
    Netlink::open().and_then(|mut n| n.raise_loopback()).map_err(|e| named("bring up lo", e.into()))?;
    private_etc::install(RESOLV_CONF).map_err(|e| SandboxError::Resolv(e.into()))?;
    Ok(Ready)
}

fn named(what: &'static str, source: OsError) -> UnshareError {
    step(what)(source)
}

//! A further command in a sandbox: this process enters the namespaces of one that is there, and becomes the command.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::SandboxError;
use crate::sys::process;

/// Becomes `command` in the namespaces of process `pid`, with `environment` besides this process's own; returns only if it
/// cannot. The calling process must have one thread.
pub fn enter(pid: u32, command: &[OsString], environment: &[(String, String)]) -> SandboxError {
    let Some((program, arguments)) = command.split_first() else { return SandboxError::NoCommand };
    let folder = std::env::current_dir();
    if let Err(source) = enter_namespaces(pid) {
        return SandboxError::Enter { pid, source: source.into() };
    }
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    // Entering mounts leads to their root; a folder that is not there is none to go back to.
    if let Ok(folder) = folder.and_then(fs::canonicalize) {
        command.current_dir(folder);
    }
    SandboxError::Command { command: program.to_string_lossy().into_owned(), source: process::exec(&mut command) }
}

fn enter_namespaces(pid: u32) -> std::io::Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
    let process = pidfd_open(raw, PidfdFlags::empty())?;
    let mut spaces = ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::MOUNT;
    // One's own user namespace cannot be entered again.
    let user = |of: &str| fs::metadata(format!("/proc/{of}/ns/user")).map(|file| (file.dev(), file.ino()));
    if user("self")? != user(&pid.to_string())? {
        spaces |= ThreadNameSpaceType::USER;
    }
    Ok(move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&process), spaces)?)
}

//! New namespaces for the calling process, with a user namespace around them where it takes one.
#![allow(unsafe_code)] // `unshare`

use std::fs;
use std::io;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::OsError;

/// The user namespace that new namespaces belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespace {
    /// The one that this process is in. Takes CAP_SYS_ADMIN.
    Same,
    /// A new one, in which this user is root and nobody else exists.
    #[default]
    New,
}

impl UserNamespace {
    /// What this process needs: root has the right to namespaces as it is, everybody else gets it with a new one.
    pub fn needed() -> Self {
        if super::cred::is_root() { Self::Same } else { Self::New }
    }
}

/// Why there are no new namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum UnshareError {
    #[error("user namespaces are forbidden on this machine")]
    Forbidden(#[source] OsError),
    #[error("the limit of namespaces is reached")]
    TooMany(#[source] OsError),
    #[error("cannot {step}")]
    Step { step: String, source: OsError },
}

impl UnshareError {
    /// What the user can do about it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Forbidden(_) => Some(
                "run as root, or allow them: sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 \
                 (those that exist here), user.max_user_namespaces above 0",
            ),
            Self::TooMany(_) => Some("raise user.max_user_namespaces and user.max_net_namespaces with sysctl"),
            Self::Step { .. } => None,
        }
    }
}

/// Gives the calling process new namespaces of these kinds. It must have one thread only.
///
/// Mounts made from here on are not seen outside; the host's new mounts are seen here.
pub(super) fn unshare(kinds: UnshareFlags, user: UserNamespace) -> Result<(), UnshareError> {
    let kinds = kinds | UnshareFlags::NEWNS;
    match user {
        UserNamespace::Same => raw_unshare(kinds).map_err(refused)?,
        UserNamespace::New => unshare_as_root_of_own(kinds)?,
    }
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(|e| step("keep mounts private")(e.into()))
}

fn unshare_as_root_of_own(kinds: UnshareFlags) -> Result<(), UnshareError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    raw_unshare(kinds | UnshareFlags::NEWUSER).map_err(refused)?;
    // A user without rights may map itself only, and its group only once it has given up setgroups
    // (user_namespaces(7)).
    let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    write("setgroups", "deny".into())
        .and_then(|()| write("uid_map", format!("0 {uid} 1")))
        .and_then(|()| write("gid_map", format!("0 {gid} 1")))
        .map_err(|e: io::Error| match OsError::from(e) {
            // Ubuntu lets the namespace be made and then refuses its capabilities.
            error if error.is_permission() => UnshareError::Forbidden(error),
            error => step("map the user into the user namespace")(error),
        })
}

fn raw_unshare(kinds: UnshareFlags) -> Result<(), OsError> {
    // SAFETY: no other thread exists to miss a shared file table, and `FILES` is not among the kinds.
    unsafe { rustix::thread::unshare_unsafe(kinds) }.map_err(OsError::from)
}

fn refused(error: OsError) -> UnshareError {
    match error {
        error if error.is_permission() => UnshareError::Forbidden(error),
        OsError::NOSPC => UnshareError::TooMany(error),
        error => step("make new namespaces")(error),
    }
}

pub(super) fn step(step: &'static str) -> impl Fn(OsError) -> UnshareError {
    move |source| UnshareError::Step { step: step.to_owned(), source }
}

//! An `/etc/resolv.conf` for one mount namespace, by mounts alone: no file of the host is changed.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Sockets by which glibc asks the host's own caches instead of reading `resolv.conf`: hidden, so that it does read it.
const HOST_CACHES: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];
/// Folders of which one is there on every system, and that can be covered for a moment.
const SCRATCH_FOLDERS: [&str; 3] = ["/tmp", "/mnt", "/home"];

/// Puts `text` in the place of `/etc/resolv.conf`. The calling process must be in a mount namespace of its own.
pub(super) fn install(text: &str) -> io::Result<()> {
    let target = fs::canonicalize(RESOLV_CONF).ok();
    for folder in HOST_CACHES.map(Path::new) {
        if folder.is_dir() {
            mount_tmpfs(folder)?;
            // /etc/resolv.conf is often a link into this folder; then it must lead to something to be mounted over.
            if let Some(stub) = target.as_deref().filter(|target| target.parent() == Some(folder)) {
                File::create(stub)?;
            }
        }
    }
    let scratch = SCRATCH_FOLDERS.map(Path::new).into_iter().find(|folder| folder.is_dir());
    let scratch = scratch.ok_or(io::ErrorKind::NotFound)?;
    mount_tmpfs(scratch)?;
    let installed = fs::write(scratch.join("resolv.conf"), text).and_then(|()| {
        match mount_bind(scratch.join("resolv.conf"), RESOLV_CONF) {
            // There is none, or a link that leads nowhere: neither can be mounted on, but the folder can.
            Err(rustix::io::Errno::NOENT) => overlay_etc(scratch, text),
            other => Ok(other?),
        }
    });
    // What was mounted from it stays; only its name goes.
    unmount(scratch, UnmountFlags::DETACH)?;
    installed
}

/// Lays a folder with nothing but the file over `/etc`.
fn overlay_etc(scratch: &Path, text: &str) -> io::Result<()> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    fs::write(upper.join("resolv.conf"), text)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={},userxattr", upper.display(), work.display());
    let options = CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(mount("overlay", "/etc", "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
}

fn mount_tmpfs(folder: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("peerd", folder, "tmpfs", flags, Some(c"mode=0755,size=64k"))?)
}

//! A small file beside the control socket that counts until the host is started again.
//!
//! It is read by the next run of the daemon, and by nobody after a reboot: its first line is the host's boot id, also where the
//! folder outlives one. It is never synced: a process that is killed loses nothing, a host that stops is not to keep it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::netns::boot_id;
use super::socket;

/// A longer file is not ours.
const LEN_MAX: u64 = 4096;

/// Where it is, and for which boot of the host.
#[derive(Debug)]
pub struct Beside {
    path: PathBuf,
    temporary: PathBuf,
    boot_id: String,
}

impl Beside {
    /// The file `SOCKET.EXTENSION`. Its folder is made as the socket's is.
    pub fn of_socket(socket: &Path, extension: &str) -> Self {
        // Whoever binds the socket says what is wrong with its folder.
        let _ = socket::safe_folder(socket::folder_of(socket));
        let with = |more: &str| {
            let mut path = socket.as_os_str().to_owned();
            path.push(more);
            PathBuf::from(path)
        };
        let (path, temporary) = (with(&format!(".{extension}")), with(&format!(".{extension}.new")));
        Self { path, temporary, boot_id: boot_id() }
    }

    /// The lines that were written since the host was started; none if there is no such file, or it is not this user's.
    pub fn read(&self) -> Vec<String> {
        let text = self.text().unwrap_or_default();
        let mut lines = text.lines().map(str::to_owned);
        let is_of_this_boot = lines.next().is_some_and(|boot| !boot.is_empty() && boot == self.boot_id);
        if is_of_this_boot { lines.collect() } else { Vec::new() }
    }

    fn text(&self) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())?;
        if rustix::fs::fstat(&file)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut text = String::new();
        File::from(file).take(LEN_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Replaces what is in it.
    pub fn write(&self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        let _ = std::fs::remove_file(&self.temporary);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&self.temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let text: String = std::iter::once(self.boot_id.clone()).chain(lines).map(|line| line + "\n").collect();
        file.write_all(text.as_bytes())?;
        std::fs::rename(&self.temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_was_written_is_read_by_the_next_run_and_by_nobody_else() {
        let parent = tempfile::tempdir().expect("a folder");
        let socket = parent.path().join("run/peerd.sock");
        let file = Beside::of_socket(&socket, "head");
        assert!(file.read().is_empty());
        file.write(["one".to_owned(), "two".to_owned()]).expect("written");
        assert_eq!(Beside::of_socket(&socket, "head").read(), ["one", "two"]);
        let meta = std::fs::metadata(parent.path().join("run/peerd.sock.head")).expect("there");
        assert_eq!(meta.mode() & 0o777, 0o600);
        file.write(["three".to_owned()]).expect("replaced");
        assert_eq!(file.read(), ["three"]);
    }

    #[test]
    fn after_a_reboot_of_the_host_it_says_nothing() {
        let parent = tempfile::tempdir().expect("a folder");
        let socket = parent.path().join("peerd.sock");
        let file = Beside { boot_id: "another".to_owned(), ..Beside::of_socket(&socket, "head") };
        file.write(["one".to_owned()]).expect("written");
        assert!(Beside::of_socket(&socket, "head").read().is_empty());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let parent = tempfile::tempdir().expect("a folder");
        let socket = parent.path().join("peerd.sock");
        let file = Beside::of_socket(&socket, "head");
        file.write(["one".to_owned()]).expect("written");
        let elsewhere = parent.path().join("elsewhere");
        std::fs::rename(parent.path().join("peerd.sock.head"), &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, parent.path().join("peerd.sock.head")).expect("linked");
        assert!(file.read().is_empty());
        file.write(["two".to_owned()]).expect("written in its place");
        assert!(std::fs::read_to_string(&elsewhere).expect("there").contains("one"));
    }
}

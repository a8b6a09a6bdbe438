//! What the outside reaches on this node: the gateway's fronts and nginx, kept as the records want them.
//!
//! One task looks at each new view of the cluster, works out the plan ([`crate::ingress`]), gives the gateway thread its
//! fronts, and nginx its configuration. Changes that come together are one reload. What cannot be served, whatever the reason,
//! is left out by itself: a port that somebody else has, a name without a certificate, a configuration that nginx refuses.

mod access;
pub mod certificates;
pub mod nginx;
mod pace;
mod serve;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::gateway::Fronts;
use super::node::lock;
use crate::gossip::{self, FileKind, Stored, Write};
use crate::ingress::{Plan, Subnet, UPSTREAM_DIR};
use crate::sys::store::{StateDir, StoreError};

pub use access::Counts;
pub use serve::serve;

/// The file of the settings.
pub const FILE: &str = "ingress";
/// nginx's folder, below the state folder.
const DIR: &str = "nginx";

/// What the operator has settled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub enabled: bool,
    /// Where balancers are that stand in front and speak the PROXY protocol; none do if it is empty.
    #[serde(default)]
    pub proxy_from: Vec<Subnet>,
}

/// The ingress of this node: its settings, and how it is.
pub struct Ingress {
    /// Where nginx runs.
    pub dir: PathBuf,
    state: Arc<StateDir>,
    /// What is settled, and how often something was.
    settled: watch::Sender<(u64, Settings)>,
    /// Counts changes of the certificates.
    certificates: watch::Sender<u64>,
    shown: Mutex<Shown>,
    /// Told when all was kept once more.
    kept: Notify,
}

/// How it is, for people.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// How often something had been settled when it was kept last; `None` before it was for the first time.
    pub settled: Option<u64>,
    pub plan: Plan,
    pub fronts: Fronts,
    pub nginx_version: Option<String>,
    /// When the nginx that runs was started.
    pub nginx_since: Option<Instant>,
    pub reloads: u64,
    /// How long the last one took, from the change to the new workers.
    pub last_reload_ms: Option<u64>,
    /// What is not served, and why.
    pub problems: Vec<String>,
    /// What keeps nginx from serving at all.
    pub fault: Option<String>,
    pub counts: BTreeMap<String, Counts>,
}

impl Ingress {
    /// With the settings that an earlier run left.
    pub fn new(state: Arc<StateDir>, settings: Settings) -> Self {
        let dir = state.path().join(DIR);
        let (settled, certificates) = (watch::channel((0, settings)).0, watch::channel(0).0);
        Self { dir, state, settled, certificates, shown: Mutex::default(), kept: Notify::new() }
    }

    /// What [`FILE`] says, if it is there.
    ///
    /// # Errors
    /// It is damaged.
    pub fn remembered(file: Option<Vec<u8>>) -> Result<Settings, gossip::StoreError> {
        let mut stored = Stored::empty();
        if let Some(file) = file {
            stored.insert(FILE.to_owned(), file);
        }
        let Some(text) = stored.open(FILE, FileKind::Ingress)? else { return Ok(Settings::default()) };
        serde_json::from_slice(text).map_err(|_| gossip::StoreError::Content(FILE.to_owned()))
    }

    pub fn settings(&self) -> Settings {
        self.settled.borrow().1.clone()
    }

    /// Settles something, on disk too, and has all be tried once more even if it is what was settled before. Waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses; then nothing has changed.
    pub fn settle(&self, settings: Settings) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&settings).expect("settings have string keys only");
        let write = Write::new(FILE, FileKind::Ingress, &text);
        self.state.write(&write.name, write.content.as_ref().expect("it is written, not removed"))?;
        self.settled.send_modify(|settled| *settled = (settled.0 + 1, settings));
        Ok(())
    }

    /// The certificates, in a folder that is there.
    pub fn certificates(&self) -> io::Result<certificates::Certificates> {
        make_folders(&self.dir)?;
        Ok(certificates::Certificates::new(&self.dir))
    }

    /// Certificates were added or removed.
    pub fn certificates_changed(&self) {
        self.certificates.send_modify(|count| *count += 1);
    }

    /// Waits until everything is as it was settled before, or has failed to be since; no longer than `timeout`.
    pub async fn kept(&self, timeout: Duration) {
        let wanted = self.settled.borrow().0;
        let settled = async {
            loop {
                let kept = self.kept.notified();
                if lock(&self.shown).settled >= Some(wanted) {
                    return;
                }
                kept.await;
            }
        };
        let _ = tokio::time::timeout(timeout, settled).await;
    }

    pub fn show(&self) -> Shown {
        lock(&self.shown).clone()
    }
}

/// The folders that nginx works in. Its workers are another user's where root starts it: they pass through, and read nothing. The
/// state folder around is closed to everybody else.
fn make_folders(dir: &Path) -> io::Result<()> {
    for (path, mode) in [
        (dir.to_owned(), 0o711),
        (dir.join("temp"), 0o711),
        (dir.join("logs"), 0o711),
        (dir.join(UPSTREAM_DIR), 0o711),
        (dir.join(certificates::DIR), 0o700),
    ] {
        match DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // The umask may have taken something away.
            _ => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?,
        }
    }
    Ok(())
}

/// Whether the host has IPv6.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// Why nobody but us could listen on a port, if so.
fn why_not_free(port: NonZeroU16, ipv6: bool) -> Option<io::Error> {
    let any: SocketAddr = match ipv6 {
        // Takes IPv4 as well.
        true => (Ipv6Addr::UNSPECIFIED, port.get()).into(),
        false => (Ipv4Addr::UNSPECIFIED, port.get()).into(),
    };
    TcpListener::bind(any).err()
}

//! The containers that this node hosts: what it must remember to serve them, to let them go, and to take them up again
//! after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use serde::{Deserialize, Serialize};

use super::node::lock;
use crate::dns::Caller;
use crate::model::{AttachmentId, NetworkId};
use crate::sys::netns::{Anchor, NetnsId};
use crate::sys::store::{StateDir, StoreError};

/// The file that remembers the attachments.
pub const FILE: &str = "attachments.json";

/// Who asks, by attachment: the resolver reads it for every query.
pub type Callers = Arc<RwLock<HashMap<AttachmentId, Caller>>>;

/// A container on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Local {
    #[serde(with = "as_text")]
    pub id: AttachmentId,
    #[serde(with = "as_text")]
    pub network: NetworkId,
    /// Where its namespace is; not held open, so that the container can end.
    pub anchor: Anchor,
    pub ifname: String,
    pub address: Ipv4Addr,
    pub mtu_bytes: u32,
    /// The `/etc/netns/NAME/resolv.conf` that is ours to remove.
    pub resolv: Option<PathBuf>,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The attachments of this node. A namespace has one at most.
pub struct Attachments {
    state: Arc<StateDir>,
    callers: Callers,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    locals: BTreeMap<AttachmentId, Local>,
    /// Namespaces that somebody is attaching right now.
    claimed: BTreeSet<NetnsId>,
}

/// A namespace that nobody else can attach while this stands.
pub struct Claim<'a> {
    of: &'a Attachments,
    netns: NetnsId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.of.inner).claimed.remove(&self.netns);
    }
}

impl Attachments {
    /// No attachments yet; those of an earlier run come from [`Attachments::remembered`].
    pub fn new(state: Arc<StateDir>, callers: Callers) -> Self {
        Self { state, callers, inner: Mutex::default() }
    }

    /// The attachments that an earlier run left.
    pub fn remembered(file: Option<&[u8]>) -> Result<Vec<Local>, serde_json::Error> {
        file.map_or(Ok(Vec::new()), serde_json::from_slice)
    }

    /// Claims a namespace, or says which attachment has it.
    pub fn claim(&self, netns: NetnsId) -> Result<Claim<'_>, Option<AttachmentId>> {
        let mut inner = lock(&self.inner);
        if let Some(holder) = inner.locals.values().find(|local| local.anchor.id == netns) {
            return Err(Some(holder.id));
        }
        if inner.claimed.insert(netns) { Ok(Claim { of: self, netns }) } else { Err(None) }
    }

    /// Remembers an attachment, on disk as well.
    ///
    /// # Errors
    /// When the disk refuses; then it is not remembered at all.
    pub fn insert(&self, local: Local, caller: Caller) -> Result<(), StoreError> {
        let id = local.id;
        self.change(|locals| {
            locals.insert(id, local);
        })?;
        self.callers.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, caller);
        Ok(())
    }

    /// Forgets an attachment; none if it is not here.
    pub fn remove(&self, id: AttachmentId) -> Option<Local> {
        self.callers.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id);
        let mut removed = None;
        if let Err(error) = self.change(|locals| removed = locals.remove(&id)) {
            // The next start finds its namespace gone, or adopts it and finds no record.
            tracing::warn!(attachment = %id, %error, "a detached container is still remembered on disk");
            removed = lock(&self.inner).locals.remove(&id);
        }
        removed
    }

    /// The attachments, by id.
    pub fn list(&self) -> Vec<Local> {
        lock(&self.inner).locals.values().cloned().collect()
    }

    /// The attachment with this id, or in this namespace.
    pub fn find(&self, matches: impl Fn(&Local) -> bool) -> Option<Local> {
        lock(&self.inner).locals.values().find(|local| matches(local)).cloned()
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<AttachmentId, Local>)) -> Result<(), StoreError> {
        let mut inner = lock(&self.inner);
        let mut locals = inner.locals.clone();
        edit(&mut locals);
        let list: Vec<&Local> = locals.values().collect();
        let bytes = serde_json::to_vec_pretty(&list).expect("an attachment has string keys only");
        self.state.write(FILE, &bytes)?;
        inner.locals = locals;
        Ok(())
    }
}

//! The containers that this node hosts: what it must remember to serve them, to let them go, and to take them up again
//! after a restart.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::node::lock;
use crate::control::ReadyWhen;
use crate::dns::Caller;
use crate::gossip::{self, FileKind, Stored, Write};
use crate::model::{AttachmentId, NetworkId, WgPublicKey};
use crate::sys::netns::{Anchor, NetnsPlace};
use crate::sys::probe::User;
use crate::sys::store::{StateDir, StoreError};

/// The file that remembers the attachments.
pub const FILE: &str = "attachments";

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
    /// What makes it ready, if it was not so at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_when: Option<Condition>,
    /// When it is detached, once it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// What makes a container ready, and with whose rights that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub when: ReadyWhen,
    pub user: User,
}

/// How long a container drains, by the wall clock, which alone goes on over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub whole_ms: u64,
    pub until_unix_ms: u64,
}

impl Drain {
    /// What is left of it: never more than the whole, wherever the wall clock has gone.
    fn left(self, unix_ms: u64) -> Duration {
        Duration::from_millis(self.until_unix_ms.saturating_sub(unix_ms).min(self.whole_ms))
    }
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

/// The attachments of this node. A namespace has one at most, and one change at a time.
pub struct Attachments {
    state: Arc<StateDir>,
    callers: Callers,
    inner: Mutex<Inner>,
    /// Held while the file is written, so that `inner` never waits for the disk.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    locals: BTreeMap<AttachmentId, Local>,
    /// The public keys under which attachments are served.
    keys: BTreeMap<AttachmentId, WgPublicKey>,
    /// Of an earlier run, and not served yet.
    unserved: BTreeMap<AttachmentId, Unserved>,
    /// When those that drain are detached: by this clock, which does not jump.
    drains: BTreeMap<AttachmentId, Instant>,
    /// Namespaces in which something is being attached or detached right now.
    busy: BTreeMap<NetnsPlace, AttachmentId>,
}

/// Why an attachment of an earlier run is not served yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    pub why: String,
    pub hint: String,
    /// Not before it is it tried again.
    pub again_at: Option<Instant>,
}

impl Unserved {
    fn at_first() -> Self {
        let hint = "wait for that; peerctl container ls".to_owned();
        Self { why: "it is being taken up".to_owned(), hint, again_at: None }
    }
}

/// A namespace that nobody else attaches or detaches while this stands.
pub struct Claim {
    of: Arc<Attachments>,
    netns: NetnsPlace,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.of.inner).busy.remove(&self.netns);
    }
}

/// Why a namespace or an attachment cannot be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimError {
    /// This attachment is there.
    Held(AttachmentId),
    /// There is no such attachment.
    Unknown,
    /// It is being attached or detached at this moment.
    Busy,
}

impl Attachments {
    /// The attachments that an earlier run left. Call [`Self::resume_drains`] next.
    pub fn new(state: Arc<StateDir>, callers: Callers, remembered: Vec<Local>) -> Self {
        let locals: BTreeMap<_, _> = remembered.into_iter().map(|local| (local.id, local)).collect();
        let unserved = locals.keys().map(|id| (*id, Unserved::at_first())).collect();
        let inner = Inner { locals, unserved, ..Inner::default() };
        Self { state, callers, inner: Mutex::new(inner), writing: Mutex::default() }
    }

    /// What [`FILE`] says, if it is there.
    ///
    /// # Errors
    /// It is damaged: a container must not get another's address because a bit was flipped.
    pub fn remembered(file: Option<Vec<u8>>) -> Result<Vec<Local>, gossip::StoreError> {
        let mut stored = Stored::empty();
        if let Some(file) = file {
            stored.insert(FILE.to_owned(), file);
        }
        let Some(list) = stored.open(FILE, FileKind::Attachments)? else { return Ok(Vec::new()) };
        serde_json::from_slice(list).map_err(|_| gossip::StoreError::Content(FILE.to_owned()))
    }

    /// Claims a namespace that has no attachment, for `id`.
    pub fn claim_free(self: &Arc<Self>, netns: NetnsPlace, id: AttachmentId) -> Result<Claim, ClaimError> {
        let mut inner = lock(&self.inner);
        if inner.busy.contains_key(&netns) {
            return Err(ClaimError::Busy);
        }
        if let Some(holder) = inner.locals.values().find(|local| local.anchor.place() == netns) {
            return Err(ClaimError::Held(holder.id));
        }
        inner.busy.insert(netns.clone(), id);
        Ok(Claim { of: self.clone(), netns })
    }

    /// Claims the namespace of an attachment, to let it go.
    pub fn claim_held(self: &Arc<Self>, id: AttachmentId) -> Result<(Claim, Local), ClaimError> {
        let mut inner = lock(&self.inner);
        let Some(local) = inner.locals.get(&id).cloned() else {
            return Err(if inner.busy.values().any(|busy| *busy == id) {
                ClaimError::Busy
            } else {
                ClaimError::Unknown
            });
        };
        let netns = local.anchor.place();
        if inner.busy.contains_key(&netns) {
            return Err(ClaimError::Busy);
        }
        inner.busy.insert(netns.clone(), id);
        Ok((Claim { of: self.clone(), netns }, local))
    }

    /// Whether an attachment is there, or about to be.
    pub fn is_known(&self, id: AttachmentId) -> bool {
        let inner = lock(&self.inner);
        inner.locals.contains_key(&id) || inner.busy.values().any(|busy| *busy == id)
    }

    /// Remembers an attachment: on disk before anything of it is made, so that a crash leaves nothing unknown behind.
    /// Waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses; then it is not remembered at all.
    pub fn insert(&self, local: Local) -> Result<(), StoreError> {
        self.change(|locals| {
            locals.insert(local.id, local);
        })
    }

    /// Notes that an attachment drains, on disk too; an earlier such note is replaced. Waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses; then nothing has changed.
    pub fn drain(&self, id: AttachmentId, time: Duration, now: Instant, unix_ms: u64) -> Result<(), StoreError> {
        let whole_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let drain = Drain { whole_ms, until_unix_ms: unix_ms.saturating_add(whole_ms) };
        self.change(|locals| {
            if let Some(local) = locals.get_mut(&id) {
                local.drain = Some(drain);
            }
        })?;
        lock(&self.inner).drains.insert(id, now + time);
        Ok(())
    }

    /// What drained when the daemon ended drains on.
    pub fn resume_drains(&self, now: Instant, unix_ms: u64) {
        let inner = &mut *lock(&self.inner);
        let drains = inner.locals.values().filter_map(|local| Some((local.id, now + local.drain?.left(unix_ms))));
        inner.drains = drains.collect();
    }

    /// When an attachment that drains is detached.
    pub fn drained_at(&self, id: AttachmentId) -> Option<Instant> {
        lock(&self.inner).drains.get(&id).copied()
    }

    /// The attachments that have drained.
    pub fn drained(&self, now: Instant) -> Vec<AttachmentId> {
        lock(&self.inner).drains.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect()
    }

    /// The attachments with something that makes them ready.
    pub fn conditional(&self) -> Vec<Local> {
        lock(&self.inner).locals.values().filter(|local| local.ready_when.is_some()).cloned().collect()
    }

    /// The attachments of an earlier run that are not served yet.
    pub fn unserved(&self) -> Vec<(AttachmentId, Unserved)> {
        let inner = lock(&self.inner);
        let there = inner.unserved.iter().filter(|(id, _)| inner.locals.contains_key(id));
        there.map(|(id, unserved)| (*id, unserved.clone())).collect()
    }

    /// The attachments that are served, but those that are being attached or detached.
    pub fn served(&self) -> Vec<AttachmentId> {
        let inner = lock(&self.inner);
        let served = inner.locals.values().filter(|local| {
            inner.keys.contains_key(&local.id)
                && !inner.unserved.contains_key(&local.id)
                && !inner.busy.contains_key(&local.anchor.place())
        });
        served.map(|local| local.id).collect()
    }

    /// An attachment of an earlier run cannot be served yet.
    pub fn note_unserved(&self, id: AttachmentId, unserved: Unserved) {
        lock(&self.inner).unserved.insert(id, unserved);
    }

    /// An attachment of an earlier run is served again, or never will be.
    pub fn note_settled(&self, id: AttachmentId) {
        lock(&self.inner).unserved.remove(&id);
    }

    /// An attachment is served under this key.
    pub fn note_key(&self, id: AttachmentId, key: WgPublicKey) {
        lock(&self.inner).keys.insert(id, key);
    }

    /// The key under which an attachment is served.
    pub fn key_of(&self, id: AttachmentId) -> Option<WgPublicKey> {
        lock(&self.inner).keys.get(&id).copied()
    }

    /// From now on the resolver answers to this attachment.
    pub fn answer_to(&self, caller: Caller) {
        self.callers.write().unwrap_or_else(PoisonError::into_inner).insert(caller.attachment, caller);
    }

    /// From now on the resolver does not answer to this attachment.
    pub fn ignore(&self, id: AttachmentId) {
        self.callers.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Forgets an attachment, if it is here. Waits for the disk.
    pub fn remove(&self, id: AttachmentId) {
        self.ignore(id);
        {
            let mut inner = lock(&self.inner);
            inner.keys.remove(&id);
            inner.drains.remove(&id);
        }
        let removed = self.change(|locals| {
            locals.remove(&id);
        });
        if let Err(error) = removed {
            // The next start finds its namespace gone, or finds no record of it, and lets it go.
            tracing::warn!(attachment = %id, %error, "a detached container is still remembered on disk");
            let _writing = lock(&self.writing);
            lock(&self.inner).locals.remove(&id);
        }
    }

    /// The attachment of this id.
    pub fn of_id(&self, id: AttachmentId) -> Option<Local> {
        lock(&self.inner).locals.get(&id).cloned()
    }

    /// The attachments, by id.
    pub fn list(&self) -> Vec<Local> {
        lock(&self.inner).locals.values().cloned().collect()
    }

    /// The attachment in this namespace.
    pub fn in_netns(&self, netns: &NetnsPlace) -> Option<AttachmentId> {
        lock(&self.inner).locals.values().find(|local| local.anchor.place() == *netns).map(|local| local.id)
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<AttachmentId, Local>)) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        let mut locals = lock(&self.inner).locals.clone();
        edit(&mut locals);
        let list: Vec<&Local> = locals.values().collect();
        let list = serde_json::to_vec(&list).expect("an attachment has string keys only");
        let file = Write::new(FILE, FileKind::Attachments, &list);
        self.state.write(FILE, &file.content.expect("a new file has content"))?;
        lock(&self.inner).locals = locals;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netns::{Anchor, NetnsId, Origin};

    fn id(last: u8) -> AttachmentId {
        format!("{last:016x}").parse().expect("an id")
    }

    fn local(last: u8) -> Local {
        let anchor = Anchor {
            origin: Origin::Path(format!("/run/netns/{last}").into()),
            id: NetnsId { device: 4, inode: u64::from(last) },
            started_ticks: None,
            machine_boot: "boot".to_owned(),
        };
        Local {
            id: id(last),
            network: "pn-1".parse().expect("an id"),
            anchor,
            ifname: "peerd0".to_owned(),
            address: Ipv4Addr::new(10, 240, 0, last),
            mtu_bytes: 1408,
            resolv: None,
            ready_when: None,
            drain: None,
        }
    }

    fn attachments(folder: &std::path::Path, remembered: Vec<Local>) -> Arc<Attachments> {
        let state = Arc::new(StateDir::open(folder).expect("a state folder"));
        Arc::new(Attachments::new(state, Callers::default(), remembered))
    }

    #[test]
    fn a_namespace_has_one_attachment_and_one_change_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let attachments = attachments(&folder.path().join("state"), Vec::new());
        let netns = local(1).anchor.place();
        let claim = attachments.claim_free(netns.clone(), id(1)).expect("free");
        assert_eq!(attachments.claim_free(netns.clone(), id(2)).err(), Some(ClaimError::Busy));
        assert_eq!(attachments.claim_held(id(1)).err(), Some(ClaimError::Busy), "it is not attached yet");
        assert!(attachments.is_known(id(1)) && !attachments.is_known(id(2)));
        attachments.insert(local(1)).expect("written");
        assert_eq!(attachments.claim_held(id(1)).err(), Some(ClaimError::Busy), "its attach is not over");
        drop(claim);
        assert_eq!(attachments.claim_free(netns.clone(), id(2)).err(), Some(ClaimError::Held(id(1))));

        let (claim, _) = attachments.claim_held(id(1)).expect("there");
        assert_eq!(attachments.claim_held(id(1)).err(), Some(ClaimError::Busy), "let go once, not twice");
        attachments.remove(id(1));
        assert_eq!(attachments.claim_free(netns.clone(), id(2)).err(), Some(ClaimError::Busy));
        drop(claim);
        assert_eq!(attachments.claim_held(id(1)).err(), Some(ClaimError::Unknown));
        assert!(attachments.claim_free(netns.clone(), id(2)).is_ok());
    }

    #[test]
    fn a_namespace_of_this_run_of_the_machine_is_free_whatever_had_its_number_in_the_last_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let attachments = attachments(&folder.path().join("state"), vec![local(1)]);
        let (boot, number) = local(1).anchor.place();
        let after = ("another boot".to_owned(), number);
        let _going = attachments.claim_held(id(1)).expect("there");
        assert_eq!(attachments.claim_free((boot, number), id(2)).err(), Some(ClaimError::Busy));
        assert_eq!(attachments.in_netns(&after), None);
        assert!(attachments.claim_free(after, id(2)).is_ok());
    }

    #[test]
    fn served_is_what_has_a_key_and_is_not_being_changed_nor_left_from_an_earlier_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let attachments = attachments(&folder.path().join("state"), vec![local(1)]);
        let key = || crate::model::WgSecret::random(&mut crate::sys::random::Os).public();
        attachments.insert(local(2)).expect("written");
        assert!(attachments.served().is_empty(), "neither has a key");
        attachments.note_key(id(1), key());
        attachments.note_key(id(2), key());
        assert_eq!(attachments.served(), [id(2)]);
        attachments.note_settled(id(1));
        let (claim, _) = attachments.claim_held(id(2)).expect("there");
        assert_eq!(attachments.served(), [id(1)]);
        drop(claim);
        assert_eq!(attachments.served(), [id(1), id(2)]);
    }

    #[test]
    fn what_was_remembered_is_on_disk_until_it_is_let_go_each_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let attachments = attachments(&path, vec![local(1), local(2), local(3)]);
        let on_disk = || {
            let bytes = std::fs::read(path.join(FILE)).expect("the file");
            Attachments::remembered(Some(bytes)).expect("reads").iter().map(|local| local.id).collect::<Vec<_>>()
        };
        attachments.remove(id(2));
        assert_eq!(on_disk(), [id(1), id(3)]);
        attachments.insert(local(4)).expect("written");
        assert_eq!(on_disk(), [id(1), id(3), id(4)]);
    }

    #[test]
    fn what_drains_drains_on_after_a_restart_and_never_longer_than_it_was_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let restarted = |unix_ms| {
            let bytes = std::fs::read(path.join(FILE)).expect("the file");
            // In another folder: the first still holds its own.
            let other = tempfile::tempdir().expect("a folder");
            let again = attachments(&other.path().join("state"), Attachments::remembered(Some(bytes)).expect("reads"));
            let now = crate::sys::clock::now();
            again.resume_drains(now, unix_ms);
            again.drained_at(id(1)).map(|at| at - now)
        };
        let (s, now) = (Duration::from_secs, crate::sys::clock::now());
        let attachments = attachments(&path, vec![local(1), local(2)]);
        attachments.drain(id(1), s(30), now, 1_000_000).expect("written");
        assert_eq!((attachments.drained_at(id(1)), attachments.drained_at(id(2))), (Some(now + s(30)), None));
        assert!(attachments.drained(now + s(29)).is_empty());
        assert_eq!(attachments.drained(now + s(30)), [id(1)]);
        assert_eq!(restarted(1_010_000), Some(s(20)));
        assert_eq!(restarted(2_000_000), Some(s(0)), "its time is over");
        assert_eq!(restarted(0), Some(s(30)), "the clock was set back");
        attachments.remove(id(1));
        assert_eq!((attachments.drained_at(id(1)), restarted(1_010_000)), (None, None));
    }

    #[test]
    fn a_list_of_a_version_that_knew_no_conditions_is_read() {
        let text = serde_json::to_string(&local(1)).expect("encodes");
        assert!(!text.contains("ready_when") && !text.contains("drain"), "{text}");
        let back: Local = serde_json::from_str(&text).expect("reads");
        assert!(back.ready_when.is_none() && back.drain.is_none());
        let condition = Condition { when: "exec a b".parse().expect("reads"), user: User { uid: 7, gid: 8 } };
        let text = serde_json::to_string(&Local { ready_when: Some(condition.clone()), ..local(1) }).expect("encodes");
        assert_eq!(serde_json::from_str::<Local>(&text).expect("reads").ready_when, Some(condition));
    }

    #[test]
    fn a_list_cut_anywhere_or_with_any_bit_flipped_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        attachments(&path, Vec::new()).insert(local(1)).expect("written");
        let whole = std::fs::read(path.join(FILE)).expect("the file");
        let damaged = Some(gossip::StoreError::Damaged(FILE.to_owned()));
        for len in 0..whole.len() {
            assert_eq!(Attachments::remembered(Some(whole[..len].to_vec())).err(), damaged, "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Attachments::remembered(Some(flipped)).err(), damaged, "bit {bit}");
        }
        assert_eq!(Attachments::remembered(Some(whole)).expect("whole").len(), 1);
        assert!(Attachments::remembered(None).expect("nothing to remember").is_empty());
    }
}

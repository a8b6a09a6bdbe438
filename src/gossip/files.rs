//! Which files there are, and what is in each.
//!
//! ```text
//! node.key           the node's ed25519 seed               secrets-ID      a network's secrets, two generations
//! root.key           the root's, where it was not taken away   own-c, own-n-ID      what this node itself signed
//! boot               starts so far, networks created       log-c-KEY, log-n-KEY-ID   what others signed
//! cluster            the genesis and our certificate       invites         open and redeemed invites
//! resting            what rests in networks that were lost
//! ```
//! `cluster` is written after all that it relies on, and `boot` says afterwards that it must be there: so a crash while
//! joining leaves a node that is in no cluster, and a lost file is never taken for one.

use std::net::{Ipv4Addr, SocketAddr};

use ed25519_dalek::SigningKey;
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::lives::Gap;
use super::message::SecretBytes;
use super::store::{FileKind, StoreError, Stored, Write};
use super::token::{InviteId, RedeemKey};
use crate::membership::{CheckSignatures, Delta, Log, Rest, Shard, Verified, Verifier};
use crate::model::{Boot, ClusterId, Generation, Label, NetworkId, NetworkSecret, NodeId};

pub(super) const BOOT: &str = "boot";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const INVITES: &str = "invites";
pub(super) const RESTING: &str = "resting";
pub(super) const ROOT_KEY: &str = "root.key";

/// Addresses that rest: when each was freed, in Unix seconds.
pub(super) type Resting = Vec<(Ipv4Addr, u64)>;

/// How often this node started, and what must not be used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(super) struct BootFile {
    #[n(0)]
    pub boot: Boot,
    /// How many networks this signer ever created.
    #[n(1)]
    pub networks_created: u32,
    /// Whether the node is in a cluster, so that `cluster` must be there.
    #[n(2)]
    pub member: bool,
}

/// The node's part in its cluster.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map, context_bound = "CheckSignatures")]
pub(super) struct ClusterFile {
    #[n(0)]
    pub id: ClusterId,
    #[n(1)]
    pub genesis: Verified,
    /// Our signer's appointment and our certificate.
    #[n(2)]
    pub chain: Vec<Verified>,
    #[n(3)]
    pub entrance: Option<Entrance>,
}

/// Where a node came in: whom it dials while it knows nobody's endpoints.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct Entrance {
    #[n(0)]
    pub signer: NodeId,
    #[n(1)]
    pub endpoints: Vec<SocketAddr>,
}

/// A log, and for our own the addresses that rest.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map, context_bound = "CheckSignatures")]
pub(super) struct LogFile {
    #[n(0)]
    pub delta: Delta,
    #[n(1)]
    pub resting: Resting,
    /// What this node may have signed before and does not remember.
    #[n(2)]
    #[cbor(default)]
    pub gaps: Vec<Gap>,
}

/// An invite as its signer keeps it.
#[derive(Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct Invite {
    #[n(0)]
    pub id: InviteId,
    #[n(1)]
    pub key: RedeemKey,
    #[n(2)]
    pub expires_unix_s: u64,
    #[n(3)]
    pub uses: u32,
    #[n(4)]
    pub networks: Vec<NetworkId>,
    #[n(5)]
    pub signer: bool,
    /// Who used it, with the name it asked for.
    #[n(6)]
    pub consumed: Vec<(NodeId, Label)>,
}

/// What a file of CBOR holds.
pub(super) fn open<'a, T: Decode<'a, ()>>(
    stored: &'a Stored,
    name: &str,
    kind: FileKind,
) -> Result<Option<T>, StoreError> {
    let Some(payload) = stored.open(name, kind)? else { return Ok(None) };
    minicbor::decode(payload).map(Some).map_err(|_| StoreError::Content(name.to_owned()))
}

/// What a file of signed records holds. Their signatures were checked before they were written.
pub(super) fn open_signed<'a, T: Decode<'a, Verifier>>(
    stored: &'a Stored,
    name: &str,
    kind: FileKind,
    cluster: ClusterId,
) -> Result<Option<T>, StoreError> {
    let Some(payload) = stored.open(name, kind)? else { return Ok(None) };
    let mut trusting = Verifier::of_own_store(cluster);
    minicbor::decode_with(payload, &mut trusting).map(Some).map_err(|_| StoreError::Content(name.to_owned()))
}

/// A key's file.
pub(super) fn open_key(stored: &Stored, name: &str, kind: FileKind) -> Result<Option<SigningKey>, StoreError> {
    let Some(payload) = stored.open(name, kind)? else { return Ok(None) };
    let seed = <[u8; 32]>::try_from(payload).map_err(|_| StoreError::Content(name.to_owned()))?;
    Ok(Some(SigningKey::from_bytes(&Zeroizing::new(seed))))
}

/// A file of CBOR.
pub(super) fn write<T: Encode<()>>(name: impl Into<String>, kind: FileKind, content: &T) -> Write {
    let mut payload = Zeroizing::new(Vec::with_capacity(1024));
    minicbor::encode(content, &mut *payload).expect("a Vec takes every byte");
    Write::new(name, kind, &payload)
}

impl BootFile {
    pub(super) fn write(&self) -> Write {
        write(BOOT, FileKind::Boot, self)
    }
}

impl ClusterFile {
    pub(super) fn write(&self) -> Write {
        let mut payload = Vec::new();
        minicbor::encode_with(self, &mut payload, &mut Verifier::of_own_store(self.id))
            .expect("a Vec takes every byte");
        Write::new(CLUSTER, FileKind::Cluster, &payload)
    }
}

impl LogFile {
    /// All of a log.
    pub(super) fn of(log: &Log, resting: Resting) -> Self {
        let delta =
            Delta { head: log.signed_head().clone(), added: log.records_since(None), rest: Rest::Removed(Vec::new()) };
        Self { delta, resting, gaps: Vec::new() }
    }

    pub(super) fn write(&self, name: String, cluster: ClusterId, own: bool) -> Write {
        let mut payload = Vec::new();
        minicbor::encode_with(self, &mut payload, &mut Verifier::of_own_store(cluster))
            .expect("a Vec takes every byte");
        Write::new(name, if own { FileKind::OwnLog } else { FileKind::ForeignLog }, &payload)
    }
}

/// The name of the file with what this node signed in `shard`.
pub(super) fn own_log_name(shard: &Shard) -> String {
    match shard {
        Shard::Cluster => "own-c".to_owned(),
        Shard::Network(id) => format!("own-n-{id}"),
    }
}

/// The name of the file with what `origin` signed in `shard`.
pub(super) fn foreign_log_name(shard: &Shard, origin: NodeId) -> String {
    match shard {
        Shard::Cluster => format!("log-c-{origin}"),
        Shard::Network(id) => format!("log-n-{origin}-{id}"),
    }
}

/// The name of the file with a network's secrets.
pub(super) fn secrets_name(network: &NetworkId) -> String {
    format!("secrets-{network}")
}

/// A network's secrets, newest first.
pub(super) fn write_secrets(network: &NetworkId, secrets: &[(Generation, NetworkSecret)]) -> Write {
    let listed: Vec<(Generation, SecretBytes)> =
        secrets.iter().map(|(generation, secret)| (*generation, SecretBytes(secret.clone()))).collect();
    write(secrets_name(network), FileKind::Secrets, &listed)
}

/// What [`write_secrets`] wrote.
pub(super) fn open_secrets(
    stored: &Stored,
    network: &NetworkId,
) -> Result<Vec<(Generation, NetworkSecret)>, StoreError> {
    let listed: Option<Vec<(Generation, SecretBytes)>> = open(stored, &secrets_name(network), FileKind::Secrets)?;
    Ok(listed.unwrap_or_default().into_iter().map(|(generation, secret)| (generation, secret.0)).collect())
}

/// The id in the cluster's file, before anything in it is believed.
pub(super) fn open_cluster_id(stored: &Stored) -> Result<Option<ClusterId>, StoreError> {
    #[derive(Decode)]
    #[cbor(map)]
    struct IdOnly {
        #[n(0)]
        id: ClusterId,
    }
    Ok(open::<IdOnly>(stored, CLUSTER, FileKind::Cluster)?.map(|file| file.id))
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;
    use crate::membership::body::{Body, Grant};
    use crate::membership::testing::{key, node};
    use crate::membership::{OwnLog, Pen, Role};
    use crate::model::{Boot, Rev};

    #[test]
    fn a_log_that_was_written_before_there_were_gaps_has_none() {
        #[derive(Encode)]
        #[cbor(map, context_bound = "CheckSignatures")]
        struct Before {
            #[n(0)]
            delta: Delta,
            #[n(1)]
            resting: Resting,
        }
        let cluster = ClusterId([9; 32]);
        let mut pen = Pen::new(key(1), cluster, Boot(1));
        let mut log = OwnLog::new(Shard::Cluster);
        log.put(&mut pen, &Body::Grant(Grant { node: node(2), role: Role::Host }), Rev(1));
        let delta = log.seal(&mut pen, &mut rand_chacha::ChaCha20Rng::seed_from_u64(1)).expect("changed");
        let before = Before { delta: log.whole(&delta), resting: Vec::new() };
        let mut verifier = Verifier::of_own_store(cluster);
        let mut payload = Vec::new();
        minicbor::encode_with(&before, &mut payload, &mut verifier).expect("a Vec takes every byte");
        let read: LogFile = minicbor::decode_with(&payload, &mut verifier).expect("reads");
        assert!(read.gaps.is_empty() && read.delta.head.stamp() == delta.head.stamp());
    }
}

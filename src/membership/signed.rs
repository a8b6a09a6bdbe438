//! Signatures: what is signed, by whom, and the types that prove it was checked.
//!
//! A [`Verified`] record or a [`SignedHead`] can be had in three ways only: decoded with a [`Verifier`] at hand, signed by
//! ourselves, or read back from this node's own store. So nothing unsigned can enter a log. Checking is a pure function
//! that may run on any thread.
//!
//! ```text
//! record:  ed25519("peerd record 1" | cluster id | bytes)       genesis: the cluster id is 32 zeros,
//! head:    ed25519("peerd head 1"   | cluster id | bytes)       because the id is the hash of what is signed
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use minicbor::bytes::{ByteArray, ByteSlice};
use minicbor::{Decode, Encode};

use super::body::Body;
use super::head::Head;
use super::record::{KEY_LEN_MAX, Kind, RECORD_LEN_MAX, Record, Shard, Slot, Stamp};
use super::scheme;
use crate::model::{ClusterId, NodeId};

const RECORD_DOMAIN: &[u8] = b"peerd record 1";
const HEAD_DOMAIN: &[u8] = b"peerd head 1";
const NO_CLUSTER: ClusterId = ClusterId([0; 32]);
/// How many verdicts are kept: 100 bytes each with the table.
const VERDICT_COUNT_MAX: usize = 65_536;
/// What stands around the signed bytes in a message: an array of three, a key of 32 bytes, a signature of 64, and their lengths.
const WIRE_OVERHEAD_LEN: usize = 1 + 34 + 5 + 66;
/// What a record takes in memory beside its bytes.
const RECORD_OVERHEAD_LEN: usize = 640;

/// The hash of a signed record or head: origin, bytes and signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SignedHash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl std::fmt::Debug for SignedHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..8]))
    }
}

/// A record with its origin's signature, whose signature was checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Verified(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    raw: Raw,
    record: Record,
    body: Body,
    hash: SignedHash,
}

/// A head with its origin's signature, whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    raw: Raw,
    head: Head,
    hash: SignedHash,
}

/// Something signed, as it travels: `[origin, bytes, signature]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Raw {
    origin: NodeId,
    bytes: Arc<[u8]>,
    signature: [u8; 64],
}

/// Checks signatures of one cluster. Cheap to clone; send it to another thread.
#[derive(Clone)]
pub struct Verifier {
    cluster: ClusterId,
    verdicts: Verdicts,
    own_store: bool,
}

/// Remembers what was found right, so that what arrives from many peers is checked once.
#[derive(Clone, Default)]
pub struct Verdicts(Arc<Mutex<HashSet<SignedHash>>>);

/// What decoding needs to make [`Verified`] values.
pub trait CheckSignatures {
    /// Whether the signature holds.
    fn holds(&self, domain: &'static [u8], cluster: ClusterId, signed: SignedRef<'_>) -> bool;
    /// The cluster that records must be signed for.
    fn cluster(&self) -> ClusterId;
}

/// The parts of something signed.
#[derive(Clone, Copy)]
pub struct SignedRef<'a> {
    pub origin: NodeId,
    pub bytes: &'a [u8],
    pub signature: &'a [u8; 64],
    pub hash: SignedHash,
}

impl Verifier {
    pub fn new(cluster: ClusterId, verdicts: Verdicts) -> Self {
        Self { cluster, verdicts, own_store: false }
    }

    /// For files that this node wrote itself after checking each signature, and that their checksum proves whole.
    pub fn of_own_store(cluster: ClusterId) -> Self {
        Self { cluster, verdicts: Verdicts::default(), own_store: true }
    }
}

impl CheckSignatures for Verifier {
    fn holds(&self, domain: &'static [u8], cluster: ClusterId, signed: SignedRef<'_>) -> bool {
        if self.own_store || self.verdicts.knows(signed.hash) {
            return true;
        }
        let message = [domain, &cluster.0, signed.bytes].concat();
        let holds = scheme::holds(signed.origin, &message, signed.signature);
        if holds {
            self.verdicts.add(signed.hash);
        }
        holds
    }

    fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

impl Verdicts {
    fn knows(&self, hash: SignedHash) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    fn add(&self, hash: SignedHash) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERDICT_COUNT_MAX {
            // Forgetting costs a check, never correctness.
            known.clear();
        }
        known.insert(hash);
    }
}

impl Raw {
    fn sign(key: &SigningKey, domain: &'static [u8], cluster: ClusterId, bytes: Vec<u8>) -> Self {
        let signature = scheme::sign(key, &[domain, &cluster.0, &bytes].concat());
        Self { origin: NodeId(key.verifying_key().to_bytes()), bytes: bytes.into(), signature }
    }

    /// The hash carries the cluster too, so that a verdict of one cluster is none of another.
    fn hash(&self, domain: &'static [u8], cluster: ClusterId) -> SignedHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain).update(&cluster.0).update(&self.origin.0).update(&self.signature).update(&self.bytes);
        SignedHash(*hasher.finalize().as_bytes())
    }

    fn check(
        &self,
        domain: &'static [u8],
        cluster: ClusterId,
        checker: &impl CheckSignatures,
    ) -> Result<SignedHash, minicbor::decode::Error> {
        let hash = self.hash(domain, cluster);
        let signed = SignedRef { origin: self.origin, bytes: &self.bytes, signature: &self.signature, hash };
        if checker.holds(domain, cluster, signed) {
            Ok(hash)
        } else {
            Err(minicbor::decode::Error::message("a signature does not hold"))
        }
    }
}

/// Decodes all of `bytes`: nothing may follow, else one record had many forms.
fn decode_whole<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode()?;
    if decoder.position() == bytes.len() {
        Ok(value)
    } else {
        Err(minicbor::decode::Error::message("bytes follow what was signed"))
    }
}

/// The cluster that a record is signed for.
fn signing_cluster(record: &Record, cluster: ClusterId) -> ClusterId {
    if record.kind == Kind::GENESIS && record.shard == Shard::Cluster { NO_CLUSTER } else { cluster }
}

impl Verified {
    /// Signs a record.
    pub fn sign(key: &SigningKey, cluster: ClusterId, record: Record) -> Self {
        let bytes = minicbor::to_vec(&record).expect("a Vec takes every byte");
        let cluster = signing_cluster(&record, cluster);
        let raw = Raw::sign(key, RECORD_DOMAIN, cluster, bytes);
        let hash = raw.hash(RECORD_DOMAIN, cluster);
        let body = Body::read(&record);
        Self(Arc::new(Parts { raw, record, body, hash }))
    }

    pub fn origin(&self) -> NodeId {
        self.0.raw.origin
    }

    pub fn record(&self) -> &Record {
        &self.0.record
    }

    pub fn body(&self) -> &Body {
        &self.0.body
    }

    pub fn stamp(&self) -> Stamp {
        self.0.record.stamp()
    }

    pub fn slot(&self) -> Slot {
        self.0.record.slot()
    }

    pub fn hash(&self) -> SignedHash {
        self.0.hash
    }

    /// How many bytes were signed.
    pub fn len(&self) -> usize {
        self.0.raw.bytes.len()
    }

    /// How many bytes of a message it takes at most: the signed bytes, who signed them, and the signature.
    pub fn wire_len(&self) -> usize {
        self.len() + WIRE_OVERHEAD_LEN
    }

    /// About how many bytes of memory it takes: the signed bytes, what was read of them, and its place in a log.
    pub fn memory_len(&self) -> usize {
        2 * self.len() + RECORD_OVERHEAD_LEN
    }

    /// Never: a record without a byte does not decode.
    pub fn is_empty(&self) -> bool {
        self.0.raw.bytes.is_empty()
    }

    /// The id of the cluster that this genesis record begins.
    pub fn genesis_cluster(&self) -> Option<ClusterId> {
        matches!(self.0.body, Body::Genesis(_)).then(|| ClusterId(*blake3::hash(&self.0.raw.bytes).as_bytes()))
    }
}

impl PartialEq for Verified {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Verified {}

impl SignedHead {
    /// Signs a head.
    pub fn sign(key: &SigningKey, cluster: ClusterId, head: Head) -> Self {
        let raw = Raw::sign(key, HEAD_DOMAIN, cluster, minicbor::to_vec(&head).expect("a Vec takes every byte"));
        let hash = raw.hash(HEAD_DOMAIN, cluster);
        Self { raw, head, hash }
    }

    pub fn origin(&self) -> NodeId {
        self.raw.origin
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn stamp(&self) -> Stamp {
        Stamp { boot: self.head.boot, seq: self.head.seq }
    }

    pub fn hash(&self) -> SignedHash {
        self.hash
    }
}

impl<C> Encode<C> for Raw {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(3)?.bytes(&self.origin.0)?.bytes(&self.bytes)?.bytes(&self.signature)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Raw {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        if d.array()? != Some(3) {
            return Err(minicbor::decode::Error::message("something signed has three parts"));
        }
        let origin = NodeId(ByteArray::decode(d, ctx)?.into());
        let bytes: &ByteSlice = d.decode()?;
        if bytes.len() > RECORD_LEN_MAX {
            return Err(minicbor::decode::Error::message("a record is too long"));
        }
        let bytes = Arc::from(&**bytes);
        let signature = ByteArray::decode(d, ctx)?.into();
        Ok(Self { origin, bytes, signature })
    }
}

impl<C> Encode<C> for Verified {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.0.raw.encode(e, ctx)
    }
}

impl<'b, C: CheckSignatures> Decode<'b, C> for Verified {
    fn decode(d: &mut minicbor::Decoder<'b>, checker: &mut C) -> Result<Self, minicbor::decode::Error> {
        let raw = Raw::decode(d, checker)?;
        let record: Record = decode_whole(&raw.bytes)?;
        if record.key.len() > KEY_LEN_MAX {
            return Err(minicbor::decode::Error::message("a record's key is too long"));
        }
        let hash = raw.check(RECORD_DOMAIN, signing_cluster(&record, checker.cluster()), checker)?;
        let body = Body::read(&record);
        Ok(Self(Arc::new(Parts { raw, record, body, hash })))
    }
}

impl<C> Encode<C> for SignedHead {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.raw.encode(e, ctx)
    }
}

impl<'b, C: CheckSignatures> Decode<'b, C> for SignedHead {
    fn decode(d: &mut minicbor::Decoder<'b>, checker: &mut C) -> Result<Self, minicbor::decode::Error> {
        let raw = Raw::decode(d, checker)?;
        let head = decode_whole(&raw.bytes)?;
        let hash = raw.check(HEAD_DOMAIN, checker.cluster(), checker)?;
        Ok(Self { raw, head, hash })
    }
}

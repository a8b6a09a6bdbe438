//! The head: one signature that says what a whole log holds, and so also what it holds no more.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::record::Shard;
use super::signed::SignedHash;
use crate::model::{Boot, Seq};

/// What a log holds at one moment of its origin.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Head {
    #[n(0)]
    pub shard: Shard,
    #[n(1)]
    pub boot: Boot,
    #[n(2)]
    pub seq: Seq,
    /// Tells two heads apart that clones of one node signed, even of the same set.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 8],
    #[n(4)]
    pub set: SetHash,
}

/// The BLAKE3 hash of the hashes of a log's records, sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SetHash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl SetHash {
    /// The hash of this set of records.
    pub fn of(records: impl IntoIterator<Item = SignedHash>) -> Self {
        let sorted: BTreeSet<SignedHash> = records.into_iter().collect();
        let mut hasher = blake3::Hasher::new_derive_key("peerd 1 log set");
        for hash in sorted {
            hasher.update(&hash.0);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

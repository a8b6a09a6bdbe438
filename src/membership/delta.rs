//! What changed in a log: the unit that is pushed and pulled, and applied whole or not at all.

use minicbor::{Decode, Encode};

use super::signed::{CheckSignatures, SignedHash, SignedHead, Verified};

/// The first bytes of a record's hash: enough to tell the records of one log apart, for its set hash decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ShortHash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 8]);

/// How many bytes of a message one takes.
const SHORT_HASH_WIRE_LEN: usize = 9;

impl From<SignedHash> for ShortHash {
    fn from(hash: SignedHash) -> Self {
        let mut short = [0; 8];
        short.copy_from_slice(&hash.0[..8]);
        Self(short)
    }
}

/// A newer head of a log with what it takes to get there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(context_bound = "CheckSignatures")]
pub struct Delta {
    #[n(0)]
    pub head: SignedHead,
    /// Records, upwards by stamp.
    #[n(1)]
    pub added: Vec<Verified>,
    #[n(2)]
    pub rest: Rest,
}

impl Delta {
    /// How many bytes of a message its records and what became of the others take at most.
    pub fn wire_len(&self) -> usize {
        let listed = match &self.rest {
            Rest::Removed(hashes) | Rest::Live(hashes) => hashes.len(),
            Rest::More => 0,
        };
        self.added.iter().map(Verified::wire_len).sum::<usize>() + listed * SHORT_HASH_WIRE_LEN
    }
}

/// What became of the records that a delta does not add.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Rest {
    /// All stay but these.
    #[n(0)]
    Removed(#[n(0)] Vec<ShortHash>),
    /// Exactly these stay; for a log whose older state the sender does not know.
    #[n(1)]
    Live(#[n(0)] Vec<ShortHash>),
    /// More records follow in another delta: keep these aside.
    #[n(2)]
    More,
}

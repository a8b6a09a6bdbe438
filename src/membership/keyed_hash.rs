//! A double of [`super::scheme`] for the simulator: a hash of the message, keyed with the signer's id.
//!
//! It holds for the bytes that were signed and for no others, and costs a hundredth. Whoever reads it can sign for anybody: it is here
//! with the feature `keyed-hash` only, which no program can be built with.

use ed25519_dalek::SigningKey;

use crate::model::NodeId;

pub(super) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    tag(&key.verifying_key().to_bytes(), message)
}

pub(super) fn holds(origin: NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    tag(&origin.0, message) == *signature
}

fn tag(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut tag = [0; 64];
    blake3::Hasher::new_keyed(key).update(message).finalize_xof().fill(&mut tag);
    tag
}

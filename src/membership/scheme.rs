//! The signature scheme: Ed25519 (RFC 8032), checked strictly. What is signed is for [`super::signed`] to say.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::model::NodeId;

pub(super) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}

pub(super) fn holds(origin: NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&origin.0) else { return false };
    key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

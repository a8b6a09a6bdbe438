//! Signatures, checked once more and by nothing of the machines': what they let through by mistake is not to be found right here.

use std::cell::RefCell;
use std::collections::HashSet;

use peerd::membership::{CheckSignatures, SignedRef};
use peerd::model::ClusterId;

/// What was found right: each signature is checked once.
#[derive(Default)]
pub struct Found(RefCell<HashSet<blake3::Hash>>);

pub struct Signatures<'a> {
    pub cluster: ClusterId,
    pub found: &'a Found,
}

impl CheckSignatures for Signatures<'_> {
    fn holds(&self, domain: &'static [u8], cluster: ClusterId, signed: SignedRef<'_>) -> bool {
        let message = [domain, &cluster.0, signed.bytes].concat();
        let name = blake3::hash(&[&signed.origin.0[..], signed.signature, &message].concat());
        if self.found.0.borrow().contains(&name) {
            return true;
        }
        let holds = holds(&signed.origin.0, &message, signed.signature);
        if holds {
            self.found.0.borrow_mut().insert(name);
        }
        holds
    }

    fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

#[cfg(not(feature = "keyed-hash"))]
fn holds(origin: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    use ed25519_dalek::{Signature, VerifyingKey};
    let Ok(key) = VerifyingKey::from_bytes(origin) else { return false };
    key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}

#[cfg(feature = "keyed-hash")]
fn holds(origin: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let mut tag = [0; 64];
    blake3::Hasher::new_keyed(origin).update(message).finalize_xof().fill(&mut tag);
    tag == *signature
}

//! Signatures, checked once more and by nothing of the machines': what they let through by mistake is not to be found right here.

use std::cell::RefCell;
use std::collections::HashSet;

use ed25519_dalek::{Signature, VerifyingKey};
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
        let Ok(key) = VerifyingKey::from_bytes(&signed.origin.0) else { return false };
        let holds = key.verify_strict(&message, &Signature::from_bytes(signed.signature)).is_ok();
        if holds {
            self.found.0.borrow_mut().insert(name);
        }
        holds
    }

    fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

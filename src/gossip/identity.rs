//! The node's own key: made once, kept in `node.key`, and never replaced silently.

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::store::{FileKind, StoreError, Stored, Write};
use crate::model::NodeId;

/// The file with the node's key.
pub const NODE_KEY: &str = "node.key";

/// The node's ed25519 key. It is also the key of its TLS certificate.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The stored key, or, in an empty state folder, a new one with the write that keeps it.
    ///
    /// # Errors
    /// The key is damaged, or it is missing while other state is there: a new identity would be another node.
    pub fn load_or_make(
        stored: &Stored,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Option<Write>), StoreError> {
        if let Some(payload) = stored.open(NODE_KEY, FileKind::NodeKey)? {
            let seed =
                Zeroizing::new(<[u8; 32]>::try_from(payload).map_err(|_| StoreError::Content(NODE_KEY.to_owned()))?);
            return Ok((Self(SigningKey::from_bytes(&seed)), None));
        }
        if !stored.is_empty() {
            return Err(StoreError::Missing(NODE_KEY.to_owned()));
        }
        let key = random_key(rng);
        let write = Write::new(NODE_KEY, FileKind::NodeKey, key.as_bytes());
        Ok((Self(key), Some(write)))
    }

    /// The identity with this key.
    pub fn from_key(key: SigningKey) -> Self {
        Self(key)
    }

    /// The public half.
    pub fn node(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// The secret half, for TLS and for signing records.
    pub fn key(&self) -> &SigningKey {
        &self.0
    }
}

/// A new ed25519 key.
pub(super) fn random_key(rng: &mut (impl RngCore + CryptoRng)) -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *seed);
    SigningKey::from_bytes(&seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn an_identity_is_made_once_and_never_replaced_silently() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut stored = Stored::empty();
        let (made, write) = Identity::load_or_make(&stored, &mut rng).expect("an empty folder");
        stored.apply(&write.expect("a new key is written"));
        let (loaded, write) = Identity::load_or_make(&stored, &mut rng).expect("the key is there");
        assert_eq!(loaded.node(), made.node());
        assert!(write.is_none());

        stored.apply(&Write::new("boot", FileKind::Boot, &[1]));
        stored.apply(&Write::remove(NODE_KEY));
        assert_eq!(Identity::load_or_make(&stored, &mut rng).err(), Some(StoreError::Missing(NODE_KEY.to_owned())));
    }
}

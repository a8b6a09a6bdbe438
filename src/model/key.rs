//! Keys. A secret never derives `Debug`, and is wiped when dropped.

use std::fmt;

use hkdf::Hkdf;
use minicbor::{Decode, Encode};
use rand_core::{CryptoRng, RngCore};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::id::Vni;

/// The WireGuard public key of an attachment: an X25519 point of full order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WgPublicKey([u8; 32]);

/// Bytes that are no usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// With such a key every party computes the same shared secret, so it authenticates nobody (RFC 7748 §6.1).
    #[error("the key is a low-order point")]
    LowOrder,
    #[error("a key has 32 bytes, not {0}")]
    Length(usize),
}

impl TryFrom<[u8; 32]> for WgPublicKey {
    type Error = KeyError;

    fn try_from(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let mut point = bytes;
        // X25519 takes no notice of the highest bit (RFC 7748 §5).
        point[31] &= 0x7f;
        if LOW_ORDER.contains(&point) { Err(KeyError::LowOrder) } else { Ok(Self(bytes)) }
    }
}

/// The points of low order of the curve and of its twist, as X25519 takes them: 0, 1, the two of order 8, and p - 1; and p and p + 1,
/// which are other forms of 0 and 1 (<https://cr.yp.to/ecdh.html#validate>). A record is read often: trying each key
/// took a third of the simulator's time.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    ends(0x01, 0x00, 0x00),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
];

const fn ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl TryFrom<&[u8]> for WgPublicKey {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        <[u8; 32]>::try_from(bytes).map_err(|_| KeyError::Length(bytes.len()))?.try_into()
    }
}

impl WgPublicKey {
    /// The 32 bytes as WireGuard's messages carry them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Base64, as WireGuard's own tools print keys.
impl fmt::Display for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::BASE64.encode(&self.0))
    }
}

impl fmt::Debug for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<WgPublicKey> for PublicKey {
    fn from(key: WgPublicKey) -> Self {
        Self::from(key.0)
    }
}

impl<C> Encode<C> for WgPublicKey {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for WgPublicKey {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::try_from(d.bytes()?).map_err(minicbor::decode::Error::custom)
    }
}

/// The WireGuard private key of an attachment. It lives in memory only.
#[derive(Clone)]
pub struct WgSecret(StaticSecret);

impl WgSecret {
    /// A new private key.
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        Self(StaticSecret::random_from_rng(rng))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> WgPublicKey {
        WgPublicKey(PublicKey::from(&self.0).to_bytes())
    }

    /// The key as boringtun takes it.
    pub fn reveal(&self) -> &StaticSecret {
        &self.0
    }
}

/// A network's secret of one generation: 256 bits that every granted node holds and no record carries.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct NetworkSecret([u8; 32]);

impl NetworkSecret {
    /// A new secret.
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// The secret that another member sent or the store kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the store and for a member with a grant.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the network's `Secret` record publishes: it proves a secret right and tells nothing of it.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key("peerd 1 network secret hash", &self.0)
    }

    /// The preshared key of every tunnel of `vni` in this generation.
    pub fn psk(&self, vni: Vni) -> Psk {
        let mut key = [0; 32];
        let info = [&b"peerd 1 psk "[..], &vni.get().to_be_bytes()].concat();
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(&info, &mut key)
            .expect("32 bytes are a valid length for HKDF-SHA256");
        Psk(key)
    }
}

/// WireGuard's preshared key of one network and generation.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Psk([u8; 32]);

impl Psk {
    /// The key as boringtun takes it.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn low_order_points_are_refused_and_their_neighbours_are_not() {
        // Scalars are clamped to multiples of the cofactor, so any scalar sends a low-order point to zero.
        let probe = StaticSecret::from([0x5a; 32]);
        let is_low = |bytes: [u8; 32]| !probe.diffie_hellman(&PublicKey::from(bytes)).was_contributory();
        for low in LOW_ORDER {
            for high_bit in [0, 0x80] {
                for first in 0..=u8::MAX {
                    let mut bytes = low;
                    (bytes[0], bytes[31]) = (first, low[31] | high_bit);
                    assert_eq!(WgPublicKey::try_from(bytes).is_err(), is_low(bytes), "{bytes:?}");
                }
                let mut listed = low;
                listed[31] |= high_bit;
                assert_eq!(WgPublicKey::try_from(listed), Err(KeyError::LowOrder));
            }
        }
        let good = WgSecret::random(&mut rand_chacha::ChaCha20Rng::seed_from_u64(3)).public();
        assert_eq!(WgPublicKey::try_from(*good.as_bytes()), Ok(good));
        assert_eq!(WgPublicKey::try_from(&[1u8; 31][..]), Err(KeyError::Length(31)));
    }

    #[test]
    fn a_psk_belongs_to_one_network_and_one_secret() {
        let vni = |n| Vni::try_from(n).expect("a VNI");
        let (a, b) = (NetworkSecret::from_bytes([1; 32]), NetworkSecret::from_bytes([2; 32]));
        assert!(a.psk(vni(1)) == a.psk(vni(1)));
        assert!(a.psk(vni(1)) != a.psk(vni(2)));
        assert!(a.psk(vni(1)) != b.psk(vni(1)));
        assert_ne!(a.hash(), *a.reveal());
    }
}

//! Identities and counters.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use rand_core::RngCore;

use super::label::{Label, LabelError};

/// A VXLAN network identifier (RFC 7348 §5): 24 bits, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that is no [`Vni`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no VNI: they are 1 to 16777215")]
pub struct VniError(pub u32);

impl Vni {
    /// The `counter`-th network of the signer with this number: both together make a VNI unique without asking anyone.
    ///
    /// `signer` 0 is given to nobody, so the result is never 0.
    pub fn of_signer(signer: u8, counter: u16) -> Result<Self, VniError> {
        if signer == 0 {
            Err(VniError(u32::from(counter)))
        } else {
            Ok(Self(u32::from(signer) << 16 | u32::from(counter)))
        }
    }

    /// The number of the signer that made this VNI.
    pub fn signer(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The value, below 2^24.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniError;

    fn try_from(value: u32) -> Result<Self, VniError> {
        if value == 0 || value >= 1 << 24 { Err(VniError(value)) } else { Ok(Self(value)) }
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<C> Encode<C> for Vni {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u32(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Vni {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::try_from(d.u32()?).map_err(minicbor::decode::Error::custom)
    }
}

/// Counts the rotations of a network's secret. It travels in the VNI header, so it has 8 bits and wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Generation(#[n(0)] pub u8);

/// Counts a node's starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Boot(#[n(0)] pub u64);

/// Counts what a node signed in one shard since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Seq(#[n(0)] pub u64);

/// Orders the writes of several nodes to one definition: 1 + the highest seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Rev(#[n(0)] pub u64);

impl Rev {
    /// The rev of the next write. After the last one there is no later: then the writers' ids decide.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: {1} hexadecimal digits are")]
pub struct IdError(pub String, pub usize);

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| IdError(text.chars().take(80).collect(), $len * 2))
            }
        }
    };
}

bytes_id! {
    /// A node: its ed25519 public key, which is its QUIC identity as well.
    NodeId, 32
}
bytes_id! {
    /// A cluster: the BLAKE3 hash of its genesis record.
    ClusterId, 32
}
bytes_id! {
    /// A container (or gateway, or stock client) on a network: random, made at attach.
    AttachmentId, 8
}

impl AttachmentId {
    /// A new id.
    pub fn random(rng: &mut impl RngCore) -> Self {
        let mut bytes = [0; 8];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

/// A private network: `pn-UUID`, a DNS label as it stands in names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct NetworkId(#[n(0)] pub Label);

impl NetworkId {
    /// A new id: `pn-` and a version 4 UUID (RFC 9562 §5.4).
    pub fn random(rng: &mut impl RngCore) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self::from_random_bytes(bytes)
    }

    /// The id that these bytes make: a version 4 UUID keeps 122 of their bits.
    pub fn from_random_bytes(mut b: [u8; 16]) -> Self {
        b[6] = b[6] & 0x0f | 0x40;
        b[8] = b[8] & 0x3f | 0x80;
        let hex = data_encoding::HEXLOWER.encode(&b);
        let text = format!("pn-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Self(text.parse().expect("hexadecimal digits and hyphens are a label"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for NetworkId {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn a_vni_has_24_bits_and_is_never_0() {
        assert_eq!(Vni::try_from(0), Err(VniError(0)));
        assert_eq!(Vni::try_from(1 << 24), Err(VniError(1 << 24)));
        assert_eq!(Vni::try_from(0xff_ffff).map(Vni::get), Ok(0xff_ffff));
    }

    #[test]
    fn vnis_of_two_signers_never_meet() {
        assert!(Vni::of_signer(0, 7).is_err());
        let a = Vni::of_signer(1, u16::MAX).expect("a VNI");
        let b = Vni::of_signer(2, 0).expect("a VNI");
        assert_eq!(a.get() + 1, b.get());
        assert_eq!((a.signer(), b.signer()), (1, 2));
    }

    #[test]
    fn a_network_id_is_a_version_4_uuid() {
        let id = NetworkId::random(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
        assert_eq!(id.as_str().len(), 39);
        assert_eq!(&id.as_str()[..3], "pn-");
        assert_eq!(&id.as_str()[17..18], "4");
        assert!("89ab".contains(&id.as_str()[22..23]));
    }

    #[test]
    fn ids_read_what_they_print() {
        let id = AttachmentId([1, 2, 3, 4, 5, 6, 7, 0xff]);
        assert_eq!(id.to_string(), "01020304050607ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("0102".parse::<AttachmentId>().is_err());
    }
}

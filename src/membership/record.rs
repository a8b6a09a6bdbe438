//! The record: one statement of one node, in one shard.

use minicbor::data::Type;
use minicbor::{Decode, Encode};

use crate::model::{Boot, NetworkId, Rev, Seq};

/// The longest record, as the bytes that are signed.
pub const RECORD_LEN_MAX: usize = 64 * 1024;
/// The longest key of a record.
pub const KEY_LEN_MAX: usize = 64;

/// Who gets to see a record: every node, or the nodes granted one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shard {
    Cluster,
    Network(NetworkId),
}

impl Shard {
    /// The network, if the shard is one's.
    pub fn network(&self) -> Option<&NetworkId> {
        match self {
            Self::Cluster => None,
            Self::Network(id) => Some(id),
        }
    }
}

/// On the wire: 0 is the cluster, a text is a network's id.
impl<C> Encode<C> for Shard {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match self {
            Self::Cluster => e.u8(0)?.ok(),
            Self::Network(id) => id.encode(e, ctx),
        }
    }
}

impl<'b, C> Decode<'b, C> for Shard {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        if d.datatype()? == Type::String {
            return NetworkId::decode(d, ctx).map(Self::Network);
        }
        match d.u8()? {
            0 => Ok(Self::Cluster),
            _ => Err(minicbor::decode::Error::message("an unknown shard")),
        }
    }
}

/// What a record states. The order of the numbers is the order in which a sync carries them: what others depend on
/// comes first. Numbers that this version does not know are kept and forwarded unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Kind(#[n(0)] pub u16);

impl Kind {
    pub const REVOCATION: Self = Self(1);
    pub const GENESIS: Self = Self(2);
    pub const SIGNER: Self = Self(3);
    pub const NODE_CERT: Self = Self(4);
    pub const NODE: Self = Self(5);
    pub const SUCCESSION: Self = Self(6);
    pub const NETWORK_DEF: Self = Self(16);
    pub const GRANT: Self = Self(17);
    pub const UNGRANT: Self = Self(18);
    pub const SHARE: Self = Self(19);
    pub const RELEASE: Self = Self(20);
    pub const SECRET: Self = Self(21);
    pub const CONTAINER: Self = Self(22);
    pub const SERVICES: Self = Self(23);
    pub const DEPLOY: Self = Self(24);
    pub const ACK: Self = Self(25);

    /// Whether no writer ever ends what it says of this kind: where it is missing from a later log of the same writer, that log was
    /// begun without knowing of it.
    pub fn is_final(self) -> bool {
        let of_the_cluster = [Self::REVOCATION, Self::GENESIS, Self::SIGNER, Self::NODE_CERT, Self::SUCCESSION];
        of_the_cluster.contains(&self) || self == Self::NETWORK_DEF
    }
}

/// When a node signed something: orders everything it signs in one shard, and no two things have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Stamp {
    #[n(0)]
    pub boot: Boot,
    #[n(1)]
    pub seq: Seq,
}

/// What names a record within a log: a later record of the same slot takes its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub kind: Kind,
    pub key: Box<[u8]>,
}

impl Slot {
    pub fn new(kind: Kind, key: &[u8]) -> Self {
        Self { kind, key: key.into() }
    }
}

/// One statement, before it is signed and after it is read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    #[n(0)]
    pub shard: Shard,
    #[n(1)]
    pub kind: Kind,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    #[n(3)]
    pub boot: Boot,
    #[n(4)]
    pub seq: Seq,
    #[n(5)]
    pub rev: Rev,
    #[cbor(n(6), with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

impl Record {
    pub fn stamp(&self) -> Stamp {
        Stamp { boot: self.boot, seq: self.seq }
    }

    pub fn slot(&self) -> Slot {
        Slot::new(self.kind, &self.key)
    }
}

//! The messages between nodes.
//!
//! ```text
//! message = [number, field...]      CBOR; a push or a request or a reply, at most 1 MiB
//! ```
//! Decoding checks every signature, so a [`Message`] that exists holds verified records only. Its cost is for the thread
//! that the shell chooses; see [`MessageVerifier`].

use minicbor::{Decode, Encode};

use super::token::{InviteId, Proof};
use crate::membership::{
    CheckSignatures, Delta, SetHash, Shard, SignedHash, SignedRef, Stamp, Verdicts, Verified, Verifier,
};
use crate::model::{Boot, ClusterId, Generation, Label, NetworkId, NetworkSecret, NodeId};

/// No message is longer.
pub const MESSAGE_LEN_MAX: usize = 1024 * 1024;
/// The first message of a connection is no longer: its sender may be anybody.
pub const STRANGER_LEN_MAX: usize = 4096;
/// How many bytes of records go into one message.
pub(super) const RECORDS_LEN_MAX: usize = 512 * 1024;
/// The one version of the protocol that this build speaks.
pub(super) const PROTOCOL: u16 = 1;

/// A message whose signatures were checked.
pub struct VerifiedMessage(pub(super) Message);

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Not CBOR, not of a known form, or with a signature that does not hold.
    #[error("the message does not read: {0}")]
    Form(String),
}

/// Reads messages on any thread. Cheap to clone.
#[derive(Clone)]
pub struct MessageVerifier {
    pub(super) cluster: Option<ClusterId>,
    pub(super) verdicts: Verdicts,
}

/// What [`Hello`] is for: the first message each way on every connection between members.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map, context_bound = "CheckSignatures")]
pub(super) struct Hello {
    #[n(0)]
    pub cluster: ClusterId,
    #[n(1)]
    pub protocol_min: u16,
    #[n(2)]
    pub protocol_max: u16,
    /// The records that make the sender a member: its signer's appointment and its own certificate.
    #[n(3)]
    pub chain: Vec<Verified>,
    #[n(4)]
    pub boot: Boot,
    #[cbor(n(5), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// A stranger asks to be admitted.
#[derive(Clone, Encode, Decode)]
#[cbor(map)]
pub(super) struct Join {
    #[n(0)]
    pub invite: InviteId,
    #[n(1)]
    pub proof: Proof,
    #[n(2)]
    pub name: Label,
}

/// Why a stranger is not admitted. All but the first are said only to who proved to have the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum JoinRefusal {
    #[n(0)]
    Unknown,
    #[n(1)]
    Used,
    #[n(2)]
    Expired,
    #[n(3)]
    NameTaken,
    #[n(4)]
    Expelled,
    /// The signer's disk refuses; the token is as good as it was.
    #[n(5)]
    NotStored,
    /// The signer's log takes no node more; another signer's does.
    #[n(6)]
    Full,
}

/// A stranger is admitted.
#[derive(Debug, Clone, Encode, Decode)]
#[cbor(map, context_bound = "CheckSignatures")]
pub(super) struct Admission {
    #[n(0)]
    pub genesis: Verified,
    #[n(1)]
    pub signer: Verified,
    #[n(2)]
    pub cert: Verified,
    /// The joiner's own appointment, if the invite makes it a signer.
    #[n(3)]
    pub appointment: Option<Verified>,
    /// The networks that the invite grants: the join is done when they are here.
    #[n(4)]
    pub networks: Option<Vec<NetworkId>>,
}

/// What one log of a shard is at.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct LogState {
    #[n(0)]
    pub origin: NodeId,
    #[n(1)]
    pub stamp: Stamp,
    /// Names the head itself, so that two heads of one stamp are noticed.
    #[n(2)]
    pub head: SignedHash,
}

/// The logs of one shard.
#[derive(Debug, Clone, Encode, Decode)]
pub(super) struct ShardState {
    #[n(0)]
    pub shard: Shard,
    #[n(1)]
    pub logs: Vec<LogState>,
}

/// What became of a request for addresses.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum SpaceAnswer {
    /// A share is on its way in the home's log.
    #[n(0)]
    Given,
    /// Nothing is free here; holders with free addresses were asked for them.
    #[n(1)]
    Asked,
    /// All that is free is held by nodes that this home cannot reach.
    #[n(2)]
    Unreachable(#[n(0)] Vec<NodeId>),
    /// No address is free; the first to be free has rested in so many seconds.
    #[n(3)]
    Full(#[n(0)] Option<u64>),
}

#[derive(Clone, Encode, Decode)]
#[cbor(context_bound = "CheckSignatures")]
pub(super) enum Message {
    // Exchanges that open a connection.
    #[n(0)]
    Hello(#[n(0)] Hello),
    #[n(1)]
    Join(#[n(0)] Join),
    #[n(2)]
    Admitted(#[n(0)] Box<Admission>),
    #[n(3)]
    JoinRefused(#[n(0)] JoinRefusal),
    #[n(4)]
    HelloRefused(#[n(0)] HelloRefusal),

    // Pushes.
    /// Revocations go ahead of everything.
    #[n(10)]
    Revocations(#[n(0)] Vec<Verified>),
    #[n(11)]
    Deltas(#[n(0)] Vec<Delta>),
    /// To a grantee that does not hold the network yet: its definition and the grants that lead to it.
    #[n(12)]
    Offer(#[n(0)] NetworkId, #[n(1)] Vec<Verified>),

    // Exchanges: a request, then its replies.
    /// One hash over all that the two share.
    #[n(20)]
    Sync(#[n(0)] SetHash),
    #[n(21)]
    Same,
    #[n(22)]
    Shards(#[n(0)] Vec<(Shard, SetHash)>),

    #[n(23)]
    Heads(#[n(0)] Shard),
    #[n(24)]
    State(#[n(0)] ShardState),

    #[n(25)]
    Pull {
        #[n(0)]
        shard: Shard,
        #[n(1)]
        origin: NodeId,
        #[n(2)]
        since: Option<Stamp>,
    },
    #[n(26)]
    Pulled(#[n(0)] Box<Delta>),

    #[n(27)]
    AskSecret(#[n(0)] NetworkId, #[n(1)] Generation),
    #[n(28)]
    Secret(#[n(0)] SecretBytes),

    #[n(29)]
    AskSpace {
        #[n(0)]
        network: NetworkId,
        #[n(1)]
        extras: bool,
        #[n(2)]
        count: u32,
        /// Whether somebody waits, so that others' spare addresses are worth asking for.
        #[n(3)]
        urgent: bool,
    },
    #[n(30)]
    Space(#[n(0)] SpaceAnswer),
    /// A home asks a holder to release what it can spare.
    #[n(31)]
    Reclaim {
        #[n(0)]
        network: NetworkId,
        #[n(1)]
        extras: bool,
        #[n(2)]
        count: u32,
        /// Whether somebody waits, so that the holder keeps nothing back.
        #[n(3)]
        urgent: bool,
    },
    #[n(32)]
    Reclaimed {
        #[n(0)]
        count: u32,
        /// In how many seconds the first of the holder's resting addresses is free, if it gave none.
        #[n(1)]
        free_in_s: Option<u64>,
    },

    /// Deltas came as a request: all that they tell is on this node's disk.
    #[n(33)]
    Kept,

    /// The answer to whatever is unknown, forbidden, or about a network the asker is not granted: always these bytes.
    #[n(40)]
    Unknown,
}

/// Why a Hello is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum HelloRefusal {
    #[n(0)]
    Stranger,
    #[n(1)]
    OtherCluster,
    #[n(2)]
    Protocol,
    #[n(3)]
    Expelled,
}

/// A network's secret in a message.
#[derive(Clone)]
pub(super) struct SecretBytes(pub NetworkSecret);

impl<C> Encode<C> for SecretBytes {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(self.0.reveal())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for SecretBytes {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d.bytes()?.try_into().map_err(|_| minicbor::decode::Error::message("a secret has 32 bytes"))?;
        Ok(Self(NetworkSecret::from_bytes(bytes)))
    }
}

impl Message {
    pub(super) fn to_bytes(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(256));
        minicbor::encode_with(self, &mut *bytes, &mut Checker(None)).expect("a Vec takes every byte");
        bytes
    }
}

impl MessageVerifier {
    /// Reads a message and checks every signature in it. Pure but for remembering verdicts; takes about 30 us a signature.
    ///
    /// # Errors
    /// The bytes are no message; whoever sent them is broken or hostile.
    pub fn verify(&self, bytes: &[u8]) -> Result<VerifiedMessage, MessageError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let mut checker = self.checker();
        let mut decoder = minicbor::Decoder::new(bytes);
        let message = decoder.decode_with(&mut checker).map_err(|error| MessageError::Form(error.to_string()))?;
        if decoder.position() != bytes.len() {
            return Err(MessageError::Form("bytes follow the message".to_owned()));
        }
        Ok(VerifiedMessage(message))
    }

    fn checker(&self) -> Checker {
        Checker(self.cluster.map(|cluster| Verifier::new(cluster, self.verdicts.clone())))
    }
}

/// Outside a cluster no signature holds.
struct Checker(Option<Verifier>);

impl CheckSignatures for Checker {
    fn holds(&self, domain: &'static [u8], cluster: ClusterId, signed: SignedRef<'_>) -> bool {
        self.0.as_ref().is_some_and(|verifier| verifier.holds(domain, cluster, signed))
    }

    fn cluster(&self) -> ClusterId {
        self.0.as_ref().map_or(ClusterId([0; 32]), CheckSignatures::cluster)
    }
}

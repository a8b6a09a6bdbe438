//! What the records of each kind say.
//!
//! Bodies are CBOR maps with integer keys: a later version adds keys, and this one leaves those it does not know unread.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::head::SetHash;
use super::record::{Kind, Record};
use super::view::{Role, State};
use crate::model::{AppDef, AttachmentId, Generation, Ipv4Range, Label, NetworkId, NodeId, Rev, Vni, WgPublicKey};

/// How many endpoints of a node are read.
pub const ENDPOINT_COUNT_MAX: usize = 16;
const VERSION_LEN_MAX: usize = 128;

/// A record's body, read once when its signature is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Revocation(Revocation),
    Genesis(Genesis),
    Signer(Signer),
    NodeCert(NodeCert),
    Node(NodeEndpoints),
    Succession(Succession),
    NetworkDef(NetworkDef),
    Grant(Grant),
    Ungrant(Ungrant),
    Share(Share),
    Release(Release),
    Secret(SecretHash),
    Container(ContainerBody),
    Services(Services),
    Deploy(Deploy),
    Ack(Ack),
    /// Of a kind that this version does not know or does not read, or not of its kind's form: kept, forwarded, and counted for nothing.
    Unread,
}

/// The node `node` is expelled, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Revocation {
    #[n(0)]
    pub node: NodeId,
}

/// The first record of a cluster, signed by its root key. The hash of its signed bytes is the cluster's id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Genesis {
    /// Two clusters of one root key differ by it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    #[n(1)]
    pub created_unix_s: u64,
}

/// The root appoints a signer and gives it a number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Signer {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub number: u8,
}

/// A signer admits a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NodeCert {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub name: Label,
}

/// Where a node listens, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NodeEndpoints {
    #[n(0)]
    pub endpoints: Vec<SocketAddr>,
}

/// The root takes over what the signer `node` certified: the root's own certificates stand for its, in the same log, and none
/// of that signer's counts any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Succession {
    #[n(0)]
    pub node: NodeId,
}

/// A network exists. Its id follows from the creator, the VNI and the nonce, so nobody else can define it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NetworkDef {
    #[n(0)]
    pub vni: Vni,
    #[n(1)]
    pub name: Option<Label>,
    #[n(2)]
    pub internal: bool,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

impl NetworkDef {
    /// The id of the network that `creator` defines so. Without the nonce, which only members know, nobody can go from
    /// the VNI that is seen on the wire to the id.
    pub fn id(&self, creator: NodeId) -> NetworkId {
        let mut hasher = blake3::Hasher::new_derive_key("peerd 1 network id");
        hasher.update(&creator.0).update(&self.vni.get().to_be_bytes()).update(&self.nonce);
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        NetworkId::from_random_bytes(bytes)
    }
}

/// An owner lets a node host attachments of the network.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Grant {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub role: Role,
}

/// An owner takes the grant back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ungrant {
    #[n(0)]
    pub node: NodeId,
}

/// A home gives a range of addresses to a holder, or, with `home`, makes it the home of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Share {
    #[n(0)]
    pub range: Ipv4Range,
    #[n(1)]
    pub holder: NodeId,
    #[n(2)]
    pub home: bool,
}

/// A holder gives addresses back that rest no more. It speaks of one share record of one home, and counts only as long
/// as that very record lives: what is shared again later is held again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Release {
    #[n(0)]
    pub range: Ipv4Range,
    #[n(1)]
    pub home: NodeId,
    #[n(2)]
    pub share: super::record::Stamp,
}

/// An owner publishes what the network's secret of one generation hashes to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SecretHash {
    #[n(0)]
    pub generation: Generation,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub hash: [u8; 32],
    /// Who is kept out, as [`super::removal_mark`] says: nodes that held the secret before.
    #[n(2)]
    pub without: Option<SetHash>,
}

/// A granted node knows who is removed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ack {
    /// As [`super::removal_mark`] says.
    #[n(0)]
    pub removed: SetHash,
}

/// A container (or gateway, or stock client) is attached.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ContainerBody {
    #[n(0)]
    pub id: AttachmentId,
    #[n(1)]
    pub address: Ipv4Addr,
    #[n(2)]
    pub app: Label,
    #[n(3)]
    pub kind: Label,
    #[n(4)]
    pub number: u32,
    #[n(5)]
    pub version: Option<String>,
    #[n(6)]
    pub service: Label,
    #[n(7)]
    pub public_key: WgPublicKey,
    #[n(8)]
    pub state: State,
    /// The server's name, if the container is a database: `service` is its type then.
    #[n(9)]
    pub server: Option<Label>,
}

/// An owner defines an application, as its service file does, or takes the definition back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Services {
    #[n(0)]
    pub app: Label,
    /// Shared with every view that is derived from it.
    #[cbor(n(1), with = "shared", has_nil)]
    pub def: Option<Arc<AppDef>>,
    /// When the application was defined first: later than every definition in the network that its owner had seen. Whoever defines
    /// it anew keeps it, so that changing a definition takes nobody's place. Without it, it is the record's own rev.
    #[n(2)]
    pub since: Option<Rev>,
}

/// An owner declares a version of an application live. The revs of an application's deploys, whatever the version, are
/// their order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Deploy {
    #[n(0)]
    pub app: Label,
    #[n(1)]
    pub version: String,
}

/// Whether a text can be the version of a container: 1 to 128 bytes, none of them a control character.
pub fn is_version(text: &str) -> bool {
    (1..=VERSION_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control)
}

impl Body {
    /// Reads the body of a record, and checks that its key is the one its content gives it.
    pub fn read(record: &Record) -> Self {
        let body = &record.body[..];
        let read = match record.kind {
            Kind::REVOCATION => minicbor::decode(body).map(Self::Revocation),
            Kind::GENESIS => minicbor::decode(body).map(Self::Genesis),
            Kind::SIGNER => minicbor::decode(body).map(Self::Signer),
            Kind::NODE_CERT => minicbor::decode(body).map(Self::NodeCert),
            Kind::NODE => minicbor::decode(body).map(Self::Node),
            Kind::SUCCESSION => minicbor::decode(body).map(Self::Succession),
            Kind::NETWORK_DEF => minicbor::decode(body).map(Self::NetworkDef),
            Kind::GRANT => minicbor::decode(body).map(Self::Grant),
            Kind::UNGRANT => minicbor::decode(body).map(Self::Ungrant),
            Kind::SHARE => minicbor::decode(body).map(Self::Share),
            Kind::RELEASE => minicbor::decode(body).map(Self::Release),
            Kind::SECRET => minicbor::decode(body).map(Self::Secret),
            Kind::CONTAINER => minicbor::decode(body).map(Self::Container),
            Kind::SERVICES => minicbor::decode(body).map(Self::Services),
            Kind::DEPLOY => minicbor::decode(body).map(Self::Deploy),
            Kind::ACK => minicbor::decode(body).map(Self::Ack),
            _ => Ok(Self::Unread),
        };
        read.ok().filter(|read| read.is_sound() && read.key() == record.key).unwrap_or(Self::Unread)
    }

    fn is_sound(&self) -> bool {
        match self {
            Self::Signer(signer) => signer.number != 0,
            Self::Node(node) => node.endpoints.len() <= ENDPOINT_COUNT_MAX,
            Self::Container(c) => c.number != 0 && c.version.as_deref().is_none_or(is_version),
            Self::Services(s) => s.def.as_ref().is_none_or(|def| def.id == s.app && def.is_sound()),
            Self::Deploy(deploy) => is_version(&deploy.version),
            _ => true,
        }
    }

    /// The kind of record that says this.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Revocation(_) => Kind::REVOCATION,
            Self::Genesis(_) => Kind::GENESIS,
            Self::Signer(_) => Kind::SIGNER,
            Self::NodeCert(_) => Kind::NODE_CERT,
            Self::Node(_) => Kind::NODE,
            Self::Succession(_) => Kind::SUCCESSION,
            Self::NetworkDef(_) => Kind::NETWORK_DEF,
            Self::Grant(_) => Kind::GRANT,
            Self::Ungrant(_) => Kind::UNGRANT,
            Self::Share(_) => Kind::SHARE,
            Self::Release(_) => Kind::RELEASE,
            Self::Secret(_) => Kind::SECRET,
            Self::Container(_) => Kind::CONTAINER,
            Self::Services(_) => Kind::SERVICES,
            Self::Deploy(_) => Kind::DEPLOY,
            Self::Ack(_) => Kind::ACK,
            Self::Unread => Kind(0),
        }
    }

    /// The key of the record that says this.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Self::Revocation(Revocation { node })
            | Self::Signer(Signer { node, .. })
            | Self::NodeCert(NodeCert { node, .. })
            | Self::Succession(Succession { node })
            | Self::Grant(Grant { node, .. })
            | Self::Ungrant(Ungrant { node }) => node.0.to_vec(),
            Self::Share(Share { range, .. }) => range_key(*range),
            Self::Release(Release { range, .. }) => range_key(*range),
            Self::Container(container) => container.id.0.to_vec(),
            Self::Services(services) => services.app.as_str().as_bytes().to_vec(),
            Self::Deploy(deploy) => deploy_key(&deploy.app, &deploy.version),
            Self::Genesis(_) | Self::Node(_) | Self::NetworkDef(_) | Self::Secret(_) | Self::Ack(_) | Self::Unread => {
                Vec::new()
            }
        }
    }

    /// The bytes of the body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = match self {
            Self::Revocation(b) => minicbor::to_vec(b),
            Self::Genesis(b) => minicbor::to_vec(b),
            Self::Signer(b) => minicbor::to_vec(b),
            Self::NodeCert(b) => minicbor::to_vec(b),
            Self::Node(b) => minicbor::to_vec(b),
            Self::Succession(b) => minicbor::to_vec(b),
            Self::NetworkDef(b) => minicbor::to_vec(b),
            Self::Grant(b) => minicbor::to_vec(b),
            Self::Ungrant(b) => minicbor::to_vec(b),
            Self::Share(b) => minicbor::to_vec(b),
            Self::Release(b) => minicbor::to_vec(b),
            Self::Secret(b) => minicbor::to_vec(b),
            Self::Container(b) => minicbor::to_vec(b),
            Self::Services(b) => minicbor::to_vec(b),
            Self::Deploy(b) => minicbor::to_vec(b),
            Self::Ack(b) => minicbor::to_vec(b),
            Self::Unread => Ok(Vec::new()),
        };
        bytes.expect("a Vec takes every byte")
    }
}

/// A shared value goes as the value itself, and none is left out.
mod shared {
    use std::sync::Arc;

    use minicbor::decode::{self, Decode, Decoder};
    use minicbor::encode::{self, Encode, Encoder, Write};

    pub(super) fn encode<C, T: Encode<C>, W: Write>(
        value: &Option<Arc<T>>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        value.as_deref().encode(e, ctx)
    }

    pub(super) fn decode<'b, C, T: Decode<'b, C>>(
        d: &mut Decoder<'b>,
        ctx: &mut C,
    ) -> Result<Option<Arc<T>>, decode::Error> {
        Ok(Option::<T>::decode(d, ctx)?.map(Arc::new))
    }

    pub(super) fn nil<T>() -> Option<Option<Arc<T>>> {
        Some(None)
    }

    pub(super) fn is_nil<T>(value: &Option<Arc<T>>) -> bool {
        value.is_none()
    }
}

/// The key of what is said about a range.
pub fn range_key(range: Ipv4Range) -> Vec<u8> {
    [range.first().octets(), range.last().octets()].concat()
}

/// The key of what is said about a version of an application: the two may be longer than a key.
pub fn deploy_key(app: &Label, version: &str) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key("peerd 1 deploy");
    // No label has a NUL.
    hasher.update(app.as_str().as_bytes()).update(&[0]).update(version.as_bytes());
    hasher.finalize().as_bytes().to_vec()
}

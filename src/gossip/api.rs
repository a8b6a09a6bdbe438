//! What goes into the machine and what comes out of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::gate::HeadMark;
use super::store::{StoreError, Write};
use crate::membership::{Membership, State};
use crate::model::{AttachmentId, ClusterId, Generation, Label, NetworkId, NetworkSecret, NodeId, Vni, WgPublicKey};

/// A connection to a node, numbered by the shell; no number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// An exchange. The machine numbers those it opens, the shell those that a peer opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// A set of files to be written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// A local operation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Config {
    pub name: Label,
    /// Where it listens, best first.
    pub endpoints: Vec<SocketAddr>,
    /// The marks that were kept beside the disk: of what was last written, and of what was being written.
    pub kept: Vec<HeadMark>,
}

/// What the shell is to do next.
pub enum Output {
    /// Send `bytes` on a uni stream of its own.
    Push { connection: ConnectionId, bytes: Arc<[u8]> },
    /// Open a bi stream, send `bytes`, and hand its answer to [`super::Gossip::handle_reply`].
    Request { connection: ConnectionId, exchange: ExchangeId, bytes: Arc<[u8]> },
    /// Answer a peer's exchange. The bytes may hold a network's secret.
    Reply { connection: ConnectionId, exchange: ExchangeId, bytes: Zeroizing<Vec<u8>> },
    /// Send `bytes` in a QUIC datagram, which may be lost.
    Datagram { connection: ConnectionId, bytes: Vec<u8> },
    /// Open a connection to `node` at any of these addresses; refuse whoever proves another key.
    Dial { node: NodeId, endpoints: Vec<SocketAddr> },
    /// End a connection, after what was sent on it has left.
    Close { connection: ConnectionId, reason: &'static str },
    /// Write these files, all or none where the disk allows, in this order, and then call `handle_persisted`.
    Persist {
        token: PersistToken,
        writes: Vec<Write>,
        /// The mark of the disk once these are written: to be kept beside it, beforehand together with the one before.
        mark: HeadMark,
    },
    /// The cluster changed as this node sees it.
    MembershipChanged(Arc<Membership>),
    /// The secrets of a network that this node holds, newest generation first; empty when it lost the network.
    NetworkKeys { vni: Vni, generations: Vec<(Generation, NetworkSecret)> },
    /// A longer operation got this far.
    Progress(OperationId, JoinStep),
    /// An operation is over. What it wrote is on disk and in [`super::Gossip::membership`].
    Done(OperationId, Result<Done, OperationError>),
}

/// How far a join is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinStep {
    /// The signer's key is the one that the token names.
    Dialled,
    /// The signer took the token and certified this node.
    Authenticated,
    /// The records of the cluster are here.
    Synced,
}

/// What an operation brought.
#[derive(Clone)]
pub enum Done {
    Initialised(ClusterId),
    NetworkCreated { id: NetworkId, vni: Vni },
    Granted,
    Ungranted,
    Expelled,
    Invited(Invited),
    Joined(ClusterId),
    Left,
    Attached(Attached),
    Detached,
    Updated,
}

/// A new invite. The token is a secret.
#[derive(Clone)]
pub struct Invited {
    pub token: Zeroizing<String>,
    /// Unix time in seconds after which it is refused.
    pub expires_unix_s: u64,
}

/// Which of a network's addresses an attachment gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// 10.240.0.1 to 10.240.3.254.
    Containers,
    /// Gateways and stock clients: 169.254.241.1 to 169.254.255.254.
    Extras,
}

/// What is to be attached.
#[derive(Debug, Clone)]
pub struct AttachSpec {
    /// Made by the shell, so that it can name what it sets up before the address is known.
    pub id: AttachmentId,
    pub network: NetworkId,
    pub app: Label,
    pub kind: Label,
    /// The lowest free one if `None`.
    pub number: Option<u32>,
    pub version: Option<String>,
    pub service: Label,
    /// The server's name, if it is a database.
    pub server: Option<Label>,
    /// Ready, or starting.
    pub state: State,
    pub public_key: WgPublicKey,
    pub space: Space,
    /// Whether this node may have no other container of the service.
    pub alone: bool,
}

impl AttachSpec {
    /// A gateway: a member without a name. What a record says of an application says nothing here.
    pub fn gateway(id: AttachmentId, network: NetworkId, public_key: WgPublicKey) -> Self {
        let gateway: Label = "gateway".parse().expect("a label");
        Self {
            id,
            network,
            app: gateway.clone(),
            kind: gateway.clone(),
            number: None,
            version: None,
            service: gateway,
            server: None,
            state: State::Ready,
            public_key,
            space: Space::Extras,
            alone: false,
        }
    }
}

/// What was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    pub id: AttachmentId,
    pub address: Ipv4Addr,
    pub number: u32,
}

/// Why an operation failed. Nothing of it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    #[error("this node is in no cluster")]
    NoCluster,
    #[error("this node is in a cluster already")]
    InCluster(ClusterId),
    #[error("a join is under way")]
    Joining,
    #[error("only signers do this, and this node is none")]
    NotSigner,
    #[error("this signer has created all the 65536 networks that its number allows")]
    NoVniLeft,
    #[error("there is no network {0}")]
    NoNetwork(String),
    #[error("there is no node {0}")]
    NoNode(NodeId),
    #[error("there is no attachment {0} on this node")]
    NoAttachment(AttachmentId),
    #[error("there is an attachment {0} already")]
    AttachmentTaken(AttachmentId),
    #[error("only owners of network {0} do this, and this node is none")]
    NotOwner(NetworkId),
    #[error("node {0} is not granted network {1}")]
    NotGranted(NodeId, NetworkId),
    #[error("network {0} belongs to its creator")]
    Creator(NetworkId),
    #[error("number {number} of {app}'s {kind} is held by {holder}")]
    NumberTaken { app: Label, kind: Label, number: u32, holder: AttachmentId },
    #[error("service {service} may have one container on a node, and {holder} is here")]
    NotAlone { service: Label, holder: AttachmentId },
    #[error("the namespace {namespace} is application {holder}'s")]
    NamespaceTaken { namespace: Label, holder: Label },
    #[error("no container of an application {0} is attached, and no service file defines it")]
    NoApp(Label),
    #[error("no service file defines application {0}")]
    NoDefinition(Label),
    /// `free_in_s` is when the first address has rested.
    #[error("network {network} is full: {in_use} of {total} addresses in use, {resting} resting")]
    Full { network: NetworkId, in_use: u32, resting: u32, total: u32, free_in_s: Option<u64> },
    #[error("network {network} has free addresses, but they are held by nodes that cannot be reached")]
    AddressesUnreachable { network: NetworkId, holders: Vec<NodeId> },
    #[error("a node does not expel itself: it leaves")]
    Itself,
    #[error("the root key is not on this node, and only the root appoints and expels signers")]
    NoRootKey,
    #[error("the cluster has 255 signers, the most there can be")]
    NoSignerNumberLeft,
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("too many operations are waiting")]
    Busy,
    #[error("the state could not be written to disk")]
    NotStored,
    #[error("this node has said as much as the others take in of one node")]
    LogFull,
    #[error("the cluster's root key lies on this node, and would be lost")]
    RootKeyHere,
    #[error("this node is the cluster's last signer: nobody could admit a node or expel one any more")]
    LastSigner,
    #[error("no other node of the cluster has confirmed it")]
    NobodyTold,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a join failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("no signer answered at the endpoints that the token names")]
    Unreachable,
    /// Also what a signer says that does not want to say more.
    #[error("the signer does not know this token")]
    UnknownToken,
    #[error("the token has been used as often as it allows")]
    UsedToken,
    #[error("the token has expired")]
    ExpiredToken,
    #[error("another node of the cluster has this name")]
    NameTaken,
    #[error("this node's key was expelled from the cluster, or has left it")]
    Expelled,
    #[error("the signer could not write to its disk")]
    SignerNotStored,
    #[error("this node could not write its membership to disk")]
    NotStored,
    #[error("the signer has admitted as many nodes as one signer can")]
    SignerFull,
    #[error("the signer answered for another cluster than the token names")]
    OtherCluster,
    #[error("the signer's answer does not hold: {0}")]
    Invalid(&'static str),
}

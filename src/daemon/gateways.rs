//! This node's own members: a gateway on each network that something outside of networks reaches into.
//!
//! A gateway is attached when it is first needed and stays while the node runs and holds the network. It has a key and an
//! address of its own, made afresh at each start; nothing of it is remembered.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::data::{Attachment, Device};
use super::gateway::{DialError, GatewayHandle, Opened};
use super::node::{Node, lock};
use super::verbs::{INNER_MTU_BYTES, operation_failure, status_of_io, unpublish, with_causes};
use crate::control::{ExitStatus, Failure};
use crate::dns::{self, Caller, Outcome, PRIVATE_ZONE, Suffix, Transport};
use crate::gossip::{AttachSpec, Done};
use crate::membership::{Membership, Network};
use crate::model::{AttachmentId, CONTAINERS, NetworkId, WgPublicKey, WgSecret};
use crate::sys::device_pair::device_pair;
use crate::sys::{clock, random};

/// How long the containers of a name are tried, one after the other: there may be a thousand, and none of them answers.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The gateways, and the names as they know them.
pub struct Gateways {
    pub thread: GatewayHandle,
    /// Held while one is attached, so that there is one of a network.
    attached: tokio::sync::Mutex<BTreeMap<NetworkId, AttachmentId>>,
    keys: Mutex<BTreeMap<AttachmentId, WgPublicKey>>,
    /// Remembers whose turn it is.
    names: Mutex<dns::Resolver>,
}

impl Gateways {
    /// No gateways, and a thread that waits for some.
    pub fn new(thread: GatewayHandle, suffixes: Vec<Suffix>) -> Self {
        Self {
            thread,
            attached: tokio::sync::Mutex::default(),
            keys: Mutex::default(),
            names: Mutex::new(dns::Resolver::new(suffixes)),
        }
    }

    /// The key of the gateway with this id; `None` if it is no gateway of this run.
    pub fn key_of(&self, id: AttachmentId) -> Option<WgPublicKey> {
        lock(&self.keys).get(&id).copied()
    }

    /// Attaches a gateway to a network, unless there is one.
    ///
    /// # Errors
    /// The network is full, lost, or the node stops.
    pub async fn ensure(&self, node: &Node, network: &NetworkId) -> Result<(), Failure> {
        let mut attached = self.attached.lock().await;
        if attached.contains_key(network) {
            return Ok(());
        }
        let id = AttachmentId::random(&mut random::Os);
        let secret = WgSecret::random(&mut random::Os);
        // Before there is a record, so that nobody takes that for one without a gateway.
        lock(&self.keys).insert(id, secret.public());
        match self.attach(node, id, network, secret).await {
            Ok(address) => {
                tracing::info!(%network, %address, "this node is on the network itself, as a gateway");
                attached.insert(network.clone(), id);
                Ok(())
            }
            Err(failure) => {
                lock(&self.keys).remove(&id);
                unpublish(node, id).await;
                Err(failure)
            }
        }
    }

    async fn attach(
        &self,
        node: &Node,
        id: AttachmentId,
        network: &NetworkId,
        secret: WgSecret,
    ) -> Result<Ipv4Addr, Failure> {
        let what = || format!("cannot reach into network {network}");
        let spec = AttachSpec::gateway(id, network.clone(), secret.public());
        let done = node.operate(move |gossip| gossip.attach(spec, clock::now()), None).await?;
        let address = match done {
            Ok(Done::Attached(attached)) => attached.address,
            Ok(_) => unreachable!("an attach ends with Attached"),
            Err(error) => return Err(operation_failure(what(), &error, &node.membership())),
        };
        let vni = node.network(Some(network.as_str()))?.vni;
        let (ours, routers) = device_pair().map_err(|error| {
            Failure::new(status_of_io(&error), what(), error, "does the system still give descriptors?")
        })?;
        let failed = |error: &dyn std::error::Error| {
            Failure::new(ExitStatus::Failure, what(), with_causes(error), "the daemon's log tells more")
        };
        let mtu_bytes = INNER_MTU_BYTES as u16;
        let attachment = Attachment { id, vni, address, secret, mtu_bytes };
        let device = Device { fd: routers, vnet_hdr: true, uso: false };
        node.data.attach(attachment, device).await.map_err(|error| failed(&error))?;
        if let Err(error) = self.thread.add(network.clone(), address, mtu_bytes, ours).await {
            drop(node.data.detach(id).await);
            return Err(failed(&error));
        }
        Ok(address)
    }

    /// Lets go the gateways of networks that this node does not hold any more, and the streams to who has gone.
    pub async fn retain(&self, node: &Node, membership: &Membership) {
        let mut attached = self.attached.lock().await;
        for network in attached.keys().filter_map(|network| membership.network(network)) {
            self.thread.keep_to(&network.id, network.attachments().map(|one| one.address).collect());
        }
        let lost: Vec<_> = attached.keys().filter(|network| membership.network(network).is_none()).cloned().collect();
        for network in lost {
            self.thread.remove(&network).await;
            if let Some(id) = attached.remove(&network) {
                drop(node.data.detach(id).await);
                lock(&self.keys).remove(&id);
            }
        }
    }

    /// Opens a stream to a container by its address or a name, from outside of the network; `None` if whoever wants it has
    /// `left` before.
    pub async fn dial(
        &self,
        node: &Node,
        network: &Network,
        name: &str,
        port: u16,
        left: impl Future<Output = ()>,
    ) -> Result<Option<Opened>, Failure> {
        let what = || format!("cannot reach {}:{port} in network {}", shown(name), network.display_name());
        let addresses = self
            .addresses(node, network, name)
            .map_err(|(status, why, hint)| Failure::new(status, what(), why, hint))?;
        self.ensure(node, &network.id).await?;
        let mut last = DialError::Unreachable;
        let one_after_the_other = async {
            for address in addresses {
                match self.thread.dial(network.id.clone(), SocketAddrV4::new(address, port)).await {
                    Ok(opened) => return Some(opened),
                    Err(error) => last = error,
                }
            }
            None
        };
        let opened = tokio::select! {
            opened = tokio::time::timeout(DIAL_TIMEOUT, one_after_the_other) => opened,
            () = left => return Ok(None),
        };
        let last = match opened {
            Ok(Some(opened)) => return Ok(Some(opened)),
            Ok(None) => last,
            Err(_) => DialError::TimedOut,
        };
        let (status, hint) = match last {
            DialError::TimedOut => (ExitStatus::Timeout, "is its node up? peerctl status"),
            DialError::Full => (ExitStatus::Conflict, "end some connections first"),
            _ => (ExitStatus::Failure, "does something listen on that port in the container? peerctl container ls"),
        };
        Err(Failure::new(status, what(), last, hint))
    }

    /// What a name means to somebody outside, in the order in which the containers have their turn.
    fn addresses(
        &self,
        node: &Node,
        network: &Network,
        name: &str,
    ) -> Result<Vec<Ipv4Addr>, (ExitStatus, String, &'static str)> {
        const HINT: &str =
            "give a full name, SERVICE.NAMESPACE or an address: peerctl domain-names, peerctl service ls";
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return match CONTAINERS.contains(address) {
                true => Ok(vec![address]),
                false => Err((ExitStatus::NotFound, "it is no container's address".to_owned(), HINT)),
            };
        }
        let missing = |why: &str| (ExitStatus::NotFound, why.to_owned(), HINT);
        let found = self.ask(node, network, name).or_else(|why| {
            // To a container a namespace that is a domain of the internet is outside; from here only the network can be meant.
            self.ask(node, network, &format!("{}.svc.{PRIVATE_ZONE}", name.trim_end_matches('.'))).map_err(|_| why)
        });
        let addresses = found.map_err(missing)?;
        match addresses.is_empty() {
            true => Err(missing("no container that is ready has this name")),
            false => Ok(addresses),
        }
    }

    /// The addresses that the resolver gives to somebody outside; none if the name is there and nobody is ready.
    fn ask(&self, node: &Node, network: &Network, name: &str) -> Result<Vec<Ipv4Addr>, &'static str> {
        let mut asked = Name::from_ascii(name).map_err(|_| "it is no domain name")?;
        asked.set_fqdn(true);
        let mut query = Message::new(0, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(asked, RecordType::A));
        let query = query.to_vec().map_err(|_| "it is no domain name")?;
        let (caller, mut out) = (Caller::outside(&network.id, node.id), Vec::new());
        let membership = node.membership();
        let outcome = lock(&self.names).answer(&membership, &caller, (&query, Transport::Tcp), clock::now(), &mut out);
        let answer = Message::from_vec(&out).ok().filter(|_| outcome == Outcome::Answered);
        let answer = answer.filter(|answer| answer.metadata.response_code == ResponseCode::NoError);
        let records = answer.ok_or("it is no name of the network")?.answers;
        let address = |record: Record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        };
        Ok(records.into_iter().filter_map(address).collect())
    }
}

fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

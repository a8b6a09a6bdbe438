//! This node's own members: a gateway on each network that something outside of networks reaches into.
//!
//! A gateway is attached when it is first needed and stays while the node runs and holds the network. It has a key and an
//! address of its own, made afresh at each start; nothing of it is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
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
use crate::membership::Network;
use crate::model::{AttachmentId, CONTAINERS, NetworkId, WgPublicKey, WgSecret};
use crate::sys::device_pair::device_pair;
use crate::sys::{clock, random};

/// How long the containers of a name are tried, one after the other: there may be a thousand, and none of them answers.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The gateways, and the names as they know them.
pub struct Gateways {
    pub thread: GatewayHandle,
    /// Of each network by itself: one whose homes do not answer holds up no other.
    cells: Mutex<BTreeMap<NetworkId, Cell>>,
    keys: Mutex<BTreeMap<AttachmentId, WgPublicKey>>,
    /// Remembers whose turn it is.
    names: Mutex<dns::Resolver>,
}

/// The gateway of one network. Held while it is attached, so that there is one.
type Cell = Arc<tokio::sync::Mutex<Option<AttachmentId>>>;

impl Gateways {
    /// No gateways, and a thread that waits for some.
    pub fn new(thread: GatewayHandle, suffixes: Vec<Suffix>) -> Self {
        Self {
            thread,
            cells: Mutex::default(),
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
        let cell = lock(&self.cells).entry(network.clone()).or_default().clone();
        let mut attached = cell.lock().await;
        if attached.is_some() {
            return Ok(());
        }
        let id = AttachmentId::random(&mut random::Os);
        let secret = WgSecret::random(&mut random::Os);
        // Before there is a record, so that nobody takes that for one without a gateway.
        lock(&self.keys).insert(id, secret.public());
        match self.attach(node, id, network, secret).await {
            Ok(address) => {
                tracing::info!(%network, %address, "this node is on the network itself, as a gateway");
                *attached = Some(id);
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

    /// Lets go the gateways of networks that this node does not hold any more, those whose records do not count any more, and the
    /// streams to who has gone. A gateway that is needed is made anew by the next [`Self::ensure`].
    pub async fn retain(&self, node: &Node) {
        let cells: Vec<_> = lock(&self.cells).iter().map(|(network, cell)| (network.clone(), cell.clone())).collect();
        for (network, cell) in cells {
            // Who is attaching one looks for himself whether the network is there.
            let Ok(mut attached) = cell.try_lock() else { continue };
            let Some(id) = *attached else { continue };
            // Looked at under the lock: the view is not older than the gateway.
            let membership = node.membership();
            if let Some(there) = membership.network(&network).and_then(|network| neighbours(network, id)) {
                self.thread.keep_to(&network, there);
                continue;
            }
            tracing::info!(%network, "the node's gateway on the network is gone, and its streams with it");
            self.thread.remove(&network).await;
            drop(node.data.detach(id).await);
            lock(&self.keys).remove(&id);
            unpublish(node, id).await;
            *attached = None;
        }
        let membership = node.membership();
        // Whoever has a cell in hand goes on with it.
        lock(&self.cells).retain(|network, cell| membership.network(network).is_some() || Arc::strong_count(cell) > 1);
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

/// Where the network has somebody, its gateway `id` among them; `None` if that has no record, or one that does not count.
fn neighbours(network: &Network, id: AttachmentId) -> Option<BTreeSet<Ipv4Addr>> {
    network.attachments().any(|one| one.id == id).then(|| network.attachments().map(|one| one.address).collect())
}

fn shown(name: &str) -> String {
    name.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Container, testing};
    use crate::model::NodeId;

    #[test]
    fn a_gateway_whose_record_does_not_count_has_no_neighbours_and_is_let_go() {
        let id = "pn-a".parse().expect("an id");
        let mut network = Network::new(id, 1.try_into().expect("a VNI"), NodeId([1; 32]));
        let [container, gateway] = [[10, 240, 0, 1], [169, 254, 241, 1]].map(Ipv4Addr::from);
        network.insert_container(Arc::new(testing::container(container)));
        let ours = testing::container(gateway);
        let id = ours.id;
        network.insert_container(Arc::new(ours));
        assert_eq!(neighbours(&network, id), Some([container, gateway].into()));
        // The address is somebody else's: of two claims the older holds.
        let theirs = Container { id: AttachmentId([9; 8]), ..testing::container(gateway) };
        network.insert_container(Arc::new(theirs));
        assert_eq!(neighbours(&network, id), None);
    }
}

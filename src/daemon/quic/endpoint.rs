//! The node's QUIC endpoint on the shared UDP port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AsyncUdpSocket, EndpointConfig, IdleTimeout, TransportConfig, VarInt};

use super::door::Door;
use super::link::Link;
use super::tls::Identity;
use crate::gossip::MESSAGE_LEN_MAX;
use crate::model::NodeId;

/// How long a peer may be silent before its connection is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Keeps a NAT mapping alive, and notices a dead path.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long dialling one address takes at most.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Exchanges and pushes that a member may have under way.
pub(super) const STREAMS_MAX: u32 = 64;
/// How much of what a member says may wait to be read.
pub(super) const RECEIVE_WINDOW: u32 = MESSAGE_LEN_MAX as u32 * 2;
/// A stranger has a Hello or a Join to say, in one exchange.
const STRANGER_STREAMS_MAX: u32 = 2;
const STRANGER_RECEIVE_WINDOW: u32 = 16 << 10;
/// Packets of new connections that may wait to be looked at.
const INCOMING_MAX: usize = 256;

/// Dials and accepts links.
pub struct Endpoint {
    endpoint: quinn::Endpoint,
    identity: Identity,
    transport: Arc<TransportConfig>,
    door: Arc<Door>,
}

/// Why a node could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no answer from {0} within 5 s")]
    Timeout(SocketAddr),
    #[error("cannot dial {0}")]
    Connect(SocketAddr, #[source] quinn::ConnectError),
    #[error("{0} did not complete the handshake")]
    Handshake(SocketAddr, #[source] quinn::ConnectionError),
    #[error("the dialling side of TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl Endpoint {
    /// An endpoint of the node with this key on `socket`, which takes its part of the shared port.
    ///
    /// # Errors
    /// When TLS or the runtime refuses to be set up; nothing is left behind.
    pub fn new(key: &SigningKey, socket: Arc<dyn AsyncUdpSocket>) -> std::io::Result<Self> {
        let identity = Identity::new(key).map_err(std::io::Error::other)?;
        let transport = Arc::new(transport(Room::MEMBER));
        let tls = identity.server().map_err(std::io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(std::io::Error::other)?;
        // Derived from the node's key: after a restart the node recognises its peers' Retry tokens, and answers what it
        // no longer knows with a reset that the peer believes.
        let derived = |what: &str| blake3::derive_key(&format!("peerd 1 quic {what}"), key.as_bytes());
        let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&derived("token"));
        let mut server = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
        server
            .transport_config(Arc::new(self::transport(Room::STRANGER)))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(64 << 10);

        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &derived("reset"));
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        let cid_key = u64::from_be_bytes(derived("cid")[..8].try_into().expect("8 of 32 bytes"));
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
        // The fixed bit tells QUIC from everything else on this port (RFC 9287 would let half of the packets clear it).
        config.grease_quic_bit(false);

        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
        Ok(Self { endpoint, identity, transport, door: Arc::default() })
    }

    /// Connects to `node` at `address`. Only the holder of the node's key can answer.
    pub async fn dial(&self, node: NodeId, address: SocketAddr) -> Result<Link, DialError> {
        let tls = self.identity.client(node)?;
        let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 with AES-128-GCM is what QUIC begins with");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting =
            self.endpoint.connect_with(config, address, "peerd").map_err(|e| DialError::Connect(address, e))?;
        let connection = tokio::time::timeout(DIAL_TIMEOUT, connecting)
            .await
            .map_err(|_| DialError::Timeout(address))?
            .map_err(|e| DialError::Handshake(address, e))?;
        Ok(Link::dialled(connection, node))
    }

    /// The next link that somebody else dialled; none when the endpoint is closed.
    ///
    /// Cancel safe. An address that has not been validated gets a Retry and no state; one that has brought its share of
    /// strangers gets nothing. Handshakes run on tasks of their own and arrive through `done`, so that a slow one holds
    /// up nobody.
    pub async fn accept(&self, done: &tokio::sync::mpsc::Sender<Link>) -> Option<()> {
        let incoming = self.endpoint.accept().await?;
        if !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return Some(());
        }
        let Some(pass) = self.door.enter(incoming.remote_address().ip()) else {
            tracing::debug!("a stranger is turned away: there are too many");
            incoming.ignore();
            return Some(());
        };
        let done = done.clone();
        tokio::spawn(async move {
            let accepted = async { Link::accepted(incoming.await.ok()?, pass) };
            if let Ok(Some(link)) = tokio::time::timeout(DIAL_TIMEOUT, accepted).await {
                // A closed channel is a node that stops.
                let _ = done.send(link).await;
            }
        });
        Some(())
    }

    /// Closes every connection and waits a moment for the peers to hear of it.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"stopping");
        let _ = tokio::time::timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
    }
}

/// What a peer may have under way before we have read it.
struct Room {
    uni: u32,
    bidi: u32,
    window: u32,
}

impl Room {
    const MEMBER: Self = Self { uni: STREAMS_MAX, bidi: STREAMS_MAX, window: RECEIVE_WINDOW };
    const STRANGER: Self = Self { uni: 0, bidi: STRANGER_STREAMS_MAX, window: STRANGER_RECEIVE_WINDOW };
}

fn transport(room: Room) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32))))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .max_concurrent_bidi_streams(VarInt::from_u32(room.bidi))
        .max_concurrent_uni_streams(VarInt::from_u32(room.uni))
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(room.window))
        .send_window(MESSAGE_LEN_MAX as u64 * 2)
        .datagram_receive_buffer_size(Some(64 << 10));
    transport
}

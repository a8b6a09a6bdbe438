//! A connection to a node that has proven its key: pushes and exchanges.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{Connection, VarInt};

use super::door::Pass;
use super::endpoint::{RECEIVE_WINDOW, STREAMS_MAX};
use super::tls;
use crate::daemon::node::lock;
use crate::gossip::MESSAGE_LEN_MAX;
use crate::model::NodeId;

/// How long the other side may take over one message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A QUIC connection whose peer holds the node key [`Link::peer`].
#[derive(Clone)]
pub struct Link {
    connection: Connection,
    peer: NodeId,
    dialled: bool,
    /// The place of a stranger; a member needs none.
    pass: Arc<Mutex<Option<Pass>>>,
}

/// Why a message did not go through.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the connection is lost")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the message could not be written")]
    Write(#[from] quinn::WriteError),
    #[error("the message could not be read")]
    Read(#[from] quinn::ReadError),
    #[error("the message has more than {0} bytes")]
    TooLong(usize),
    #[error("the other side took longer than {} s", MESSAGE_TIMEOUT.as_secs())]
    Timeout,
    #[error("the reply did not arrive")]
    Stopped(#[from] quinn::StoppedError),
    #[error("the stream was closed already")]
    Closed(#[from] quinn::ClosedStream),
}

/// Bounds a step of a conversation in time.
async fn bounded<T, E: Into<LinkError>>(step: impl Future<Output = Result<T, E>>) -> Result<T, LinkError> {
    tokio::time::timeout(MESSAGE_TIMEOUT, step).await.map_err(|_| LinkError::Timeout)?.map_err(Into::into)
}

impl Link {
    pub(super) fn dialled(connection: Connection, peer: NodeId) -> Self {
        Self { connection, peer, dialled: true, pass: Arc::default() }
    }

    /// None for a peer whose certificate carries no node key, which the verifier has refused already.
    pub(super) fn accepted(connection: Connection, pass: Pass) -> Option<Self> {
        let identity = connection.peer_identity()?;
        let chain = identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
        let peer = tls::node_of(chain.first()?)?;
        Some(Self { connection, peer, dialled: false, pass: Arc::new(Mutex::new(Some(pass))) })
    }

    /// The node at the other end, proven by TLS.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Whether this node dialled.
    pub fn is_dialled(&self) -> bool {
        self.dialled
    }

    /// Where the peer's packets come from, as of its newest authenticated one.
    pub fn remote(&self) -> SocketAddr {
        let remote = self.connection.remote_address();
        SocketAddr::new(remote.ip().to_canonical(), remote.port())
    }

    /// The address of ours that the peer has, if it dialled: QUIC lets the dialling side move, and not the other.
    pub fn bound_to(&self) -> Option<IpAddr> {
        if self.dialled { None } else { self.connection.local_ip().map(|ip| ip.to_canonical()) }
    }

    /// The measured round trip.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// 32 bytes that only the two ends of this connection can compute (RFC 8446 §7.5).
    pub fn exporter(&self) -> [u8; 32] {
        let mut out = [0; 32];
        self.connection
            .export_keying_material(&mut out, b"EXPORTER-peerd-join", b"")
            .expect("32 bytes are within what TLS exports");
        out
    }

    /// One message that wants no reply.
    pub async fn push(&self, message: &[u8]) -> Result<(), LinkError> {
        let mut stream = bounded(self.connection.open_uni()).await?;
        bounded(stream.write_all(message)).await?;
        stream.finish()?;
        Ok(())
    }

    /// One message and its reply.
    pub async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, LinkError> {
        let (mut send, mut receive) = bounded(self.connection.open_bi()).await?;
        bounded(send.write_all(request)).await?;
        send.finish()?;
        bounded(read_whole(&mut receive, MESSAGE_LEN_MAX)).await
    }

    /// One datagram, which may be lost; it certainly is if the peer takes none.
    pub fn datagram(&self, bytes: Vec<u8>) {
        if let Err(error) = self.connection.send_datagram(bytes.into()) {
            tracing::debug!(peer = %self.peer, %error, "a datagram is lost");
        }
    }

    /// The next datagram of at most `len_max` bytes. Cancel safe.
    pub async fn accept_datagram(&self, len_max: usize) -> Result<Vec<u8>, LinkError> {
        loop {
            let datagram = self.connection.read_datagram().await?;
            if datagram.len() <= len_max {
                return Ok(datagram.to_vec());
            }
        }
    }

    /// The next message that the peer pushes. Cancel safe until a stream is there.
    pub async fn accept_push(&self) -> Result<PushStream, LinkError> {
        Ok(PushStream(self.connection.accept_uni().await?))
    }

    /// The next exchange that the peer begins. Cancel safe.
    pub async fn accept_exchange(&self) -> Result<(ReplyStream, PushStream), LinkError> {
        let (send, receive) = self.connection.accept_bi().await?;
        Ok((ReplyStream(send), PushStream(receive)))
    }

    /// Gives the peer the room that a member has, in place of a stranger's.
    pub fn admit(&self) {
        self.connection.set_max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX));
        self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_MAX));
        self.connection.set_receive_window(VarInt::from_u32(RECEIVE_WINDOW));
        drop(lock(&self.pass).take());
    }

    /// Ends the connection. `reason` is for the other side's log.
    pub fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(1), reason.as_bytes());
    }

    /// Resolves when the connection is over.
    pub async fn closed(&self) -> quinn::ConnectionError {
        self.connection.closed().await
    }
}

/// A message on its way in.
pub struct PushStream(quinn::RecvStream);

impl PushStream {
    /// The whole message, at most `len_max` bytes.
    pub async fn read(mut self, len_max: usize) -> Result<Vec<u8>, LinkError> {
        bounded(read_whole(&mut self.0, len_max)).await
    }
}

/// Reads to the end of a stream, at most `len_max` bytes.
///
/// In order and by copying: quinn's own `read_to_end` keeps whole datagrams for single bytes of them, so that a peer could
/// make a small message cost a thousand times its size.
async fn read_whole(stream: &mut quinn::RecvStream, len_max: usize) -> Result<Vec<u8>, LinkError> {
    let mut message = Vec::new();
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        if message.len() + chunk.bytes.len() > len_max {
            return Err(LinkError::TooLong(len_max));
        }
        message.extend_from_slice(&chunk.bytes);
    }
    Ok(message)
}

/// Where the reply to an exchange goes.
pub struct ReplyStream(quinn::SendStream);

impl ReplyStream {
    /// Writes the reply, ends the exchange, and waits until the peer has it.
    pub async fn reply(mut self, message: &[u8]) -> Result<(), LinkError> {
        bounded(self.0.write_all(message)).await?;
        self.0.finish()?;
        bounded(self.0.stopped()).await.map(drop)
    }
}

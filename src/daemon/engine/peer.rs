//! A peer as the engine has it: its link, what it may say, and what is on the way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore, mpsc, watch};
use zeroize::Zeroizing;

use super::Event;
use crate::daemon::quic::{Link, LinkError, PushStream, ReplyStream};
use crate::daemon::verbs::with_causes;
use crate::gossip::{ConnectionId, DATAGRAM_LEN_MAX, ExchangeId, MessageVerifier, VerifiedMessage};

/// Pushes that may be on the way to one peer; one that takes none any more is brought up to date by the next sync.
const PUSHES_MAX: usize = 32;
/// How long a connection that is to be closed stays for what was said on it to arrive.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Messages of one peer, read, waiting to be handled or being answered, each of up to a MiB and a few more once it is decoded.
/// Who says more waits, and fills nothing but its own stream's window; who takes no answer gets no further one.
const HEARD_COUNT_MAX: usize = 6;
/// Datagrams of one peer that wait to be handled; QUIC keeps a few more, and drops the oldest of too many.
const DATAGRAM_COUNT_MAX: usize = 4;

/// A datagram, and its place as with [`Heard`].
pub struct HeardDatagram {
    pub bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

/// A message and its place among those of its peer: free again when the machine has handled it, and what answers it has gone.
pub struct Heard {
    pub message: VerifiedMessage,
    pub place: Place,
}

/// One of the messages that a peer may have under way with this node.
pub struct Place(#[expect(dead_code, reason = "it is free when it is dropped")] OwnedSemaphorePermit);

/// A link and what belongs to it.
pub(super) struct Peer {
    pub(super) link: Link,
    /// The longest message that the machine wants to hear on it; the reading tasks look here.
    message_len_max: Arc<AtomicUsize>,
    pushes: Arc<Semaphore>,
    /// Held for reading by whatever is on its way to the peer.
    under_way: Arc<RwLock<()>>,
    /// Held for reading by whoever awaits a reply of the peer.
    awaited: Arc<RwLock<()>>,
    is_member: bool,
}

impl Peer {
    /// A peer that is heard from now on, in messages of at most `message_len_max` bytes.
    pub(super) fn new(
        connection: ConnectionId,
        link: Link,
        message_len_max: usize,
        verifier: watch::Receiver<MessageVerifier>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let message_len_max = Arc::new(AtomicUsize::new(message_len_max));
        let awaited = Arc::<RwLock<()>>::default();
        let reader = Reader {
            connection,
            link: link.clone(),
            message_len_max: message_len_max.clone(),
            places: Arc::new(Semaphore::new(HEARD_COUNT_MAX)),
            awaited: awaited.clone(),
            verifier,
            events,
        };
        tokio::spawn(reader.run());
        let pushes = Arc::new(Semaphore::new(PUSHES_MAX));
        Self { link, message_len_max, pushes, under_way: Arc::default(), awaited, is_member: false }
    }

    /// How long its messages may be from now on.
    pub(super) fn set_message_len_max(&self, len: usize) {
        self.message_len_max.store(len, Ordering::Relaxed);
    }

    /// Gives a peer the room that members have, once it is one.
    pub(super) fn admit(&mut self) {
        if !self.is_member {
            self.is_member = true;
            self.link.admit();
        }
    }

    /// Sends a message that wants no reply, or loses it: the next sync round makes it good.
    pub(super) fn push(&self, bytes: Arc<[u8]>) {
        let Ok(permit) = self.pushes.clone().try_acquire_owned() else {
            return tracing::debug!(peer = %self.link.peer(), "a push is lost: the peer takes none");
        };
        let (link, under_way) = (self.link.clone(), self.under_way.clone().try_read_owned());
        tokio::spawn(async move {
            if let Err(error) = link.push(&bytes).await {
                tracing::debug!(peer = %link.peer(), %error, "a push is lost");
            }
            drop((permit, under_way));
        });
    }

    /// Asks the peer; what comes of it goes to `events`, and before the connection's end if it was here by then.
    pub(super) fn request(
        &self,
        (connection, exchange): (ConnectionId, ExchangeId),
        bytes: Arc<[u8]>,
        verifier: MessageVerifier,
        events: mpsc::Sender<Event>,
    ) {
        let (link, awaited) = (self.link.clone(), self.awaited.clone().try_read_owned());
        tokio::spawn(async move {
            let reply = match link.exchange(&bytes).await {
                Ok(reply) => verify(verifier, reply).await,
                Err(error) => {
                    tracing::debug!(peer = %link.peer(), error = with_causes(&error), "an exchange failed");
                    None
                }
            };
            let _ = events.send(Event::Reply(connection, exchange, reply)).await;
            drop(awaited);
        });
    }

    /// Answers an exchange of the peer.
    pub(super) fn reply(&self, stream: ReplyStream, bytes: Zeroizing<Vec<u8>>, place: Place) {
        let (peer, under_way) = (self.link.peer(), self.under_way.clone().try_read_owned());
        tokio::spawn(async move {
            if let Err(error) = stream.reply(&bytes).await {
                tracing::debug!(%peer, %error, "a reply is lost");
            }
            drop((under_way, place));
        });
    }

    /// Ends the connection once what was said on it has arrived: a refusal is worth nothing if nobody hears why.
    pub(super) fn close(self, reason: &'static str) {
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, self.under_way.write()).await;
            self.link.close(reason);
        });
    }
}

/// Checks a message's signatures where it holds up nobody.
async fn verify(verifier: MessageVerifier, bytes: Vec<u8>) -> Option<VerifiedMessage> {
    let bytes = Zeroizing::new(bytes);
    match tokio::task::spawn_blocking(move || verifier.verify(&bytes)).await {
        Ok(Ok(message)) => Some(message),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a peer's message is refused");
            None
        }
        Err(_) => None,
    }
}

/// Reads what a peer says on one link until the link ends.
struct Reader {
    connection: ConnectionId,
    link: Link,
    message_len_max: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
    awaited: Arc<RwLock<()>>,
    verifier: watch::Receiver<MessageVerifier>,
    events: mpsc::Sender<Event>,
}

impl Reader {
    /// Each stream has a task of its own; the link bounds how long each may take, and the places how many there are: a
    /// stream that is read leaves the link's own count, and its message is still there.
    async fn run(self) {
        let pushes = async {
            while let (place, Ok(stream)) = (self.place().await, self.link.accept_push().await) {
                let (connection, events, message) = (self.connection, self.events.clone(), self.read(stream, place));
                tokio::spawn(async move { events.send(Event::Push(connection, message.await?)).await.ok() });
            }
        };
        let exchanges = async {
            while let (place, Ok((reply, stream))) = (self.place().await, self.link.accept_exchange().await) {
                let (connection, events, message) = (self.connection, self.events.clone(), self.read(stream, place));
                tokio::spawn(async move { events.send(Event::Request(connection, reply, message.await?)).await.ok() });
            }
        };
        let places = Arc::new(Semaphore::new(DATAGRAM_COUNT_MAX));
        let datagrams = async {
            while let Ok(bytes) = self.link.accept_datagram(DATAGRAM_LEN_MAX).await {
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                let heard = HeardDatagram { bytes, _place: place };
                let _ = self.events.send(Event::Datagram(self.connection, heard)).await;
            }
        };
        // They end when the connection does, and not before.
        tokio::join!(pushes, exchanges, datagrams);
        let error: LinkError = self.link.closed().await.into();
        tracing::debug!(peer = %self.link.peer(), error = with_causes(&error), "a link ended");
        // A refusal is followed by the connection's end, and must be heard before it.
        drop(self.awaited.write().await);
        let _ = self.events.send(Event::Closed(self.connection)).await;
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// One message, if it comes whole and holds.
    fn read(
        &self,
        stream: PushStream,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = Option<Heard>> + Send + use<> {
        let (len_max, verifier) = (self.message_len_max.load(Ordering::Relaxed), self.verifier.clone());
        async move {
            let bytes = stream.read(len_max).await.ok()?;
            let verifier = verifier.borrow().clone();
            Some(Heard { message: verify(verifier, bytes).await?, place: Place(place) })
        }
    }
}

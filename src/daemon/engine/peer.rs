//! A peer as the engine has it: its link, what it may say, and what is on the way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use zeroize::Zeroizing;

use super::Event;
use crate::daemon::quic::{Link, LinkError, PushStream};
use crate::gossip::{ConnectionId, MessageVerifier, VerifiedMessage};

/// Pushes that may be on the way to one peer; one that takes none any more is brought up to date by the next sync.
const PUSHES_MAX: usize = 32;

/// Messages of one peer, read or waiting to be handled, each of up to a MiB and a few more once it is decoded. Who says more
/// waits, and fills nothing but its own stream's window.
const HEARD_COUNT_MAX: usize = 6;

/// A message and its place among those of its peer, free again when the machine has handled it.
pub struct Heard {
    pub message: VerifiedMessage,
    _place: OwnedSemaphorePermit,
}

/// A link and what belongs to it.
pub(super) struct Peer {
    pub(super) link: Link,
    /// The longest message that the machine wants to hear on it; the reading tasks look here.
    message_len_max: Arc<AtomicUsize>,
    pushes: Arc<Semaphore>,
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
        let reader = Reader {
            connection,
            link: link.clone(),
            message_len_max: message_len_max.clone(),
            places: Arc::new(Semaphore::new(HEARD_COUNT_MAX)),
            verifier,
            events,
        };
        tokio::spawn(reader.run());
        Self { link, message_len_max, pushes: Arc::new(Semaphore::new(PUSHES_MAX)), is_member: false }
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
        let link = self.link.clone();
        tokio::spawn(async move {
            if let Err(error) = link.push(&bytes).await {
                tracing::debug!(peer = %link.peer(), %error, "a push is lost");
            }
            drop(permit);
        });
    }
}

/// Checks a message's signatures where it holds up nobody.
pub(super) async fn verify(verifier: MessageVerifier, bytes: Vec<u8>) -> Option<VerifiedMessage> {
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
        // Both end when the connection does, and not before.
        tokio::join!(pushes, exchanges);
        let error: LinkError = self.link.closed().await.into();
        tracing::debug!(peer = %self.link.peer(), %error, "a link ended");
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
            Some(Heard { message: verify(verifier, bytes).await?, _place: place })
        }
    }
}

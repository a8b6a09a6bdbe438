//! The control socket: one connection, one request, an answer in lines.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::node::Node;
use super::verbs::{self, Then};
use crate::control::{EventRow, ExitStatus, Failure, Frame, REQUEST_LEN_MAX, Request, decode_line, encode_line};

/// Callers at once who may change the node; further ones are refused.
const CALLERS_MAX: usize = 1024;
/// Requests of theirs that are carried out at once; further ones wait. Those that only wait themselves need no such place: a
/// deployment drains many containers at a time.
const REQUESTS_MAX: usize = 256;
/// Streams into networks that are being opened at once; further ones are refused. They have places of their own, for who is
/// dialled decides how long that takes.
const DIALS_MAX: usize = 256;
/// Conversations under way at once with those who may only look; further ones are refused, and never make the others wait.
const LOOKING_MAX: usize = 16;
/// How long a caller may take to say its request, or to take a line of the answer.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often is looked whether a caller to whom there is nothing to say is still there.
const LEFT_INTERVAL: Duration = Duration::from_secs(1);

/// Who asks, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester {
    pub uid: u32,
    pub gid: u32,
}

impl Requester {
    /// Root and the node's own user may change it; others who can open the socket may look.
    fn may_change(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

/// Where a verb tells how far it is.
#[derive(Clone)]
pub struct Progress(mpsc::Sender<Frame>);

impl Progress {
    /// Tells the person who waits. A person who has left misses it.
    pub async fn step(&self, text: impl Into<String>) {
        let _ = self.0.send(Frame::Step(text.into())).await;
    }

    /// Tells an event; whether somebody still listens.
    pub async fn event(&self, event: EventRow) -> bool {
        let event = serde_json::to_value(event).expect("an event has string keys only");
        self.0.send(Frame::Event(event)).await.is_ok()
    }

    /// Waits until the caller has left.
    pub async fn left(&self) {
        self.0.closed().await;
    }
}

/// How much is done at once for those who may change the node.
struct Places {
    requests: Semaphore,
    dials: Semaphore,
}

impl Places {
    fn new() -> Self {
        Self { requests: Semaphore::new(REQUESTS_MAX), dials: Semaphore::new(DIALS_MAX) }
    }

    /// A place for `request`, if it needs one, which is given back when it is dropped.
    async fn take(&self, request: &Request) -> Result<Option<SemaphorePermit<'_>>, Failure> {
        match request {
            Request::Wait { .. } | Request::Events { .. } | Request::Detach { drain_s: Some(_), .. } => Ok(None),
            Request::Dial { .. } => self.dials.try_acquire().map(Some).map_err(|_| {
                let why = format!("{DIALS_MAX} others are waiting for a container to answer");
                let hint = "try again in a moment; do the containers they want still run? peerctl container ls";
                Failure::new(ExitStatus::Conflict, "cannot open a stream into the network", why, hint)
            }),
            _ => Ok(Some(self.requests.acquire().await.expect("nobody closes it"))),
        }
    }
}

/// Answers callers until the node stops. That it is busy with some keeps no other from being heard.
pub async fn serve(listener: UnixListener, node: Arc<Node>) {
    let (owners, others) = (Arc::new(Semaphore::new(CALLERS_MAX)), Arc::new(Semaphore::new(LOOKING_MAX)));
    let places = Arc::new(Places::new());
    loop {
        let caller = listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
        let (requester, stream) = match caller {
            Ok((cred, stream)) => (Requester { uid: cred.uid(), gid: cred.gid() }, stream),
            Err(error) => {
                tracing::warn!(%error, "cannot take a caller on the control socket");
                // Out of descriptors, most likely: the next one would fail just as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let door = if requester.may_change() { &owners } else { &others };
        let Ok(slot) = door.clone().try_acquire_owned() else {
            refuse(&stream);
            continue;
        };
        let (node, places) = (node.clone(), places.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, requester, node, places).await {
                tracing::debug!(%error, "a caller on the control socket left early");
            }
            drop(slot);
        });
    }
}

/// Tells a caller that there are too many, as far as the socket takes it at once.
fn refuse(stream: &UnixStream) {
    let why = "too many others ask this node at this moment";
    let failure = Failure::new(ExitStatus::Conflict, "the node does not answer", why, "try again in a moment");
    // One that does not get it sees the conversation end.
    let _ = stream.try_write(&encode_line(&Frame::Failed(failure)));
}

async fn converse(
    stream: UnixStream,
    requester: Requester,
    node: Arc<Node>,
    places: Arc<Places>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(REQUEST_LEN_MAX as u64 + 1));
    tokio::time::timeout(LINE_TIMEOUT, read.read_until(b'\n', &mut line)).await??;

    let (frames, mut lines) = mpsc::channel(16);
    let progress = Progress(frames.clone());
    let answering = tokio::spawn(answer(line, requester, (node.clone(), places), progress, frames));
    let told: std::io::Result<()> = async {
        loop {
            match tokio::time::timeout(LEFT_INTERVAL, lines.recv()).await {
                Ok(Some(frame)) => {
                    tokio::time::timeout(LINE_TIMEOUT, write.write_all(&encode_line(&frame))).await??;
                }
                Ok(None) => return Ok(()),
                // A caller may have ended its own side and wait for the answer: only one that does not read has left.
                Err(_) if write.ready(Interest::WRITABLE).await?.is_write_closed() => {
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                Err(_) => {}
            }
        }
    }
    .await;
    // A caller who left ends no verb; what it still has to say goes nowhere.
    drop(lines);
    match answering.await {
        Ok(Then::Nothing) => told,
        Ok(Then::Stop) => {
            node.stop.notify_one();
            told
        }
        Ok(Then::Join(opened)) => {
            told?;
            // Who speaks before the answer has not understood it: what was read of that is lost, and the stream with it.
            if !read.buffer().is_empty() {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            let stream = read.into_inner().into_inner().reunite(write).map_err(std::io::Error::other)?;
            opened.join(stream.into_std()?.into());
            Ok(())
        }
        // The answer is the last frame; a verb that panicked has sent none.
        Err(_) => {
            let hint = "the daemon's log tells more; peerctl status shows what stands";
            let failure =
                Failure::new(ExitStatus::Failure, "the node failed on this request", "an internal error", hint);
            let last = encode_line(&Frame::Failed(failure));
            Ok(tokio::time::timeout(LINE_TIMEOUT, write.write_all(&last)).await??)
        }
    }
}

/// Carries a request out; what follows.
async fn answer(
    line: Vec<u8>,
    requester: Requester,
    (node, places): (Arc<Node>, Arc<Places>),
    progress: Progress,
    frames: mpsc::Sender<Frame>,
) -> Then {
    let answered = async {
        let request = decode_request(&line, requester.may_change())?;
        // Who may only look has its place already.
        let _place = if requester.may_change() { places.take(&request).await? } else { None };
        verbs::carry_out(&node, requester, request, &progress).await
    };
    let (frame, then) = match answered.await {
        Ok(answer) => (Frame::Done { data: answer.data, warnings: answer.warnings }, answer.then),
        Err(failure) => (Frame::Failed(failure), Then::Nothing),
    };
    let _ = frames.send(frame).await;
    then
}

fn decode_request(line: &[u8], may_change: bool) -> Result<Request, Failure> {
    let what = "the node does not carry out this request";
    if line.len() > REQUEST_LEN_MAX {
        let why = format!("it is longer than {REQUEST_LEN_MAX} bytes");
        return Err(Failure::new(ExitStatus::Usage, what, why, "shorten it"));
    }
    let request: Request = decode_line(line).map_err(|error| {
        Failure::new(ExitStatus::Usage, what, error, "use a peerctl and a peerd of one version: peerctl version")
    })?;
    if request.changes() && !may_change {
        let hint = "run it as root or as the user who runs the node";
        return Err(Failure::new(ExitStatus::Permission, what, "you may look at this node, not change it", hint));
    }
    Ok(request)
}

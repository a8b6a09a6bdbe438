//! Whether a container serves: one look, by what its attach said makes it ready.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};

use super::attachments::{Condition, Local};
use super::node::lock;
use super::verbs::{blocking, with_causes};
use crate::control::ReadyWhen;
use crate::model::AttachmentId;
use crate::sys::netns::Netns;
use crate::sys::probe::{self, CommandEnd, ProbeCommand};

/// So many looks at once: each may be a process. Further ones wait their turn.
const LOOKS_MAX: usize = 16;
/// How long a connection and the first line of an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The first line of an HTTP answer is not longer, or it is none.
const STATUS_LINE_LEN_MAX: u64 = 1024;

/// What is known of the containers that are starting.
#[derive(Debug)]
pub struct Readiness {
    /// Why each was not ready at the last look.
    reasons: Mutex<BTreeMap<AttachmentId, String>>,
    changed: Notify,
    looks: Semaphore,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { reasons: Mutex::default(), changed: Notify::default(), looks: Semaphore::new(LOOKS_MAX) }
    }
}

impl Readiness {
    /// There may be one more that is starting.
    pub fn announce(&self) {
        self.changed.notify_one();
    }

    /// Waits until there may be one more.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Why a container was not ready at the last look.
    pub fn reason(&self, id: AttachmentId) -> Option<String> {
        lock(&self.reasons).get(&id).cloned()
    }

    pub fn note(&self, id: AttachmentId, reason: String) {
        lock(&self.reasons).insert(id, reason);
    }

    /// It is starting no more.
    pub fn forget(&self, id: AttachmentId) {
        lock(&self.reasons).remove(&id);
    }

    /// Looks whether a container serves; why it does not. Ends whatever it has begun when it is dropped.
    pub async fn look(&self, local: &Local, condition: &Condition) -> Result<(), String> {
        let _turn = self.looks.acquire().await.map_err(|error| error.to_string())?;
        match &condition.when {
            ReadyWhen::Tcp(port) => connect(local, *port).await.map(drop),
            ReadyWhen::Http(port, path) => get(local, *port, path).await,
            ReadyWhen::Exec(line) => execute(local, line, condition).await,
        }
    }
}

/// A connection to what listens on loopback in the container or, if nothing does, on its own address.
async fn connect(local: &Local, port: NonZeroU16) -> Result<TcpStream, String> {
    let mut reasons = Vec::new();
    for address in [Ipv4Addr::LOCALHOST, local.address] {
        let to = SocketAddrV4::new(address, port.get());
        let anchor = local.anchor.clone();
        let socket = blocking(move || probe::tcp_socket(&Netns::reopen(&anchor)?)).await;
        let socket = TcpSocket::from_std_stream(socket.map_err(|error| with_causes(&error))?);
        match tokio::time::timeout(ANSWER_TIMEOUT, socket.connect(to.into())).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => reasons.push(format!("{to}: {error}")),
            Err(_) => reasons.push(format!("{to}: no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        }
    }
    Err(reasons.join(", "))
}

async fn get(local: &Local, port: NonZeroU16, path: &str) -> Result<(), String> {
    let mut stream = connect(local, port).await?;
    let host = stream.peer_addr().map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: peerd\r\nConnection: close\r\n\r\n");
    let answer = async {
        stream.write_all(request.as_bytes()).await?;
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(STATUS_LINE_LEN_MAX);
        while !line.contains(&b'\n') && limited.read_buf(&mut line).await? > 0 {}
        Ok::<_, std::io::Error>(line)
    };
    let line = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(format!("{host}: {error}")),
        Err(_) => return Err(format!("{host}: no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    };
    match status_of(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("{host}: status {status}")),
        None => Err(format!("{host}: its answer is not HTTP/1")),
    }
}

/// The status in the first line of an answer (RFC 9112 §4): `HTTP/1.1 204 No Content`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let end = answer.iter().position(|b| *b == b'\n')?;
    let rest = answer[..end].strip_prefix(b"HTTP/1.")?;
    let (code, after) = rest.strip_prefix(b"0 ").or_else(|| rest.strip_prefix(b"1 "))?.split_at_checked(3)?;
    let ends = matches!(after.first(), None | Some(b' ' | b'\r'));
    let is_code = ends && code.iter().all(u8::is_ascii_digit);
    if is_code { str::from_utf8(code).ok()?.parse().ok() } else { None }
}

async fn execute(local: &Local, line: &str, condition: &Condition) -> Result<(), String> {
    let (anchor, line, user) = (local.anchor.clone(), line.to_owned(), condition.user);
    let started = blocking(move || ProbeCommand::start(&anchor, &line, user)).await;
    let command = started.map_err(|error| with_causes(&error))?;
    let _canceller = command.canceller().map_err(|error| error.to_string())?;
    match blocking(move || command.wait()).await {
        Ok(CommandEnd::Exited(0)) => Ok(()),
        Ok(CommandEnd::Exited(code)) => Err(format!("it ended with exit code {code}")),
        Ok(CommandEnd::TimedOut) => Err(format!("it did not end within {} s", probe::COMMAND_TIMEOUT.as_secs())),
        Err(error) => Err(with_causes(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_status_is_read_from_a_whole_first_line_of_http_1_and_from_nothing_else() {
        for (answer, due) in [
            ("HTTP/1.1 200 OK\r\nDate:", Some(200)),
            ("HTTP/1.0 302 Found\n", Some(302)),
            ("HTTP/1.1 503\r\n", Some(503)),
            ("HTTP/1.1 204 \r\n", Some(204)),
            ("HTTP/1.1 200 OK", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 +20 OK\r\n", None),
            ("HTTP/2 200 OK\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_of(answer.as_bytes()), due, "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_answered_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status_of(&answer);
            let _ = status_of(&[b"HTTP/1.1 ".as_slice(), &answer].concat());
        }
    }
}

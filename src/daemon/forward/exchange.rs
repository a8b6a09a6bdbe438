//! One question at the upstreams: by UDP, by TCP where the answer is cut, from the next where one does not answer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand_core::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::Upstreams;
use crate::dns::{Foreign, Found};
use crate::sys::random;

/// How long a question may take in all: the C library gives up after 5 s a try.
const TIME_LIMIT: Duration = Duration::from_millis(4500);
/// How long one upstream has to answer a datagram.
const DATAGRAM_TIME_LIMIT: Duration = Duration::from_millis(1200);
/// Twice each, so that one lost datagram is no failure.
const ROUNDS: usize = 2;
const DATAGRAM_LEN_MAX: usize = 4096;

/// What the upstreams say; none if none of them says anything in time.
pub async fn ask(upstreams: &Upstreams, question: &Foreign) -> Option<Found> {
    let deadline = Instant::now() + TIME_LIMIT;
    let list = upstreams.list().await;
    let mut inconclusive = None;
    for upstream in (0..ROUNDS).flat_map(|_| list.iter().copied()) {
        match timeout_at(deadline, ask_one(upstream, question)).await {
            Ok(Ok(found)) if found.is_conclusive() => return Some(found),
            // It has answered, if not well: the others may do better, it will not.
            Ok(Ok(found)) => inconclusive = Some(found),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "an upstream does not answer"),
            Err(_) => break,
        }
    }
    inconclusive
}

async fn ask_one(upstream: SocketAddr, question: &Foreign) -> io::Result<Found> {
    // A new port and a new id for each: two things that a forger has to guess (RFC 5452).
    let id = (random::Os.next_u32() & 0xffff) as u16;
    let query = question.upstream_query(id);
    let found = timeout(DATAGRAM_TIME_LIMIT, by_datagram(upstream, question, id, &query)).await??;
    if !found.is_truncated() {
        return Ok(found);
    }
    match timeout(DATAGRAM_TIME_LIMIT, by_stream(upstream, question, id, &query)).await {
        Ok(Ok(whole)) => Ok(whole),
        // Some of it is better than nothing; it says that it is cut.
        Ok(Err(error)) => {
            tracing::debug!(%upstream, %error, "an upstream does not answer by TCP");
            Ok(found)
        }
        Err(_) => Ok(found),
    }
}

async fn by_datagram(upstream: SocketAddr, question: &Foreign, id: u16, query: &[u8]) -> io::Result<Found> {
    let any = if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // Connected, it takes nothing from anybody else, and hears that nobody is there.
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut bytes = [0; DATAGRAM_LEN_MAX];
    loop {
        let len = socket.recv(&mut bytes).await?;
        match Found::decode(&bytes[..len], id, question) {
            Ok(found) => return Ok(found),
            // Forged, or late: the right one may still come.
            Err(error) => tracing::debug!(%upstream, %error, "a datagram that is no answer"),
        }
    }
}

async fn by_stream(upstream: SocketAddr, question: &Foreign, id: u16, query: &[u8]) -> io::Result<Found> {
    let mut stream = TcpStream::connect(upstream).await?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    Found::decode(&bytes, id, question).map_err(io::Error::other)
}

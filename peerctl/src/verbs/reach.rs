//! `forward` and `proxy`: ports of this machine that lead into a network, without root.
//!
//! Each connection that is taken here opens a conversation with the node, which becomes the stream to the container.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use peerd::control::{ExitStatus, Failure, Frame, Request, decode_line, encode_line};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

use super::Session;
use super::socks;
use crate::client::unless_it_was_ended;

/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1024;
const COPY_BYTES: usize = 128 << 10;
/// The longest line with which the node answers a dial.
const LINE_LEN_MAX: usize = 64 << 10;

/// `LOCAL:NAME:PORT`, where LOCAL is a port or `ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub listen: SocketAddr,
    pub name: String,
    pub port: u16,
}

impl FromStr for Forward {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is LOCAL:NAME:PORT, as 5432:db.shop:5432 or 127.0.0.2:8080:web.shop:80";
        let mut parts = text.rsplitn(3, ':');
        let (Some(port), Some(name), Some(local)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(FORM);
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or("the container's PORT is from 1 to 65535")?;
        if name.is_empty() || name.contains(['[', ']']) {
            return Err(FORM);
        }
        let listen = match local.parse() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => local.parse().map_err(|_| "LOCAL is a port, or ADDRESS:PORT as 127.0.0.2:8080 or [::1]:8080")?,
        };
        Ok(Self { listen, name: name.to_owned(), port })
    }
}

/// Where connections are taken, and where each leads.
struct Way {
    listener: TcpListener,
    to: To,
}

#[derive(Clone)]
enum To {
    Container(String, u16),
    /// Where the client says.
    Socks,
}

/// What connections need.
pub(super) struct Gate {
    socket: PathBuf,
    network: String,
}

pub fn forward(session: &Session, forwards: &[Forward], network: Option<String>) -> Result<(), Failure> {
    let ways = forwards.iter().map(|forward| {
        let to = To::Container(forward.name.clone(), forward.port);
        (forward.listen, to)
    });
    serve(session, "forward", ways.collect(), network)
}

pub fn proxy(session: &Session, listen: SocketAddr, network: Option<String>) -> Result<(), Failure> {
    serve(session, "proxy", vec![(listen, To::Socks)], network)
}

/// Takes connections until the process is ended.
fn serve(session: &Session, verb: &str, ways: Vec<(SocketAddr, To)>, network: Option<String>) -> Result<(), Failure> {
    // Says at once that there is no node or no such network, and which one is meant if only one is there.
    let detail: peerd::control::NetworkDetail = session.client.ask(&Request::NetworkInspect { network })?.parse()?;
    let gate = Arc::new(Gate { socket: session.client.socket.clone(), network: detail.row.id });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| {
        let hint = "does the system still give threads?";
        Failure::new(ExitStatus::Failure, CANNOT, error, hint)
    })?;
    runtime.block_on(async {
        let mut bound = Vec::new();
        for (listen, to) in ways {
            let listener = TcpListener::bind(listen).await.map_err(|error| cannot_listen(listen, &error))?;
            bound.push(Way { listener, to });
        }
        let listens: Vec<String> =
            bound.iter().filter_map(|way| Some(way.listener.local_addr().ok()?.to_string())).collect();
        for listen in listens.iter().filter(|listen| !is_local(listen)) {
            session.narrate(&format!("whoever reaches {listen} reaches into the network"));
        }
        let data = serde_json::json!({ "network": gate.network, "listen": listens });
        session.answer(verb, &data, &[], &(listens.join("\n") + "\n"))?;
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut serving = tokio::task::JoinSet::new();
        for way in bound {
            serving.spawn(take(way, gate.clone(), room.clone()));
        }
        // Each goes on for ever.
        serving.join_next().await;
        Ok(())
    })
}

const CANNOT: &str = "cannot take connections";

fn cannot_listen(listen: SocketAddr, error: &std::io::Error) -> Failure {
    let status = peerd::daemon::status_of_io(error);
    let hint = match status {
        ExitStatus::Conflict => "give another port, or 0 for any that is free",
        ExitStatus::Permission => "ports below 1024 are for root: give another one",
        _ => "give another address",
    };
    Failure::new(status, CANNOT, format_args!("{listen}: {error}"), hint)
}

fn is_local(listen: &str) -> bool {
    listen.parse().is_ok_and(|listen: SocketAddr| match listen.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    })
}

async fn take(way: Way, gate: Arc<Gate>, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let (client, from) = match way.listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                eprintln!("warning: cannot take a connection: {error}");
                // Out of descriptors, most likely: the next one would fail just as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (gate, to) = (gate.clone(), way.to.clone());
        tokio::spawn(async move {
            let led = match to {
                To::Container(name, port) => gate.lead(client, &name, port).await,
                To::Socks => socks::lead(client, &gate).await,
            };
            if let Err(why) = led {
                eprintln!("{from}: {why}");
            }
            drop(place);
        });
    }
}

/// A stream to a container.
pub(super) type Stream = BufReader<UnixStream>;

impl Gate {
    async fn lead(&self, mut client: TcpStream, name: &str, port: u16) -> Result<(), String> {
        let mut stream = self.dial(name, port).await.map_err(|failure| format!("{}: {}", failure.what, failure.why))?;
        join(&mut client, &mut stream).await;
        Ok(())
    }

    /// Opens a stream to a container's port.
    pub(super) async fn dial(&self, name: &str, port: u16) -> Result<Stream, Failure> {
        let request = Request::Dial { network: Some(self.network.clone()), name: name.to_owned(), port };
        converse(&self.socket, &request).await.unwrap_or_else(|error| {
            let what = format!("cannot reach the node at {}", self.socket.display());
            Err(Failure::new(ExitStatus::Unreachable, what, error, "start it with `peerd`"))
        })
    }
}

/// Carries bytes both ways until both have ended; that one of them breaks off is no news for anybody else.
pub(super) async fn join(client: &mut TcpStream, stream: &mut Stream) {
    let _ = client.set_nodelay(true);
    let _ = copy_bidirectional_with_sizes(client, stream, COPY_BYTES, COPY_BYTES).await;
}

async fn converse(socket: &Path, request: &Request) -> std::io::Result<Result<Stream, Failure>> {
    let mut stream = BufReader::with_capacity(LINE_LEN_MAX, UnixStream::connect(socket).await?);
    stream.write_all(&encode_line(request)).await.or_else(unless_it_was_ended)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = tokio::io::AsyncReadExt::take(&mut stream, LINE_LEN_MAX as u64).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match decode_line(&line).map_err(std::io::Error::other)? {
            Frame::Done { .. } => return Ok(Ok(stream)),
            Frame::Failed(failure) => return Ok(Err(failure)),
            Frame::Step(_) | Frame::Event(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_listened_on_is_told_apart() {
        use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        for (kind, code, hint) in
            [(AddrInUse, 5, "0 for any"), (PermissionDenied, 6, "root"), (AddrNotAvailable, 2, "address")]
        {
            let failure = cannot_listen(listen, &kind.into());
            assert_eq!(failure.status.code(), code);
            assert!(failure.hint.contains(hint), "{failure}");
        }
    }

    #[test]
    fn a_forward_is_a_local_port_a_name_and_a_port() {
        let forward = |text: &str| text.parse::<Forward>();
        let parsed = forward("5432:db.shop:5432").expect("a forward");
        assert_eq!(
            (parsed.listen.to_string(), parsed.name.as_str(), parsed.port),
            ("127.0.0.1:5432".into(), "db.shop", 5432)
        );
        assert_eq!(forward("0.0.0.0:80:10.240.0.1:80").expect("a forward").listen.to_string(), "0.0.0.0:80");
        assert_eq!(forward("[::1]:80:web.shop:80").expect("a forward").listen.to_string(), "[::1]:80");
        for bad in
            ["", "80", "80:web", "80:web:0", "80:web:65536", "80::80", "x:web:80", "80:web:", "::1:80:web:80", ":::"]
        {
            assert!(forward(bad).is_err(), "{bad:?}");
        }
    }
}

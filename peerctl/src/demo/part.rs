//! What each container of the demo runs: it serves a page on port 80 and looks at others when asked.
//!
//! Questions come as lines of JSON on standard input, each answered by a line on standard output; the first line of all
//! says that the page is served.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peerd::sys::clock;
use serde::{Deserialize, Serialize};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest page.
const PAGE_LEN_MAX: usize = 512 << 20;

/// A look at something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Ask {
    /// Ask the system's resolver for a name.
    Resolve(String),
    /// Fetch the page there.
    Fetch(SocketAddr),
    /// Fetch this many MiB.
    Speed(SocketAddr, usize),
    /// See whether a connection is taken there.
    Connect(SocketAddr),
}

/// What was seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    pub addresses: Vec<String>,
    /// The page, or its first 4 KiB.
    pub page: String,
    pub error: Option<String>,
    pub ms: f64,
    pub bytes: usize,
}

/// Serves `page` and answers questions until standard input ends.
pub fn play(page: String) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("0.0.0.0:80"))?;
    runtime.spawn(serve(listener, page));
    say(&Seen::default())?;
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let began = clock::now();
        let mut seen = match ask {
            Ask::Resolve(name) => resolve(&name),
            Ask::Fetch(at) => runtime.block_on(fetch(at, "/")),
            Ask::Speed(at, mib) => runtime.block_on(fetch(at, &format!("/mib/{mib}"))),
            Ask::Connect(at) => {
                let error = TcpStream::connect_timeout(&at, CONNECT_TIMEOUT).err().map(|error| error.to_string());
                Seen { error, ..Seen::default() }
            }
        };
        seen.ms = began.elapsed().as_secs_f64() * 1e3;
        say(&seen)?;
    }
    Ok(())
}

fn say(seen: &Seen) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(seen)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

fn resolve(name: &str) -> Seen {
    match (name, 0).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<String> = found.map(|at| at.ip().to_string()).collect();
            // getaddrinfo gives one entry for each kind of socket.
            addresses.sort();
            addresses.dedup();
            Seen { addresses, ..Seen::default() }
        }
        Err(error) => Seen { error: Some(error.to_string()), ..Seen::default() },
    }
}

async fn serve(listener: tokio::net::TcpListener, page: String) {
    while let Ok((stream, _)) = listener.accept().await {
        let page = page.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(request, page.clone()));
            // A visitor who leaves early is no fault of the server.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(request: Request<Incoming>, page: String) -> anyhow::Result<Response<Full<Bytes>>> {
    let mib = request.uri().path().strip_prefix("/mib/").and_then(|n| n.parse::<usize>().ok());
    let body = match mib {
        Some(mib) => Bytes::from(vec![b'.'; mib.saturating_mul(1 << 20).min(PAGE_LEN_MAX)]),
        None => Bytes::from(page),
    };
    Ok(Response::new(Full::new(body)))
}

async fn fetch(at: SocketAddr, path: &str) -> Seen {
    match tokio::time::timeout(FETCH_TIMEOUT, try_fetch(at, path)).await {
        Ok(Ok(body)) => Seen {
            bytes: body.len(),
            page: String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned(),
            ..Seen::default()
        },
        Ok(Err(error)) => Seen { error: Some(error.to_string()), ..Seen::default() },
        Err(_) => Seen { error: Some("it took too long".to_owned()), ..Seen::default() },
    }
}

async fn try_fetch(at: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(at)).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().uri(path).header("host", at.to_string()).body(Full::new(Bytes::new()))?;
    // The sender must go when the page is here: while it stands, the connection waits for the next request.
    let exchange = async move {
        let body = sender.send_request(request).await?.into_body();
        let body = Limited::new(body, PAGE_LEN_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok(body.to_bytes())
    };
    let (body, _) = tokio::join!(exchange, connection);
    body
}

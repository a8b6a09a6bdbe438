//! The parts that the demo's containers play: a page that is served, and somebody who looks for it.
//!
//! Each prints one line of JSON on stdout, for the story to read.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Subcommand;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peerd::sys::clock;
use serde::{Deserialize, Serialize};

/// How long a look may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest page that is read; the one that measures speed is this long.
const PAGE_LEN_MAX: usize = 512 << 20;

#[derive(Debug, Subcommand)]
pub enum Part {
    /// Serve a page over HTTP on port 80 until the namespaces end
    Serve { page: String },
    /// Ask the system's resolver for a name
    Resolve { name: String },
    /// Fetch the page at ADDRESS:PORT
    Fetch { at: SocketAddr },
    /// Fetch this many MiB and tell how fast they came
    Speed { at: SocketAddr, mib: usize },
    /// See whether ADDRESS:PORT takes a connection
    Connect { at: SocketAddr },
}

/// What a part saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    pub addresses: Vec<String>,
    pub page: Option<String>,
    pub connected: bool,
    pub error: Option<String>,
    pub ms: f64,
    pub bytes: usize,
}

/// Plays a part.
pub fn play(part: Part) -> anyhow::Result<()> {
    let began = clock::now();
    let mut seen = match part {
        Part::Serve { page } => return runtime()?.block_on(serve(page)),
        Part::Resolve { name } => resolve(&name),
        Part::Fetch { at } => runtime()?.block_on(fetch(at, "/")),
        Part::Speed { at, mib } => runtime()?.block_on(fetch(at, &format!("/mib/{mib}"))),
        Part::Connect { at } => match TcpStream::connect_timeout(&at, PROBE_TIMEOUT) {
            Ok(_) => Seen { connected: true, ..Seen::default() },
            Err(error) => Seen { error: Some(error.to_string()), ..Seen::default() },
        },
    };
    seen.ms = milliseconds(began);
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn resolve(name: &str) -> Seen {
    match (name, 0).to_socket_addrs() {
        Ok(found) => Seen { addresses: found.map(|at| at.ip().to_string()).collect(), ..Seen::default() },
        Err(error) => Seen { error: Some(error.to_string()), ..Seen::default() },
    }
}

async fn serve(page: String) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:80").await?;
    println!("{}", serde_json::to_string(&Seen::default())?);
    loop {
        let (stream, _) = listener.accept().await?;
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
        Some(mib) => Bytes::from(vec![b'.'; (mib << 20).min(PAGE_LEN_MAX)]),
        None => Bytes::from(page),
    };
    Ok(Response::new(Full::new(body)))
}

async fn fetch(at: SocketAddr, path: &str) -> Seen {
    match tokio::time::timeout(PROBE_TIMEOUT * 3, try_fetch(at, path)).await {
        Ok(Ok(body)) => Seen {
            bytes: body.len(),
            page: Some(String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned()),
            connected: true,
            ..Seen::default()
        },
        Ok(Err(error)) => Seen { error: Some(error.to_string()), ..Seen::default() },
        Err(_) => Seen { error: Some("it took too long".to_owned()), ..Seen::default() },
    }
}

async fn try_fetch(at: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = tokio::time::timeout(PROBE_TIMEOUT, tokio::net::TcpStream::connect(at)).await??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::builder().uri(path).header("host", at.to_string()).body(Full::new(Bytes::new()))?;
    // The sender must go when the page is here: while it stands, the connection waits for the next request.
    let exchange = async move {
        let body = sender.send_request(request).await?.into_body();
        let body = Limited::new(body, PAGE_LEN_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok(body.to_bytes())
    };
    let (body, _) = tokio::join!(exchange, connection);
    body
}

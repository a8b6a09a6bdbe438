//! From settings to a node that serves, and back: each thing is made once all that it needs is there.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rand_core::RngCore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::attachments::{self, Attachments, Callers, Local};
use super::config::{Args, Config, Defaults};
use super::control;
use super::data::{DataConfig, DataHandle, DataPlane, Facts};
use super::engine::{Engine, Parts};
use super::forward::{self, HOST_RESOLV_CONF, Upstreams};
use super::node::Node;
use super::quic::Endpoint;
use super::quic_socket::QuicSocket;
use super::resolver;
use super::verbs;
use super::writer::Writer;
use crate::control::{ExitStatus, Failure};
use crate::gossip::{self, Gossip, Identity, Stored};
use crate::membership::Membership;
use crate::model::{Label, NodeId};
use crate::sys::store::StateDir;
use crate::sys::udp::{self, UdpSocket};
use crate::sys::{clock, interfaces, random, socket};

/// How many verbs may have work for the machine at once; further ones wait.
const COMMAND_COUNT_MAX: usize = 64;
/// How long the node tries to say goodbye when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

fn cannot_start(status: ExitStatus, why: impl std::fmt::Display, hint: impl std::fmt::Display) -> Failure {
    Failure::new(status, "cannot start the node", why, hint)
}

/// Runs a node until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<(), Failure> {
    let defaults = Defaults { state_dir: socket::default_state_dir(), socket: socket::default_socket() };
    let config = Config::load(args, defaults)
        .map_err(|error| cannot_start(ExitStatus::InvalidFile, error, "peerd --print-default-config"))?;
    log_to_stderr(&config.log)?;
    let state = StateDir::open(&config.state_dir).map_err(|error| {
        let hint = error.advice().unwrap_or("give another with --state-dir");
        cannot_start(ExitStatus::Conflict, verbs::with_causes(&error), hint)
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("peerd-control")
        .enable_all()
        .build()
        .map_err(|error| cannot_start(ExitStatus::Failure, error, "does the system still give threads?"))?;
    let result = runtime.block_on(serve(&config, Arc::new(state)));
    runtime.shutdown_timeout(STOP_TIMEOUT);
    result
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    // A tenant can make the DNS library complain about its queries as often as it likes; that is our counters' business.
    let filter = format!("hickory_proto=error,quinn_udp=error,{filter}");
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| cannot_start(ExitStatus::Usage, error, "--log info, or as --log info,peerd::router=debug"))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second node in one process keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).try_init();
    Ok(())
}

/// What the state folder held.
struct Loaded {
    identity: Identity,
    stored: Stored,
    remembered: Vec<Local>,
}

fn load(state: &StateDir) -> Result<Loaded, Failure> {
    let damaged = |why: String| {
        let hint = "restore the state folder from a backup, or expel this node and join with an empty one";
        cannot_start(ExitStatus::InvalidFile, why, hint)
    };
    let mut files = state.load_all().map_err(|error| damaged(verbs::with_causes(&error)))?;
    let remembered = files.remove(attachments::FILE);
    let remembered = Attachments::remembered(remembered.as_deref())
        .map_err(|error| damaged(format!("{}: {error}", attachments::FILE)))?;
    let mut stored = Stored::empty();
    for (name, content) in files {
        stored.insert(name, content);
    }
    let (identity, write) =
        Identity::load_or_make(&stored, &mut random::Os).map_err(|error| damaged(verbs::with_causes(&error)))?;
    if let Some(write) = write {
        let content = write.content.as_ref().expect("a new identity is written, not removed");
        state.write(&write.name, content).map_err(|error| damaged(verbs::with_causes(&error)))?;
        stored.apply(&write);
    }
    Ok(Loaded { identity, stored, remembered })
}

async fn serve(config: &Config, state: Arc<StateDir>) -> Result<(), Failure> {
    let Loaded { identity, stored, remembered } = load(&state)?;
    let failed =
        |error: &dyn std::error::Error, hint: &str| cannot_start(ExitStatus::Failure, verbs::with_causes(error), hint);

    let (membership, watched) = watch::channel(Arc::<Membership>::default());
    let callers: Callers = Arc::new(RwLock::new(HashMap::new()));
    let shared = udp::bind(config.listen).map_err(|error| {
        let why = format!("UDP {}: {error}", config.listen);
        cannot_start(ExitStatus::Conflict, why, "is another peerd running? give another port with --listen")
    })?;
    let listen = shared.local_addr().map_err(|error| failed(&error, "give another with --listen"))?;
    let (data, quic, facts) = start_data_plane(shared, identity.node(), watched.clone(), callers.clone())?;

    let endpoint =
        Endpoint::new(identity.key(), quic).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let name = node_name(config);
    let gossip_config = gossip::Config { name, endpoints: endpoints(config.listen, listen.port()) };
    let id = identity.node();
    let gossip = Gossip::new(identity, &stored, gossip_config, clock::now(), clock::unix_s(), random::seed()).map_err(
        |error| {
            let hint = "restore the state folder from a backup, or expel this node and join with an empty one";
            cannot_start(ExitStatus::InvalidFile, verbs::with_causes(&error), hint)
        },
    )?;
    let writer = Writer::spawn(state.clone()).map_err(|error| failed(&error, "does the system still give threads?"))?;
    let parts = Parts { gossip, endpoint: Arc::new(endpoint), data: data.clone(), writer, membership };
    let (engine, inbox) = Engine::new(parts);
    let (commands, work) = mpsc::channel(COMMAND_COUNT_MAX);
    let engine = tokio::spawn(engine.run(inbox, work));

    let node = Arc::new(Node {
        id,
        listen,
        state_dir: config.state_dir.clone(),
        started: clock::now(),
        data: data.clone(),
        facts,
        membership: watched,
        attachments: Attachments::new(state, callers),
        commands,
    });
    verbs::adopt(&node, remembered).await;
    let control = socket::bind(&config.socket).map_err(|error| {
        let hint = error.advice().unwrap_or("give another with --socket");
        cannot_start(ExitStatus::Conflict, verbs::with_causes(&error), hint)
    })?;
    let mut terminated =
        signal(SignalKind::terminate()).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let mut interrupted =
        signal(SignalKind::interrupt()).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let sweeping = tokio::spawn({
        let node = node.clone();
        async move { verbs::detach_gone(&node).await }
    });
    let (listener, socket_file) = control.into_tokio().map_err(|e| failed(&e, "--socket"))?;
    let serving = tokio::spawn(control::serve(listener, node.clone()));
    tracing::info!(node = %id, %listen, socket = %config.socket.display(), "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    tracing::info!("stopping; containers keep their interfaces for the next start");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    sweeping.abort();
    serving.abort();
    drop(socket_file);
    engine.abort();
    data.shutdown().await;
    Ok(())
}

fn start_data_plane(
    udp: UdpSocket,
    node: NodeId,
    membership: watch::Receiver<Arc<Membership>>,
    callers: Callers,
) -> Result<(DataHandle, Arc<QuicSocket>, Facts), Failure> {
    let (resolver, outside) = resolver::new(membership, callers, random::Os.next_u64());
    let config = DataConfig { socket: udp, resolver: Box::new(resolver), seed: random::seed(), node };
    let (data, quic, facts) = DataPlane::spawn(config).map_err(|error| {
        cannot_start(ExitStatus::Failure, verbs::with_causes(&error), "does the system still give threads?")
    })?;
    let waking = data.clone();
    tokio::spawn(forward::run(outside, Upstreams::of(HOST_RESOLV_CONF), move || waking.wake()));
    Ok((data, quic, facts))
}

/// The name that the settings give, else the host's, else one that says nothing.
fn node_name(config: &Config) -> Label {
    let host = || rustix::system::uname().nodename().to_str().ok()?.split('.').next()?.parse().ok();
    config.name.clone().or_else(host).unwrap_or_else(|| "node".parse().expect("a label"))
}

/// Where other nodes can reach this one: the address it was told to listen on, else all of the host's.
fn endpoints(listen: SocketAddr, port: u16) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![SocketAddr::new(listen.ip(), port)];
    }
    let addresses = interfaces::host_addresses().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the host's addresses: other nodes learn this one's when it dials them");
        Vec::new()
    });
    let fits = |ip: &IpAddr| listen.is_ipv6() || ip.is_ipv4();
    addresses.into_iter().filter(fits).map(|ip| SocketAddr::new(ip, port)).collect()
}

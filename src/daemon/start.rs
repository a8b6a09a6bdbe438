//! From settings to a node that serves, and back: each thing is made once all that it needs is there.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rand_core::RngCore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::addresses;
use super::attachments::{self, Attachments, Callers, Local};
use super::config::{Args, Config, Defaults};
use super::control;
use super::data::{DataConfig, DataHandle, DataPlane, Facts};
use super::engine::{Engine, Parts};
use super::forward::{self, HOST_RESOLV_CONF, Upstreams};
use super::gateway::GatewayHandle;
use super::gateways::Gateways;
use super::ingress::{self, Ingress};
use super::node::{Leaving, Node};
use super::quic::Endpoint;
use super::quic_socket::QuicSocket;
use super::readiness::Readiness;
use super::resolver;
use super::tasks::Tasks;
use super::verbs;
use super::watches::Watches;
use super::writer::{HeadFile, Writer};
use crate::control::{ExitStatus, Failure};
use crate::dns::Suffix;
use crate::gossip::{self, Gossip, Identity, Stored};
use crate::membership::Membership;
use crate::model::{Label, NodeId};
use crate::sys::store::{StateDir, StoreError};
use crate::sys::udp::{self, UdpSocket};
use crate::sys::{clock, random, socket};

/// How many verbs may have work for the machine at once; further ones wait.
const COMMAND_COUNT_MAX: usize = 64;
/// How long a start waits for the containers of the last run; they are taken up behind it then.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the node tries to say goodbye when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The task that says goodbye to the peers when the node stops.
const ENGINE: &str = "what speaks with the other nodes";

fn cannot_start(status: ExitStatus, why: impl std::fmt::Display, hint: impl std::fmt::Display) -> Failure {
    Failure::new(status, "cannot start the node", why, hint)
}

/// The system does not give the state folder, or takes nothing for it: what is in it may be whole.
fn refused(error: &StoreError) -> Failure {
    let hint = error.advice().unwrap_or("give another with --state-dir");
    cannot_start(verbs::status_of_store(error), verbs::with_causes(error), hint)
}

/// What the state folder holds is not what this node wrote.
fn damaged(error: &gossip::StoreError) -> Failure {
    let hint = "restore the state folder from a backup, or expel this node and join with an empty one";
    cannot_start(ExitStatus::InvalidFile, verbs::with_causes(error), hint)
}

/// Runs a node until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<(), Failure> {
    let defaults = Defaults { state_dir: socket::default_state_dir(), socket: socket::default_socket() };
    let config = Config::load(args, defaults)
        .map_err(|error| cannot_start(ExitStatus::InvalidFile, error, "peerd --print-default-config"))?;
    log_to_stderr(&config.log)?;
    allow_descriptors();
    forbid_cores();
    let state = StateDir::open(&config.state_dir).map_err(|error| refused(&error))?;
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

/// Each connection from outside takes a descriptor, and nginx one more: as many as this user may have.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}

/// The image of a node that crashes would hold its keys, those of its networks and of its containers.
fn forbid_cores() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "a crash may write this node's keys into a core file");
    }
}

fn log_to_stderr(filter: &str) -> Result<(), Failure> {
    // A tenant can make the DNS library complain about its queries as often as it likes; that is our counters' business.
    let filter = format!("hickory_proto=error,quinn_udp=error,{filter}");
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| cannot_start(ExitStatus::Usage, error, "--log info, or as --log info,peerd::router=debug"))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    // A line that cannot be written is lost: to say so on the same stderr would panic, and end the node.
    let log = log.log_internal_errors(false);
    // A second node in one process keeps the first one's log.
    let _ = log.try_init();
    Ok(())
}

/// What the state folder held.
struct Loaded {
    identity: Identity,
    stored: Stored,
    remembered: Vec<Local>,
    ingress: ingress::Settings,
}

fn load(state: &StateDir) -> Result<Loaded, Failure> {
    let mut files = state.load_all().map_err(|error| refused(&error))?;
    let remembered = Attachments::remembered(files.remove(attachments::FILE)).map_err(|error| {
        let hint = "delete it and the containers' interfaces (ip link delete peerd0), start, and attach them again";
        cannot_start(ExitStatus::InvalidFile, error, hint)
    })?;
    let ingress = Ingress::remembered(files.remove(ingress::FILE)).map_err(|error| {
        let hint = "delete it, start, and give the node its ingress role again: peerctl ingress enable";
        cannot_start(ExitStatus::InvalidFile, error, hint)
    })?;
    let mut stored = Stored::empty();
    for (name, content) in files {
        stored.insert(name, content);
    }
    let (identity, write) = Identity::load_or_make(&stored, &mut random::Os).map_err(|error| damaged(&error))?;
    if let Some(write) = write {
        let content = write.content.as_ref().expect("a new identity is written, not removed");
        state.write(&write.name, content).map_err(|error| refused(&error))?;
        stored.apply(&write);
    }
    Ok(Loaded { identity, stored, remembered, ingress })
}

async fn serve(config: &Config, state: Arc<StateDir>) -> Result<(), Failure> {
    let Loaded { identity, stored, remembered, ingress } = load(&state)?;
    let failed =
        |error: &dyn std::error::Error, hint: &str| cannot_start(ExitStatus::Failure, verbs::with_causes(error), hint);

    let (membership, watched) = watch::channel(Arc::<Membership>::default());
    let callers: Callers = Arc::new(RwLock::new(HashMap::new()));
    let shared = udp::bind(config.listen).map_err(|error| {
        let why = format!("UDP {}: {error}", config.listen);
        let hint = match verbs::status_of_io(&error) {
            ExitStatus::Conflict => "is another peerd running? give another port with --listen",
            _ => "give another address or port with --listen",
        };
        cannot_start(verbs::status_of_io(&error), why, hint)
    })?;
    let listen = shared.local_addr().map_err(|error| failed(&error, "give another with --listen"))?;
    let mut tasks = Tasks::default();
    let (data, quic, facts, forwarding) =
        start_data_plane(shared, identity.node(), watched.clone(), callers.clone(), config.dns_suffixes.clone())?;

    let endpoint =
        Endpoint::new(identity.key(), quic).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let name = node_name(config);
    let announced = addresses::endpoints(config.listen, listen.port()).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the host's addresses: other nodes learn this one's when it dials them");
        Vec::new()
    });
    let head = HeadFile::of_socket(&config.socket);
    let gossip_config = gossip::Config { name, endpoints: announced.clone(), kept: head.marks() };
    let id = identity.node();
    let gossip = Gossip::new(identity, &stored, gossip_config, clock::now(), clock::unix_s(), random::seed())
        .map_err(|error| damaged(&error))?;
    let writer =
        Writer::spawn(state.clone(), head).map_err(|error| failed(&error, "does the system still give threads?"))?;
    let gateway = GatewayHandle::spawn().map_err(|error| failed(&error, "does the system still give threads?"))?;
    let parts = Parts { gossip, endpoint: Arc::new(endpoint), data: data.clone(), writer, membership };
    let (engine, inbox) = Engine::new(parts);
    let (commands, work) = mpsc::channel(COMMAND_COUNT_MAX);
    let (stop, stopped) = oneshot::channel();
    tasks.spawn(ENGINE, engine.run(inbox, work, stopped));
    tasks.spawn("the resolver's way outside", async {
        forwarding.await;
        // Its questions have ended with the data plane, which says so itself.
        std::future::pending().await
    });
    let watched_gateway = gateway.clone();
    tasks.spawn("the gateway", async move { watched_gateway.stopped().await });

    let node = Arc::new(Node {
        id,
        listen,
        state_dir: config.state_dir.clone(),
        started: clock::now(),
        data: data.clone(),
        facts,
        membership: watched,
        ingress: Arc::new(Ingress::new(state.clone(), ingress)),
        attachments: Arc::new(Attachments::new(state, callers, remembered)),
        gateways: Gateways::new(gateway, config.dns_suffixes.clone()),
        suffixes: config.dns_suffixes.clone(),
        watches: Watches::default(),
        readiness: Readiness::default(),
        leaving: Leaving::default(),
        commands,
        stop: tokio::sync::Notify::new(),
    });
    let adopting = tokio::spawn({
        let node = node.clone();
        async move { verbs::adopt(&node).await }
    });
    // A node that asks the others what it did last has nothing written until they have answered, and serves meanwhile.
    let _ = tokio::time::timeout(ADOPT_TIMEOUT, adopting).await;
    let control = socket::bind(&config.socket).map_err(|error| {
        let hint = error.advice().unwrap_or("give another with --socket");
        cannot_start(verbs::status_of_socket(&error), verbs::with_causes(&error), hint)
    })?;
    let mut terminated =
        signal(SignalKind::terminate()).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let mut interrupted =
        signal(SignalKind::interrupt()).map_err(|error| failed(&error, "the daemon's log tells more"))?;
    let events = data.take_events().expect("nobody has asked before");
    tasks.spawn("the data plane", {
        let node = node.clone();
        async move { verbs::heed(&node, events).await }
    });
    tasks.spawn("what lets go containers that have ended", {
        let node = node.clone();
        async move { verbs::sweep(&node).await }
    });
    tasks.spawn("what asks containers whether they are ready", {
        let node = node.clone();
        async move { verbs::make_ready(&node).await }
    });
    tasks.spawn("what follows the host's addresses", {
        let (node, listen) = (node.clone(), config.listen);
        async move { addresses::follow(&node, listen, announced).await }
    });
    tasks.spawn("the ingress", ingress::serve(node.clone()));
    let (listener, socket_file) = control.into_tokio().map_err(|e| failed(&e, "--socket"))?;
    tasks.spawn("the control socket", control::serve(listener, node.clone()));
    tracing::info!(node = %id, %listen, socket = %config.socket.display(), "ready");
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let result = tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        () = node.stop.notified() => Ok(()),
        what = tasks.failed() => Err(Failure::new(
            ExitStatus::Failure,
            "the node cannot go on",
            format!("{what} has failed"),
            "start it again: containers keep their interfaces; the log tells more",
        )),
    };
    tracing::info!("stopping; containers keep their interfaces for the next start");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // Outside in: no more callers, then goodbye to the peers, and the packets last.
    drop(socket_file);
    let _ = stop.send(());
    if !tasks.stop(ENGINE, STOP_TIMEOUT).await {
        tracing::warn!("the peers were not all told goodbye");
    }
    data.shutdown().await;
    result
}

fn start_data_plane(
    udp: UdpSocket,
    node: NodeId,
    membership: watch::Receiver<Arc<Membership>>,
    callers: Callers,
    suffixes: Vec<Suffix>,
) -> Result<(DataHandle, Arc<QuicSocket>, Facts, impl Future<Output = ()> + use<>), Failure> {
    let (resolver, outside) = resolver::new(membership, callers, suffixes, random::Os.next_u64());
    let config = DataConfig { socket: udp, resolver: Box::new(resolver), seed: random::seed(), node };
    let (data, quic, facts) = DataPlane::spawn(config).map_err(|error| {
        cannot_start(ExitStatus::Failure, verbs::with_causes(&error), "does the system still give threads?")
    })?;
    let waking = data.clone();
    let forwarding = forward::run(outside, Upstreams::of(HOST_RESOLV_CONF), move || waking.wake());
    Ok((data, quic, facts, forwarding))
}

/// The name that the settings give, else the host's, else one that says nothing.
fn node_name(config: &Config) -> Label {
    let host = || rustix::system::uname().nodename().to_str().ok()?.split('.').next()?.parse().ok();
    config.name.clone().or_else(host).unwrap_or_else(|| "node".parse().expect("a label"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::store::FILE_LEN_MAX;

    #[test]
    fn a_backup_is_asked_for_when_a_file_is_damaged_and_not_when_the_system_does_not_give_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(&folder.path().join("state")).expect("opens");
        load(&state).map(drop).expect("a first start");
        let failed = |state: &StateDir| load(state).map(drop).expect_err("refused");

        let key = state.path().join("node.key");
        let whole = std::fs::read(&key).expect("reads");
        std::fs::write(&key, &whole[..whole.len() / 2]).expect("written");
        let failure = failed(&state);
        assert_eq!(failure.status, ExitStatus::InvalidFile);
        assert!(failure.hint.contains("backup"), "{failure}");
        std::fs::write(&key, whole).expect("written");

        let large = std::fs::File::create(state.path().join("large")).expect("created");
        large.set_len(FILE_LEN_MAX + 1).expect("it takes no room");
        let failure = failed(&state);
        assert_eq!(failure.status, ExitStatus::Failure);
        assert!(!failure.hint.contains("backup"), "{failure}");
    }
}

//! The task that keeps fronts and nginx as they are to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::access::AccessLog;
use super::nginx::{NginxError, Program, Running, end_leftovers, worker_account};
use super::pace::pause;
use super::{Settings, has_ipv6, make_folders, why_not_free};
use crate::control::Failure;
use crate::daemon::gateway::{Front, Listen};
use crate::daemon::node::{Node, lock};
use crate::daemon::verbs::{blocking, with_causes};
use crate::ingress::{Certificate, Endpoint, HostPort, Layout, Plan, Route, Transport, UPSTREAM_DIR, configuration};
use crate::model::NetworkId;
use crate::sys::clock;

const CONFIGURATION: &str = "nginx.conf";
const CANDIDATE: &str = "nginx.conf.next";
/// Changes within so long are one reload.
const COALESCE: Duration = Duration::from_millis(100);
/// Between two reloads there is so many times what the last one took.
const RELOAD_SHARE: u32 = 5;
const TICK: Duration = Duration::from_secs(1);
/// How long it is before what failed is tried again: an nginx, a port that somebody else has, a gateway. Twice as long each time
/// that it fails again, so many times.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_DOUBLED_MAX: u32 = 3;
/// How long all others wait for a gateway: it takes some milliseconds, unless the network's homes do not answer.
const GATEWAYS_WAIT: Duration = Duration::from_secs(1);
const CONNECTIONS_MAX: u32 = 16_384;
/// Descriptors of a worker beside its connections.
const OTHER_DESCRIPTORS: u64 = 64;
/// So many things that are not served are told.
const PROBLEMS_MAX: usize = 64;

/// Keeps the node's fronts and nginx as they are to be, until the node stops.
pub async fn serve(node: Arc<Node>) {
    let (mut membership, mut settled) = (node.membership.clone(), node.ingress.settled.subscribe());
    let mut certificates = node.ingress.certificates.subscribe();
    let mut keeper = Keeper::new(node.clone());
    keeper.keep().await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // When all is kept once more: what changes until then is one reload.
    let mut due: Option<Instant> = None;
    loop {
        let pause = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = membership.changed() => {
                // At each one, also of those that wait for a reload: who has gone is gone.
                node.gateways.retain(&node).await;
                changed.is_ok()
            }
            changed = settled.changed() => changed.is_ok(),
            changed = certificates.changed() => changed.is_ok(),
            _ = tick.tick() => {
                keeper.look().await;
                continue;
            }
            () = pause => {
                due = None;
                keeper.tries = 0;
                keeper.keep().await;
                continue;
            }
        };
        if !changed {
            // The node stops.
            return keeper.stop().await;
        }
        due.get_or_insert_with(|| keeper.next.max(clock::now() + COALESCE));
    }
}

/// What there is at this moment.
struct Keeper {
    node: Arc<Node>,
    program: Option<Program>,
    running: Option<Running>,
    /// What nginx serves, and on which ports.
    live: String,
    ports: BTreeSet<NonZeroU16>,
    log: Arc<Mutex<AccessLog>>,
    /// Gateways that are being attached.
    attaching: BTreeMap<NetworkId, JoinHandle<Result<(), Failure>>>,
    /// What the disk says, and at which counts of what is settled and of the certificates' changes it did.
    read: Option<([u64; 2], Read)>,
    /// Not before this moment is anything reloaded.
    next: Instant,
    /// When what time may mend is tried again, and how often it was since the last change.
    retry: Option<Instant>,
    tries: u32,
    /// When nginx was reloaded or started last, and until when the next reload is put off, if it is.
    reloaded: Instant,
    put_off: Option<Instant>,
}

/// What is read from the disk.
#[derive(Clone)]
struct Read {
    certificates: Arc<[Certificate]>,
    /// Who runs nginx's workers.
    user: Option<&'static str>,
}

/// What is not served, in words.
#[derive(Debug, Default)]
struct Problems {
    told: Vec<String>,
    /// Whether time may mend some of it, though nothing changes that this node hears of.
    passing: bool,
}

impl Problems {
    fn lasting(&mut self, problem: String) {
        self.told.push(problem);
    }

    fn passing(&mut self, problem: String) {
        self.told.push(problem);
        self.passing = true;
    }
}

impl Keeper {
    fn new(node: Arc<Node>) -> Self {
        let log = Arc::new(Mutex::new(AccessLog::new(&node.ingress.dir)));
        Self {
            program: None,
            running: None,
            live: String::new(),
            ports: BTreeSet::new(),
            log,
            attaching: BTreeMap::new(),
            read: None,
            next: clock::now(),
            retry: None,
            tries: 0,
            reloaded: clock::now(),
            put_off: None,
            node,
        }
    }

    /// Has everything be as the records want it.
    async fn keep(&mut self) {
        let node = self.node.clone();
        let membership = node.membership();
        let (settled, settings) = node.ingress.settled.borrow().clone();
        let plan = Plan::of(&membership, node.id);
        let mut problems = Problems { told: plan.disputes.clone(), passing: false };
        self.put_off = None;

        let ipv6 = has_ipv6();
        let fronts = fronts(&plan, &settings, ipv6, &node.ingress.dir);
        if settings.enabled
            && let Err(error) = make_folders(&node.ingress.dir)
        {
            problems.passing(format!("the ingress folder cannot be made: {error}"));
        }
        let networks = fronts.iter().map(|front| front.network.clone()).collect();
        let served = self.gateways(networks, &mut problems).await;
        let fronts = fronts.into_iter().filter(|front| served.contains(&front.network)).collect();
        node.gateways.thread.set_fronts(fronts);
        let set = node.gateways.thread.fronts().await;
        for port in &plan.host_ports {
            let listen = host_port(port, ipv6);
            if let Some(error) = set.get(&listen).and_then(|front| front.error.as_ref()) {
                problems.passing(format!("{} {} of {}: {error}", port.transport, port.port, port.service));
            }
        }
        problems.passing |= set.values().any(|front| front.error.is_some());

        let began = clock::now();
        let fault = match settings.enabled {
            true => self.keep_nginx(&plan, (settled, &settings), ipv6, &mut problems).await.err(),
            false => {
                self.stop_nginx().await;
                None
            }
        };
        let now = clock::now();
        self.next = now + now.saturating_duration_since(began) * RELOAD_SHARE;
        let again = fault.is_some() || problems.passing;
        self.retry = again.then(|| now + RETRY * 2u32.pow(self.tries.min(RETRY_DOUBLED_MAX)));
        if let Some(error) = &fault {
            self.read = None;
            tracing::warn!(error = with_causes(error), "nginx does not serve what it is to serve");
        }
        let mut problems = problems.told;
        problems.truncate(PROBLEMS_MAX);
        let mut shown = lock(&node.ingress.shown);
        shown.settled = Some(settled);
        shown.plan = plan;
        shown.problems = problems;
        shown.fault = fault.map(|error| with_causes(&error));
        shown.nginx_version = self.program.as_ref().map(|program| program.version.to_string());
        shown.nginx_since = self.running.as_ref().map(|running| running.since);
        drop(shown);
        node.ingress.kept.notify_waiters();
    }

    /// Has a gateway be on each of these networks, and says on which one is. One that takes long is not waited for: it is
    /// looked after until it is there.
    async fn gateways(&mut self, networks: BTreeSet<NetworkId>, problems: &mut Problems) -> BTreeSet<NetworkId> {
        self.attaching.retain(|network, made| networks.contains(network) || !made.is_finished());
        for network in &networks {
            let (node, of) = (self.node.clone(), network.clone());
            let attach = || tokio::spawn(async move { node.gateways.ensure(&node, &of).await });
            self.attaching.entry(network.clone()).or_insert_with(attach);
        }
        let deadline = clock::now() + GATEWAYS_WAIT;
        let mut served = BTreeSet::new();
        for network in networks {
            let Some(mut made) = self.attaching.remove(&network) else { continue };
            match tokio::time::timeout_at(deadline.into(), &mut made).await {
                Ok(Ok(Ok(()))) => drop(served.insert(network)),
                Ok(Ok(Err(failure))) => problems.passing(format!("{}: {}", failure.what, failure.why)),
                Ok(Err(failed)) => problems.passing(format!("cannot reach into network {network}: {failed}")),
                Err(_) => {
                    problems.lasting(format!("network {network}: its gateway waits for an address"));
                    self.attaching.insert(network, made);
                }
            }
        }
        served
    }

    /// What the disk says, read again only when it may say something else.
    async fn read(&mut self, settled: u64) -> io::Result<Read> {
        let seen = [settled, *self.node.ingress.certificates.borrow()];
        if let Some((_, read)) = self.read.as_ref().filter(|(at, _)| *at == seen) {
            return Ok(read.clone());
        }
        let ingress = self.node.ingress.clone();
        let read = blocking(move || {
            let certificates = ingress.certificates()?.list().into();
            Ok::<_, io::Error>(Read { certificates, user: worker_account() })
        });
        Ok(self.read.insert((seen, read.await?)).1.clone())
    }

    async fn keep_nginx(
        &mut self,
        plan: &Plan,
        (settled, settings): (u64, &Settings),
        ipv6: bool,
        problems: &mut Problems,
    ) -> Result<(), NginxError> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => self.program.insert(Program::find().await?).clone(),
        };
        let dir = self.node.ingress.dir.clone();
        let Read { certificates, user } = self.read(settled).await?;
        let layout = Layout {
            certificates: &certificates,
            http2: program.http2(),
            ipv6,
            proxy_from: &settings.proxy_from,
            user,
            connections_max: connections_max(),
        };
        let mut plan = plan.clone();
        let is_running = self.running.as_mut().is_some_and(|running| !running.has_ended());
        if !is_running {
            // What they listen on is not somebody else's.
            end_leftovers(&dir).await;
        }
        let running = is_running.then_some(&self.ports);
        leave_out_taken_ports(&mut plan, running, ipv6, problems);
        let check = Check { program: &program, dir: &dir, layout: &layout };
        let text = check.written(&plan, problems);
        if is_running && text == self.live {
            return Ok(());
        }
        if let Some(running) = self.running.as_mut().filter(|_| is_running) {
            let at = self.reloaded + pause(running.generations().await);
            if clock::now() < at {
                self.put_off = Some(at);
                return Ok(());
            }
        }
        let routes = plan.routes.len();
        let text = check.acceptable(text, &mut plan, problems).await?;
        if plan.routes.len() < routes {
            // A certificate may have broken since it was read.
            self.read = None;
        }
        if is_running && text == self.live {
            return Ok(());
        }
        write(&dir, &text).await?;
        let (candidate, configuration) = (dir.join(CANDIDATE), dir.join(CONFIGURATION));
        blocking(move || fs::rename(candidate, configuration)).await?;
        let began = clock::now();
        match self.running.as_mut().filter(|_| is_running) {
            Some(running) => {
                running.reload().await?;
                let took = clock::now().saturating_duration_since(began);
                let shown = &mut *lock(&self.node.ingress.shown);
                shown.reloads += 1;
                shown.last_reload_ms = u64::try_from(took.as_millis()).ok();
                tracing::info!(routes = plan.routes.len(), ms = took.as_millis(), "nginx reloaded");
            }
            None => {
                let running = self.running.insert(program.start(&dir, CONFIGURATION)?);
                running.started().await?;
                tracing::info!(routes = plan.routes.len(), pid = running.pid, "nginx started");
            }
        }
        self.reloaded = clock::now();
        self.live = text;
        self.ports = plan.routes.iter().map(|route| route.port).collect();
        Ok(())
    }

    /// What nobody tells: what was asked for, and whether nginx still runs.
    async fn look(&mut self) {
        let node = self.node.clone();
        let ended = self.running.as_mut().is_some_and(Running::has_ended);
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= clock::now());
        let (due, put_off) = (is_over(self.retry), is_over(self.put_off));
        let attached = self.attaching.values().any(JoinHandle::is_finished);
        if ended {
            let why = self.running.take().map(|running| running.last_words()).unwrap_or_default();
            tracing::warn!(why, "nginx has ended: it is started again");
        }
        if ended || due || put_off || attached {
            self.tries = if due { self.tries.saturating_add(1) } else { self.tries };
            self.keep().await;
        }
        let log = self.log.clone();
        match blocking(move || lock(&log).look()).await {
            Ok(true) => {
                if let Some(running) = &self.running
                    && let Err(error) = running.reopen()
                {
                    tracing::warn!(%error, "nginx was not told to open its log anew");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the access log cannot be read"),
        }
        let fronts = node.gateways.thread.fronts().await;
        let shown = &mut *lock(&node.ingress.shown);
        shown.fronts = fronts;
        shown.counts.clone_from(&lock(&self.log).services);
    }

    async fn stop_nginx(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
            tracing::info!("nginx stopped");
        }
        self.live.clear();
        self.ports.clear();
    }

    async fn stop(mut self) {
        self.stop_nginx().await;
    }
}

/// The fronts of the gateway: host ports, loopback ports, and nginx's ways to the containers.
fn fronts(plan: &Plan, settings: &Settings, ipv6: bool, dir: &Path) -> Vec<Front> {
    let mut fronts: Vec<Front> = Vec::new();
    for port in &plan.host_ports {
        let listen = host_port(port, ipv6);
        let at = |to: &[Endpoint]| to.iter().map(|endpoint| endpoint.at).collect();
        let (to, kept) = (at(&port.to), at(&port.kept));
        fronts.push(Front { listen, network: port.service.network.clone(), to, spare: Vec::new(), kept });
    }
    for port in &plan.loopback {
        let Some(first) = port.to.first() else { continue };
        let to: Vec<SocketAddrV4> = port.to.iter().map(|endpoint| endpoint.at).collect();
        let own = Some(port.address);
        for address in own.into_iter().chain(port.on_localhost.then_some(Ipv4Addr::LOCALHOST)) {
            let listen = Listen::Tcp(SocketAddr::from((address, port.port.get())));
            let (network, to) = (first.network.clone(), to.clone());
            fronts.push(Front { listen, network, to, spare: Vec::new(), kept: Vec::new() });
        }
    }
    if settings.enabled {
        let spares = plan.spares();
        let spare = |endpoint| spares.get(endpoint).map(Vec::as_slice).unwrap_or_default();
        fronts.extend(plan.endpoints.iter().map(|endpoint| upstream(endpoint, spare(endpoint), dir)));
    }
    fronts
}

fn host_port(port: &HostPort, ipv6: bool) -> Listen {
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let at = SocketAddr::new(any, port.port.get());
    match port.transport {
        Transport::Tcp => Listen::Tcp(at),
        Transport::Udp => Listen::Udp(at),
    }
}

/// nginx sees a connection that was taken, so it is for the gateway to find who answers it: of a request that was sent to one
/// container nginx asks another one only if it may be done twice.
fn upstream(endpoint: &Endpoint, spare: &[&Endpoint], dir: &Path) -> Front {
    // Who may pass through the folders is settled; nginx's workers may be another user's.
    let listen = Listen::Unix { path: dir.join(UPSTREAM_DIR).join(endpoint.file_name()), mode: 0o666 };
    let spare = spare.iter().map(|endpoint| endpoint.at).collect();
    Front { listen, network: endpoint.network.clone(), to: vec![endpoint.at], spare, kept: Vec::new() }
}

/// Leaves out the routes of ports that nginx could not listen on: a port of one must not keep it from all others.
fn leave_out_taken_ports(plan: &mut Plan, ours: Option<&BTreeSet<NonZeroU16>>, ipv6: bool, problems: &mut Problems) {
    let mut taken: BTreeMap<NonZeroU16, Option<String>> = BTreeMap::new();
    for route in &plan.routes {
        taken.entry(route.port).or_insert_with(|| match ours.is_some_and(|ours| ours.contains(&route.port)) {
            true => None,
            false => why_not_free(route.port, ipv6).map(|error| error.to_string()),
        });
    }
    for (port, why) in taken.iter().filter_map(|(port, why)| Some((port, why.as_ref()?))) {
        problems.passing(format!("port {port} cannot be listened on: {why}"));
    }
    plan.routes.retain(|route| taken.get(&route.port).is_none_or(Option::is_none));
}

/// nginx's verdict.
struct Check<'a> {
    program: &'a Program,
    dir: &'a Path,
    layout: &'a Layout<'a>,
}

impl Check<'_> {
    /// The text of the whole plan.
    fn written(&self, plan: &Plan, problems: &mut Problems) -> String {
        let (text, uncovered) = configuration(plan, self.layout);
        for (service, name) in uncovered {
            let name = name.map_or_else(|| "its names".to_owned(), |name| name.to_string());
            problems.lasting(format!("{service}: no certificate covers {name}: peerctl ingress cert"));
        }
        text
    }

    /// The text that nginx accepts: `text`, which is the whole plan's, or that of what is left when everything that nginx refuses is
    /// taken out.
    async fn acceptable(&self, text: String, plan: &mut Plan, problems: &mut Problems) -> Result<String, NginxError> {
        let Err(error) = self.verdict(&text).await else { return Ok(text) };
        // With nothing to serve there is nothing to take out.
        self.verdict(&configuration(&Plan::default(), self.layout).0).await?;
        tracing::warn!(%error, "nginx refuses the configuration: what it refuses is looked for");
        let mut good: Vec<Route> = Vec::new();
        // Halves of halves: what is refused is found in so many steps as its share has halves.
        let mut left = vec![std::mem::take(&mut plan.routes)];
        while let Some(mut some) = left.pop() {
            let candidate = Plan { routes: good.iter().chain(&some).cloned().collect(), ..Plan::default() };
            match self.verdict(&configuration(&candidate, self.layout).0).await {
                Ok(()) => good.append(&mut some),
                Err(error) => match some.as_slice() {
                    [only] => problems.lasting(format!("{} on port {}: {error}", only.service, only.port)),
                    _ => {
                        left.push(some.split_off(some.len() / 2));
                        left.push(some);
                    }
                },
            }
        }
        plan.routes = good;
        Ok(configuration(plan, self.layout).0)
    }

    async fn verdict(&self, text: &str) -> Result<(), NginxError> {
        write(self.dir, text).await?;
        self.program.check(self.dir, CANDIDATE).await
    }
}

/// Writes a configuration that nginx is to look at.
async fn write(dir: &Path, text: &str) -> io::Result<()> {
    let (path, text) = (dir.join(CANDIDATE), text.to_owned());
    blocking(move || fs::write(path, text)).await
}

/// As many as the descriptors are for.
fn connections_max() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(u32::MAX).clamp(64, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::{Certificate, ServiceKey, Web};
    use proptest::prelude::*;

    fn route(service: &str, port: u16) -> Route {
        let label = |text: &str| text.parse().expect("a label");
        let key = ServiceKey { network: "pn-a".parse().expect("an id"), app: label("app"), service: label(service) };
        let at = SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, 1), 80);
        let endpoint = Endpoint { network: key.network.clone(), vni: 7.try_into().expect("a VNI"), at };
        let port = NonZeroU16::new(port).expect("not 0");
        Route {
            service: key,
            web: Web::Https,
            port,
            names: vec![format!("{service}.test").parse().expect("a name")],
            chosen: vec![endpoint],
        }
    }

    #[tokio::test]
    async fn what_nginx_refuses_is_left_out_and_the_rest_is_served() {
        let Ok(program) = Program::find().await else {
            eprintln!("there is no nginx here: tests/run installs it");
            return;
        };
        let dir = tempfile::tempdir().expect("a folder");
        make_folders(dir.path()).expect("folders");
        let store = super::super::certificates::Certificates::new(dir.path());
        let names = ["a", "b", "c", "d", "e"];
        for name in names {
            store.issue(&[format!("{name}.test").parse().expect("a name")], 1_800_000_000).expect("made");
        }
        let certificates = store.list();
        let layout = Layout {
            certificates: &certificates,
            http2: program.http2(),
            ipv6: has_ipv6(),
            proxy_from: &[],
            user: worker_account(),
            connections_max: 512,
        };
        let check = Check { program: &program, dir: dir.path(), layout: &layout };
        let port = |at: usize| 20_000 + at as u16;
        let routes: Vec<_> = names.iter().enumerate().map(|(at, name)| route(name, port(at))).collect();
        let mut problems = Problems::default();
        let mut plan = Plan { routes: routes.clone(), ..Plan::default() };
        let text = check.written(&plan, &mut problems);
        check.acceptable(text, &mut plan, &mut problems).await.expect("accepted");
        assert_eq!((plan.routes.len(), problems.told.len()), (5, 0));
        let from = ["10.0.0.0/8", "2001:db8::7"].map(|text| text.parse().expect("a subnet"));
        let behind = Check { layout: &Layout { proxy_from: &from, ..layout.clone() }, ..check };
        behind.verdict(&behind.written(&plan, &mut problems)).await.expect("accepted behind balancers too");
        // One tenant's certificate breaks after it was taken.
        let bad = certificates.iter().find(|c| c.covers(&"c.test".parse().expect("a name"))).expect("there");
        fs::write(dir.path().join(format!("certificates/{}.crt", bad.file)), "nonsense").expect("written");
        // Each default server has the first certificate; that one is whole.
        let mut plan = Plan { routes, ..Plan::default() };
        let layout = Layout { certificates: &sorted_last(&certificates, bad), ..layout };
        let check = Check { layout: &layout, ..check };
        let text = check.written(&plan, &mut problems);
        let text = check.acceptable(text, &mut plan, &mut problems).await.expect("the rest is accepted");
        assert_eq!((plan.routes.len(), problems.told.len()), (4, 1), "{problems:?}");
        assert!(problems.told[0].starts_with("pn-a/app/c on port 20002: nginx does not accept"), "{problems:?}");
        assert!(text.contains("a.test") && !text.contains("c.test"));
    }

    fn sorted_last(all: &[Certificate], bad: &Certificate) -> Vec<Certificate> {
        let mut sorted: Vec<_> = all.iter().filter(|c| *c != bad).cloned().collect();
        sorted.push(bad.clone());
        sorted
    }

    /// What may stand where a server name is written, with everything that means something to nginx.
    fn written() -> impl Strategy<Value = String> {
        let tricks = [
            "a.com; include /etc/passwd",
            "a.com { } server {",
            "$host",
            "~^.*$",
            "a.com\nroot /;",
            "*.a.com",
            "_",
            "-",
            "a_b",
        ];
        let long = "[a-z0-9_*.-]{1,253}";
        prop_oneof![
            proptest::sample::select(tricks.to_vec()).prop_map(Into::into),
            "[ -~\n]{0,40}",
            "[a-z0-9_-]{1,63}",
            long
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whatever of it is a server name goes into the text, and nginx reads that as names.
        #[test]
        fn nginx_itself_accepts_every_server_name_that_may_be_written(
            texts in proptest::collection::vec(written(), 1..12),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let Ok(program) = runtime.block_on(Program::find()) else { return Ok(()) };
            let names: Vec<_> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            let dir = tempfile::tempdir().expect("a folder");
            make_folders(dir.path()).expect("folders");
            let layout = Layout {
                certificates: &[],
                http2: program.http2(),
                ipv6: has_ipv6(),
                proxy_from: &[],
                user: worker_account(),
                connections_max: 512,
            };
            let route = Route { names, web: Web::Http, ..route("a", 20_100) };
            let (text, _) = configuration(&Plan { routes: vec![route], ..Plan::default() }, &layout);
            let verdict = runtime.block_on(Check { program: &program, dir: dir.path(), layout: &layout }.verdict(&text));
            prop_assert!(verdict.is_ok(), "{verdict:?}\n{text}");
        }
    }

    #[test]
    fn a_port_that_somebody_else_has_keeps_nginx_from_nothing_else() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let taken = holder.local_addr().expect("bound").port();
        let mut plan = Plan { routes: vec![route("a", taken), route("b", 20_001)], ..Plan::default() };
        let mut problems = Problems::default();
        leave_out_taken_ports(&mut plan, None, has_ipv6(), &mut problems);
        assert_eq!((plan.routes.len(), problems.told.len()), (1, 1), "{problems:?}");
        assert!(problems.passing, "whoever has it may end");
        let ours = BTreeSet::from([NonZeroU16::new(taken).expect("not 0")]);
        let mut plan = Plan { routes: vec![route("a", taken)], ..Plan::default() };
        leave_out_taken_ports(&mut plan, Some(&ours), has_ipv6(), &mut problems);
        assert_eq!((plan.routes.len(), problems.told.len()), (1, 1), "nginx has it already");
    }
}

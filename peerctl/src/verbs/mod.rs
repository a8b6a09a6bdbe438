//! What each verb does: ask the node, print the answer.

mod exec;
mod ingress;
mod join;
mod place;
pub mod reach;
mod run;
mod services;
mod socks;
mod wait;

pub use run::causes;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use peerd::control::{
    Attached, ContainerDetail, ContainerRow, Deployed, DnsAnswer, DnsExplanation, DomainNames, DropRow, ExitStatus,
    Failure, Invited, Joined, Left, NetworkCreated, NetworkDetail, NetworkRow, NodeRow, Request, Status, Target,
    Waited, Warning,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::{Container, Dns, Global, Network, Node, Verb};
use crate::client::Client;
use crate::qr;
use crate::render::{self, Paint};

/// Does what was asked for and returns the exit code.
pub fn carry_out(global: &Global, verb: Verb) -> Result<u8, Failure> {
    let session = Session::new(global);
    match verb {
        Verb::Init { name } => session.show("init", &Request::Init { name }, |joined: &Joined| {
            let root_key = joined.root_key.as_deref().unwrap_or("the state folder");
            session.narrate(&format!(
                "this node is {} and the cluster's first signer\n\
                 the root key lies in {root_key}: move it to a safe place offline, it is needed only to appoint signers\n\
                 next: peerctl network create NAME, then peerctl invite --network NAME",
                joined.name
            ));
            format!("{}\n", joined.cluster)
        })?,
        Verb::Invite(invite) => {
            let ttl_s = invite.ttl.as_secs();
            let request = Request::Invite { networks: invite.networks, ttl_s, uses: invite.uses, signer: invite.signer };
            session.show("invite", &request, |invited: &Invited| {
                if invite.qr {
                    eprint!("{}", qr::code(&invited.token, session.paint));
                }
                session.narrate("on the other machine: peerctl join -   (and give it this token on standard input)");
                format!("{}\n", invited.token)
            })?;
        }
        Verb::Join { token } => {
            let token = join::read_token(&token)?;
            session.show("join", &Request::Join { token }, |joined: &Joined| {
                session.narrate(&format!("this node is {}, with {} network(s)", joined.name, joined.networks.len()));
                format!("{}\n", joined.cluster)
            })?;
        }
        Verb::Leave { drain, release } => session.show("leave", &Request::Leave { release, drain_s: drain.map(whole_s) }, |left: &Left| {
            if left.interfaces_kept > 0 {
                session.narrate(&format!("{} container(s) keep their interface until the next start", left.interfaces_kept));
            }
            String::new()
        })?,
        Verb::Network(network) => session.network(network)?,
        Verb::Node(Node::Ls) => session.show("node.ls", &Request::NodeLs, |rows: &Vec<NodeRow>| render::nodes(rows))?,
        Verb::Node(Node::Expel { node }) => {
            session.show("node.expel", &Request::NodeExpel { node }, |_: &serde_json::Value| String::new())?;
        }
        Verb::Attach(attach) => {
            let target = match (attach.target.netns, attach.target.pid) {
                (Some(path), _) => Target::Netns(absolute(path)?),
                (None, Some(pid)) => Target::Pid(pid),
                (None, None) => unreachable!("clap wants one of them"),
            };
            let request = Request::Attach(Box::new(place::attach_request(target, attach.place)?));
            session.show("attach", &request, |attached: &Attached| {
                let state = if attached.state == "ready" { "" } else { ", and starting" };
                session.narrate(&format!("{} is {}{state}", attached.id, attached.hostname));
                format!("{}\n", attached.address)
            })?;
        }
        Verb::Detach { target, drain } => {
            let target = if target.contains('/') { absolute(target.into())? } else { target };
            let request = Request::Detach { target, drain_s: drain.map(whole_s) };
            session.show("detach", &request, |_: &serde_json::Value| String::new())?;
        }
        Verb::Deploy { app, version, network } => {
            session.show("deploy", &Request::Deploy { app, version, network }, |deployed: &Deployed| {
                let Deployed { app, version, ready, .. } = deployed;
                session.narrate(&format!("{app} {version} is the latest, with {ready} ready container(s)"));
                String::new()
            })?;
        }
        Verb::Run(run) => return run::run(&session, run),
        Verb::Container(Container::Ls(ls)) | Verb::Ps(ls) => {
            let request = Request::ContainerLs { network: ls.network };
            session.show("container.ls", &request, |rows: &Vec<ContainerRow>| render::containers(rows))?;
        }
        Verb::Container(Container::Inspect { id }) => {
            let request = Request::ContainerInspect { id };
            session.show("container.inspect", &request, |detail: &ContainerDetail| render::container(detail))?;
        }
        Verb::Exec(exec) => return exec::exec(&session, exec),
        Verb::Dns(Dns::Query { name, kind, caller }) => {
            let request = Request::DnsQuery { name, kind, caller: caller.id };
            session.show("dns.query", &request, |answer: &DnsAnswer| {
                if answer.answers.is_empty() {
                    session.narrate(&format!("no records: {}", answer.status));
                }
                render::records(answer)
            })?;
        }
        Verb::Dns(Dns::Explain { name, caller }) => {
            let request = Request::DnsExplain { name, caller: caller.id };
            session.show("dns.explain", &request, |told: &DnsExplanation| render::explanation(told))?;
        }
        Verb::Apply(apply) => services::apply(&session, apply)?,
        Verb::Validate(validate) => services::validate(&session, &validate)?,
        Verb::Service(service) => services::service(&session, service)?,
        Verb::DomainNames { app, network } => {
            let request = Request::DomainNames { app, network };
            session.show("domain-names", &request, |names: &DomainNames| {
                names.names.iter().map(|name| format!("{name}\n")).collect()
            })?;
        }
        Verb::Status { check } => {
            let mut degraded = false;
            session.show("status", &Request::Status, |status: &Status| {
                degraded = status.health.iter().any(|row| row.severity == "error") || status.cluster.is_none();
                render::status(status, session.paint)
            })?;
            if check && degraded {
                return Ok(ExitStatus::Degraded.code());
            }
        }
        Verb::Drops => session.show("drops", &Request::Drops, |rows: &Vec<DropRow>| render::drops(rows))?,
        Verb::Wait(wait) => {
            let timeout_s = wait.timeout.as_secs();
            let request = Request::Wait { awaited: wait::awaited(wait)?, timeout_s };
            session.show("wait", &request, |_: &Waited| String::new())?;
        }
        Verb::Ingress(ingress) => ingress::ingress(&session, ingress)?,
        Verb::Forward { forwards, network } => reach::forward(&session, &forwards, network)?,
        Verb::Proxy { socks5, network } => reach::proxy(&session, socks5, network)?,
        Verb::Events { count } => wait::events(&session, count)?,
        Verb::Version => {
            let data = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
            session.answer("version", &data, &[], concat!("peerctl ", env!("CARGO_PKG_VERSION"), "\n"))?;
        }
        Verb::Demo(_) | Verb::DemoPart { .. } | Verb::Daemon(_) | Verb::Completion { .. } => unreachable!("main has taken these"),
    }
    Ok(0)
}

/// One call of peerctl: whom it asks and how it prints.
pub struct Session {
    pub client: Client,
    json: bool,
    quiet: bool,
    paint: Paint,
}

/// `--json`'s envelope.
#[derive(Serialize)]
struct Envelope<'a> {
    schema: String,
    data: &'a serde_json::Value,
    warnings: &'a [Warning],
}

impl Session {
    fn new(global: &Global) -> Self {
        let socket = global.socket.clone().unwrap_or_else(peerd::daemon::default_socket);
        Self {
            client: Client::new(socket, !global.quiet),
            json: global.json,
            quiet: global.quiet,
            paint: Paint::new(global.color),
        }
    }

    /// Asks the node and prints its answer: as JSON, or as `text` makes of it.
    fn show<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &Request,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let answer = self.client.ask(request)?;
        let text = text(&answer.parse()?);
        self.answer(verb, &answer.data, &answer.warnings, &text)
    }

    /// Prints an answer: as JSON if that is wanted, else as `text`.
    fn answer(&self, verb: &str, data: &serde_json::Value, warnings: &[Warning], text: &str) -> Result<(), Failure> {
        for warning in warnings.iter().filter(|_| !self.json) {
            eprintln!("warning: {}", warning.message);
        }
        print(self.line(verb, data, warnings, text).as_bytes())
    }

    /// An answer as it is printed.
    fn line(&self, verb: &str, data: &serde_json::Value, warnings: &[Warning], text: &str) -> String {
        if !self.json {
            return text.to_owned();
        }
        let envelope = Envelope { schema: format!("peerctl.{verb}/1"), data, warnings };
        serde_json::to_string(&envelope).expect("an answer has string keys only") + "\n"
    }

    /// Says something to the person, unless they want quiet or JSON.
    pub fn narrate(&self, text: &str) {
        if !self.quiet && !self.json {
            eprintln!("{text}");
        }
    }

    fn network(&self, network: Network) -> Result<(), Failure> {
        match network {
            Network::Create { name, internal } => {
                self.show("network.create", &Request::NetworkCreate { name, internal }, |created: &NetworkCreated| {
                    self.narrate(&format!("VNI {}; this node is its owner", created.vni));
                    format!("{}\n", created.id)
                })
            }
            Network::Ls => {
                self.show("network.ls", &Request::NetworkLs, |rows: &Vec<NetworkRow>| render::networks(rows))
            }
            Network::Inspect { network } => {
                self.show("network.inspect", &Request::NetworkInspect { network }, |detail: &NetworkDetail| {
                    render::network(detail)
                })
            }
            Network::Grant { network, node, owner } => {
                let request = Request::NetworkGrant { network, node, owner };
                self.show("network.grant", &request, |_: &serde_json::Value| String::new())
            }
            Network::Ungrant { network, node } => {
                let request = Request::NetworkUngrant { network, node };
                self.show("network.ungrant", &request, |_: &serde_json::Value| String::new())
            }
        }
    }
}

/// Prints an answer. A reader that went away is no fault of ours.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    print_if_read(bytes).map(drop)
}

/// As [`print`]; whether the reader is still there.
fn print_if_read(bytes: &[u8]) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(crate::broken_output(error)),
    }
}

/// Not shorter than it was said.
fn whole_s(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The node runs in another folder, so paths travel whole.
fn absolute(path: PathBuf) -> Result<String, Failure> {
    let refuse = |why: &dyn std::fmt::Display| {
        let what = format_args!("cannot use the path {}", path.display()).to_string();
        Failure::new(ExitStatus::Usage, what, why, "give the path of a network namespace, as /run/netns/NAME")
    };
    let whole = std::path::absolute(&path).map_err(|error| refuse(&error))?;
    whole.into_os_string().into_string().map_err(|_| refuse(&"it is not UTF-8"))
}

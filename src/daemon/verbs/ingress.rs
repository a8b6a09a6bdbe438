//! The ingress role, its routes and its certificates.

use std::time::Duration;

use super::Answer;
use super::attach::blocking;
use super::failures::with_causes;
use crate::control::{
    Authority, CertificateRow, ExitStatus, Failure, GatewayRow, IngressRoute, IngressStatus, PrivateKey,
};
use crate::daemon::gateway::{FrontStatus, Fronts, Listen};
use crate::daemon::ingress::certificates::{CertificateError, Certificates};
use crate::daemon::ingress::nginx::{NginxError, Program};
use crate::daemon::ingress::{Settings, Shown};
use crate::daemon::node::Node;
use crate::ingress::{Certificate, Endpoint, ServiceKey, Subnet, Transport};
use crate::membership::Membership;
use crate::model::ServerPattern;
use crate::sys::clock;

/// How long `enable` waits until nginx serves.
const ENABLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses and prefixes at which balancers are.
const BALANCERS_MAX: usize = 64;

pub async fn status(node: &Node) -> Answer {
    let settings = node.ingress.settings();
    let Shown { plan, nginx_version, nginx_since, reloads, last_reload_ms, problems, fault, .. } = node.ingress.show();
    let membership = node.membership();
    let gateways = node.gateways.thread.stats().await;
    let gateways = gateways.into_iter().map(|(network, stats)| GatewayRow {
        network: membership.network(&network).map_or_else(|| network.to_string(), |n| n.display_name().to_owned()),
        streams: stats.streams + stats.sessions,
        opened: stats.opened,
        refused: stats.refused,
        timed_out: stats.timed_out,
        reset: stats.reset,
        tx_bytes: stats.bytes_in,
        rx_bytes: stats.bytes_out,
        buffer_bytes: stats.buffer_bytes,
    });
    Answer::of(IngressStatus {
        enabled: settings.enabled,
        proxy_protocol: !settings.proxy_from.is_empty(),
        proxy_from: settings.proxy_from.iter().map(ToString::to_string).collect(),
        nginx_version,
        running_s: nginx_since.map(|since| clock::now().saturating_duration_since(since).as_secs()),
        reloads,
        last_reload_ms,
        routes: plan.routes.len(),
        certificates: listed(node).await.len(),
        fault,
        problems,
        gateways: gateways.collect(),
    })
}

pub fn routes(node: &Node) -> Answer {
    let (shown, settings) = (node.ingress.show(), node.ingress.settings());
    let membership = node.membership();
    let mut rows = Vec::new();
    for route in &shown.plan.routes {
        let counts = shown.counts.get(&route.service.to_string()).cloned().unwrap_or_default();
        rows.push(IngressRoute {
            names: route.names.iter().map(ToString::to_string).collect(),
            error: (!settings.enabled).then(|| "the ingress role is not enabled on this node".to_owned()),
            requests: counts.requests,
            errors: counts.by_class[4],
            rx_bytes: counts.received_bytes,
            tx_bytes: counts.sent_bytes,
            ..row(&membership, &route.service, route.port.to_string(), route.web.to_string(), &route.chosen)
        });
    }
    for port in &shown.plan.host_ports {
        let row = row(&membership, &port.service, port.port.to_string(), port.transport.to_string(), &port.to);
        let is_udp = port.transport == Transport::Udp;
        let here = |listen: &Listen| match listen {
            Listen::Tcp(at) => !is_udp && at.ip().is_unspecified() && at.port() == port.port.get(),
            Listen::Udp(at) => is_udp && at.port() == port.port.get(),
            Listen::Unix { .. } => false,
        };
        rows.push(with_front(row, &shown.fronts, here));
    }
    for port in &shown.plan.loopback {
        let listen = format!("{}:{}", port.address, port.port);
        let row = row(&membership, &port.service, listen.clone(), Transport::Tcp.to_string(), &port.to);
        rows.push(with_front(row, &shown.fronts, |front| matches!(front, Listen::Tcp(at) if at.to_string() == listen)));
    }
    Answer::of(rows)
}

fn row(
    membership: &Membership,
    service: &ServiceKey,
    listen: String,
    protocol: String,
    to: &[Endpoint],
) -> IngressRoute {
    let network = membership.network(&service.network);
    IngressRoute {
        listen,
        protocol,
        names: Vec::new(),
        network: network.map_or_else(|| service.network.to_string(), |network| network.display_name().to_owned()),
        app: service.app.to_string(),
        service: service.service.to_string(),
        to: to.iter().map(|endpoint| endpoint.at.to_string()).collect(),
        error: None,
        requests: 0,
        errors: 0,
        rx_bytes: 0,
        tx_bytes: 0,
    }
}

/// With what the gateway says of the front.
fn with_front(row: IngressRoute, fronts: &Fronts, is_it: impl Fn(&Listen) -> bool) -> IngressRoute {
    let Some((_, status)) = fronts.iter().find(|(listen, _)| is_it(listen)) else { return row };
    let FrontStatus { error, connections_ever, refused, bytes_in, bytes_out, .. } = status.clone();
    IngressRoute { error, requests: connections_ever, errors: refused, rx_bytes: bytes_in, tx_bytes: bytes_out, ..row }
}

pub async fn enable(node: &Node, proxy_from: Option<&[String]>) -> Result<Answer, Failure> {
    let proxy_from = match proxy_from {
        Some(texts) => subnets(texts)?,
        None => node.ingress.settings().proxy_from,
    };
    Program::find().await.map_err(|error| {
        let hint = match error {
            NginxError::Missing => {
                "apt-get install nginx (stop and disable its own service: systemctl disable --now nginx)"
            }
            _ => "install a newer nginx",
        };
        Failure::new(ExitStatus::Failure, "cannot enable the ingress role", with_causes(&error), hint)
    })?;
    settle(node, Settings { enabled: true, proxy_from }).await?;
    let shown = node.ingress.show();
    let answer = Answer::nothing();
    let answer = match shown.fault {
        Some(fault) => answer.warn("ingress-fault", fault),
        None => answer,
    };
    Ok(shown.problems.iter().fold(answer, |answer, problem| answer.warn("ingress-problem", problem)))
}

fn subnets(texts: &[String]) -> Result<Vec<Subnet>, Failure> {
    if texts.len() > BALANCERS_MAX {
        let why = format!("there may be {BALANCERS_MAX}");
        return Err(Failure::new(ExitStatus::Usage, "these are too many balancers", why, "give the prefix they share"));
    }
    let subnet = |text: &String| {
        text.parse().map_err(|error| {
            let what = format!("{:?} is nowhere a balancer can be", text.chars().take(120).collect::<String>());
            Failure::new(ExitStatus::Usage, what, error, "give an address or a prefix: 192.0.2.7, 192.0.2.0/24")
        })
    };
    texts.iter().map(subnet).collect()
}

pub async fn disable(node: &Node) -> Result<Answer, Failure> {
    settle(node, Settings { enabled: false, ..node.ingress.settings() }).await?;
    Ok(Answer::nothing())
}

async fn settle(node: &Node, settings: Settings) -> Result<(), Failure> {
    let ingress = node.ingress.clone();
    blocking(move || ingress.settle(settings)).await.map_err(|error| {
        let hint = error.advice().unwrap_or("the daemon's log tells more");
        Failure::new(ExitStatus::Failure, "cannot change the ingress role", with_causes(&error), hint)
    })?;
    node.ingress.kept(ENABLE_TIMEOUT).await;
    Ok(())
}

pub async fn certificates(node: &Node) -> Answer {
    let rows: Vec<_> = listed(node).await.iter().map(certificate_row).collect();
    Answer::of(rows)
}

async fn listed(node: &Node) -> Vec<Certificate> {
    let certificates = Certificates::new(&node.ingress.dir);
    blocking(move || certificates.list()).await
}

pub async fn add_certificate(node: &Node, chain: String, key: PrivateKey) -> Result<Answer, Failure> {
    let made = change(node, "cannot take the certificate", move |certificates| {
        certificates.add(chain.as_bytes(), key.0.as_bytes())
    })
    .await?;
    Ok(Answer::of(certificate_row(&made)))
}

pub async fn issue_certificate(node: &Node, names: &[String]) -> Result<Answer, Failure> {
    let names: Vec<ServerPattern> = names.iter().map(|name| pattern(name)).collect::<Result<_, _>>()?;
    let made =
        change(node, "cannot make a certificate", move |certificates| certificates.issue(&names, clock::unix_s()))
            .await?;
    Ok(Answer::of(certificate_row(&made)))
}

pub async fn remove_certificate(node: &Node, name: &str) -> Result<Answer, Failure> {
    let name = pattern(name)?;
    change(node, "cannot remove the certificate", move |certificates| certificates.remove(&name)).await?;
    Ok(Answer::nothing())
}

pub async fn authority(node: &Node) -> Result<Answer, Failure> {
    let pem =
        change(node, "cannot make a development authority", |certificates| certificates.authority(clock::unix_s()))
            .await?;
    Ok(Answer::of(Authority { pem }))
}

async fn change<T: Send + 'static>(
    node: &Node,
    what: &str,
    change: impl FnOnce(&Certificates) -> Result<T, CertificateError> + Send + 'static,
) -> Result<T, Failure> {
    let ingress = node.ingress.clone();
    let changed = blocking(move || change(&ingress.certificates()?)).await.map_err(|error| {
        let (status, hint) = match &error {
            CertificateError::Missing(_) => (ExitStatus::NotFound, "peerctl ingress cert ls"),
            CertificateError::Io(_) | CertificateError::Make(_) => (ExitStatus::Failure, "the daemon's log tells more"),
            _ => (ExitStatus::InvalidFile, "give the chain and its key as PEM files, the server's certificate first"),
        };
        Failure::new(status, what, with_causes(&error), hint)
    })?;
    node.ingress.certificates_changed();
    Ok(changed)
}

fn pattern(name: &str) -> Result<ServerPattern, Failure> {
    name.parse().map_err(|error| {
        let what = format!("{:?} is no server name", name.chars().take(120).collect::<String>());
        Failure::new(ExitStatus::Usage, what, error, "give names as app.example.com or *.example.com")
    })
}

fn certificate_row(certificate: &Certificate) -> CertificateRow {
    CertificateRow { names: certificate.names.iter().map(ToString::to_string).collect() }
}

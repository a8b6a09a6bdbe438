//! Services: what a network has, from service files and from containers.

use std::net::Ipv4Addr;

use super::Answer;
use super::look::container_row;
use crate::control::{ExitStatus, Failure, ServiceDetail, ServiceRow};
use crate::daemon::node::Node;
use crate::dns::PRIVATE_ZONE;
use crate::ingress::LoopbackPort;
use crate::membership::{Membership, Network};
use crate::model::{Label, PortDef, ServerPattern};
use crate::services::{Service, What, is_public_suffix};

/// The services of one network, or of all that this node holds; of one application, or of all.
pub fn list(node: &Node, network: Option<&str>, app: Option<&str>) -> Result<Answer, Failure> {
    let only = network.map(|text| node.network(Some(text))).transpose()?;
    let app = app.map(str::to_ascii_lowercase);
    let app = app.as_deref();
    let membership = node.membership();
    let networks = membership.networks().filter(|network| only.as_ref().is_none_or(|only| only.id == network.id));
    let rows: Vec<ServiceRow> = networks
        .flat_map(|network| {
            let apps = network.apps().filter(|id| app.is_none_or(|app| id.as_str() == app));
            apps.flat_map(|app| services_of(network, app)).map(|service| row(&membership, network, &service))
        })
        .collect();
    match (rows.is_empty(), app) {
        (true, Some(app)) => Err(no_service(&format!("there is no service of application {}", cut(app)))),
        _ => Ok(Answer::of(rows)),
    }
}

/// Each service once; a database's primary has two names.
fn services_of<'n>(network: &'n Network, app: &'n Label) -> Vec<Service<'n>> {
    let all = Service::all(network, app.as_str()).into_iter();
    all.filter(|(name, service)| *name == service.full_name()).map(|(_, service)| service).collect()
}

/// The service of a network that a person means by `NAME` or `NAME.NAMESPACE`, if there is one.
pub(super) fn find<'n>(network: &'n Network, text: &str, app: Option<&str>) -> Result<Option<Service<'n>>, Failure> {
    let lower = text.to_ascii_lowercase();
    let app = app.map(str::to_ascii_lowercase);
    let (name, namespace) = match lower.split_once('.') {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (lower.as_str(), None),
    };
    let app =
        app.as_deref().or_else(|| namespace.map(|text| network.app_of_namespace(text).map_or(text, Label::as_str)));
    let mut found: Vec<Service<'_>> = match app {
        Some(app) => Service::find(network, app, name).into_iter().collect(),
        None => network.apps().filter_map(|app| Service::find(network, app.as_str(), name)).collect(),
    };
    match (found.pop(), found.pop()) {
        (Some(_), Some(_)) => {
            let what = format!("several applications of network {} have a service {name}", network.display_name());
            let hint = "name it with --app; peerctl service ls lists them";
            Err(Failure::new(ExitStatus::Usage, what, "it cannot tell which one you mean", hint))
        }
        (found, _) => Ok(found),
    }
}

/// One service by its name.
pub fn inspect(node: &Node, text: &str, network: Option<&str>, app: Option<&str>) -> Result<Answer, Failure> {
    let network = node.network(network)?;
    let membership = node.membership();
    let service = find(&network, text, app)?.ok_or_else(|| {
        no_service(&format!("there is no service {} in network {}", cut(text), network.display_name()))
    })?;
    let full_name = service.full_name();
    let mut names: Vec<String> = vec![full_name.to_string()];
    if let What::Database(def, server) = service.what
        && def.map_or(crate::model::DEFAULT_SERVER, |def| def.primary.as_str()) == server
    {
        names.insert(0, service.name.to_string());
    }
    let row = row(&membership, &network, &service);
    let names_elsewhere = row.namespace.iter().flat_map(|namespace| {
        // Where names of the outside world end in it, the long form alone is private.
        let is_short = namespace.parse().is_ok_and(|namespace| !is_public_suffix(&namespace));
        names.iter().flat_map(move |name| {
            let short = is_short.then(|| format!("{name}.{namespace}"));
            short.into_iter().chain([format!("{name}.{namespace}.svc.{PRIVATE_ZONE}")])
        })
    });
    Ok(Answer::of(ServiceDetail {
        names_elsewhere: names_elsewhere.collect(),
        names,
        loopback: loopback(node, &network, &service).map(|address| address.to_string()),
        containers_serving: service
            .containers(&network)
            .map(|container| container_row(node, &membership, &network, container))
            .collect(),
        row,
    }))
}

/// Where this node listens for a service on loopback, if it does.
fn loopback(node: &Node, network: &Network, service: &Service<'_>) -> Option<Ipv4Addr> {
    let plan = node.ingress.show().plan;
    let is_it = |port: &&LoopbackPort| {
        let of = &port.service;
        of.network == network.id && of.app == *service.app && of.service == *service.name
    };
    plan.loopback.iter().find(is_it).map(|port| port.address)
}

fn no_service(what: &str) -> Failure {
    let why = "no service file defines it, and no container is attached for it";
    Failure::new(ExitStatus::NotFound, what, why, "peerctl service ls")
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

fn row(membership: &Membership, network: &Network, service: &Service<'_>) -> ServiceRow {
    let (kind, defined) = match service.what {
        What::Service(def) => ("service", def.is_some()),
        What::Database(def, _) => ("database", def.is_some()),
    };
    let ports: Vec<String> = match service.what {
        What::Service(def) => def.iter().flat_map(|def| &def.ports).map(PortDef::to_string).collect(),
        What::Database(def, server) => {
            def.and_then(|def| def.servers.get(server)).map(ToString::to_string).into_iter().collect()
        }
    };
    let traffic_matches = match service.what {
        What::Service(Some(def)) => def.traffic_matches.iter().map(ServerPattern::to_string).collect(),
        What::Service(None) | What::Database(..) => Vec::new(),
    };
    ServiceRow {
        name: service.full_name().into_owned(),
        network: network.display_name().to_owned(),
        app: service.app.to_string(),
        namespace: network.namespace(service.app).map(ToString::to_string),
        kind: kind.to_owned(),
        defined,
        ports,
        traffic_matches,
        dns_behaviour: service.dns_behaviour().to_string(),
        load_balancing: service.load_balancing().to_string(),
        containers: service.containers(network).count(),
        ready: service.ready(membership, network).len(),
    }
}

//! Service files: applied, and what came of them.

use std::sync::Arc;

use super::Answer;
use super::failures::{label, operation};
use super::look::container_row;
use crate::control::{Applied, ChangeRow, ExitStatus, Failure, HealthRow, ServiceDetail, ServiceRow};
use crate::daemon::node::Node;
use crate::dns::PRIVATE_ZONE;
use crate::membership::{Membership, Network};
use crate::model::{AppDef, Label, PortDef, ServerPattern};
use crate::services::file::{self, Options, Parsed, Problems};
use crate::services::{Op, Service, What, diff, disputes, disputes_among, is_public_suffix};
use crate::sys::clock;

/// So many conflicts of a network are told in `status`, of each kind.
const CONFLICTS_SHOWN_MAX: usize = 16;

/// Defines an application as its service file says, or tells what would change.
///
/// The text comes from peerctl, which has read it already: it is read again here, since anybody may speak on the socket.
pub async fn apply(
    node: &Node,
    network: Option<&str>,
    app: Option<&str>,
    text: &str,
    dry_run: bool,
) -> Result<Answer, Failure> {
    let app = app.map(|app| label("an application", app)).transpose()?;
    let Parsed { def, warnings } = file::parse(text.as_bytes(), &Options { app }).map_err(|found| invalid(&found))?;
    let network = node.network(network)?;
    let what = format!("cannot define application {} in network {}", def.id, network.display_name());
    let refuse = |error| operation(&what, &error, &node.membership());
    let id = network.id.clone();
    node.call(move |engine| engine.gossip.check_owner(&id)).await?.map_err(refuse)?;
    check_others(&network, &def, &what)?;

    let before = network.definition(def.id.as_str());
    let changes = diff(before.map(Arc::as_ref), Some(&def));
    let applied = Applied {
        network: network.display_name().to_owned(),
        app: def.id.to_string(),
        namespace: def.namespace.to_string(),
        dry_run,
        changes: changes
            .into_iter()
            .map(|change| ChangeRow { op: word(change.op).to_owned(), subject: change.subject, detail: change.detail })
            .collect(),
    };
    if !dry_run && !applied.changes.is_empty() {
        let id = network.id.clone();
        let done = node.operate(move |gossip| gossip.define_app(&id, def, clock::now()), None).await?;
        done.map_err(refuse)?;
    }
    let answer = Answer::of(applied);
    Ok(warnings.iter().fold(answer, |answer, warning| {
        answer.warn("service-file", format!("{}: {}: {}", warning.at, warning.what, warning.why))
    }))
}

fn invalid(problems: &Problems) -> Failure {
    let first = problems.first();
    let what = format!("cannot use the service file: {}: {}", first.at, first.what);
    let why = match problems.iter().len() - 1 {
        0 => first.why.clone(),
        more => format!("{}; and {more} more", first.why),
    };
    Failure::new(ExitStatus::InvalidFile, what, why, &first.hint)
}

/// Refuses what other applications of the network hold. Another node may say the same at this moment: then both stand, and
/// the one that was said first is heeded.
fn check_others(network: &Network, def: &AppDef, what: &str) -> Result<(), Failure> {
    let holder = network.app_of_namespace(def.namespace.as_str()).filter(|holder| **holder != def.id);
    if let Some(holder) = holder {
        let why = format!("the namespace {} is application {holder}'s", def.namespace);
        let hint = format!("application: {{ id: {}, namespace: ANOTHER }}", def.id);
        return Err(Failure::new(ExitStatus::Conflict, what, why, hint));
    }
    let found = disputes(def, network.definitions().map(|(_, other)| other.as_ref()));
    let Some(first) = found.first() else { return Ok(()) };
    let why = match found.len() - 1 {
        0 => first.to_string(),
        more => format!("{first}; and {more} more"),
    };
    Err(Failure::new(ExitStatus::Conflict, what, why, first.kind.hint()))
}

/// What applications hold twice since two parts of the cluster met again.
pub(super) fn definition_conflicts(network: &Network) -> Vec<HealthRow> {
    let row = |message: String, hint: String| HealthRow {
        code: "definition-conflict".to_owned(),
        severity: "warning".to_owned(),
        message: format!("network {}: {message}", network.display_name()),
        hint,
    };
    let mut defs: Vec<_> = network.definitions().collect();
    defs.sort_by_key(|(order, _)| *order);
    let namespaces = defs.iter().filter_map(|(_, def)| {
        let holder = network.app_of_namespace(def.namespace.as_str()).filter(|holder| **holder != def.id)?;
        let message = format!("the namespace {} of application {} is application {holder}'s", def.namespace, def.id);
        Some(row(message, format!("give application {} another namespace, and apply its file again", def.id)))
    });
    let disputes = disputes_among(defs.iter().map(|(_, def)| def.as_ref()));
    let ports =
        disputes.iter().take(CONFLICTS_SHOWN_MAX).map(|found| row(found.to_string(), found.kind.hint().to_owned()));
    namespaces.take(CONFLICTS_SHOWN_MAX).chain(ports).collect()
}

fn word(op: Op) -> &'static str {
    match op {
        Op::Add => "add",
        Op::Remove => "remove",
        Op::Change => "change",
    }
}

/// The services of one network, or of all that this node holds; of one application, or of all.
pub fn list(node: &Node, network: Option<&str>, app: Option<&str>) -> Result<Answer, Failure> {
    let only = network.map(|text| node.network(Some(text))).transpose()?;
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

/// One service by its name, `NAME` or `NAME.NAMESPACE`.
pub fn inspect(node: &Node, text: &str, network: Option<&str>, app: Option<&str>) -> Result<Answer, Failure> {
    let network = node.network(network)?;
    let membership = node.membership();
    let lower = text.to_ascii_lowercase();
    let (name, namespace) = match lower.split_once('.') {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (lower.as_str(), None),
    };
    let app = app.or_else(|| namespace.map(|text| network.app_of_namespace(text).map_or(text, Label::as_str)));
    let mut found: Vec<Service<'_>> = match app {
        Some(app) => Service::find(&network, app, name).into_iter().collect(),
        None => network.apps().filter_map(|app| Service::find(&network, app.as_str(), name)).collect(),
    };
    let service = match (found.pop(), found.pop()) {
        (Some(only), None) => only,
        (Some(_), Some(_)) => {
            let what = format!("several applications of network {} have a service {name}", network.display_name());
            let why = "it cannot tell which one you mean";
            return Err(Failure::new(
                ExitStatus::Usage,
                what,
                why,
                "name it with --app; peerctl service ls lists them",
            ));
        }
        (None, _) => {
            let what = format!("there is no service {} in network {}", cut(text), network.display_name());
            return Err(no_service(&what));
        }
    };
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
        containers_serving: service
            .containers(&network)
            .map(|container| container_row(node, &membership, &network, container))
            .collect(),
        row,
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeId, Rev, Vni};

    #[test]
    fn what_two_applications_hold_since_a_merge_is_told_with_who_has_it() {
        let vni = Vni::try_from(7).expect("a VNI");
        let mut network = Network::new("pn-a".parse().expect("an id"), vni, NodeId([1; 32]));
        let define = |network: &mut Network, rev: u64, app: &str, text: &str| {
            let options = Options { app: Some(app.parse().expect("a label")) };
            let def = file::parse(text.as_bytes(), &options).expect(text).def;
            network.define_app((Rev(rev), NodeId([1; 32])), Arc::new(def));
        };
        define(&mut network, 2, "a", "application: { namespace: front }\nservices: { web: { ports: ['1:80'] } }");
        assert_eq!(definition_conflicts(&network), []);
        define(&mut network, 1, "b", "application: { namespace: front }\nservices: { api: { ports: ['1::80'] } }");
        let told: Vec<String> = definition_conflicts(&network).into_iter().map(|row| row.message).collect();
        assert_eq!(
            told,
            [
                "network pn-a: the namespace front of application a is application b's",
                "network pn-a: port 80 is http of service web of application a and https of service api of application b",
            ]
        );
    }
}

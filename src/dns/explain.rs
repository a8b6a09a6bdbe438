//! Why a name means what it means to one container, in sentences.

use hickory_proto::rr::Name;

use super::names::{Existing, Meaning, Scope, meaning};
use super::policy::{self, SERVICES_LABEL};
use super::zone::Zone;
use super::{Caller, Suffix, hostname};
use crate::membership::{Container, Membership, Network, State};
use crate::model::{Label, LoadBalancing};
use crate::services::{ByPlace, ByVersion, Service, What, Why};

/// The way from a name to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What the container gets, as `NXDOMAIN`, `2 addresses` or `forwarded`.
    pub verdict: String,
    /// One sentence for each decision, in the order in which they are taken.
    pub steps: Vec<String>,
}

/// Explains a name to a container of `network`; `None` if it is no name.
pub fn explain(
    membership: &Membership,
    network: &Network,
    caller: &Caller,
    suffixes: &[Suffix],
    name: &str,
) -> Option<Explanation> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let id = &network.id;
    let mut steps = vec![format!(
        "the question comes from container {} at {}, so it is answered as network {} sees it",
        caller.attachment,
        caller.address,
        network.display_name()
    )];
    let scope = Scope { network, app: &caller.app, suffixes };
    let verdict = match meaning(scope, &name) {
        Meaning::Foreign if network.internal => {
            steps.push("it is no private name, and the network is internal: nothing is asked outside".into());
            "REFUSED".to_owned()
        }
        Meaning::Foreign => {
            steps.push("it is no private name: this node asks the nameservers of its host's resolv.conf".into());
            "forwarded".to_owned()
        }
        Meaning::Missing(None) => {
            steps.push(format!(
                "it is a single label, so it would be a service of the caller's application {}, which has none of that \
                 name; such a name is never told outside",
                caller.app
            ));
            "NXDOMAIN".to_owned()
        }
        Meaning::Missing(Some(zone)) => {
            match zone {
                Zone::Reverse(_) => steps.push("no container of the network holds that address".to_owned()),
                Zone::Private | Zone::Last(_) => steps.extend(why_missing(scope, &name)),
            }
            "NXDOMAIN".to_owned()
        }
        Meaning::Existing(_, existing) => match existing {
            Existing::Apex => {
                steps.push("it is the zone itself: it owns an SOA and an NS record and no address".into());
                "no data but SOA and NS".to_owned()
            }
            Existing::Ancestor => {
                steps.push("it owns no record; names below it do".to_owned());
                "no data".to_owned()
            }
            Existing::Type(app, kind) => {
                steps.push(format!("it is the containers of type {kind} of application {app}"));
                list(membership, network.containers_of(app.as_str(), kind), &mut steps)
            }
            Existing::Container(container) => {
                steps.push(format!("it is the one container {}", hostname(container, id)));
                list(membership, [container], &mut steps)
            }
            Existing::Address(container) => {
                steps.push(format!("the address {} is held by container {}", container.address, container.id));
                format!("pointer to {}", hostname(container, id))
            }
            Existing::Service(service) => explain_service((membership, network), caller, &service, &mut steps),
            Existing::Port(service, port) => {
                steps.push(format!("it is the port {port} of each container below"));
                let verdict = explain_service((membership, network), caller, &service, &mut steps);
                format!("SRV to port {port}: {verdict}")
            }
            Existing::Services(app) => {
                steps.push(format!("it lists the services of application {app}"));
                format!("TXT, a list of {}", Service::all(network, app.as_str()).len())
            }
            Existing::Apps => {
                steps.push("it lists the namespaces of the network".to_owned());
                format!("TXT, a list of {}", super::policy::namespaces(network).len())
            }
        },
    };
    Some(Explanation { verdict, steps })
}

/// What answers, and what is left out and why.
fn list<'a>(
    membership: &Membership,
    containers: impl IntoIterator<Item = &'a std::sync::Arc<Container>>,
    steps: &mut Vec<String>,
) -> String {
    match sift(membership, containers, steps) {
        0 => "no data: declared, and none is ready".to_owned(),
        1 => "1 address".to_owned(),
        many => format!("{many} addresses, another one first each time"),
    }
}

/// Tells of each container whether it is to be found, and counts those that are.
fn sift<'a>(
    membership: &Membership,
    containers: impl IntoIterator<Item = &'a std::sync::Arc<Container>>,
    steps: &mut Vec<String>,
) -> usize {
    let mut ready = 0;
    for container in containers {
        let Container { id, address, .. } = container.as_ref();
        match container.state {
            State::Ready if !membership.is_found(container) => {
                steps.push(format!("{address} is left out: its node is down (container {id})"));
            }
            State::Ready => {
                ready += 1;
                steps.push(format!("{address} is ready (container {id})"));
            }
            State::Draining => steps.push(format!("{address} is draining and left out (container {id})")),
            State::Starting => steps.push(format!("{address} is starting and left out (container {id})")),
        }
    }
    ready
}

/// The steps of a choice, in their order.
fn explain_service(
    (membership, network): (&Membership, &Network),
    caller: &Caller,
    service: &Service<'_>,
    steps: &mut Vec<String>,
) -> String {
    let Service { app, name, what } = service;
    let whose =
        if **app == caller.app { "the caller's own".to_owned() } else { "another one of the network".to_owned() };
    steps.push(match what {
        What::Service(None) => format!(
            "it is service {name} of application {app}, {whose}; no service file names it, so it is versioned and roundrobin"
        ),
        What::Service(Some(def)) => format!(
            "it is service {name} of application {app}, {whose}; the service file says {} and {}",
            def.dns_behaviour, def.load_balancing
        ),
        What::Database(_, server) => {
            format!("it is server {server} of database {name} of application {app}, {whose}")
        }
    });
    sift(membership, service.containers(network), steps);
    let mut chosen = service.ready(membership, network);
    let ready = chosen.len();
    let (asker, version_of) = (caller.asker(), |version: Option<&str>| match version {
        Some(version) => format!("version {version}"),
        None => "those without a version".to_owned(),
    });
    let by_version = service.of_version(network, asker, &mut chosen);
    let count = chosen.len();
    steps.push(match by_version {
        ByVersion::None => return "no data: declared, and none is ready".to_owned(),
        ByVersion::Own(own) => format!("the caller is of version {own}: {count} of {ready} are as well, and answer"),
        ByVersion::Latest(latest, why) => {
            let why = match why {
                Why::NonVersioned => "the service is non-versioned".to_owned(),
                Why::Database => "it is a database".to_owned(),
                Why::OtherApp => "the caller is of another application".to_owned(),
                Why::CallerUnversioned => "the caller has no version".to_owned(),
                Why::NoneOfOwn => {
                    format!("none that is ready is of the caller's version {}", caller.version.as_deref().unwrap_or(""))
                }
            };
            format!("{why}: the latest answer, {}, {count} of {ready}", version_of(latest))
        }
    });
    match service.close(asker, &mut chosen) {
        ByPlace::Anywhere => {}
        ByPlace::Near => {
            steps.push(format!("the closest answer: {} of {count} run on the caller's node", chosen.len()))
        }
        ByPlace::NoneNear => steps.push("none of them runs on the caller's node, so all answer".to_owned()),
    }
    match (chosen.len(), service.load_balancing()) {
        (1, _) => "1 address".to_owned(),
        (many, LoadBalancing::Sticky) => {
            steps.push("sticky: the caller stays with one as long as it asks again within 60 s".to_owned());
            format!("1 address of {many}, the same again")
        }
        (many, _) => format!("{many} addresses, another one first each time"),
    }
}

/// Where the walk from the name's end forwards came to nothing.
fn why_missing(scope: Scope<'_>, name: &Name) -> Vec<String> {
    let text = name.to_lowercase().to_ascii();
    let labels: Vec<&str> = text.trim_end_matches('.').split('.').collect();
    match labels.as_slice() {
        [below @ .., SERVICES_LABEL, "private-network", "internal"] => why_not_short(scope, below),
        [below @ .., "private-network", "internal"] => why_no_container(scope.network, below),
        labels => {
            let below = scope.suffixes.iter().find_map(|suffix| suffix.strip(labels));
            why_not_short(scope, below.unwrap_or(labels))
        }
    }
}

/// Why these labels are no short name.
fn why_not_short(Scope { network, app, .. }: Scope<'_>, labels: &[&str]) -> Vec<String> {
    let Some((last, before)) = labels.split_last() else { return Vec::new() };
    if let Some(other) = policy::namespace(network, last) {
        let whose = if other == app { "the caller's own" } else { "another one of the network" };
        let step = format!("{last} is the namespace of application {other}, {whose}");
        return vec![step, why_not_of_app(network, other, before)];
    }
    let nobodys = format!("nobody has the namespace {last} in this network");
    match before.last() {
        _ if Service::find(network, app.as_str(), last).is_some() => vec![why_not_of_app(network, app, labels)],
        Some(label) if !policy::is_protocol(label) => vec![nobodys],
        _ => vec![why_not_of_app(network, app, labels), nobodys],
    }
}

/// Why these labels name nothing of an application.
fn why_not_of_app(network: &Network, app: &Label, labels: &[&str]) -> String {
    let name = labels.last().copied().unwrap_or_default();
    match (Service::find(network, app.as_str(), name), labels) {
        (None, _) => format!("application {app} declares no service {name}"),
        (Some(_), [.., protocol, _]) if policy::is_protocol(protocol) => {
            format!("service {name} of application {app} declares no such port")
        }
        (Some(_), _) => {
            format!("below service {name} of application {app} stand its ports alone, as _PORT._tcp.{name}")
        }
    }
}

/// Why the labels below the private zone are no container's name.
fn why_no_container(network: &Network, below: &[&str]) -> Vec<String> {
    let labels: Vec<&str> = below.iter().rev().copied().collect();
    let mut steps = Vec::new();
    let is_own =
        |label: &str| label == network.id.as_str() || network.name.as_ref().is_some_and(|n| n.as_str() == label);
    let Some((first, rest)) = labels.split_first().filter(|(first, _)| is_own(first)) else {
        let other = labels.first().copied().unwrap_or_default();
        steps.push(format!("{other} is not the caller's network; to a container no other network exists"));
        return steps;
    };
    steps.push(format!("{first} is the caller's network"));
    let Some(app) = rest.first() else { return steps };
    if network.kinds(app).next().is_none() {
        steps.push(format!("no container of an application {app} is attached"));
        return steps;
    }
    steps.push(format!("application {app} has containers"));
    match rest.get(1) {
        None => {}
        Some(kind) if kind.bytes().all(|byte| byte.is_ascii_digit()) => {
            steps.push(format!(
                "{kind} stands where a type is named; a number needs the type behind it: {kind}.TYPE.{app}"
            ));
        }
        Some(kind) if network.kinds(app).all(|declared| declared.as_str() != *kind) => {
            steps.push(format!("none of them is of type {kind}"));
        }
        Some(kind) => match rest.get(2) {
            Some(number) if rest.len() == 3 => {
                steps.push(format!("none of type {kind} has the number {number}; numbers have no leading zeros"));
            }
            _ => steps.push("a name has five parts at most: N.TYPE.APP.NETWORK and the zone".to_owned()),
        },
    }
    steps
}

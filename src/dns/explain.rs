//! Why a name means what it means to one container, in sentences.

use hickory_proto::rr::Name;

use super::names::{Existing, Meaning, Scope, meaning};
use super::{Caller, PRIVATE_ZONE, Suffix, hostname};
use crate::membership::{Container, Membership, Network, State};
use crate::model::LoadBalancing;
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
        Meaning::Missing(Some(_)) => {
            steps.extend(why_missing(network, &name));
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

/// Where the walk from the zone downwards ended.
fn why_missing(network: &Network, name: &Name) -> Vec<String> {
    let text = name.to_lowercase().to_ascii();
    let Some(below) = text.trim_end_matches('.').strip_suffix(PRIVATE_ZONE) else {
        return vec!["no container of the network holds that address".to_owned()];
    };
    let labels: Vec<&str> = below.trim_end_matches('.').rsplit('.').collect();
    let mut steps = Vec::new();
    let is_own =
        |label: &str| label == network.id.as_str() || network.name.as_ref().is_some_and(|n| n.as_str() == label);
    let Some((first, rest)) = labels.split_first().filter(|(first, _)| is_own(first)) else {
        steps.push(format!("{} is not the caller's network; to a container no other network exists", labels[0]));
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

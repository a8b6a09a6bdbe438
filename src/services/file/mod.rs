//! The service file: YAML that a person wrote, in; a definition, or all that is wrong with it, out.
//!
//! [`parse`] takes any bytes. Its time and memory are bounded by the length of a file; it never panics. `docs/service-file.md`
//! has every key for those who write one.

mod databases;
mod fields;
mod ports;
mod problem;
mod text;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use databases::WELL_KNOWN_PORTS;
pub use problem::{Mark, Problem, Problems};
pub use tree::FILE_LEN_MAX;

use databases::{DATABASE_KEYS, SERVER_KEYS};
use fields::{choice, fields, items, label, named, word};
use ports::{PORT_KEYS, Places};
use problem::{Report, shown};
use tree::{Node, Value};

use super::claims::{Ledger, claims};
use super::namespace::is_public_suffix;
use crate::model::{AppDef, DatabaseDef, DnsBehaviour, Label, LoadBalancing, ServerPattern, ServiceDef};

/// The longest definition, encoded: it travels as one record, which has 64 KiB.
pub const DEF_LEN_MAX: usize = 60 * 1024 - 1;
/// The longest name of an application, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// The keys of each mapping, by what it is: what the JSON schema in `docs/` is held to.
pub const KEYS: [(&str, &[&str]); 6] = [
    ("file", &FILE_KEYS),
    ("application", &APPLICATION_KEYS),
    ("service", &SERVICE_KEYS),
    ("port", &PORT_KEYS),
    ("database", &DATABASE_KEYS),
    ("server", &SERVER_KEYS),
];
const FILE_KEYS: [&str; 3] = ["application", "services", "databases"];
const APPLICATION_KEYS: [&str; 3] = ["id", "name", "namespace"];
const SERVICE_KEYS: [&str; 4] = ["ports", "traffic_matches", "dns_behaviour", "load_balancing"];

const DNS_BEHAVIOURS: [(&str, DnsBehaviour); 2] =
    [("versioned", DnsBehaviour::Versioned), ("non-versioned", DnsBehaviour::NonVersioned)];
const LOAD_BALANCINGS: [(&str, LoadBalancing); 3] =
    [("roundrobin", LoadBalancing::RoundRobin), ("sticky", LoadBalancing::Sticky), ("closest", LoadBalancing::Closest)];

/// What is known beside the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The application, for a file that does not say it.
    pub app: Option<Label>,
}

/// What a good file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Equal for files that mean the same, however they put it.
    pub def: AppDef,
    /// What may not be meant as it was written.
    pub warnings: Vec<Problem>,
}

/// Reads a service file.
///
/// # Errors
/// All that is wrong with it, up to a bound; only the first fault if it is no YAML.
pub fn parse(bytes: &[u8], options: &Options) -> Result<Parsed, Problems> {
    let root = tree::read(text::of(bytes)?)?;
    let mut report = Report::default();
    let def = file(&root, options, &mut report);
    let warnings = report.finish()?;
    // What could not be read was reported.
    let def = def.expect("no definition without an error");
    let len = minicbor::to_vec(&def).expect("a definition has an encoding").len();
    if len > DEF_LEN_MAX {
        let what = format!("the definition comes to {len} bytes");
        let why = format!("it travels between nodes as one record, of at most {DEF_LEN_MAX}");
        return Err(Problem::new(Mark::START, what, why, "split the application into two").into());
    }
    Ok(Parsed { def, warnings })
}

fn file(root: &Node<'_>, options: &Options, report: &mut Report) -> Option<AppDef> {
    let [head, listed, bases] = fields(root, "the file", FILE_KEYS, report)?;
    let services = listed.map(|node| named(node, "service", report)).unwrap_or_default();
    let databases = bases.map(|node| named(node, "database", report)).unwrap_or_default();
    // With a key that nobody knows, that is what was meant.
    if listed.is_none() && bases.is_none() && report.is_clean() {
        let why = "a file without services and databases says nothing";
        report.error(root.at, "no services here", why, "services: { web: { ports: [\"3000:80\"] } }");
    }
    let app = application(head, options, report);
    let mut places = Places::new();
    // Checked also if the application is not known: it may be the last fault of many.
    let mut def = AppDef::new(app.as_ref().map_or_else(unknown_app, |app| app.id.clone()));
    for (name, (_, node)) in &services {
        let service = service(name, node, &mut places, report);
        def.services.insert(name.clone(), service);
    }
    for (kind, (at, node)) in &databases {
        def.databases.extend(databases::database(kind, *at, node, report).map(|database| (kind.clone(), database)));
    }
    let at = |(name, (at, _)): (&Label, &(Mark, &Node<'_>))| (name.clone(), *at);
    names_differ(&def.databases, services.iter().map(at).collect(), databases.iter().map(at).collect(), report);
    claims_agree(&def, &places, report);
    let Application { title, namespace, .. } = app?;
    Some(AppDef { title, namespace, ..def })
}

fn unknown_app() -> Label {
    "application".parse().expect("a label")
}

struct Application {
    id: Label,
    title: Option<String>,
    namespace: Label,
}

fn application(node: Option<&Node<'_>>, options: &Options, report: &mut Report) -> Option<Application> {
    let [id, title, namespace] = match node {
        Some(node) => fields(node, "application", APPLICATION_KEYS, report)?,
        None => [None; 3],
    };
    let at = id.or(node).map_or(Mark::START, |node| node.at);
    let title = title.and_then(|node| title_of(node, report));
    let namespace = namespace.map(|node| (node.at, label(node, "the namespace", report)));
    let id = match (id.map(|node| label(node, "the application's id", report)), &options.app) {
        (Some(id), None) => id?,
        (None, Some(app)) => app.clone(),
        (Some(id), Some(app)) => {
            let id = id?;
            if id != *app {
                let why = format!("--app says {app}");
                report.error(at, format!("this file is of application {id}"), why, "leave --app out");
            }
            id
        }
        (None, None) => {
            let why = "neither the file nor --app says which application this is";
            report.error(at, "no application", why, "application: { id: ap-... }, or --app ap-...");
            return None;
        }
    };
    let (at, what, namespace) = match namespace {
        Some((at, namespace)) => (at, "the namespace", namespace?),
        None => (at, "the application's id, and so its namespace,", id.clone()),
    };
    if is_public_suffix(&namespace) {
        let why = "names of the internet end in it, and a namespace would hide them from every container";
        let hint = format!("application: {{ id: {id}, namespace: my-{namespace} }}");
        report.error(at, format!("{what} is the public suffix {namespace}"), why, hint);
    }
    Some(Application { id, title, namespace })
}

fn title_of(node: &Node<'_>, report: &mut Report) -> Option<String> {
    let text = word(node, "the application's name", report)?;
    let is_sound = !text.is_empty() && text.chars().count() <= TITLE_CHARS_MAX && !text.contains(char::is_control);
    if !is_sound {
        let why = format!("it is one line of at most {TITLE_CHARS_MAX} characters");
        report.error(node.at, "the application's name is empty or too long", why, "name: Back Office");
    }
    is_sound.then(|| text.to_owned())
}

fn service(name: &Label, node: &Node<'_>, places: &mut Places, report: &mut Report) -> ServiceDef {
    let of = format!("service {name}");
    let Some([ports, matches, behaviour, balancing]) = fields(node, &of, SERVICE_KEYS, report) else {
        return ServiceDef::default();
    };
    let def = ServiceDef {
        ports: ports.map(|node| ports::ports(node, name, places, report)).unwrap_or_default(),
        traffic_matches: matches.map(|node| patterns(node, report)).unwrap_or_default(),
        dns_behaviour: behaviour
            .and_then(|node| choice(node, "dns_behaviour", &DNS_BEHAVIOURS, report))
            .unwrap_or_default(),
        load_balancing: balancing
            .and_then(|node| choice(node, "load_balancing", &LOAD_BALANCINGS, report))
            .unwrap_or_default(),
    };
    if let Some(node) = matches
        && def.ports.iter().all(|port| port.http.is_none() && port.https.is_none())
    {
        let what = format!("traffic_matches of service {name} match nothing");
        let why = "they are for http and https, and none of its ports has either";
        report.warn(node.at, what, why, "ports: [\"3000:80:443\"]");
    }
    def
}

/// Server names, sorted.
fn patterns(node: &Node<'_>, report: &mut Report) -> Vec<ServerPattern> {
    let mut found: BTreeMap<ServerPattern, Mark> = BTreeMap::new();
    for item in items(node, "traffic_matches", "\"app.example.com\"", report) {
        let Some(text) = word(item, "a server name", report) else { continue };
        match text.parse::<ServerPattern>() {
            Err(error) => {
                let what = format!("{} is no server name", shown(text));
                report.error(item.at, what, error, "\"app.example.com\" or \"*.example.com\"");
            }
            Ok(pattern) => {
                if let Some(first) = found.get(&pattern) {
                    let why = format!("the first stands at {first}; names differ in more than upper and lower case");
                    report.error(item.at, format!("{pattern} is here twice"), why, "keep one of the two");
                } else {
                    found.insert(pattern, item.at);
                }
            }
        }
    }
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        let why = "a service without server names takes every name that no other service takes";
        report.warn(node.at, "traffic_matches is empty", why, "remove the key, or list the names");
    }
    found.into_keys().collect()
}

/// Services, databases and their servers are names of one kind: `mysql`, `mysql-leopard`.
fn names_differ(
    databases: &BTreeMap<Label, DatabaseDef>,
    services: BTreeMap<Label, Mark>,
    bases: BTreeMap<Label, Mark>,
    report: &mut Report,
) {
    let mut taken: BTreeMap<String, (String, Mark)> = BTreeMap::new();
    let own = |kind: &'static str| move |(name, at)| (Label::to_string(&name), format!("{kind} {name}"), at);
    let servers = databases.iter().flat_map(|(kind, database)| {
        let at = bases[kind];
        database.servers.keys().map(move |server| {
            let name = format!("{kind}-{server}");
            (name, format!("server {server} of database {kind}"), at)
        })
    });
    let all =
        (services.into_iter().map(own("service"))).chain(bases.clone().into_iter().map(own("database"))).chain(servers);
    for (name, whose, at) in all {
        if let Err(error) = name.parse::<Label>() {
            let what = format!("{whose} is called {}, which is no name", shown(&name));
            report.error(at, what, error, "shorten the server's name");
        } else if let Some((other, first)) = taken.get(&name) {
            let (at, other_line) = if *first > at { (*first, at.line) } else { (at, first.line) };
            let why = format!("in DNS both are {name}, {whose} and {other}; the first stands on line {other_line}");
            report.error(at, format!("{other} and {whose} have one name"), why, "rename one of the two");
        } else {
            taken.insert(name, (whose, at));
        }
    }
}

/// The ports of nodes that its services claim do not exclude each other.
fn claims_agree(def: &AppDef, places: &Places, report: &mut Report) {
    let mut ledger: Ledger<'_, Mark> = Ledger::default();
    let mut all: Vec<_> =
        claims(def).map(|claim| (places[&(claim.service.clone(), claim.container, claim.front)], claim)).collect();
    all.sort_by_key(|(at, _)| *at);
    for (at, claim) in all {
        if let Err(dispute) = ledger.enter(claim, at) {
            let why = format!("the first stands on line {}", dispute.place.line);
            report.error(at, &dispute, why, dispute.kind.hint());
        }
    }
}

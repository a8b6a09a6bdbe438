//! `databases`: `{ port: N }` for one server, or named servers of which one is the primary.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::fields::{fields, label, named, word};
use super::ports;
use super::problem::{Mark, Report, nearest};
use super::tree::{Node, Value};
use crate::model::{DEFAULT_SERVER, DatabaseDef, Label};

pub const DATABASE_KEYS: [&str; 3] = ["port", "primary", "servers"];
pub const SERVER_KEYS: [&str; 1] = ["port"];

/// The ports that databases listen on unless told otherwise, sorted by type.
pub const WELL_KNOWN_PORTS: [(&str, u16); 17] = [
    ("cassandra", 9042),
    ("clickhouse", 9000),
    ("couchdb", 5984),
    ("elasticsearch", 9200),
    ("etcd", 2379),
    ("influxdb", 8086),
    ("mariadb", 3306),
    ("memcached", 11211),
    ("mongodb", 27017),
    ("mysql", 3306),
    ("neo4j", 7687),
    ("opensearch", 9200),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("rabbitmq", 5672),
    ("redis", 6379),
    ("valkey", 6379),
];

/// A database that has at least one server, its primary among them; None with what is wrong told.
pub fn database(kind: &Label, at: Mark, node: &Node<'_>, report: &mut Report) -> Option<DatabaseDef> {
    let of = format!("database {kind}");
    let [port, primary, servers] = fields(node, &of, DATABASE_KEYS, report)?;
    let Some(listed) = servers else {
        if let Some(primary) = primary {
            let why = "with one server there is nothing to choose from";
            report.error(primary.at, format!("primary without servers in {of}"), why, "add servers, or remove primary");
        }
        let server = default_server();
        let port = listens_on(kind, at, port, report)?;
        return Some(DatabaseDef { primary: server.clone(), servers: [(server, port)].into() });
    };
    if let Some(port) = port {
        let why = "each server has a port of its own";
        report.error(port.at, format!("port beside servers in {of}"), why, "servers: { default: { port: 3306 } }");
    }
    let named = named(listed, "server", report);
    let mut servers: BTreeMap<Label, NonZeroU16> = BTreeMap::new();
    for (name, (at, node)) in &named {
        let port = fields(node, &format!("server {name}"), SERVER_KEYS, report)
            .and_then(|[port]| listens_on(kind, *at, port, report));
        servers.extend(port.map(|port| (name.clone(), port)));
    }
    if listed.is_null() || matches!(&listed.value, Value::Map(entries) if entries.is_empty()) {
        let why = "a database has one server at least";
        report.error(listed.at, format!("no servers in {of}"), why, "servers: { default: { port: 3306 } }");
    }
    if named.is_empty() {
        return None;
    }
    let primary = match primary {
        Some(node) => {
            let name = label(node, "the primary", report)?;
            if !named.contains_key(&name) {
                let names: Vec<&str> = named.keys().map(Label::as_str).collect();
                let meant = nearest(name.as_str(), &names).unwrap_or(names[0]);
                let why = format!("the servers of {of} are {}", names.join(", "));
                report.error(node.at, format!("no server is called {name}"), why, format!("primary: {meant}"));
            }
            name
        }
        // Of one server, or with a default among them, nobody can mean another.
        None if named.contains_key(DEFAULT_SERVER) => default_server(),
        None if named.len() == 1 => named.keys().next()?.clone(),
        None => {
            let why = format!("the name {kind} alone has to mean one of its servers");
            let hint = format!("primary: {}", named.keys().next()?);
            report.error(at, format!("no primary in {of}"), why, hint);
            return None;
        }
    };
    servers.contains_key(&primary).then_some(DatabaseDef { primary, servers })
}

fn default_server() -> Label {
    DEFAULT_SERVER.parse().expect("a label")
}

/// The port that is given, or the one that this type is known for.
fn listens_on(kind: &Label, at: Mark, port: Option<&Node<'_>>, report: &mut Report) -> Option<NonZeroU16> {
    if let Some(node) = port {
        return ports::number(word(node, "port", report)?, "database", node.at, report);
    }
    if let Some((_, port)) = WELL_KNOWN_PORTS.iter().find(|(known, _)| *known == kind.as_str()) {
        return NonZeroU16::new(*port);
    }
    let known = WELL_KNOWN_PORTS.map(|(known, _)| known);
    let why = format!("nobody knows the port of this type; known are {}", known.join(", "));
    let what = match nearest(kind.as_str(), &known) {
        Some(meant) => format!("no port in database {kind}, did you mean {meant}?"),
        None => format!("no port in database {kind}"),
    };
    report.error(at, what, why, format!("{kind}: {{ port: 1234 }}"));
    None
}

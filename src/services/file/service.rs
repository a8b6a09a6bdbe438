//! A service and its directives.

use std::collections::BTreeMap;

use super::fields::{choice, fields, items, word};
use super::ports::{Places, ports};
use super::problem::{Mark, Report, shown};
use super::tree::{Node, Value};
use crate::model::{DnsBehaviour, Label, LoadBalancing, ServerPattern, ServiceDef};

pub const SERVICE_KEYS: [&str; 4] = ["ports", "traffic_matches", "dns_behaviour", "load_balancing"];
pub const DNS_BEHAVIOURS: [(&str, DnsBehaviour); 2] =
    [("versioned", DnsBehaviour::Versioned), ("non-versioned", DnsBehaviour::NonVersioned)];
pub const LOAD_BALANCINGS: [(&str, LoadBalancing); 3] =
    [("roundrobin", LoadBalancing::RoundRobin), ("sticky", LoadBalancing::Sticky), ("closest", LoadBalancing::Closest)];

/// Reads a service. What is wrong is told, and left at its default.
pub fn service(name: &Label, node: &Node<'_>, places: &mut Places, report: &mut Report) -> ServiceDef {
    let of = format!("service {name}");
    let Some([listed, matches, behaviour, balancing]) = fields(node, &of, SERVICE_KEYS, report) else {
        return ServiceDef::default();
    };
    let def = ServiceDef {
        ports: listed.map(|node| ports(node, name, places, report)).unwrap_or_default(),
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

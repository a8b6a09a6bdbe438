//! What changes when one definition takes the place of another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::{AppDef, DatabaseDef, Label, ServiceDef};

/// Whether something comes, goes, or becomes something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Add,
    Remove,
    Change,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub op: Op,
    /// What it is about: `service web`.
    pub subject: String,
    /// What about it, if it is not the subject itself: `port 3000:80`, `load_balancing roundrobin -> sticky`.
    pub detail: Option<String>,
}

/// A property with at most one value: its name, and what tells it from others of that name.
type Key = (&'static str, String);
type Facts = BTreeMap<Key, String>;

/// What changes from `old` to `new`: nothing exactly if they are equal. None stands for no application.
pub fn diff(old: Option<&AppDef>, new: Option<&AppDef>) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(any) = new.or(old) {
        let subject = format!("application {}", any.id);
        compare(&mut changes, &subject, old.map(app), new.map(app), &Facts::new());
    }
    let services = [old, new].map(|def| def.map(|def| &def.services));
    each(&mut changes, "service", services, service, &service(&ServiceDef::default()));
    let databases = [old, new].map(|def| def.map(|def| &def.databases));
    each(&mut changes, "database", databases, database, &Facts::new());
    changes
}

fn app(def: &AppDef) -> Facts {
    let AppDef { id, title, namespace, services: _, databases: _ } = def;
    let title = title.as_ref().map(|title| (one("name"), format!("{title:?}")));
    [(one("id"), id.to_string()), (one("namespace"), namespace.to_string())].into_iter().chain(title).collect()
}

fn service(def: &ServiceDef) -> Facts {
    let ServiceDef { ports, traffic_matches, dns_behaviour, load_balancing } = def;
    let mut facts = Facts::from([
        (one("dns_behaviour"), dns_behaviour.to_string()),
        (one("load_balancing"), load_balancing.to_string()),
    ]);
    facts.extend(ports.iter().map(|port| (("port", format!("{:05}", port.container)), port.to_string())));
    facts.extend(traffic_matches.iter().map(|name| (("traffic_matches", name.to_string()), name.to_string())));
    facts
}

fn database(def: &DatabaseDef) -> Facts {
    let DatabaseDef { primary, servers } = def;
    let server = |(name, port)| (("server", Label::to_string(name)), format!("{name} on port {port}"));
    servers.iter().map(server).chain([(one("primary"), primary.to_string())]).collect()
}

/// The key of a property that there is one of.
fn one(name: &'static str) -> Key {
    (name, String::new())
}

fn each<T>(
    changes: &mut Vec<Change>,
    kind: &str,
    sides: [Option<&BTreeMap<Label, T>>; 2],
    facts: fn(&T) -> Facts,
    default: &Facts,
) {
    for name in sides.into_iter().flatten().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let [old, new] = sides.map(|side| side.and_then(|defs| defs.get(name)).map(facts));
        compare(changes, &format!("{kind} {name}"), old, new, default);
    }
}

/// What changes of one subject. What is new is told whole, but for what `default` says; what goes, by its name alone.
fn compare(changes: &mut Vec<Change>, subject: &str, old: Option<Facts>, new: Option<Facts>, default: &Facts) {
    let mut push = |op, detail| changes.push(Change { op, subject: subject.to_owned(), detail });
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            push(Op::Add, None);
            for (key, value) in new.iter().filter(|(key, value)| default.get(key) != Some(value)) {
                push(Op::Add, Some(format!("{} {value}", key.0)));
            }
            return;
        }
        (Some(_), None) => return push(Op::Remove, None),
        (None, None) => return,
    };
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) if old != new => push(Op::Change, Some(format!("{} {old} -> {new}", key.0))),
            (Some(old), None) => push(Op::Remove, Some(format!("{} {old}", key.0))),
            (None, Some(new)) => push(Op::Add, Some(format!("{} {new}", key.0))),
            _ => {}
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Add => "+",
            Self::Remove => "-",
            Self::Change => "~",
        })
    }
}

/// One line: `~ service web: load_balancing roundrobin -> sticky`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, subject, detail } = self;
        write!(f, "{op} {subject}")?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::file::{Options, parse};

    fn def(text: &str) -> AppDef {
        parse(text.as_bytes(), &Options { app: Some("ap-1".parse().expect("a label")) }).expect(text).def
    }

    fn told(old: Option<&AppDef>, new: Option<&AppDef>) -> Vec<String> {
        diff(old, new).iter().map(ToString::to_string).collect()
    }

    const OLD: &str = "
        application: { name: Shop }
        services:
          web: { ports: ['3000:80', 5000], traffic_matches: [a.com] }
          api:
        databases: { mysql: { servers: { default: , leopard: } } }";
    const NEW: &str = "
        application: { namespace: front }
        services:
          web: { ports: ['3000:80:443', { container: 53, udp: 53, name: dns }], load_balancing: sticky }
          worker: { dns_behaviour: non-versioned }
        databases: { mysql: { primary: leopard, servers: { default: { port: 3307 }, leopard: } } }";

    #[test]
    fn what_comes_goes_and_changes_is_a_line_each() {
        let said = [
            "- application ap-1: name \"Shop\"",
            "~ application ap-1: namespace ap-1 -> front",
            "- service api",
            "~ service web: load_balancing roundrobin -> sticky",
            "+ service web: port { container: 53, udp: 53, name: dns }",
            "~ service web: port 3000:80 -> 3000:80:443",
            "- service web: port 5000",
            "- service web: traffic_matches a.com",
            "+ service worker",
            "+ service worker: dns_behaviour non-versioned",
            "~ database mysql: primary default -> leopard",
            "~ database mysql: server default on port 3306 -> default on port 3307",
        ];
        assert_eq!(told(Some(&def(OLD)), Some(&def(NEW))), said);
    }

    #[test]
    fn a_new_application_is_told_whole_and_one_that_goes_by_its_parts() {
        let new = def("services: { web: { ports: [80] } }");
        let whole = ["+ application ap-1", "+ application ap-1: id ap-1", "+ application ap-1: namespace ap-1"];
        assert_eq!(told(None, Some(&new)), [&whole[..], &["+ service web", "+ service web: port 80"]].concat());
        assert_eq!(told(Some(&new), None), ["- application ap-1", "- service web"]);
    }

    #[test]
    fn nothing_changes_between_equals() {
        for text in [OLD, NEW] {
            assert_eq!(told(Some(&def(text)), Some(&def(text))), [""; 0]);
        }
        assert_eq!(diff(None, None), []);
    }
}

//! `ports`: the short form `CONTAINER[:[HTTP][:[HTTPS]]]` and the mapping form, merged by container port.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::fields::{fields, items, label, word};
use super::problem::{Mark, Report, shown};
use super::tree::{Node, Style, Value};
use crate::model::{Label, PortDef};
use crate::services::claims::Front;

/// The keys of the mapping form.
pub const PORT_KEYS: [&str; 6] = ["container", "http", "https", "tcp", "udp", "name"];
/// RFC 6335 §5.1.
const PORT_NAME_LEN_MAX: usize = 15;

const EXAMPLE: &str = "\"3000:80:443\"";
const CONTAINER_PORT: &str = "the container port comes first: CONTAINER[:[HTTP][:[HTTPS]]]";

/// Where a service's claim of a port was written.
pub type Places = BTreeMap<(Label, NonZeroU16, Front), Mark>;

/// A value and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placed<T> {
    value: T,
    at: Mark,
}

/// An entry of the list, or several of one container port.
#[derive(Debug)]
struct Entry {
    container: Placed<NonZeroU16>,
    /// http, https, tcp, udp.
    fronts: [Option<Placed<NonZeroU16>>; 4],
    name: Option<Placed<Label>>,
}

const FRONTS: [Front; 4] = [Front::Http, Front::Https, Front::Tcp, Front::Udp];

/// The ports of a service, sorted by container port.
pub fn ports(node: &Node<'_>, service: &Label, places: &mut Places, report: &mut Report) -> Vec<PortDef> {
    let mut merged: BTreeMap<NonZeroU16, Entry> = BTreeMap::new();
    let mut names: BTreeMap<Label, NonZeroU16> = BTreeMap::new();
    for item in items(node, "ports", EXAMPLE, report) {
        let entry = match &item.value {
            Value::Scalar { text, style } if !item.is_null() => short_form(text, *style, item.at, report),
            Value::Map(entries) if is_unquoted_short_form(entries) => {
                let why = "a `:` at the end, or before a space, makes a mapping of it";
                report.error(item.at, "YAML takes this for a mapping", why, "put it in quotes, as \"3000:80:\"");
                None
            }
            Value::Map(_) => mapping_form(item, report),
            _ => {
                let why = "a port is written as CONTAINER[:[HTTP][:[HTTPS]]], or as a mapping";
                report.error(item.at, format!("{} instead of a port", item.kind()), why, EXAMPLE);
                None
            }
        };
        let Some(entry) = entry else { continue };
        if let Some(name) = &entry.name
            && let Some(other) = names.insert(name.value.clone(), entry.container.value)
            && other != entry.container.value
        {
            let what = format!("container ports {other} and {} are both called {}", entry.container.value, name.value);
            report.error(name.at, what, "a name means one port of a service", "give them different names");
        }
        match merged.get_mut(&entry.container.value) {
            Some(first) => first.merge(entry, report),
            None => _ = merged.insert(entry.container.value, entry),
        }
    }
    for entry in merged.values() {
        for (front, port) in FRONTS.into_iter().zip(entry.fronts) {
            if let Some(port) = port {
                places.insert((service.clone(), entry.container.value, front), port.at);
            }
        }
    }
    merged.into_values().map(Entry::into_def).collect()
}

impl Entry {
    fn merge(&mut self, other: Self, report: &mut Report) {
        for ((mine, theirs), front) in self.fronts.iter_mut().zip(other.fronts).zip(FRONTS) {
            match (&mine, theirs) {
                (Some(mine), Some(theirs)) if mine.value != theirs.value => {
                    let what = format!(
                        "container port {} has {front} {} here and {} on line {}",
                        self.container.value, theirs.value, mine.value, mine.at.line
                    );
                    let why = format!("entries of one container port are merged, and it has one {front} port");
                    report.error(theirs.at, what, why, "keep one of the two");
                }
                (None, Some(_)) => *mine = theirs,
                _ => {}
            }
        }
        match (&self.name, other.name) {
            (Some(mine), Some(theirs)) if mine.value != theirs.value => {
                let what = format!(
                    "container port {} is called {} here and {} on line {}",
                    self.container.value, theirs.value, mine.value, mine.at.line
                );
                let why = "entries of one container port are merged, and it has one name";
                report.error(theirs.at, what, why, "keep one of the two");
            }
            (None, theirs) => self.name = theirs,
            _ => {}
        }
    }

    fn into_def(self) -> PortDef {
        let [http, https, tcp, udp] = self.fronts.map(|port| port.map(|port| port.value));
        PortDef { container: self.container.value, http, https, tcp, udp, name: self.name.map(|name| name.value) }
    }
}

/// `3000:80:` without quotes is the key `3000:80` without a value, and `3000: 80` the key 3000.
fn is_unquoted_short_form(entries: &[(Node<'_>, Node<'_>)]) -> bool {
    let [(Node { value: Value::Scalar { text, .. }, .. }, _)] = entries else { return false };
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b':')
}

fn short_form(text: &str, style: Style, at: Mark, report: &mut Report) -> Option<Entry> {
    // A field's place can be told where the text stands on one line as it is.
    let place = |column: usize| match style {
        Style::Plain => at.right(column),
        Style::Quoted => at.right(column + 1),
        Style::Block => at,
    };
    let mut parts = [None; 3];
    let mut column = 0;
    for (number, field) in text.split(':').enumerate() {
        let Some(part) = parts.get_mut(number) else {
            let why = "a port has at most three: CONTAINER[:[HTTP][:[HTTPS]]]";
            let hint = "for tcp and udp: { container: 3000, tcp: 25, udp: 111 }";
            report.error(place(column), format!("a fourth field in {}", shown(text)), why, hint);
            return None;
        };
        *part = Some((field, place(column)));
        column += field.chars().count() + 1;
    }
    let [container, http, https] = parts;
    let (container, _) = container.filter(|(field, _)| !field.is_empty()).or_else(|| {
        report.error(at, format!("no container port in {}", shown(text)), CONTAINER_PORT, EXAMPLE);
        None
    })?;
    let container = Placed { value: number(container, "container", place(0), report)?, at: place(0) };
    let mut outside = |part: Option<(&str, Mark)>, key| {
        let (field, at) = part.filter(|(field, _)| !field.is_empty())?;
        Some(Placed { value: number(field, key, at, report)?, at })
    };
    let (http_port, https_port) = (outside(http, "http"), outside(https, "https"));
    if http.is_some_and(|(field, _)| field.is_empty()) && https.is_none_or(|(field, _)| field.is_empty()) {
        let what = format!("{} opens container port {} in the private network only", shown(text), container.value);
        let why = "no http or https port stands behind the colons";
        report.warn(at, what, why, format!("\"{}\" says the same", container.value));
    }
    Some(Entry { container, fronts: [http_port, https_port, None, None], name: None })
}

fn mapping_form(node: &Node<'_>, report: &mut Report) -> Option<Entry> {
    let [container, http, https, tcp, udp, name] = fields(node, "a port", PORT_KEYS, report)?;
    let mut port = |node: Option<&Node<'_>>, key| {
        let node = node?;
        Some(Placed { value: number(word(node, key, report)?, key, node.at, report)?, at: node.at })
    };
    let fronts = [port(http, "http"), port(https, "https"), port(tcp, "tcp"), port(udp, "udp")];
    let container_port = port(container, "container");
    if container.is_none() {
        let why = "the port that the containers of the service listen on is required";
        report.error(node.at, "a port without `container`", why, "{ container: 3000, http: 80 }");
    }
    let name = name.and_then(|node| Some(Placed { value: port_name(node, report)?, at: node.at }));
    Some(Entry { container: container_port?, fronts, name })
}

/// RFC 6335 §5.1, so that `_NAME._tcp` is a name that others take too.
fn port_name(node: &Node<'_>, report: &mut Report) -> Option<Label> {
    let name = label(node, "the name of a port", report)?;
    let text = name.as_str();
    let is_sound = text.len() <= PORT_NAME_LEN_MAX && !name.is_number() && !text.contains("--");
    if !is_sound {
        let why = "RFC 6335: at most 15 characters, a letter among them, no two hyphens together";
        report.error(node.at, format!("a port cannot be called {name}"), why, "admin");
    }
    is_sound.then_some(name)
}

/// A port number: decimal, with nothing before or behind it.
pub fn number(text: &str, key: &str, at: Mark, report: &mut Report) -> Option<NonZeroU16> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // In YAML 1.1 and in C a 0 in front makes it octal.
    let is_plain = is_number && (text.len() == 1 || !text.starts_with('0'));
    let value = text.parse().ok().and_then(NonZeroU16::new).filter(|_| is_plain);
    if value.is_none() {
        let (what, hint) = match text.split_once('/') {
            _ if is_plain => (format!("port {} does not exist", shown_number(text)), EXAMPLE),
            Some((_, "tcp" | "udp")) => {
                (format!("{} is no port number", shown(text)), "{ container: 53, tcp: 53, udp: 53 }")
            }
            _ => (format!("{} is no port number", shown(text)), EXAMPLE),
        };
        report.error(at, what, format!("a {key} port is a number from 1 to 65535"), hint);
    }
    value
}

fn shown_number(digits: &str) -> String {
    if digits.len() <= 20 { digits.to_owned() } else { format!("{}...", &digits[..20]) }
}

//! Mappings and words: what stands under known keys, under names, and in scalars.

use std::collections::BTreeMap;

use super::problem::{Mark, Report, nearest, shown};
use super::tree::{Node, Style, Value};
use crate::model::Label;

/// What stands under each of the `known` keys of `node`, in their order; nothing at all counts as a mapping without
/// keys. None if it is no mapping.
///
/// A null stands where nothing was written behind the key: what it means is the key's business.
pub fn fields<'n, 't, const N: usize>(
    node: &'n Node<'t>,
    of: &str,
    known: [&str; N],
    report: &mut Report,
) -> Option<[Option<&'n Node<'t>>; N]> {
    let mut found: [Option<&Node<'_>>; N] = [None; N];
    for (key, value) in entries(node, of, known[0], report)? {
        let Value::Scalar { text, .. } = &key.value else { continue };
        match known.iter().position(|known| known == text) {
            None => unknown(key.at, text, of, &known, report),
            Some(at) => match found[at] {
                None => found[at] = Some(value),
                Some(Node { at: first, .. }) => {
                    let why = format!("the first stands on line {}", first.line);
                    report.error(key.at, format!("a second {text} in {of}"), why, "keep one of the two");
                }
            },
        }
    }
    Some(found)
}

fn unknown(at: Mark, key: &str, of: &str, known: &[&str], report: &mut Report) {
    let meant = nearest(key, known);
    let hint = match meant {
        _ if key == "<<" => "YAML 1.2 has no merge keys: repeat the value whole, with an alias".to_owned(),
        Some(meant) => format!("{meant}: ..."),
        None => "leave it out".to_owned(),
    };
    let what = format!("unknown key {} in {of}{}", shown(key), did_you_mean(meant));
    report.error(at, what, format!("its keys are {}", known.join(", ")), hint);
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!(", did you mean {meant}?"))
}

/// What stands under each name in `node`, by name, with the name's place; nothing at all counts as no names. `what` is
/// what the names are of.
pub fn named<'n, 't>(node: &'n Node<'t>, what: &str, report: &mut Report) -> BTreeMap<Label, (Mark, &'n Node<'t>)> {
    let mut found: BTreeMap<Label, (Mark, &Node<'_>)> = BTreeMap::new();
    for (key, value) in entries(node, &format!("the {what}s"), "NAME", report).unwrap_or_default() {
        let Some(name) = label(key, &format!("the name of a {what}"), report) else { continue };
        if name.is_number() {
            let why = "programs take a name of digits for an IP address";
            report.error(key.at, format!("the {what} {name}"), why, format!("{what}-{name}"));
        } else if let Some((first, _)) = found.get(&name) {
            let why =
                format!("the first stands on line {}; names differ in more than upper and lower case", first.line);
            report.error(key.at, format!("a second {what} {name}"), why, "keep one of the two, or rename one");
        } else {
            found.insert(name, (key.at, value));
        }
    }
    found
}

fn entries<'n, 't>(node: &'n Node<'t>, of: &str, key: &str, report: &mut Report) -> Option<&'n [(Node<'t>, Node<'t>)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ if node.is_null() => Some(&[]),
        _ => {
            let why = format!("{of} has keys and values");
            report.error(node.at, format!("{} instead of a mapping", node.kind()), why, format!("{key}: ..."));
            None
        }
    }
}

/// The values of a list.
pub fn items<'n, 't>(node: &'n Node<'t>, key: &str, example: &str, report: &mut Report) -> &'n [Node<'t>] {
    if let Value::List(items) = &node.value {
        return items;
    }
    let hint = format!("{key}: [{example}], or remove the key");
    report.error(node.at, format!("{} instead of a list", node.kind()), format!("{key} is a list"), hint);
    &[]
}

/// The text of a scalar that says something.
pub fn word<'n>(node: &'n Node<'_>, what: &str, report: &mut Report) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => return Some(text),
        _ if node.is_null() => {
            let why = "nothing stands here, or null, which is nothing too";
            report.error(node.at, format!("{what} has no value"), why, "give it one, or remove the key");
        }
        _ => {
            let why = format!("{what} is one word");
            report.error(node.at, format!("{} instead of a word", node.kind()), why, "write one word");
        }
    }
    None
}

/// A name that can stand in DNS.
pub fn label(node: &Node<'_>, what: &str, report: &mut Report) -> Option<Label> {
    let text = word(node, what, report)?;
    if is_truth_value(node) {
        let why = "many readers of YAML take this word for true or false";
        report.error(node.at, format!("{what} is {text}, without quotes"), why, format!("\"{text}\""));
        return None;
    }
    text.parse()
        .map_err(|error| {
            let hint = "use letters, digits and '-', as in a host name";
            report.error(node.at, format!("{what} cannot be {}", shown(text)), error, hint);
        })
        .ok()
}

/// YAML 1.1, "Boolean Language-Independent Type"; one letter is a name.
fn is_truth_value(node: &Node<'_>) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off"];
    matches!(&node.value, Value::Scalar { text, style: Style::Plain } if words.iter().any(|w| text.eq_ignore_ascii_case(w)))
}

/// The one of `values` that is written here.
pub fn choice<T: Copy>(node: &Node<'_>, key: &str, values: &[(&str, T)], report: &mut Report) -> Option<T> {
    let text = word(node, key, report)?;
    if let Some((_, value)) = values.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words: Vec<&str> = values.iter().map(|(word, _)| *word).collect();
    let meant = nearest(text, &words);
    let what = format!("unknown {key} {}{}", shown(text), did_you_mean(meant));
    let hint = format!("{key}: {}", meant.unwrap_or(words[0]));
    report.error(node.at, what, format!("it is one of {}", words.join(", ")), hint);
    None
}

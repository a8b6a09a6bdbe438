//! `application`: which one it is, what people call it, and its namespace.

use super::Options;
use super::fields::{fields, label, word};
use super::problem::{Mark, Report};
use super::tree::Node;
use crate::model::Label;
use crate::services::namespace::is_public_suffix;

pub const APPLICATION_KEYS: [&str; 3] = ["id", "name", "namespace"];
/// The longest name of an application, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// What the file and the command line say of the application together.
pub struct Application {
    pub id: Label,
    pub title: Option<String>,
    pub namespace: Label,
}

/// Reads it; None with what is wrong told.
pub fn application(node: Option<&Node<'_>>, options: &Options, report: &mut Report) -> Option<Application> {
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

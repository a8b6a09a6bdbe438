//! The service file: YAML that a person wrote, in; a definition, or all that is wrong with it, out.
//!
//! [`parse`] takes any bytes. Its time and memory are bounded by the length of a file; it never panics. `docs/service-file.md`
//! has every key for those who write one.

mod agree;
mod application;
mod databases;
mod fields;
mod ports;
mod problem;
mod service;
mod text;
mod tree;

#[cfg(test)]
mod tests;

pub use application::TITLE_CHARS_MAX;
pub use databases::WELL_KNOWN_PORTS;
pub use problem::{Mark, Problem, Problems};
pub use tree::FILE_LEN_MAX;

use agree::{claims_agree, names_differ};
use application::{APPLICATION_KEYS, Application, application};
use databases::{DATABASE_KEYS, SERVER_KEYS, database};
use fields::{fields, named};
use ports::{PORT_KEYS, Places};
use problem::Report;
use service::{SERVICE_KEYS, service};
use tree::Node;

use crate::model::{AppDef, Label};

/// The longest definition, encoded: it travels as one record, which has 64 KiB.
pub const DEF_LEN_MAX: usize = 60 * 1024 - 1;

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
        def.services.insert(name.clone(), service(name, node, &mut places, report));
    }
    for (kind, (at, node)) in &databases {
        def.databases.extend(database(kind, *at, node, report).map(|def| (kind.clone(), def)));
    }
    let at = |(name, (at, _)): (&Label, &(Mark, &Node<'_>))| (name.clone(), *at);
    names_differ(&def.databases, services.iter().map(at).collect(), databases.iter().map(at).collect(), report);
    claims_agree(&def, &places, report);
    if services.is_empty() && databases.is_empty() {
        let why = "applied, it takes back whatever the application has been defined as";
        report.warn(root.at, "the file defines no service and no database", why, "is it cut off?");
    }
    let Application { title, namespace, .. } = app?;
    Some(AppDef { title, namespace, ..def })
}

fn unknown_app() -> Label {
    "application".parse().expect("a label")
}

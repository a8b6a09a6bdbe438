//! Service files are read here first: what is wrong with one is told without a node, all of it and with the file's name.

use std::io::Read;
use std::path::Path;

use peerd::control::{Applied, ExitStatus, Failure, Request, ServiceDetail, ServiceRow, Validated, Warning};
use peerd::model::{AppDef, Label};
use peerd::services::file::{self, FILE_LEN_MAX, Options};

use super::Session;
use crate::cli::{Apply, Service, Validate};
use crate::render;

/// The code of what is to be said of a file that is in order.
const FILE_WARNING: &str = "service-file";

/// A service file that is in order.
struct Checked {
    text: String,
    def: AppDef,
    warnings: Vec<Warning>,
}

pub fn validate(session: &Session, args: &Validate) -> Result<(), Failure> {
    let Checked { def, warnings, .. } = check(args)?;
    let validated = Validated {
        app: def.id.to_string(),
        namespace: def.namespace.to_string(),
        services: def.services.len(),
        databases: def.databases.len(),
    };
    let Validated { app, namespace, services, databases } = &validated;
    let text = format!("application {app}, namespace {namespace}: {services} service(s), {databases} database(s)\n");
    let data = serde_json::to_value(&validated).expect("an answer has string keys only");
    session.answer("validate", &data, &warnings, &text)
}

pub fn apply(session: &Session, args: Apply) -> Result<(), Failure> {
    let Checked { text, mut warnings, .. } = check(&args.file)?;
    let (app, network, dry_run) = (args.file.app, args.network, args.dry_run);
    let answer = session.client.ask(&Request::Apply { network, app, text, dry_run })?;
    let applied: Applied = answer.parse()?;
    session.narrate(&heading(&applied));
    // Of the file the node says the same, but does not know its name.
    warnings.extend(answer.warnings.into_iter().filter(|warning| warning.code != FILE_WARNING));
    session.answer("apply", &answer.data, &warnings, &render::changes(&applied))
}

pub fn service(session: &Session, verb: Service) -> Result<(), Failure> {
    match verb {
        Service::Ls { network, app } => {
            let request = Request::ServiceLs { network, app };
            session.show("service.ls", &request, |rows: &Vec<ServiceRow>| render::services(rows))
        }
        Service::Inspect { service, app, network } => {
            let request = Request::ServiceInspect { service, network, app };
            session.show("service.inspect", &request, |detail: &ServiceDetail| render::service(detail))
        }
        Service::Rm { app, network, dry_run } => {
            let request = Request::ServiceRm { network, app, dry_run };
            session.show("service.rm", &request, |applied: &Applied| {
                session.narrate(&heading(applied));
                render::changes(applied)
            })
        }
    }
}

/// What stands above the changes.
fn heading(Applied { app, network, changes, dry_run, .. }: &Applied) -> String {
    let what = match (changes.is_empty(), dry_run) {
        (true, _) => ": nothing changes",
        (false, true) => " would change:",
        (false, false) => ":",
    };
    format!("application {app} in network {network}{what}")
}

/// Reads the file. Of several errors all but the last are printed, and that is returned.
fn check(args: &Validate) -> Result<Checked, Failure> {
    let app: Option<Label> = args.app.as_ref().map(|app| label(app)).transpose()?;
    let (name, bytes) = read(&args.file)?;
    let parsed = file::parse(&bytes, &Options { app }).map_err(|problems| {
        let failure = |problem: &file::Problem| {
            let what = format!("{name}:{}: {}", problem.at, problem.what);
            Failure::new(ExitStatus::InvalidFile, what, &problem.why, &problem.hint)
        };
        for earlier in problems.iter().take(problems.iter().len() - 1) {
            eprintln!("{}", failure(earlier));
        }
        failure(problems.last())
    })?;
    let warning = |problem: &file::Problem| Warning {
        code: FILE_WARNING.to_owned(),
        message: format!("{name}:{}: {}: {}", problem.at, problem.what, problem.why),
    };
    let warnings = parsed.warnings.iter().map(warning).collect();
    let text = String::from_utf8(bytes).expect("what parses is UTF-8");
    Ok(Checked { text, def: parsed.def, warnings })
}

fn label(text: &str) -> Result<Label, Failure> {
    text.parse().map_err(|error| {
        let what = format!("{:?} cannot be an application", text.chars().take(80).collect::<String>());
        Failure::new(ExitStatus::Usage, what, error, "use letters, digits and '-', as in a host name")
    })
}

/// The name of what `path` names, for messages, and its bytes; a byte too many if it is too long.
fn read(path: &Path) -> Result<(String, Vec<u8>), Failure> {
    let len_max = FILE_LEN_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let done = if is_stdin {
        std::io::stdin().take(len_max).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(len_max).read_to_end(&mut bytes))
    };
    match done {
        Ok(_) => Ok((name, bytes)),
        Err(error) => {
            let what = format!("cannot read {name}");
            Err(Failure::new(ExitStatus::InvalidFile, what, error, "-f FILE, or -f - for standard input"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(file: &Path) -> Validate {
        Validate { file: file.to_owned(), app: Some("ap-1".to_owned()) }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_name_and_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service.yml");
        std::fs::write(&path, "services:\n  web:\n    port: [80]\n").expect("a file");
        let Err(failure) = check(&args(&path)) else { panic!("it is taken") };
        assert_eq!(failure.status, ExitStatus::InvalidFile);
        let expected = format!("{}:3:5: unknown key \"port\" in service web, did you mean ports?", path.display());
        assert_eq!(failure.what, expected);
    }

    #[test]
    fn a_file_that_is_not_there_or_has_no_end_is_refused() {
        let Err(missing) = check(&args(Path::new("/nonexistent/service.yml"))) else { panic!("it is taken") };
        assert_eq!(missing.status, ExitStatus::InvalidFile);
        let Err(endless) = check(&args(Path::new("/dev/zero"))) else { panic!("it is taken") };
        assert!(endless.what.ends_with("bytes"), "{endless}");
        let Err(folder) = check(&args(Path::new("/"))) else { panic!("it is taken") };
        assert_eq!(folder.status, ExitStatus::InvalidFile);
    }

    #[test]
    fn an_application_that_is_no_name_is_a_mistake_on_the_command_line() {
        let args = Validate { file: "/dev/null".into(), app: Some("a b".to_owned()) };
        let Err(failure) = check(&args) else { panic!("it is taken") };
        assert_eq!(failure.status, ExitStatus::Usage);
    }
}

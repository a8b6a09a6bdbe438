//! What a container is called, for `attach` and `run`.

use peerd::control::{Attach, ExitStatus, Failure, ReadyWhen, Target};

use crate::cli::Place;

/// The type of a container of which nothing else is said.
const DEFAULT_KIND: &str = "web";
/// The server of a database of which no other is named.
const DEFAULT_SERVER: &str = "default";

/// The request that puts what is at `target` in its `place`.
pub fn attach_request(target: Target, place: Place) -> Result<Attach, Failure> {
    let ready_when = ready_when(&place.ready_when)?;
    let (database, server) =
        match place.database.as_deref().map(|text| text.split_once('/').unwrap_or((text, DEFAULT_SERVER))) {
            Some((kind, server)) => (Some(kind.to_owned()), Some(server.to_owned())),
            None => (None, None),
        };
    let kind = place.kind.or_else(|| database.clone()).unwrap_or_else(|| DEFAULT_KIND.to_owned());
    Ok(Attach {
        target,
        network: place.network,
        app: place.app,
        kind,
        number: place.number,
        version: place.version,
        service: place.service.or(database),
        server,
        ready_when,
        ifname: place.ifname,
    })
}

/// The words after `--ready-when`: one, or a command's.
fn ready_when(words: &[String]) -> Result<Option<ReadyWhen>, Failure> {
    if words.is_empty() {
        return Ok(None);
    }
    let text = words.join(" ");
    text.parse().map(Some).map_err(|error| {
        let what = format!("cannot wait for {:?}", text.chars().take(120).collect::<String>());
        let hint = "--ready-when tcp:8080, --ready-when http:8080/health, or --ready-when exec 'test -e /tmp/ready'";
        Failure::new(ExitStatus::Usage, what, error, hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn request(words: &[&str]) -> Result<Attach, Failure> {
        let words = [&["peerctl", "attach", "--pid", "1", "--app", "a"], words].concat();
        let Verb::Attach(attach) = Cli::try_parse_from(words).expect("parses").verb else { panic!("attach is attach") };
        attach_request(Target::Pid(1), attach.place)
    }

    fn called(words: &[&str]) -> (String, Option<String>, Option<String>) {
        let request = request(words).expect("a request");
        (request.kind, request.service, request.server)
    }

    #[test]
    fn a_database_is_a_service_with_a_server_and_gives_the_type_unless_that_is_said() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(called(&[]), ("web".to_owned(), None, None));
        assert_eq!(called(&["--database", "mysql"]), ("mysql".to_owned(), some("mysql"), some("default")));
        assert_eq!(called(&["--database", "mysql/leopard"]), ("mysql".to_owned(), some("mysql"), some("leopard")));
        assert_eq!(called(&["--database", "mysql", "--type", "db"]), ("db".to_owned(), some("mysql"), some("default")));
    }

    #[test]
    fn a_condition_is_one_word_or_a_command_of_several() {
        let condition = |words: &[&str]| request(words).map(|request| request.ready_when.map(|when| when.to_string()));
        assert_eq!(condition(&[]), Ok(None));
        assert_eq!(condition(&["--ready-when", "tcp:80"]), Ok(Some("tcp:80".to_owned())));
        for words in [&["--ready-when", "exec", "true", "yes"][..], &["--ready-when", "exec true yes"]] {
            assert_eq!(condition(words), Ok(Some("exec true yes".to_owned())), "{words:?}");
        }
        assert_eq!(condition(&["--ready-when", "tcp:80", "x"]).expect_err("refused").status, ExitStatus::Usage);
        assert_eq!(condition(&["--ready-when", "soon"]).expect_err("refused").status, ExitStatus::Usage);
    }
}

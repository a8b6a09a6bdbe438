//! `wait` for something to be so, and `events` as they come.

use peerd::control::{Awaited, EventRow, ExitStatus, Failure, Request};

use super::{Session, print_if_read};
use crate::{cli, render};

/// What the words behind `--for` mean.
pub fn awaited(wait: cli::Wait) -> Result<Awaited, Failure> {
    let cli::Wait { awaited, network, app, .. } = wait;
    let words: Vec<&str> = awaited.iter().map(String::as_str).collect();
    let names_a_place = network.is_some() || app.is_some();
    let why = match words.as_slice() {
        ["service", name] => return Ok(Awaited::Service { service: (*name).to_owned(), network, app }),
        _ if names_a_place => "--network and --app say which service is meant",
        ["converged"] => return Ok(Awaited::Converged),
        ["network", name] => return Ok(Awaited::Network((*name).to_owned())),
        ["container", id] => return Ok(Awaited::Container((*id).to_owned())),
        ["converged", _] => "converged is a word by itself",
        ["network" | "container" | "service"] => "it does not say which",
        _ => "there is no such thing to wait for",
    };
    let what = format!("cannot wait for {}", words.join(" ").chars().take(120).collect::<String>());
    let hint = "--for converged, --for network N, --for container ID, or --for service S";
    Err(Failure::new(ExitStatus::Usage, what, why, hint))
}

/// Prints each event as it comes.
pub fn events(session: &Session, count: Option<u64>) -> Result<(), Failure> {
    let tell = |data: serde_json::Value| {
        let event: EventRow = crate::client::parse(&data)?;
        print_if_read(session.line("events", &data, &[], &render::event(&event)).as_bytes())
    };
    session.client.follow(&Request::Events { count }, tell).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_what_the_manual_lists_and_for_nothing_else() {
        let wait = |words: &[&str], app: Option<&str>| cli::Wait {
            awaited: words.iter().map(|word| (*word).to_owned()).collect(),
            network: None,
            app: app.map(ToOwned::to_owned),
            timeout: std::time::Duration::ZERO,
        };
        let awaited = |words: &[&str]| super::awaited(wait(words, None));
        let service = |app| Awaited::Service { service: "web".into(), network: None, app };
        assert_eq!(awaited(&["converged"]), Ok(Awaited::Converged));
        assert_eq!(awaited(&["service", "web"]), Ok(service(None)));
        assert_eq!(super::awaited(wait(&["service", "web"], Some("shop"))), Ok(service(Some("shop".into()))));
        assert!(super::awaited(wait(&["converged"], Some("shop"))).is_err());
        for wrong in [&["network"][..], &["converged", "x"], &["peace"], &["peace", "x"]] {
            assert_eq!(awaited(wrong).expect_err("refused").status, ExitStatus::Usage, "{wrong:?}");
        }
    }
}

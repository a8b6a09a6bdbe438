//! `wait` for something to be so, and `events` as they come.

use peerd::control::{Awaited, EventRow, ExitStatus, Failure, Request};

use super::{Session, print_if_read};
use crate::render;

/// What the words behind `--for` mean.
pub fn awaited(words: &[String]) -> Result<Awaited, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let why = match words.as_slice() {
        ["converged"] => return Ok(Awaited::Converged),
        ["network", name] => return Ok(Awaited::Network((*name).to_owned())),
        ["container", id] => return Ok(Awaited::Container((*id).to_owned())),
        ["service", name] => return Ok(Awaited::Service((*name).to_owned())),
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
        let awaited = |words: &[&str]| super::awaited(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(awaited(&["converged"]), Ok(Awaited::Converged));
        assert_eq!(awaited(&["service", "web"]), Ok(Awaited::Service("web".into())));
        for wrong in [&["network"][..], &["converged", "x"], &["peace"], &["peace", "x"]] {
            assert_eq!(awaited(wrong).expect_err("refused").status, ExitStatus::Usage, "{wrong:?}");
        }
    }
}
